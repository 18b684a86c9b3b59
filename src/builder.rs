//! [`QueryCacheBuilder`]: the settings of a cache, checked in one place.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::cache::{Core, QueryCache};
use crate::clock::Clock;
use crate::codec::Codec;
use crate::error::BoxError;
use crate::flight::Flights;
use crate::local::{Local, Sweeper};
use crate::policy::{Policy, Settings, WrongSetting};
use crate::rows::ColumnSets;
use crate::stats::Counters;
use crate::store::Store;

const NAMESPACE: &str = "local";
const LONGEST_NAMESPACE: usize = 64;

/// Configures a [`QueryCache`]; made by [`QueryCache::builder`].
///
/// All settings have defaults. They are checked together in [`build`](QueryCacheBuilder::build):
///
/// ```
/// # use std::time::Duration;
/// # use larder::QueryCache;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let minute = Duration::from_secs(60);
/// let error = QueryCache::builder().ttl(minute).l1_ttl(5 * minute).build().await.unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "the cache cannot be built: `l1_ttl` is 300s; allowed: at most the `ttl`, which is 60s"
/// );
/// # }
/// ```
#[must_use = "a builder does nothing until `build` is called"]
#[derive(Debug, Clone)]
pub struct QueryCacheBuilder {
    namespace: Option<String>,
    #[cfg(feature = "redis")]
    redis: Option<RedisSettings>,
    max_bytes: u64,
    concurrent_loads: usize,
    codec: Codec,
    clock: Clock,
    settings: Settings,
}

#[cfg(feature = "redis")]
#[derive(Clone)]
struct RedisSettings {
    url: String,
    optional: bool,
    timeout: Duration,
}

impl Default for QueryCacheBuilder {
    fn default() -> QueryCacheBuilder {
        QueryCacheBuilder {
            namespace: None,
            #[cfg(feature = "redis")]
            redis: None,
            max_bytes: 256 << 20,
            concurrent_loads: 32,
            codec: Codec::default(),
            clock: Clock::system(),
            settings: Settings::default(),
        }
    }
}

impl QueryCache {
    /// Starts a cache's configuration.
    pub fn builder() -> QueryCacheBuilder {
        QueryCacheBuilder::default()
    }
}

