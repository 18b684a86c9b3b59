//! [`MemoryStore`]: a shared tier in memory, for caches that live in one process.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::body::Body;
use super::follow::{RoundEnd, RoundReply, TermReply, TermStart};
use super::namespace::{MILLISECOND, Namespace};
use super::{
    Beat, BodyError, Fill, LeaseOutcome, LeaseReply, LeaseRequest, Listener, Notice, ReadReply,
    SLOTS_PER_NUMBER, Store, StoreError,
};
use crate::clock::{self, Clock, Instant};
use crate::currency::Position;
use crate::l2::Snapshot;
use crate::sync::{Mutex, MutexGuard};
use crate::value::key::CacheKey;
use crate::value::tag::TagSlot;
use crate::value::token::Token;

/// Replaces Redis in tests: several caches of one process form a fleet on it, without a server.
///
/// Caches that are built [on it](crate::QueryCacheBuilder::memory_store) share results, load each
/// result once, and receive each other's invalidations, as they would over Redis. Caches of
/// different namespaces share nothing. It is a handle; clones refer to the same store.
///
/// ```
/// use larder::{Origin, QueryCache};
/// use larder::testing::MemoryStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let one = QueryCache::builder().memory_store(&store).build().await?;
/// let other = QueryCache::builder().memory_store(&store).build().await?;
/// let count = async |cache: &QueryCache| {
///     let orders = cache.query("SELECT count(*) FROM orders").tag("orders");
///     orders.load(|| async { Ok::<_, std::io::Error>(7_i64) }).answer().await
/// };
///
/// assert_eq!(count(&one).await?.origin(), Origin::Loaded);
/// assert_eq!(count(&other).await?.origin(), Origin::L2);
/// assert_eq!(count(&other).await?.origin(), Origin::L1);
///
/// one.invalidate(["orders"]).await;
/// assert_eq!(count(&other).await?.origin(), Origin::Loaded);
/// # Ok(())
/// # }
/// ```
///
/// Tests can produce the failures of Redis here: [`disconnect`](MemoryStore::disconnect),
/// [`lose_everything`](MemoryStore::lose_everything) and
/// [`drop_notices`](MemoryStore::drop_notices) affect all caches on the store.
#[derive(Clone)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    clock: Clock,
    /// One lock for everything, because Redis executes one command after the other. Never held
    /// across an await. Notices are delivered under it, so that every listener receives them in the
    /// order of the events; listeners only record them.
    state: Mutex<State>,
}

struct State {
    connected: bool,
    /// Counts connections. All caches connect and disconnect at the same times.
    connection: u64,
    drops_notices: bool,
    /// The counterpart of Redis's replication id.
    server: u64,
    spaces: HashMap<Arc<str>, Namespace>,
    /// The listeners, each with its namespace.
    listeners: BTreeMap<u64, (Arc<str>, Arc<dyn Listener>)>,
    /// The number of the last listener.
    listener: u64,
}

impl Default for MemoryStore {
    fn default() -> MemoryStore {
        MemoryStore::with_clock(Clock::system())
    }
}

