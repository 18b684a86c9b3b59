//! Is a view refreshed when a definition that its rows depend on was changed, and only then?

mod cases;

use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt, StreamExt, stream};
use larder::refresh::{MaterializedView, RefreshHook, RefreshOutcome, Refresher};
use larder::testing::ManualClock;
use tokio_postgres::Client;

use self::cases::{CASES, COUNTED_SINCE, Case};
use super::unchanged::{TICK, UNCHANGED, cannot_count, is_refreshed, tick, ticking};
use crate::servers::{Database, skipped};
use crate::support::database;

const ORDERS: &str = "CREATE TABLE orders (id int PRIMARY KEY, region text, amount int);
    INSERT INTO orders SELECT n, 'eu', n FROM generate_series(1, 5) n;";

/// A database with a role and a group of its own.
struct Shop {
    database: Database,
    client: Client,
}

impl Shop {
    async fn new() -> Shop {
        let database = database().await;
        let client = database.connect().await.unwrap();
        let shop = Shop { database, client };
        shop.run(
            "CREATE ROLE $role LOGIN; CREATE ROLE $group; GRANT CREATE ON SCHEMA public TO $role;",
        )
        .await;
        shop.run(ORDERS).await;
        shop
    }

    fn named(&self, sql: &str) -> String {
        let name = self.database.name();
        sql.replace("$role", &format!("role_{name}"))
            .replace("$group", &format!("group_{name}"))
            .replace("$database", name)
    }

    async fn run(&self, sql: &str) {
        let sql = self.named(sql);
        self.client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        if server_version(&self.client).await >= COUNTED_SINCE {
            // What was written is counted at once.
            self.client.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
        }
    }

