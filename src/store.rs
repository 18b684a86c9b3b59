//! [`Store`]: what the cache asks of its shared tier.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::clock::Instant;
use crate::entry::HEADER;
use crate::key::CacheKey;

/// The shared tier. No call takes longer than the time limit the store was made with.
pub(crate) trait Store: Send + Sync {
    /// The time limit.
    fn limit(&self) -> Duration;

    /// The bytes under a key, in one round trip.
    fn read<'a>(&'a self, key: &'a CacheKey) -> BoxFuture<'a, Result<Option<Found>, StoreError>>;

    /// Puts an entry under a key, over whatever was there, to live until `ends` by the system's
    /// clock: however late the write takes effect, it does not begin a new life.
    fn write<'a>(
        &'a self,
        key: &'a CacheKey,
        header: [u8; HEADER],
        payload: Bytes,
        ends: Instant,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Bytes under a key.
pub(crate) struct Found {
    pub(crate) bytes: Bytes,
    /// How long they had to live when the store was asked; never more than that.
    pub(crate) remaining: Duration,
}

/// Why the store did not answer as asked. None of it ever reaches the caller of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreError {
    /// What is under the key cannot be an entry.
    Foreign,
    /// No connection, no answer in time, or an error.
    Unavailable,
}
