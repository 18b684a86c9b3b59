//! Queries that learn what they depend on, in a cache that follows the database: not one tag.

use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use larder::{Origin, Query};
use tokio_postgres::Client;

use super::{database, following};

const SCHEMA: &str = "
    CREATE TABLE users (id int PRIMARY KEY, name text);
    CREATE TABLE orders (id serial PRIMARY KEY, user_id int, amount int);
    CREATE TABLE extra (amount int);
    CREATE TABLE apart (id int);
    CREATE UNLOGGED TABLE scratch (id int);
    CREATE VIEW spent AS SELECT user_id, sum(amount)::int8 AS total FROM orders GROUP BY 1;
    CREATE FUNCTION total_of(who int) RETURNS int8 LANGUAGE sql STABLE
        AS 'SELECT total FROM spent WHERE user_id = who';
    INSERT INTO users VALUES (1, 'a');
    INSERT INTO orders (user_id, amount) VALUES (1, 10);";

async fn read(query: &Query, pool: &Pool) -> (i64, Origin) {
    let answer = query.bind(1_i32).fetch(pool).answer().await.unwrap();
    (answer.value().row(0).get::<_, i64>(0), answer.origin())
}

/// Waits until a query returns this. It fails only after a time in which any change is known.
async fn becomes(query: &Query, pool: &Pool, wanted: i64) {
    let begun = Instant::now();
    loop {
        let (value, _) = read(query, pool).await;
        if value == wanted {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{value} and not {wanted}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn what_anybody_writes_reaches_queries_that_name_no_table() {
    let (database, client) = database(SCHEMA).await;
    let (cache, pool) = (following(&database).await, database.pool(2));
    let by_view = cache
        .query("SELECT s.total FROM users u JOIN spent s ON s.user_id = u.id WHERE u.id = $1")
        .auto();
    let by_function = cache.query("SELECT total_of($1)").auto();
    for query in [&by_view, &by_function] {
        assert_eq!(read(query, &pool).await, (10, Origin::Loaded));
        assert_eq!(read(query, &pool).await, (10, Origin::L1));
    }
    run(&client, "INSERT INTO apart VALUES (1); ANALYZE orders").await;
    cache.caught_up().await.unwrap();
    for query in [&by_view, &by_function] {
        assert_eq!(read(query, &pool).await, (10, Origin::L1), "nothing that it reads has changed");
    }
    run(&client, "INSERT INTO orders (user_id, amount) VALUES (1, 5)").await;
    cache.caught_up().await.unwrap();
    for query in [&by_view, &by_function] {
        assert_eq!(read(query, &pool).await, (15, Origin::Loaded));
        assert_eq!(read(query, &pool).await, (15, Origin::L1));
    }
    // Only one of the two reads the users.
    run(&client, "UPDATE users SET name = 'b'").await;
    cache.caught_up().await.unwrap();
    assert_eq!(read(&by_view, &pool).await, (15, Origin::Loaded));
    assert_eq!(read(&by_function, &pool).await, (15, Origin::L1));
}

#[tokio::test]
async fn what_others_define_anew_is_learned_anew() {
    let (database, client) = database(SCHEMA).await;
    let (cache, pool) = (following(&database).await, database.pool(2));
    let by_view = cache.query("SELECT total FROM spent WHERE user_id = $1").auto();
    let by_function = cache.query("SELECT total_of($1)").auto();
    for query in [&by_view, &by_function] {
        assert_eq!(read(query, &pool).await, (10, Origin::Loaded));
    }
    // They read one more table from now on.
    run(
        &client,
        "CREATE OR REPLACE VIEW spent AS
           SELECT user_id, sum(amount)::int8 + (SELECT count(*) FROM extra) AS total
           FROM orders GROUP BY 1;
         INSERT INTO extra VALUES (1);",
    )
    .await;
    for query in [&by_view, &by_function] {
        becomes(query, &pool, 11).await;
    }
    run(&client, "INSERT INTO extra VALUES (1)").await;
    for query in [&by_view, &by_function] {
        becomes(query, &pool, 12).await;
    }
    run(
        &client,
        "CREATE OR REPLACE FUNCTION total_of(who int) RETURNS int8 LANGUAGE sql STABLE
           AS 'SELECT count(*) + who * 0 FROM apart'",
    )
    .await;
    becomes(&by_function, &pool, 0).await;
    run(&client, "INSERT INTO apart VALUES (1)").await;
    becomes(&by_function, &pool, 1).await;
}

#[tokio::test]
async fn what_no_log_shows_is_not_stored_and_another_database_is_not_followed() {
    let (database, client) = database(SCHEMA).await;
    let (cache, pool) = (following(&database).await, database.pool(2));
    let unlogged = cache.query("SELECT count(*) + $1 * 0 FROM scratch").auto();
    for rows in 0..3 {
        assert_eq!(read(&unlogged, &pool).await, (rows, Origin::Loaded));
        run(&client, "INSERT INTO scratch VALUES (1)").await;
    }
    let (other, _client) = super::database(SCHEMA).await;
    let elsewhere = other.pool(2);
    let query = cache.query("SELECT total FROM spent WHERE user_id = $1").auto().name("elsewhere");
    for _ in 0..2 {
        assert_eq!(read(&query, &elsewhere).await, (10, Origin::Loaded));
    }
    let stats = cache.query_stats();
    let of_query = stats.iter().find(|stats| stats.name == "elsewhere").unwrap();
    let because = of_query.unfollowed_because.as_deref().unwrap_or_default();
    assert!(because.contains("and the cache follows"), "{because}");
}
