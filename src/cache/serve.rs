//! What memory may answer, and to whom.

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
    /// In this process's count of loads and invalidations.
    pub(crate) order: u64,
}

/// A hit in memory.
pub(crate) struct Hit<V> {
    pub(crate) answer: Answer<V>,
    /// Its life is about to end, and this read was drawn to load it anew.
    pub(crate) due: Option<Token>,
}

impl Inner {
    /// A hit in memory: no lock of ours, no allocation, one look at the clock.
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

    /// Whether a result can be shown to be current to a reader who came at `at`.
    ///
    /// The table must be confirmed: then it holds all that had been acknowledged `max_staleness` before
    /// that. Or the load began so shortly before that the result cannot be older than we may be
    /// blind, whatever was invalidated since.
    #[inline]
    fn is_current(&self, entry: &Entry, at: Instant) -> bool {
        // First the time, then the slots: what they say is then at least as new.
        let confirmed = at < self.currency.confirmed_until();
        self.currency.is_current(&entry.stamp, entry.depends.slots())
            && (confirmed
                || entry.stamp.is_ours()
                    && at < clock::after(entry.lifetime.load_began, self.disconnected_ttl))
    }

    /// What memory may still have to say after a miss: a result that one beat shows to be current,
    /// or an error that is kept as an answer.
    pub(crate) async fn recheck_memory<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        asked: ReadStart,
    ) -> Option<Result<Answer<V>, Error>> {
        if let Some(fleet) = &self.fleet
            && fleet.store.is_connected()
            && !fleet.is_confirmed()
            && fleet.confirm().await
            && let Some(hit) = self.hit(key, config)
        {
            return Some(Ok(hit.answer));
        }
        let entry = self.l1.get(key)?;
        if !self.currency.is_current(&entry.stamp, entry.depends.slots()) {
            count(&config.counters.outdated);
            let depends = (&*entry.depends, &*config.depends);
            trace::invalidated(key, "memory", &self.currency, &entry.stamp, depends);
            return None;
        }
        let failure = entry.failure()?;
        if !entry.lifetime.allows(&config.policy, asked.at) || !self.is_current(&entry, asked.at) {
            return None;
        }
        // Only for queries that asked for it.
        config.policy.negative_life(failure.sqlstate()?.code())?;
        count(&config.counters.negative_hits);
        Some(Err(failure))
    }

    /// Whether the result of a flight may be given to a reader who waited for it.
    ///
    /// A load that began after the reader asked has seen all that was committed by then, and one that
    /// was shown to be current after that as well. One from before is judged like anything in memory:
    /// a read that began after an invalidation never takes the result of a load from before it.
    /// Whoever brought it may also be content with older results than this query is.
    pub(crate) fn serves(
        &self,
        Loaded { entry, verified_at }: &Loaded,
        config: &QueryConfig,
        asked: ReadStart,
        now: Instant,
    ) -> bool {
        entry.stamp.order > asked.order
            || *verified_at > asked.order && entry.lifetime.is_fresh(&config.policy, now)
            || entry.lifetime.allows(&config.policy, now) && self.is_current(entry, asked.at)
    }

    /// The stale result that may be served while a new one is loaded.
    pub(crate) fn while_revalidating<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
    ) -> Option<Answer<V>> {
        self.stale(key, config, config.policy.stale_while_revalidate)
    }

    /// The error of a load, or the stale result that may be served instead.
    pub(crate) fn or_stale<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        error: Error,
    ) -> Result<Answer<V>, Error> {
        self.stale(key, config, config.policy.stale_if_error).ok_or(error)
    }

    /// What is in memory, if it may be served for so long beyond its time to live.
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
        let staleness = match self.is_current(&entry, now) {
            // The new one has come already.
            true if entry.lifetime.allows(&config.policy, now) => {
                let age = entry.age(now);
                let value = entry.value::<V::Stored>()?;
                config.l1_hits.add();
                return Some(Answer::new(V::of(value), Origin::L1, age));
            }
            true => Staleness::Expired,
            false if config.policy.allow_invalidated => Staleness::Invalidated,
            false => return None,
        };
        let age = entry.age(now);
        let value = entry.value::<V::Stored>()?;
        Some(Answer::stale(V::of(value), staleness, age))
    }
}
