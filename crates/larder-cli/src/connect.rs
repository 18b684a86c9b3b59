//! Ways to the servers, with errors for whoever sits at a terminal.

use std::time::Duration;

use deadpool_postgres::{Runtime, Timeouts};

use super::config::Config;
use super::connection::{Place, Postgres};
use super::failure::{Failure, with_sources};
use larder::admin::Redis;
use larder::stats::FleetStats;
use larder::{QueryCache, QueryCacheBuilder, TlsPool};

/// How long connecting to PostgreSQL may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cache of the namespace, over its Redis: a member of the fleet as all others.
pub(super) fn builder(config: &Config) -> Result<QueryCacheBuilder, Failure> {
    let mut builder = QueryCache::builder().namespace(config.namespace()?).redis(config.redis()?);
    if let Some(secret) = &config.secret {
        builder = builder.secret(secret.clone());
    }
    Ok(builder)
}

pub(super) async fn cache(config: &Config) -> Result<QueryCache, Failure> {
    builder(config)?.build().await.map_err(|error| match error.setting() {
        Some(_) => Failure::usage(error.to_string()),
        None => Failure::server(with_sources(&error)),
    })
}

/// Redis, for questions about a namespace.
pub(super) async fn redis(url: &str, namespace: &str) -> Result<Redis, Failure> {
    let connected = Redis::connect(url, namespace).await;
    connected.map_err(|error| Failure::server(format!("there is no connection to redis: {error}")))
}

/// What the processes of the namespace publish.
pub(super) async fn fleet(config: &Config) -> Result<FleetStats, Failure> {
    let cache = cache(config).await?;
    let stats = cache.fleet_stats().await;
    cache.shutdown().await;
    stats.map_err(|error| {
        Failure::server(format!("redis does not tell what is published: {}", with_sources(&error)))
    })
}

/// Connections to PostgreSQL, and what is said of where they go.
pub(super) struct Pool {
    pub(super) source: TlsPool,
    /// The same pool, for questions of the command itself.
    pub(super) pool: deadpool_postgres::Pool,
    /// Without credentials.
    pub(super) address: String,
    pub(super) port: Option<u16>,
    /// Whether it goes by a socket of this machine, or its own address.
    pub(super) is_local: bool,
}

/// Up to `size` connections, none of them opened yet.
pub(super) fn pool(config: &Config, size: usize) -> Result<Pool, Failure> {
    let mut postgres = Postgres::read(config.postgres()?)?;
    postgres.print_remarks();
    if postgres.config.get_application_name().is_none() {
        postgres.config.application_name("larder");
    }
    if postgres.config.get_connect_timeout().is_none() {
        postgres.config.connect_timeout(PATIENCE);
    }
    let places = postgres.places();
    let Some(first) = places.first() else {
        return Err(Failure::usage(
            "--postgres names no host: say host=… or postgres://…@host/…, or the directory of its \
             socket, host=/run/postgresql",
        ));
    };
    let port = first.port();
    let address = places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let is_local = places.iter().all(Place::is_local);
    let tls = postgres.connector()?;
    let manager = postgres.manager(tls.clone());
    let timeouts =
        Timeouts { wait: Some(PATIENCE), create: Some(PATIENCE), recycle: Some(PATIENCE) };
    let pool = deadpool_postgres::Pool::builder(manager)
        .max_size(size)
        .timeouts(timeouts)
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| Failure::other(format!("cannot make a pool: {error}")))?;
    let source = match tls {
        Some(tls) => TlsPool::new(pool.clone(), tls),
        None => pool.clone().into(),
    };
    Ok(Pool { source, pool, address, port, is_local })
}
