//! The servers of an example: the user's own, or private ones that go with the example.

use std::env;
use std::error::Error;

use deadpool_postgres::{Manager, Pool};
use test_servers::{Postgres, Redis};
use tokio_postgres::NoTls;

/// Where an example finds its PostgreSQL and its Redis.
#[allow(dead_code)]
pub struct Servers {
    pub pool: Pool,
    pub redis_url: String,
}

/// Those that `DATABASE_URL` and `REDIS_URL` name, or private ones.
pub async fn servers() -> Result<Servers, Box<dyn Error>> {
    let pool = match env::var("DATABASE_URL") {
        Ok(url) => {
            let config: tokio_postgres::Config =
                url.parse().map_err(|error| format!("DATABASE_URL cannot be read: {error}"))?;
            Pool::builder(Manager::new(config, NoTls)).build()?
        }
        Err(_) => Postgres::shared()?.database().await?.pool(4),
    };
    let redis_url = match env::var("REDIS_URL") {
        Ok(url) => url,
        Err(_) => Redis::shared()?.url(),
    };
    Ok(Servers { pool, redis_url })
}
