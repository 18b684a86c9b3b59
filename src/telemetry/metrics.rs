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

use std::time::Duration;

#[cfg(feature = "metrics")]
pub(crate) use self::report::Reporter;

#[cfg(feature = "metrics")]
const ABOUT: metrics::Metadata<'static> =
    metrics::Metadata::new("larder", metrics::Level::INFO, None);

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

#[cfg(feature = "metrics")]
fn of_view(name: &'static str, view: &str, label: Option<(&'static str, &'static str)>) {
    let view = ("view", view.to_owned());
    let label = label.map(|(name, value)| (name, value.to_owned()));
    let labels: Vec<metrics::Label> =
        std::iter::once(view).chain(label).map(|label| (&label).into()).collect();
    let key = metrics::Key::from_parts(name, labels);
    metrics::with_recorder(|recorder| recorder.register_counter(&key, &ABOUT).increment(1));
}

#[cfg(feature = "metrics")]
fn refresh_took(view: &str, took: Duration) {
    time(&metrics::Key::from_parts(table::REFRESHES, &[("view", view.to_owned())]), took);
}

/// Counts an attempt to refresh a view by its outcome, and records its duration if it was a
/// refresh.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn refreshed(view: &str, outcome: &'static str, took: Option<Duration>) {
    #[cfg(feature = "metrics")]
    {
        of_view("larder_refreshes_total", view, Some(("outcome", outcome)));
        if let Some(took) = took {
            refresh_took(view, took);
        }
    }
}

/// Counts a failed hook.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn hook_failed(view: &str) {
    #[cfg(feature = "metrics")]
    of_view("larder_refresh_hook_failures_total", view, None);
}

/// Counts a detected refresh that had not been announced.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn noticed(view: &str) {
    #[cfg(feature = "metrics")]
    of_view("larder_refreshes_noticed_total", view, None);
}

/// Describes all metrics to the recorder.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    metrics::with_recorder(table::describe);
}
