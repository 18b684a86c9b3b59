//! Do cached results become stale when others refresh, change or rename a view?

use std::time::{Duration, Instant};

use larder::refresh::{MaterializedView, RefreshErrorKind, Refresher, RefresherBuilder};
use larder::{Origin, Query, QueryCache};
use tokio_postgres::{Client, NoTls};

use super::basics::{SCHEMA, refresher, shop};
use crate::servers::{Database, Postgres, Proxy};
use crate::support::{database, local, namespace, over_redis, until, until_async};

const OFTEN: Duration = Duration::from_millis(10);
/// Longer than any test: what is noticed is not noticed by looking now and then.
const NEVER: Duration = Duration::from_secs(60 * 60);

/// A shop, and a cache that holds results of its view.
struct Shop {
    database: Database,
    client: Client,
    cache: QueryCache,
    pool: deadpool_postgres::Pool,
    query: Query,
}

impl Shop {
    async fn new(cache: QueryCache) -> Shop {
        let (database, client) = shop().await;
        let query = cache.query("SELECT sum(orders)::int8 FROM by_region").tag("by_region");
        Shop { pool: database.pool(1), database, client, cache, query }
    }

    async fn fleet() -> Shop {
        Shop::new(over_redis(&namespace()).build().await.unwrap()).await
    }

    fn refresher(&self, views: &[&str], poll: Duration) -> RefresherBuilder {
        refresher(&self.database, views).cache(&self.cache).poll(poll)
    }

    async fn ask(&self) -> (i64, Origin) {
        let answer = self.query.fetch(&self.pool).answer().await.unwrap();
        (answer.value().row(0).get(0), answer.origin())
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    /// One order more, which the view does not hold yet.
    async fn order(&self) {
        self.run("INSERT INTO orders SELECT max(id) + 1, 'eu', 1 FROM orders").await;
    }

    async fn until_it_answers(&self, orders: i64) {
        let what = format!("there are {orders} orders in the answer");
        until_async(&what, async || self.ask().await.0 == orders).await;
    }
}

fn noticed(refresher: &Refresher, at: usize) -> u64 {
    refresher.status()[at].noticed()
}

async fn until_it_listens(client: &Client, sessions: i64) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
               AND state = 'idle' AND query = 'LISTEN larder_refresh'";
    until_async("it listens", async || {
        client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == sessions
    })
    .await;
}

#[tokio::test]
async fn looking_notices_every_refresh_by_another() {
    for cache in [local().await, over_redis(&namespace()).build().await.unwrap()] {
        let shop = Shop::new(cache).await;
        let refresher = shop.refresher(&["by_region"], OFTEN).start().await.unwrap();
        let before = noticed(&refresher, 0);
        let mut orders = 10;
        for how in ["", "CONCURRENTLY ", "", "CONCURRENTLY "] {
            assert_eq!(shop.ask().await.0, orders);
            shop.order().await;
            assert_eq!(shop.ask().await, (orders, Origin::L1));
            shop.run(&format!("REFRESH MATERIALIZED VIEW {how}by_region")).await;
            orders += 1;
            shop.until_it_answers(orders).await;
        }
        // An answer may come before that is counted.
        until("four are counted", || noticed(&refresher, 0) >= before + 4).await;
        assert_eq!(noticed(&refresher, 0), before + 4);
        // The cache follows what was committed, and no sooner.
        shop.order().await;
        shop.run("BEGIN; REFRESH MATERIALIZED VIEW by_region; ROLLBACK").await;
        shop.run("BEGIN; REFRESH MATERIALIZED VIEW by_region; COMMIT").await;
        shop.until_it_answers(orders + 1).await;
        until("five are counted", || noticed(&refresher, 0) >= before + 5).await;
        assert_eq!(noticed(&refresher, 0), before + 5);
    }
}