impl MemoryStore {
    /// Creates an empty store whose entries expire by the system's clock.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// Creates an empty store whose entries expire by this clock. If it is a
    /// [`ManualClock`](crate::testing::ManualClock), give the same clock to the caches, so that
    /// both tiers age together:
    ///
    /// ```
    /// use std::time::Duration;
    /// use larder::{Origin, QueryCache};
    /// use larder::testing::{ManualClock, MemoryStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let clock = ManualClock::new();
    /// let store = MemoryStore::with_clock(clock.clone());
    /// let minute = Duration::from_secs(60);
    /// let builder = QueryCache::builder().memory_store(&store).clock(clock.clone()).ttl(minute);
    /// let (one, other) = (builder.clone().build().await?, builder.build().await?);
    /// let read = async |cache: &QueryCache| {
    ///     let query = cache.query("SELECT 1");
    ///     query.load(|| async { Ok::<_, std::io::Error>(1_i32) }).answer().await
    /// };
    ///
    /// read(&one).await?;
    /// clock.advance(minute - Duration::from_secs(1));
    /// assert_eq!(read(&other).await?.origin(), Origin::L2);
    /// clock.advance(Duration::from_secs(1));
    /// assert_eq!(read(&other).await?.origin(), Origin::Loaded);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_clock(clock: impl Into<Clock>) -> MemoryStore {
        let state = State {
            connected: true,
            connection: 1,
            drops_notices: false,
            server: 1,
            spaces: HashMap::new(),
            listeners: BTreeMap::new(),
            listener: 0,
        };
        MemoryStore(Arc::new(Shared { clock: clock.into(), state: Mutex::new(state) }))
    }

    /// Disconnects all caches, as if Redis were down: their requests fail at once, and no notices
    /// arrive. Stored data stays.
    pub fn disconnect(&self) {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.connected, false) {
            state.tell_all(&Notice::Unsubscribed);
        }
    }

    /// Ends a [`disconnect`](MemoryStore::disconnect): all caches get new connections and are
    /// notified at once. Does nothing while they are connected.
    pub fn reconnect(&self) {
        let mut state = self.0.lock();
        if !std::mem::replace(&mut state.connected, true) {
            state.connection += 1;
            state.tell_all(&Notice::Connected);
            state.tell_all(&Notice::Subscribed);
        }
    }

    /// Loses all results, leases and invalidations, like Redis after `FLUSHALL`, or after a restart
    /// or a replacement without persistence. Caches detect it with their next request. Their
    /// results in memory are stale from then on, since the record of invalidations is lost.
    pub fn lose_everything(&self) {
        let mut state = self.0.lock();
        state.spaces.clear();
        state.server += 1;
    }

    /// Sets whether notices between caches are lost from now on: those of invalidations and those
    /// of ended loads. Notices are hints that may also be lost over Redis. A cache that misses the
    /// notice of an invalidation learns of it with its next beat, a quarter of a second later. A
    /// cache that misses the notice of another cache's load learns of its end when the lease has
    /// expired.
    pub fn drop_notices(&self, drop: bool) {
        self.0.lock().drops_notices = drop;
    }

    /// Joins a cache to the store. Notices go to `listener`.
    pub(crate) fn join(&self, namespace: &str, listener: Arc<dyn Listener>) -> Member {
        let namespace: Arc<str> = namespace.into();
        let mut state = self.0.lock();
        if state.connected {
            listener.hear(Notice::Subscribed);
        }
        state.listener += 1;
        let number = state.listener;
        state.listeners.insert(number, (namespace.clone(), listener));
        Member { shared: self.0.clone(), namespace, number, closed: AtomicBool::new(false) }
    }

    /// Gives a test direct access to the stored data, to inspect it and to plant foreign data.
    #[cfg(all(test, feature = "redis"))]
    pub(crate) fn meddle<T>(
        &self,
        namespace: &str,
        meddle: impl FnOnce(&mut Namespace, Instant) -> T,
    ) -> T {
        let now = self.0.clock.now();
        meddle(self.0.lock().space(&namespace.into()), now)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("MemoryStore")
            .field("connected", &state.connected)
            .field("drops_notices", &state.drops_notices)
            .field("caches", &state.listeners.len())
            .field("entries", &state.spaces.values().map(|it| it.entries.len()).sum::<usize>())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn space(&mut self, namespace: &Arc<str>) -> &mut Namespace {
        self.spaces.entry(namespace.clone()).or_default()
    }

    /// Delivers a notice about each cache's own connection.
    fn tell_all(&self, notice: &Notice) {
        self.listeners.values().for_each(|(_, listener)| listener.hear(notice.clone()));
    }

    /// Delivers a notice that caches send each other.
    fn publish(&self, namespace: &str, notice: &Notice) {
        if self.drops_notices {
            return;
        }
        for (_, listener) in self.listeners.values().filter(|(of, _)| **of == *namespace) {
            listener.hear(notice.clone());
        }
    }
}

