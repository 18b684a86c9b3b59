//! Metrics for the `metrics` facade, for programs that have installed a recorder. Without the
//! feature, everything here does nothing.
//!
//! Counters of reads are not reported at every read: a task regularly reports how much they grew. A
//! hit in memory therefore costs the same with metrics as without. Durations are reported where
//! they are measured, at lookups in Redis and loads, which take far longer than a report.

#[cfg(feature = "metrics")]
mod report;
#[cfg(feature = "metrics")]
mod table;

use std::time::{Duration, SystemTime};

#[cfg(feature = "metrics")]
use metrics::Recorder;

#[cfg(feature = "metrics")]
pub(crate) use self::report::Reporter;

#[cfg(feature = "metrics")]
const ABOUT: metrics::Metadata<'static> =
    metrics::Metadata::new("larder", metrics::Level::INFO, None);

/// Bounds for the buckets of the cache's histograms, in seconds: from a look-up in a nearby Redis to a
/// report that takes minutes.
///
/// For a recorder of your own: histograms whose names begin with `larder_` and end in `_seconds`.
/// [`PrometheusEndpoint`](crate::PrometheusEndpoint) and
/// [`PrometheusRecorder`](crate::PrometheusRecorder) use them.
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub const DURATION_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// The keys of a query's durations.
pub(crate) struct QueryMetrics {
    #[cfg(feature = "metrics")]
    lookups: metrics::Key,
    #[cfg(feature = "metrics")]
    loads: metrics::Key,
}

#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
impl QueryMetrics {
    pub(crate) fn new(namespace: &str, query: &str) -> QueryMetrics {
        #[cfg(feature = "metrics")]
        let key = |name: &'static str| {
            let labels = [("namespace", namespace.to_owned()), ("query", query.to_owned())];
            metrics::Key::from_parts(name, &labels)
        };
        QueryMetrics {
            #[cfg(feature = "metrics")]
            lookups: key(table::LOOKUPS),
            #[cfg(feature = "metrics")]
            loads: key(table::LOADS),
        }
    }

    /// Records a lookup in Redis.
    pub(crate) fn lookup(&self, took: Duration) {
        #[cfg(feature = "metrics")]
        time(&self.lookups, took);
    }

    /// Records a load, failed or not.
    pub(crate) fn load(&self, took: Duration) {
        #[cfg(feature = "metrics")]
        time(&self.loads, took);
    }
}

#[cfg(feature = "metrics")]
fn time(key: &metrics::Key, took: Duration) {
    metrics::with_recorder(|recorder| recorder.register_histogram(key, &ABOUT).record(took));
}

/// The namespaces of a refresher's caches, each once: its views are reported under each of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespaces(#[cfg(feature = "metrics")] std::sync::Arc<[String]>);

#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
impl Namespaces {
    pub(crate) fn of<'a>(all: impl Iterator<Item = &'a str>) -> Namespaces {
        #[cfg(feature = "metrics")]
        {
            let mut names: Vec<String> = vec![];
            for name in all {
                if names.iter().all(|known| known != name) {
                    names.push(name.to_owned());
                }
            }
            Namespaces(names.into())
        }
        #[cfg(not(feature = "metrics"))]
        Namespaces()
    }

    /// Counts an attempt to refresh a view by its outcome, and records its duration if it was a
    /// refresh.
    pub(crate) fn refreshed(&self, view: &str, outcome: &'static str, took: Option<Duration>) {
        #[cfg(feature = "metrics")]
        {
            self.count("larder_refreshes_total", view, Some(("outcome", outcome)));
            if let Some(took) = took {
                self.each(table::REFRESHES, view, None, |key| time(key, took));
            }
        }
    }

    /// Reports when a view was last seen to be as it should be.
    pub(crate) fn fresh(&self, view: &str, at: SystemTime) {
        #[cfg(feature = "metrics")]
        self.each(table::FRESH, view, None, |key| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let gauge = |recorder: &dyn Recorder| recorder.register_gauge(key, &ABOUT);
            metrics::with_recorder(|recorder| gauge(recorder).set(since.as_secs_f64()));
        });
    }

    /// Counts a failed hook.
    pub(crate) fn hook_failed(&self, view: &str) {
        #[cfg(feature = "metrics")]
        self.count("larder_refresh_hook_failures_total", view, None);
    }

    /// Counts a detected refresh that had not been announced.
    pub(crate) fn noticed(&self, view: &str) {
        #[cfg(feature = "metrics")]
        self.count("larder_refreshes_noticed_total", view, None);
    }

    #[cfg(feature = "metrics")]
    fn count(&self, name: &'static str, view: &str, label: Option<(&'static str, &'static str)>) {
        self.each(name, view, label, |key| {
            let counter = |recorder: &dyn Recorder| recorder.register_counter(key, &ABOUT);
            metrics::with_recorder(|recorder| counter(recorder).increment(1));
        });
    }

    #[cfg(feature = "metrics")]
    fn each(
        &self,
        name: &'static str,
        view: &str,
        label: Option<(&'static str, &'static str)>,
        report: impl Fn(&metrics::Key),
    ) {
        let labels = |namespace: Option<&String>| {
            let namespace = namespace.map(|it| metrics::Label::new("namespace", it.clone()));
            let view = metrics::Label::new("view", view.to_owned());
            let label = label.map(|(name, value)| metrics::Label::new(name, value));
            namespace.into_iter().chain([view]).chain(label).collect::<Vec<_>>()
        };
        // Without a cache there is no namespace.
        if self.0.is_empty() {
            report(&metrics::Key::from_parts(name, labels(None)));
        }
        for namespace in self.0.iter() {
            report(&metrics::Key::from_parts(name, labels(Some(namespace))));
        }
    }
}

/// Describes all metrics to the recorder.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    metrics::with_recorder(table::describe);
}
