//! [`Place`]: the benchmark's own schema in PostgreSQL, which is gone when it ends.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::super::connection::Postgres;
use super::super::failure::{Failure, with_sources};
use super::report::Followed;

/// What names of schemas of ours look like, and how the comment on one begins.
const PREFIX: &str = "larder_bench_";
const PATTERN: &str = "^larder_bench_[0-9a-f]{8}$";
const MARK: &str = "larder bench";

/// Rows that queries sum up begin at as many places as there are rows in one query.
const SPREAD: u32 = 2;
/// More rows than this are not made: a query that takes longer than they do cannot be had.
const MOST_ROWS: u32 = 5_000_000;

/// A schema with tables `keys` and `facts`.
pub(super) struct Place {
    client: Client,
    pub(super) schema: String,
    facts: u32,
}

/// The size of results and the cost of a query.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) rows: u32,
    pub(super) row_bytes: u32,
    pub(super) cost: Duration,
}

/// The query, made to cost what it is to cost.
pub(super) struct Priced {
    pub(super) sql: String,
    /// How many rows PostgreSQL reads for it.
    pub(super) rows_read: u32,
    pub(super) takes: Duration,
}

impl Place {
    /// Connects, and makes an empty schema that nobody else takes for left over.
    pub(super) async fn create(url: &str) -> Result<Place, Failure> {
        let client = connect(url).await?;
        let schema = format!("{PREFIX}{:08x}", fastrand::u32(..));
        let made = async {
            // Held until the connection ends, in whatever way: `clean` leaves the schema alone.
            let lock = "SELECT pg_advisory_lock(hashtext($1), hashtext($2))";
            client.execute(lock, &[&MARK, &schema]).await?;
            client
                .batch_execute(&format!(
                    "CREATE SCHEMA {schema};
                     COMMENT ON SCHEMA {schema} IS
                     '{MARK}: dropped at its end; if it was killed, by larder bench --clean'"
                ))
                .await
        };
        made.await.map_err(|error| {
            refused("create a schema for the benchmark (it needs CREATE on the database)", &error)
        })?;
        Ok(Place { client, schema, facts: 0 })
    }

    /// `15.18`
    pub(super) async fn version(&self) -> Result<String, Failure> {
        let row = self.client.query_one("SHOW server_version", &[]).await;
        let row = row.map_err(|error| refused("ask for its version", &error))?;
        let version: &str = row.get(0);
        // Debian adds its own after a space.
        Ok(version.split(' ').next().unwrap_or(version).to_owned())
    }

    /// Makes the keys.
    pub(super) async fn fill(
        &mut self,
        keys: u32,
        follow: Option<Followed>,
    ) -> Result<(), Failure> {
        let Place { client, schema, .. } = self;
        // Unlogged: reading is the same, and the server's log and its replicas are spared. Half
        // empty, so that a new version of a key finds room beside the old one. What is in no log cannot
        // be followed.
        let (unlogged, identity) = match follow {
            None => ("UNLOGGED", "DEFAULT"),
            Some(Followed::Keys) => ("", "DEFAULT"),
            Some(Followed::Tables) => ("", "NOTHING"),
        };
        client
            .batch_execute(&format!(
                "CREATE {unlogged} TABLE {schema}.keys
                     (key int4 PRIMARY KEY, version int8 NOT NULL DEFAULT 0)
                     WITH (fillfactor = 50);
                 INSERT INTO {schema}.keys SELECT key FROM generate_series(0, {keys} - 1) AS key;
                 ALTER TABLE {schema}.keys REPLICA IDENTITY {identity};
                 CREATE {unlogged} TABLE {schema}.facts
                     (id int4 PRIMARY KEY, amount float8 NOT NULL);
                 ANALYZE {schema}.keys"
            ))
            .await
            .map_err(|error| refused("make the benchmark's tables", &error))
    }

    /// Finds out how many rows a query must read to take as long as is wanted, and makes them.
    pub(super) async fn price(&mut self, shape: Shape) -> Result<Priced, Failure> {
        const ROUNDS: usize = 6;
        let mut rows = shape.rows.max(1000);
        let mut priced = self.try_out(shape, rows).await?;
        for _ in 0..ROUNDS {
            let ratio = shape.cost.as_secs_f64() / priced.takes.as_secs_f64().max(1e-6);
            // A query that reads no more rows than it returns cannot be made cheaper.
            let next = (f64::from(rows) * ratio.clamp(0.05, 20.0)).round();
            let next = (next as u32).clamp(shape.rows, MOST_ROWS / SPREAD);
            if (0.85..1.18).contains(&ratio) || next == rows {
                break;
            }
            rows = next;
            priced = self.try_out(shape, rows).await?;
        }
        Ok(priced)
    }

