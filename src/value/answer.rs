//! [`Answer`]: a result, where it came from and how old it is.

use std::time::Duration;

/// The source of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// This process's memory.
    L1,
    /// Redis.
    L2,
    /// The query: this read ran it.
    Loaded,
    /// Another read of the same result: it was in flight when this read began, and this read waited
    /// for it.
    Coalesced,
    /// Memory or Redis, with a result that is no longer current: a policy allowed it; see
    /// [`Answer::staleness`].
    Stale,
}

/// Why a stale answer is not current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Staleness {
    /// It is older than its time to live. Nothing that it depends on has been invalidated.
    Expired,
    /// Something it depends on was invalidated after its load had begun, or Redis could not be
    /// reached to exclude that. Only [`allow_invalidated`](crate::Query::allow_invalidated) permits
    /// such answers.
    Invalidated,
}

/// A result with its origin and its age, as [`Read::answer`](crate::Read::answer) returns it.
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

    /// Takes the result out of the answer.
    pub fn into_value(self) -> V {
        self.value
    }

    /// The source of the result.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Why the result is not current; `None` if it is.
    pub fn staleness(&self) -> Option<Staleness> {
        self.staleness
    }

    /// The time between the start of the load and this answer. The result shows the database as of
    /// that start or later. For a result from Redis, the age is measured by Redis's clock and exact
    /// to a millisecond.
    pub fn age(&self) -> Duration {
        self.age
    }
}
