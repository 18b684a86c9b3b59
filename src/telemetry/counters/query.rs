//! [`QueryCounters`]: the counters of one query.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::striped::{Block, StripedCounter};
use super::{count, read};
use crate::error::Error;
use crate::sync::{Mutex, RwLock};
use crate::telemetry::metrics::QueryMetrics;
use crate::telemetry::stats::{Histogram, QueryStats};
use crate::value::answer::{Answer, Origin};
use crate::value::tag::{Tag, TagSlot};

/// The name that all queries beyond the first [`MOST`] share.
pub(crate) const OTHER: &str = "other";
/// The number of names that have their own counters. A program has more queries only if it writes
/// values into its SQL, and then counters for each are of no use.
const MOST: usize = 1000;
const LONGEST_NAME: usize = 64;

/// The counters behind [`QueryStats`].
pub(crate) struct QueryCounters {
    name: Arc<str>,
    pub(crate) l1_hits: StripedCounter,
    l2_hits: AtomicU64,
    coalesced: AtomicU64,
    loaded: AtomicU64,
    stale: AtomicU64,
    failed: AtomicU64,
    pub(crate) negative_hits: AtomicU64,
    pub(crate) outdated: AtomicU64,
    pub(crate) loads: AtomicU64,
    pub(crate) load_errors: AtomicU64,
    pub(crate) loaded_bytes: AtomicU64,
    pub(crate) l2_bytes_read: AtomicU64,
    pub(crate) l2_bytes_written: AtomicU64,
    unfollowed: AtomicU64,
    /// Why the last one was not.
    unfollowed_because: Mutex<Option<String>>,
    lookups: Histogram,
    load_times: Histogram,
    metrics: QueryMetrics,
    depends: Mutex<Depends>,
}

/// What results of the query depend on, for those who list them.
#[derive(Default)]
struct Depends {
    slots: BTreeSet<u16>,
    tags: BTreeSet<Tag>,
}

/// So many slots, and so many tags, are told of: a query may have a scope for each tenant.
const MOST_TOLD: usize = 64;

impl QueryCounters {
    fn new(namespace: &str, name: Arc<str>, l1_hits: StripedCounter) -> QueryCounters {
        QueryCounters {
            metrics: QueryMetrics::new(namespace, &name),
            name,
            l1_hits,
            l2_hits: AtomicU64::default(),
            coalesced: AtomicU64::default(),
            loaded: AtomicU64::default(),
            stale: AtomicU64::default(),
            failed: AtomicU64::default(),
            negative_hits: AtomicU64::default(),
            outdated: AtomicU64::default(),
            loads: AtomicU64::default(),
            load_errors: AtomicU64::default(),
            loaded_bytes: AtomicU64::default(),
            l2_bytes_read: AtomicU64::default(),
            l2_bytes_written: AtomicU64::default(),
            unfollowed: AtomicU64::default(),
            unfollowed_because: Mutex::default(),
            lookups: Histogram::default(),
            load_times: Histogram::default(),
            depends: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Counts a load whose result could not be followed.
    pub(crate) fn unfollowed(&self, why: &str) {
        count(&self.unfollowed);
        let mut because = self.unfollowed_because.lock();
        if because.as_deref() != Some(why) {
            *because = Some(why.to_owned());
        }
    }

    /// Records a lookup in Redis.
    pub(crate) fn looked_up(&self, took: Duration) {
        self.lookups.record(took);
        self.metrics.lookup(took);
    }

    /// Records a load, failed or not.
    pub(crate) fn load_took(&self, took: Duration) {
        self.load_times.record(took);
        self.metrics.load(took);
    }

    /// Counts a read that was not a hit at its first lookup in memory.
    pub(crate) fn answered<V>(&self, outcome: &Result<Answer<V>, Error>) {
        count(match outcome.as_ref().map(Answer::origin) {
            // Counted where it was found.
            Ok(Origin::L1) => return,
            Ok(Origin::L2) => &self.l2_hits,
            Ok(Origin::Coalesced) => &self.coalesced,
            Ok(Origin::Loaded) => &self.loaded,
            Ok(Origin::Stale) => &self.stale,
            Err(_) => &self.failed,
        });
    }

    /// Records what a result of the query depends on: the slot of the query, and its tags.
    pub(crate) fn depends<'t>(&self, slot: TagSlot, tags: impl Iterator<Item = &'t Tag>) {
        let mut depends = self.depends.lock();
        if depends.slots.len() < MOST_TOLD {
            depends.slots.extend(u16::try_from(slot.index()).ok());
        }
        for tag in tags {
            if depends.tags.len() < MOST_TOLD && !depends.tags.contains(tag) {
                depends.tags.insert(tag.clone());
            }
        }
    }

    fn snapshot(&self) -> QueryStats {
        let depends = self.depends.lock();
        let slots = depends.slots.iter().copied().collect();
        let tags = depends.tags.iter().map(ToString::to_string).collect();
        drop(depends);
        QueryStats {
            name: self.name.to_string(),
            slots,
            tags,
            l1_hits: self.l1_hits.sum(),
            l2_hits: read(&self.l2_hits),
            coalesced: read(&self.coalesced),
            reads_loaded: read(&self.loaded),
            stale: read(&self.stale),
            failed: read(&self.failed),
            negative_hits: read(&self.negative_hits),
            invalidated: read(&self.outdated),
            loads: read(&self.loads),
            load_errors: read(&self.load_errors),
            loaded_bytes: read(&self.loaded_bytes),
            l2_bytes_read: read(&self.l2_bytes_read),
            l2_bytes_written: read(&self.l2_bytes_written),
            unfollowed: read(&self.unfollowed),
            unfollowed_because: self.unfollowed_because.lock().clone(),
            lookup_latency: self.lookups.snapshot(),
            load_latency: self.load_times.snapshot(),
        }
    }
}

impl fmt::Debug for QueryCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryCounters").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The counters of all queries, by name. A query object that is made for each call finds the
/// counters of the previous one.
pub(crate) struct CountersByName {
    namespace: Box<str>,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    counters: HashMap<Arc<str>, Arc<QueryCounters>>,
    blocks: Vec<Arc<Block>>,
    last: Option<StripedCounter>,
}

impl CountersByName {
    pub(super) fn new(namespace: &str) -> CountersByName {
        CountersByName { namespace: namespace.into(), known: RwLock::default() }
    }

