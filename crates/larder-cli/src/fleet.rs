//! [`Fleet`]: what all processes of a namespace publish, summed up, and how fast it grows.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Serialize;

use larder::stats::{FleetStats, Latency, ProcessStats, QueryStats};

/// What is known of a fleet, from one look at it after the other.
#[derive(Default)]
pub(super) struct Fleet {
    pub(super) processes: Vec<ProcessStats>,
    /// How many published something that this build cannot read.
    pub(super) skipped: usize,
    /// Of each process, what it had published before.
    before: HashMap<String, ProcessStats>,
}

/// What is no query's, of all processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Rest {
    pub(super) invalidations: u64,
    pub(super) unannounced: u64,
    pub(super) epochs: u64,
    pub(super) redis_errors: u64,
    pub(super) too_slow: u64,
    pub(super) redis_refused: u64,
    pub(super) refreshes: u64,
    pub(super) lease_waits: u64,
    pub(super) unstored: u64,
    pub(super) entries: u64,
    pub(super) memory_bytes: u64,
}

/// How it stands with a view, by the word of all processes that refresh it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct View {
    pub(super) view: String,
    pub(super) activity: String,
    pub(super) last: Option<String>,
    pub(super) took_ms: Option<u64>,
    pub(super) next_unix_ms: Option<u64>,
    pub(super) last_refreshed_unix_ms: Option<u64>,
    pub(super) refreshes: u64,
    pub(super) failures_in_a_row: u32,
    pub(super) last_error: Option<String>,
}

/// What happened in a second, on average since each process's last word but one.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Flow {
    pub(super) l1_hits: f64,
    pub(super) l2_hits: f64,
    pub(super) coalesced: f64,
    pub(super) loaded: f64,
    pub(super) stale: f64,
    pub(super) failed: f64,
    pub(super) outdated: f64,
    pub(super) loads: f64,
    pub(super) load_errors: f64,
    pub(super) invalidations: f64,
    pub(super) refreshes: f64,
    /// Seconds that PostgreSQL was kept busy.
    pub(super) postgres: f64,
    #[serde(skip)]
    pub(super) lookup_latency: Latency,
    #[serde(skip)]
    pub(super) load_latency: Latency,
}

impl Flow {
    pub(super) fn reads(&self) -> f64 {
        self.l1_hits + self.l2_hits + self.coalesced + self.loaded + self.stale + self.failed
    }

    pub(super) fn hit_ratio(&self) -> Option<f64> {
        let reads = self.reads();
        (reads > 0.0).then(|| (reads - self.loaded - self.failed) / reads)
    }

    fn add(&mut self, now: &QueryStats, before: &QueryStats, seconds: f64) {
        let since = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        self.l1_hits += since(now.l1_hits, before.l1_hits);
        self.l2_hits += since(now.l2_hits, before.l2_hits);
        self.coalesced += since(now.coalesced, before.coalesced);
        self.loaded += since(now.reads_loaded, before.reads_loaded);
        self.stale += since(now.stale, before.stale);
        self.failed += since(now.failed, before.failed);
        self.outdated += since(now.invalidated, before.invalidated);
        self.loads += since(now.loads, before.loads);
        self.load_errors += since(now.load_errors, before.load_errors);
        let busy = now.load_latency.sum().saturating_sub(before.load_latency.sum());
        self.postgres += busy.as_secs_f64() / seconds;
        self.lookup_latency.add(&now.lookup_latency.since(&before.lookup_latency));
        self.load_latency.add(&now.load_latency.since(&before.load_latency));
    }
}

/// Adds what another process has counted for the query.
fn add(sum: &mut QueryStats, more: &QueryStats) {
    sum.l1_hits += more.l1_hits;
    sum.l2_hits += more.l2_hits;
    sum.coalesced += more.coalesced;
    sum.reads_loaded += more.reads_loaded;
    sum.stale += more.stale;
    sum.failed += more.failed;
    sum.negative_hits += more.negative_hits;
    sum.invalidated += more.invalidated;
    sum.loads += more.loads;
    sum.load_errors += more.load_errors;
    sum.loaded_bytes += more.loaded_bytes;
    sum.l2_bytes_read += more.l2_bytes_read;
    sum.l2_bytes_written += more.l2_bytes_written;
    sum.lookup_latency.add(&more.lookup_latency);
    sum.load_latency.add(&more.load_latency);
}

fn sum<'a>(all: impl IntoIterator<Item = &'a QueryStats>) -> QueryStats {
    let mut total = QueryStats::default();
    all.into_iter().for_each(|query| add(&mut total, query));
    total
}

impl Fleet {
    /// Takes in a new look at it.
    pub(super) fn observe(&mut self, roll: FleetStats) {
        for new in &roll.processes {
            let old = self.processes.iter().position(|old| old.id == new.id);
            if let Some(old) = old
                && self.processes[old].uptime_ms < new.uptime_ms
            {
                self.before.insert(new.id.clone(), self.processes.swap_remove(old));
            }
        }
        self.before.retain(|id, _| roll.processes.iter().any(|one| one.id == *id));
        self.processes = roll.processes;
        self.skipped = roll.skipped;
    }

    /// Of all queries of all processes.
    pub(super) fn total(&self) -> QueryStats {
        sum(self.processes.iter().flat_map(|process| &process.queries))
    }

    pub(super) fn of_process(process: &ProcessStats) -> QueryStats {
        sum(&process.queries)
    }

