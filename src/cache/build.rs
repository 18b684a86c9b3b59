//! [`QueryCacheBuilder::build`]: checks the settings and puts the parts of a cache together.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use super::builder::QueryCacheBuilder;
#[cfg(feature = "redis")]
use super::redis_settings::RedisSettings;
use crate::background::Background;
use crate::cache::QueryCache;
use crate::cache::build_error::{BuildError, Kind};
use crate::cache::collector::Collector;
use crate::cache::inner::{Inner, Phase};
use crate::cache::large::SlowKeys;
use crate::cache::publisher::Publisher;
use crate::currency::Currency;
use crate::error::WrongSetting;
use crate::fleet::Fleet;
use crate::fleet::following::{Alone, Following};
use crate::fleet::heartbeat::Heartbeat;
use crate::fleet::notices::Notices;
use crate::flight::Flights;
use crate::follow::{self, Follower};
use crate::l1::{L1, Sweeper};
use crate::l2::Store;
#[cfg(feature = "redis")]
use crate::l2::redis::endpoint::Endpoint;
#[cfg(feature = "redis")]
use crate::l2::redis::url::without_credentials;
use crate::learn::known::Learning;
use crate::policy::{MAX_BLIND, MEMORY_OFF, Policy};
use crate::postgres::Statements;
use crate::rows::ColumnSets;
use crate::telemetry::counters::Counters;
#[cfg(feature = "metrics")]
use crate::telemetry::metrics::Reporter;
use crate::value::key::MacKey;

const NAMESPACE: &str = "l1";
const LONGEST_NAMESPACE: usize = 64;
const SLOWEST_FOLLOWER: RangeInclusive<Duration> =
    Duration::from_millis(200)..=Duration::from_secs(60 * 60);
/// A shorter secret can be guessed.
const SHORTEST_SECRET: usize = 16;

