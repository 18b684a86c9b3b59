//! Are the rows that are stored those of the role and the settings that were given?

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use deadpool_postgres::Pool;
use larder::params::{KeyEncoder, Param, SqlParam};
use larder::{ErrorKind, Origin, Query, QueryCache, Source, TlsPool, TransactionPooling};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Mutex;
use tokio_postgres::NoTls;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::servers::{Database, PgBouncer, Postgres};
use crate::support::{database, local, until_async};

mod refused;

const SQL: &str = "SELECT tenant FROM invoices ORDER BY id";

/// Invoices of 100 tenants. Who may see which is decided by `app.tenant` for the role `app`, and by the
/// role for the roles `tenant_7` and `tenant_8`. Roles are those of the whole server, so their names
/// end with that of the database.
struct Shop {
    database: Database,
    app: String,
    tenants: [String; 2],
    /// A user that may be each of them.
    user: String,
}

impl Shop {
    async fn new() -> Shop {
        Shop::within(database().await).await
    }

    async fn within(database: Database) -> Shop {
        let name = database.name();
        let role = |it: &str| format!("{it}_{name}");
        let shop = Shop {
            app: role("app"),
            tenants: [role("tenant_7"), role("tenant_8")],
            user: role("web"),
            database: database.clone(),
        };
        let Shop { app, tenants: [seven, eight], user, .. } = &shop;
        let setup = format!(
            "CREATE ROLE {app}; CREATE ROLE {seven}; CREATE ROLE {eight};
             CREATE ROLE {user} LOGIN NOINHERIT IN ROLE {app}, {seven}, {eight};
             CREATE TABLE invoices (id int PRIMARY KEY, tenant int);
             INSERT INTO invoices SELECT n, n % 100 FROM generate_series(0, 299) AS n;
             ALTER TABLE invoices ENABLE ROW LEVEL SECURITY;
             GRANT SELECT ON invoices TO {app}, {seven}, {eight};
             CREATE POLICY by_setting ON invoices TO {app}
               USING (tenant = nullif(current_setting('app.tenant', true), '')::int);
             CREATE POLICY seven ON invoices TO {seven} USING (tenant = 7);
             CREATE POLICY eight ON invoices TO {eight} USING (tenant = 8)"
        );
        database.connect().await.unwrap().batch_execute(&setup).await.unwrap();
        shop
    }

    /// The same database, as the user that may be each role.
    fn web(&self) -> Database {
        self.database.as_role(&self.user)
    }
}

/// Loads anew, and returns the tenants of all rows, without repetitions.
async fn tenants_of(cache: &QueryCache, query: &Query, source: &impl Source) -> Vec<i32> {
    cache.clear().await.acknowledged().unwrap();
    tenants(query.fetch(source).await.unwrap())
}

fn tenants(rows: larder::Rows) -> Vec<i32> {
    let mut tenants: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    tenants.dedup();
    tenants
}

async fn run(pool: &Pool, sql: &str) {
    pool.get().await.unwrap().batch_execute(sql).await.unwrap();
}

