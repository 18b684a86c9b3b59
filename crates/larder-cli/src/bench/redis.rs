//! What Redis says of itself, and the removal of what a benchmark left there.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use std::time::Duration;

use super::super::failure::{Failure, with_sources};
use super::report::RedisLoad;
use crate::tls;

/// A database with more keys is not searched for ours: their time to live ends them.
const SEARCHABLE: u64 = 1_000_000;

/// A connection for questions about the server.
pub(super) struct Server {
    client: Client,
    connection: MultiplexedConnection,
}

/// Whether a part of the password was read as host, port or database, which messages show.
fn is_misread(url: &str) -> bool {
    redis::parse_redis_url(url).is_none_or(|url| {
        let rest = [Some(url.path()), url.query(), url.fragment()];
        !url.scheme().ends_with("unix") && rest.into_iter().flatten().any(|it| it.contains('@'))
    })
}

impl Server {
    pub(super) async fn connect(url: &str) -> Result<Server, Failure> {
        // A URL that cannot be read may hold a password anywhere, so it is not shown.
        let wrong = || {
            Failure::usage(
                "the URL given for Redis (--redis) is not one of a Redis; write `@` in a user or \
                 password as %40, `/` as %2F, `?` as %3F, `#` as %23 and `%` as %25",
            )
        };
        if is_misread(url) {
            return Err(wrong());
        }
        tls::prepare();
        let client = Client::open(url).map_err(|_| wrong())?;
        let shown = client.get_connection_info().addr().to_string();
        let connection = connected(&client).await.map_err(|error| {
            let why = with_sources(&error);
            Failure::server(format!("cannot connect to Redis at {shown}: {why}"))
        })?;
        Ok(Server { client, connection })
    }

    /// Connects again if the connection was lost, such as by a restart of the server.
    async fn reconnect(&mut self) -> Result<(), redis::RedisError> {
        let ping = redis::cmd("PING").query_async::<()>(&mut self.connection).await;
        if ping.is_err() {
            self.connection = connected(&self.client).await?;
        }
        Ok(())
    }

    async fn info(&mut self, section: &str) -> Result<String, Failure> {
        let info = redis::cmd("INFO").arg(section).query_async(&mut self.connection).await;
        info.map_err(|error| {
            Failure::server(format!("Redis refuses INFO {section}: {}", with_sources(&error)))
        })
    }

    /// `Redis 7.0.15` or `Valkey 8.0.1`
    pub(super) async fn version(&mut self) -> Result<String, Failure> {
        let info = self.info("server").await?;
        let field = |name| field(&info, name);
        Ok(match (field("valkey_version"), field("redis_version")) {
            (Some(version), _) => format!("Valkey {version}"),
            (None, Some(version)) => format!("Redis {version}"),
            (None, None) => "unknown".to_owned(),
        })
    }

    /// What went through it since it was started; `None` if it does not say so. It may be restarted
    /// during a benchmark, which is about the readers and goes on.
    pub(super) async fn load(&mut self) -> Option<RedisLoad> {
        self.reconnect().await.ok()?;
        let info = self.info("stats").await.ok()?;
        let number = |name| field(&info, name).and_then(|it| it.parse().ok()).unwrap_or(0);
        Some(RedisLoad {
            bytes_in: number("total_net_input_bytes"),
            bytes_out: number("total_net_output_bytes"),
            commands: number("total_commands_processed"),
            errors: 0,
        })
    }

    /// Removes what a cache of this namespace has left, if that is cheap. All of it ends by itself,
    /// with its time to live.
    pub(super) async fn clean(&mut self, namespace: &str) -> Result<(), redis::RedisError> {
        self.reconnect().await?;
        let connection = &mut self.connection;
        let size: u64 = redis::cmd("DBSIZE").query_async(connection).await?;
        if size > SEARCHABLE {
            // The one that need not have an end of its own.
            let directory = format!("larder:{namespace}:directory");
            return redis::cmd("UNLINK").arg(directory).query_async(connection).await;
        }
        let pattern = format!("larder:{namespace}:*");
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1000);
            let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(connection).await?;
            if !keys.is_empty() {
                redis::cmd("UNLINK").arg(keys).query_async::<()>(connection).await?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}

async fn connected(client: &Client) -> Result<MultiplexedConnection, redis::RedisError> {
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(10)))
        .set_response_timeout(Some(Duration::from_secs(10)));
    client.get_multiplexed_async_connection_with_config(&limits).await
}

/// What was counted from one time to another.
pub(super) fn between(before: &RedisLoad, after: &RedisLoad, errors: u64) -> RedisLoad {
    // A server that was restarted meanwhile counts from zero. What it counted before is lost.
    let restarted = after.commands < before.commands || after.bytes_in < before.bytes_in;
    let before = if restarted { RedisLoad::default() } else { *before };
    RedisLoad {
        bytes_in: after.bytes_in.saturating_sub(before.bytes_in),
        bytes_out: after.bytes_out.saturating_sub(before.bytes_out),
        commands: after.commands.saturating_sub(before.commands),
        errors,
    }
}

fn field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
