//! The servers of an example: the user's own, or private ones that go with the example.

use std::env;
use std::error::Error;
use std::sync::OnceLock;

use deadpool_postgres::{Manager, Pool};
use test_servers::{Postgres, Redis};
use tokio_postgres::{Config, NoTls};

/// Where an example finds its PostgreSQL and its Redis.
#[allow(dead_code)]
pub struct Servers {
    pub pool: Pool,
    /// How to connect to PostgreSQL without that pool.
    pub config: Config,
    pub redis_url: String,
}

/// Those that `DATABASE_URL` and `REDIS_URL` name, or private ones.
#[allow(dead_code)]
pub async fn servers() -> Result<Servers, Box<dyn Error>> {
    servers_of(async || Ok(Postgres::shared()?.database().await?.config())).await
}

/// The same. A private PostgreSQL has these settings.
#[allow(dead_code)]
pub async fn servers_with(settings: &'static [&str]) -> Result<Servers, Box<dyn Error>> {
    static PRIVATE: OnceLock<Postgres> = OnceLock::new();
    servers_of(async || {
        let started = Postgres::start_with(settings)?;
        Ok(PRIVATE.get_or_init(|| started).database().await?.config())
    })
    .await
}

async fn servers_of(
    private: impl AsyncFnOnce() -> Result<Config, Box<dyn Error>>,
) -> Result<Servers, Box<dyn Error>> {
    let config: Config = match env::var("DATABASE_URL") {
        Ok(url) => url.parse().map_err(|error| format!("DATABASE_URL cannot be read: {error}"))?,
        Err(_) => private().await?,
    };
    let pool = Pool::builder(Manager::new(config.clone(), NoTls)).max_size(4).build()?;
    let redis_url = match env::var("REDIS_URL") {
        Ok(url) => url,
        Err(_) => Redis::shared()?.url(),
    };
    Ok(Servers { pool, config, redis_url })
}
