//! Do refreshes work through PgBouncer in transaction mode, and leave nothing behind in its
//! sessions?

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder::refresh::{
    Activity, FindingKind, MaterializedView, RefreshErrorKind, RefreshOutcome, Refresher,
    SkipReason, ViewStatus,
};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::basics::{refresher, shop};
use super::unchanged::cannot_count;
use crate::servers::{Database, PgBouncer, Postgres};
use crate::support::{local, until, until_async};

/// What is set within the transaction of a refresh, and must be what it was after it.
const SETTINGS: [&str; 5] = [
    "lock_timeout",
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "client_connection_check_interval",
    "transaction_isolation",
];

/// A shop behind a pooler with two sessions.
struct Shop {
    direct: Database,
    client: Client,
    pooled: Database,
    _bouncer: PgBouncer,
}

impl Shop {
    async fn new() -> Shop {
        Shop::with(&[]).await
    }

    async fn with(settings: &[&str]) -> Shop {
        let bouncer = PgBouncer::start(Postgres::shared().unwrap(), settings).unwrap();
        let (direct, client) = shop().await;
        Shop { pooled: bouncer.database(direct.name()), direct, client, _bouncer: bouncer }
    }

    async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Refreshes that wait for a lock.
    async fn waiting(&self) -> i64 {
        self.number(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND wait_event_type = 'Lock' AND query LIKE 'REFRESH%'",
        )
        .await
    }

    async fn nothing_is_held(&self) {
        let locks = "SELECT count(*) FROM pg_locks WHERE pid <> pg_backend_pid() AND \
                     (locktype = 'advisory' OR locktype = 'relation' AND relation >= 16384) AND \
                     database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        assert_eq!(self.number(locks).await, 0);
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND pid <> pg_backend_pid() AND xact_start IS NOT NULL";
        assert_eq!(self.number(open).await, 0);
    }

    /// Looks at both sessions of the pooler: transactions hold them both at a time.
    async fn nothing_is_left_behind(&self) {
        self.nothing_is_held().await;
        let clients = [self.pooled.connect().await.unwrap(), self.pooled.connect().await.unwrap()];
        let mut sessions = BTreeSet::new();
        for client in &clients {
            client.batch_execute("BEGIN").await.unwrap();
            sessions.insert(ask(client, "SELECT pg_backend_pid()").await);
            let prepared = ask(client, "SELECT count(*) FROM pg_prepared_statements").await;
            let listened = ask(client, "SELECT count(*) FROM pg_listening_channels()").await;
            assert_eq!((&*prepared, &*listened), ("0", "0"));
            for setting in SETTINGS {
                let show = format!("SHOW {setting}");
                assert_eq!(ask(client, &show).await, ask(&self.client, &show).await, "{setting}");
            }
        }
        assert_eq!(sessions.len(), 2);
        for client in &clients {
            client.batch_execute("ROLLBACK").await.unwrap();
        }
    }

    async fn order(&self) {
        let sql = "INSERT INTO orders SELECT max(id) + 1, 'eu', 1 FROM orders";
        self.client.batch_execute(sql).await.unwrap();
    }
}

