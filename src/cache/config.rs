//! [`QueryConfig`]: the settings and counters of one query.

use std::sync::Arc;

use crate::policy::Policy;
use crate::telemetry::counters::{QueryCounters, StripedCounter};
use crate::value::tag::Dependencies;

/// What a query brings to each of its reads.
pub(crate) struct QueryConfig {
    pub(crate) policy: Policy,
    /// The counters's, here because a hit counts nothing else.
    pub(crate) l1_hits: StripedCounter,
    pub(crate) counters: Arc<QueryCounters>,
    /// The slots of its declared tags and its own.
    pub(crate) depends: Arc<Dependencies>,
}