    pub(crate) fn of(&self, name: &str) -> Arc<QueryCounters> {
        let known = self.known.read();
        if let Some(counters) = known.counters.get(name) {
            return counters.clone();
        }
        drop(known);
        let mut known = self.known.write();
        let name = if known.counters.len() < MOST { name } else { OTHER };
        if let Some(counters) = known.counters.get(name) {
            return counters.clone();
        }
        let counter = StripedCounter::next(known.last.as_ref());
        if known.blocks.last().is_none_or(|last| !Arc::ptr_eq(last, counter.block())) {
            known.blocks.push(counter.block().clone());
        }
        known.last = Some(counter.clone());
        let name: Arc<str> = name.into();
        let counters = Arc::new(QueryCounters::new(&self.namespace, name.clone(), counter));
        known.counters.insert(name, counters.clone());
        counters
    }

    /// The hits in memory of all queries.
    pub(super) fn l1_hits(&self) -> u64 {
        let known = self.known.read();
        known.blocks.iter().map(|block| block.sum()).sum()
    }

    /// The statistics of all queries, sorted by name.
    pub(crate) fn snapshot(&self) -> Vec<QueryStats> {
        let known = self.known.read();
        let counters: Vec<_> = known.counters.values().cloned().collect();
        drop(known);
        let mut all: Vec<QueryStats> =
            counters.iter().map(|counters| counters.snapshot()).collect();
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all
    }
}

/// Checks a query's name; the error states the rule.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    if (1..=LONGEST_NAME).contains(&name.len()) && !name.chars().any(char::is_control) {
        Ok(())
    } else {
        Err("1 to 64 bytes, without control characters")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_tally_and_names_without_end_share_one() {
        let counters = CountersByName::new("test");
        assert!(Arc::ptr_eq(&counters.of("a"), &counters.of("a")));
        for number in 0..10 * MOST {
            counters.of(&format!("query {number}")).l1_hits.add();
        }
        let all = counters.snapshot();
        assert_eq!(all.len(), MOST + 1);
        let other = all.iter().find(|stats| stats.name == OTHER).unwrap();
        assert_eq!(other.l1_hits, 10 * MOST as u64 - (MOST as u64 - 1));
        assert_eq!(counters.l1_hits(), 10 * MOST as u64);
        assert_eq!(counters.known.read().blocks.len(), (MOST + 1).div_ceil(16));
        assert!(Arc::ptr_eq(&counters.of("a"), &counters.of("a")));
    }

    #[test]
    fn a_name_that_is_no_label_is_refused() {
        assert!(check_name("user stats, größter zuerst").is_ok());
        for wrong in ["", "a\nb", "\u{7f}", &"x".repeat(65)] {
            assert!(check_name(wrong).is_err(), "{wrong:?}");
        }
    }
}
