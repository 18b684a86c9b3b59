//! The work: a report of ten or a thousand lines, by SQL and two parameters, from a PostgreSQL that
//! counts how often it is asked.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use deadpool_postgres::Pool;
use hitbox_fn::CacheableResponse;
use serde::{Deserialize, Serialize};

use test_servers::Postgres;

/// A report's SQL, 170 bytes.
pub const SQL: &str = "SELECT line.region, line.status, line.customer, line.orders, line.total \
     FROM report(customer_id => $1::int8, in_region => $2::text) AS line \
     ORDER BY line.region, line.number -- for the dashboard";

/// What stands for the SQL in a key of those who make their keys themselves. Computed once.
pub static SQL_DIGEST: LazyLock<u64> = LazyLock::new(|| {
    let hash = blake3::hash(SQL.as_bytes());
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
});

/// A region of ten lines: 1 KB as JSON.
pub const SMALL: &str = "eu";
/// A region of a thousand lines: 100 KB as JSON.
pub const LARGE: &str = "world";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CacheableResponse)]
pub struct Line {
    pub region: String,
    pub status: String,
    pub customer: String,
    pub orders: i64,
    pub total: f64,
}

/// Why a read failed.
#[derive(Debug, Clone)]
pub struct Failed(pub String);

impl Failed {
    pub fn of(error: impl fmt::Display) -> Failed {
        Failed(error.to_string())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// `orders` is the table's version, by which a result is known to be old. The rows are read before
/// the pause, which is a query that takes long after it has seen what it sees.
const SCHEMA: &str = "
    CREATE TABLE state (version int8 NOT NULL, pause float8 NOT NULL);
    INSERT INTO state VALUES (1, 0);
    CREATE SEQUENCE asked;
    CREATE FUNCTION report(customer_id int8, in_region text)
        RETURNS TABLE (number int4, region text, status text, customer text, orders int8, total float8)
        LANGUAGE plpgsql AS $$
        DECLARE pause float8;
        BEGIN
            PERFORM nextval('asked');
            RETURN QUERY
                SELECT n, $2, 'status ' || n % 10, md5($1 || '/' || n), state.version, n * 0.5::float8
                FROM generate_series(1, CASE $2 WHEN 'world' THEN 1000 ELSE 10 END) AS n, state;
            SELECT state.pause INTO pause FROM state;
            IF pause > 0 THEN PERFORM pg_sleep(pause); END IF;
        END $$;";

/// A database of one contestant's own.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
}

impl Database {
    pub async fn new() -> Database {
        let database = Postgres::shared().unwrap().database().await.unwrap();
        let database = Database { pool: database.pool(16) };
        database.run(SCHEMA).await;
        database
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub async fn load(&self, id: i64, region: &str) -> Result<Vec<Line>, Failed> {
        let client = self.pool.get().await.map_err(Failed::of)?;
        let statement = client.prepare_cached(SQL).await.map_err(Failed::of)?;
        let rows = client.query(&statement, &[&id, &region]).await.map_err(Failed::of)?;
        let line = |row: &tokio_postgres::Row| Line {
            region: row.get(0),
            status: row.get(1),
            customer: row.get(2),
            orders: row.get(3),
            total: row.get(4),
        };
        Ok(rows.iter().map(line).collect())
    }

    /// How often the report has been asked for.
    pub async fn asked(&self) -> i64 {
        let sql = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM asked";
        self.pool.get().await.unwrap().query_one(sql, &[]).await.unwrap().get(0)
    }

    pub async fn set_pause(&self, pause: Duration) {
        self.run(&format!("UPDATE state SET pause = {}", pause.as_secs_f64())).await;
    }

    pub async fn change(&self) {
        self.run("UPDATE state SET version = version + 1").await;
    }

    pub async fn version(&self) -> i64 {
        let client = self.pool.get().await.unwrap();
        client.query_one("SELECT version FROM state", &[]).await.unwrap().get(0)
    }

    async fn run(&self, sql: &str) {
        self.pool.get().await.unwrap().batch_execute(sql).await.unwrap();
    }
}
