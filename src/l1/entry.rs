//! [`Entry`]: a result in this process's memory, with everything needed to judge it.

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

/// The approximate cost of an entry besides its value: moka's bookkeeping, the key and the
/// allocator. It counts towards the memory bound, so that a million tiny results are charged for
/// their real size.
const OVERHEAD: usize = 384;

/// A result in memory.
pub(crate) struct Entry {
    /// The fingerprint of the key whose result this is.
    fingerprint: [u8; 16],
    value: Arc<dyn Any + Send + Sync>,
    pub(crate) lifetime: Lifetime,
    /// The stamp taken when its load began.
    pub(crate) stamp: Stamp,
    /// Identifies the load that produced it.
    pub(crate) token: Token,
    pub(crate) depends: Arc<Dependencies>,
    weight: u32,
    /// Whether its dependencies say so. Here it costs a hit no access to memory.
    is_followed: bool,
}

/// The load that produced an entry.
pub(crate) struct LoadInfo {
    pub(crate) stamp: Stamp,
    pub(crate) token: Token,
    pub(crate) depends: Arc<Dependencies>,
}

/// The times of an entry in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetime {
    /// When its load began. Its age counts from here.
    pub(crate) load_began: Instant,
    /// When its load ended. Its `ttl` counts from here.
    pub(crate) loaded: Instant,
    /// When it entered this memory. Its `l1_ttl` counts from here.
    pub(crate) cached: Instant,
    /// When it expires: by the lifetime drawn for it, and by its remaining lifetime in Redis.
    pub(crate) expires: Instant,
    /// Until when it is kept for readers that accept a stale result. Never before `expires`.
    pub(crate) evict_at: Instant,
}

impl Lifetime {
    /// Whether memory may serve it to a query with this policy. Queries with different maximum ages
    /// may read the same entry.
    #[inline]
    pub(crate) fn allows(&self, policy: &Policy, now: Instant) -> bool {
        // A reader may have read the clock before the entry was cached: then no time has passed.
        let now_here = now.max(self.cached);
        self.is_fresh(policy, now) && now_here < clock::after(self.cached, policy.l1_ttl)
    }

    /// Whether its time to live has not ended. Callers that receive the result on its way into
    /// memory need only this, however short its stay in memory is.
    #[inline]
    pub(crate) fn is_fresh(&self, policy: &Policy, now: Instant) -> bool {
        now < self.expires && now < clock::after(self.loaded, policy.ttl)
    }

    /// Whether it may be served up to `beyond` past its time to live.
    pub(crate) fn allows_stale(&self, policy: &Policy, beyond: Duration, now: Instant) -> bool {
        !beyond.is_zero()
            && now < self.evict_at
            && now < clock::after(self.loaded, policy.ttl.saturating_add(beyond))
    }

    /// The rest of its time to live.
    #[inline]
    pub(crate) fn remaining(&self, policy: &Policy, now: Instant) -> Duration {
        clock::since(self.expires.min(clock::after(self.loaded, policy.ttl)), now)
    }

    /// A lifetime of the five times in field order, as nanoseconds.
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
        let is_followed = depends.is_followed();
        Arc::new(Entry { fingerprint, value, lifetime, stamp, token, depends, weight, is_followed })
    }

    /// The same entry, which takes this many bytes more.
    pub(crate) fn heavier(&self, bytes: usize) -> Arc<Entry> {
        let more = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::new(Entry {
            fingerprint: self.fingerprint,
            value: self.value.clone(),
            lifetime: self.lifetime,
            stamp: self.stamp,
            token: self.token,
            depends: self.depends.clone(),
            weight: self.weight.saturating_add(more),
            is_followed: self.is_followed,
        })
    }

    /// Whether its changes are learned by following the database, so that it needs the word of a
    /// follower.
    #[inline]
    pub(crate) fn is_followed(&self) -> bool {
        self.is_followed
    }

    /// Whether it is the result of this key. The lookup that found it has compared other bytes of
    /// the key.
    #[inline]
    pub(crate) fn is_of(&self, key: &CacheKey) -> bool {
        self.fingerprint == key.fingerprint()
    }

    /// The value, or `None` if it is not a `T`.
    #[inline]
    pub(crate) fn value<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.value.clone().downcast().ok()
    }

    /// The error, if the entry is an error kept as an answer.
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
        // With an `l1_ttl` of zero it is never served from memory, not even to an earlier reader.
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