    async fn try_out(&mut self, shape: Shape, rows_read: u32) -> Result<Priced, Failure> {
        const TIMES: i32 = 5;
        self.grow(rows_read * SPREAD).await?;
        let sql = self.query(shape, rows_read);
        let run = async {
            let statement = self.client.prepare(&sql).await?;
            let mut times = vec![];
            for _ in 0..TIMES {
                let begun = Instant::now();
                // Key 0 is always there.
                self.client.query(&statement, &[&0_i32]).await?;
                times.push(begun.elapsed());
            }
            // The least: whatever else the machine does only adds to what a query takes alone.
            Ok(times.into_iter().min().unwrap_or_default())
        };
        match run.await {
            Ok(takes) => Ok(Priced { sql, rows_read, takes }),
            Err(error) => Err(refused("run the benchmark's query", &error)),
        }
    }

    async fn grow(&mut self, facts: u32) -> Result<(), Failure> {
        let Place { client, schema, facts: have } = self;
        if facts <= *have {
            return Ok(());
        }
        // VACUUM settles what the first reader of a fresh row would have to write.
        let statements = [
            format!(
                "INSERT INTO {schema}.facts
                 SELECT id, id * 0.25 FROM generate_series({have}, {facts} - 1) AS id"
            ),
            format!("VACUUM (ANALYZE) {schema}.facts"),
        ];
        for statement in statements {
            let done = client.batch_execute(&statement).await;
            done.map_err(|error| refused("make the rows that queries read", &error))?;
        }
        *have = facts;
        Ok(())
    }

    /// A report: rows summed up in groups. All of its rows show the version of the key. Different
    /// keys read different rows.
    fn query(&self, shape: Shape, rows_read: u32) -> String {
        let (schema, Shape { rows, row_bytes, .. }) = (&self.schema, shape);
        let first = format!("(k.key::int8 * 7919 % {rows_read})::int4");
        format!(
            "SELECT k.version, f.part, f.entries, f.total, \
             rpad(k.key::text, {row_bytes}, ' larder') AS filling \
             FROM {schema}.keys AS k CROSS JOIN LATERAL (\
             SELECT id % {rows} AS part, count(*) AS entries, sum(amount) AS total \
             FROM {schema}.facts WHERE id >= {first} AND id < {first} + {rows_read} GROUP BY 1\
             ) AS f WHERE k.key = $1 ORDER BY f.part"
        )
    }

    /// Drops it all.
    pub(super) async fn drop(self) -> Result<(), Failure> {
        let drop = format!("SET lock_timeout = '30s'; DROP SCHEMA {} CASCADE", self.schema);
        self.client.batch_execute(&drop).await.map_err(|error| {
            let text = with_sources(&error);
            Failure::server(format!(
                "schema {} is left in PostgreSQL ({text}); larder bench --clean drops it",
                self.schema
            ))
        })
    }
}

/// Drops what benchmarks have left that were killed or told to keep it. Returns the names of the
/// schemas that are gone, and of those that are in use.
pub(super) async fn clean(url: &str) -> Result<(Vec<String>, Vec<String>), Failure> {
    let client = connect(url).await?;
    let cleaned = async {
        let left = client
            .query(
                "SELECT nspname::text FROM pg_namespace WHERE nspname ~ $1
                 AND obj_description(oid, 'pg_namespace') LIKE $2 ORDER BY 1",
                &[&PATTERN, &format!("{MARK}:%")],
            )
            .await?;
        let (mut gone, mut used) = (vec![], vec![]);
        for row in left {
            let schema: String = row.get(0);
            let lock = "SELECT pg_try_advisory_lock(hashtext($1), hashtext($2))";
            let locked: bool = client.query_one(lock, &[&MARK, &schema]).await?.get(0);
            if !locked {
                used.push(schema);
                continue;
            }
            client.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await?;
            gone.push(schema);
        }
        Ok((gone, used))
    };
    cleaned.await.map_err(|error| refused("drop what benchmarks have left", &error))
}

async fn connect(url: &str) -> Result<Client, Failure> {
    let mut postgres = Postgres::read(url)?;
    postgres.config.application_name("larder bench");
    if postgres.config.get_connect_timeout().is_none() {
        postgres.config.connect_timeout(Duration::from_secs(10));
    }
    postgres.client().await?.map_err(|error| {
        let places = postgres.places();
        let places = places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Failure::server(format!(
            "cannot connect to PostgreSQL at {places}: {}",
            with_sources(&error)
        ))
    })
}

fn refused(what: &str, error: &tokio_postgres::Error) -> Failure {
    Failure::server(format!("PostgreSQL refuses to {what}: {}", with_sources(error)))
}
