//! How many prepared statements does a connection keep?

use larder::QueryCache;

use crate::support::{database, local};

/// The statements of the pool's only connection, except for this one.
async fn kept(pool: &deadpool_postgres::Pool) -> Vec<String> {
    let client = pool.get().await.unwrap();
    let sql = "SELECT statement FROM pg_prepared_statements ORDER BY prepare_time, statement";
    let rows = client.query_typed(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_connection_keeps_the_statements_that_were_used_last() {
    let pool = database().await.pool(1);
    let cache = QueryCache::builder().prepared_statements(3).build().await.unwrap();
    let load = async |n: u32| {
        cache.clear().await.unwrap();
        let rows = cache.query(format!("SELECT {n} AS n")).fetch(&pool).await.unwrap();
        assert_eq!(rows.row(0).get::<_, i32>("n"), n as i32);
    };
    for n in [1, 2, 3, 1, 4, 5] {
        load(n).await;
    }
    assert_eq!(kept(&pool).await, ["SELECT 1 AS n", "SELECT 4 AS n", "SELECT 5 AS n"]);
    // A statement that the application keeps is neither counted nor closed.
    let own = pool.get().await.unwrap().prepare_cached("SELECT 'own'").await.unwrap();
    for n in 6..20 {
        load(n).await;
    }
    assert_eq!(kept(&pool).await.len(), 4);
    assert_eq!(pool.get().await.unwrap().query(&own, &[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn ten_thousand_texts_leave_256_statements_and_a_small_backend() {
    let database = database().await;
    let admin = database.connect().await.unwrap();
    let setup = "CREATE TABLE orders (id int PRIMARY KEY, region text, amount numeric);
        INSERT INTO orders SELECT n, 'eu', n FROM generate_series(1, 1000) n; ANALYZE orders";
    admin.batch_execute(setup).await.unwrap();
    let pool = database.pool(1);
    let cache = local().await;
    for n in 1..=10_000 {
        let sql = format!(
            "SELECT region, sum(amount) FROM orders WHERE id IN ({n}, {}, {}) GROUP BY region",
            n + 1,
            n + 2
        );
        cache.query(sql).fetch(&pool).await.unwrap();
    }
    assert_eq!(kept(&pool).await.len(), 256);
    let client = pool.get().await.unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    if let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) {
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib: u64 = line.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 32 << 10, "the backend has {kib} KiB");
    }
}

#[tokio::test]
async fn a_limit_of_zero_keeps_no_statement() {
    let pool = database().await.pool(1);
    let cache = QueryCache::builder().prepared_statements(0).build().await.unwrap();
    for n in 0..10 {
        cache.query(format!("SELECT {n} AS n")).fetch(&pool).await.unwrap();
    }
    assert_eq!(kept(&pool).await, [""; 0]);
}
