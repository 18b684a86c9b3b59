//! [`Store`]: the requests that the cache makes to its shared tier, and [`Listener`]: the notices
//! that the tier sends.

pub(crate) mod body;
pub(crate) mod entry;
pub(crate) mod follow;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod history_tests;
#[cfg(any(test, feature = "test-util"))]
pub(crate) mod memory;
#[cfg(any(test, feature = "test-util"))]
pub(crate) mod namespace;
#[cfg(feature = "redis")]
pub(crate) mod redis;

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::clock::Instant;
use crate::currency::Position;
use crate::l2::body::Body;
use crate::l2::follow::{Leader, RoundEnd, RoundReply, TermReply, TermStart};
use crate::value::key::CacheKey;
use crate::value::tag::TagSlot;
use crate::value::token::Token;

/// The shared tier: entries, their leases, and the directory of invalidations.
///
/// No call takes longer than the time limit that the store was created with, except
/// [`invalidate`](Store::invalidate), whose callers accept a longer wait, and beats and transfers of
/// the body of a large entry, which name their own limit.
pub(crate) trait Store: Send + Sync {
    /// The time limit of a call.
    fn limit(&self) -> Duration;

    /// The time by the clock that [`time_of`](Store::time_of) accepts.
    fn now(&self) -> Instant;

    /// Converts a time to the clock that the lifetimes of entries use, in milliseconds. The result
    /// is exact or slightly early; see [`Fill::ends`]. `None` if that clock is not known.
    fn time_of(&self, instant: Instant) -> Option<u64>;

    /// Whether there is a connection now. Without one all calls fail at once.
    fn is_connected(&self) -> bool;

    /// Closes all connections permanently.
    fn close(&self);

    /// Returns the bytes under a key and the directory's position, in one round trip.
    fn read<'a>(&'a self, key: &'a CacheKey) -> BoxFuture<'a, Result<ReadReply, StoreError>>;

    /// Returns what [`read`](Store::read) does, for the first of these keys: as many of them as suit
    /// one round trip, in their order, and at least one. `keys` is not empty.
    fn read_many<'a>(
        &'a self,
        keys: &'a [CacheKey],
    ) -> BoxFuture<'a, Result<Vec<ReadReply>, StoreError>>;

    /// Whether the payload of a large entry is stored in parts, outside of the entry.
    fn splits(&self) -> bool;

    /// Returns the body of a large entry. It waits for its turn for at most `limit`, and takes at
    /// most `limit` from then on. The bytes are not verified yet.
    fn read_body<'a>(
        &'a self,
        key: &'a CacheKey,
        token: Token,
        body: Body,
        limit: Duration,
    ) -> BoxFuture<'a, Result<Bytes, BodyError>>;

    /// Requests the right to load a key for all processes.
    fn lease<'a>(
        &'a self,
        key: &'a CacheKey,
        ask: LeaseRequest,
    ) -> BoxFuture<'a, Result<LeaseReply, StoreError>>;

    /// Extends a lease to its full time from now. Returns whether the token still holds it.
    fn renew<'a>(
        &'a self,
        key: &'a CacheKey,
        token: Token,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Stores an entry under a key and gives the lease back, unless another token holds the lease
    /// by now or the stored entry is newer. Returns whether the entry was written.
    fn fill<'a>(&'a self, key: &'a CacheKey, fill: Fill)
    -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Gives a lease back without an entry, if the token still holds it.
    fn release<'a>(
        &'a self,
        key: &'a CacheKey,
        token: Token,
        done: LeaseOutcome,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Requests the invalidations since `known`, with a write that only a master executes. If they
    /// have more than `most` slots, the reply is the first page of them. It may take as long as
    /// `limit`. `in_use` tells a follower that rounds are waited for.
    fn beat(
        &self,
        known: Position,
        most: usize,
        in_use: bool,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Beat, StoreError>>;

    /// Returns the note under a name. Notes only save work: if one is lost, work is repeated.
    fn noted<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Stores a note for all processes. It replaces the previous note of that name.
    fn note<'a>(&'a self, name: &'a str, note: Bytes) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Stores the snapshot of a process for the given time. It replaces the previous one of that
    /// process.
    fn publish<'a>(
        &'a self,
        id: &'a str,
        snapshot: Bytes,
        lasts: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Removes the snapshot of a process.
    fn withdraw<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Returns the snapshots of all processes.
    fn published(&self) -> BoxFuture<'_, Result<Vec<Snapshot>, StoreError>>;

    /// Counts an invalidation, and notifies all listeners. Returns its position. Every
    /// [`SLOTS_PER_NUMBER`] slots have a number and a notice of their own; the position is the last.
    fn invalidate<'a>(
        &'a self,
        known: Position,
        slots: &'a [TagSlot],
    ) -> BoxFuture<'a, Result<Position, StoreError>>;

    /// Begins a follower's term. If it may take effect twice, it has begun two terms.
    fn begin_following<'a>(
        &'a self,
        known: Position,
        beginning: &'a TermStart,
    ) -> BoxFuture<'a, Result<TermReply, StoreError>>;

    /// Ends a round: invalidates its slots and takes its number, at once, or changes nothing.
    ///
    /// It is sent once. Without a reply it may have taken effect, or may do so later.
    fn follow<'a>(
        &'a self,
        known: Position,
        end: &'a RoundEnd,
        slots: &'a [TagSlot],
    ) -> BoxFuture<'a, Result<RoundReply, StoreError>>;
}