    /// The rows, as they are for a connection made now.
    async fn rows(&self) -> Vec<String> {
        let client = self.database.connect().await.unwrap();
        let rows = client.query("SELECT v::text FROM the_view v ORDER BY 1", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn end(self) {
        self.run("DROP OWNED BY $role, $group CASCADE; DROP ROLE $role, $group").await;
    }
}

async fn server_version(client: &Client) -> i32 {
    let sql = "SELECT current_setting('server_version_num')::int4";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Refreshes plainly: the views here have no index.
async fn plainly(database: &Database) -> (Refresher, ManualClock) {
    ticking(database, [MaterializedView::new("the_view").plain()]).await
}

#[tokio::test]
async fn a_changed_definition_makes_the_next_tick_refresh() {
    if cannot_count().await {
        return;
    }
    // All of them run, and the output names each that fails.
    let cases = stream::iter(CASES).map(|case| AssertUnwindSafe(is_noticed(case)).catch_unwind());
    let done: Vec<_> = cases.buffer_unordered(8).collect().await;
    let failed = done.iter().filter(|done| done.is_err()).count();
    assert_eq!(failed, 0, "of {} cases", CASES.len());
}

async fn is_noticed(case: &Case) {
    let shop = Shop::new().await;
    if server_version(&shop.client).await < case.since {
        skipped(format_args!("{}: PostgreSQL has it since {}", case.what, case.since / 10_000));
        return;
    }
    shop.run(case.setup).await;
    let (refresher, clock) = plainly(&shop.database).await;
    let check = refresher.check().await.unwrap();
    assert!(check.views()[0].findings().is_empty(), "{}: {check}", case.what);
    let first = tick(&refresher, &clock).await.remove(0);
    assert!(is_refreshed(&first, true), "{}: {first}", case.what);
    let nothing = tick(&refresher, &clock).await.remove(0);
    assert_eq!(nothing, UNCHANGED, "{}", case.what);

    let before = shop.rows().await;
    shop.run(case.change).await;
    let changed = tick(&refresher, &clock).await.remove(0);
    assert!(is_refreshed(&changed, true), "{}: {changed}", case.what);
    let after = shop.rows().await;
    assert_ne!(before, after, "{} changes no row", case.what);
    let nothing = tick(&refresher, &clock).await.remove(0);
    assert_eq!(nothing, UNCHANGED, "{}, afterwards", case.what);
    // By a connection that has all settings.
    let anew = shop.database.connect().await.unwrap();
    anew.batch_execute("REFRESH MATERIALIZED VIEW the_view").await.unwrap();
    assert_eq!(after, shop.rows().await, "{}", case.what);
    refresher.shutdown().await;
    shop.end().await;
}

#[tokio::test]
async fn what_is_done_beside_a_view_makes_no_tick_refresh() {
    if cannot_count().await {
        return;
    }
    const BESIDE: &[&str] = &[
        "ANALYZE",
        "VACUUM orders",
        "CREATE TABLE another (id int, o text DEFAULT 'x', UNIQUE (id))",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TYPE pg_temp.mood AS ENUM ('sad'); CREATE DOMAIN pg_temp.d AS int CHECK (value > 0)",
        "BEGIN; CREATE FUNCTION undone() RETURNS int LANGUAGE sql AS 'SELECT 1'; ROLLBACK",
        "CREATE SCHEMA tenant CREATE TABLE things (id int)",
        "CREATE MATERIALIZED VIEW one_more AS SELECT * FROM low",
        "GRANT SELECT ON orders TO $group",
        "ALTER TABLE other ADD COLUMN n int DEFAULT 7",
        "DROP TABLE other",
        "COMMENT ON VIEW low IS 'a comment'",
        "CREATE ROLE more_$database; DROP ROLE more_$database",
    ];
    let cases = stream::iter(BESIDE).map(|sql| async move {
        let shop = Shop::new().await;
        shop.run(
            "CREATE TABLE other (id int PRIMARY KEY);
             CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
             CREATE VIEW low AS SELECT id, f(amount) FROM orders;
             CREATE MATERIALIZED VIEW the_view AS SELECT * FROM low;",
        )
        .await;
        let (refresher, clock) = plainly(&shop.database).await;
        tick(&refresher, &clock).await;
        shop.run(sql).await;
        let outcome = tick(&refresher, &clock).await.remove(0);
        assert_eq!(outcome, UNCHANGED, "{sql}");
        refresher.shutdown().await;
        shop.end().await;
    });
    cases.buffer_unordered(BESIDE.len()).collect::<Vec<()>>().await;
}

#[tokio::test]
async fn a_definition_that_changes_during_a_refresh_counts_at_the_next_tick() {
    if cannot_count().await {
        return;
    }
    let shop = Shop::new().await;
    let f = |n: u32| {
        format!(
            "CREATE OR REPLACE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql
               AS 'SELECT $1 + {n}'"
        )
    };
    shop.run(&f(1)).await;
    shop.run("CREATE MATERIALIZED VIEW the_view AS SELECT id, f(amount) FROM orders").await;
    let clock = ManualClock::starting_at(std::time::SystemTime::UNIX_EPOCH + TICK * 1_000);
    let (other, replace) = (shop.database.pool(1), f(2));
    // When it has been read what the view is made of, and before it is refreshed.
    let hook = RefreshHook::new("replaces the function", move |_| {
        let (other, replace) = (other.clone(), replace.clone());
        async move {
            other.get().await?.batch_execute(&replace).await?;
            Ok(())
        }
    });
    let refresher = Refresher::builder(shop.database.pool(2))
        .clock(clock.clone())
        .poll(std::time::Duration::from_secs(3600))
        .before_refresh(hook)
        .view(MaterializedView::new("the_view").plain().every(TICK).skip_unchanged());
    let refresher = refresher.start().await.unwrap();
    let mut outcomes: Vec<RefreshOutcome> = vec![];
    for _ in 0..2 {
        outcomes.extend(tick(&refresher, &clock).await);
    }
    assert!(outcomes.iter().all(|outcome| is_refreshed(outcome, true)), "{outcomes:?}");
    assert_eq!(shop.rows().await[0], "(1,3)");
    refresher.shutdown().await;
    shop.end().await;
}

#[tokio::test]
async fn the_catalogs_are_queried_without_jit_and_the_view_with_it() {
    let shop = Shop::new().await;
    let setup = "SET jit = off; ALTER DATABASE $database SET jit = on;
        CREATE MATERIALIZED VIEW the_view AS SELECT current_setting('jit') AS jit;";
    shop.client.batch_execute(&shop.named(setup)).await.unwrap();
    assert_eq!(shop.rows().await, ["(off)"]);
    let pool = shop.database.pool(1);
    let refresher = Refresher::builder(pool.clone())
        .view(MaterializedView::new("the_view").plain().skip_unchanged());
    let refresher = refresher.start().await.unwrap();
    // This looks at what the view is made of, within the transaction of the refresh.
    for refreshed in refresher.refresh_all().await {
        assert!(is_refreshed(refreshed.unwrap().outcome(), true));
    }
    assert_eq!(shop.rows().await, ["(on)"]);
    refresher.check().await.unwrap();
    let client = pool.get().await.unwrap();
    let jit: String = client.query_one("SHOW jit", &[]).await.unwrap().get(0);
    assert_eq!(jit, "on");
    drop(client);
    refresher.shutdown().await;
    shop.end().await;
}
