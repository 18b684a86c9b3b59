//! The servers of an example: the user's own, or private ones that go with the example.

use std::env;
use std::error::Error;

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
pub async fn servers() -> Result<Servers, Box<dyn Error>> {
    let config: Config = match env::var("DATABASE_URL") {
        Ok(url) => url.parse().map_err(|error| format!("DATABASE_URL cannot be read: {error}"))?,
        Err(_) => Postgres::shared()?.database().await?.config(),
    };
    let pool = Pool::builder(Manager::new(config.clone(), NoTls)).max_size(4).build()?;
    let redis_url = match env::var("REDIS_URL") {
        Ok(url) => url,
        Err(_) => Redis::shared()?.url(),
    };
    Ok(Servers { pool, config, redis_url })
}
