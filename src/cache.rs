//! [`QueryCache`]: the path of a read, top to bottom.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, select};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use crate::answer::{Answer, Origin};
use crate::clock::{self, Clock, Instant};
use crate::codec::Codec;
use crate::entry::{self, Header};
use crate::error::{Error, ErrorKind};
use crate::flight::{Arrival, Flight, Flights, Joined};
use crate::key::CacheKey;
use crate::local::{Held, Life, Local, Sweeper};
use crate::policy::Policy;
use crate::rows::ColumnSets;
use crate::stats::{CacheStats, Counters, count};
use crate::store::{Store, StoreError};
use crate::value::Value;

/// A cache of query results: in memory, over a Redis that other processes share.
///
/// It is a handle; clones share one cache. Make it once, keep it for the life of the program, and
/// hand clones around.
///
/// Results may be asked for from any thread and from any Tokio runtime with timers (and, for
/// [`fetch`](crate::Bound::fetch), with IO: `enable_all`). A load runs on the caller's runtime if
/// that has several threads, and otherwise on the one that the cache was built in, so that it goes
/// on without its caller; the connection to Redis lives on the latter. Best build the cache in the
/// program's main runtime.
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
    /// The runtime that the cache was built in; see [`Core::place`].
    pub(crate) runtime: Handle,
}

tokio::task_local! {
    /// Set while a load runs. What it asks the cache for must not wait for a turn while it has one
    /// itself: as many of them as there are turns would wait for each other.
    static LOADING: ();
}

/// How much longer than its load's deadline a caller waits for a flight. A flight ends by itself
/// before that, unless the runtime that it runs on is blocked.
const GRACE: Duration = Duration::from_secs(2);

