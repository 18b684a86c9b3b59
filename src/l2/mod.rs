//! [`Store`]: what the cache asks of its shared tier, and [`Listener`], what that tells unasked.

#[cfg_attr(not(feature = "redis"), allow(dead_code))]
pub(crate) mod entry;
#[cfg(test)]
mod fuzz;
#[cfg(any(test, feature = "test-util"))]
pub(crate) mod memory;
#[cfg(any(test, feature = "test-util"))]
pub(crate) mod namespace;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(feature = "cli")]
pub(crate) mod tls;

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::clock::Instant;
use crate::currency::Position;
use crate::value::key::CacheKey;
use crate::value::tag::TagSlot;
use crate::value::token::Token;

/// The shared tier: entries, their leases, and the directory of what was invalidated.
///
/// No call takes longer than the time limit the store was made with, except
/// [`invalidate`](Store::invalidate), which a caller waits for on purpose.
pub(crate) trait Store: Send + Sync {
    /// The time limit.
    fn limit(&self) -> Duration;

    /// The time by the clock that [`time_of`](Store::time_of) takes.
    fn now(&self) -> Instant;

    /// A moment by the clock that the lives of entries are told in, in milliseconds, or a little
    /// before it; see [`Fill::ends`]. `None` if that clock is not known.
    fn time_of(&self, instant: Instant) -> Option<u64>;

    /// Whether there is a connection at present. Without one all calls fail at once.
    fn is_connected(&self) -> bool;

    /// Closes all connections for good.
    fn close(&self);

    /// The bytes under a key and the directory's position, in one round trip.
    fn read<'a>(&'a self, key: &'a CacheKey) -> BoxFuture<'a, Result<ReadReply, StoreError>>;

    /// Asks for the right to load a key for all processes.
    fn lease<'a>(
        &'a self,
        key: &'a CacheKey,
        ask: LeaseRequest,
    ) -> BoxFuture<'a, Result<LeaseReply, StoreError>>;

    /// Prolongs a lease to its full time from now. Whether it still is the token's.
    fn renew<'a>(
        &'a self,
        key: &'a CacheKey,
        token: Token,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Puts an entry under a key and gives the lease back, unless that is another's by now or what
    /// is there is newer. Whether it was written.
    fn fill<'a>(&'a self, key: &'a CacheKey, fill: Fill)
    -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Gives a lease back without an entry, if it still is the token's.
    fn release<'a>(
        &'a self,
        key: &'a CacheKey,
        token: Token,
        done: LeaseOutcome,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Asks what was invalidated since `known`, with a write that only a master carries out.
    fn beat(&self, known: Position) -> BoxFuture<'_, Result<Beat, StoreError>>;

    /// What was noted under a name. Notes are about efficiency only: one that is lost costs work that
    /// was done before.
    fn noted<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Notes something for all processes, in the place of what was noted before.
    fn note<'a>(&'a self, name: &'a str, note: Bytes) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Keeps what a process says about itself for so long, in the place of what it said before.
    fn publish<'a>(
        &'a self,
        id: &'a str,
        snapshot: Bytes,
        lasts: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Takes back what a process has said about itself.
    fn withdraw<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// What all processes say about themselves.
    fn published(&self) -> BoxFuture<'_, Result<Vec<Snapshot>, StoreError>>;

    /// Counts an invalidation, and tells all who listen. Returns its position.
    fn invalidate<'a>(
        &'a self,
        known: Position,
        slots: &'a [TagSlot],
    ) -> BoxFuture<'a, Result<Position, StoreError>>;
}

/// What is under a process's name in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) bytes: Bytes,
    /// How long it had to last when the store was asked.
    pub(crate) remaining: Duration,
}

/// The answer to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadReply {
    pub(crate) found: Found,
    /// The directory's position, if there is one.
    pub(crate) directory: Option<Position>,
    /// Which connection it came on. What came on one that no beat was answered on yet may be of a
    /// lineage that has ended.
    pub(crate) connection: u64,
}

