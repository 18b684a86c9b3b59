//! Rows depend on who asks and under which settings: is a result ever given to another one?

use std::collections::BTreeSet;

use larder::{Origin, QueryCache};

use super::{again, read, with};
use crate::support::{local, namespace, over_redis, written};

const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, at timestamptz, tenant text);
    INSERT INTO t VALUES (1, '2024-06-01 23:00+00', 'a'), (2, '2024-06-02 01:00+00', 'b');
    CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.t (id int PRIMARY KEY, at timestamptz, tenant text);
    ALTER TABLE t ENABLE ROW LEVEL SECURITY;
    CREATE POLICY of_tenants ON t USING (tenant = current_setting('app.tenant', true))";

#[tokio::test]
async fn a_connection_with_other_settings_is_answered_and_not_stored() {
    let (database, _) = with(SCHEMA).await;
    let (cache, pool) = (local().await, database.pool(1));
    let query = cache.query("SELECT at::date::text FROM t WHERE id = 1").auto();
    let day = async |cache: &QueryCache| {
        let query = cache.query("SELECT at::date::text FROM t WHERE id = 1").auto();
        let answer = read(&query, &pool).await;
        (answer.value().row(0).get::<_, String>(0), answer.origin())
    };
    assert_eq!(day(&cache).await, ("2024-06-01".to_owned(), Origin::Loaded));
    let set = "SET TimeZone = 'Asia/Tokyo'";
    pool.get().await.unwrap().batch_execute(set).await.unwrap();
    assert_eq!(day(&cache).await.1, Origin::L1);
    cache.clear().await;
    // The pool's only connection keeps the setting that somebody left on it.
    for _ in 0..2 {
        assert_eq!(day(&cache).await, ("2024-06-02".to_owned(), Origin::Loaded));
    }
    let stats = &cache.query_stats()[0];
    assert_eq!(stats.unfollowed, 2);
    assert!(stats.unfollowed_because.as_ref().unwrap().contains("TimeZone"), "{stats:?}");
    pool.get().await.unwrap().batch_execute("RESET TimeZone").await.unwrap();
    assert_eq!(again(&query, &pool).await, Origin::L1);
    assert_eq!(day(&cache).await.0, "2024-06-01");
    // If all connections have it, the pool has changed: its results are stored, under another key.
    pool.get().await.unwrap().batch_execute(set).await.unwrap();
    cache.clear().await;
    for _ in 0..4 {
        assert_eq!(day(&cache).await.0, "2024-06-02");
    }
    assert_eq!(day(&cache).await, ("2024-06-02".to_owned(), Origin::L1));
    pool.get().await.unwrap().batch_execute("RESET TimeZone").await.unwrap();
    cache.clear().await;
    assert_eq!(day(&cache).await.0, "2024-06-01");
}

#[tokio::test]
async fn pools_with_other_users_schemas_and_settings_share_nothing() {
    let (database, _) = with(SCHEMA).await;
    let admin = database.connect().await.unwrap();
    let user = format!("reader_{}", database.name());
    let sql = format!("CREATE ROLE {user} LOGIN; GRANT SELECT ON t TO {user}");
    admin.batch_execute(&sql).await.unwrap();
    let namespace = namespace();
    let pool = |database: &crate::servers::Database, options: &str| {
        let mut config = database.config();
        config.options(options);
        let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
        deadpool_postgres::Pool::builder(manager).max_size(1).build().unwrap()
    };
    let other = database.as_role(&user);
    let pools = [
        pool(&database, ""),
        pool(&database, "-c TimeZone=Asia/Tokyo"),
        pool(&database, "-c search_path=elsewhere"),
        pool(&other, ""),
        pool(&other, "-c app.tenant=a"),
        pool(&other, "-c app.tenant=b"),
    ];
    let mut seen = BTreeSet::new();
    for pool in &pools {
        // Each as a process of its own.
        let cache = over_redis(&namespace).build().await.unwrap();
        let query = cache.query("SELECT id, at::text FROM t ORDER BY id").auto();
        let answer = read(&query, pool).await;
        assert_eq!(answer.origin(), Origin::Loaded);
        let rows: Vec<(i32, String)> =
            answer.value().iter().map(|row| (row.get(0), row.get(1))).collect();
        seen.insert(rows);
        written(&cache, 1).await;
        assert_eq!(read(&query, pool).await.origin(), Origin::L1);
    }
    // All rows in two time zones, none (elsewhere, and of no tenant), and those of two tenants.
    assert_eq!(seen.len(), 5, "{seen:?}");
    let cache = over_redis(&namespace).build().await.unwrap();
    let query = cache.query("SELECT id, at::text FROM t ORDER BY id").auto();
    for pool in &pools {
        let expected = if cfg!(feature = "redis") { Origin::L2 } else { Origin::Loaded };
        assert_eq!(read(&query, pool).await.origin(), expected);
    }
}