/// One cache's membership in a [`MemoryStore`].
pub(crate) struct Member {
    shared: Arc<Shared>,
    namespace: Arc<str>,
    /// The number of its listener.
    number: u64,
    closed: AtomicBool,
}

impl Member {
    /// Does the work of one script, and delivers the notices that the script publishes.
    fn act<T, N: IntoIterator<Item = Notice>>(
        &self,
        act: impl FnOnce(&mut Namespace, Now) -> (T, N),
    ) -> Result<T, StoreError> {
        let mut state = self.shared.lock();
        if !state.connected || self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable);
        }
        let now =
            Now { at: self.shared.clock.now(), server: state.server, connection: state.connection };
        let (answer, notices) = act(state.space(&self.namespace), now);
        for notice in notices {
            state.publish(&self.namespace, &notice);
        }
        Ok(answer)
    }
}

impl Store for Member {
    fn limit(&self) -> Duration {
        // The builder's default for Redis. Nothing here takes any time.
        Duration::from_millis(50)
    }

    fn now(&self) -> Instant {
        self.shared.clock.now()
    }

    fn time_of(&self, instant: Instant) -> Option<u64> {
        Some(instant.nanos() / MILLISECOND)
    }

    fn is_connected(&self) -> bool {
        !self.closed.load(Ordering::Acquire) && self.shared.lock().connected
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let listener = self.shared.lock().listeners.remove(&self.number);
        // Dropped outside the lock: this may be the last owner of objects that the listener refers
        // to.
        drop(listener);
    }

    fn read<'a>(&'a self, key: &'a CacheKey) -> BoxFuture<'a, Result<ReadReply, StoreError>> {
        Box::pin(async move {
            self.act(|space, now| {
                let found = space.read(key, now.at);
                let directory = space.directory.as_ref().map(|directory| directory.at);
                (ReadReply { found, directory, connection: now.connection }, None)
            })
        })
    }

