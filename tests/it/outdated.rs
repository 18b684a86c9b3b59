//! Is a query prepared again when its statement became unusable, from every kind of source?

use std::error::Error;
use std::sync::Arc;

use bytes::BytesMut;
use larder::params::{KeyEncoder, Param, SqlParam};
use larder::{Query, QueryCache, Rows, TransactionPooling};
use tokio_postgres::Client;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::servers::{Database, PgBouncer, Postgres, skipped};
use crate::support::{database, local};

/// A parameter of the enum `mood`.
#[derive(Debug, Clone)]
struct Mood(&'static str);

impl Param for Mood {
    fn kind(out: &mut KeyEncoder) {
        out.named("Mood");
    }
    fn value(&self, out: &mut KeyEncoder) {
        self.0.value(out);
    }
}

impl ToSql for Mood {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
    fn accepts(type_: &Type) -> bool {
        type_.name() == "mood"
    }
    to_sql_checked!();
}

impl SqlParam for Mood {
    type Owned = Mood;
    fn into_owned(self) -> Mood {
        self
    }
}

/// Every kind of source, each of one connection.
struct Sources {
    admin: Client,
    cache: QueryCache,
    pool: deadpool_postgres::Pool,
    client: Arc<Client>,
    transactions: TransactionPooling,
}

impl Sources {
    async fn of(database: &Database) -> Sources {
        Sources {
            admin: database.connect().await.unwrap(),
            cache: local().await,
            pool: database.pool(1),
            client: Arc::new(database.connect().await.unwrap()),
            transactions: TransactionPooling::new(database.pool(1)),
        }
    }

    /// Loads a query from each source, and returns the first value of each as text.
    async fn load(&self, query: &Query, mood: Option<Mood>) -> [String; 3] {
        let load = async |source: usize| -> Result<Rows, larder::Error> {
            self.cache.clear().await.acknowledged().unwrap();
            match (source, mood.clone()) {
                (0, None) => query.fetch(&self.pool).await,
                (0, Some(mood)) => query.bind(mood).fetch(&self.pool).await,
                (1, None) => query.fetch(&self.client).await,
                (1, Some(mood)) => query.bind(mood).fetch(&self.client).await,
                (_, None) => query.fetch(&self.transactions).await,
                (_, Some(mood)) => query.bind(mood).fetch(&self.transactions).await,
            }
        };
        let mut texts = vec![];
        for source in 0..3 {
            let rows = load(source).await.unwrap_or_else(|error| {
                panic!("{query:?}, source {source}: {error} {:?}", error.db_error())
            });
            let row = rows.row(rows.len() - 1);
            let names: Vec<_> = rows.columns().iter().map(|column| column.name()).collect();
            let last = row.raw(row.len() - 1).map(String::from_utf8_lossy);
            texts.push(format!("{}: {}", names.join(" "), last.unwrap_or_default()));
        }
        texts.try_into().unwrap()
    }

    async fn check(&self, sql: &str, mood: Option<Mood>, change: &str, expected: [&str; 2]) {
        let query = self.cache.query(sql);
        assert_eq!(self.load(&query, mood.clone()).await, [expected[0]; 3], "{sql}");
        self.admin.batch_execute(change).await.unwrap();
        assert_eq!(self.load(&query, mood).await, [expected[1]; 3], "{sql}, after {change}");
    }
}

#[tokio::test]
async fn what_a_statement_refers_to_can_be_dropped_and_made_anew() {
    let sources = Sources::of(&database().await).await;
    let setup = "
        CREATE TYPE mood AS ENUM ('sad', 'ok', 'meh');
        CREATE TABLE person (name text, mood mood);
        INSERT INTO person VALUES ('a', 'ok');
        CREATE TABLE t (a text, b text, c text);
        INSERT INTO t VALUES ('a', 'b', 'c');
        CREATE FUNCTION all_of_t() RETURNS SETOF t LANGUAGE plpgsql AS 'BEGIN RETURN QUERY SELECT * FROM t; END';
        CREATE SCHEMA s; CREATE TABLE s.u (a text); INSERT INTO s.u VALUES ('old');
        CREATE DOMAIN code AS text;
        CREATE FUNCTION joined(text, text) RETURNS text LANGUAGE sql AS 'SELECT $1 || $2';
        CREATE OPERATOR <+> (FUNCTION = joined, LEFTARG = text, RIGHTARG = text);
    ";
    sources.admin.batch_execute(setup).await.unwrap();
    let anew = "BEGIN; ALTER TYPE mood RENAME TO old_mood; CREATE TYPE mood AS ENUM ('sad', 'ok');
        ALTER TABLE person ALTER COLUMN mood TYPE mood USING mood::text::mood; DROP TYPE old_mood;
        COMMIT";
    let by_mood = "SELECT name FROM person WHERE mood = $1";
    sources.check(by_mood, Some(Mood("ok")), anew, ["name: a"; 2]).await;
    sources.check("SELECT mood FROM person", None, anew, ["mood: ok"; 2]).await;
    sources.check(by_mood, Some(Mood("ok")), anew, ["name: a"; 2]).await;
    let drop = "ALTER TABLE t DROP COLUMN b";
    sources.check("SELECT * FROM all_of_t()", None, drop, ["a b c: c", "a c: c"]).await;
    let add = "ALTER TABLE t ADD COLUMN d text DEFAULT 'd'";
    sources.check("SELECT * FROM t", None, add, ["a c: c", "a c d: d"]).await;
    let anew = "DROP SCHEMA s CASCADE; CREATE SCHEMA s; CREATE TABLE s.u (a text, b text);
        INSERT INTO s.u VALUES ('a', 'new')";
    sources.check("SELECT * FROM s.u", None, anew, ["a: old", "a b: new"]).await;
    let anew = "DROP DOMAIN code; CREATE DOMAIN code AS text";
    sources.check("SELECT a::code AS a FROM t", None, anew, ["a: a"; 2]).await;
    let anew = "DROP FUNCTION joined(text, text) CASCADE;
        CREATE FUNCTION joined(text, text) RETURNS text LANGUAGE sql AS 'SELECT $2 || $1';
        CREATE OPERATOR <+> (FUNCTION = joined, LEFTARG = text, RIGHTARG = text)";
    sources.check("SELECT a <+> c AS x FROM t", None, anew, ["x: ac", "x: ca"]).await;
}

#[tokio::test]
async fn a_session_may_forget_its_statements() {
    let database = database().await;
    let sources = Sources::of(&database).await;
    let setup = "CREATE TYPE one AS ENUM ('1'); CREATE TYPE two AS ENUM ('2')";
    sources.admin.batch_execute(setup).await.unwrap();
    let (one, two) =
        (sources.cache.query("SELECT '1'::one"), sources.cache.query("SELECT '2'::two"));
    let forget = async || {
        let client = sources.pool.get().await.unwrap();
        client.batch_execute("DISCARD ALL").await.unwrap();
    };
    let load = async |query: &Query, expected: &[u8]| {
        sources.cache.clear().await.acknowledged().unwrap();
        for rows in [query.fetch(&sources.pool).await, {
            sources.cache.clear().await.acknowledged().unwrap();
            query.fetch(&sources.transactions).await
        }] {
            assert_eq!(rows.unwrap().row(0).raw(0), Some(expected));
        }
    };
    for _ in 0..3 {
        load(&one, b"1").await;
        forget().await;
        load(&one, b"1").await;
        forget().await;
        // The statements by which types are looked up are gone as well.
        load(&two, b"2").await;
        sources.admin.batch_execute("ALTER TYPE one ADD VALUE IF NOT EXISTS '3'").await.unwrap();
    }
}

#[tokio::test]
async fn types_met_one_after_the_other_do_not_cost_a_connection_each_time() {
    let database = database().await;
    let admin = database.connect().await.unwrap();
    for n in 0..5 {
        let sql = format!("CREATE TYPE mood{n} AS ENUM ('{n}')");
        admin.batch_execute(&sql).await.unwrap();
    }
    let (cache, pool) = (local().await, database.pool(1));
    let source = TransactionPooling::new(pool.clone());
    let mut sessions = vec![];
    for n in (0..5).cycle().take(20) {
        cache.clear().await.acknowledged().unwrap();
        let sql = format!("SELECT '{n}'::mood{n} AS mood");
        let rows = cache.query(sql).fetch(&source).await.unwrap();
        assert_eq!(rows.row(0).raw(0), Some(n.to_string().as_bytes()));
        let client = pool.get().await.unwrap();
        let pid = client.query_typed("SELECT pg_backend_pid()", &[]).await.unwrap();
        sessions.push(pid[0].get::<_, i32>(0));
    }
    // One connection for each type that was new, and none after that.
    assert!(sessions[5..].iter().all(|pid| *pid == sessions[4]), "{sessions:?}");
}

#[tokio::test]
async fn errors_of_the_query_itself_are_passed_on() {
    let sources = Sources::of(&database().await).await;
    let setup = "CREATE FUNCTION fails() RETURNS int LANGUAGE plpgsql AS
        'BEGIN EXECUTE ''SELECT * FROM nothing''; RETURN 1; END'";
    sources.admin.batch_execute(setup).await.unwrap();
    for (sql, code) in [
        ("SELECT * FROM nothing", "42P01"),
        ("SELECT fails()", "42P01"),
        ("SELECT 1/0", "22012"),
        ("SELEKT", "42601"),
    ] {
        let query = sources.cache.query(sql);
        for _ in 0..3 {
            let errors = [
                query.fetch(&sources.pool).await.unwrap_err(),
                query.fetch(&sources.client).await.unwrap_err(),
                query.fetch(&sources.transactions).await.unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.sqlstate().unwrap().code(), code, "{sql}: {error}");
            }
        }
    }
}

