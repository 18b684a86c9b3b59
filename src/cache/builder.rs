//! [`QueryCacheBuilder`]: the settings of a cache. [`build`](QueryCacheBuilder::build) checks them.

#[cfg(feature = "redis")]
mod redis;

use std::fmt;
use std::time::Duration;

use crate::cache::QueryCache;
#[cfg(feature = "redis")]
use crate::cache::redis_settings::RedisSettings;
use crate::clock::Clock;
use crate::follow::Follow;
#[cfg(any(test, feature = "test-util"))]
use crate::l2::memory::MemoryStore;
use crate::policy::{Negative, Settings};
use crate::value::codec::Codec;

/// Configures a [`QueryCache`]; made by [`QueryCache::builder`].
///
/// Every setting has a default. [`build`](QueryCacheBuilder::build) checks all of them together:
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
    pub(super) namespace: Option<String>,
    #[cfg(feature = "redis")]
    pub(super) redis: Option<RedisSettings>,
    #[cfg(any(test, feature = "test-util"))]
    pub(super) memory_store: Option<MemoryStore>,
    pub(super) max_bytes: u64,
    pub(super) concurrent_loads: usize,
    pub(super) prepared_statements: usize,
    pub(super) codec: Codec,
    pub(super) secret: Option<Secret>,
    pub(super) max_staleness: Duration,
    pub(super) disconnected_ttl: Option<Duration>,
    /// Set if this process follows the database.
    pub(super) max_blind: Option<Duration>,
    pub(super) publish_stats: Option<Duration>,
    pub(super) follow: Option<Follow>,
    pub(super) clock: Clock,
    pub(super) settings: Settings,
    pub(super) memory_off: bool,
}

/// A secret, which `Debug` does not show.
#[derive(Clone)]
pub(super) struct Secret(pub(super) Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
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
            prepared_statements: 256,
            codec: Codec::default(),
            secret: None,
            max_staleness: Duration::from_secs(1),
            disconnected_ttl: None,
            max_blind: None,
            publish_stats: None,
            follow: None,
            clock: Clock::system(),
            settings: Settings::default(),
            memory_off: false,
        }
    }
}

impl QueryCache {
    /// Returns a builder with the default settings.
    #[doc(alias = "new")]
    pub fn builder() -> QueryCacheBuilder {
        QueryCacheBuilder::default()
    }
}

impl QueryCacheBuilder {
    /// Sets the namespace of the results: a name for the application with its database.
    ///
    /// Caches of the same namespace on the same Redis share results. Give two databases two
    /// namespaces. From 1 to 64 ASCII letters, digits, `-`, `_` and `.`.
    ///
    /// # Default
    ///
    /// None. It must be set if a Redis is set.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Replaces Redis in tests: several caches of one process form a fleet without a server.
    ///
    /// If [`redis`](QueryCacheBuilder::redis) is set as well, it is not used. The cache can be
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

    /// Turns the memory tier off: every read asks Redis.
    ///
    /// Reads of a key that is being read already still share its answer. A result that may be served
    /// [stale](QueryCacheBuilder::stale_while_revalidate) is kept in memory for that purpose. A query
    /// cannot turn the tier on again by an `l1_ttl` of its own. Without Redis, every read is a load.
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

    /// Sets how much memory the results in this process may take, in bytes.
    ///
    /// A result counts with its encoded size plus about 390 bytes.
    ///
    /// # Default
    ///
    /// 256 MiB
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets how many loads of this cache may run at the same time, so that a cold start does not
    /// overload PostgreSQL.
    ///
    /// Further loads wait for a permit, within their deadline. A load that is started inside
    /// another load does not wait.
    ///
    /// # Default
    ///
    /// 32
    pub fn concurrent_loads(mut self, loads: usize) -> Self {
        self.concurrent_loads = loads;
        self
    }

    /// Sets how many prepared statements this cache keeps on each connection of a pool that it
    /// loads from, so that PostgreSQL's memory stays bounded however many texts of SQL there are.
    ///
    /// If there are more texts, the least recently used statement is closed. With 0, each load
    /// prepares its query, which takes one more round trip. Statements that the application itself
    /// prepares on the pool's connections are neither counted nor closed. Loads through an `Arc` of a
    /// client or [`TransactionPooling`](crate::TransactionPooling) keep no statements.
    ///
    /// # Default
    ///
    /// 256
    pub fn prepared_statements(mut self, statements: usize) -> Self {
        self.prepared_statements = statements;
        self
    }

