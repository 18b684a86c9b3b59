//! [`Held`]: a result in this process's memory, with all that is needed to judge it.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::currency::Stamp;
use crate::error::Error;
use crate::policy::Policy;
use crate::value::key::CacheKey;
use crate::value::tag::Dependencies;
use crate::value::token::Token;

/// What moka, the key and the allocator take for an entry beside its value, roughly; it counts
/// against the bound, so that a million tiny results do not take what a few large ones may.
const OVERHEAD: usize = 384;

/// A result in memory.
pub(crate) struct Held {
    /// Of the key it is the result of.
    fingerprint: [u8; 16],
    value: Arc<dyn Any + Send + Sync>,
    pub(crate) life: Life,
    /// As of when its load began.
    pub(crate) stamp: Stamp,
    /// Which load it is the result of.
    pub(crate) token: Token,
    pub(crate) depends: Arc<Dependencies>,
    weight: u32,
}

/// The times that an entry in memory has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    /// When its load began: its age counts from here.
    pub(crate) as_of: Instant,
    /// When its load ended: its `ttl` counts from here.
    pub(crate) born: Instant,
    /// When it came into this memory: its `l1_ttl` counts from here.
    pub(crate) copied: Instant,
    /// When it ends by what was drawn for it, and by what remained of it in Redis.
    pub(crate) ends: Instant,
    /// Until when it is kept for those who may be served a stale one; never before `ends`.
    pub(crate) kept: Instant,
}

impl Life {
    /// Whether it may be served from memory to a query of this policy: one entry may be read by
    /// queries that differ in how old they let it become.
    #[inline]
    pub(crate) fn allows(&self, policy: &Policy, now: Instant) -> bool {
        // A reader may have looked at the clock before the entry came: then no time has passed.
        let now_here = now.max(self.copied);
        self.is_fresh(policy, now) && now_here < clock::after(self.copied, policy.l1_ttl)
    }

    /// Whether its time to live has not ended. That is what counts for those to whom it is handed on
    /// its way into memory, however short it may stay there.
    #[inline]
    pub(crate) fn is_fresh(&self, policy: &Policy, now: Instant) -> bool {
        now < self.ends && now < clock::after(self.born, policy.ttl)
    }

    /// Whether it may be served `beyond` its time to live.
    pub(crate) fn allows_stale(&self, policy: &Policy, beyond: Duration, now: Instant) -> bool {
        !beyond.is_zero()
            && now < self.kept
            && now < clock::after(self.born, policy.ttl.saturating_add(beyond))
    }

    /// What is left of its time to live.
    #[inline]
    pub(crate) fn remaining(&self, policy: &Policy, now: Instant) -> Duration {
        clock::since(self.ends.min(clock::after(self.born, policy.ttl)), now)
    }

    /// How long its load took.
    #[inline]
    pub(crate) fn load(&self) -> Duration {
        clock::since(self.born, self.as_of)
    }
}

impl Held {
    pub(crate) fn new<T: Send + Sync + 'static>(
        key: &CacheKey,
        value: Arc<T>,
        bytes: usize,
        life: Life,
        (stamp, token): (Stamp, Token),
        depends: Arc<Dependencies>,
    ) -> Arc<Held> {
        let weight = u32::try_from(bytes.saturating_add(OVERHEAD)).unwrap_or(u32::MAX);
        let fingerprint = key.fingerprint();
        Arc::new(Held { fingerprint, value, life, stamp, token, depends, weight })
    }

    /// Whether it is the result of this key. Who has found it has compared other bytes of the key.
    #[inline]
    pub(crate) fn is_of(&self, key: &CacheKey) -> bool {
        self.fingerprint == key.fingerprint()
    }

    /// The value, unless it is no `T`.
    #[inline]
    pub(crate) fn value<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.value.clone().downcast().ok()
    }

    /// Whether it is an error that is kept as an answer.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.value.downcast_ref::<Error>().cloned()
    }

    #[inline]
    pub(crate) fn age(&self, now: Instant) -> Duration {
        clock::since(now, self.life.as_of)
    }

    #[inline]
    pub(crate) fn weight(&self) -> u32 {
        self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_wants_it_younger_is_not_served() {
        let life = Life { as_of: 0, born: 10, copied: 20, ends: 100, kept: 200 };
        let policy = |ttl: u64, l1_ttl: u64| Policy {
            ttl: Duration::from_nanos(ttl),
            l1_ttl: Duration::from_nanos(l1_ttl),
            ..Policy::default()
        };
        assert!(life.allows(&policy(50, 50), 59));
        assert!(!life.allows(&policy(50, 50), 60));
        assert!(life.allows(&policy(50, 30), 49));
        assert!(!life.allows(&policy(50, 30), 50));
        assert!(!life.allows(&policy(500, 500), 100));
        // Not in memory at all, not even to who came before it did.
        assert!(life.allows(&policy(50, 30), 19));
        assert!(!life.allows(&policy(50, 0), 19));
        assert!(life.is_fresh(&policy(50, 30), 59));
        assert!(!life.is_fresh(&policy(50, 30), 60));
        assert!(!life.is_fresh(&policy(500, 30), 100));
        let beyond = Duration::from_nanos(40);
        assert!(life.allows_stale(&policy(50, 50), beyond, 99));
        assert!(!life.allows_stale(&policy(50, 50), beyond, 100));
        assert!(!life.allows_stale(&policy(500, 50), beyond, 200));
        assert!(!life.allows_stale(&policy(500, 50), Duration::ZERO, 50));
    }
}
