//! Does a refresh that waits say for whom: in errors, in a check, in the status?

use std::time::Duration;

use larder::refresh::{
    Activity, Finding, FindingKind, MaterializedView, RefreshError, RefreshErrorKind, Refresher,
};
use tokio_postgres::Client;

use super::basics::{refresher, shop};
use crate::servers::{Database, Postgres};
use crate::support::{until, until_async};

const SHORT: Duration = Duration::from_millis(400);

fn view() -> MaterializedView {
    MaterializedView::new("by_region").lock_timeout(SHORT)
}

async fn backend(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

/// A refresh that has to wait, with what a check said before.
async fn fails(
    database: &Database,
    size: usize,
    view: MaterializedView,
) -> (Vec<Finding>, RefreshError) {
    let name = view.name().to_owned();
    let refresher = Refresher::builder(database.pool(size)).view(view).start().await.unwrap();
    let report = refresher.check().await.unwrap();
    let error = refresher.refresh_now(&name).await.unwrap_err();
    assert!(refresher.status()[0].waits_for().is_empty());
    (report.views()[0].findings().to_vec(), error)
}

fn names(finding: &Finding, pid: i32, lock: &str) {
    assert_eq!(finding.kind(), FindingKind::Held);
    for part in [
        format!("postgresql's process {pid} (user postgres, application the migration)"),
        format!("holds {lock}"),
        "in a transaction of ".to_owned(),
    ] {
        assert!(finding.message().contains(&part), "{part}: {finding}");
    }
}

#[tokio::test]
async fn the_holder_and_the_relation_are_named_whatever_is_locked() {
    let (database, mut client) = shop().await;
    client
        .batch_execute(
            "SET application_name = 'the migration';
             CREATE TABLE parted (region text) PARTITION BY LIST (region);
             CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('eu');
             CREATE VIEW through AS SELECT region FROM parted;
             CREATE MATERIALIZED VIEW deep AS SELECT region, count(*) FROM through GROUP BY region;
             CREATE UNIQUE INDEX ON deep (region);
             CREATE MATERIALIZED VIEW upper AS SELECT region FROM by_region;
             CREATE UNIQUE INDEX ON upper (region);",
        )
        .await
        .unwrap();
    let pid = backend(&client).await;
    let exclusive = "IN ACCESS EXCLUSIVE MODE";
    let of = |name: &str| MaterializedView::new(name).lock_timeout(SHORT);
    let cases = [
        // A reader is only in the way of a plain refresh.
        ("SELECT FROM by_region".to_owned(), view().plain(), "AccessShareLock on public.by_region"),
        (format!("LOCK TABLE orders {exclusive}"), view(), "AccessExclusiveLock on public.orders"),
        ("ANALYZE by_region".into(), view(), "ShareUpdateExclusiveLock on public.by_region"),
        ("CREATE INDEX ON by_region (orders)".into(), view(), "ShareLock on public.by_region"),
        (
            format!("LOCK TABLE parted_eu {exclusive}"),
            of("deep"),
            "AccessExclusiveLock on public.parted_eu",
        ),
        (
            "DROP INDEX by_region_region_idx".into(),
            of("upper"),
            "AccessExclusiveLock on public.by_region",
        ),
    ];
    for (sql, view, lock) in cases {
        for size in [1, 3] {
            let holder = client.transaction().await.unwrap();
            holder.batch_execute(&sql).await.unwrap();
            let (before, error) = fails(&database, size, view.clone()).await;
            assert_eq!(error.kind(), RefreshErrorKind::LockTimeout, "{sql}: {error}");
            let [found] = error.findings() else { panic!("{sql}, {size}: {error}") };
            names(found, pid, lock);
            assert!(found.message().contains("has been idle for "), "{found}");
            assert_eq!(found.mending_sql(), [format!("SELECT pg_terminate_backend({pid});")]);
            let mut before = before.iter().filter(|finding| finding.kind() == FindingKind::Held);
            let (Some(found), None) = (before.next(), before.next()) else { panic!("{sql}") };
            names(found, pid, lock);
            holder.rollback().await.unwrap();
        }
    }
    // A reader does not delay a concurrent refresh.
    let reader = client.transaction().await.unwrap();
    reader.batch_execute("SELECT FROM by_region").await.unwrap();
    let refresher = Refresher::builder(database.pool(1)).view(view()).start().await.unwrap();
    assert!(refresher.check().await.unwrap().views()[0].findings().is_empty());
    assert!(refresher.refresh_now("by_region").await.is_ok());
}

#[tokio::test]
async fn a_wait_for_a_lock_is_no_slow_query_whichever_limit_ends_it() {
    let (database, mut client) = shop().await;
    let role = format!("hasty_{}", database.name());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; ALTER MATERIALIZED VIEW by_region OWNER TO {role};
             GRANT SELECT ON orders TO {role}; GRANT CREATE ON SCHEMA public TO {role};
             ALTER ROLE {role} SET statement_timeout = '2s';
             ALTER ROLE {role} SET lock_timeout = '10ms';
             ALTER ROLE {role} SET idle_session_timeout = '1h';
             ALTER ROLE {role} SET idle_in_transaction_session_timeout = '1h';"
        ))
        .await
        .unwrap();
    let theirs = database.as_role(&role);
    // Long enough for the catalogs on a busy machine.
    let own = Some(Duration::from_secs(2));
    for (own, size) in [(None, 1), (None, 3), (own, 1), (own, 3)] {
        let holder = client.transaction().await.unwrap();
        holder.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let view = MaterializedView::new("by_region");
        let view = own.map_or(view.clone(), |own| view.statement_timeout(own));
        let (before, error) = fails(&theirs, size, view).await;
        assert_eq!(error.kind(), RefreshErrorKind::LockTimeout, "{own:?}, {size}: {error}");
        assert!(!error.to_string().contains("query faster"), "{error}");
        let [found] = error.findings() else { panic!("{error}") };
        assert!(found.message().contains("holds AccessExclusiveLock on public.orders"), "{found}");
        let limits: Vec<&str> = before
            .iter()
            .filter(|finding| finding.kind() == FindingKind::TimeLimit)
            .map(|finding| finding.message())
            .collect();
        let named = [
            "idle_in_transaction_session_timeout",
            "idle_session_timeout",
            "lock_timeout",
            "statement_timeout",
        ];
        assert_eq!(limits.len(), named.len(), "{limits:?}");
        for (limit, name) in limits.iter().zip(named) {
            assert!(limit.starts_with(&format!("{name} of the role {role} is ")), "{limit}");
        }
        let replaced = limits[3].contains("the view's own `statement_timeout`, 2.0s, replaces it");
        assert_eq!(replaced, own.is_some(), "{limits:?}");
        holder.rollback().await.unwrap();
    }
    client.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn the_status_names_whom_a_refresh_waits_for_while_it_waits() {
    let (database, mut client) = shop().await;
    client.batch_execute("SET application_name = 'the migration'").await.unwrap();
    let pid = backend(&client).await;
    let refresher = refresher(&database, &["by_region"]).start().await.unwrap();
    let holder = client.transaction().await.unwrap();
    holder.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let refresh = tokio::spawn({
        let refresher = refresher.clone();
        async move { refresher.refresh_now("by_region").await }
    });
    until("it is seen waiting", || !refresher.status()[0].waits_for().is_empty()).await;
    let status = refresher.status().remove(0);
    let [found] = status.waits_for() else { panic!("{status}") };
    names(found, pid, "AccessExclusiveLock on public.orders");
    assert_eq!(status.activity(), Activity::Refreshing);
    assert!(status.to_string().contains("refreshing; postgresql's process"), "{status}");
    // Another refresher is told who refreshes the view, and for whom that one waits.
    let other = Refresher::builder(database.pool(1)).view(view()).start().await.unwrap();
    let busy = other.refresh_now("by_region").await.unwrap().to_string();
    let waits = "AccessShareLock on public.orders for ";
    assert!(busy.contains(&format!("itself waiting for {waits}")), "{busy}");
    assert!(busy.contains(&format!("held by postgresql's process {pid} (user postgres")), "{busy}");
    holder.rollback().await.unwrap();
    assert!(refresh.await.unwrap().is_ok());
    let status = &refresher.status()[0];
    assert!(status.waits_for().is_empty() && status.activity() == Activity::Idle, "{status}");
}

