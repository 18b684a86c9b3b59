//! Where the data and the cache live: the user's own servers, or private ones made for this run.

use std::env;
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use larder::QueryCache;
use serde::{Deserialize, Serialize};
use test_servers::{Postgres, Redis};
use tokio_postgres::{Config, NoTls};

/// At larger scales the data goes on disk: half of the memory that the private PostgreSQL asks for
/// before it uses any.
const LARGEST_IN_MEMORY: f64 = 0.5;

/// How long entries live in Redis. Longer than any run takes.
pub(crate) const TTL: Duration = Duration::from_secs(3600);

/// Both servers, and which part of them is ours.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) postgres: String,
    pub(crate) redis: String,
    /// The schema in PostgreSQL.
    pub(crate) schema: String,
    /// The namespace in Redis, another one each run: the first read of a report is a miss.
    pub(crate) namespace: String,
}

/// The private servers. They run as long as this lives.
#[derive(Debug)]
pub(crate) struct Servers {
    postgres: Option<Postgres>,
    redis: Option<Redis>,
    on_disk: bool,
}

impl Servers {
    /// Takes the servers that `DATABASE_URL` and `REDIS_URL` name, and starts what they do not.
    ///
    /// # Errors
    ///
    /// If a server has to be started and cannot be; the message says what to install.
    pub(crate) async fn find(schema: &str, scale: f64) -> Result<(Self, Place)> {
        let on_disk = scale > LARGEST_IN_MEMORY;
        let mut servers = Self { postgres: None, redis: None, on_disk };
        let postgres = match setting("DATABASE_URL")? {
            Some(url) => url,
            None => {
                let private =
                    if on_disk { Postgres::start_on_disk(&[])? } else { Postgres::start()? };
                let database = private.database().await?;
                servers.postgres = Some(private);
                database.url()
            }
        };
        let redis = match setting("REDIS_URL")? {
            Some(url) => url,
            None => servers.redis.insert(Redis::start()?).url(),
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let namespace = format!("larder-demo-{}-{}", since.as_secs(), process::id());
        let place = Place { postgres, redis, schema: schema.to_owned(), namespace };
        Ok((servers, place))
    }

    /// What kind of PostgreSQL this is, for the report.
    pub(crate) fn postgres(&self) -> &'static str {
        match &self.postgres {
            None => "yours, from DATABASE_URL",
            Some(_) if self.on_disk => "private to this run, on disk",
            Some(_) => "private to this run, in memory",
        }
    }

    /// What kind of Redis this is, for the report.
    pub(crate) fn redis(&self) -> &'static str {
        match &self.redis {
            None => "yours, from REDIS_URL",
            Some(_) => "private to this run",
        }
    }

    /// What stays on the user's servers, and how to be rid of it. Empty if nothing does.
    pub(crate) fn leftovers(&self, place: &Place) -> String {
        let mut text = String::new();
        if self.postgres.is_none() {
            text += &format!(
                "\nThe data stays in schema {schema}, for the next run. To drop it:\n  \
                 psql \"$DATABASE_URL\" -c 'DROP SCHEMA {schema} CASCADE'\n",
                schema = place.schema
            );
        }
        if self.redis.is_none() {
            text += &format!(
                "\nThe answers stay in Redis, under {},\nand expire within {} minutes.\n",
                place.namespace,
                TTL.as_secs() / 60
            );
        }
        text
    }
}

/// An environment variable; empty counts as unset.
fn setting(name: &str) -> Result<Option<String>> {
    match env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {name}")),
    }
}

impl Place {
    /// Connections that look for tables in our schema and nowhere else.
    ///
    /// # Errors
    ///
    /// If the URL of PostgreSQL is not one.
    pub(crate) fn pool(&self, size: usize) -> Result<Pool> {
        let mut config: Config =
            self.postgres.parse().context("DATABASE_URL cannot be understood")?;
        let theirs = config.get_options().unwrap_or_default();
        let options = format!("{theirs} -c search_path={}", self.schema);
        config.options(options).application_name("larder demo");
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method });
        Ok(Pool::builder(manager).max_size(size).build()?)
    }

    /// A cache as an application would build it.
    ///
    /// # Errors
    ///
    /// If Larder refuses a setting.
    pub(crate) async fn cache(&self) -> Result<QueryCache> {
        let cache = QueryCache::builder()
            .namespace(&self.namespace)
            .redis(&self.redis)
            .ttl(TTL)
            // What is to be measured is Redis, even on a machine that is busy.
            .redis_timeout(Duration::from_secs(1))
            .build()
            .await
            .context("cannot build the cache")?;
        Ok(cache)
    }

    /// The version of PostgreSQL.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub(crate) async fn postgres_version(&self, pool: &Pool) -> Result<String> {
        let client = pool.get().await.context("cannot connect to PostgreSQL")?;
        let row = client.query_one("SHOW server_version", &[]).await?;
        let version: &str = row.get(0);
        // Debian adds its own after a space.
        Ok(version.split(' ').next().unwrap_or(version).to_owned())
    }

    /// The version of Redis, or of Valkey.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub(crate) async fn redis_version(&self) -> Result<String> {
        let ask = async {
            let client = redis::Client::open(self.redis.as_str())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            redis::cmd("INFO").arg("server").query_async::<String>(&mut connection).await
        };
        let info = ask.await.context("cannot ask Redis for its version")?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
        Ok(match (field("valkey_version:"), field("redis_version:")) {
            (Some(version), _) => format!("Valkey {version}"),
            (None, Some(version)) => version.to_owned(),
            (None, None) => "unknown".to_owned(),
        })
    }
}
