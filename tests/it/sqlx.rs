//! Is a pool of sqlx as good a source as one of deadpool?

use std::time::Duration;

use ::sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use ::sqlx::{Executor, Row};
use larder::{ErrorKind, Origin, Rows, TransactionPooling};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::pooling::poison;
use crate::postgres_types::{OF_OWN_TYPES, OWN_TYPES, of_base_types};
use crate::replicas::into_recovery;
use crate::servers::{Database, PgBouncer, Postgres, is_running};
use crate::support::{database, local, until_async};

fn options(database: &Database) -> PgConnectOptions {
    let options: PgConnectOptions = database.url().parse().unwrap();
    // PgBouncer knows only some of the settings that a connection may begin with.
    options.extra_float_digits(None)
}

fn pool(database: &Database, size: u32) -> PgPool {
    PgPoolOptions::new().max_connections(size).connect_lazy_with(options(database))
}

/// As behind a pooler without prepared statements.
fn without_statements(database: &Database, size: u32) -> PgPool {
    let options = options(database).statement_cache_capacity(0);
    PgPoolOptions::new().max_connections(size).connect_lazy_with(options)
}

async fn pid(pool: &PgPool) -> i32 {
    ::sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(pool).await.unwrap()
}

fn assert_same(sql: &str, theirs: &Rows, ours: &Rows) {
    assert_eq!((ours.len(), ours.columns().len()), (theirs.len(), theirs.columns().len()), "{sql}");
    for (ours, theirs) in ours.columns().iter().zip(theirs.columns()) {
        assert_eq!(ours.name(), theirs.name(), "{sql}");
        assert_eq!(ours.type_(), theirs.type_(), "{sql}");
        assert_eq!(ours.type_().kind(), theirs.type_().kind(), "{sql}");
        assert_eq!(ours.table_oid(), theirs.table_oid(), "{sql}");
        assert_eq!(ours.column_id(), theirs.column_id(), "{sql}");
        // sqlx has no type modifiers.
        assert_eq!(ours.type_modifier(), -1, "{sql}");
    }
    for (ours, theirs) in ours.iter().zip(theirs) {
        for column in 0..theirs.len() {
            assert_eq!(ours.raw(column), theirs.raw(column), "{sql}, column {column}");
        }
    }
}

/// What sqlx 0.9 cannot describe: multiranges, and types of PostgreSQL's own affairs, which are also in
/// its catalogs.
const UNKNOWN: &[&str] = &[
    "multirange",
    "pg_node_tree",
    "pg_ndistinct",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_brin_",
    "FROM pg_type",
];

