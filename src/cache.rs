//! [`QueryCache`]: the path of a read, top to bottom.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::answer::{Answer, Origin};
use crate::clock::{self, Clock, Instant};
use crate::codec::Codec;
use crate::entry::{self, Header};
use crate::error::Error;
use crate::flight::{Arrival, Flight, Flights, Joined};
use crate::key::CacheKey;
use crate::local::{Held, Local, Sweeper};
use crate::policy::Policy;
use crate::rows::ColumnSets;
use crate::stats::{CacheStats, Counters, count};
use crate::store::{Store, StoreError};
use crate::value::Value;

/// A cache of query results: in memory, over a Redis that other processes share.
///
/// It is a handle; clones share one cache. Make it once, keep it for the life of the program, and
/// hand clones around. Its loads and its connection to Redis run on the Tokio runtime it was built
/// in; results may be asked for from any.
///
/// ```
/// use larder::QueryCache;
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = QueryCache::builder()
///     .namespace("shop")
///     // .redis("redis://127.0.0.1:6379")
///     .max_bytes(256 << 20)
///     .ttl(Duration::from_secs(300))
///     .build()
///     .await?;
/// # let _ = cache;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct QueryCache(pub(crate) Arc<Core>);

impl QueryCache {
    /// What the cache did since it was built.
    pub fn stats(&self) -> CacheStats {
        self.0.counters.snapshot()
    }
}

impl fmt::Debug for QueryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryCache")
            .field("namespace", &self.0.namespace)
            .field("policy", &self.0.policy)
            .field("redis", &self.0.store.is_some())
            .field("stats", &self.stats())
            .finish()
    }
}

/// Runs a query, once, as a task of its own.
pub(crate) type Load<T> = Box<dyn FnOnce() -> BoxFuture<'static, Result<T, Error>> + Send>;

pub(crate) struct Core {
    pub(crate) namespace: String,
    pub(crate) policy: Policy,
    pub(crate) codec: Codec,
    pub(crate) clock: Clock,
    pub(crate) local: Local,
    /// Ends with the cache.
    pub(crate) _sweeper: Sweeper,
    pub(crate) store: Option<Box<dyn Store>>,
    pub(crate) flights: Flights,
    /// A permit for each load that may run at a time.
    pub(crate) loads: Semaphore,
    pub(crate) columns: Arc<ColumnSets>,
    pub(crate) counters: Counters,
    /// Loads run here, whichever runtime asks: a flight must not stand still because the runtime of
    /// its first passenger does.
    pub(crate) runtime: Handle,
}

tokio::task_local! {
    /// Set while a load runs. A load that asks the cache for another query must not wait for a
    /// second permit while it holds its own: as many of them as there are permits would wait for
    /// each other.
    static LOADING: ();
}

/// How much longer than its load's deadline a caller waits for a flight. A flight ends by itself
/// before that, unless the runtime that it runs on is blocked.
const GRACE: Duration = Duration::from_secs(2);

impl Core {
    /// A hit in memory: no lock of ours, no allocation, one look at the clock.
    #[inline]
    pub(crate) fn hit<V: Value>(&self, key: &CacheKey) -> Option<Answer<V>> {
        let now = self.clock.now();
        let held = self.local.get(key, now)?;
        let age = held.age(now);
        let value = held.value::<V::Stored>()?;
        self.counters.l1_hits.add();
        Some(Answer::new(V::of(value), Origin::L1, age))
    }

    /// Everything after a miss in memory.
    pub(crate) async fn miss<V: Value>(
        self: Arc<Self>,
        key: CacheKey,
        policy: Policy,
        load: Load<V::Stored>,
    ) -> Result<Answer<V>, Error> {
        let mut load = Some(load);
        let mut joined = self.flights.join(key);
        if let Joined::Later(_) = joined {
            count(&self.counters.coalesced);
        }
        loop {
            let (mut passenger, origin) = match joined {
                Joined::Later(passenger) => (passenger, Origin::Coalesced),
                Joined::First(flight) => {
                    // The flight that was under way when we found nothing in memory may have stored
                    // its result and ended since. From here on nobody else can start one.
                    if let Some(answer) = self.hit(&key) {
                        return Ok(answer);
                    }
                    if let Some((value, held)) = self.find::<V>(&key, &policy).await {
                        let age = held.age(self.clock.now());
                        self.local.insert(key, held.clone());
                        flight.land(Ok(held));
                        return Ok(Answer::new(V::of(value), Origin::L2, age));
                    }
                    let Some(passenger) = flight.loads() else {
                        joined = self.flights.join(key);
                        continue;
                    };
                    // Whoever is first a second time has given its load to a task that was dropped
                    // with its runtime.
                    let load = load.take().ok_or_else(Error::closed)?;
                    let nested = LOADING.try_with(|()| ()).is_ok();
                    let trip = self.clone().fly::<V>(flight, key, policy, load, nested);
                    self.runtime.spawn(trip);
                    (passenger, Origin::Loaded)
                }
            };
            let arrival = passenger.arrival(self.look_limit());
            joined = match timeout(policy.load_deadline + GRACE, arrival).await {
                Err(_) => return Err(Error::deadline(policy.load_deadline)),
                Ok(Arrival::Landed(outcome)) => {
                    let held = outcome?;
                    let age = held.age(self.clock.now());
                    match held.value() {
                        Some(value) => return Ok(Answer::new(V::of(value), origin, age)),
                        // Two types of one name, from two versions of a crate: they share keys.
                        None => Flights::alone(key),
                    }
                }
                Ok(Arrival::Vanished) => self.flights.join(key),
                Ok(Arrival::Stuck) => self.flights.take_over(key, &passenger),
            };
        }
    }

