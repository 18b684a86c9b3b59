//! What the benchmark and its reader processes tell each other: JSON, one message a line.

use serde::{Deserialize, Serialize};

use super::clock::Instant;
use super::judge::Ack;
use super::measure::{Packed, Parts};
use super::report::{Followed, Mode, Source, Violation};
use super::workload::Kind;

/// The hidden subcommand that reader processes run.
pub(in super::super) const READER: &str = "bench-reader";

/// To a reader process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToReader {
    Setup(Box<Task>),
    /// All are ready.
    Begin {
        at: Instant,
        until: Option<Instant>,
    },
    /// Writes of another process that were acknowledged before `complete_to`; there are no more.
    Acks {
        from: u32,
        acks: Vec<Ack>,
        complete_to: Instant,
    },
    /// Without Redis: another process has written this key.
    Tell {
        from: u32,
        number: u64,
        key: u32,
    },
    /// Without Redis: all others know of it.
    Heard {
        number: u64,
    },
    /// No more reads.
    Stop,
}

/// From a reader process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromReader {
    Ready,
    Tick {
        /// Answers so far, and how many of them were hits.
        reads: u64,
        hits: u64,
        acks: Vec<Ack>,
        complete_to: Instant,
    },
    /// Without Redis: this process has written the key, and all others are to know.
    Tell {
        number: u64,
        key: u32,
    },
    /// Without Redis: this process knows of a write of that process.
    Heard {
        from: u32,
        number: u64,
    },
    Done(Box<Outcome>),
    /// It could not begin.
    Failed(String),
}

/// All that a reader process needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) mode: Mode,
    pub(super) redis: Option<String>,
    pub(super) postgres: String,
    pub(super) namespace: String,
    pub(super) secret: Option<Vec<u8>>,
    /// The schema with the tables.
    pub(super) schema: String,
    pub(super) query: String,
    pub(super) workload: Kind,
    pub(super) keys: u32,
    /// A file with the accesses of a trace, as little-endian numbers of 32 bits.
    pub(super) trace: Option<std::path::PathBuf>,
    pub(super) seed: u64,
    /// The number of this process.
    pub(super) process: u32,
    pub(super) processes: u32,
    pub(super) tasks: u32,
    pub(super) connections: u32,
    /// How many reads this process is to make, if that is what ends it.
    pub(super) reads: Option<u64>,
    pub(super) follow: Option<Followed>,
    pub(super) write_share: f64,
    /// Writes per second of this process.
    pub(super) write_rate: f64,
    pub(super) ttl_ns: u64,
    pub(super) stale_while_revalidate_ns: u64,
    pub(super) max_staleness_ns: u64,
    pub(super) l1_bytes: u64,
    pub(super) part_ns: u64,
}

/// What a reader process has found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// When its last reader stopped.
    pub(super) ended: Instant,
    /// Whether it stopped because its time was over, and not at the end of its reads.
    pub(super) out_of_time: bool,
    pub(super) parts: Parts,
    pub(super) latency: Vec<(Source, Packed)>,
    pub(super) queries: Packed,
    pub(super) query_ns: u64,
    pub(super) write_ns: u64,
    pub(super) unacknowledged: u64,
    pub(super) acknowledged: u64,
    /// Commands that Redis did not answer in time, or with an error.
    pub(super) redis_errors: u64,
    pub(super) first_error: Option<String>,
    pub(super) checked: u64,
    pub(super) behind: Packed,
    pub(super) violations: u64,
    pub(super) examples: Vec<Violation>,
}