/// Loads the same from a pool of sqlx and by `tokio_postgres`.
async fn same(sql: &str, client: &Client, pool: &PgPool, pooled: &TransactionPooling) {
    let theirs = Rows::query(client, sql, &[]).await.unwrap();
    let cache = local().await;
    let query = cache.query(sql);
    for origin in [Origin::Loaded, Origin::L1] {
        let answer = query.fetch(pool).answer().await.unwrap_or_else(|it| panic!("{sql}: {it}"));
        assert_eq!(answer.origin(), origin, "{sql}");
        assert_same(sql, &theirs, answer.value());
    }
    cache.clear().await;
    // From statements that are there already, and from ones that are not kept.
    assert_same(sql, &theirs, &query.fetch(pool).await.unwrap());
    cache.clear().await;
    assert_same(sql, &theirs, &query.fetch(pooled).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_byte_for_byte_those_of_tokio_postgres() {
    let database = database().await;
    let client = database.connect().await.unwrap();
    let (pool, pooled) = (pool(&database, 1), TransactionPooling::new(pool(&database, 1)));
    let base = of_base_types(&client).await;
    client.batch_execute(OWN_TYPES).await.unwrap();
    for sql in base.iter().map(String::as_str).chain(OF_OWN_TYPES.iter().copied()) {
        if UNKNOWN.iter().any(|unknown| sql.contains(unknown)) {
            // No load of Larder's can do anything about it, but the next one works.
            let error = local().await.query(sql).fetch(&pool).await.unwrap_err();
            assert!(error.to_string().contains("sqlx cannot describe"), "{sql}: {error}");
            continue;
        }
        same(sql, &client, &pool, &pooled).await;
    }
    for sql in [
        "SELECT",
        "SELECT FROM generate_series(1, 5)",
        "SELECT 1 AS a WHERE false",
        "SELECT 1 AS x, 'two' AS x, NULL::int AS \"X\" -- a comment",
        "SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 3000) AS n;",
        "SHOW server_version",
    ] {
        same(sql, &client, &pool, &pooled).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_have_the_types_that_postgresql_gives_them() {
    let database = database().await;
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TYPE mood AS ENUM ('sad', 'ok')").await.unwrap();
    for pool in [pool(&database, 1), without_statements(&database, 1)] {
        let cache = local().await;
        let query = cache.query("SELECT $1::int4 + $2::int4 AS sum, $3::text[] AS texts, $4::mood::text AS mood, $5::jsonb, $6::bytea IS NULL AS is_null");
        let json = serde_json::json!({"a": [1, null]});
        let bound =
            query.bind(1).bind(2).bind(["a", "b,c"]).bind("ok").bind(&json).bind(None::<&[u8]>);
        let rows = bound.fetch(&pool).await.unwrap();
        let row = rows.row(0);
        assert_eq!((row.get::<_, i32>("sum"), row.get::<_, &str>("mood")), (3, "ok"));
        assert_eq!(row.get::<_, Vec<&str>>("texts"), ["a", "b,c"]);
        assert_eq!(row.get::<_, serde_json::Value>("jsonb"), json);
        assert!(row.get::<_, bool>("is_null"));
        // What the program itself runs on the pool is another statement, with sqlx's own types.
        let sql = "SELECT $1::int4 + 1";
        assert_eq!(cache.query(sql).bind(1).fetch_scalar::<i32>(&pool).await.unwrap(), 2);
        let theirs: i32 = ::sqlx::query_scalar(sql).bind(1_i32).fetch_one(&pool).await.unwrap();
        assert_eq!(theirs, 2);
        let sql = "SELECT $1 + 1::int8";
        let theirs: i64 = ::sqlx::query_scalar(sql).bind(1_i64).fetch_one(&pool).await.unwrap();
        assert_eq!(theirs, 2);
        assert_eq!(cache.query(sql).bind(1_i64).fetch_scalar::<i64>(&pool).await.unwrap(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_those_of_tokio_postgres_and_leave_a_usable_connection() {
    let database = database().await;
    let (pool, theirs) = (pool(&database, 1), database.pool(1));
    let cache = local().await;
    let before = pid(&pool).await;
    for sql in [
        "SELEC 1",
        "SELECT * FROM nowhere",
        "SELECT 1/0",
        "SELECT 'hunter2'::int4",
        "SELECT $1::int4",
    ] {
        let query = cache.query(sql).name("top customers");
        let ours = query.fetch(&pool).await.unwrap_err();
        let expected = query.fetch(&theirs).await.unwrap_err();
        assert_eq!((ours.kind(), ours.sqlstate()), (expected.kind(), expected.sqlstate()), "{sql}");
        assert_eq!(ours.to_string(), expected.to_string(), "{sql}");
        assert!(!format!("{ours} {ours:?}").contains("hunter2"));
    }
    let wrong = cache.query("SELECT $1::int4").bind("hunter2").fetch(&pool).await.unwrap_err();
    let shown = wrong.to_string();
    assert!(shown.contains("`int4`") && !shown.contains("hunter2"), "{shown}");
    assert_eq!(pid(&pool).await, before);

    // A function of one's own, with sqlx's errors.
    let wrapped = cache.query("SELECT * FROM nowhere").name("wrapped").wrap_with(
        pool.clone(),
        |pool, sql, (): ()| async move {
            let sql = ::sqlx::AssertSqlSafe(sql);
            ::sqlx::query_scalar::<_, i64>(sql).fetch_one(&pool).await
        },
    );
    let error = wrapped.call(()).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some(&SqlState::UNDEFINED_TABLE));
    let shown = error.to_string();
    assert!(shown.starts_with("the query `wrapped` failed: "), "{shown}");
    assert!(shown.contains("relation \"nowhere\" does not exist"), "{shown}");
    assert!(shown.ends_with("(SQLSTATE 42P01)"), "{shown}");
    let quotes = cache.query("SELECT $1::text::int4").name("quotes");
    let shared = pool.clone();
    let read = quotes.load(|| async move {
        let sql = "SELECT $1::text::int4";
        ::sqlx::query_scalar::<_, i32>(sql).bind("hunter2").fetch_one(&shared).await
    });
    assert_eq!(read.await.unwrap_err().to_string(), "the query `quotes` failed (SQLSTATE 22P02)");

    let negative = cache
        .query("SELECT 1 / $1::int4 AS n")
        .negative_sqlstates(["22012"], Duration::from_secs(60));
    let loads = cache.stats().loads;
    for _ in 0..3 {
        negative.bind(0).fetch(&pool).await.unwrap_err();
    }
    assert_eq!(cache.stats().loads, loads + 1);

    // No connection.
    let options: PgConnectOptions = "postgres://nobody@127.0.0.1:1/none".parse().unwrap();
    let nowhere =
        PgPoolOptions::new().acquire_timeout(Duration::from_secs(2)).connect_lazy_with(options);
    let error = cache.query("SELECT 1").name("top").fetch(&nowhere).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.to_string().starts_with("the query `top` failed: no connection to postgresql"));
}

async fn sleeping(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
               AND state = 'active' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_ends_at_its_deadline_and_postgresql_cancels_it() {
    let database = database().await;
    let (pool, watcher) = (pool(&database, 1), database.connect().await.unwrap());
    let cache = local().await;
    let query = cache.query("SELECT pg_sleep(600)::text").load_deadline(Duration::from_millis(300));
    for scope in ["once", "and once more"] {
        let error = query.clone().scope(scope).fetch(&pool).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline);
        until_async("postgresql has cancelled it", async || sleeping(&watcher).await == 0).await;
    }
    // The pool's only connection is free again, and in no transaction.
    assert_eq!(cache.query("SELECT 1").fetch(&pool).await.unwrap().len(), 1);
    let idle = ::sqlx::raw_sql("SELECT now() = statement_timestamp()").fetch_one(&pool).await;
    assert!(idle.unwrap().get::<bool, _>(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_hits_no_query_but_its_own() {
    let database = database().await;
    let (pool, cache) = (pool(&database, 1), local().await);
    let query = cache.query("SELECT pg_sleep($1)::text").load_deadline(Duration::from_millis(20));
    for number in 0..30 {
        let seconds = 0.0165 + f64::from(number % 15) * 0.0003 + f64::from(number) * 1e-7;
        let _ = query.bind(seconds).fetch(&pool).await;
        pool.execute("SELECT pg_sleep(0.01)").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_and_settings_are_set_for_the_load_and_gone_after_it() {
    let database = database().await;
    let admin = database.connect().await.unwrap();
    let role = format!("app_{}", database.name());
    admin.batch_execute(&format!("CREATE ROLE {role}")).await.unwrap();
    let cache = local().await;
    let pool = pool(&database, 1);
    pool.execute("SET app.tenant = '8'; SET TimeZone = 'Asia/Tokyo'").await.unwrap();
    let query = cache.query("SELECT current_user::text || ' ' || current_setting('app.tenant') || ' ' || current_setting('TimeZone')");
    let read = || {
        let read = query.params(()).as_role(&role);
        read.with_setting("app.tenant", "7").with_setting("TimeZone", "UTC")
    };
    let pooled = TransactionPooling::new(pool.clone());
    assert_eq!(read().fetch_scalar::<String>(&pooled).await.unwrap(), format!("{role} 7 UTC"));
    cache.clear().await;
    assert_eq!(read().fetch_scalar::<String>(&pool).await.unwrap(), format!("{role} 7 UTC"));
    let after: String =
        ::sqlx::query_scalar("SELECT current_user::text || current_setting('app.tenant')")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(after, "postgres8");
    for (query, code, expected) in [
        (query.clone().as_role("nobody at all"), "22023", "there is no such role"),
        (
            query.clone().with_setting("time_zne", "hunter2"),
            "42704",
            "the setting `time_zne` of the query",
        ),
        (
            query.clone().with_setting("app.tenant", "7").with_setting("IntervalStyle", "hunter2"),
            "22023",
            "`IntervalStyle`",
        ),
    ] {
        let error = query.fetch(&pool).await.unwrap_err();
        assert_eq!(error.sqlstate().unwrap().code(), code);
        let shown = error.to_string();
        assert!(shown.contains(expected) && !shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn types_and_tables_may_change() {
    let database = database().await;
    let admin = database.connect().await.unwrap();
    let setup = "CREATE TYPE mood AS ENUM ('sad', 'ok');
                 CREATE TABLE customer (id int, city text, phone text, mood mood);
                 INSERT INTO customer VALUES (1, 'Oslo', '555', 'ok')";
    admin.batch_execute(setup).await.unwrap();
    let cache = local().await;
    let (pool, pooled) = (pool(&database, 1), TransactionPooling::new(pool(&database, 1)));
    for change in [
        "SELECT 1",
        "ALTER TABLE customer ADD COLUMN country text DEFAULT 'NO'",
        "ALTER TABLE customer DROP COLUMN phone, ADD COLUMN fax text DEFAULT '666'",
        "ALTER TABLE customer RENAME COLUMN fax TO telex",
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
        "ALTER TYPE mood RENAME TO temper; CREATE TYPE mood AS ENUM ('ok');
         ALTER TABLE customer ALTER COLUMN mood TYPE mood USING mood::text::mood; DROP TYPE temper",
        "ALTER TABLE customer ALTER COLUMN id TYPE int8",
    ] {
        admin.batch_execute(change).await.unwrap();
        for sql in [
            "SELECT * FROM customer",
            "SELECT c FROM customer c",
            "SELECT ARRAY[c, NULL] AS c FROM customer c",
            "SELECT 'ok'::mood AS mood",
        ] {
            let client = database.connect().await.unwrap();
            let theirs = Rows::query(&client, sql, &[]).await.unwrap();
            let query = cache.query(sql);
            for round in 0..2 {
                cache.clear().await;
                let ours = query
                    .fetch(&pool)
                    .await
                    .unwrap_or_else(|it| panic!("{sql}, {round} after {change}: {it}"));
                assert_same(sql, &theirs, &ours);
                cache.clear().await;
                assert_same(sql, &theirs, &query.fetch(&pooled).await.unwrap());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_pooler_no_result_is_anothers_and_nothing_is_left_behind() {
    let postgres = Postgres::shared().unwrap();
    let direct = postgres.database().await.unwrap();
    let bouncer = PgBouncer::start(postgres, &["default_pool_size=3"]).unwrap();
    let pooled = bouncer.database(direct.name());
    let admin = direct.connect().await.unwrap();
    admin.batch_execute("CREATE TYPE mood AS ENUM ('ours', 'theirs')").await.unwrap();
    // The names that sqlx gives.
    poison(&pooled, "sqlx_s_").await;
    for pool in [pool(&pooled, 8), without_statements(&pooled, 8)] {
        let cache = local().await;
        let source = TransactionPooling::new(pool);
        let query = cache.query("SELECT $1::int8 AS n, 'ours'::mood AS whose");
        let tasks = (0..8_i64).map(|task| {
            let (query, source) = (query.clone(), source.clone());
            tokio::spawn(async move {
                for n in 0..20 {
                    let rows = query.bind(task * 1_000 + n).fetch(&source).await.unwrap();
                    let row = rows.row(0);
                    assert_eq!(row.get::<_, i64>("n"), task * 1_000 + n);
                    assert_eq!(row.raw(1), Some(&b"ours"[..]));
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(cache.stats().loads, 160);
        let slow =
            cache.query("SELECT pg_sleep(60)::text").load_deadline(Duration::from_millis(200));
        assert_eq!(slow.fetch(&source).await.unwrap_err().kind(), ErrorKind::Deadline);
        until_async("the query has ended", async || sleeping(&admin).await == 0).await;
        assert!(is_running(bouncer.pid()));
        let error = cache.query("SELECT 1 / 0").fetch(&source).await.unwrap_err();
        assert_eq!(error.sqlstate().unwrap().code(), "22012");
        assert_eq!(cache.query("SELECT 1").fetch_scalar::<i32>(&source).await.unwrap(), 1);
    }
    let mut holders = vec![];
    for _ in 0..3 {
        let holder = pooled.connect().await.unwrap();
        holder.batch_execute("BEGIN").await.unwrap();
        let left = r"SELECT count(*) FROM pg_prepared_statements
            WHERE statement LIKE '%mood%' AND name NOT LIKE 'PGBOUNCER\_%'";
        let left = holder.query_typed(left, &[]).await.unwrap();
        assert_eq!(left[0].get::<_, i64>(0), 0);
        holders.push(holder);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_kept_once_per_query_and_none_where_sqlx_keeps_none() {
    let database = database().await;
    let (kept, bare) = (pool(&database, 1), without_statements(&database, 1));
    let cache = local().await;
    let left = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%larder%'";
    for (pool, expected) in [(&kept, 1), (&bare, 0)] {
        for n in 0..5 {
            assert_eq!(cache.query("SELECT $1::int4").bind(n).fetch(pool).await.unwrap().len(), 1);
        }
        cache.query("SELECT 1/0").fetch(pool).await.unwrap_err();
        let left: i64 = ::sqlx::query_scalar(left).persistent(false).fetch_one(pool).await.unwrap();
        assert!((expected..=expected + 1).contains(&left), "{left} for {expected}");
        cache.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_in_recovery_gives_is_answered_and_not_stored() {
    let mut server = Postgres::start().unwrap();
    let database = server.database().await.unwrap();
    into_recovery(&mut server);
    let (pool, cache) = (pool(&database, 1), local().await);
    let query = cache.query("SELECT 250 AS cents");
    for unstorable in 1..=2 {
        let answer = query.fetch(&pool).answer().await.unwrap();
        assert_eq!(
            (answer.value().row(0).get::<_, i32>(0), answer.origin()),
            (250, Origin::Loaded)
        );
        assert_eq!(cache.stats().unstorable, unstorable);
    }
    pool.execute("SELECT pg_promote()").await.unwrap();
    until_async("results are stored", async || {
        query.fetch(&pool).answer().await.unwrap().origin() == Origin::L1
    })
    .await;
}

/// The recipe for sqlx's own types.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_with_query_as_is_wrapped_with_its_pool() {
    let pool = pool(&database().await, 2);
    let cache = local().await;
    let lines = cache.query("SELECT n, n::text FROM generate_series(1, $1::int4) AS n").wrap_with(
        pool,
        |pool, sql, (count,): (i32,)| async move {
            let query = ::sqlx::query_as::<_, (i32, String)>(::sqlx::AssertSqlSafe(sql));
            query.bind(count).fetch_all(&pool).await
        },
    );
    assert_eq!(*lines.call((2,)).await.unwrap(), [(1, "1".to_owned()), (2, "2".to_owned())]);
    assert_eq!(lines.call((2,)).answer().await.unwrap().origin(), Origin::L1);
}
