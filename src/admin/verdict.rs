//! [`Verdict`]: whether what Redis holds would be served, and why not.

use std::fmt;
use std::time::Duration;

/// Whether a process that asked Redis at this moment would be served with the entry, by a query
/// whose `ttl` is not shorter than the entry's own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It would be served.
    Served {
        /// How long it stays fresh.
        fresh_for: Duration,
        /// Whether its MAC could not be checked, for want of the secret.
        unchecked: bool,
    },
    /// There is nothing under the key.
    Absent {
        /// How long the lease of the process that loads it lasts, if one does.
        loading: Option<Duration>,
    },
    /// What is there was not written by Larder: a value of another type, with what Redis replied.
    OtherType(String),
    /// What is there was not written by Larder.
    Foreign,
    /// It is an entry of another format.
    OtherFormat {
        /// Its format.
        format: u8,
        /// The format that this build reads.
        reads: u8,
    },
    /// It is the entry of another key.
    WrongKey,
    /// Its checksum or its length does not hold.
    Damaged,
    /// Parts of its value are missing: they were evicted or deleted.
    Incomplete {
        /// How many.
        missing: usize,
    },
    /// It was not written with this secret, or was changed since.
    Unauthentic,
    /// It is not signed, and processes that have the secret refuse it.
    Unsigned,
    /// The directory is missing: the next beat begins a new epoch.
    NoDirectory,
    /// The directory was written by another server: the next beat begins a new epoch.
    OtherServer,
    /// It is of another epoch than the directory.
    OtherEpoch {
        /// Of the entry.
        entry: u64,
        /// Of the directory.
        directory: u64,
    },
    /// Something that it depends on was invalidated after its load began.
    Invalidated {
        /// The number of the slot.
        slot: usize,
        /// The count of invalidations when the load began.
        loaded_at: u64,
        /// The count of invalidations when the slot was invalidated.
        invalidated_at: u64,
    },
    /// Redis does not report its time, so the age of the entry is unknown.
    NoTime,
    /// More of its life remains than it was stored with: the clock of Redis was set back.
    ClockSetBack {
        /// What remains.
        remaining: Duration,
        /// What it was stored with.
        life: Duration,
    },
    /// Its time to live has ended.
    Expired {
        /// How long ago.
        ago: Duration,
    },
    /// Its codec is one that this build does not have.
    UnknownCodec,
}

impl Verdict {
    /// Whether it would be served.
    pub fn is_served(&self) -> bool {
        matches!(self, Verdict::Served { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Verdict::Served { fresh_for, .. } => {
                return write!(f, "it is current, and fresh for {fresh_for:?} more");
            }
            Verdict::Absent { loading: None } => "there is nothing, and no process loads it",
            Verdict::Absent { .. } => "there is nothing yet: a process loads it",
            Verdict::OtherType(_) | Verdict::Foreign => "it was not written by larder",
            Verdict::OtherFormat { format, reads } => {
                return write!(f, "it is of format {format}, and this build reads {reads}");
            }
            Verdict::WrongKey => "it is the entry of another key",
            Verdict::Damaged => "it is damaged",
            Verdict::Incomplete { missing } => {
                return write!(f, "{missing} of its parts are missing");
            }
            Verdict::Unauthentic => "it was not written with this secret, or changed since",
            Verdict::Unsigned => "it is not signed",
            Verdict::NoDirectory => "the directory is missing",
            Verdict::OtherServer => "the directory is of another server",
            Verdict::OtherEpoch { .. } => "it is of another epoch than the directory",
            Verdict::Invalidated { slot, loaded_at, invalidated_at } => {
                return write!(
                    f,
                    "its load began at invalidation {loaded_at}, and slot {slot} was invalidated \
                     at {invalidated_at}"
                );
            }
            Verdict::NoTime => "redis does not report its time",
            Verdict::ClockSetBack { .. } => "the clock of redis was set back",
            Verdict::Expired { ago } => return write!(f, "it expired {ago:?} ago"),
            Verdict::UnknownCodec => "its codec is unknown to this build",
        };
        f.write_str(text)
    }
}