#[tokio::test]
async fn the_event_trigger_tells_of_every_refresh_by_another() {
    let shop = Shop::fleet().await;
    shop.run("CREATE MATERIALIZED VIEW other AS SELECT count(*) FROM orders").await;
    shop.run("CREATE MATERIALIZED VIEW unmanaged AS SELECT count(*) FROM orders").await;
    let builder = shop.refresher(&["by_region", "other"], NEVER);
    let refresher = builder.listen(shop.database.config(), NoTls).start().await.unwrap();
    refresher.install_event_trigger().await.unwrap();
    refresher.install_event_trigger().await.unwrap();
    until_it_listens(&shop.client, 1).await;

    let mut orders = 10;
    for how in ["", "CONCURRENTLY ", "", "CONCURRENTLY "] {
        shop.order().await;
        assert_eq!(shop.ask().await.0, orders);
        shop.run(&format!("REFRESH MATERIALIZED VIEW {how}by_region")).await;
        orders += 1;
        shop.until_it_answers(orders).await;
    }
    // Refreshes of others make nothing else stale.
    let (mine, others) = (noticed(&refresher, 0), noticed(&refresher, 1));
    assert_eq!(shop.ask().await, (orders, Origin::L1));
    shop.run("REFRESH MATERIALIZED VIEW unmanaged").await;
    shop.run("REFRESH MATERIALIZED VIEW other").await;
    until("that of the other is noticed", || noticed(&refresher, 1) == others + 1).await;
    assert_eq!((shop.ask().await, noticed(&refresher, 0)), ((orders, Origin::L1), mine));
    // Nor do this refresher's own fail, or count as those of somebody else.
    shop.order().await;
    assert!(refresher.refresh_now("by_region").await.unwrap().changed());
    assert_eq!((shop.ask().await.0, noticed(&refresher, 0)), (orders + 1, mine));

    refresher.remove_event_trigger().await.unwrap();
    refresher.remove_event_trigger().await.unwrap();
    let left = "SELECT count(*) FROM pg_event_trigger, pg_namespace WHERE nspname = 'larder'";
    assert_eq!(shop.client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    shop.run("REFRESH MATERIALIZED VIEW by_region").await;
}

#[tokio::test]
async fn the_event_trigger_is_installed_by_a_superuser_or_not_at_all() {
    let (database, client) = shop().await;
    let role = format!("clerk_of_{}", database.name());
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN")).await.unwrap();
    let mut config = database.config();
    config.user(&role);
    let pool = deadpool_postgres::Manager::new(config, NoTls);
    let pool = deadpool_postgres::Pool::builder(pool).max_size(2).build().unwrap();
    let builder = Refresher::builder(pool).view(MaterializedView::new("by_region"));
    let clerk = builder.start().await.unwrap();
    let error = clerk.install_event_trigger().await.unwrap_err();
    assert_eq!(error.kind(), RefreshErrorKind::Forbidden, "{error}");
    let installed = "SELECT (SELECT count(*) FROM pg_event_trigger) \
                       + (SELECT count(*) FROM pg_namespace WHERE nspname = 'larder')";
    assert_eq!(client.query_one(installed, &[]).await.unwrap().get::<_, i64>(0), 0);

    // Nor may it remove what a superuser has installed.
    let boss = refresher(&database, &["by_region"]).start().await.unwrap();
    boss.install_event_trigger().await.unwrap();
    let error = clerk.remove_event_trigger().await.unwrap_err();
    assert_eq!(error.kind(), RefreshErrorKind::Forbidden, "{error}");
    assert_eq!(client.query_one(installed, &[]).await.unwrap().get::<_, i64>(0), 2);
    // And its own refreshes do not fail by telling.
    let grant = format!(
        "ALTER MATERIALIZED VIEW by_region OWNER TO {role};
         GRANT SELECT ON orders TO {role}; GRANT TEMPORARY ON DATABASE {} TO {role}",
        database.name()
    );
    client.batch_execute(&grant).await.unwrap();
    assert!(clerk.refresh_now("by_region").await.is_ok());
}

#[tokio::test]
async fn a_listener_that_was_cut_off_listens_again_and_looks() {
    let shop = Shop::fleet().await;
    let builder = shop.refresher(&["by_region"], NEVER);
    let refresher = builder.listen(shop.database.config(), NoTls).start().await.unwrap();
    refresher.install_event_trigger().await.unwrap();
    until_it_listens(&shop.client, 1).await;
    assert_eq!(shop.ask().await.0, 10);
    shop.order().await;
    // In one transaction the listening session ends and the view is refreshed: nobody hears of it.
    let listening = "SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN larder_refresh' \
                     AND datname = current_database()";
    let pid: i32 = shop.client.query_one(listening, &[]).await.unwrap().get(0);
    let end = format!("SELECT pg_terminate_backend({pid}, 60000)");
    shop.run(&format!("{end}; REFRESH MATERIALIZED VIEW by_region")).await;
    shop.until_it_answers(11).await;
    // An operator ends all sessions: those by which it looks as well.
    until_it_listens(&shop.client, 1).await;
    shop.database.terminate_sessions().await.unwrap();
    let client = shop.database.connect().await.unwrap();
    let shop = Shop { client, ..shop };
    // From here on it hears again.
    for orders in 12..=14 {
        until_it_listens(&shop.client, 1).await;
        shop.order().await;
        shop.run("REFRESH MATERIALIZED VIEW by_region").await;
        shop.until_it_answers(orders).await;
    }
}

#[tokio::test]
async fn a_look_that_fails_is_soon_made_again() {
    let shop = Shop::fleet().await;
    let proxy = Proxy::to_socket(Postgres::shared().unwrap().socket()).unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(proxy.port()).user("postgres").dbname(shop.database.name());
    let manager = deadpool_postgres::Manager::new(config, NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(2).build().unwrap();
    let builder = Refresher::builder(pool).view(MaterializedView::new("by_region"));
    let builder = builder.cache(&shop.cache).poll(NEVER);
    let refresher = builder.listen(shop.database.config(), NoTls).start().await.unwrap();
    refresher.install_event_trigger().await.unwrap();
    until_it_listens(&shop.client, 1).await;
    assert_eq!(shop.ask().await.0, 10);
    // What it hears is heard by another way than the one by which it looks.
    proxy.cut();
    let turned_away = proxy.turned_away();
    shop.order().await;
    shop.run("REFRESH MATERIALIZED VIEW by_region").await;
    until("it has looked in vain", || proxy.turned_away() > turned_away).await;
    proxy.pass();
    shop.until_it_answers(11).await;
}

#[tokio::test]
async fn what_is_done_to_a_view_beside_a_refresh_makes_no_more_stale_than_its_results() {
    let shop = Shop::fleet().await;
    shop.run("CREATE MATERIALIZED VIEW other AS SELECT count(*) FROM orders").await;
    let refresher = shop.refresher(&["by_region", "other"], OFTEN).start().await.unwrap();
    // A look that has seen a later refresh of another view has seen what was done before. What it
    // does about the two has no order, but it has done all before it looks again.
    let look = async || {
        for _ in 0..2 {
            let before = noticed(&refresher, 1);
            shop.run("REFRESH MATERIALIZED VIEW other").await;
            until("it has looked", || noticed(&refresher, 1) == before + 1).await;
        }
    };
    let mut expected = noticed(&refresher, 0);
    shop.ask().await;
    for untouched in [
        "COMMENT ON MATERIALIZED VIEW by_region IS 'orders of each region'",
        "ANALYZE by_region",
        "VACUUM by_region",
        "CREATE INDEX ON by_region (orders)",
        "CREATE UNIQUE INDEX CONCURRENTLY ON by_region (region, orders)",
        "REINDEX TABLE by_region",
        "UPDATE orders SET amount = amount + 1",
        "BEGIN; REFRESH MATERIALIZED VIEW CONCURRENTLY by_region; ROLLBACK",
    ] {
        shop.run(untouched).await;
        look().await;
        let seen = (shop.ask().await, noticed(&refresher, 0));
        assert_eq!(seen, ((10, Origin::L1), expected), "after {untouched}");
    }
    for touched in [
        "GRANT SELECT ON by_region TO PUBLIC",
        "ALTER MATERIALIZED VIEW by_region SET (fillfactor = 80)",
        "VACUUM FULL by_region",
    ] {
        shop.run(touched).await;
        look().await;
        expected += 1;
        assert_eq!(noticed(&refresher, 0), expected, "after {touched}");
        assert_eq!(shop.ask().await, (10, Origin::Loaded), "after {touched}");
        assert_eq!(shop.ask().await, (10, Origin::L1), "after {touched}");
    }
}

#[tokio::test]
async fn another_view_of_the_same_name_makes_results_stale() {
    let shop = Shop::fleet().await;
    let refresher = shop.refresher(&["by_region"], OFTEN).start().await.unwrap();
    assert_eq!(shop.ask().await.0, 10);
    let made_again = "SELECT 'eu' AS region, 20::int8 AS orders";
    shop.run(&format!(
        "BEGIN; DROP MATERIALIZED VIEW by_region;
         CREATE MATERIALIZED VIEW by_region AS {made_again};
         CREATE UNIQUE INDEX ON by_region (region); COMMIT"
    ))
    .await;
    shop.until_it_answers(20).await;
    assert!(!refresher.refresh_now("by_region").await.unwrap().changed());

    // There and back: the second time, it is a view whose results were announced once.
    shop.run(
        "CREATE MATERIALIZED VIEW next AS SELECT 'eu' AS region, 30::int8 AS orders;
         CREATE UNIQUE INDEX ON next (region)",
    )
    .await;
    for orders in [30, 20, 30, 20] {
        shop.run(
            "BEGIN; ALTER MATERIALIZED VIEW by_region RENAME TO last;
             ALTER MATERIALIZED VIEW next RENAME TO by_region;
             ALTER MATERIALIZED VIEW last RENAME TO next; COMMIT",
        )
        .await;
        shop.until_it_answers(orders).await;
    }
    assert_eq!(shop.ask().await, (20, Origin::L1));
}

#[tokio::test]
async fn a_view_that_comes_back_under_its_name_makes_results_stale() {
    // Unlike a view that is renamed itself, one whose schema is renamed is what it was.
    let (cache, database) = (over_redis(&namespace()).build().await.unwrap(), database().await);
    let client = database.connect().await.unwrap();
    client
        .batch_execute(
            "CREATE SCHEMA live; CREATE SCHEMA standby;
             CREATE MATERIALIZED VIEW live.number AS SELECT 1::int8;
             CREATE MATERIALIZED VIEW standby.number AS SELECT 2::int8;",
        )
        .await
        .unwrap();
    let view = MaterializedView::new("live.number");
    let (query, pool) = (cache.query("SELECT * FROM live.number").reads(&view), database.pool(1));
    let builder = refresher(&database, &["live.number"]).cache(&cache).poll(OFTEN);
    let _refresher = builder.start().await.unwrap();
    let ask = async || query.fetch(&pool).await.unwrap().row(0).get::<_, i64>(0);
    assert_eq!(ask().await, 1);
    for number in [2, 1, 2, 1] {
        let swap = "BEGIN; ALTER SCHEMA live RENAME TO last; ALTER SCHEMA standby RENAME TO live;
                    ALTER SCHEMA last RENAME TO standby; COMMIT";
        client.batch_execute(swap).await.unwrap();
        until_async("the other view answers", async || ask().await == number).await;
    }
}

#[tokio::test]
async fn a_view_that_two_name_differently_is_stale_for_both() {
    let shop = Shop::fleet().await;
    let short = shop.refresher(&["by_region"], OFTEN).start().await.unwrap();
    let full = shop.refresher(&["public.by_region"], OFTEN).start().await.unwrap();
    let sql = "SELECT sum(orders)::int8 FROM public.by_region";
    let other = shop.cache.query(sql).tag("public.by_region");
    let ask_other = async || other.fetch(&shop.pool).await.unwrap().row(0).get::<_, i64>(0);
    for orders in 11..=14 {
        shop.ask().await;
        ask_other().await;
        shop.order().await;
        match orders {
            11 => shop.run("REFRESH MATERIALIZED VIEW by_region").await,
            12 => drop(short.refresh_now("by_region").await.unwrap()),
            13 => drop(full.refresh_now("public.by_region").await.unwrap()),
            _ => shop.run("REFRESH MATERIALIZED VIEW by_region").await,
        }
        shop.until_it_answers(orders).await;
        until_async("the other answer is new", async || ask_other().await == orders).await;
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn what_happened_while_no_refresher_ran_the_next_one_notices_once() {
    let shop = Shop::fleet().await;
    let first = shop.refresher(&["by_region"], NEVER).start().await.unwrap();
    assert_eq!(shop.ask().await.0, 10);
    first.shutdown().await;
    shop.order().await;
    shop.run("REFRESH MATERIALIZED VIEW by_region").await;
    assert_eq!(shop.ask().await, (10, Origin::L1));
    // It has looked when it is started.
    let second = shop.refresher(&["by_region"], NEVER).start().await.unwrap();
    assert_eq!(shop.ask().await, (11, Origin::Loaded));
    assert_eq!(noticed(&second, 0), 1);
    for restart in 1..=3 {
        let next = shop.refresher(&["by_region"], NEVER).start().await.unwrap();
        assert_eq!((noticed(&next, 0), shop.ask().await), (0, (11, Origin::L1)), "{restart}");
        // And of its predecessor's refresh there is nothing left to be said either.
        shop.run("UPDATE orders SET amount = amount + 1").await;
        assert!(next.refresh_now("by_region").await.unwrap().changed());
        assert_eq!(shop.ask().await.1, Origin::Loaded);
        assert!(!next.refresh_now("by_region").await.unwrap().changed());
    }
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread")]
async fn ten_refreshers_make_one_foreign_refresh_stale_a_few_times() {
    let (namespace, shop) = (namespace(), Shop::fleet().await);
    let mut fleet = vec![];
    for _ in 0..10 {
        let cache = over_redis(&namespace).build().await.unwrap();
        let query = cache.query("SELECT sum(orders)::int8 FROM by_region").tag("by_region");
        let builder = refresher(&shop.database, &["by_region"]).cache(&cache).poll(OFTEN);
        fleet.push((builder.start().await.unwrap(), cache, query));
    }
    let invalidations =
        || fleet.iter().map(|(_, cache, _)| cache.stats().invalidations).sum::<u64>();
    // The first of them could not know whether anything had happened before.
    assert_eq!(invalidations(), 1);
    let mut counts = vec![];
    for orders in 11..=15 {
        let before = invalidations();
        shop.order().await;
        shop.run("REFRESH MATERIALIZED VIEW by_region").await;
        for (_, _, query) in &fleet {
            until_async("every process has the new answer", async || {
                query.fetch(&shop.pool).await.unwrap().row(0).get::<_, i64>(0) == orders
            })
            .await;
        }
        counts.push(invalidations() - before);
    }
    println!("invalidations of five refreshes by another, noticed by ten: {counts:?}");
    assert!(counts.iter().all(|&count| (1..=10).contains(&count)), "{counts:?}");
    // What one of them refreshes is announced by that one alone.
    let (before, begin) = (invalidations(), Instant::now());
    shop.order().await;
    assert!(fleet[0].0.refresh_now("by_region").await.unwrap().changed());
    let announced_in_time = begin.elapsed() < Duration::from_millis(500);
    for (_, _, query) in &fleet {
        until_async("every process has the new answer", async || {
            query.fetch(&shop.pool).await.unwrap().row(0).get::<_, i64>(0) == 16
        })
        .await;
    }
    // Others would make up for an announcement that is late by a second.
    assert!(invalidations() == before + 1 || !announced_in_time);
}

#[tokio::test]
async fn a_view_that_is_made_later_is_followed_from_then_on() {
    let database = database().await;
    let (client, cache) = (database.connect().await.unwrap(), local().await);
    let view = MaterializedView::new("by_region").created_later();
    let builder = refresher(&database, &[]).view(view).cache(&cache).poll(OFTEN);
    let refresher = builder.start().await.unwrap();
    let (query, pool) = (cache.query("SELECT 1::int8").tag("by_region"), database.pool(1));
    let ask = async || query.fetch(&pool).answer().await.unwrap().origin();
    assert_eq!((ask().await, ask().await), (Origin::Loaded, Origin::L1));
    client.batch_execute(SCHEMA).await.unwrap();
    until("it is noticed", || noticed(&refresher, 0) == 1).await;
    assert_eq!((ask().await, ask().await), (Origin::Loaded, Origin::L1));
    assert!(!refresher.refresh_now("by_region").await.unwrap().changed());
}