    /// Sets how long a result lives in both tiers, counted from the end of its load.
    ///
    /// # Default
    ///
    /// 5 minutes
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = Some(ttl);
        self
    }

    /// Sets how long a copy in the memory of this process lives.
    ///
    /// At most the `ttl`. A copy never outlives the entry in Redis that it was read from.
    ///
    /// # Default
    ///
    /// The `ttl`
    pub fn l1_ttl(mut self, l1_ttl: Duration) -> Self {
        self.settings.l1_ttl = Some(l1_ttl);
        self
    }

    /// Shortens each lifetime at random, by up to this share of the `ttl`, from 0.0 to 0.5.
    ///
    /// Results that were loaded together then do not all expire together.
    ///
    /// # Default
    ///
    /// 0.0: every result lives for its whole `ttl`.
    pub fn jitter(mut self, jitter: f64) -> Self {
        self.settings.jitter = Some(jitter);
        self
    }

    /// Sets how long a load may take, including the wait for its permit and for other processes;
    /// see [`Query::load_deadline`](crate::Query::load_deadline).
    ///
    /// # Default
    ///
    /// 5 minutes
    pub fn load_deadline(mut self, deadline: Duration) -> Self {
        self.settings.load_deadline = Some(deadline);
        self
    }

    /// Sets the size of the largest result that is stored, in encoded bytes.
    ///
    /// A larger result is returned and is stored in neither tier. One that another process has stored
    /// in Redis in parts is not fetched.
    ///
    /// # Default
    ///
    /// 16 MiB
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_value_bytes = Some(bytes);
        self
    }

    /// Serves an expired result for this long after its `ttl`, while a new one is loaded; see
    /// [`Query::stale_while_revalidate`](crate::Query::stale_while_revalidate).
    ///
    /// # Default
    ///
    /// Zero: not at all.
    pub fn stale_while_revalidate(mut self, beyond: Duration) -> Self {
        self.settings.stale_while_revalidate = Some(beyond);
        self
    }

    /// Serves an expired result for this long after its `ttl`, if the load of a new one fails; see
    /// [`Query::stale_if_error`](crate::Query::stale_if_error).
    ///
    /// # Default
    ///
    /// Zero: not at all.
    pub fn stale_if_error(mut self, beyond: Duration) -> Self {
        self.settings.stale_if_error = Some(beyond);
        self
    }

    /// Lets [`stale_while_revalidate`](QueryCacheBuilder::stale_while_revalidate) and
    /// [`stale_if_error`](QueryCacheBuilder::stale_if_error) serve invalidated results, too; see
    /// [`Query::allow_invalidated`](crate::Query::allow_invalidated).
    ///
    /// # Default
    ///
    /// Off: invalidated results are never served.
    pub fn allow_invalidated(mut self) -> Self {
        self.settings.allow_invalidated = Some(true);
        self
    }

    /// Sets how long an empty result lives; see
    /// [`Query::negative_ttl`](crate::Query::negative_ttl).
    ///
    /// # Default
    ///
    /// The `ttl`, as for any other result.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.settings.negative_ttl = Some(ttl);
        self
    }

    /// Caches errors with these SQLSTATEs for this long; see
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

    /// Loads results again in the background before they expire; see
    /// [`Query::early_refresh`](crate::Query::early_refresh). From 0.0 to 100.0.
    ///
    /// # Default
    ///
    /// 0.0: never before the end.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.settings.early_refresh = Some(beta);
        self
    }

    /// Sets how long this process serves results from memory without an answer from Redis.
    ///
    /// It bounds the staleness in a process that is cut off from Redis. A process that is connected
    /// receives an invalidation within a millisecond or so. From 20 ms to 1 hour.
    ///
    /// While the cache is in use, its process asks Redis every quarter of this time whether anything
    /// was missed. Where hundreds of processes share a Redis, a longer time costs it less.
    ///
    /// A process that is left with a master which was deposed is not cut off: see
    #[cfg_attr(
        feature = "redis",
        doc = "[`redis_min_replicas`](QueryCacheBuilder::redis_min_replicas)."
    )]
    #[cfg_attr(not(feature = "redis"), doc = "`redis_min_replicas`.")]
    ///
    /// # Default
    ///
    /// 1 second
    pub fn max_staleness(mut self, max_staleness: Duration) -> Self {
        self.max_staleness = max_staleness;
        self
    }

    /// Sets how long a result is served while Redis is away for longer than
    /// [`max_staleness`](QueryCacheBuilder::max_staleness), counted from the beginning of its load.
    ///
    /// It applies to results that this process loaded. PostgreSQL receives at most one load per key
    /// and process in this time. A value above `max_staleness` is the bound on staleness while
    /// Redis is away. Up to 1 hour.
    ///
    /// # Default
    ///
    /// `max_staleness`
    pub fn disconnected_ttl(mut self, disconnected_ttl: Duration) -> Self {
        self.disconnected_ttl = Some(disconnected_ttl);
        self
    }

    /// Writes the statistics of this process to Redis at this interval. The command `larder` shows
    /// them for a whole fleet.
    ///
    /// They contain [`stats`](QueryCache::stats), [`query_stats`](QueryCache::query_stats), the
    /// status of the views of a [`Refresher`](crate::refresh::Refresher) that was given this cache,
    /// the host name and the process id. They are removed when the cache ends, and expire three
    /// intervals after the last write of the process. From 100 ms to 1 hour; a few seconds are a
    /// good choice.
    ///
    /// Each write is one round trip in the background, with some hundred bytes per query. No read
    /// waits for it. A failure is [counted](crate::stats::CacheStats::unpublished) and has no other
    /// effect. A Redis user with limited rights needs `+hkeys +hset +hdel` to write the statistics,
    /// and `+hgetall` to read them.
    ///
    /// # Default
    ///
    /// Nothing is published. An unused cache then sends nothing to Redis, and the names of queries
    /// and hosts are not visible to other users of that Redis.
    pub fn publish_stats(mut self, interval: Duration) -> Self {
        self.publish_stats = Some(interval);
        self
    }

    /// Follows the database: what is committed in it, by whomever, makes the results stale that were
    /// declared to read it by [`Query::table`](crate::Query::table).
    ///
    /// One process of a fleet reads PostgreSQL's stream of changes for all, and a second one stands
    /// by; without Redis each process reads for itself. It includes what triggers, cascades and other
    /// programs write, `COPY`, `TRUNCATE`, partitions with their parents, and changes of tables' and
    /// views' definitions. It does not include unlogged and foreign tables and sequences. Usually a
    /// change is known everywhere within a few milliseconds after others can see it.
    ///
    /// The server needs `wal_level = logical`, and one replication slot and two connections for each
    /// process that reads; the role needs the attribute `REPLICATION`. Nothing is installed, and no
    /// slot is left when the process ends. [`follow_stats`](crate::QueryCache::follow_stats) shows
    /// what the process does, and why if it cannot.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Follow, QueryCache};
    /// use tokio_postgres::{Config, NoTls};
    ///
    /// let primary: Config = "host=db.internal user=larder dbname=shop".parse()?;
    /// let cache = QueryCache::builder()
    ///     .namespace("shop")
    ///     .redis("redis://127.0.0.1:6379")
    ///     .follow(Follow::new(primary, NoTls))
    ///     .build()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Consistency
    ///
    /// After a commit has returned to whoever made it, no read that begins
    /// [`max_blind`](Follow::max_blind) later, in any process, is answered with a result that lacks it,
    /// whatever has failed meanwhile; for a change of a definition it is a second more. If no process
    /// can read the changes, a result is loaded again `max_blind` after the beginning of its load. A
    /// result with a [tag](crate::Query::tag) alone is stale when a change of the relation of that name
    /// has been announced, without a bound.
    ///
    /// No read waits for a follower, and none fails because of it.
    ///
    /// # Default
    ///
    /// The database is not followed.
    pub fn follow(mut self, follow: Follow) -> Self {
        self.max_blind = Some(follow.max_blind);
        self.follow = Some(follow);
        self
    }

    /// Authenticates entries in Redis: an entry that was written without this secret, or was
    /// changed, is a miss.
    ///
    /// All processes of a namespace need the same secret. At least 16 bytes, from a secure random
    /// source.
    ///
    /// Somebody who can write to this Redis but does not have the secret can still cause misses,
    /// restore an authentic entry within its lifetime, or withhold invalidations from processes
    /// that start later. The secret does not encrypt the entries.
    ///
    /// # Default
    ///
    /// None: entries are checked against accidental damage, not against forgery.
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.secret = Some(Secret(secret.into()));
        self
    }

    /// Sets how typed values are encoded in Redis.
    ///
    /// # Default
    ///
    /// [`Codec::Json`]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets the clock by which entries in memory expire. Tests use a
    /// [`ManualClock`](crate::testing::ManualClock).
    ///
    /// # Default
    ///
    /// The system's monotonic clock
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }
}
