//! [`Endpoint`]: where a Redis is, and how a connection to it is opened.

use std::future::Future;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisConnectionInfo, RedisError, Value,
};
use tokio::time::timeout;

use super::credentials::RedisCredentials;
use super::refusal::Refusal;
#[cfg(feature = "tls")]
use super::tls::RedisTls;
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
            return Ok(password.map(|password| Login { user, password }));
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

/// Why a URL is not one of a Redis. It shows no part of the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WrongUrl {
    Malformed,
    /// The URL demands TLS, which this build does not have.
    NeedsTls,
    /// A fragment after a URL with TLS, which the client library takes for a wish not to verify
    /// certificates.
    Unverified,
}

impl WrongUrl {
    /// The URLs that are allowed.
    pub(crate) fn allowed(self) -> &'static str {
        match self {
            WrongUrl::Malformed => {
                "redis://[user:password@]host[:port][/database] or unix:///path/to.sock; write `@` \
                 in a user or password as %40, `/` as %2F, `?` as %3F, `#` as %23 and `%` as %25"
            }
            WrongUrl::Unverified => {
                "a URL without `#…`: certificates are always verified; give a private authority with \
                 `redis_tls`"
            }
            WrongUrl::NeedsTls => {
                "redis://, valkey:// or unix://, since larder was built without its feature `tls`; \
                 rediss:// and valkeys:// need that feature"
            }
        }
    }
}

fn connection_info(url: &str) -> Result<ConnectionInfo, WrongUrl> {
    let parts = Parts::of(url).ok_or(WrongUrl::Malformed)?;
    if parts.is_tls && cfg!(not(feature = "tls")) {
        return Err(WrongUrl::NeedsTls);
    }
    if parts.is_tls && !parts.is_misread && url.contains('#') {
        return Err(WrongUrl::Unverified);
    }
    if parts.is_misread {
        return Err(WrongUrl::Malformed);
    }
    let info = url.into_connection_info().map_err(|_| WrongUrl::Malformed)?;
    #[cfg(feature = "tls")]
    if parts.is_tls {
        super::tls::prepare();
    }
    // Otherwise small commands would wait for the reply to earlier ones (Nagle's algorithm).
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
    // The client library's name, for lists of clients, is not sent: it would need one more
    // permission, servers before 7.2 do not know the command, and a refusal adds a line to the
    // server's log.
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    Ok(info.set_redis_settings(settings))
}

/// What a URL shows without its credentials.
struct Parts {
    shown: String,
    is_tls: bool,
    /// An `@` comes after what was read as host, port and database. So a password with an unescaped
    /// `/`, `?` or `#` was read as these, and none of them may be shown.
    is_misread: bool,
}

