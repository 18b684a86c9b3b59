//! [`QueryConfig`]: the settings and counters of one query.

use std::sync::Arc;

use crate::policy::Policy;
use crate::telemetry::counters::{QueryCounters, StripedCounter};
use crate::value::tag::{Dependencies, Tag, TagSlot};

/// The policy, counters and dependencies of a query, shared by its reads.
pub(crate) struct QueryConfig {
    pub(crate) policy: Policy,
    /// The counter of `counters`. It is here as well because a hit increments no other.
    pub(crate) l1_hits: StripedCounter,
    pub(crate) counters: Arc<QueryCounters>,
    /// The slots of its declared tags, and the query's own slot.
    pub(crate) depends: Arc<Dependencies>,
    /// Of the tags only those that the query itself declares, whatever its calls add.
    pub(crate) declared: Arc<Dependencies>,
    /// The query's own slot.
    pub(crate) slot: TagSlot,
    /// Its loads learn what they depend on, besides that.
    pub(crate) learns: bool,
}

impl QueryConfig {
    /// The same for reads that learn what they depend on.
    pub(crate) fn learning(&self) -> Arc<QueryConfig> {
        Arc::new(QueryConfig {
            policy: self.policy.clone(),
            l1_hits: self.l1_hits.clone(),
            counters: self.counters.clone(),
            depends: self.depends.clone(),
            declared: self.declared.clone(),
            slot: self.slot,
            learns: true,
        })
    }

    /// The configuration of a call that depends on more than its query.
    pub(crate) fn tagged(self: &Arc<Self>, tags: &[Tag]) -> Arc<QueryConfig> {
        if tags.is_empty() {
            return self.clone();
        }
        Arc::new(QueryConfig {
            policy: self.policy.clone(),
            l1_hits: self.l1_hits.clone(),
            counters: self.counters.clone(),
            depends: Arc::new(self.depends.and(tags.iter().cloned())),
            declared: self.declared.clone(),
            slot: self.slot,
            learns: self.learns,
        })
    }
}
