//! The settings of a cache that are about Redis.

use std::error::Error as StdError;
use std::future::Future;
use std::time::Duration;

use super::QueryCacheBuilder;
use crate::cache::redis_settings::RedisSettings;
use crate::credentials::CredentialsProvider;
use crate::l2::redis::MinReplicas;
use crate::l2::redis::credentials::RedisCredentials;
#[cfg(feature = "tls")]
use crate::l2::redis::tls::RedisTls;

impl QueryCacheBuilder {
    /// Sets the Redis through which processes share results:
    /// `redis://[user:password@]host[:port][/database]`, `rediss://…` for TLS (with the feature
    /// `tls`), or `unix:///path/to.sock`. The parameters `db` and `protocol` are known, and of a socket
    /// also `user` and `pass`; any other is an error.
    ///
    /// In a user or a password, `@` is written as `%40`, `/` as `%2F`, `?` as `%3F`, `#` as `%23` and
    /// `%` as `%25`. No message of the library shows the password.
    /// [`redis_credentials`](QueryCacheBuilder::redis_credentials) supplies one that changes.
    ///
    /// The address is resolved at every connect. If the server is demoted to a replica, or loses its
    /// data or its role in another way, the connection is given up, and the server that the address
    /// names then is used within a second.
    ///
    /// Redis 6.2 or later, or Valkey. A Redis user with limited rights needs these (`ACL SETUSER`),
    /// with the namespace instead of `shop`:
    ///
    /// ```text
    /// ~larder:shop:* resetchannels &larder:shop:* +ping +time +get +mget +pttl +zmscore
    /// +subscribe +eval +evalsha +info +zadd +zrangebyscore +persist +del +publish +getrange
    /// +setrange +set +pexpire
    /// ```
    ///
    /// `build` tries them, and its error names those that are missing. A URL with a database other than
    /// 0 needs `+select` as well.
    ///
    /// # Default
    ///
    /// None: results are kept in the memory of this process only.
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn redis(mut self, url: impl Into<String>) -> Self {
        self.redis_settings().url = url.into();
        self
    }

    /// Sets the certificates of a `rediss://` URL: private authorities, a client certificate.
    ///
    /// # Default
    ///
    /// The authorities that the system trusts, and no client certificate.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn redis_tls(mut self, tls: RedisTls) -> Self {
        self.redis_settings().tls = Some(tls);
        self
    }

    /// Sets a closure that is asked for the user and the password at every connect, for passwords
    /// that are rotated and for tokens that expire.
    ///
    /// It replaces the credentials in the [`redis`](QueryCacheBuilder::redis) URL. It runs on the
    /// runtime of the cache's background tasks. It may take up to 10 seconds; queries go to PostgreSQL
    /// meanwhile. Each process has two connections, so it is asked twice at the start, and once more when
    /// the first result above 256 KiB is moved, which has a connection of its own.
    ///
    /// Redis keeps a connection that has authenticated when its password is changed. It closes the
    /// connection when the user is deleted, and some services close it when a token expires. Then,
    /// and after `NOAUTH` or a lost right (`NOPERM`), the cache connects again with new credentials.
    ///
    /// If the closure fails or panics, or if Redis refuses the credentials, the closure is asked
    /// again after at most half a second. This is
    /// [counted](crate::stats::CacheStats::refused_credentials), and an event shows what Redis
    /// replied, or the closure's error, which must not contain a secret.
    ///
    /// # Default
    ///
    /// The user and the password of the URL, if it has any.
    ///
    /// ```no_run
    /// # use larder::{QueryCache, RedisCredentials};
    /// # async fn token() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let cache = QueryCache::builder()
    ///     .namespace("shop")
    ///     .redis("rediss://cache.internal:6379")
    ///     .redis_credentials(|| async { Ok(RedisCredentials::new("shop", token().await?)) })
    ///     .build()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn redis_credentials<C>(
        mut self,
        credentials: impl Fn() -> C + Send + Sync + 'static,
    ) -> Self
    where
        C: Future<Output = Result<RedisCredentials, Box<dyn StdError + Send + Sync>>>
            + Send
            + 'static,
    {
        self.redis_settings().credentials = Some(CredentialsProvider::new(credentials));
        self
    }

    /// Lets `build` succeed although Redis does not answer. Redis is used as soon as it answers.
    ///
    /// # Default
    ///
    /// Off: `build` fails if Redis does not answer, since an unreachable Redis at the start is most
    /// likely a mistake in the configuration.
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn redis_optional(mut self) -> Self {
        self.redis_settings().optional = true;
        self
    }

    /// Sets how long a read waits for Redis before it goes on to PostgreSQL.
    ///
    /// Time in which this process had no processor is not counted, since the reply may have arrived
    /// then. On a machine that is short of processor time a read may wait longer by that.
    ///
    /// After two such waits in a row the connection is tested, for 500 ms or for this time if that is
    /// longer. If no reply comes at all, it is given up, and reads pass Redis at once until there is
    /// another one. An invalidation may take a second, and the request that keeps results in memory
    /// current half of [`max_staleness`](QueryCacheBuilder::max_staleness).
    ///
    /// A result above 256 KiB is moved on a connection of its own, and has more time: as long as its
    /// load took, which counts as at least its size at 32 MiB a second and at most its size at 2 MiB a
    /// second. It may wait as long again for others that are moved. If that does not suffice, the read
    /// goes on to PostgreSQL, and so do those of the next minute. This is
    /// [counted](crate::stats::CacheStats::l2_too_slow).
    ///
    /// # Default
    ///
    /// 50 ms
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn redis_timeout(mut self, timeout: Duration) -> Self {
        self.redis_settings().timeout = timeout;
        self
    }

    /// Demands that the master has at least `replicas` replicas which it has heard of within
    /// `max_lag`, and believes nothing that a master with fewer of them says.
    ///
    /// A master that is cut off from its replicas, and not from all of its clients, may be replaced
    /// while it still answers. The processes that still reach it do not hear of the invalidations that
    /// its successor acknowledges. With this setting they notice: their results are stale for
    /// [`max_staleness`](QueryCacheBuilder::max_staleness) + `max_lag` + one second at most, from the
    /// acknowledgement. The settings `min-replicas-to-write` and `min-replicas-max-lag` of the server
    /// have the same effect. With neither of them there is no such bound.
    ///
    /// While replicas are missing, reads go to PostgreSQL, and invalidations are kept and announced
    /// later. [`build`](QueryCacheBuilder::build) fails then, unless
    /// [`redis_optional`](QueryCacheBuilder::redis_optional) is set. A master of which the only replica
    /// was promoted has none left: with `replicas` = 1, use two.
    ///
    /// Redis counts the lag in whole seconds and hears of each replica once a second. So `max_lag` is
    /// rounded down to seconds and is at least one.
    ///
    /// # Default
    ///
    /// None are demanded, since most servers have no replicas.
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn redis_min_replicas(mut self, replicas: u8, max_lag: Duration) -> Self {
        self.redis_settings().min_replicas = MinReplicas { replicas, max_lag };
        self
    }

    fn redis_settings(&mut self) -> &mut RedisSettings {
        self.redis.get_or_insert_default()
    }
}
