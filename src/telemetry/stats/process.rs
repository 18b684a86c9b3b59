//! [`Published`]: what a process says in Redis about what its cache did, for all to see.
//!
//! It is told in JSON, with a version. Whoever reads it passes over what it cannot read: another
//! version's, or something damaged.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{CacheStats, QueryStats};
use crate::value::codec::Codec;

/// Counted up when a field changes its meaning. New fields need no new version.
const VERSION: u32 = 1;

/// A process's cache as of the last time that it published its numbers.
#[allow(dead_code)] // Read by the command only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) version: u32,
    /// Tells this cache from all others, of this process and before it.
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) pid: u32,
    /// The version of this crate.
    pub(crate) larder: String,
    /// How long ago the cache was built.
    pub(crate) uptime_ms: u64,
    /// How often it publishes.
    pub(crate) interval_ms: u64,
    pub(crate) cache: CacheStats,
    pub(crate) queries: Vec<QueryStats>,
    /// Of all refreshers that the cache was given to.
    pub(crate) views: Vec<PublishedView>,
    /// How long before it was read it was written, by Redis's clock.
    #[serde(skip)]
    pub(crate) age: Duration,
}

/// How it stands with a view in that process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub(crate) struct PublishedView {
    pub(crate) view: String,
    pub(crate) activity: String,
    /// What came of the last attempt that did not fail.
    pub(crate) last: Option<String>,
    /// How long the last refresh took that this process made.
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

/// All that a fleet publishes.
#[allow(dead_code)] // Read by the command only.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    /// By host, process and id.
    pub(crate) processes: Vec<Published>,
    /// How many could not be read: of another version, or damaged.
    pub(crate) skipped: usize,
}

/// For so many intervals a process's numbers are shown after it has last been heard of.
pub(crate) const LASTS: u32 = 3;

impl Published {
    /// As it is kept in the store.
    pub(crate) fn to_bytes(&self) -> Option<Bytes> {
        Codec::json(&Published { version: VERSION, ..self.clone() })
    }

    /// What was published, which its store keeps for `remaining` longer.
    fn read(bytes: &Bytes, remaining: Duration) -> Option<Published> {
        let mut published: Published = Codec::Json.decode(bytes)?;
        let lasted = LASTS * Duration::from_millis(published.interval_ms.min(u64::from(u32::MAX)));
        published.age = lasted.saturating_sub(remaining);
        (published.version == VERSION).then_some(published)
    }
}

impl Roll {
    /// Of all snapshots in the store: each one's bytes, and how long it is kept.
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
