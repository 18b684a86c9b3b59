//! Refreshes of one view on demand.

use larder::Origin;
use larder::refresh::{
    Activity, MaterializedView, RefreshErrorKind, RefreshOutcome, Refresher, RefresherBuilder,
    SkipReason,
};
use tokio_postgres::Client;

use crate::servers::Database;
use crate::support::{database, local, namespace, over_redis};

/// Orders, and their number for each region, with the index that CONCURRENTLY needs.
pub const SCHEMA: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, region text NOT NULL, amount int NOT NULL);
    INSERT INTO orders SELECT n, CASE n % 2 WHEN 0 THEN 'eu' ELSE 'us' END, n
      FROM generate_series(1, 10) n;
    CREATE MATERIALIZED VIEW by_region AS
      SELECT region, count(*) AS orders, sum(amount) AS total FROM orders GROUP BY region;
    CREATE UNIQUE INDEX ON by_region (region);";

pub async fn shop() -> (Database, Client) {
    let database = database().await;
    let client = database.connect().await.unwrap();
    client.batch_execute(SCHEMA).await.unwrap();
    (database, client)
}

pub fn refresher(database: &Database, views: &[&str]) -> RefresherBuilder {
    let builder = Refresher::builder(database.pool(4));
    views.iter().fold(builder, |builder, view| builder.view(MaterializedView::new(*view)))
}

#[tokio::test]
async fn a_refresh_tells_how_many_rows_changed() {
    let (database, client) = shop().await;
    let refresher = refresher(&database, &["by_region"]).start().await.unwrap();
    let unchanged = refresher.refresh_now("by_region").await.unwrap();
    assert!(!unchanged.changed());
    assert_eq!(
        unchanged.to_string().split(", in").next(),
        Some("by_region: refreshed, no row changed")
    );

    client.batch_execute("UPDATE orders SET amount = 100 WHERE id = 1; INSERT INTO orders VALUES (11, 'asia', 1)").await.unwrap();
    let report = refresher.refresh_now("by_region").await.unwrap();
    let rows = report.rows().unwrap();
    // One row changed, which is written as one deleted and one inserted; one is new.
    assert_eq!((rows.inserted, rows.updated, rows.deleted, rows.plain), (2, 0, 1, false));
    assert!(report.changed() && report.warnings().is_empty());
    let orders: i64 =
        client.query_one("SELECT sum(orders)::int8 FROM by_region", &[]).await.unwrap().get(0);
    assert_eq!(orders, 11);

    // The session has not reported its rows to the counters yet; they are not counted twice.
    assert!(!refresher.refresh_now("by_region").await.unwrap().changed());
    let status = &refresher.status()[0];
    assert_eq!(
        (status.refreshes(), status.failures_in_a_row(), status.activity()),
        (3, 0, Activity::Idle)
    );
}

#[tokio::test]
async fn the_cache_follows_a_refresh_that_changed_rows_and_no_other() {
    let (database, client) = shop().await;
    let view = MaterializedView::new("by_region");
    for cache in [local().await, over_redis(&namespace()).build().await.unwrap()] {
        let pool = database.pool(4);
        let query = cache.query("SELECT orders FROM by_region WHERE region = $1").reads(&view);
        let other = cache.query("SELECT 1::int8 AS orders WHERE $1 <> ''").tag("something else");
        let ask = async |query: &larder::Query| {
            let answer = query.bind("eu").fetch(&pool).answer().await.unwrap();
            (answer.value().row(0).get::<_, i64>("orders"), answer.origin())
        };
        let refresher = Refresher::builder(database.pool(4)).cache(&cache).view(view.clone());
        let refresher = refresher.start().await.unwrap();
        let (before, _) = ask(&query).await;
        ask(&other).await;
        let insert = "INSERT INTO orders SELECT max(id) + 1, 'eu', 1 FROM orders";
        client.batch_execute(insert).await.unwrap();
        // Not refreshed yet: the view is what it was, and so is the result.
        assert_eq!(ask(&query).await, (before, Origin::L1));
        assert!(refresher.refresh_now(&view).await.unwrap().changed());
        assert_eq!(ask(&query).await, (before + 1, Origin::Loaded));
        assert_eq!(ask(&other).await.1, Origin::L1);
        // Nothing changes: nothing becomes stale.
        assert!(!refresher.refresh_now(&view).await.unwrap().changed());
        assert_eq!(ask(&query).await, (before + 1, Origin::L1));
    }
}

#[tokio::test]
async fn an_empty_view_is_populated_and_a_plain_refresh_is_allowed_or_not() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE MATERIALIZED VIEW empty AS SELECT 1 AS one WITH NO DATA;
             CREATE UNIQUE INDEX ON empty (one);
             CREATE MATERIALIZED VIEW bare AS SELECT count(*) FROM orders;",
        )
        .await
        .unwrap();
    let builder = refresher(&database, &["empty", "bare"])
        .view(MaterializedView::new("public.by_region").plain().analyze());
    let strict = builder.start().await.unwrap();
    let populated = strict.refresh_now("empty").await.unwrap().rows().unwrap();
    assert!(populated.plain && populated.any());
    assert!(!strict.refresh_now("empty").await.unwrap().rows().unwrap().plain);
    let error = strict.refresh_now("bare").await.unwrap_err();
    assert_eq!(error.kind(), RefreshErrorKind::NoUniqueIndex);
    let plain = strict.refresh_now("public.by_region").await.unwrap();
    assert!(plain.rows().unwrap().plain && plain.changed());
    assert_eq!(plain.warnings(), [""; 0]);
    let analyzed =
        "SELECT last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'by_region'";
    crate::support::until_async("it was analyzed", async || {
        client.query_one(analyzed, &[]).await.unwrap().get(0)
    })
    .await;

    let lenient =
        Refresher::builder(database.pool(2)).view(MaterializedView::new("bare").or_plain());
    let lenient = lenient.start().await.unwrap();
    assert!(lenient.refresh_now("bare").await.unwrap().rows().unwrap().plain);
    client.batch_execute("CREATE UNIQUE INDEX ON bare (count)").await.unwrap();
    assert!(!lenient.refresh_now("bare").await.unwrap().rows().unwrap().plain);
}

#[tokio::test]
async fn whoever_comes_while_another_refreshes_is_told_who_it_is() {
    let (database, mut client) = shop().await;
    let refresher = refresher(&database, &["by_region"]).start().await.unwrap();
    // Holds the view, so that a refresh waits.
    let holder = client.transaction().await.unwrap();
    holder.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let first = tokio::spawn({
        let refresher = refresher.clone();
        async move { refresher.refresh_now("by_region").await }
    });
    crate::support::until("it is refreshing", || {
        refresher.status()[0].activity() == Activity::Refreshing
    })
    .await;
    let busy = async || match refresher.refresh_now("by_region").await.unwrap().outcome() {
        RefreshOutcome::Skipped(SkipReason::Busy { holder }) => holder.clone(),
        RefreshOutcome::Refreshed(_) => panic!("refreshed twice at once"),
        _ => None,
    };
    let mut who = None;
    crate::support::until_async("the second finds the first", async || {
        who = busy().await;
        who.is_some()
    })
    .await;
    assert!(who.unwrap().starts_with("postgresql's process "));
    drop(holder);
    client.batch_execute("ROLLBACK").await.unwrap();
    assert!(first.await.unwrap().unwrap().rows().is_some());
}
