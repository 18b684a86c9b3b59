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
}

/// A result with its origin and its age; what [`Read::answer`](crate::Read::answer) gives.
#[derive(Debug, Clone)]
pub struct Answer<V> {
    value: V,
    origin: Origin,
    age: Duration,
}

impl<V> Answer<V> {
    pub(crate) fn new(value: V, origin: Origin, age: Duration) -> Answer<V> {
        Answer { value, origin, age }
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

    /// How long before this answer its load began: the result shows the database as of then or
    /// later. For a result from Redis it is counted in Redis's time and exact to a millisecond.
    pub fn age(&self) -> Duration {
        self.age
    }
}
