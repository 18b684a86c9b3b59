//! [`EntryReport`]: what Redis holds for one result.

use std::time::Duration;

use bytes::Bytes;

use super::directory::Directory;
use super::key::ResultKey;
use super::verdict::Verdict;
use crate::rows::{ColumnSets, Image, Rows};

/// What Redis holds for one result, and whether it would be served: a snapshot by
/// [`Redis::inspect`](super::Redis::inspect).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EntryReport {
    /// The key.
    pub key: ResultKey,
    /// The name of the entry in Redis.
    pub name: String,
    /// Whether a process that asked Redis now would be served with it, and why not.
    pub verdict: Verdict,
    /// The entry, if there is one of Larder's.
    pub entry: Option<EntryDetails>,
    /// The slots that the entry depends on, and the one for everything.
    pub slots: Vec<SlotState>,
    /// The state of the directory.
    pub directory: Directory,
    /// The load under way, if a process holds the lease.
    pub lease: Option<LeaseDetails>,
}

/// An entry, by its own account.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EntryDetails {
    /// The number of its format.
    pub format: u8,
    /// Its size in bytes, with its parts.
    pub size: usize,
    /// The number of parts that its value is stored in, under keys of their own; 0 if the entry
    /// contains its value.
    pub parts: usize,
    /// Whether it carries a MAC.
    pub signed: bool,
    /// Whether its bytes are as they were written.
    pub seal: Seal,
    /// The rest of the header; `None` if this build cannot read the format.
    pub header: Option<EntryHeader>,
    pub(super) payload: Bytes,
}

/// The header of an entry.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct EntryHeader {
    /// How its value is encoded.
    pub codec: EntryCodec,
    /// How long it is fresh.
    pub ttl: Duration,
    /// How long it is kept, for queries that may be served a stale result.
    pub life: Duration,
    /// How long its load took.
    pub load: Duration,
    /// How long ago it was stored; `None` if that is unknown.
    pub stored_for: Option<Duration>,
    /// How long it is kept from now on; `None` if that is unknown.
    pub remaining: Option<Duration>,
    /// The epoch as of which its load began.
    pub epoch: u64,
    /// The count of invalidations as of which its load began.
    pub seq: u64,
    /// The name of its load.
    pub token: u128,
}

/// How the value of an entry is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryCodec {
    /// [`Rows`](crate::Rows).
    Rows,
    /// [`Codec::Json`](crate::Codec::Json).
    Json,
    /// MessagePack, of the feature `msgpack`.
    MessagePack,
    /// A codec with this number, which this version does not know.
    Unknown(u8),
}

/// Whether the bytes of an entry are as they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seal {
    /// The MAC or the checksum holds.
    Holds,
    /// It has a MAC, and no secret was given to check it by.
    Unchecked,
    /// The MAC does not hold, or is missing although a secret was given.
    Unauthentic,
    /// The checksum or the length does not hold, or it is another key's entry.
    Broken,
}

/// When a slot was last invalidated.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotState {
    /// The number of the slot.
    pub slot: usize,
    /// The tags that were given to the inspection and are in this slot, `the query itself`, or
    /// `everything`.
    pub names: Vec<String>,
    /// The count of invalidations at its last one; `None` if there was none in this epoch.
    pub invalidated_at: Option<u64>,
}

/// The load of a result that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseDetails {
    /// The epoch as of which the load began.
    pub epoch: u64,
    /// The count of invalidations as of which the load began.
    pub seq: u64,
    /// Whether other processes wait for it.
    pub awaited: bool,
    /// How long the lease lasts unless it is renewed; `None` if that is unknown.
    pub remaining: Option<Duration>,
}

impl EntryDetails {
    /// The encoded value.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The value, if it is [`Rows`](crate::Rows) that can be decoded.
    pub fn rows(&self) -> Option<Rows> {
        let is_rows = self.header.is_some_and(|header| header.codec == EntryCodec::Rows);
        let image = || Image::decode(self.payload.clone(), &ColumnSets::default());
        is_rows.then(image)?.map(|image| Rows::new(image.into()))
    }
}

impl EntryCodec {
    pub(super) fn of_id(id: u8) -> EntryCodec {
        match id {
            0 => EntryCodec::Rows,
            1 => EntryCodec::Json,
            2 => EntryCodec::MessagePack,
            id => EntryCodec::Unknown(id),
        }
    }
}