/// The snapshot that a process has published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) bytes: Bytes,
    /// Its remaining lifetime when the store was read.
    pub(crate) remaining: Duration,
}

/// The reply to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadReply {
    pub(crate) found: Found,
    /// The directory's position, if there is a directory.
    pub(crate) directory: Option<Position>,
    /// The connection that the reply came on. Until a beat has been answered on that connection,
    /// its replies may belong to a lineage that has ended.
    pub(crate) connection: u64,
}

/// The content stored under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing, or a value that is not a string; the next entry replaces such a value.
    Nothing,
    Entry {
        bytes: Bytes,
        /// The time by the store's clock when it was read, in milliseconds, exact or slightly late:
        /// the entry's remaining lifetime is at most the time from here to [`Fill::ends`].
        now: u64,
    },
}

/// A request for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseRequest {
    pub(crate) token: Token,
    /// The position that the load would begin at.
    pub(crate) at: Position,
    /// The number of the last invalidation that the result must include.
    pub(crate) need: u64,
    /// The entry that the requester has read and wants replaced.
    pub(crate) seen: Option<Token>,
    /// Whether the entry it read is invalid. Such an entry is removed, whatever its stamp says.
    pub(crate) refused: bool,
}

/// The reply to a request for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseReply {
    /// The requester loads. The lease expires unless it is renewed.
    Granted,
    /// There is an entry that is current by the numbers of the request. The requester reads it.
    Entry,
    /// Another process loads. Its lease expires after this time unless renewed. It notifies when it
    /// is done.
    Wait(Duration),
}

/// A lease expires after this unless renewed. If the loading process is killed, waiters are delayed
/// by at most this.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// How long an invalidation waits for the shared tier. Its callers want it acknowledged, but cannot wait
/// without limit.
pub(crate) const WAITED_FOR: Duration = Duration::from_secs(1);

/// How many slots of an invalidation have a number in common, at most. A page of a beat's reply has
/// all slots of each number in it.
pub(crate) const SLOTS_PER_NUMBER: usize = 500;

/// How long a note is kept. Every schedule has a tick within a month.
#[cfg_attr(not(feature = "redis"), allow(dead_code))]
pub(crate) const NOTED: Duration = Duration::from_secs(40 * 24 * 60 * 60);

/// An entry to be written.
#[derive(Debug, Clone)]
pub(crate) struct Fill {
    pub(crate) token: Token,
    /// The position that the load began at.
    pub(crate) at: Position,
    /// When its lifetime ends by the [store's clock](Store::time_of), as in the header. A write
    /// that takes effect late does not extend it.
    pub(crate) ends: u64,
    /// The header and the payload, stored one after the other. If the payload is stored in parts,
    /// the header is the whole entry.
    pub(crate) header: Bytes,
    pub(crate) payload: Bytes,
    pub(crate) in_parts: Option<InParts>,
}

/// How the payload of a large entry is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "redis"), allow(dead_code))]
pub(crate) struct InParts {
    pub(crate) parts: u8,
    /// How long the transfer waits for its turn, and how long it may take from then on.
    pub(crate) limit: Duration,
}

/// How the load under a lease ended, as its waiters are notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseOutcome {
    /// There is an entry.
    Filled,
    /// There is no entry: the load failed, or its result is not to be stored. Each waiter loads for
    /// itself, so that a failing query does not make waiters queue for each other's failures.
    NoResult,
    /// The result was invalidated before the load ended: a waiter should load.
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

/// The reply to a beat, or a page of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Beat {
    /// The slots are complete up to here.
    pub(crate) at: Position,
    /// Whether the directory is ahead of that: another page follows.
    pub(crate) more: bool,
    /// The slots with numbers above the position that was sent, or all slots if that position was
    /// of another epoch; none above [`at`](Beat::at).
    ///
    /// With [`TagSlot::FOLLOWED`], if that was ever invalidated, whatever its number.
    pub(crate) slots: Vec<(TagSlot, u64)>,
    /// The follower that leads, if one ever has in this epoch.
    pub(crate) leader: Option<Leader>,
    pub(crate) connection: u64,
}

/// Why a request to the store failed. The caller of a read never sees these errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreError {
    /// No connection, no reply in time, or an error.
    Unavailable,
    /// Other transfers took all the time of this one.
    Busy,
    /// The transfer of a large entry did not end in time, or would not have.
    TooSlow,
}

/// Why the body of a large entry could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// A part is not there, or is not of the size that the head describes.
    Missing,
    /// Other transfers took all the time.
    Busy,
    /// The transfer did not end in time, or would not have.
    TooSlow,
    /// No connection, or an error.
    Unavailable,
}

/// A notice from the store. Notices are hints and may be lost; correctness does not depend on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// There is a new connection for commands.
    Connected,
    /// The connection for commands is lost.
    Disconnected,
    /// Notices arrive again. Some may have been missed.
    Subscribed,
    /// No notices arrive until the next [`Subscribed`](Notice::Subscribed).
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

/// Receives notices from the store. It must not block.
pub(crate) trait Listener: Send + Sync {
    fn hear(&self, notice: Notice);
}