    /// How long a look into Redis can take before something else than Redis keeps it.
    fn look_limit(&self) -> Duration {
        self.store.as_ref().map_or(GRACE, |store| 2 * store.limit())
    }

    /// Loads, and brings the result to everybody who waits and into both tiers.
    async fn fly<V: Value>(
        self: Arc<Self>,
        flight: Flight,
        key: CacheKey,
        policy: Policy,
        load: Load<V::Stored>,
        nested: bool,
    ) {
        let Loaded { value, began, ended } = match self.load(&policy, load, nested).await {
            Ok(loaded) => loaded,
            Err(error) => return flight.land(Err(error)),
        };
        let (value, ttl) = (Arc::new(value), policy.draw_ttl());
        let encoded = self.encode::<V>(&policy, &value);
        let bytes = encoded.as_ref().map_or(0, |(_, payload)| payload.len());
        let held = Held::new(value, bytes, began, ended, ttl.min(policy.l1_ttl));
        // Into memory before the callers have it, so that the next of them finds it there; into
        // Redis after that, so that nobody waits for the round trip.
        if encoded.is_some() {
            self.local.insert(key, held.clone());
        }
        flight.land(Ok(held));
        if let (Some((codec, payload)), Some(store)) = (encoded, &self.store) {
            let header = Header { codec, ttl, load: clock::since(ended, began) };
            let header = entry::seal(&key, &header, &payload);
            match store.write(&key, header, payload, ttl).await {
                Ok(()) => count(&self.counters.l2_writes),
                Err(_) => count(&self.counters.l2_errors),
            }
        }
    }

    /// Looks into Redis. Whatever goes wrong there is a counted miss.
    async fn find<V: Value>(
        &self,
        key: &CacheKey,
        policy: &Policy,
    ) -> Option<(Arc<V::Stored>, Held)> {
        let store = self.store.as_ref()?;
        // Before the question is sent: what remains of the entry's life is counted from here, so
        // that the time the answer took is not added to it.
        let asked = self.clock.now();
        let found = match store.read(key).await {
            Ok(Some(found)) => found,
            Ok(None) => {
                count(&self.counters.l2_misses);
                return None;
            }
            Err(StoreError::Foreign) => {
                count(&self.counters.l2_refused);
                return None;
            }
            Err(StoreError::Unavailable) => {
                count(&self.counters.l2_errors);
                return None;
            }
        };
        let decoded = entry::open(key, &found.bytes).ok().and_then(|(header, payload)| {
            let bytes = payload.len();
            let decode = || V::decode(header.codec, payload, &self.columns);
            Some((unless_it_panics(decode)?, bytes, header))
        });
        let Some((value, bytes, header)) = decoded else {
            count(&self.counters.l2_refused);
            return None;
        };
        let stored_for = header.ttl.saturating_sub(found.remaining);
        // The entry's writer may have meant to keep it for longer than this query is to be kept.
        let remaining = found.remaining.min(policy.ttl.saturating_sub(stored_for));
        if remaining.is_zero() {
            count(&self.counters.l2_misses);
            return None;
        }
        count(&self.counters.l2_hits);
        let age = u64::try_from((stored_for + header.load).as_nanos()).unwrap_or(u64::MAX);
        let as_of = asked.saturating_sub(age);
        let value = Arc::new(value);
        let life = remaining.min(policy.l1_ttl);
        Some((value.clone(), Held::new(value, bytes, as_of, asked, life)))
    }

    /// Runs the query, up to the deadline.
    async fn load<T>(
        &self,
        policy: &Policy,
        load: Load<T>,
        nested: bool,
    ) -> Result<Loaded<T>, Error> {
        let run = async {
            let _permit = match nested {
                true => None,
                false => Some(self.loads.acquire().await.map_err(|_| Error::closed())?),
            };
            count(&self.counters.loads);
            let began = self.clock.now();
            let value = LOADING.scope((), async { load().await }).await?;
            Ok(Loaded { value, began, ended: self.clock.now() })
        };
        let result = match timeout(policy.load_deadline, AssertUnwindSafe(run).catch_unwind()).await
        {
            Err(_) => Err(Error::deadline(policy.load_deadline)),
            Ok(Err(panic)) => Err(Error::panicked(&*panic)),
            Ok(Ok(result)) => result,
        };
        if result.is_err() {
            count(&self.counters.load_errors);
        }
        result
    }

    /// The codec's number and the bytes to keep, unless the result is not to be kept.
    fn encode<V: Value>(&self, policy: &Policy, value: &V::Stored) -> Option<(u8, Bytes)> {
        let Some((codec, payload)) = unless_it_panics(|| V::encode(value, self.codec)) else {
            count(&self.counters.unstorable);
            return None;
        };
        if payload.len() > policy.max_value_bytes {
            count(&self.counters.oversized);
            return None;
        }
        Some((codec, payload))
    }
}

/// Runs what may call the user's `Serialize` and `Deserialize`. A result that the query has brought
/// is answered, whatever becomes of its bytes.
fn unless_it_panics<T>(convert: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(convert)).ok().flatten()
}

struct Loaded<T> {
    value: T,
    began: Instant,
    ended: Instant,
}
