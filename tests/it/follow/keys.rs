//! Results that depend on some rows only: whatever is written, none that is served lacks it; and what other
//! rows do leaves it as it is.

use std::collections::BTreeMap;

use deadpool_postgres::Pool;
use fastrand::Rng;

use larder::{Origin, Query, QueryCache};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::{database, following, wholesale};
use crate::support::until_async;

const SCHEMA: &str = "
    CREATE TABLE users (id int PRIMARY KEY, org int NOT NULL, name text);
    CREATE TABLE orders (id int PRIMARY KEY, org int NOT NULL, user_id int, amount int, status varchar(9));
    ALTER TABLE orders REPLICA IDENTITY FULL;
    CREATE TABLE items (id int NOT NULL, org int NOT NULL, order_id int NOT NULL, qty int);
    CREATE UNIQUE INDEX by_order ON items (order_id, id); ALTER TABLE items REPLICA IDENTITY USING INDEX by_order;
    CREATE TABLE ev (id int, user_id int NOT NULL, v int) PARTITION BY HASH (user_id);
    CREATE TABLE ev0 PARTITION OF ev FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE ev1 PARTITION OF ev FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    ALTER TABLE ev0 REPLICA IDENTITY FULL; ALTER TABLE ev1 REPLICA IDENTITY FULL;
    CREATE VIEW big_orders AS SELECT * FROM orders WHERE amount > 50;
    CREATE VIEW totals AS SELECT user_id, count(*) n, sum(amount) s FROM orders GROUP BY user_id;
    CREATE INDEX ON orders (user_id); CREATE INDEX ON items (order_id);
    INSERT INTO users SELECT i, i % 4, 'u' || i FROM generate_series(1, 20) i;
    INSERT INTO orders SELECT i, (i * 7) % 4, i % 20 + 1, (i * 37) % 100,
      (ARRAY['open', 'paid', 'sent'])[i % 3 + 1] FROM generate_series(1, 100) i;
    INSERT INTO items SELECT i, (i * 3) % 4, i % 100 + 1, i % 9 FROM generate_series(1, 250) i;
    INSERT INTO ev SELECT i, i % 20 + 1, i FROM generate_series(1, 100) i; ANALYZE;";

/// What a query is given: an int, two, an int and a text, a list, a bigint, nothing.
#[derive(Debug, Clone, Copy)]
enum Given {
    Int,
    Ints,
    IntText,
    List,
    Big,
    Nothing,
}
use Given::{Big, Int, IntText, Ints, List, Nothing};

