//! [`Published`]: the statistics that a process publishes in Redis.
//!
//! They are JSON with a version. A reader skips statistics that it cannot read, because they are of
//! another version or damaged.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{CacheStats, QueryStats};
use crate::value::codec::Codec;

/// Incremented when a field changes its meaning. New fields need no new version.
const VERSION: u32 = 1;

/// The statistics of a process's cache, as last published.
#[allow(dead_code)] // Read by the command only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) version: u32,
    /// Distinguishes this cache from all others, in this process and in earlier ones.
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) pid: u32,
    /// The version of this crate.
    pub(crate) larder: String,
    /// The time since the cache was built.
    pub(crate) uptime_ms: u64,
    /// The time between two publications.
    pub(crate) interval_ms: u64,
    pub(crate) cache: CacheStats,
    pub(crate) queries: Vec<QueryStats>,
    /// The views of all refreshers that use the cache.
    pub(crate) views: Vec<PublishedView>,
    /// The time from writing to reading, by Redis's clock.
    #[serde(skip)]
    pub(crate) age: Duration,
}

/// The state of a view in that process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub(crate) struct PublishedView {
    pub(crate) view: String,
    pub(crate) activity: String,
    /// The outcome of the last attempt that did not fail.
    pub(crate) last: Option<String>,
    /// The duration of the last refresh that this process made.
    pub(crate) took_ms: Option<u64>,
    /// Milliseconds since 1970, by that process's clock.
    pub(crate) next_unix_ms: Option<u64>,
    pub(crate) last_refreshed_unix_ms: Option<u64>,
    pub(crate) refreshes: u64,
    pub(crate) noticed: u64,
    pub(crate) failures_in_a_row: u32,
    pub(crate) last_error: Option<String>,
    pub(crate) hook_failures: u64,
}

/// The statistics of all processes of a fleet.
#[allow(dead_code)] // Read by the command only.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    /// Sorted by host, process and id.
    pub(crate) processes: Vec<Published>,
    /// The number of processes whose statistics could not be read: of another version, or damaged.
    pub(crate) skipped: usize,
}

/// A process's statistics are shown for this many intervals after it last published.
pub(crate) const LASTS: u32 = 3;

impl Published {
    /// The bytes that the store keeps.
    pub(crate) fn to_bytes(&self) -> Option<Bytes> {
        Codec::json(&Published { version: VERSION, ..self.clone() })
    }

    /// Decodes statistics that their store keeps for `remaining` longer.
    fn read(bytes: &Bytes, remaining: Duration) -> Option<Published> {
        let mut published: Published = Codec::Json.decode(bytes)?;
        let lasted = LASTS * Duration::from_millis(published.interval_ms.min(u64::from(u32::MAX)));
        published.age = lasted.saturating_sub(remaining);
        (published.version == VERSION).then_some(published)
    }
}

impl Roll {
    /// Decodes all snapshots in the store: the bytes of each, and how much longer it is kept.
    pub(crate) fn new(snapshots: impl IntoIterator<Item = (Bytes, Duration)>) -> Roll {
        let mut roll = Roll::default();
        for (bytes, remaining) in snapshots {
            match Published::read(&bytes, remaining) {
                Some(published) => roll.processes.push(published),
                None => roll.skipped += 1,
            }
        }
        let place = |one: &Published| (one.host.clone(), one.pid, one.id.clone());
        roll.processes.sort_by_cached_key(place);
        roll
    }
}