/// The version of PgBouncer, such as `[1, 18]`.
async fn version(bouncer: &PgBouncer) -> Vec<u32> {
    let rows = bouncer.show("VERSION").await.unwrap();
    let text = rows[0].get(0).unwrap().to_owned();
    let numbers = text.split_whitespace().last().unwrap().split('.');
    numbers.map_while(|number| number.parse().ok()).collect()
}

#[tokio::test]
async fn a_pooler_that_prepares_for_its_clients_may_keep_an_outdated_statement() {
    let postgres = Postgres::shared().unwrap();
    let direct = postgres.database().await.unwrap();
    let plain = PgBouncer::start(postgres, &[]).unwrap();
    if version(&plain).await < vec![1, 21] {
        skipped("PgBouncer before 1.21 has no max_prepared_statements");
        return;
    }
    let settings = ["default_pool_size=1", "max_prepared_statements=100"];
    let bouncer = PgBouncer::start(postgres, &settings).unwrap();
    let pooled = bouncer.database(direct.name());
    let admin = direct.connect().await.unwrap();
    let setup = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (a int, m mood);
        INSERT INTO t VALUES (1, 'ok');
        CREATE FUNCTION all_of_t() RETURNS SETOF t LANGUAGE plpgsql AS
          'BEGIN RETURN QUERY SELECT * FROM t; END'";
    admin.batch_execute(setup).await.unwrap();
    let cache = local().await;
    let pool = pooled.pool(2);
    let queries = ["SELECT * FROM t", "SELECT * FROM all_of_t()", "SELECT t FROM t"];
    for change in [
        "SELECT 1",
        "ALTER TABLE t ADD COLUMN b int",
        "ALTER TABLE t DROP COLUMN a",
        "ALTER TABLE t ADD COLUMN c text DEFAULT 'c'",
        "ALTER TYPE mood RENAME TO old; CREATE TYPE mood AS ENUM ('ok');
         ALTER TABLE t ALTER COLUMN m TYPE mood USING m::text::mood; DROP TYPE old",
    ] {
        admin.batch_execute(change).await.unwrap();
        for sql in queries {
            let expected = direct.connect().await.unwrap().prepare(sql).await.unwrap();
            let names: Vec<_> = expected.columns().iter().map(|column| column.name()).collect();
            // Twice each: on connections that knew the statement, and on new ones.
            for source in [pool.clone(), pool.clone(), pooled.pool(1)] {
                cache.clear().await.acknowledged().unwrap();
                let rows = cache.query(sql).fetch(&source).await;
                let rows = rows.unwrap_or_else(|error| panic!("{sql} after {change}: {error}"));
                let found: Vec<_> = rows.columns().iter().map(|column| column.name()).collect();
                if sql.contains("all_of_t") {
                    // A plan that still works may lack a column that was added to the function's
                    // result.
                    assert!(found.iter().all(|name| names.contains(name)), "{sql} after {change}");
                    continue;
                }
                assert_eq!(found, names, "{sql} after {change}");
                for (ours, theirs) in rows.columns().iter().zip(expected.columns()) {
                    assert_eq!(ours.type_(), theirs.type_(), "{sql} after {change}");
                }
            }
        }
    }
}
