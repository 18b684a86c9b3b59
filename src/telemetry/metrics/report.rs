//! [`Reporter`]: the task that reports a cache's counters to the recorder.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Key, Label, Recorder};
use tokio::time::{MissedTickBehavior, interval};

use super::ABOUT;
use super::table::{ALL, Kind, describe};
use crate::background::{Background, BackgroundTask};
use crate::sync::Mutex;
use crate::telemetry::stats::{CacheStats, QueryStats};

const EVERY: Duration = Duration::from_secs(1);

/// Reads all numbers of a cache and of its queries.
type Collect = Box<dyn Fn() -> (CacheStats, Vec<QueryStats>) + Send>;

/// Regularly reports a cache's counters to the recorder until it is dropped, and then a last time.
pub(crate) struct Reporter {
    task: BackgroundTask,
    reported: Arc<Mutex<Reported>>,
}

/// What has been reported, and to which recorder.
struct Reported {
    collect: Collect,
    namespace: String,
    /// The address of the recorder. A recorder that is installed later receives all counts from the
    /// beginning.
    recorder: Option<usize>,
    cache: CacheStats,
    queries: HashMap<String, QueryStats>,
}

impl Reporter {
    pub(crate) fn start(background: &Background, collect: Collect, namespace: &str) -> Reporter {
        let reported = Arc::new(Mutex::new(Reported {
            collect,
            namespace: namespace.to_owned(),
            recorder: None,
            cache: CacheStats::default(),
            queries: HashMap::new(),
        }));
        let reporting = reported.clone();
        let task = background.keep(move |_| {
            let reporting = reporting.clone();
            async move {
                let mut ticks = interval(EVERY);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    report(&reporting, false);
                }
            }
        });
        Reporter { task, reported }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.stop();
        report(&self.reported, true);
    }
}

fn report(reported: &Mutex<Reported>, last: bool) {
    let mut reported = reported.lock();
    metrics::with_recorder(|recorder| reported.report(recorder, last));
}

impl Reported {
    fn report(&mut self, recorder: &dyn Recorder, last: bool) {
        let here = Some(std::ptr::from_ref(recorder).addr());
        if self.recorder != here {
            self.recorder = here;
            self.cache = CacheStats::default();
            self.queries.clear();
            describe(recorder);
            let build = Key::from_parts("larder_build_info", vec![Label::new("version", VERSION)]);
            recorder.register_gauge(&build, &ABOUT).set(1);
        }
        let (mut cache, queries) = (self.collect)();
        if last {
            (cache.entries, cache.memory_bytes, cache.max_bytes) = (0, 0, 0);
            (cache.follow_leads, cache.follow_lag) = (0, Duration::ZERO);
        }
        self.report_cache(recorder, &cache);
        self.cache = cache;
        for query in queries {
            if self.queries.get(&query.name) != Some(&query) {
                self.report_query(recorder, &query);
                self.queries.insert(query.name.clone(), query);
            }
        }
    }

    // Counters and gauges are reported as differences and not as totals: two caches of one
    // namespace in one process share one series, which is their sum.

    fn report_cache(&self, recorder: &dyn Recorder, now: &CacheStats) {
        for metric in ALL {
            match metric.kind {
                Kind::Cache(label, parts) => {
                    for (value, of) in parts {
                        let key = self.key(metric.name, None, label.map(|label| (label, *value)));
                        let more = of(now).saturating_sub(of(&self.cache));
                        recorder.register_counter(&key, &ABOUT).increment(more);
                    }
                }
                Kind::Gauge(of) => {
                    let gauge = recorder.register_gauge(&self.key(metric.name, None, None), &ABOUT);
                    gauge.increment(of(now) - of(&self.cache));
                }
                _ => {}
            }
        }
    }

    fn report_query(&self, recorder: &dyn Recorder, now: &QueryStats) {
        let before = self.queries.get(&now.name);
        for metric in ALL {
            let Kind::Query(label, parts) = metric.kind else { continue };
            for (value, of) in parts {
                let label = label.map(|label| (label, *value));
                let key = self.key(metric.name, Some(&now.name), label);
                let more = of(now).saturating_sub(before.map_or(0, of));
                recorder.register_counter(&key, &ABOUT).increment(more);
            }
        }
    }

    fn key(
        &self,
        name: &'static str,
        query: Option<&str>,
        label: Option<(&'static str, &'static str)>,
    ) -> Key {
        let mut labels = vec![Label::new("namespace", self.namespace.clone())];
        labels.extend(query.map(|query| Label::new("query", query.to_owned())));
        labels.extend(label.map(|(name, value)| Label::new(name, value)));
        Key::from_parts(name, labels)
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
