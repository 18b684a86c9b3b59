//! [`Entry`]: a result in this process's memory, with all that is needed to judge it.

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
pub(crate) struct Entry {
    /// Of the key it is the result of.
    fingerprint: [u8; 16],
    value: Arc<dyn Any + Send + Sync>,
    pub(crate) lifetime: Lifetime,
    /// As of when its load began.
    pub(crate) stamp: Stamp,
    /// Which load it is the result of.
    pub(crate) token: Token,
    pub(crate) depends: Arc<Dependencies>,
    weight: u32,
}

/// The load that an entry is the result of.
pub(crate) struct LoadInfo {
    pub(crate) stamp: Stamp,
    pub(crate) token: Token,
    pub(crate) depends: Arc<Dependencies>,
}

/// The times that an entry in memory has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetime {
    /// When its load began: its age counts from here.
    pub(crate) load_began: Instant,
    /// When its load ended: its `ttl` counts from here.
    pub(crate) loaded: Instant,
    /// When it came into this memory: its `l1_ttl` counts from here.
    pub(crate) cached: Instant,
    /// When it ends by what was drawn for it, and by what remained of it in Redis.
    pub(crate) expires: Instant,
    /// Until when it is kept for those who may be served a stale one; never before `expires`.
    pub(crate) evict_at: Instant,
}

impl Lifetime {
    /// Whether it may be served from memory to a query of this policy: one entry may be read by
    /// queries that differ in how old they let it become.
    #[inline]
    pub(crate) fn allows(&self, policy: &Policy, now: Instant) -> bool {
        // A reader may have looked at the clock before the entry came: then no time has passed.
        let now_here = now.max(self.cached);
        self.is_fresh(policy, now) && now_here < clock::after(self.cached, policy.l1_ttl)
    }

    /// Whether its time to live has not ended. That is what counts for those to whom it is handed on
    /// its way into memory, however short it may stay there.
    #[inline]
    pub(crate) fn is_fresh(&self, policy: &Policy, now: Instant) -> bool {
        now < self.expires && now < clock::after(self.loaded, policy.ttl)
    }

    /// Whether it may be served `beyond` its time to live.
    pub(crate) fn allows_stale(&self, policy: &Policy, beyond: Duration, now: Instant) -> bool {
        !beyond.is_zero()
            && now < self.evict_at
            && now < clock::after(self.loaded, policy.ttl.saturating_add(beyond))
    }

    /// What is left of its time to live.
    #[inline]
    pub(crate) fn remaining(&self, policy: &Policy, now: Instant) -> Duration {
        clock::since(self.expires.min(clock::after(self.loaded, policy.ttl)), now)
    }

    /// The five times, in their order, as nanoseconds.
    #[cfg(test)]
    pub(crate) fn of_nanos(times: [u64; 5]) -> Lifetime {
        let [load_began, loaded, cached, expires, evict_at] = times.map(Instant::from_nanos);
        Lifetime { load_began, loaded, cached, expires, evict_at }
    }

    /// How long its load took.
    #[inline]
    pub(crate) fn load(&self) -> Duration {
        clock::since(self.loaded, self.load_began)
    }
}

impl Entry {
    pub(crate) fn new<T: Send + Sync + 'static>(
        key: &CacheKey,
        value: Arc<T>,
        bytes: usize,
        lifetime: Lifetime,
        LoadInfo { stamp, token, depends }: LoadInfo,
    ) -> Arc<Entry> {
        let weight = u32::try_from(bytes.saturating_add(OVERHEAD)).unwrap_or(u32::MAX);
        let fingerprint = key.fingerprint();
        Arc::new(Entry { fingerprint, value, lifetime, stamp, token, depends, weight })
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
        clock::since(now, self.lifetime.load_began)
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
        let lifetime = Lifetime::of_nanos([0, 10, 20, 100, 200]);
        let policy = |ttl: u64, l1_ttl: u64| Policy {
            ttl: Duration::from_nanos(ttl),
            l1_ttl: Duration::from_nanos(l1_ttl),
            ..Policy::default()
        };
        assert!(lifetime.allows(&policy(50, 50), Instant::from_nanos(59)));
        assert!(!lifetime.allows(&policy(50, 50), Instant::from_nanos(60)));
        assert!(lifetime.allows(&policy(50, 30), Instant::from_nanos(49)));
        assert!(!lifetime.allows(&policy(50, 30), Instant::from_nanos(50)));
        assert!(!lifetime.allows(&policy(500, 500), Instant::from_nanos(100)));
        // Not in memory at all, not even to who came before it did.
        assert!(lifetime.allows(&policy(50, 30), Instant::from_nanos(19)));
        assert!(!lifetime.allows(&policy(50, 0), Instant::from_nanos(19)));
        assert!(lifetime.is_fresh(&policy(50, 30), Instant::from_nanos(59)));
        assert!(!lifetime.is_fresh(&policy(50, 30), Instant::from_nanos(60)));
        assert!(!lifetime.is_fresh(&policy(500, 30), Instant::from_nanos(100)));
        let beyond = Duration::from_nanos(40);
        assert!(lifetime.allows_stale(&policy(50, 50), beyond, Instant::from_nanos(99)));
        assert!(!lifetime.allows_stale(&policy(50, 50), beyond, Instant::from_nanos(100)));
        assert!(!lifetime.allows_stale(&policy(500, 50), beyond, Instant::from_nanos(200)));
        assert!(!lifetime.allows_stale(&policy(500, 50), Duration::ZERO, Instant::from_nanos(50)));
    }
}