    pub(super) fn rest(&self) -> Rest {
        let mut rest = Rest::default();
        for cache in self.processes.iter().map(|process| &process.cache) {
            rest.invalidations += cache.invalidations;
            rest.unannounced += cache.unacknowledged;
            rest.epochs += cache.epochs;
            rest.redis_errors += cache.l2_errors;
            rest.too_slow += cache.l2_too_slow;
            rest.redis_refused += cache.l2_refused;
            rest.refreshes += cache.background_loads;
            rest.lease_waits += cache.lease_waits;
            rest.unstored += cache.oversized + cache.unstorable;
            rest.entries += cache.entries;
            rest.memory_bytes += cache.memory_bytes;
        }
        rest
    }

    /// Of each query, in all processes.
    pub(super) fn queries(&self) -> Vec<QueryStats> {
        let mut queries: BTreeMap<&str, QueryStats> = BTreeMap::new();
        for query in self.processes.iter().flat_map(|process| &process.queries) {
            let name = query.name.clone();
            let sum = queries.entry(&query.name).or_insert_with(|| {
                let mut query = QueryStats::default();
                query.name = name;
                query
            });
            add(sum, query);
        }
        queries.into_values().collect()
    }

    /// Of each view, by whom it was refreshed last, or tried, and what comes next.
    pub(super) fn views(&self) -> Vec<View> {
        let mut views: BTreeMap<&str, View> = BTreeMap::new();
        for said in self.processes.iter().flat_map(|process| &process.views) {
            let view = views.entry(&said.view).or_insert_with(|| View {
                view: said.view.clone(),
                activity: said.activity.clone(),
                last: said.last.clone(),
                took_ms: said.took_ms,
                next_unix_ms: said.next_unix_ms,
                last_refreshed_unix_ms: None,
                refreshes: 0,
                failures_in_a_row: 0,
                last_error: None,
            });
            view.refreshes += said.refreshes;
            view.failures_in_a_row = view.failures_in_a_row.max(said.failures_in_a_row);
            view.next_unix_ms = match (view.next_unix_ms, said.next_unix_ms) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            // Whoever does something has more to say than those who watch it.
            if view.activity == "idle" || said.activity == "refreshing" {
                view.activity = said.activity.clone();
            }
            if said.last_error.is_some() {
                view.last_error = said.last_error.clone();
            }
            if said.last_refreshed_unix_ms > view.last_refreshed_unix_ms {
                view.last_refreshed_unix_ms = said.last_refreshed_unix_ms;
                view.last = said.last.clone();
                view.took_ms = said.took_ms;
            }
        }
        views.into_values().collect()
    }

    /// Whether any process has been heard of twice, so that there are rates.
    pub(super) fn flows(&self) -> bool {
        !self.before.is_empty()
    }

    /// What happens in a second, in all and for each query.
    pub(super) fn flow(&self) -> (Flow, BTreeMap<String, Flow>) {
        let (mut all, mut queries) = (Flow::default(), BTreeMap::<String, Flow>::new());
        for process in &self.processes {
            let Some(before) = self.before.get(&process.id) else { continue };
            // By the process's own clock, exactly from word to word.
            let between = Duration::from_millis(process.uptime_ms - before.uptime_ms);
            let seconds = between.as_secs_f64();
            let nothing = QueryStats::default();
            for query in &process.queries {
                let earlier = before.queries.iter().find(|earlier| earlier.name == query.name);
                let earlier = earlier.unwrap_or(&nothing);
                all.add(query, earlier, seconds);
                queries.entry(query.name.clone()).or_default().add(query, earlier, seconds);
            }
            let (now, then) = (&process.cache, &before.cache);
            let since = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            all.invalidations += since(now.invalidations, then.invalidations);
            all.refreshes += process.views.iter().map(|view| view.refreshes).sum::<u64>() as f64
                / seconds
                - before.views.iter().map(|view| view.refreshes).sum::<u64>() as f64 / seconds;
        }
        (all, queries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: &str, uptime_ms: u64, l1_hits: u64, loaded: u64) -> ProcessStats {
        let queries = serde_json::json!([{ "name": "q", "l1_hits": l1_hits, "loaded": loaded }]);
        let published = serde_json::json!({
            "version": 1, "id": id, "host": "h", "pid": 7, "larder": "0.1.0",
            "uptime_ms": uptime_ms, "interval_ms": 1000,
            "cache": { "invalidations": loaded, "entries": 2 },
            "queries": queries, "views": [],
        });
        serde_json::from_value(published).unwrap()
    }

    fn roll(processes: Vec<ProcessStats>) -> FleetStats {
        let mut stats = FleetStats::default();
        stats.processes = processes;
        stats
    }

    #[test]
    fn a_fleet_is_the_sum_of_its_processes_and_flows_by_their_own_clocks() {
        let mut fleet = Fleet::default();
        fleet.observe(roll(vec![process("a", 1_000, 10, 1), process("b", 9_000, 100, 0)]));
        assert!(!fleet.flows());
        assert_eq!((fleet.total().l1_hits, fleet.rest().entries), (110, 4));
        // One was heard of again after two seconds, the other not yet; a third is new.
        fleet.observe(roll(vec![
            process("a", 3_000, 50, 11),
            process("b", 9_000, 100, 0),
            process("c", 500, 1_000, 0),
        ]));
        let (all, queries) = fleet.flow();
        assert_eq!((all.l1_hits, all.loaded, all.invalidations), (20.0, 5.0, 5.0));
        assert_eq!(all.hit_ratio(), Some(0.8));
        assert_eq!(queries["q"].l1_hits, 20.0);
        assert_eq!(fleet.queries()[0].l1_hits, 1_150);
        // What has not been heard of again goes on as it was.
        fleet.observe(roll(vec![process("a", 3_000, 50, 11)]));
        assert_eq!(fleet.flow().0.l1_hits, 20.0);
        fleet.observe(roll(vec![]));
        assert!(!fleet.flows());
    }
}