impl QueryCacheBuilder {
    /// Names what the cache's results belong to: an application with its database. Caches of the
    /// same namespace on the same Redis share results; give two databases two namespaces.
    ///
    /// From 1 to 64 ASCII letters, digits, `-`, `_` and `.`.
    ///
    /// # Default
    ///
    /// None; it must be set if there is a Redis to share.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// The Redis to share results through: `redis://[user:password@]host[:port][/database]`, or
    /// `unix:///path/to.sock`.
    ///
    /// A user of limited rights needs the commands `PING`, `TIME`, `GET`, `PTTL` and `SET`, on keys
    /// that begin with `larder:` and the namespace.
    ///
    /// # Default
    ///
    /// None: results stay in this process's memory.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn redis(mut self, url: impl Into<String>) -> Self {
        self.redis_settings().url = url.into();
        self
    }

    /// Lets the cache start although Redis does not answer. It is used as soon as it does.
    ///
    /// # Default
    ///
    /// Without it, `build` fails then: at a start, an unreachable Redis is most likely a mistake in
    /// the configuration.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn redis_optional(mut self) -> Self {
        self.redis_settings().optional = true;
        self
    }

    /// How long a read waits for Redis before it goes on to PostgreSQL.
    ///
    /// # Default
    ///
    /// 50 ms
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn redis_timeout(mut self, timeout: Duration) -> Self {
        self.redis_settings().timeout = timeout;
        self
    }

    #[cfg(feature = "redis")]
    fn redis_settings(&mut self) -> &mut RedisSettings {
        self.redis.get_or_insert_with(|| RedisSettings {
            url: String::new(),
            optional: false,
            timeout: Duration::from_millis(50),
        })
    }

    /// How much memory the results in this process may take: their encoded size, and about 320
    /// bytes for each.
    ///
    /// # Default
    ///
    /// 256 MiB
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How many loads may run at a time, so that a cold start does not run PostgreSQL over. Others
    /// wait for their turn, within their deadline. A load made from within another load does not
    /// wait.
    ///
    /// # Default
    ///
    /// 32
    pub fn concurrent_loads(mut self, loads: usize) -> Self {
        self.concurrent_loads = loads;
        self
    }

    /// How long a result lives, from the end of its load, in both tiers.
    ///
    /// # Default
    ///
    /// 5 minutes
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = Some(ttl);
        self
    }

    /// How long a copy in this process's memory lives: at most the `ttl`, and never longer than the
    /// entry in Redis that it was read from.
    ///
    /// # Default
    ///
    /// The `ttl`
    pub fn l1_ttl(mut self, l1_ttl: Duration) -> Self {
        self.settings.l1_ttl = Some(l1_ttl);
        self
    }

    /// The share of the `ttl`, from 0.0 to 0.5, by which lives are shortened at random, so that
    /// results loaded together do not all expire together.
    ///
    /// # Default
    ///
    /// 0.0: every result lives for its whole `ttl`.
    pub fn jitter(mut self, jitter: f64) -> Self {
        self.settings.jitter = Some(jitter);
        self
    }

    /// How long a load may take, waiting for its turn included.
    ///
    /// # Default
    ///
    /// 5 minutes
    pub fn load_deadline(mut self, deadline: Duration) -> Self {
        self.settings.load_deadline = Some(deadline);
        self
    }

    /// The largest result that is stored, in encoded bytes. Larger ones are answered and not
    /// stored, in either tier.
    ///
    /// # Default
    ///
    /// 16 MiB
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_value_bytes = Some(bytes);
        self
    }

    /// How typed values are written in Redis.
    ///
    /// # Default
    ///
    /// [`Codec::Json`]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// The clock that entries in memory expire by: a [`ManualClock`](crate::ManualClock) in tests.
    ///
    /// # Default
    ///
    /// The system's monotonic clock
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// Checks the settings, connects to Redis if there is one, and makes the cache.
    ///
    /// # Errors
    ///
    /// A setting out of range, with what was given and what is allowed; a Redis that does not
    /// answer, unless it is [optional](QueryCacheBuilder::redis_optional); no Tokio runtime around.
    pub async fn build(self) -> Result<QueryCache, BuildError> {
        let runtime = Handle::try_current().map_err(|_| BuildError(Kind::NoRuntime))?;
        let policy = Policy::default().with(&self.settings)?;
        let namespace = self.checked_namespace()?;
        if self.max_bytes == 0 {
            return Err(wrong("max_bytes", "0", "at least 1 byte"));
        }
        if self.concurrent_loads == 0 || self.concurrent_loads > Semaphore::MAX_PERMITS {
            let allowed = "at least 1 load, and no more than memory could hold";
            return Err(wrong("concurrent_loads", self.concurrent_loads, allowed));
        }
        let store = self.store(&namespace).await?;
        let local = Local::new(self.max_bytes);
        let core = Core {
            store,
            _sweeper: Sweeper::start(local.clone(), self.clock.clone()),
            namespace,
            policy,
            codec: self.codec,
            clock: self.clock,
            local,
            flights: Flights::default(),
            loads: Semaphore::new(self.concurrent_loads),
            columns: Arc::new(ColumnSets::default()),
            counters: Counters::default(),
            runtime,
        };
        Ok(QueryCache(Arc::new(core)))
    }

    fn checked_namespace(&self) -> Result<String, BuildError> {
        let Some(namespace) = &self.namespace else {
            #[cfg(feature = "redis")]
            if self.redis.is_some() {
                let allowed = "a name for what this cache's results belong to, since Redis may be \
                               shared with others";
                return Err(wrong("namespace", "not set", allowed));
            }
            return Ok(NAMESPACE.to_owned());
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if (1..=LONGEST_NAMESPACE).contains(&namespace.len()) && namespace.bytes().all(legal) {
            return Ok(namespace.clone());
        }
        let allowed = "1 to 64 ASCII letters, digits, `-`, `_` and `.`";
        Err(wrong("namespace", format_args!("{namespace:?}"), allowed))
    }

    #[cfg(not(feature = "redis"))]
    async fn store(&self, _: &str) -> Result<Option<Box<dyn Store>>, BuildError> {
        Ok(None)
    }

    #[cfg(feature = "redis")]
    async fn store(&self, namespace: &str) -> Result<Option<Box<dyn Store>>, BuildError> {
        use crate::redis::{Link, RedisStore};

        const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

        let Some(RedisSettings { url, optional, timeout }) = &self.redis else {
            return Ok(None);
        };
        if timeout.is_zero() || *timeout > LONGEST_TIMEOUT {
            let allowed = "more than zero, up to 60 seconds";
            return Err(wrong("redis_timeout", format_args!("{timeout:?}"), allowed));
        }
        let link = Link::new(url, *timeout).map_err(|_| {
            let allowed = "redis://[user:password@]host[:port][/database] or unix:///path/to.sock";
            wrong("redis", format_args!("{:?}", without_credentials(url)), allowed)
        })?;
        if *optional {
            link.connect_later();
        } else if let Err(error) = link.connect().await {
            let address = link.address();
            return Err(BuildError(Kind::Unreachable { address, source: error.into() }));
        }
        Ok(Some(Box::new(RedisStore::new(link, namespace))))
    }
}