impl Parts {
    /// `None` if the URL is none of a Redis.
    fn of(url: &str) -> Option<Parts> {
        let url = redis::parse_redis_url(url)?;
        let scheme = url.scheme();
        let is_unix = scheme.ends_with("unix");
        let rest = [Some(url.path()), url.query(), url.fragment()];
        let has_at = rest.into_iter().flatten().any(|part| part.contains('@'));
        // The path of a socket may contain an `@`. Its credentials are in the query.
        let is_misread = if is_unix { url.host_str().is_some() } else { has_at };
        let is_anonymous = url.username().is_empty() && url.password().is_none();
        let credentials = if is_anonymous { "" } else { "***@" };
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let shown = if is_misread || (!is_unix && host.is_empty()) {
            format!("{scheme}://***")
        } else {
            format!("{scheme}://{credentials}{host}{port}{}", url.path())
        };
        let is_tls = matches!(scheme, "rediss" | "valkeys");
        Some(Parts { shown, is_tls, is_misread })
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

/// A URL without its credentials, for messages. Of a URL that is none of a Redis, only the scheme is
/// shown, since its password may be anywhere.
pub(crate) fn without_credentials(url: &str) -> String {
    if let Some(parts) = Parts::of(url) {
        return parts.shown;
    }
    let is_scheme = |scheme: &&str| {
        (1..=20).contains(&scheme.len())
            && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || b"+-".contains(&byte))
    };
    match url.split_once("://").map(|(scheme, _)| scheme).filter(is_scheme) {
        Some(scheme) => format!("{scheme}://***"),
        None if url.is_empty() => String::new(),
        None => "***".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use redis::ConnectionAddr;

    use super::*;

    /// Each way in which a URL carries a password that the client library reads.
    const CARRIED: [&str; 16] = [
        "redis://:hunter2@localhost",
        "redis://app:hunter2@localhost:6379/3",
        "redis://app:hunter2@[::1]:6379/?protocol=resp3",
        "redis://app:hunter2@localhost#insecure",
        "redis://app:h@hunter2@localhost",
        "redis://app:%40hunter2@localhost",
        " REDIS://app:hunter2@localhost ",
        "redis:app:hunter2@localhost",
        "valkey://app:hunter2@localhost",
        "unix:///run/redis.sock?pass=hunter2",
        "unix:///run/redis@1.sock?db=3&user=app&pass=hunter2",
        "unix:/run/redis.sock?user=app&pass=hunter2",
        "redis+unix:///run/redis.sock?pass=a%26hunter2",
        "valkey+unix:///run/redis.sock?pass=a&hunter2",
        "unix:///run/redis.sock?pass=a#hunter2",
        "redis://localhost?password=hunter2",
    ];

    /// URLs that are misread or not read at all.
    const WRONG: [&str; 16] = [
        "redis://:hunter2",
        "redis://:hunter2@",
        "redis://app:12/hunter2@localhost",
        "redis://app:12?hunter2@localhost",
        "redis://app:12#hunter2@localhost",
        "redis://hunter2/x@localhost",
        "redis://app:hunter2@ho st:port",
        "redis://app:hunter2@localhost:port",
        "redis://app:hunter2@localhost/first",
        "unix://app:hunter2@/run/redis.sock",
        "unix:run.sock?pass=hunter2",
        "http://app:hunter2@localhost",
        "app:hunter2@localhost",
        "hunter2",
        "redis://app:hunter2@0.0.0.0",
        "unix:///run/redis.sock?db=first&pass=hunter2",
    ];

    #[test]
    fn no_form_of_url_shows_its_password() {
        for url in CARRIED.into_iter().chain(WRONG) {
            let shown = without_credentials(url);
            assert!(!shown.contains("hunter2"), "{shown}");
            if let Ok(endpoint) = Endpoint::new(url) {
                assert!(!endpoint.address().contains("hunter2"), "{}", endpoint.address());
            }
        }
        for url in WRONG {
            assert_eq!(Endpoint::new(url).err(), Some(WrongUrl::Malformed), "{url}");
        }
    }

    #[test]
    fn a_url_keeps_what_is_no_secret() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost"),
            ("redis://app:x@localhost:6379/3", "redis://***@localhost:6379/3"),
            ("unix:///run/redis@1.sock?pass=x", "unix:///run/redis@1.sock"),
            ("http://localhost", "http://***"),
            ("localhost:6379", "***"),
            ("", ""),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }

    #[test]
    fn a_url_with_tls_works_or_names_the_feature() {
        for url in ["rediss://localhost", "valkeys://localhost:6380/1", "REDISS://localhost"] {
            let endpoint = Endpoint::new(url);
            if cfg!(feature = "tls") {
                let endpoint = endpoint.unwrap_or_else(|wrong| panic!("{url}: {wrong:?}"));
                let address = endpoint.info.addr();
                assert!(matches!(address, ConnectionAddr::TcpTls { .. }), "{address}");
                let unverified = Endpoint::new(&format!("{url}#insecure")).err();
                assert_eq!(unverified, Some(WrongUrl::Unverified));
            } else {
                assert_eq!(endpoint.err(), Some(WrongUrl::NeedsTls));
                assert!(WrongUrl::NeedsTls.allowed().contains("feature `tls`"));
            }
        }
    }
}