#[tokio::test]
async fn a_refresh_that_is_cancelled_while_it_waits_names_whom_it_waited_for() {
    let (database, mut client) = shop().await;
    let other = database.connect().await.unwrap();
    let refresher = refresher(&database, &["by_region"]).start().await.unwrap();
    let holder = client.transaction().await.unwrap();
    holder.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let refresh = tokio::spawn({
        let refresher = refresher.clone();
        async move { refresher.refresh_now("by_region").await }
    });
    until("it is seen waiting", || !refresher.status()[0].waits_for().is_empty()).await;
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
                  WHERE query LIKE 'REFRESH%' AND datname = current_database() AND state = 'active'";
    until_async("it was cancelled", async || {
        other.query_one(cancel, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    let error = refresh.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), RefreshErrorKind::Cancelled);
    let said = "while it waited for AccessShareLock on public.orders for ";
    assert!(error.to_string().contains(said), "{error}");
    assert_eq!(error.findings()[0].kind(), FindingKind::Held);
    holder.rollback().await.unwrap();
}

#[tokio::test]
async fn a_prepared_transaction_is_named_with_the_command_that_ends_it() {
    let postgres = Postgres::start_with(&["max_prepared_transactions=3"]).unwrap();
    let database = postgres.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(super::basics::SCHEMA).await.unwrap();
    let sql = "BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'it''s'";
    client.batch_execute(sql).await.unwrap();
    for size in [1, 3] {
        let (before, error) = fails(&database, size, view()).await;
        for findings in [&before[..], error.findings()] {
            let [found] = findings else { panic!("{findings:?}") };
            let said = "the prepared transaction 'it''s' (user postgres) holds AccessExclusiveLock";
            assert!(found.message().starts_with(said), "{found}");
            assert_eq!(found.mending_sql(), ["ROLLBACK PREPARED 'it''s';"]);
        }
    }
}