#[tokio::test]
async fn a_role_and_settings_of_the_call_are_in_the_key_and_nothing_stays_on_the_connection() {
    let (database, _) = with(SCHEMA).await;
    let admin = database.connect().await.unwrap();
    let user = format!("tenant_{}", database.name());
    let sql = format!("CREATE ROLE {user}; GRANT SELECT ON t TO {user}");
    admin.batch_execute(&sql).await.unwrap();
    let (cache, pool) = (local().await, database.pool(1));
    let query = cache.query("SELECT id FROM t ORDER BY id").auto();
    let of = async |tenant: &'static str| {
        let call = query.params(()).as_role(user.as_str()).with_setting("app.tenant", tenant);
        let answer = call.fetch(&pool).answer().await.unwrap();
        (answer.value().iter().map(|row| row.get(0)).collect::<Vec<i32>>(), answer.origin())
    };
    for (tenant, expected) in [("a", vec![1]), ("b", vec![2]), ("c", vec![])] {
        assert_eq!(of(tenant).await, (expected.clone(), Origin::Loaded));
        assert_eq!(of(tenant).await, (expected, Origin::L1));
    }
    assert_eq!(read(&query, &pool).await.value().len(), 2);
    cache.invalidate_table("t").await;
    assert_eq!(of("a").await, (vec![1], Origin::Loaded));
    let left = "SELECT current_user::text, coalesce(current_setting('app.tenant', true), '')";
    let row = pool.get().await.unwrap().query_one(left, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("postgres", ""));
    // The verdict is that of all tenants: PostgreSQL is asked to parse once for them.
    assert_eq!(cache.stats().unfollowed, 0);
}

#[tokio::test]
async fn a_temporary_table_that_hides_another_is_never_taken_for_it() {
    let (database, _) = with(SCHEMA).await;
    let (cache, pool) = (local().await, database.pool(1));
    let query = cache.query("SELECT count(*) FROM t").auto();
    let count = async || read(&query, &pool).await.value().row(0).get::<_, i64>(0);
    assert_eq!(count().await, 2);
    let hide = "CREATE TEMP TABLE t (id int)";
    pool.get().await.unwrap().batch_execute(hide).await.unwrap();
    // The statement that the connection keeps may be the one before, or not; the result is not stored.
    cache.clear().await;
    for _ in 0..6 {
        assert_eq!(read(&query, &pool).await.origin(), Origin::Loaded);
    }
    pool.get().await.unwrap().batch_execute("DROP TABLE pg_temp.t").await.unwrap();
    let fresh = database.pool(1);
    assert_eq!(read(&query, &fresh).await.value().row(0).get::<_, i64>(0), 2);
    assert_eq!(read(&query, &fresh).await.origin(), Origin::L1);
}

#[tokio::test]
async fn a_connection_that_others_have_used_is_asked_again() {
    let (database, _) = with(SCHEMA).await;
    let (cache, pool) = (local().await, database.pool(1));
    let query = cache.query("SELECT at::date::text FROM t WHERE id = $1").auto();
    // Whether the result is stored under the settings of the pool.
    let is_stored = async |id: i32| {
        let load = query.bind(id).fetch(&pool).answer().await.unwrap();
        assert_eq!(load.origin(), Origin::Loaded);
        query.bind(id).fetch(&pool).answer().await.unwrap().origin() == Origin::L1
    };
    let tokyo = "SET TimeZone = 'Asia/Tokyo'";
    // The first one asks for its locks, the next one for the session, and the others need not ask.
    for id in 1..5 {
        assert!(is_stored(id).await, "{id}");
    }
    pool.get().await.unwrap().batch_execute(tokyo).await.unwrap();
    assert!(!is_stored(5).await);
    pool.get().await.unwrap().batch_execute("RESET TimeZone").await.unwrap();
    for id in 6..9 {
        assert!(is_stored(id).await, "{id}");
    }
    // A query of the cache itself has changed it.
    let set = cache.query("SELECT set_config('TimeZone', 'Asia/Tokyo', false)");
    set.fetch(&pool).await.unwrap();
    assert!(!is_stored(9).await);
    set.clone().auto().scope("again").fetch(&pool).await.unwrap();
    assert!(!is_stored(10).await);
}