/// Queries, and what they depend on besides whole tables; behind `17:` from PostgreSQL 17 on.
const SHAPES: &[(&str, Given, &[&str])] = &[
    ("SELECT * FROM users WHERE id = $1", Int, &["users[id = $1]"]),
    ("SELECT count(*), sum(amount) FROM orders WHERE user_id = $1", Int, &["orders[user_id = $1]"]),
    (
        "SELECT * FROM orders WHERE user_id = $1 AND status = $2 AND amount > 10",
        IntText,
        &["orders[status = $2]|orders[user_id = $1]"],
    ),
    (
        "SELECT * FROM orders WHERE user_id = $1 AND amount BETWEEN $2 AND $2 + 30",
        Ints,
        &["orders[user_id = $1]"],
    ),
    ("SELECT * FROM orders WHERE user_id = $1 OR status = $2", IntText, &[]),
    ("SELECT count(*) FROM orders WHERE NOT (user_id = $1)", Int, &[]),
    ("SELECT count(*) FROM orders WHERE user_id + 0 = $1", Int, &[]),
    ("SELECT * FROM orders WHERE user_id IN ($1, $2)", Ints, &[]),
    ("SELECT * FROM orders WHERE user_id = ANY ($1)", List, &[]),
    (
        "SELECT u.name, o.* FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = $1",
        Int,
        &["orders[user_id = $1]", "users[id = $1]"],
    ),
    (
        "SELECT u.name, count(o.id) FROM users u LEFT JOIN orders o ON o.user_id = u.id WHERE u.id = $1 GROUP BY u.name",
        Int,
        &["orders[user_id = $1]", "users[id = $1]"],
    ),
    (
        "SELECT sum(i.qty) FROM users u JOIN orders o ON o.user_id = u.id JOIN items i ON i.order_id = o.id WHERE u.id = $1",
        Int,
        &["orders[user_id = $1]", "users[id = $1]"],
    ),
    (
        "SELECT sum(i.qty) FROM orders o JOIN items i ON i.order_id = o.id WHERE o.id = $1",
        Int,
        &["items[order_id = $1]", "orders[id = $1]"],
    ),
    // The organisation is no part of these replica identities.
    ("SELECT * FROM users WHERE org = $1", Int, &[]),
    (
        "SELECT sum(i.qty) FROM orders o JOIN items i ON i.order_id = o.id AND i.org = o.org WHERE o.org = $1",
        Int,
        &["orders[org = $1]"],
    ),
    (
        "SELECT * FROM users u WHERE u.id = $1 AND NOT EXISTS (SELECT FROM orders o WHERE o.user_id = u.id AND o.amount > 90)",
        Int,
        &["orders[user_id = $1]", "users[id = $1]"],
    ),
    ("SELECT * FROM big_orders WHERE user_id = $1", Int, &["orders[user_id = $1]"]),
    ("SELECT * FROM totals WHERE user_id = $1", Int, &["orders[user_id = $1]"]),
    (
        "SELECT * FROM (SELECT id, user_id, rank() OVER (ORDER BY amount, id) r FROM orders) x WHERE user_id = $1",
        Int,
        &[],
    ),
    (
        "SELECT * FROM (SELECT id, user_id, rank() OVER (PARTITION BY user_id ORDER BY amount, id) r FROM orders) x WHERE user_id = $1",
        Int,
        &["orders[user_id = $1]"],
    ),
    (
        "SELECT id FROM orders WHERE user_id = $1 UNION ALL SELECT id FROM orders WHERE user_id = $2",
        Ints,
        &["orders[user_id = $1]", "orders[user_id = $2]"],
    ),
    (
        "SELECT count(*) FROM orders WHERE user_id = $1 AND amount > (SELECT avg(amount) FROM orders)",
        Int,
        &[],
    ),
    ("SELECT max(amount) FROM orders WHERE user_id = $1", Int, &["orders[user_id = $1]"]),
    ("SELECT min(id), max(id) FROM orders WHERE org = $1", Int, &["17: orders[org = $1]"]),
    // The value of the subquery is written as a parameter by some versions.
    (
        "SELECT id FROM orders WHERE user_id = (SELECT max(id) % 20 FROM users WHERE id <> $1)",
        Int,
        &[],
    ),
    (
        "SELECT id FROM orders WHERE amount > (SELECT min(org) FROM users WHERE id < $1) AND user_id = (SELECT max(id) % 20 FROM users)",
        Int,
        &[],
    ),
    (
        "SELECT count(*) FROM orders a JOIN orders b ON a.amount = b.amount WHERE a.user_id = $1",
        Int,
        &[],
    ),
    ("WITH x AS MATERIALIZED (SELECT * FROM orders) SELECT * FROM x WHERE user_id = $1", Int, &[]),
    (
        "WITH x AS (SELECT * FROM orders) SELECT * FROM x WHERE user_id = $1",
        Int,
        &["orders[user_id = $1]"],
    ),
    (
        "SELECT * FROM orders WHERE user_id = $1 ORDER BY amount DESC, id LIMIT 2",
        Int,
        &["orders[user_id = $1]"],
    ),
    (
        "SELECT DISTINCT ON (status) * FROM orders WHERE user_id = $1 ORDER BY status, amount, id",
        Int,
        &["orders[user_id = $1]"],
    ),
    (
        "SELECT u.id, x.id AS x FROM users u, LATERAL (SELECT id FROM orders o WHERE o.user_id = u.id ORDER BY amount, id LIMIT 1) x WHERE u.id = $1",
        Int,
        &["users[id = $1]"],
    ),
    ("SELECT count(*), sum(v) FROM ev WHERE user_id = $1", Int, &["ev[user_id = $1]"]),
    ("SELECT count(*), sum(v) FROM ev0 WHERE user_id = $1", Int, &["ev0[user_id = $1]"]),
    (
        "SELECT count(*) FROM users u JOIN ev ON ev.user_id = u.id WHERE u.id = $1",
        Int,
        &["ev[user_id = $1]", "users[id = $1]"],
    ),
    (
        "SELECT count(*) FROM (SELECT * FROM users WHERE id = $1) u FULL JOIN (SELECT * FROM orders WHERE user_id = $1) o ON o.user_id = u.id",
        Int,
        &["orders[user_id = $1]", "users[id = $1]"],
    ),
    ("SELECT count(*) FROM orders WHERE status = 'open'", Nothing, &["orders[status = \"open\"]"]),
    (
        "SELECT count(*) FROM orders WHERE user_id = 7 AND status = 'open'",
        Nothing,
        &["orders[status = \"open\"]|orders[user_id = \"7\"]"],
    ),
    ("SELECT count(*) FROM orders WHERE user_id = $1::bigint", Big, &["orders[user_id = $1]"]),
    // Other names for columns.
    ("SELECT count(*) FROM orders AS o (user_id, org, id) WHERE user_id = $1", Int, &[]),
    (
        "SELECT count(*) FROM (SELECT user_id AS id, id AS user_id FROM orders) o WHERE user_id = $1",
        Int,
        &["orders[id = $1]"],
    ),
    (
        "SELECT count(*) FROM orders WHERE user_id = $1 AND user_id IS NOT NULL",
        Int,
        &["orders[user_id = $1]"],
    ),
    (
        "SELECT (SELECT count(*) FROM orders WHERE user_id = u.id) FROM users u WHERE id = $1",
        Int,
        &["17: users[id = $1]"],
    ),
];

