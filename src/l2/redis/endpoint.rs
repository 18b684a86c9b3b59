//! [`Endpoint`]: where a Redis is, and how a connection to it is opened.

use std::future::Future;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, Pipeline, ProtocolVersion, RedisConnectionInfo,
    RedisError, Value,
};
use tokio::time::timeout;

use super::credentials::RedisCredentials;
use super::refusal::Refusal;
#[cfg(feature = "tls")]
use super::tls::RedisTls;
use super::url::{WrongUrl, connection_info};
use crate::clock::{Clock, Instant};
use crate::credentials::CredentialsProvider;
use crate::error::BoxError;
use crate::patience::within;

/// The time limit for connecting, including the greeting.
pub(crate) const CONNECT: Duration = Duration::from_secs(2);

/// The address of a Redis, its settings, and the credentials for it. It has no `Debug`.
///
/// The address is resolved and the credentials are asked for at each connect. So a connection that
/// replaces another may lead to another server, or use another password.
#[derive(Clone)]
pub(crate) struct Endpoint {
    info: ConnectionInfo,
    provider: Option<CredentialsProvider<RedisCredentials>>,
    #[cfg(feature = "tls")]
    tls: Option<RedisTls>,
    /// A key that a new connection writes to without changing it.
    directory: Option<String>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// No connection, or no reply in time.
    Unreachable(RedisError),
    /// The server replied with an error.
    Refused(Refusal),
    /// The provider of credentials failed.
    NoCredentials(BoxError),
}

impl Endpoint {
    pub(crate) fn new(url: &str) -> Result<Endpoint, WrongUrl> {
        Ok(Endpoint {
            info: connection_info(url)?,
            provider: None,
            #[cfg(feature = "tls")]
            tls: None,
            directory: None,
        })
    }

    pub(crate) fn with_provider(
        mut self,
        provider: Option<CredentialsProvider<RedisCredentials>>,
    ) -> Endpoint {
        self.provider = provider;
        self
    }

    /// Sets the certificates. Returns an error if they are not usable.
    #[cfg(feature = "tls")]
    pub(crate) fn with_tls(mut self, tls: &RedisTls) -> Result<Endpoint, RedisError> {
        Client::build_with_tls(self.info.clone(), tls.certificates())?;
        self.tls = Some(tls.clone());
        Ok(self)
    }

