//! [`Local`]: the tier in this process's memory, on moka.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::{self, Clock, Instant};
use crate::key::{CacheKey, KeyHasher};
use crate::policy::Policy;

/// What moka, the key and the allocator take for an entry beside its value, roughly; it counts
/// against the bound, so that a million tiny results do not take what a few large ones may.
const OVERHEAD: usize = 320;

/// Results by key, bounded by their weight, the most useful ones kept (moka's TinyLFU). Clones share
/// them.
#[derive(Clone)]
pub(crate) struct Local {
    cache: Cache<CacheKey, Held, KeyHasher>,
}

/// A result in memory. Cloning it costs a reference count.
#[derive(Clone)]
pub(crate) struct Held {
    value: Arc<dyn Any + Send + Sync>,
    life: Life,
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
}

impl Life {
    /// Whether it may be served to a query of this policy: one entry may be read by queries that
    /// differ in how old they let it become.
    #[inline]
    pub(crate) fn allows(&self, policy: &Policy, now: Instant) -> bool {
        now < self.ends
            && now < clock::after(self.born, policy.ttl)
            && now < clock::after(self.copied, policy.l1_ttl)
    }
}

impl Held {
    pub(crate) fn new<T: Send + Sync + 'static>(value: Arc<T>, bytes: usize, life: Life) -> Held {
        let weight = u32::try_from(bytes.saturating_add(OVERHEAD)).unwrap_or(u32::MAX);
        Held { value, life, weight }
    }

    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    /// The value, unless it is no `T`.
    #[inline]
    pub(crate) fn value<T: Send + Sync + 'static>(self) -> Option<Arc<T>> {
        self.value.downcast().ok()
    }

    #[inline]
    pub(crate) fn age(&self, now: Instant) -> Duration {
        clock::since(now, self.life.as_of)
    }
}

impl Local {
    pub(crate) fn new(max_bytes: u64) -> Local {
        let cache = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, held: &Held| held.weight)
            .build_with_hasher(KeyHasher::default());
        Local { cache }
    }

    #[inline]
    pub(crate) fn get(&self, key: &CacheKey, policy: &Policy, now: Instant) -> Option<Held> {
        self.cache.get(key).filter(|held| held.life.allows(policy, now))
    }

    pub(crate) fn insert(&self, key: CacheKey, held: Held) {
        self.cache.insert(key, held);
    }

    /// Frees the memory of entries whose life has ended.
    ///
    /// They would never be served, but moka does not know and would keep those that nobody asks for
    /// until others need the room. Its own expiry knows, for 30 ns more at every hit and 40 bytes
    /// at every entry; looking through the table now and then costs neither.
    fn sweep(&self, now: Instant) {
        for (key, held) in &self.cache {
            if held.life.ends <= now {
                self.cache.invalidate(&*key);
            }
        }
        self.cache.run_pending_tasks();
    }
}

/// How often entries whose life has ended are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// Sweeps from time to time, until it is dropped.
pub(crate) struct Sweeper(JoinHandle<()>);

impl Sweeper {
    pub(crate) fn start(local: Local, clock: Clock) -> Sweeper {
        Sweeper(tokio::spawn(async move {
            let mut ticks = interval(SWEEP);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let (local, clock) = (local.clone(), clock.clone());
                // A million entries take a tenth of a second; that is no work for a runtime's
                // worker.
                let _ = tokio::task::spawn_blocking(move || local.sweep(clock.now())).await;
            }
        }))
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Digest, KeyEncoder, Shape};

    fn key(number: u64) -> CacheKey {
        KeyEncoder::new(Digest::new("n", "q", None, 0), Shape(number)).finish()
    }

    fn held(bytes: usize) -> Held {
        let life = Life { as_of: 0, born: 0, copied: 0, ends: 100 };
        Held::new(Arc::new(7_i32), bytes, life)
    }

    fn get(local: &Local, number: u64, now: Instant) -> Option<Held> {
        local.get(&key(number), &Policy::default(), now)
    }

    #[test]
    fn an_entry_is_gone_at_the_instant_its_life_ends() {
        let local = Local::new(1 << 20);
        local.insert(key(1), held(4));
        assert_eq!(get(&local, 1, 99).unwrap().value::<i32>(), Some(Arc::new(7)));
        assert!(get(&local, 1, 100).is_none());
    }

    #[test]
    fn a_query_that_wants_it_younger_is_not_served() {
        let life = Life { as_of: 0, born: 10, copied: 20, ends: 100 };
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
    }

    #[test]
    fn a_value_is_only_read_as_what_it_is() {
        assert!(held(4).value::<u32>().is_none());
    }

    #[test]
    fn the_bound_is_kept_by_weight() {
        let local = Local::new(100_000);
        for number in 0..1000 {
            local.insert(key(number), held(1000));
        }
        local.cache.run_pending_tasks();
        assert!(local.cache.weighted_size() <= 100_000);
        assert!(local.cache.entry_count() > 50);
    }

    #[test]
    fn a_sweep_frees_what_has_ended_and_nothing_else() {
        let local = Local::new(1 << 20);
        for number in 0..100 {
            local.insert(key(number), held(4));
            let longer = Held { life: Life { ends: 200, ..held(4).life }, ..held(4) };
            local.insert(key(100 + number), longer);
        }
        local.sweep(99);
        assert_eq!(local.cache.entry_count(), 200);
        local.sweep(100);
        assert_eq!(local.cache.entry_count(), 100);
        assert!((100..200).all(|number| get(&local, number, 100).is_some()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_sweeper_sweeps_by_itself_until_it_is_dropped() {
        let (local, clock) = (Local::new(1 << 20), crate::clock::ManualClock::new());
        let sweeper = Sweeper::start(local.clone(), clock.clone().into());
        local.insert(key(1), held(4));
        clock.advance(Duration::from_nanos(100));
        // The sweep itself runs on a thread that does not know of paused time.
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while local.cache.contains_key(&key(1)) {
            assert!(std::time::Instant::now() < deadline, "nothing was swept");
            tokio::time::advance(SWEEP).await;
            tokio::task::yield_now().await;
        }
        let task = sweeper.0.abort_handle();
        drop(sweeper);
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
