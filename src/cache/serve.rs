//! The rules of serving: which result may be given to which read, from memory or from a flight.

use std::time::Duration;

use crate::cache::config::QueryConfig;
use crate::cache::inner::Inner;
use crate::clock::{self, Instant};
use crate::error::Error;
use crate::flight::Loaded;
use crate::l1::entry::Entry;
use crate::telemetry::counters::count;
use crate::telemetry::trace;
use crate::value::Value;
use crate::value::answer::{Answer, Origin, Staleness};
use crate::value::key::CacheKey;
use crate::value::token::Token;

/// When a read began.
#[derive(Clone, Copy)]
pub(crate) struct ReadStart {
    pub(crate) at: Instant,
    /// The process's order at that time. A load or invalidation with a higher one began later.
    pub(crate) order: u64,
}

/// A hit in memory.
pub(crate) struct Hit<V> {
    pub(crate) answer: Answer<V>,
    /// Set if the result is about to expire and this read was chosen at random to load it again:
    /// the token of the load to replace.
    pub(crate) due: Option<Token>,
}

impl Inner {
    /// Answers from memory: no lock of ours, no allocation, one read of the clock.
    #[inline]
    pub(crate) fn hit<V: Value>(&self, key: &CacheKey, config: &QueryConfig) -> Option<Hit<V>> {
        let now = self.clock.now();
        let hit = self.l1.read(key, |entry| {
            if !entry.lifetime.allows(&config.policy, now) || !self.is_current(entry, now) {
                return None;
            }
            let remaining = entry.lifetime.remaining(&config.policy, now);
            let due = config.policy.is_due_early(entry.lifetime.load(), remaining);
            let value = V::of(entry.value::<V::Stored>()?);
            let answer = Answer::new(value, Origin::L1, entry.age(now));
            Some(Hit { answer, due: due.then_some(entry.token) })
        })?;
        config.l1_hits.add();
        Some(hit)
    }

    /// Whether a result can be shown to be current for a read that began at `at`.
    ///
    /// None of its slots may have been invalidated since its load began, as far as the table knows.
    /// In addition, one of these must hold:
    ///
    /// - The table is confirmed: it contains every invalidation that had been acknowledged
    ///   `max_staleness` before `at`.
    /// - This process loaded the result, less than `disconnected_ttl` before `at`. That bounds its
    ///   staleness, whatever other processes have invalidated since.
    ///
    /// A result that is followed must be [proven](Inner::is_proven) as well.
    #[inline]
    fn is_current(&self, entry: &Entry, at: Instant) -> bool {
        // First the time, then the slots: the slots read are then at least as new as the
        // confirmation.
        let confirmed = at < self.currency.confirmed_until();
        (!entry.is_followed() || self.is_proven(entry, at))
            && self.currency.is_current(&entry.stamp, entry.depends.slots())
            && (confirmed
                || entry.stamp.is_ours()
                    && at < clock::after(entry.lifetime.load_began, self.disconnected_ttl))
    }

    /// Whether the slots of a result that is followed show every change that was visible in the
    /// database `max_blind` before `at`: the rounds of the follower prove it, or this process loaded
    /// the result since then.
    ///
    /// Asked before the slots are read, as it is with the confirmation.
    #[inline]
    fn is_proven(&self, entry: &Entry, at: Instant) -> bool {
        self.currency.is_followed(&entry.stamp, at)
            || entry.stamp.is_ours() && at < clock::after(entry.lifetime.load_began, self.max_blind)
    }

    /// Requests a beat if there is none that confirms the table. Returns whether it is confirmed now
    /// and was not before.
    pub(crate) async fn confirm(&self) -> bool {
        let Some(fleet) = &self.fleet else { return false };
        fleet.store.is_connected() && !fleet.is_confirmed() && fleet.confirm().await
    }

    /// Checks memory again after a miss. It can answer with a result that one beat
    /// [confirms](Inner::confirm) as current, or with a cached error.
    pub(crate) fn recheck_memory<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        asked: ReadStart,
        newly_confirmed: bool,
    ) -> Option<Result<Answer<V>, Error>> {
        if newly_confirmed && let Some(hit) = self.hit(key, config) {
            return Some(Ok(hit.answer));
        }
        let entry = self.l1.get(key)?;
        if !self.currency.is_current(&entry.stamp, entry.depends.slots()) {
            count(&config.counters.outdated);
            let (found, query) = (&entry.depends, &config.depends);
            trace::invalidated(key, "memory", &self.currency, &entry.stamp, found, query);
            return None;
        }
        let failure = entry.failure()?;
        if !entry.lifetime.allows(&config.policy, asked.at) || !self.is_current(&entry, asked.at) {
            return None;
        }
        // Only for queries whose policy caches this error.
        config.policy.negative_life(failure.sqlstate()?.code())?;
        count(&config.counters.negative_hits);
        Some(Err(failure))
    }

    /// Whether the result of a flight may be given to a read that waited for it.
    ///
    /// There are three cases:
    ///
    /// - The load began after the read. Its result contains everything that was committed when the
    ///   read began.
    /// - The result was verified as current after the read began, which shows the same. The query
    ///   that led the flight may accept older results than this one, so this query's `ttl` is
    ///   checked.
    /// - Otherwise it is judged like a result in memory. So a read that began after an invalidation
    ///   never takes the result of a load from before it.
    pub(crate) fn serves(
        &self,
        Loaded { entry, verified_at, .. }: &Loaded,
        config: &QueryConfig,
        asked: ReadStart,
        now: Instant,
    ) -> bool {
        entry.stamp.order > asked.order
            || *verified_at > asked.order && entry.lifetime.is_fresh(&config.policy, now)
            || entry.lifetime.allows(&config.policy, now) && self.is_current(entry, asked.at)
    }

    /// Returns the stale result that may be served while a new one is loaded.
    pub(crate) fn while_revalidating<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
    ) -> Option<Answer<V>> {
        self.stale(key, config, config.policy.stale_while_revalidate)
    }

    /// Returns the stale result that may be served instead of the error of a load, or the error.
    pub(crate) fn or_stale<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        error: Error,
    ) -> Result<Answer<V>, Error> {
        self.stale(key, config, config.policy.stale_if_error).ok_or(error)
    }

    /// Returns the result in memory, if it may be served for as long as `beyond` after its `ttl`.
    fn stale<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        beyond: Duration,
    ) -> Option<Answer<V>> {
        if beyond.is_zero() {
            return None;
        }
        let (entry, now) = (self.l1.get(key)?, self.clock.now());
        if !entry.lifetime.allows_stale(&config.policy, beyond, now) {
            return None;
        }
        let staleness = if self.is_current(&entry, now) {
            // The new result is already in memory.
            if entry.lifetime.allows(&config.policy, now) {
                let age = entry.age(now);
                let value = entry.value::<V::Stored>()?;
                config.l1_hits.add();
                return Some(Answer::new(V::of(value), Origin::L1, age));
            }
            Staleness::Expired
        } else if config.policy.allow_invalidated {
            Staleness::Invalidated
        } else {
            return None;
        };
        let age = entry.age(now);
        let value = entry.value::<V::Stored>()?;
        Some(Answer::stale(V::of(value), staleness, age))
    }
}
