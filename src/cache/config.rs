//! [`QueryConfig`]: the settings and counters of one query.

use std::sync::Arc;

use crate::policy::Policy;
use crate::telemetry::counters::{Lane, Tally};
use crate::value::tag::Depends;

/// What a query brings to each of its reads.
pub(crate) struct QueryConfig {
    pub(crate) policy: Policy,
    /// The tally's, here because a hit counts nothing else.
    pub(crate) l1_hits: Lane,
    pub(crate) tally: Arc<Tally>,
    /// The cells of its declared tags and its own.
    pub(crate) depends: Arc<Depends>,
}
