//! [`Answer`]: a result, where it came from and how old it is.

use std::time::Duration;

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// This process's memory.
    L1,
    /// Redis.
    L2,
    /// The query: this read ran it.
    Loaded,
    /// Another read of the same result, under way when this one began: it was waited for.
    Coalesced,
    /// Memory or Redis, and it is not current any more: a policy allowed it; see
    /// [`Answer::staleness`].
    Stale,
}

/// In what way a stale answer is not current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Staleness {
    /// It is older than its time to live. Nothing that it depends on has been invalidated.
    Expired,
    /// Something it depends on was invalidated after its load had begun, or may have been: Redis
    /// could not be asked. Only [`allow_invalidated`](crate::Query::allow_invalidated) lets such
    /// answers through.
    Invalidated,
}

/// A result with its origin and its age; what [`Read::answer`](crate::Read::answer) gives.
#[derive(Debug, Clone)]
pub struct Answer<V> {
    value: V,
    origin: Origin,
    staleness: Option<Staleness>,
    age: Duration,
}

impl<V> Answer<V> {
    pub(crate) fn new(value: V, origin: Origin, age: Duration) -> Answer<V> {
        Answer { value, origin, staleness: None, age }
    }

    pub(crate) fn stale(value: V, staleness: Staleness, age: Duration) -> Answer<V> {
        Answer { value, origin: Origin::Stale, staleness: Some(staleness), age }
    }

    /// The result.
    pub fn value(&self) -> &V {
        &self.value
    }

    /// The result, taken out.
    pub fn into_value(self) -> V {
        self.value
    }

    /// Where it came from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// In what way it is not current, if it is stale.
    pub fn staleness(&self) -> Option<Staleness> {
        self.staleness
    }

    /// How long before this answer its load began: the result shows the database as of then or
    /// later. For a result from Redis it is counted in Redis's time and exact to a millisecond.
    pub fn age(&self) -> Duration {
        self.age
    }
}