/// One row with one text, whatever the rows are.
pub(super) fn as_text(sql: &str) -> String {
    format!(
        "SELECT coalesce(string_agg(row_to_json(every)::text, ' ' ORDER BY row_to_json(every)::text), '') FROM ({sql}) every"
    )
}

/// A cached result.
struct Kept {
    query: Query,
    sql: String,
    given: Given,
    values: (i32, i32, &'static str),
}

impl Kept {
    /// What the cache serves, and where from; and what PostgreSQL says.
    async fn read(&self, pool: &Pool, client: &Client) -> (String, Origin, String) {
        let (a, b, text) = self.values;
        let (both, list, big) = ([a, b], vec![a, b], i64::from(a));
        match self.given {
            Int => self.ask(pool, client, self.query.bind(a), &[&a]).await,
            Ints => self.ask(pool, client, self.query.bind(both[0]).bind(both[1]), &[&a, &b]).await,
            IntText => self.ask(pool, client, self.query.bind(a).bind(text), &[&a, &text]).await,
            List => self.ask(pool, client, self.query.bind(&list), &[&list]).await,
            Big => self.ask(pool, client, self.query.bind(big), &[&big]).await,
            Nothing => self.ask(pool, client, self.query.params(()), &[]).await,
        }
    }

    async fn ask<P: larder::params::SqlParams>(
        &self,
        pool: &Pool,
        client: &Client,
        bound: larder::Bound<'_, P>,
        params: &[&(dyn ToSql + Sync)],
    ) -> (String, Origin, String) {
        let answer = bound.fetch(pool).answer().await.unwrap();
        let served: String = answer.value().row(0).get(0);
        let truth = client.query_one(&self.sql, params).await.unwrap().get(0);
        (served, answer.origin(), truth)
    }
}

const STATUS: [&str; 3] = ["open", "paid", "sent"];

/// A change of some row, or of a few.
fn change(random: &mut Rng, next: &mut i32) -> String {
    let table = *random.choice(&["users", "orders", "orders", "items", "ev"]).unwrap();
    *next += 1;
    let (id, user, org) = (*next, random.i32(1..21), random.i32(0..4));
    let (amount, status) = (random.i32(0..100), STATUS[random.usize(0..3)]);
    // Several rows at times.
    let some = format!(
        "id IN (SELECT id FROM {table} ORDER BY id OFFSET {} LIMIT {})",
        random.i32(0..90),
        1 + random.i32(0..8) / 6
    );
    match (random.u32(0..20), table) {
        (0..6, "users") => format!("INSERT INTO users VALUES ({id}, {org}, 'n{id}')"),
        (0..6, "orders") => {
            format!("INSERT INTO orders VALUES ({id}, {org}, {user}, {amount}, '{status}')")
        }
        (0..6, "items") => {
            format!("INSERT INTO items VALUES ({id}, {org}, {}, {amount})", random.i32(1..101))
        }
        (0..6, _) => format!("INSERT INTO ev VALUES ({id}, {user}, {amount})"),
        (6..10, table) => format!("DELETE FROM {table} WHERE {some}"),
        // The key of a row, which no other one has had.
        (10, table) => format!("UPDATE {table} SET id = id + 100000 WHERE {some} AND id < 100000"),
        (11, "orders") => format!("UPDATE orders SET user_id = NULL WHERE {some}"),
        (12, "users") => format!("UPDATE users SET name = name || 'x' WHERE {some}"),
        (_, "users") => format!("UPDATE users SET org = {org} WHERE {some}"),
        (12..15, "orders") => format!("UPDATE orders SET user_id = {user} WHERE {some}"),
        (15..17, "orders") => format!("UPDATE orders SET status = '{status}' WHERE {some}"),
        (_, "orders") => format!("UPDATE orders SET amount = {amount}, org = {org} WHERE {some}"),
        (12..16, "items") => {
            format!("UPDATE items SET order_id = {} WHERE {some}", random.i32(1..101))
        }
        (_, "items") => format!("UPDATE items SET qty = {amount} WHERE {some}"),
        // From one partition to the other.
        (12..15, _) => format!("UPDATE ev SET user_id = {user} WHERE {some}"),
        (_, _) => format!("UPDATE ev SET v = {amount} WHERE {some}"),
    }
}

fn kept(cache: &QueryCache, random: &mut Rng, of_each: usize) -> Vec<Kept> {
    let of = |&(sql, given, _): &(&str, Given, _)| {
        let sql = as_text(sql);
        (0..of_each)
            .map(|_| Kept {
                query: cache.query(&*sql).auto(),
                sql: sql.clone(),
                given,
                values: (random.i32(1..21), random.i32(1..21), STATUS[random.usize(0..3)]),
            })
            .collect::<Vec<_>>()
    };
    SHAPES.iter().flat_map(of).collect()
}

/// `LARDER_CHANGES=900` for a hundred thousand checks.
#[tokio::test]
async fn no_change_of_any_row_is_missed_and_most_leave_most_results_as_they_are() {
    let changes = std::env::var("LARDER_CHANGES").map_or(40, |changes| changes.parse().unwrap());
    let seed = fastrand::u64(..);
    let (mut random, mut next) = (Rng::with_seed(seed), 1_000);
    let (database, client) = database(SCHEMA).await;
    let (cache, pool) = (following(&database).await, database.pool(2));
    let all = kept(&cache, &mut random, 3);
    for kept in &all {
        let (served, _, truth) = kept.read(&pool, &client).await;
        assert_eq!(served, truth, "{}", kept.sql);
    }
    let gaps = wholesale(&super::stats(&cache));
    let (mut truths, mut stale, mut changed) = (BTreeMap::new(), 0, 0);
    for number in 0..changes {
        let sql = change(&mut random, &mut next);
        client.batch_execute(&sql).await.unwrap();
        cache.caught_up().await.unwrap();
        for (at, kept) in all.iter().enumerate() {
            let (served, origin, truth) = kept.read(&pool, &client).await;
            let at_fault = || {
                let (sql_of, values) = (&kept.sql, kept.values);
                format!("seed {seed}, change {number}: {sql}\n{sql_of}\n{values:?}, {origin:?}")
            };
            assert_eq!(served, truth, "{}", at_fault());
            stale += u64::from(origin == Origin::Loaded);
            changed += u64::from(truths.insert(at, truth.clone()).is_some_and(|it| it != truth));
        }
    }
    let checks = u64::try_from(all.len()).unwrap() * changes;
    println!("seed {seed}: {checks} checks, {stale} stale, {changed} had changed");
    assert!(stale >= changed && changed > 0);
    assert!(stale * 2 < checks, "{stale} of {checks}");
    assert_eq!(wholesale(&super::stats(&cache)), gaps);
}

#[tokio::test]
async fn what_is_read_by_a_key_is_said_and_everything_else_depends_on_all_rows() {
    let (database, client) = database(SCHEMA).await;
    let (cache, pool) = (following(&database).await, database.pool(1));
    let version = "SELECT current_setting('server_version_num')::int";
    let names_subqueries =
        client.query_one(version, &[]).await.unwrap().get::<_, i32>(0) >= 170_000;
    for (sql, _, expected) in SHAPES {
        let expected: Vec<&str> = expected
            .iter()
            .filter_map(|it| match it.strip_prefix("17: ") {
                Some(later) => names_subqueries.then_some(later),
                None => Some(it),
            })
            .collect();
        let found = cache.query(as_text(sql)).dependencies(&pool).await.unwrap();
        assert!(found.unfollowed.is_empty(), "{sql}: {found:?}");
        let keyed: Vec<&str> =
            found.keys.iter().map(|it| it.trim_start_matches("public.")).collect();
        let is_one = |(found, expected): (&&str, &&str)| expected.split('|').any(|it| it == *found);
        let same = keyed.len() == expected.len() && keyed.iter().zip(&expected).all(is_one);
        assert!(same, "{sql}: {keyed:?} and not {expected:?}");
    }
    // Parameters are in no statistics, which go to Redis.
    let secret = cache.query("SELECT 1 FROM orders WHERE status = $1").auto().name("by status");
    secret.bind("secret").fetch(&pool).await.unwrap();
    let stats = cache.query_stats();
    let tags = &stats.iter().find(|stats| stats.name == "by status").unwrap().tags;
    assert_eq!(*tags, ["public.orders[*]"]);
    // One that is not told of rows reports them, and depends on all.
    let alone = crate::support::local().await;
    let query = alone.query("SELECT * FROM users WHERE id = $1").auto();
    let found = query.dependencies(&pool).await.unwrap();
    assert_eq!(found.keys, ["public.users[id = $1]"]);
    let origin = async || query.bind(7_i32).fetch(&pool).answer().await.unwrap().origin();
    assert_eq!((origin().await, origin().await), (Origin::Loaded, Origin::L1));
    alone.invalidate(["public.users"]).await;
    assert_eq!(origin().await, Origin::Loaded);
}

#[tokio::test]
async fn whatever_is_not_a_change_of_known_rows_makes_results_of_keys_stale_as_well() {
    let (database, client) = database(SCHEMA).await;
    let (cache, pool) = (following(&database).await, database.pool(2));
    let query = cache.query("SELECT count(*) FROM users WHERE id = $1").auto();
    let origin = async || query.bind(7_i32).fetch(&pool).answer().await.unwrap().origin();
    assert_eq!((origin().await, origin().await), (Origin::Loaded, Origin::L1));
    client.batch_execute("UPDATE users SET name = 'x' WHERE id <> 7").await.unwrap();
    client.batch_execute("INSERT INTO users VALUES (1000, 1, 'x')").await.unwrap();
    cache.caught_up().await.unwrap();
    assert_eq!(origin().await, Origin::L1);
    // By this process.
    let write = "UPDATE users SET name = 'y' WHERE id = 8";
    let written =
        cache.write(&pool, async |tx| tx.batch_execute(write).await.map_err(larder::Error::from));
    written.await.unwrap();
    assert_eq!(origin().await, Origin::Loaded);
    cache.caught_up().await.unwrap();
    origin().await;
    for by_hand in ["users", "public.users", "USERS"] {
        assert_eq!(origin().await, Origin::L1);
        cache.invalidate_table(by_hand).await;
        assert_eq!(origin().await, Origin::Loaded);
        cache.invalidate([by_hand]).await;
        assert_eq!(origin().await, Origin::Loaded, "{by_hand}");
    }
    for sql in [
        "TRUNCATE users CASCADE",
        "ALTER TABLE users ADD COLUMN more int",
        "INSERT INTO users SELECT n, 1 FROM generate_series(2000, 3500) n",
        "COPY users (id, org) FROM PROGRAM 'echo 7 1' (DELIMITER ' ')",
    ] {
        // The load that finds a new definition is not stored.
        until_async("it is cached", async || origin().await == Origin::L1).await;
        client.batch_execute(sql).await.unwrap();
        cache.caught_up().await.unwrap();
        assert_eq!(origin().await, Origin::Loaded, "{sql}");
    }
}

#[tokio::test]
async fn whatever_a_value_is_it_is_the_same_in_a_query_and_in_the_log() {
    let (database, client) = database(
        "CREATE TABLE \"Odd, \"\"t: \" (\"Ke y\" text, code varchar(40), u uuid, big bigint, v int);
         ALTER TABLE \"Odd, \"\"t: \" REPLICA IDENTITY FULL",
    )
    .await;
    let (cache, pool) = (following(&database).await, database.pool(1));
    let of = |by: &str| {
        let sql = format!("SELECT coalesce(max(v), 0) FROM \"Odd, \"\"t: \" WHERE {by}");
        cache.query(sql).auto()
    };
    let by_text = of("\"Ke y\" = $1 AND code = $2");
    let (by_code, by_uuid, by_big) =
        (of("code = $1"), of("u = $1::text::uuid AND big = $2"), of("big = $1"));
    let long = "x".repeat(300);
    let texts = [
        "",
        " ",
        "a",
        "A",
        "it's",
        "a''b",
        "\\",
        "\\'",
        "ä€😀",
        "a\nb",
        "'",
        "]:'",
        "null",
        "7",
        &long,
    ];
    let mut v = 0;
    for (at, text) in texts.into_iter().enumerate() {
        let code: String = text.chars().take(40).collect();
        let big = [i64::MIN, i64::MAX, 0, -1, 42][at % 5];
        for _ in 0..2 {
            let read = async || {
                let by_text = by_text.bind(text).bind(&*code).fetch_scalar::<i32>(&pool);
                let by_code = by_code.bind(&*code).fetch_scalar::<i32>(&pool);
                let by_big = by_big.bind(big).fetch_scalar::<i32>(&pool);
                let uuid = format!("00000000-0000-0000-0000-{at:012x}");
                let by_uuid = by_uuid.bind(uuid).bind(big).fetch_scalar::<i32>(&pool);
                let all = (by_text.await, by_code.await, by_big.await, by_uuid.await);
                [all.0.unwrap(), all.1.unwrap(), all.2.unwrap(), all.3.unwrap()]
            };
            read().await;
            v += 1;
            let sql = format!(
                "INSERT INTO \"Odd, \"\"t: \" VALUES ($1, $2, '00000000-0000-0000-0000-{at:012x}', $3, $4)"
            );
            client.execute(&*sql, &[&text, &code, &big, &v]).await.unwrap();
            cache.caught_up().await.unwrap();
            assert_eq!(read().await, [v; 4], "{text:?}");
            let sql = "DELETE FROM \"Odd, \"\"t: \" WHERE v = $1";
            client.execute(sql, &[&v]).await.unwrap();
            cache.caught_up().await.unwrap();
            assert!(!read().await.contains(&v), "{text:?}");
        }
    }
}
