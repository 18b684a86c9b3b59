//! What the cache reports about itself: counters, latencies, metrics, spans and events.

pub(crate) mod counters;
pub(crate) mod metrics;
#[cfg(feature = "prometheus")]
pub(crate) mod prometheus;
pub(crate) mod stats;
pub(crate) mod trace;