    /// Whether the URL asks for TLS.
    #[cfg(feature = "tls")]
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self.info.addr(), redis::ConnectionAddr::TcpTls { .. })
    }

    /// Sets the key that tests whether a server takes writes.
    pub(crate) fn with_directory(mut self, directory: &str) -> Endpoint {
        self.directory = Some(directory.to_owned());
        self
    }

    /// The server's address, without credentials.
    pub(crate) fn address(&self) -> String {
        self.info.addr().to_string()
    }

    /// The number of the database.
    pub(crate) fn database(&self) -> i64 {
        self.info.redis_settings().db()
    }

    /// The user that the URL names.
    #[cfg(feature = "admin")]
    pub(crate) fn user(&self) -> Option<&str> {
        self.info.redis_settings().username()
    }

    async fn credentials(&self) -> Result<Option<Login>, ConnectError> {
        let settings = self.info.redis_settings();
        let Some(provider) = &self.provider else {
            let user = settings.username().map(str::to_owned);
            let password = settings.password().map(str::to_owned);
            // A user that needs no password is named without one.
            let is_named = user.is_some() || password.is_some();
            return Ok(is_named.then(|| Login { user, password: password.unwrap_or_default() }));
        };
        let given = provider.ask().await.map_err(ConnectError::NoCredentials)?;
        let RedisCredentials { user, password } = given;
        Ok(Some(Login { user: Some(user), password }))
    }

    /// A client for one connection. With `login`, the client library authenticates and selects the
    /// database. Its errors about RESP2 do not show what the server replied.
    fn client(&self, login: Option<&Login>, selects: bool) -> Result<Client, RedisError> {
        let given = self.info.redis_settings();
        let mut settings = RedisConnectionInfo::default().set_protocol(given.protocol());
        if let Some(Login { user, password }) = login {
            settings = settings.set_password(password);
            if let Some(user) = user {
                settings = settings.set_username(user);
            }
        }
        if selects {
            settings = settings.set_db(given.db());
        }
        let info = self.info.clone().set_redis_settings(settings.set_skip_set_lib_name());
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Client::build_with_tls(info, tls.certificates());
        }
        Client::open(info)
    }

    /// Opens a connection for commands. Returns it with Redis's clock. The reply to `TIME` may take
    /// `limit`.
    pub(crate) async fn connect(
        &self,
        limit: Duration,
    ) -> Result<(MultiplexedConnection, Option<Reference>), ConnectError> {
        let login = self.credentials().await?;
        let secrets = login.as_ref().map(Login::secrets).unwrap_or_default();
        // The first command of RESP3, `HELLO`, carries the credentials.
        let is_resp3 = self.info.redis_settings().protocol() != ProtocolVersion::RESP2;
        let greeting = async {
            let (at_hello, after) =
                if is_resp3 { (login.as_ref(), None) } else { (None, login.as_ref()) };
            let client = self.client(at_hello, is_resp3)?;
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(CONNECT))
                // Every call has its own time limit, which also counts towards giving up the
                // connection.
                .set_response_timeout(None);
            let mut connection =
                client.get_multiplexed_async_connection_with_config(&config).await?;
            let replies = self.greeting(after, !is_resp3);
            let count = replies.len();
            let replies = connection.send_packed_commands(&replies, 0, count).await?;
            let mut replies = replies.into_iter();
            if after.is_some()
                && let Some(reply) = replies.next()
                && let Err(error) = reply.extract_error()
            {
                return Ok(Err(Refusal::of_authentication(&error, &secrets)));
            }
            replies.try_for_each(|reply| reply.extract_error().map(drop))?;
            let clock = redis::cmd("TIME");
            let time = within(limit, clock.query_async(&mut connection)).await;
            let late = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
            let time = time.ok_or_else(late)?;
            // If `TIME` is not permitted, no entries are written, because their lifetime could not
            // be expressed.
            let time = time.ok().and_then(|answer| Reference::now(&answer));
            Ok(Ok((connection, time)))
        };
        match bounded(CONNECT, greeting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(refusal)) => Err(ConnectError::Refused(refusal)),
            Err(error) => Err(ConnectError::of(error, &secrets)),
        }
    }

    /// The first commands on a connection, sent in one round trip.
    fn greeting(&self, login: Option<&Login>, selects: bool) -> Pipeline {
        let mut all = Pipeline::with_capacity(4);
        if let Some(Login { user, password }) = login {
            all.cmd("AUTH").arg(user).arg(password);
        }
        let database = self.info.redis_settings().db();
        if selects && database != 0 {
            all.cmd("SELECT").arg(database);
        }
        // A server that requires a password or is still loading its data also accepts connections.
        all.cmd("PING");
        if let Some(directory) = &self.directory {
            // Changes nothing, but it is a write, which a replica refuses.
            all.cmd("PERSIST").arg(directory);
        }
        all
    }

    /// Opens a connection that receives what is published on a channel.
    pub(crate) async fn subscribe(&self, channel: &str) -> Result<PubSub, ConnectError> {
        let login = self.credentials().await?;
        let secrets = login.as_ref().map(Login::secrets).unwrap_or_default();
        let subscribing = async {
            let client = self.client(login.as_ref(), true)?;
            let mut subscribed = client.get_async_pubsub().await?;
            subscribed.subscribe(channel).await?;
            Ok(subscribed)
        };
        bounded(CONNECT, subscribing).await.map_err(|error| ConnectError::of(error, &secrets))
    }
}

/// How a connection authenticates.
struct Login {
    user: Option<String>,
    password: String,
}

impl Login {
    fn secrets(&self) -> Vec<&str> {
        vec![&self.password]
    }
}

/// Redis's clock compared with ours: the readings of both at the same time, in nanoseconds.
#[derive(Clone, Copy)]
pub(crate) struct Reference {
    redis: i128,
    ours: Instant,
}

impl Reference {
    pub(super) fn now(answer: &Value) -> Option<Reference> {
        let (seconds, micros): (i64, i64) = redis::from_redis_value_ref(answer).ok()?;
        let redis = i128::from(seconds) * 1_000_000_000 + i128::from(micros) * 1_000;
        Some(Reference { redis, ours: Clock::system().now() })
    }

    /// A time of the system's clock by Redis's clock, in milliseconds since 1970. The result is exact
    /// or slightly early.
    pub(super) fn time_of(self, instant: Instant) -> Option<i64> {
        let ahead = i128::from(instant.nanos()) - i128::from(self.ours.nanos());
        i64::try_from(self.redis.checked_add(ahead)?.div_euclid(1_000_000)).ok()
    }
}

impl ConnectError {
    pub(super) fn of(error: RedisError, secrets: &[&str]) -> ConnectError {
        match Refusal::of(&error, secrets) {
            Some(refusal) => ConnectError::Refused(refusal),
            None => ConnectError::Unreachable(error),
        }
    }
}

pub(crate) async fn bounded<T>(
    limit: Duration,
    attempt: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    timeout(limit, attempt).await.unwrap_or_else(|_| {
        let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time");
        Err(late.into())
    })
}