impl Core {
    /// A hit in memory: no lock of ours, no allocation, one look at the clock.
    #[inline]
    pub(crate) fn hit<V: Value>(&self, key: &CacheKey, policy: &Policy) -> Option<Answer<V>> {
        let now = self.clock.now();
        let held = self.local.get(key, policy, now)?;
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
        let (asked, asked_at) = (tokio::time::Instant::now(), self.clock.now());
        // A task that runs the load takes it from here when it begins. One that is dropped before,
        // with a runtime that has shut down, leaves it.
        let load = Arc::new(Mutex::new(Some(load)));
        let mut place = self.place();
        let mut moved = false;
        let nested = LOADING.try_with(|()| ()).is_ok();
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
                    if let Some(answer) = self.hit(&key, &policy) {
                        return Ok(answer);
                    }
                    if let Some((value, held)) = self.find::<V>(&key, &policy, &flight).await {
                        let age = held.age(self.clock.now());
                        // Taken over, this look was so slow that a newer result may be in memory.
                        if flight.is_current() {
                            self.local.insert(key, held.clone());
                        }
                        flight.land(Ok(held));
                        return Ok(Answer::new(V::of(value), Origin::L2, age));
                    }
                    let until = tokio::time::Instant::now() + policy.load_deadline + GRACE;
                    let Some(passenger) = flight.loads(until) else {
                        joined = self.flights.join(key);
                        continue;
                    };
                    place.spawn(self.clone().fly::<V>(flight, key, policy, load.clone()));
                    (passenger, Origin::Loaded)
                }
            };
            if nested {
                passenger.hurry();
            }
            let arrival = passenger.arrival(self.look_limit());
            joined = match timeout(policy.load_deadline + GRACE, arrival).await {
                Err(_) => {
                    self.flights.forget(key, &passenger);
                    return Err(Error::deadline(policy.load_deadline));
                }
                Ok(Arrival::Landed(Ok(held))) => {
                    let now = self.clock.now();
                    let age = held.age(now);
                    // Whoever brought it may be content with older results than this query is.
                    let fresh = held.life().born >= asked_at || held.life().allows(&policy, now);
                    match held.value() {
                        _ if !fresh => self.flights.join(key),
                        Some(value) => return Ok(Answer::new(V::of(value), origin, age)),
                        // Two types of one name, which share keys.
                        None => Flights::alone(key),
                    }
                }
                // A deadline of another query, or one that began before we asked, is not ours. But two
                // loads that need each other would keep each other alive by trying again.
                Ok(Arrival::Landed(Err(error)))
                    if error.kind() == ErrorKind::Deadline
                        && !nested
                        && origin == Origin::Coalesced
                        && asked.elapsed() < policy.load_deadline =>
                {
                    self.flights.join(key)
                }
                Ok(Arrival::Landed(Err(error))) => return Err(error),
                Ok(Arrival::Vanished) => {
                    if load.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
                        return Err(Error::closed());
                    }
                    if origin == Origin::Loaded {
                        // The runtime refused the task. There is one other to try.
                        place = Handle::try_current().map_err(|_| Error::closed())?;
                        if std::mem::replace(&mut moved, true) {
                            return Err(Error::closed());
                        }
                    }
                    self.flights.join(key)
                }
                Ok(Arrival::Stuck) => self.flights.take_over(key, &passenger),
            };
        }
    }

    /// The runtime for a load.
    ///
    /// It must go on while others wait, whatever becomes of the caller. A runtime of many threads
    /// does, the caller's at least as long as ours: ours may have shut down. One of a single thread
    /// stands still whenever nobody blocks on it, as ours may for good; the caller's is moving now.
    fn place(&self) -> Handle {
        match Handle::try_current() {
            Ok(callers)
                if callers.runtime_flavor() == RuntimeFlavor::MultiThread
                    || self.runtime.runtime_flavor() != RuntimeFlavor::MultiThread =>
            {
                callers
            }
            _ => self.runtime.clone(),
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
        load: Arc<Mutex<Option<Load<V::Stored>>>>,
    ) {
        let Some(load) = load.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let Loaded { value, began, ended, by_system } =
            match self.load(&policy, load, &flight.urgent()).await {
                Ok(loaded) => loaded,
                Err(error) => return flight.land(Err(error)),
            };
        let (value, ttl) = (Arc::new(value), policy.draw_ttl());
        let encoded = self.encode::<V>(&policy, &value);
        let bytes = encoded.as_ref().map_or(0, |(_, payload)| payload.len());
        let ends = clock::after(ended, ttl.min(policy.l1_ttl));
        let held = Held::new(value, bytes, Life { as_of: began, born: ended, copied: ended, ends });
        // Into memory before the callers have it, so that the next of them finds it there; into
        // Redis after that, so that nobody waits for the round trip.
        if encoded.is_some() {
            self.local.insert(key, held.clone());
        }
        flight.land(Ok(held));
        if let (Some((codec, payload)), Some(store)) = (encoded, &self.store) {
            let header = Header { codec, ttl, load: clock::since(ended, began) };
            let header = entry::seal(&key, &header, &payload);
            match store.write(&key, header, payload, clock::after(by_system, ttl)).await {
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
        flight: &Flight,
    ) -> Option<(Arc<V::Stored>, Held)> {
        let store = self.store.as_ref()?;
        // Before the question is sent: what remains of the entry's life is counted from here, so
        // that the time the answer took is not added to it.
        let asked = self.clock.now();
        let found = store.read(key).await;
        flight.found();
        let found = match found {
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
        // Its writer gave it no more than its ttl. With more left than that, somebody else has set
        // its expiry, or it was replaced between the two questions; its age cannot be told.
        let Some(stored_for) = header.ttl.checked_sub(found.remaining) else {
            count(&self.counters.l2_refused);
            return None;
        };
        let before = |instant: Instant, by: Duration| {
            instant.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX))
        };
        let born = before(asked, stored_for);
        let life = Life {
            as_of: before(born, header.load),
            born,
            copied: asked,
            ends: clock::after(asked, found.remaining.min(policy.l1_ttl)),
        };
        // The writer may have meant to keep it for longer than this query is to be kept; and this
        // look may have slept for an hour between question and answer.
        if !life.allows(policy, self.clock.now()) {
            count(&self.counters.l2_misses);
            return None;
        }
        count(&self.counters.l2_hits);
        let value = Arc::new(value);
        Some((value.clone(), Held::new(value, bytes, life)))
    }

    /// Runs the query, up to the deadline.
    async fn load<T>(
        &self,
        policy: &Policy,
        load: Load<T>,
        urgent: &Notify,
    ) -> Result<Loaded<T>, Error> {
        let run = async {
            // Whoever waits for this load and has a turn itself must not wait for another one.
            let (turn, hurried) = (pin!(self.loads.acquire()), pin!(urgent.notified()));
            let _permit = match select(turn, hurried).await {
                Either::Left((permit, _)) => Some(permit.map_err(|_| Error::closed())?),
                Either::Right(_) => None,
            };
            count(&self.counters.loads);
            let began = self.clock.now();
            let value = LOADING.scope((), async { load().await }).await?;
            Ok(Loaded { value, began, ended: self.clock.now(), by_system: Clock::system().now() })
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
    /// `ended` by the system's clock, whichever the cache's is.
    by_system: Instant,
}
