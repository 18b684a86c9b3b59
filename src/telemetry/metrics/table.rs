//! The table of all metrics: their names, and the sources of their numbers.

use metrics::{Recorder, Unit};

use crate::telemetry::stats::{CacheStats, QueryStats};

pub(super) struct Metric {
    pub(super) name: &'static str,
    unit: Unit,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

/// The type of a metric, and the source of its numbers.
pub(super) enum Kind {
    /// A counter by `namespace` and `query`, and by one more label if it is named here.
    Query(Option<&'static str>, Parts<QueryStats>),
    /// A counter by `namespace`, and by one more label if it is named here.
    Cache(Option<&'static str>, Parts<CacheStats>),
    /// A gauge by `namespace`.
    Gauge(fn(&CacheStats) -> f64),
    /// A gauge that is always one, by `version`.
    Build,
    /// A counter by `namespace` and `view`, reported at each event.
    View,
    /// A gauge by `namespace` and `view`, reported at each event.
    ViewGauge,
    /// A histogram, reported at each event.
    Histogram,
}

/// The values of the label, and the number for each.
type Parts<T> = &'static [(&'static str, fn(&T) -> u64)];

pub(super) const LOOKUPS: &str = "larder_l2_lookup_duration_seconds";
pub(super) const LOADS: &str = "larder_load_duration_seconds";
pub(super) const REFRESHES: &str = "larder_refresh_duration_seconds";
pub(super) const FRESH: &str = "larder_refresh_last_success_timestamp_seconds";

const fn metric(name: &'static str, unit: Unit, kind: Kind, help: &'static str) -> Metric {
    Metric { name, unit, kind, help }
}

/// In the order of the documentation.
pub(super) const ALL: &[Metric] = &[
    metric(
        "larder_reads_total",
        Unit::Count,
        Kind::Query(
            Some("origin"),
            &[
                ("l1", |query| query.l1_hits),
                ("l2", |query| query.l2_hits),
                ("coalesced", |query| query.coalesced),
                ("loaded", |query| query.reads_loaded),
                ("stale", |query| query.stale),
                ("failed", |query| query.failed),
            ],
        ),
        "Reads answered, by where the answer came from",
    ),
    metric(
        "larder_negative_hits_total",
        Unit::Count,
        Kind::Query(None, &[("", |query| query.negative_hits)]),
        "Reads answered with an error that was kept as an answer",
    ),
    metric(
        "larder_outdated_total",
        Unit::Count,
        Kind::Query(None, &[("", |query| query.invalidated)]),
        "Results found and not served because they had been invalidated",
    ),
    metric(
        "larder_loads_total",
        Unit::Count,
        Kind::Query(None, &[("", |query| query.loads)]),
        "Loads begun: queries sent to PostgreSQL",
    ),
    metric(
        "larder_load_errors_total",
        Unit::Count,
        Kind::Query(None, &[("", |query| query.load_errors)]),
        "Loads that failed, or whose deadline passed before their turn",
    ),
    metric(
        "larder_unfollowed_total",
        Unit::Count,
        Kind::Query(None, &[("", |query| query.unfollowed)]),
        "Loads of queries that learn whose results could not be followed",
    ),
    metric(LOADS, Unit::Seconds, Kind::Histogram, "How long loads took, failed ones included"),
    metric(
        "larder_loaded_bytes_total",
        Unit::Bytes,
        Kind::Query(None, &[("", |query| query.loaded_bytes)]),
        "Bytes of results that were loaded, as far as they may be stored",
    ),
    metric(LOOKUPS, Unit::Seconds, Kind::Histogram, "How long Redis took to be looked into"),
    metric(
        "larder_redis_bytes_total",
        Unit::Bytes,
        Kind::Query(
            Some("direction"),
            &[("read", |query| query.l2_bytes_read), ("written", |query| query.l2_bytes_written)],
        ),
        "Bytes of entries read from and written to Redis",
    ),
    metric(
        "larder_l2_misses_total",
        Unit::Count,
        Kind::Cache(None, &[("", |cache| cache.l2_misses)]),
        "Look-ups in Redis that found nothing young enough",
    ),
    metric(
        "larder_l2_refused_total",
        Unit::Count,
        Kind::Cache(None, &[("", |cache| cache.l2_refused)]),
        "Look-ups in Redis that found something that is not this key's entry",
    ),
    metric(
        "larder_l2_errors_total",
        Unit::Count,
        Kind::Cache(None, &[("", |cache| cache.l2_errors)]),
        "Commands that Redis did not answer in time or answered with an error, and look-ups left out",
    ),
    metric(
        "larder_l2_writes_total",
        Unit::Count,
        Kind::Cache(
            Some("outcome"),
            &[("written", |cache| cache.l2_writes), ("overtaken", |cache| cache.l2_overtaken)],
        ),
        "Results written to Redis, and those not written because they were overtaken",
    ),
    metric(
        "larder_l2_too_slow_total",
        Unit::Count,
        Kind::Cache(None, &[("", |cache| cache.l2_too_slow)]),
        "Large results not read from Redis or not written to it for want of time",
    ),
    metric(
        "larder_unstored_total",
        Unit::Count,
        Kind::Cache(
            Some("reason"),
            &[("oversized", |cache| cache.oversized), ("codec", |cache| cache.unstorable)],
        ),
        "Results answered and not stored",
    ),
    metric(
        "larder_background_loads_total",
        Unit::Count,
        Kind::Cache(None, &[("", |cache| cache.background_loads)]),
        "Loads begun while the result was still served",
    ),
    metric(
        "larder_lease_waits_total",
        Unit::Count,
        Kind::Cache(None, &[("", |cache| cache.lease_waits)]),
        "Loads of other processes that were waited for",
    ),
    metric(
        "larder_invalidations_total",
        Unit::Count,
        Kind::Cache(None, &[("", |cache| cache.invalidations)]),
        "Invalidations made by this process",
    ),
    metric(
        "larder_unannounced_invalidations_total",
        Unit::Count,
        Kind::Cache(None, &[("", |cache| cache.unacknowledged)]),
        "Invalidations that Redis had not acknowledged when they returned",
    ),
    metric(
        "larder_epochs_total",
        Unit::Count,
        Kind::Cache(None, &[("", |cache| cache.epochs)]),
        "How often Redis was found to count invalidations anew",
    ),
    metric(
        "larder_redis_refusals_total",
        Unit::Count,
        Kind::Cache(
            Some("reason"),
            &[
                ("credentials", |cache| cache.refused_credentials),
                ("server", |cache| cache.refused_connections),
            ],
        ),
        "Connections that Redis refused, for the user or password or because it cannot serve now",
    ),
    metric(
        "larder_unpublished_total",
        Unit::Count,
        Kind::Cache(None, &[("", |cache| cache.unpublished)]),
        "How often the numbers for the command could not be written to Redis",
    ),
    metric(
        "larder_follow_changes_total",
        Unit::Count,
        Kind::Cache(None, &[("", |cache| cache.followed_relations)]),
        "Relations announced as changed by a process that follows the database",
    ),
    metric(
        "larder_follow_wholesale_total",
        Unit::Count,
        Kind::Cache(
            Some("reason"),
            &[
                ("gap", |cache| cache.followed_gaps),
                ("unseen", |cache| cache.followed_unseen),
                ("unnamed", |cache| cache.followed_unnamed),
                ("unreadable", |cache| cache.followed_unreadable),
                ("definition", |cache| cache.followed_definitions),
            ],
        ),
        "How often everything that is followed was invalidated",
    ),
    metric(
        "larder_follow_failures_total",
        Unit::Count,
        Kind::Cache(None, &[("", |cache| cache.follow_failures)]),
        "How often the database could not be followed, or not any longer",
    ),
    metric(
        "larder_follow_leads",
        Unit::Count,
        Kind::Gauge(|cache| cache.follow_leads as f64),
        "One if this process follows the database for all, else zero",
    ),
    metric(
        "larder_follow_lag_seconds",
        Unit::Seconds,
        Kind::Gauge(|cache| cache.follow_lag.as_secs_f64()),
        "How long the last round of the process took that follows the database",
    ),
    metric(
        "larder_entries",
        Unit::Count,
        Kind::Gauge(|cache| cache.entries as f64),
        "Results in memory",
    ),
    metric(
        "larder_memory_bytes",
        Unit::Bytes,
        Kind::Gauge(|cache| cache.memory_bytes as f64),
        "What results in memory take of the limit",
    ),
    metric(
        "larder_memory_limit_bytes",
        Unit::Bytes,
        Kind::Gauge(|cache| cache.max_bytes as f64),
        "What results in memory may take",
    ),
    metric(
        "larder_refreshes_total",
        Unit::Count,
        Kind::View,
        "Attempts to refresh a materialized view, by what came of them",
    ),
    metric(
        REFRESHES,
        Unit::Seconds,
        Kind::Histogram,
        "How long refreshes took, failed ones included",
    ),
    metric(
        FRESH,
        Unit::Seconds,
        Kind::ViewGauge,
        "When the view was last refreshed, by anybody, or had nothing to be refreshed for, in seconds since 1970",
    ),
    metric(
        "larder_refreshes_noticed_total",
        Unit::Count,
        Kind::View,
        "Refreshes made by others that this process noticed first",
    ),
    metric(
        "larder_refresh_hook_failures_total",
        Unit::Count,
        Kind::View,
        "Hooks of refreshes that failed, panicked, ran into their timeout or were left out",
    ),
    metric("larder_build_info", Unit::Count, Kind::Build, "One, with the version of the library"),
];

pub(super) fn describe(recorder: &dyn Recorder) {
    for metric in ALL {
        let (name, unit) = (metric.name.into(), Some(metric.unit));
        match metric.kind {
            Kind::Query(..) | Kind::Cache(..) | Kind::View => {
                recorder.describe_counter(name, unit, metric.help.into());
            }
            Kind::Gauge(_) | Kind::Build | Kind::ViewGauge => {
                recorder.describe_gauge(name, unit, metric.help.into());
            }
            Kind::Histogram => recorder.describe_histogram(name, unit, metric.help.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCS: &str = include_str!("../../docs/metrics.md");

    #[test]
    fn the_documentation_has_a_row_for_every_metric_and_for_nothing_else() {
        let rows = DOCS.lines().filter_map(|line| line.strip_prefix("| `larder_"));
        let rows: Vec<_> = rows.map(|row| row.split_once('`').unwrap()).collect();
        let names: Vec<_> = rows.iter().map(|(name, _)| format!("larder_{name}")).collect();
        assert_eq!(names, ALL.iter().map(|metric| metric.name).collect::<Vec<_>>());
        for (metric, (_, row)) in ALL.iter().zip(rows) {
            assert!(row.contains(metric.help), "{}: {row}", metric.name);
            let kind = match metric.kind {
                Kind::Query(..) | Kind::Cache(..) | Kind::View => "| counter |",
                Kind::Gauge(_) | Kind::Build | Kind::ViewGauge => "| gauge |",
                Kind::Histogram => "| histogram |",
            };
            assert!(row.contains(kind), "{}: {row}", metric.name);
            let labels: &[&str] = match &metric.kind {
                Kind::Query(more, _) => &["namespace", "query", more.unwrap_or_default()],
                Kind::Cache(more, _) => &["namespace", more.unwrap_or_default()],
                Kind::Gauge(_) => &["namespace"],
                Kind::Build => &["version"],
                Kind::View | Kind::ViewGauge => &["namespace", "view"],
                Kind::Histogram if metric.name == REFRESHES => &["namespace", "view"],
                Kind::Histogram => &["namespace", "query"],
            };
            for label in labels.iter().filter(|label| !label.is_empty()) {
                assert!(row.contains(&format!("`{label}`")), "{}: {row}", metric.name);
            }
        }
    }

    #[test]
    fn names_tell_their_unit_and_kind() {
        for Metric { name, unit, kind, .. } in ALL {
            let counts = matches!(kind, Kind::Query(..) | Kind::Cache(..) | Kind::View);
            assert_eq!(name.ends_with("_total"), counts, "{name}");
            let bare = name.trim_end_matches("_total");
            assert_eq!(bare.ends_with("_bytes"), *unit == Unit::Bytes, "{name}");
            assert_eq!(bare.ends_with("_seconds"), *unit == Unit::Seconds, "{name}");
        }
    }
}