    fn read_many<'a>(
        &'a self,
        keys: &'a [CacheKey],
    ) -> BoxFuture<'a, Result<Vec<ReadReply>, StoreError>> {
        Box::pin(async move {
            self.act(|space, now| {
                let directory = space.directory.as_ref().map(|directory| directory.at);
                let reply = |key| ReadReply {
                    found: space.read(key, now.at),
                    directory,
                    connection: now.connection,
                };
                (keys.iter().map(reply).collect(), None)
            })
        })
    }

    fn splits(&self) -> bool {
        // Bytes are shared here, not transferred.
        false
    }

    fn read_body<'a>(
        &'a self,
        _: &'a CacheKey,
        _: Token,
        _: Body,
        _: Duration,
    ) -> BoxFuture<'a, Result<Bytes, BodyError>> {
        Box::pin(ready(Err(BodyError::Missing)))
    }

    fn lease<'a>(
        &'a self,
        key: &'a CacheKey,
        ask: LeaseRequest,
    ) -> BoxFuture<'a, Result<LeaseReply, StoreError>> {
        Box::pin(async move { self.act(|space, now| (space.lease(key, ask, now.at), None)) })
    }

    fn renew<'a>(
        &'a self,
        key: &'a CacheKey,
        token: Token,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { self.act(|space, now| (space.renew(key, token, now.at), None)) })
    }

    fn fill<'a>(
        &'a self,
        key: &'a CacheKey,
        fill: Fill,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { self.act(|space, now| space.fill(key, &fill, now.at)) })
    }

    fn release<'a>(
        &'a self,
        key: &'a CacheKey,
        token: Token,
        done: LeaseOutcome,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.act(|space, now| {
                space.expire(key, now.at);
                ((), space.give_back(key, token, done))
            })
        })
    }

    fn beat(
        &self,
        known: Position,
        most: usize,
        in_use: bool,
        _limit: Duration,
    ) -> BoxFuture<'_, Result<Beat, StoreError>> {
        Box::pin(async move {
            self.act(|space, now| {
                let directory = space.head(now.server, known);
                let (mut slots, upto) = directory.page(known, most);
                slots.extend(directory.followed());
                let at = Position { seq: upto, ..directory.at };
                let more = upto < directory.at.seq;
                let leader = directory.leader();
                directory.marks.is_used |= in_use && leader.is_some();
                (Beat { at, more, slots, leader, connection: now.connection }, None)
            })
        })
    }

    fn noted<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move { self.act(|space, _| (space.notes.get(name).cloned(), None)) })
    }

    fn note<'a>(&'a self, name: &'a str, note: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.act(|space, _| {
                space.notes.insert(name.to_owned(), note);
                ((), None)
            })
        })
    }

    fn publish<'a>(
        &'a self,
        id: &'a str,
        snapshot: Bytes,
        lasts: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.act(|space, now| {
                let ends = clock::after(now.at, lasts);
                space.published.insert(id.to_owned(), (ends, snapshot));
                ((), None)
            })
        })
    }

    fn withdraw<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.act(|space, _| {
                space.published.remove(id);
                ((), None)
            })
        })
    }

    fn published(&self) -> BoxFuture<'_, Result<Vec<Snapshot>, StoreError>> {
        Box::pin(async move {
            self.act(|space, now| {
                space.published.retain(|_, (ends, _)| *ends > now.at);
                let all = space.published.values().map(|(ends, bytes)| Snapshot {
                    bytes: bytes.clone(),
                    remaining: clock::since(*ends, now.at),
                });
                (all.collect(), None)
            })
        })
    }

    fn invalidate<'a>(
        &'a self,
        known: Position,
        slots: &'a [TagSlot],
    ) -> BoxFuture<'a, Result<Position, StoreError>> {
        Box::pin(async move {
            self.act(|space, now| {
                let directory = space.head(now.server, known);
                let notices = directory.invalidate(slots, SLOTS_PER_NUMBER);
                (directory.at, notices)
            })
        })
    }

    fn begin_following<'a>(
        &'a self,
        known: Position,
        beginning: &'a TermStart,
    ) -> BoxFuture<'a, Result<TermReply, StoreError>> {
        Box::pin(async move {
            self.act(|space, now| {
                let directory = space.head(now.server, known);
                let goes_on_from = directory.marks.begin(beginning);
                let notices = match goes_on_from {
                    Some(_) => vec![],
                    None => directory.invalidate(&[TagSlot::FOLLOWED], SLOTS_PER_NUMBER),
                };
                let term = directory.marks.leader.round.term;
                (TermReply { at: directory.at, term, goes_on_from }, notices)
            })
        })
    }

    fn follow<'a>(
        &'a self,
        known: Position,
        end: &'a RoundEnd,
        slots: &'a [TagSlot],
    ) -> BoxFuture<'a, Result<RoundReply, StoreError>> {
        Box::pin(async move {
            self.act(|space, now| {
                let directory = space.head(now.server, known);
                let is_accepted = directory.marks.accepts(end, directory.at.epoch);
                let is_used = directory.marks.is_used;
                let mut notices = vec![];
                if is_accepted {
                    notices = directory.invalidate(slots, SLOTS_PER_NUMBER);
                    directory.marks.end(end);
                }
                (RoundReply { at: directory.at, is_accepted, is_used }, notices)
            })
        })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.close();
    }
}

/// When, on which server and on which connection an operation runs.
#[derive(Clone, Copy)]
struct Now {
    at: Instant,
    server: u64,
    connection: u64,
}

#[cfg(test)]
mod tests;