impl QueryCacheBuilder {
    /// Checks the settings, connects to Redis if one is set, and builds the cache.
    ///
    /// # Errors
    ///
    /// - A setting is out of range. The error names it, the given value and the allowed ones.
    /// - Redis does not answer, or refuses the credentials or the commands that the cache needs,
    ///   unless it is [optional](QueryCacheBuilder::redis_optional).
    /// - The database is to be [followed](QueryCacheBuilder::follow), and a setting, a right or the
    ///   address does not allow it: `wal_level`, the attribute `REPLICATION`, a pooler or a standby, the
    ///   database, the user or the password. A server that cannot be reached now, or has no slot or
    ///   connection left, is no error: it is tried again.
    /// - The call is outside of a Tokio runtime.
    pub async fn build(self) -> Result<QueryCache, BuildError> {
        let runtime = Handle::try_current().map_err(|_| BuildError::new(Kind::NoRuntime))?;
        let background = Background::on(runtime);
        let mut policy = Policy::default().with(&self.settings)?;
        if self.memory_off {
            policy.l1_ttl = MEMORY_OFF;
        }
        let namespace = self.checked_namespace()?;
        if self.max_bytes == 0 {
            return Err(wrong("max_bytes", "0", "at least 1 byte"));
        }
        if self.concurrent_loads == 0 || self.concurrent_loads > Semaphore::MAX_PERMITS {
            let allowed = "at least 1 load, and no more than memory could hold";
            return Err(wrong("concurrent_loads", self.concurrent_loads, allowed));
        }
        let disconnected_ttl = self.checked_blindness()?;
        if self.secret.as_ref().is_some_and(|secret| secret.0.len() < SHORTEST_SECRET) {
            let allowed = "at least 16 bytes";
            return Err(wrong("secret", "shorter than that", allowed));
        }
        if let Some(every) = self.publish_stats
            && !(Duration::from_millis(100)..=Duration::from_secs(60 * 60)).contains(&every)
        {
            let allowed = "from 100 milliseconds to 1 hour";
            return Err(wrong("publish_stats", format_args!("{every:?}"), allowed));
        }
        if let Some(follow) = &self.follow {
            if !SLOWEST_FOLLOWER.contains(&follow.max_blind) {
                let given = format_args!("{:?}", follow.max_blind);
                return Err(wrong("max_blind", given, "from 200 milliseconds to 1 hour"));
            }
            follow::check(follow)
                .await
                .map_err(|failure| BuildError::new(Kind::NotFollowed(failure)))?;
        }
        let counters = Arc::new(Counters::new(&namespace));
        let (currency, fleet) = self.fleet(&background, &namespace, &counters).await?;
        let follower = self.follow.map(|follow| {
            let following = match &fleet {
                Some(fleet) => Following::Fleet(fleet.clone()),
                None => Following::Alone(Arc::new(Alone::new(
                    currency.clone(),
                    counters.clone(),
                    self.clock.clone(),
                    follow.max_blind,
                ))),
            };
            let clock = self.clock.clone();
            Follower::start(&background, follow, &namespace, following, clock, counters.clone())
        });
        let l1 = L1::new(self.max_bytes);
        let collector = Collector::new(counters.clone(), l1.clone(), self.max_bytes);
        let publisher = fleet.as_ref().zip(self.publish_stats).map(|(fleet, every)| {
            Publisher::start(&background, fleet.store.clone(), collector.clone(), every)
        });
        #[cfg(feature = "metrics")]
        let reporter = Reporter::start(
            &background,
            Box::new({
                let collector = collector.clone();
                move || {
                    let queries = collector.of_queries();
                    (collector.of_cache(&queries), queries)
                }
            }),
            &namespace,
        );
        let inner = Inner {
            follower,
            fleet,
            _sweeper: Sweeper::start(&background, l1.clone(), self.clock.clone()),
            namespace,
            policy,
            codec: self.codec,
            secret: self.secret.map(|secret| MacKey::of_secret(&secret.0)),
            clock: self.clock,
            currency,
            disconnected_ttl,
            max_blind: self.max_blind.unwrap_or(MAX_BLIND),
            l1,
            flights: Flights::default(),
            slow_reads: SlowKeys::default(),
            slow_writes: SlowKeys::default(),
            loads: Semaphore::new(self.concurrent_loads),
            concurrent_loads: self.concurrent_loads,
            columns: Arc::new(ColumnSets::default()),
            learning: Learning::default(),
            statements: Arc::new(Statements::new(self.prepared_statements)),
            counters,
            collector,
            publisher,
            #[cfg(feature = "metrics")]
            _reporter: reporter,
            closing: watch::Sender::new(Phase::Open),
            background,
        };
        Ok(QueryCache::over(Arc::new(inner)))
    }

    fn checked_blindness(&self) -> Result<Duration, BuildError> {
        const LONGEST: Duration = Duration::from_secs(60 * 60);
        const SHORTEST: Duration = Duration::from_millis(20);
        let (max_staleness, disconnected_ttl) =
            (self.max_staleness, self.disconnected_ttl.unwrap_or(self.max_staleness));
        if !(SHORTEST..=LONGEST).contains(&max_staleness) {
            let allowed = "from 20 milliseconds to 1 hour";
            return Err(wrong("max_staleness", format_args!("{max_staleness:?}"), allowed));
        }
        if disconnected_ttl > LONGEST {
            return Err(wrong(
                "disconnected_ttl",
                format_args!("{disconnected_ttl:?}"),
                "up to 1 hour",
            ));
        }
        Ok(disconnected_ttl)
    }

