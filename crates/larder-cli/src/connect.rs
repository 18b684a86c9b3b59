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

/// Reads a connection string. A message about it never shows any of its text but the names of
/// settings: it may hold a password anywhere.
pub(super) fn postgres_config(given: &str) -> Result<tokio_postgres::Config, Failure> {
    if is_misread(given) {
        return Err(Failure::usage(
            "--postgres holds a `@` after the one that ends the password, so that the rest of the \
             password would be taken for the host; write `@` in a user or password as %40, `/` as \
             %2F, `?` as %3F, `#` as %23 and `%` as %25",
        ));
    }
    // `require` checks the certificate here, and its name: what libpq calls verify-full.
    let read = given.replace("sslmode=verify-full", "sslmode=require");
    read.parse().map_err(|error: tokio_postgres::Error| {
        Failure::usage(format!(
            "--postgres does not read as a connection string: {}; it is \
             postgres://user:password@host/database, or words like \"host=/run/postgresql \
             dbname=shop\"",
            reason(&error)
        ))
    })
}

/// Whether the text after the host of a URL holds part of a password. The parser ends the password
/// at the first `@`, people mean the last.
fn is_misread(given: &str) -> bool {
    let rest = ["postgres://", "postgresql://"].iter().find_map(|it| given.strip_prefix(it));
    rest.is_some_and(|rest| rest.matches('@').count() > 1)
}

/// Why it cannot be read. The parser's message may show a word of the string: an unknown setting is
/// often the rest of a password with a space or a `&`. It is shown if it is a setting of libpq.
fn reason(error: &tokio_postgres::Error) -> String {
    const NAMES: [&str; 20] = [
        "channel_binding",
        "client_encoding",
        "fallback_application_name",
        "gssencmode",
        "krbsrvname",
        "passfile",
        "pgbouncer",
        "pool_timeout",
        "require_auth",
        "schema",
        "search_path",
        "service",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "statement_cache_size",
        "statement_timeout",
        "uselibpqcompat",
    ];
    let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let word = text.split('`').nth(1).unwrap_or_default();
    match text.strip_prefix("unknown option") {
        Some(_) if NAMES.contains(&word) => format!("the setting {word} is not supported"),
        Some(_) => "a setting is unknown, or a password holds a space, `&` or `=`".to_owned(),
        None if text.starts_with("invalid value for option") => text,
        None => "it is not complete, or a quote or a `%` is missing".to_owned(),
    }
}

/// Up to `size` connections, none of them opened yet.
pub(super) fn pool(config: &Config, size: usize) -> Result<Pool, Failure> {
    let mut postgres = postgres_config(config.postgres()?)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_form_of_connection_string_shows_its_password() {
        for given in [
            "postgres://me:p@hunter2@localhost/shop",
            "postgresql://me:p@hunter2@localhost/shop",
            "postgres://me:hunter2@localhost/shop?mode=x@y",
            "postgres://me:p/hunter2@localhost/shop",
            "postgres://me:p?hunter2@localhost/shop",
            "postgres://me:p?a=b&hunter2@localhost/shop",
            "postgres://me:p#hunter2@localhost/shop",
            "postgres://me:hunter2@localhost:port/shop",
            "postgres://me:hunter2@localhost/shop?sslmode=perhaps",
            "postgres://me@localhost/shop?password=a&hunter2=b",
            "postgres://me:%hunter2%zz@localhost/shop?x",
            "postgres:me:hunter2@localhost",
            "host=localhost password=a hunter2",
            "host=localhost password=a hunter2=b",
            "host=localhost password='hunter2",
            "host=localhost password=hunter2 port=x",
            "hunter2",
        ] {
            match postgres_config(given) {
                Err(failure) => {
                    assert!(!format!("{failure:?}").contains("hunter2"), "{failure:?}");
                }
                // What was read as the host is shown by errors of connecting.
                Ok(config) => {
                    let hosts = format!("{:?} {config:?}", config.get_hosts());
                    assert!(!hosts.contains("hunter2"), "{given}: {hosts}");
                }
            }
        }
    }

    #[test]
    fn a_setting_that_libpq_knows_is_named() {
        let failure = postgres_config("postgres://me@localhost/shop?sslrootcert=ca.pem");
        let shown = format!("{:?}", failure.unwrap_err());
        assert!(shown.contains("sslrootcert is not supported"), "{shown}");
        for given in
            ["postgres://me:p%40hunter2@localhost/shop", "host=localhost password=p@hunter2"]
        {
            let config = postgres_config(given).unwrap();
            assert_eq!(config.get_password(), Some(&b"p@hunter2"[..]));
        }
    }
}