/// A URL that may be misspelt anywhere, without what could be a password.
#[cfg(feature = "redis")]
fn without_credentials(url: &str) -> String {
    match url.rsplit_once('@') {
        None => url.to_owned(),
        Some((credentials, server)) => {
            let scheme = credentials.split_once("://").map_or("", |(scheme, _)| scheme);
            format!("{scheme}://***@{server}")
        }
    }
}

#[cfg(feature = "redis")]
impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("url", &without_credentials(&self.url))
            .field("optional", &self.optional)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Why a cache could not be made: a setting out of range, or a Redis that does not answer.
///
/// The message names the setting, what was given and what is allowed. It holds no password.
pub struct BuildError(Kind);

#[derive(Debug)]
enum Kind {
    Setting(WrongSetting),
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    Unreachable {
        address: String,
        source: BoxError,
    },
    NoRuntime,
}

impl BuildError {
    /// The builder's method whose value was refused, if one was.
    pub fn setting(&self) -> Option<&'static str> {
        match &self.0 {
            Kind::Setting(wrong) => Some(wrong.setting),
            _ => None,
        }
    }

    /// Whether it is Redis that did not answer.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.0, Kind::Unreachable { .. })
    }
}

fn wrong(setting: &'static str, given: impl fmt::Display, allowed: &str) -> BuildError {
    WrongSetting { setting, given: given.to_string(), allowed: allowed.to_owned() }.into()
}

impl From<WrongSetting> for BuildError {
    fn from(wrong: WrongSetting) -> BuildError {
        BuildError(Kind::Setting(wrong))
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Setting(wrong) => write!(f, "the cache cannot be built: {wrong}"),
            Kind::Unreachable { address, .. } => write!(
                f,
                "the cache cannot be built: redis at {address} does not answer; start it, correct \
                 the url, or call `redis_optional` to begin without it"
            ),
            Kind::NoRuntime => f.write_str(
                "the cache cannot be built: there is no tokio runtime here; call `build` from \
                 within one, such as a function under `#[tokio::main]`",
            ),
        }
    }
}

impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BuildError").field(&self.to_string()).finish()
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Kind::Unreachable { source, .. } => Some(&**source),
            _ => None,
        }
    }
}