    /// The table of invalidations, and the connection to the shared tier that updates it, if there
    /// is one.
    async fn fleet(
        &self,
        background: &Background,
        namespace: &str,
        counters: &Arc<Counters>,
    ) -> Result<(Arc<Currency>, Option<Arc<Fleet>>), BuildError> {
        let notices = Arc::new(Notices::new(Arc::new(Currency::shared())));
        let Some(store) = self.store(background, namespace, &notices, counters).await? else {
            return Ok((Arc::new(Currency::alone()), None));
        };
        let heartbeat = Heartbeat::start(
            background,
            store.clone(),
            notices.clone(),
            counters.clone(),
            self.clock.clone(),
            self.max_staleness,
            self.max_blind,
        );
        let currency = notices.currency.clone();
        let fleet = Fleet::new(store, notices, heartbeat, self.clock.clone(), background.clone());
        Ok((currency, Some(Arc::new(fleet))))
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

    async fn store(
        &self,
        background: &Background,
        namespace: &str,
        notices: &Arc<Notices>,
        counters: &Arc<Counters>,
    ) -> Result<Option<Arc<dyn Store>>, BuildError> {
        #[cfg(any(test, feature = "test-util"))]
        if let Some(store) = &self.memory_store {
            return Ok(Some(Arc::new(store.join(namespace, notices.clone()))));
        }
        self.redis_store(background, namespace, notices, counters).await
    }

    #[cfg(not(feature = "redis"))]
    async fn redis_store(
        &self,
        _: &Background,
        _: &str,
        _: &Arc<Notices>,
        _: &Arc<Counters>,
    ) -> Result<Option<Arc<dyn Store>>, BuildError> {
        Ok(None)
    }

    #[cfg(feature = "redis")]
    async fn redis_store(
        &self,
        background: &Background,
        namespace: &str,
        notices: &Arc<Notices>,
        counters: &Arc<Counters>,
    ) -> Result<Option<Arc<dyn Store>>, BuildError> {
        use crate::l2::redis::{Connection, Names, RedisStore};

        const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
        const LONGEST_LAG: Duration = Duration::from_secs(3600);

        let Some(redis) = &self.redis else { return Ok(None) };
        let RedisSettings { optional, timeout, min_replicas, .. } = redis;
        if timeout.is_zero() || *timeout > LONGEST_TIMEOUT {
            let allowed = "more than zero, up to 60 seconds";
            return Err(wrong("redis_timeout", format_args!("{timeout:?}"), allowed));
        }
        let lags = Duration::from_secs(1)..=LONGEST_LAG;
        if min_replicas.replicas > 0 && !lags.contains(&min_replicas.max_lag) {
            let allowed = "a lag from one second to one hour";
            let given = format_args!("{:?}", min_replicas.max_lag);
            return Err(wrong("redis_min_replicas", given, allowed));
        }
        let endpoint = redis.endpoint()?;
        let names = Names::new(namespace, endpoint.database());
        let endpoint = endpoint.with_directory(names.directory());
        let link = Connection::new(endpoint, *timeout, Some(counters.clone()), background);
        let address = link.address();
        if *optional {
            link.connect_later();
        } else if let Err(error) = link.connect().await {
            return Err(BuildError::no_connection(address, error, &names));
        }
        let store = RedisStore::new(link, namespace, notices.clone());
        let store = store.with_min_replicas(*min_replicas);
        if !optional && let Err(error) = store.check().await {
            return Err(BuildError::refused(address, error, &names));
        }
        Ok(Some(Arc::new(store)))
    }
}

#[cfg(feature = "redis")]
impl RedisSettings {
    fn endpoint(&self) -> Result<Endpoint, BuildError> {
        let url = &self.url;
        let not_allowed =
            |allowed: &str| wrong("redis", format_args!("{:?}", without_credentials(url)), allowed);
        let endpoint = Endpoint::new(url).map_err(|error| not_allowed(&error.allowed()))?;
        let endpoint = endpoint.with_provider(self.credentials.clone());
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            if !endpoint.is_tls() {
                return Err(not_allowed("a URL that begins with rediss:// if `redis_tls` is set"));
            }
            return endpoint.with_tls(tls).map_err(|error| {
                let allowed = "certificates and keys as PEM";
                wrong("redis_tls", format_args!("not usable ({error})"), allowed)
            });
        }
        Ok(endpoint)
    }
}

fn wrong(setting: &'static str, given: impl fmt::Display, allowed: &str) -> BuildError {
    WrongSetting { setting, given: given.to_string(), allowed: allowed.to_owned() }.into()
}