/// What is under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Also: something of another type than a string, which the next entry takes the place of.
    Nothing,
    Entry {
        bytes: Bytes,
        /// The time by the store's clock when it was asked, in milliseconds, or a little after it:
        /// no more remains of the entry's life than from here to [`Fill::ends`].
        now: u64,
    },
}

/// A request for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseRequest {
    pub(crate) token: Token,
    /// The position as of which the load would begin.
    pub(crate) at: Position,
    /// The last invalidation that the result has to know of.
    pub(crate) need: u64,
    /// The entry that the asker has seen and wants replaced.
    pub(crate) seen: Option<Token>,
    /// Whether what was seen does not hold together: it is removed then, whatever its stamp says.
    pub(crate) refused: bool,
}

/// The answer to a request for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseReply {
    /// Load. The lease ends by itself unless it is renewed.
    Granted,
    /// There is an entry that is current by the numbers of the request: read it.
    Entry,
    /// Another process loads; its lease ends after this time unless it is renewed. It will tell when
    /// it is done.
    Wait(Duration),
}

/// How long a lease lasts without being renewed: so much later than usual a result comes whose
/// loader was killed.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// How long a note is kept. Schedules have their ticks within a month.
#[cfg_attr(not(feature = "redis"), allow(dead_code))]
pub(crate) const NOTED: Duration = Duration::from_secs(40 * 24 * 60 * 60);

/// An entry to be written.
#[derive(Debug, Clone)]
pub(crate) struct Fill {
    pub(crate) token: Token,
    /// The position as of which the load began.
    pub(crate) at: Position,
    /// When its life ends, by the [store's clock](Store::time_of), as the header says as well:
    /// however late the write takes effect, it does not begin a new one.
    pub(crate) ends: u64,
    /// Header and payload, which are one after the other in the entry.
    pub(crate) header: Bytes,
    pub(crate) payload: Bytes,
}

/// How the load under a lease came out, as those who wait for it are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseOutcome {
    /// There is an entry.
    Filled,
    /// There is none: the load failed, or its result is not to be stored. Whoever waited loads for
    /// itself, so that a failing query does not make all wait for each other's failures.
    NoResult,
    /// The result was invalidated before it came: somebody else should load.
    Superseded,
}

impl LeaseOutcome {
    pub(crate) fn byte(self) -> u8 {
        match self {
            LeaseOutcome::Filled => b'f',
            LeaseOutcome::NoResult => b'w',
            LeaseOutcome::Superseded => b'a',
        }
    }

    pub(crate) fn of_byte(byte: u8) -> Option<LeaseOutcome> {
        [LeaseOutcome::Filled, LeaseOutcome::NoResult, LeaseOutcome::Superseded]
            .into_iter()
            .find(|done| done.byte() == byte)
    }
}

/// The answer to a beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) at: Position,
    /// The slots above the position that was sent, or all if that was of another epoch.
    pub(crate) slots: Vec<(TagSlot, u64)>,
    pub(crate) connection: u64,
}

/// Why the store did not answer as asked. None of it ever reaches the caller of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreError {
    /// No connection, no answer in time, or an error.
    Unavailable,
}

/// What the store tells unasked. A notice may be lost; it is a hint, and nothing rests on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// There is a new connection for commands.
    Connected,
    /// There is none any more.
    Disconnected,
    /// Notices come again: some may have been missed.
    Subscribed,
    /// No notices come for the time being.
    Unsubscribed,
    Invalidated {
        at: Position,
        slots: Vec<TagSlot>,
    },
    LeaseEnded {
        key: CacheKey,
        done: LeaseOutcome,
    },
}

/// Takes what the store tells unasked, without delay.
pub(crate) trait Listener: Send + Sync {
    fn hear(&self, notice: Notice);
}
