//! Ways to the servers, with errors for whoever sits at a terminal.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::NoTls;
use tokio_postgres::config::{Host, SslMode};

use super::config::Config;
use super::failure::{Failure, with_sources};
use larder::{QueryCache, QueryCacheBuilder, TlsPool};

use crate::tls;

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
    // `require` checks the certificate here, and its name: what libpq calls verify-full.
    let given = config.postgres()?.replace("sslmode=verify-full", "sslmode=require");
    let mut postgres: tokio_postgres::Config = given.parse().map_err(|error| {
        Failure::usage(format!(
            "--postgres does not read as a connection string: {}; it is \
             postgres://user:password@host/database, or words like \"host=/run/postgresql \
             dbname=shop\"",
            with_sources(&error)
        ))
    })?;
    if postgres.get_application_name().is_none() {
        postgres.application_name("larder");
    }
    if postgres.get_connect_timeout().is_none() {
        postgres.connect_timeout(PATIENCE);
    }
    let host = match postgres.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        None => {
            return Err(Failure::usage(
                "--postgres names no host: say host=… or postgres://…@host/…, or the directory of \
                 its socket, host=/run/postgresql",
            ));
        }
    };
    let port = postgres.get_ports().first().copied().or(Some(5432));
    let is_socket = host.starts_with('/');
    let address = match port {
        Some(port) if !is_socket => format!("{host}:{port}"),
        _ => host.clone(),
    };
    let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    // By `prefer`, the default, libpq takes a certificate that nobody has checked. We take none then.
    let tls = if postgres.get_ssl_mode() == SslMode::Require && !is_socket {
        Some(tls::connector().map_err(|error| {
            Failure::other(format!("sslmode=require needs authorities to trust: {error}"))
        })?)
    } else {
        None
    };
    let manager = match tls.clone() {
        Some(tls) => Manager::from_config(postgres, tls, manager_config),
        None => Manager::from_config(postgres, NoTls, manager_config),
    };
    let timeouts =
        Timeouts { wait: Some(PATIENCE), create: Some(PATIENCE), recycle: Some(PATIENCE) };
    let pool = deadpool_postgres::Pool::builder(manager)
        .max_size(size)
        .timeouts(timeouts)
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| Failure::other(format!("cannot make a pool: {error}")))?;
    let is_local = is_socket || ["localhost", "127.0.0.1", "::1"].contains(&host.as_str());
    let source = match tls {
        Some(tls) => TlsPool::new(pool.clone(), tls),
        None => pool.clone().into(),
    };
    Ok(Pool { source, pool, address, port: port.filter(|_| !is_socket), is_local })
}