/// The only value of the only row, by the simple protocol.
async fn ask(client: &Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap();
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.unwrap().get(0).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn each_outcome_of_a_refresh_leaves_the_sessions_as_they_were() {
    let shop = Shop::new().await;
    shop.client
        .batch_execute(
            "CREATE MATERIALIZED VIEW bare AS SELECT count(*) FROM orders;
             CREATE MATERIALIZED VIEW broken AS SELECT 1 / (11 - count(*)) FROM orders;",
        )
        .await
        .unwrap();
    let cache = local().await;
    let view = MaterializedView::new("by_region").statement_timeout(Duration::from_secs(60));
    let refresher = Refresher::builder(shop.pooled.pool(4))
        .view(view.analyze())
        .view(MaterializedView::new("bare"))
        .view(MaterializedView::new("broken").plain())
        .view(MaterializedView::new("missing").created_later())
        .cache(&cache);
    let refresher = refresher.start().await.unwrap();
    shop.nothing_is_left_behind().await;
    for _ in 0..3 {
        shop.order().await;
        let report = refresher.refresh_now("by_region").await.unwrap();
        assert!(report.changed() && report.warnings().is_empty(), "{report}");
        shop.nothing_is_left_behind().await;
        assert!(!refresher.refresh_now("by_region").await.unwrap().changed());
        shop.nothing_is_left_behind().await;
    }
    shop.client.batch_execute("DELETE FROM orders WHERE id > 11").await.unwrap();
    for (view, kind) in [
        ("bare", RefreshErrorKind::NoUniqueIndex),
        ("broken", RefreshErrorKind::Postgres),
        ("missing", RefreshErrorKind::Missing),
    ] {
        assert_eq!(refresher.refresh_now(view).await.unwrap_err().kind(), kind);
        shop.nothing_is_left_behind().await;
    }
    refresher.install_event_trigger().await.unwrap();
    refresher.remove_event_trigger().await.unwrap();
    shop.nothing_is_left_behind().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_refreshers_share_two_sessions_and_leave_nothing_in_them() {
    let shop = Shop::new().await;
    shop.client
        .batch_execute(
            "CREATE MATERIALIZED VIEW total AS SELECT 1 AS one, sum(total) AS total FROM by_region;
             CREATE UNIQUE INDEX ON total (one);",
        )
        .await
        .unwrap();
    let often = Duration::from_millis(10);
    let mut fleet = vec![];
    for number in 0..4 {
        let mut builder = Refresher::builder(shop.pooled.pool(4)).poll(often);
        for name in ["by_region", "total"] {
            let view = MaterializedView::new(name);
            builder = builder.view(match number {
                0 => view.every(Duration::from_millis(100)),
                _ => view,
            });
        }
        fleet.push(builder.cache(&local().await).start().await.unwrap());
    }
    for _ in 0..10 {
        shop.order().await;
        for reports in join_all(fleet.iter().map(Refresher::refresh_all)).await {
            for report in reports {
                report.unwrap();
            }
        }
    }
    let ticked = || fleet[0].status().iter().map(|view| view.refreshes()).min().unwrap();
    until("those on schedule were refreshed as well", || ticked() >= 5).await;
    join_all(fleet.iter().map(Refresher::shutdown)).await;
    shop.nothing_is_left_behind().await;
    let sum = shop.number("SELECT total::int8 - (SELECT sum(amount) FROM orders) FROM total").await;
    assert_eq!(sum, 0);
    for refresher in &fleet {
        for view in refresher.status() {
            assert_eq!((view.failures_in_a_row(), view.last_error().is_none()), (0, true));
        }
    }
}

#[tokio::test]
async fn a_refresh_that_is_given_up_is_cancelled_behind_the_pooler() {
    let mut shop = Shop::new().await;
    let refresher = refresher(&shop.pooled, &["by_region"]).start().await.unwrap();
    for _ in 0..3 {
        let mut holder = shop.direct.connect().await.unwrap();
        let holds = holder.transaction().await.unwrap();
        holds.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let asked = tokio::spawn({
            let refresher = refresher.clone();
            async move { refresher.refresh_now("by_region").await }
        });
        until_async("it waits for the table", async || shop.waiting().await == 1).await;
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        let given_up = Instant::now();
        until_async("it does not wait any more", async || shop.waiting().await == 0).await;
        println!("cancelled after {:?}", given_up.elapsed());
        until("and nobody is at it", || refresher.status()[0].activity() == Activity::Idle).await;
        drop(holds);
        drop(holder);
        // Nobody else is cancelled by what is still under way.
        for _ in 0..5 {
            shop.order().await;
            until_async("its turn is free", async || {
                refresher.refresh_now("by_region").await.unwrap().rows().is_some()
            })
            .await;
        }
        until_async("the table is free", async || {
            let holders = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
                           AND datname = current_database() AND xact_start IS NOT NULL";
            shop.number(holders).await == 0
        })
        .await;
        shop.nothing_is_left_behind().await;
    }

    // The same by the end of the refresher: over is over, in PostgreSQL as well.
    let builder = Refresher::builder(shop.pooled.pool(4)).shutdown_deadline(Duration::ZERO);
    let ending = builder.view(MaterializedView::new("by_region")).start().await.unwrap();
    let holds = shop.client.transaction().await.unwrap();
    holds.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let asked = tokio::spawn({
        let ending = ending.clone();
        async move { ending.refresh_now("by_region").await }
    });
    let observer = shop.direct.connect().await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock' AND query LIKE 'REFRESH%'";
    let waiting = async || observer.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0);
    until_async("it waits for the table", async || waiting().await == 1).await;
    ending.shutdown().await;
    assert_eq!(waiting().await, 0);
    assert_eq!(asked.await.unwrap().unwrap_err().kind(), RefreshErrorKind::Closed);
}

#[tokio::test]
async fn a_refresh_that_is_given_up_ends_though_there_is_no_other_session_to_cancel_it() {
    let shop = Shop::with(&["default_pool_size=1"]).await;
    // Neither behind the pooler nor in the pool before it.
    for pool in [shop.pooled.pool(4), shop.pooled.pool(1), shop.direct.pool(1)] {
        let builder = Refresher::builder(pool).view(MaterializedView::new("by_region"));
        let refresher = builder.start().await.unwrap();
        let mut holder = shop.direct.connect().await.unwrap();
        let holds = holder.transaction().await.unwrap();
        holds.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let asked = tokio::spawn({
            let refresher = refresher.clone();
            async move { refresher.refresh_now("by_region").await }
        });
        until_async("it waits for the table", async || shop.waiting().await == 1).await;
        asked.abort();
        let given_up = Instant::now();
        until_async("it does not wait any more", async || shop.waiting().await == 0).await;
        println!("ended after {:?}", given_up.elapsed());
        drop(holds);
        shop.order().await;
        until_async("its turn is free", async || {
            refresher.refresh_now("by_region").await.unwrap().rows().is_some()
        })
        .await;
    }
}

#[tokio::test]
async fn checks_plans_and_skipped_refreshes_work_through_a_pooler() {
    if cannot_count().await {
        return;
    }
    let shop = Shop::new().await;
    shop.client
        .batch_execute(
            "CREATE MATERIALIZED VIEW total AS SELECT sum(total) AS total FROM by_region;
             CREATE INDEX ON total (total);",
        )
        .await
        .unwrap();
    let each = Duration::from_millis(500);
    let view = |name| MaterializedView::new(name).every(each).skip_unchanged();
    let refresher = Refresher::builder(shop.pooled.pool(4))
        .view(view("total").or_plain())
        .view(view("by_region"))
        .view(MaterializedView::new("strict").created_later());
    let refresher = refresher.start().await.unwrap();
    let plan = refresher.plan().await.unwrap();
    assert_eq!(plan.to_string(), "1. by_region; strict (missing)\n2. total after by_region");
    let report = refresher.check().await.unwrap();
    let kinds: Vec<Vec<_>> = report
        .views()
        .iter()
        .map(|view| {
            let kinds = view.findings().iter().map(|finding| finding.kind());
            // A tick may be refreshing it at this moment.
            kinds.filter(|kind| *kind != FindingKind::Held).collect()
        })
        .collect();
    assert_eq!(kinds, [vec![], vec![], vec![FindingKind::Missing]], "{report}");

    let unchanged = RefreshOutcome::Skipped(SkipReason::Unchanged);
    until("both are left out, as nobody can have written anything", || {
        let is_left_out =
            |view: &ViewStatus| view.last().is_some_and(|report| *report.outcome() == unchanged);
        refresher.status()[..2].iter().all(is_left_out)
    })
    .await;
    let refreshed = refresher.status()[1].refreshes();
    shop.order().await;
    until_async("the order is in both", async || {
        shop.number("SELECT count(*) FROM total WHERE total = 56").await == 1
    })
    .await;
    assert_eq!(refresher.status()[1].refreshes(), refreshed + 1);
    refresher.shutdown().await;
    shop.nothing_is_left_behind().await;
}