/// What a connection's next user would find.
async fn state(pool: &Pool) -> [String; 6] {
    let sql = "SELECT current_user::text, session_user::text, current_setting('role'),
        coalesce(current_setting('app.tenant', true), ''), current_setting('TimeZone'),
        CASE WHEN now() = statement_timestamp() THEN 'idle' ELSE 'in a transaction' END";
    let client = pool.get().await.unwrap();
    let rows = client.query_typed(sql, &[]).await.unwrap();
    std::array::from_fn(|at| rows[0].get(at))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_left_on_the_connection_does_not_decide_whose_rows_are_stored() {
    let shop = Shop::new().await;
    let Shop { app, tenants: [seven, eight], .. } = &shop;
    let cache = local().await;
    let by_setting =
        |tenant: &str| cache.query(SQL).as_role(app).with_setting("app.tenant", tenant);
    let by_role = |role: &String| cache.query(SQL).as_role(role);
    for (database, foreign) in [
        (shop.web(), "SET app.tenant = '8'".to_owned()),
        (shop.web(), "SET app.tenant = ''".to_owned()),
        (shop.web(), format!("SET ROLE {eight}")),
        (shop.web(), format!("SET ROLE {app}; SET app.tenant = '8'")),
        // The superuser's own connection, who sees all rows.
        (shop.database.clone(), format!("SET SESSION AUTHORIZATION {}", shop.user)),
        (shop.database.clone(), format!("SET SESSION AUTHORIZATION {eight}; SET app.tenant = '8'")),
        (
            shop.database.clone(),
            format!("SET SESSION AUTHORIZATION {}; SET ROLE {eight}", shop.user),
        ),
        (shop.database.clone(), "SET search_path = pg_temp".to_owned()),
    ] {
        let pools = [database.pool(1), database.pool(1)];
        let client = Arc::new(Mutex::new(database.connect().await.unwrap()));
        for pool in &pools {
            run(pool, &foreign).await;
        }
        client.lock().await.batch_execute(&foreign).await.unwrap();
        let before = [state(&pools[0]).await, state(&pools[1]).await];
        let pooling = TransactionPooling::new(pools[1].clone());
        let path = |query: Query| query.with_setting("search_path", "public");
        for (query, expected) in [
            (path(by_setting("7")), 7),
            (path(by_setting("8")), 8),
            (path(by_role(seven)), 7),
            (path(by_role(eight)), 8),
        ] {
            for _ in 0..2 {
                assert_eq!(tenants_of(&cache, &query, &pools[0]).await, [expected], "{foreign}");
                assert_eq!(tenants_of(&cache, &query, &pooling).await, [expected], "{foreign}");
                assert_eq!(tenants_of(&cache, &query, &client).await, [expected], "{foreign}");
                let tls = TlsPool::new(pools[0].clone(), NoTls);
                assert_eq!(tenants_of(&cache, &query, &tls).await, [expected], "{foreign}");
            }
        }
        // Nothing was left, and nothing of what was there is gone.
        assert_eq!([state(&pools[0]).await, state(&pools[1]).await], before, "{foreign}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_role_a_query_runs_as_the_connection_was_opened() {
    let shop = Shop::new().await;
    let cache = local().await;
    let who = cache.query("SELECT current_user::text").with_setting("app.tenant", "7");
    let ask = async |pool: &Pool| -> String {
        cache.clear().await.acknowledged().unwrap();
        who.fetch(pool).await.unwrap().row(0).get(0)
    };
    let pool = shop.web().pool(1);
    run(&pool, &format!("SET ROLE {}", shop.tenants[1])).await;
    assert_eq!(ask(&pool).await, shop.user);
    let sql = format!("ALTER ROLE {} SET role = {}", shop.user, shop.app);
    shop.database.connect().await.unwrap().batch_execute(&sql).await.unwrap();
    let pool = shop.web().pool(1);
    assert_eq!(ask(&pool).await, shop.app);
    run(&pool, &format!("SET ROLE {}", shop.tenants[1])).await;
    assert_eq!(ask(&pool).await, shop.app);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_pooler_each_transaction_has_its_own_role_and_settings() {
    let postgres = Postgres::shared().unwrap();
    let shop = Shop::within(postgres.database().await.unwrap()).await;
    let bouncer = PgBouncer::start(postgres, &["default_pool_size=2"]).unwrap();
    let pooled = bouncer.database(shop.database.name());
    let pool = pooled.pool(8);
    // Left on the sessions, which the pooler does not reset in this mode.
    for _ in 0..4 {
        run(&pool, &format!("SET app.tenant = '99'; SET ROLE {}", shop.app)).await;
    }
    let cache = local().await;
    let source = TransactionPooling::new(pool.clone());
    let query = Arc::new(cache.query("SELECT tenant, $1::int FROM invoices ORDER BY id"));
    let tasks = (0..8).map(|task| {
        let (query, source, app) = (query.clone(), source.clone(), shop.app.clone());
        tokio::spawn(async move {
            for n in 0..25 {
                let (call, tenant) = (task * 25 + n, (task * 13 + n) % 100);
                let read = query.bind(call).as_role(&app);
                let read = read.with_setting("app.tenant", tenant.to_string()).fetch(&source);
                assert_eq!(tenants(read.await.unwrap()), [tenant]);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(cache.stats().loads, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tenants_share_few_connections_and_never_a_row() {
    let shop = Shop::new().await;
    let cache = QueryCache::builder().concurrent_loads(8).build().await.unwrap();
    let pool = shop.web().pool(4);
    let query = Arc::new(cache.query(SQL).as_role(&shop.app).tag("invoices"));
    let tasks = (0..32).map(|task| {
        let (query, pool, cache) = (query.clone(), pool.clone(), cache.clone());
        let [_, eight] = shop.tenants.clone();
        tokio::spawn(async move {
            for n in 0..40 {
                let tenant = (task * 7 + n * 3) % 100;
                let value = tenant.to_string();
                let read = query.params(()).with_setting("app.tenant", &value).fetch(&pool);
                assert_eq!(tenants(read.await.unwrap()), [tenant]);
                if n % 8 == 0 {
                    let foreign = format!("SET app.tenant = '{}'; SET ROLE {eight}", tenant + 1);
                    run(&pool, &foreign).await;
                    cache.invalidate(["invoices"]).await.acknowledged().unwrap();
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    // All of them under the query's one name.
    let stats = cache.query_stats();
    assert_eq!(stats.len(), 1, "{stats:?}");
}

/// A parameter that panics when it is sent.
#[derive(Debug, Clone)]
struct Panics;

impl Param for Panics {
    fn kind(out: &mut KeyEncoder) {
        out.named("Panics");
    }
    fn value(&self, _: &mut KeyEncoder) {}
}

impl ToSql for Panics {
    fn to_sql(&self, _: &Type, _: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        panic!("as it was told");
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    to_sql_checked!();
}

impl SqlParam for Panics {
    type Owned = Panics;
    fn into_owned(self) -> Panics {
        self
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_back_as_it_came_however_the_load_ends() {
    let shop = Shop::new().await;
    let cache = local().await;
    let pool = shop.web().pool(1);
    let pooling = TransactionPooling::new(pool.clone());
    let client = Arc::new(Mutex::new(shop.web().connect().await.unwrap()));
    let before = state(&pool).await;
    assert_eq!(before[0], shop.user);
    let query = |sql: &str| {
        let query = cache.query(sql).as_role(&shop.app).with_setting("app.tenant", "7");
        query.with_setting("TimeZone", "Asia/Tokyo").load_deadline(Duration::from_millis(500))
    };
    let check = async |what: &str| {
        assert_eq!(state(&pool).await, before, "{what}");
        let locked = client.lock().await;
        let sql = "SELECT current_user::text, coalesce(current_setting('app.tenant', true), '')";
        let row = locked.query_one(sql, &[]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (&*shop.user, ""), "{what}");
    };
    for (sql, kind) in [
        ("SELECT 1", None),
        ("SELEKT", Some(ErrorKind::Query)),
        ("SELECT 1/0", Some(ErrorKind::Query)),
        ("SELECT 1/(n - 900) FROM generate_series(1, 1000) AS n", Some(ErrorKind::Query)),
        ("SELECT pg_sleep(60)::text", Some(ErrorKind::Deadline)),
    ] {
        let query = query(sql);
        let outcomes = [
            query.clone().scope("a").fetch(&pool).await,
            query.clone().scope("b").fetch(&client).await,
            query.clone().scope("c").fetch(&pooling).await,
        ];
        for outcome in outcomes {
            assert_eq!(outcome.err().map(|error| error.kind()), kind, "{sql}");
        }
        if kind == Some(ErrorKind::Deadline) {
            // The client's lock is free, and its session is still asleep.
            let admin = shop.database.connect().await.unwrap();
            let sql = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
                WHERE query LIKE '%pg_sleep%' AND state = 'active' AND pid <> pg_backend_pid()
                AND datname = current_database()";
            until_async("nothing sleeps", async || admin.query(sql, &[]).await.unwrap().is_empty())
                .await;
        }
        check(sql).await;
    }
    let query = query("SELECT $1::text");
    for source in 0..3 {
        let call = query.clone().scope(source.to_string());
        let outcome = match source {
            0 => call.bind(Panics).fetch(&pool).await,
            1 => call.bind(Panics).fetch(&client).await,
            _ => call.bind(Panics).fetch(&pooling).await,
        };
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Panicked);
        assert_eq!(state(&pool).await, before, "a panic");
    }
    // `tokio_postgres` closes a client whose parameter panicked.
    let locked = client.lock().await;
    let who = locked.query_one("SELECT current_user::text", &[]).await;
    assert!(who.is_ok_and(|row| row.get::<_, &str>(0) == shop.user) || locked.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_was_altered_is_looked_up_again_in_a_new_transaction() {
    let shop = Shop::new().await;
    let admin = shop.database.connect().await.unwrap();
    let setup = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE person (mood mood);
        INSERT INTO person VALUES ('ok'); GRANT SELECT ON person TO PUBLIC";
    admin.batch_execute(setup).await.unwrap();
    let (pool, cache) = (shop.web().pool(1), local().await);
    let pooling = TransactionPooling::new(shop.web().pool(1));
    let client = Arc::new(Mutex::new(shop.web().connect().await.unwrap()));
    let query = cache.query("SELECT mood, current_setting('app.tenant') FROM person");
    let query = query.with_setting("app.tenant", "7");
    let anew = "BEGIN; ALTER TYPE mood RENAME TO old_mood; CREATE TYPE mood AS ENUM ('sad', 'ok');
        ALTER TABLE person ALTER COLUMN mood TYPE mood USING mood::text::mood; DROP TYPE old_mood;
        COMMIT";
    for change in ["SELECT 1", anew, "ALTER TYPE mood ADD VALUE 'good'", anew, "SELECT 1"] {
        admin.batch_execute(change).await.unwrap();
        for forgets in [false, true] {
            if forgets {
                run(&pool, "DISCARD ALL").await;
            }
            for source in 0..3 {
                cache.clear().await.acknowledged().unwrap();
                let rows = match source {
                    0 => query.fetch(&pool).await,
                    1 => query.fetch(&client).await,
                    _ => query.fetch(&pooling).await,
                };
                let rows = rows.unwrap_or_else(|error| panic!("{source}: {change}: {error}"));
                assert_eq!(rows.row(0).raw(0), Some(&b"ok"[..]), "{change}");
                assert_eq!(rows.row(0).get::<_, &str>(1), "7", "{change}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_was_prepared_under_other_settings_is_not_used() {
    let shop = Shop::new().await;
    let admin = shop.database.connect().await.unwrap();
    // A function that is wrongly declared: a plan that was kept would have its result as a constant.
    let setup = "CREATE FUNCTION tenant() RETURNS text IMMUTABLE LANGUAGE sql AS
          $$ SELECT current_setting('app.tenant') $$;
        CREATE SCHEMA one; CREATE TABLE one.t (a int); INSERT INTO one.t VALUES (1);
        CREATE SCHEMA two; CREATE TABLE two.t (a text, b text); INSERT INTO two.t VALUES ('2', 'b');
        GRANT USAGE ON SCHEMA one, two TO PUBLIC; GRANT SELECT ON one.t, two.t TO PUBLIC";
    admin.batch_execute(setup).await.unwrap();
    let (pool, cache) = (shop.web().pool(1), local().await);
    let load = async |sql: &str, name: &str, value: &str| {
        cache.clear().await.acknowledged().unwrap();
        let query = cache.query(sql).with_setting(name, value);
        let rows = query.fetch(&pool).await.unwrap();
        let text = |at| rows.row(0).raw(at).map(String::from_utf8_lossy).unwrap_or_default();
        format!("{} {}", rows.columns().len(), text(0).trim_start_matches('\0'))
    };
    for _ in 0..3 {
        for zone in ["UTC", "Asia/Tokyo", "America/New_York"] {
            let sql = "SELECT extract(epoch FROM timestamptz '2026-11-28 00:00')::int8::text";
            let seconds = match zone {
                "UTC" => 1_795_824_000,
                "Asia/Tokyo" => 1_795_824_000 - 9 * 3600,
                _ => 1_795_824_000 + 5 * 3600,
            };
            assert_eq!(load(sql, "TimeZone", zone).await, format!("1 {seconds}"));
        }
        assert_eq!(load("SELECT * FROM t", "search_path", "one, public").await, "1 \u{1}");
        assert_eq!(load("SELECT * FROM t", "search_path", "two").await, "2 2");
        assert_eq!(load("SELECT tenant()", "app.tenant", "7").await, "1 7");
        assert_eq!(load("SELECT tenant()", "app.tenant", "8").await, "1 8");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_shared_by_those_who_set_the_same() {
    let shop = Shop::new().await;
    let (pool, cache) = (shop.web().pool(2), local().await);
    let query = cache.query(SQL).tag("invoices");
    let of = |tenant: &str| {
        query
            .clone()
            .with_setting("app.tenant", tenant)
            .as_role(&shop.app)
            .with_setting("TimeZone", "UTC")
    };
    let (seven, eight) = (of("7"), of("8"));
    let read = async |read: larder::BoundWith<'_, ()>| {
        let answer = read.fetch(&pool).answer().await.unwrap();
        (tenants(answer.value().clone()), answer.origin())
    };
    let answer = seven.fetch(&pool).answer().await.unwrap();
    assert_eq!((tenants(answer.value().clone()), answer.origin()), (vec![7], Origin::Loaded));
    // By the call alone, in another order and case, and over what another query sets.
    let call = query.params(()).with_setting("timezone", "UTC").with_setting("APP.TENANT", "7");
    assert_eq!(read(call.clone().as_role(&shop.app)).await, (vec![7], Origin::L1));
    assert_eq!(read(eight.params(()).with_setting("App.Tenant", "7")).await, (vec![7], Origin::L1));
    assert_eq!(read(call.as_role(&shop.tenants[0])).await, (vec![7], Origin::Loaded));
    assert_eq!(
        read(eight.params(()).with_setting("app.tenant", "9")).await,
        (vec![9], Origin::Loaded)
    );
    assert_eq!(eight.fetch(&pool).answer().await.unwrap().origin(), Origin::Loaded);
    assert_eq!(cache.query_stats().len(), 1);
    // An invalidation of the query is one for all roles and settings.
    for query in [&query, &seven] {
        cache.invalidate_query(query).await.acknowledged().unwrap();
        for query in [&seven, &eight] {
            assert_eq!(query.fetch(&pool).answer().await.unwrap().origin(), Origin::Loaded);
        }
    }
}

/// A stream that counts how often something is sent after something was received.
struct Trips<S> {
    stream: S,
    received: bool,
    count: Arc<AtomicU32>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Trips<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.received |= buf.filled().len() > before;
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Trips<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        // The end of a statement that is dropped is sent later, and nobody waits for it.
        let closes = buf.first() == Some(&b'C');
        if !closes && std::mem::take(&mut self.received) {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_load_with_a_role_and_settings_takes_two_round_trips() {
    let shop = Shop::new().await;
    let config = shop.web().config();
    let tokio_postgres::config::Host::Unix(directory) = &config.get_hosts()[0] else {
        panic!("the servers of tests listen on a socket");
    };
    let stream = tokio::net::UnixStream::connect(directory.join(".s.PGSQL.5432")).await.unwrap();
    let count = Arc::new(AtomicU32::new(0));
    let stream = Trips { stream, received: false, count: count.clone() };
    let (client, connection) = config.connect_raw(stream, NoTls).await.unwrap();
    tokio::spawn(connection);
    let (client, cache) = (Arc::new(Mutex::new(client)), local().await);
    let query = cache.query(SQL).as_role(&shop.app).with_setting("TimeZone", "UTC");
    for tenant in ["7", "8"] {
        let before = count.load(Ordering::SeqCst);
        let read = query.params(()).with_setting("app.tenant", tenant).fetch(&client);
        assert_eq!(tenants(read.await.unwrap()), [tenant.parse::<i32>().unwrap()]);
        assert_eq!(count.load(Ordering::SeqCst) - before, 2, "tenant {tenant}");
    }
}
