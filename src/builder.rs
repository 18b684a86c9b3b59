//! [`QueryCacheBuilder`]: the settings of a cache, checked in one place.

mod build;

use std::fmt;
use std::time::Duration;

use crate::cache::QueryCache;
use crate::clock::Clock;
use crate::codec::Codec;
use crate::policy::{Negative, Settings};
#[cfg(any(test, feature = "test-util"))]
use crate::store::memory::MemoryStore;

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
    #[cfg(any(test, feature = "test-util"))]
    memory_store: Option<MemoryStore>,
    max_bytes: u64,
    concurrent_loads: usize,
    codec: Codec,
    secret: Option<Secret>,
    max_blind: Duration,
    blind_ttl: Option<Duration>,
    publish_stats: Option<Duration>,
    clock: Clock,
    settings: Settings,
    memory_off: bool,
}

/// Shown to nobody.
#[derive(Clone)]
struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
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
            #[cfg(any(test, feature = "test-util"))]
            memory_store: None,
            max_bytes: 256 << 20,
            concurrent_loads: 32,
            codec: Codec::default(),
            secret: None,
            max_blind: Duration::from_secs(1),
            blind_ttl: None,
            publish_stats: None,
            clock: Clock::system(),
            settings: Settings::default(),
            memory_off: false,
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
    /// Redis 6.2 or later, or Valkey. A user of limited rights needs this much (`ACL SETUSER`), with
    /// the namespace in the place of `shop`:
    ///
    /// ```text
    /// ~larder:shop:* resetchannels &larder:shop:* +ping +time +get +mget +pttl +zmscore
    /// +subscribe +eval +evalsha +info +zadd +zrangebyscore +persist +del +publish +getrange
    /// +setrange +set +pexpire
    /// ```
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

    /// Stands in for Redis in tests: several caches of one process form a fleet, without a server.
    /// A [`redis`](QueryCacheBuilder::redis) that is set as well is not asked. The cache can be
    /// built while the store is [disconnected](MemoryStore::disconnect).
    ///
    /// # Default
    ///
    /// None
    #[cfg(any(test, feature = "test-util"))]
    #[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
    pub fn memory_store(mut self, store: &MemoryStore) -> Self {
        self.memory_store = Some(store.clone());
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

    /// Turns the memory tier off: every read asks Redis.
    ///
    /// Reads that come while another read of the same key is under way still share its answer. A
    /// result that may be served [stale](QueryCacheBuilder::stale_while_revalidate) is kept in memory
    /// for that. No query can turn the tier on again by an `l1_ttl` of its own. Without Redis, every
    /// read is a load.
    ///
    /// Use it where a result must not outlive an invalidation by the milliseconds that a notice
    /// takes to arrive, or to measure Redis alone.
    ///
    /// # Default
    ///
    /// Results are kept in memory for the [`l1_ttl`](QueryCacheBuilder::l1_ttl).
    ///
    /// ```
    /// # use larder::{Origin, QueryCache};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let cache = QueryCache::builder().memory_off().build().await?;
    /// let one = cache.query("SELECT 1");
    /// for _ in 0..2 {
    ///     let read = one.load(|| async { Ok::<_, std::io::Error>(1_i32) });
    ///     // There is no Redis here either, so each read loads.
    ///     assert_eq!(read.answer().await?.origin(), Origin::Loaded);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn memory_off(mut self) -> Self {
        self.memory_off = true;
        self
    }

    /// How much memory the results in this process may take: their encoded size, and about 390
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

    /// For how long after its `ttl` a result is still served, while a new one is loaded; see
    /// [`Query::stale_while_revalidate`](crate::Query::stale_while_revalidate).
    ///
    /// # Default
    ///
    /// Zero: not at all.
    pub fn stale_while_revalidate(mut self, beyond: Duration) -> Self {
        self.settings.stale_while_revalidate = Some(beyond);
        self
    }

    /// For how long after its `ttl` a result is still served if the load of a new one fails; see
    /// [`Query::stale_if_error`](crate::Query::stale_if_error).
    ///
    /// # Default
    ///
    /// Zero: not at all.
    pub fn stale_if_error(mut self, beyond: Duration) -> Self {
        self.settings.stale_if_error = Some(beyond);
        self
    }

    /// Lets the two above serve results that were invalidated, too; see
    /// [`Query::allow_invalidated`](crate::Query::allow_invalidated).
    ///
    /// # Default
    ///
    /// Invalidated results are never served.
    pub fn allow_invalidated(mut self) -> Self {
        self.settings.allow_invalidated = Some(true);
        self
    }

    /// How long an empty result lives; see [`Query::negative_ttl`](crate::Query::negative_ttl).
    ///
    /// # Default
    ///
    /// The `ttl`, like any other.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.settings.negative_ttl = Some(ttl);
        self
    }

    /// Keeps errors of these SQLSTATEs as answers for so long; see
    /// [`Query::negative_sqlstates`](crate::Query::negative_sqlstates).
    ///
    /// # Default
    ///
    /// None: an error is never cached.
    pub fn negative_sqlstates<S: AsRef<str>>(
        mut self,
        sqlstates: impl IntoIterator<Item = S>,
        ttl: Duration,
    ) -> Self {
        self.settings.negative_sqlstates = Some(Negative::new(sqlstates, ttl));
        self
    }

    /// Loads results anew before their life ends; see
    /// [`Query::early_refresh`](crate::Query::early_refresh). From 0.0 to 100.0.
    ///
    /// # Default
    ///
    /// 0.0: not before the end.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.settings.early_refresh = Some(beta);
        self
    }

    /// How long this process serves results from memory without a word from Redis. It is the bound
    /// on staleness for a process that is cut off; one that is not hears of an invalidation within
    /// a millisecond or so. From 20 ms to 1 hour.
    ///
    /// # Default
    ///
    /// 1 second
    pub fn max_blind(mut self, max_blind: Duration) -> Self {
        self.max_blind = max_blind;
        self
    }

    /// While Redis is away for longer than [`max_blind`](QueryCacheBuilder::max_blind), a result is
    /// served for so long after its load began, so that PostgreSQL sees at most one load per key
    /// and process in this time. Above `max_blind` it is the bound on staleness in such times. Up to
    /// 1 hour.
    ///
    /// # Default
    ///
    /// `max_blind`
    pub fn blind_ttl(mut self, blind_ttl: Duration) -> Self {
        self.blind_ttl = Some(blind_ttl);
        self
    }

    /// Writes this process's numbers into Redis at this interval, for the command `larder`, which
    /// shows those of a whole fleet: what [`stats`](QueryCache::stats) and
    /// [`query_stats`](QueryCache::query_stats) say, how it stands with the views of a
    /// [`Refresher`](crate::Refresher) that was given this cache, host name and process number. They
    /// are gone when the cache has ended, or three intervals after its process was last heard of.
    /// From 100 ms to 1 hour; some seconds are good.
    ///
    /// Each time is one round trip in the background, of some hundred bytes for each query. No read
    /// waits for it, and if it fails that is
    /// [counted](crate::CacheStats::unpublished) and nothing else. A user of Redis of limited rights
    /// needs `+hkeys +hset +hdel` for it, and `+hgetall` to read it.
    ///
    /// # Default
    ///
    /// Nothing is published: a cache that nobody uses sends nothing to Redis, and names of queries
    /// and hosts are for nobody to read who has no business with them.
    pub fn publish_stats(mut self, interval: Duration) -> Self {
        self.publish_stats = Some(interval);
        self
    }

    /// Authenticates entries in Redis: one that was not written with this secret, or was changed, is
    /// a miss. All processes of a namespace need the same. At least 16 bytes, from a good source.
    ///
    /// Who can write to this Redis without the secret can still make results miss, bring back an
    /// authentic one within its life, or hold back invalidations from processes that start anew. It
    /// does not hide what stands in Redis.
    ///
    /// # Default
    ///
    /// None: entries are checked against accidents, not against forgery.
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.secret = Some(Secret(secret.into()));
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
}

/// A URL that may be misspelt anywhere, without what could be a password.
#[cfg(feature = "redis")]
pub(crate) fn without_credentials(url: &str) -> String {
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
