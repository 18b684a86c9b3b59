//! [`Local`]: the tier in this process's memory, on moka.

use std::time::Duration;

use moka::sync::Cache;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::{Clock, Instant};
use crate::held::Held;
use crate::key::{CacheKey, KeyHasher};

/// Results by key, bounded by their weight, the most useful ones kept (moka's TinyLFU). Clones share
/// them.
#[derive(Clone)]
pub(crate) struct Local {
    cache: Cache<CacheKey, Held, KeyHasher>,
}

impl Local {
    pub(crate) fn new(max_bytes: u64) -> Local {
        let cache = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, held: &Held| held.weight())
            .build_with_hasher(KeyHasher::default());
        Local { cache }
    }

    #[inline]
    pub(crate) fn get(&self, key: &CacheKey) -> Option<Held> {
        self.cache.get(key)
    }

    pub(crate) fn insert(&self, key: CacheKey, held: Held) {
        self.cache.insert(key, held);
    }

    /// How many results there are, and what they weigh. moka knows once it has tidied up.
    pub(crate) fn size(&self) -> (u64, u64) {
        self.cache.run_pending_tasks();
        (self.cache.entry_count(), self.cache.weighted_size())
    }

    /// Frees the memory of entries whose life has ended.
    ///
    /// They would never be served, but moka does not know and would keep those that nobody asks for
    /// until others need the room. Its own expiry knows, for 30 ns more at every hit and 40 bytes
    /// at every entry; looking through the table now and then costs neither.
    fn sweep(&self, now: Instant) {
        for (key, held) in &self.cache {
            if held.life.kept <= now {
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
    use crate::currency::Stamp;
    use crate::held::Life;
    use crate::key::{Digest, KeyEncoder, Shape};
    use crate::store::Token;
    use crate::tag::{Cell, Depends};
    use std::sync::Arc;

    fn key(number: u64) -> CacheKey {
        KeyEncoder::new(Digest::new("n", "q", None, 0), Shape(number)).finish()
    }

    fn held(bytes: usize, kept: Instant) -> Held {
        let life = Life { as_of: 0, born: 0, copied: 0, ends: 50, kept };
        let depends = Arc::new(Depends::new([], Cell::of(0)));
        Held::new(Arc::new(7_i32), bytes, life, (Stamp::default(), Token([0; 16])), depends)
    }

    #[test]
    fn a_value_is_only_read_as_what_it_is() {
        let held = held(4, 100);
        assert!(held.clone().value::<u32>().is_none());
        assert_eq!(held.value::<i32>(), Some(Arc::new(7)));
    }

    #[test]
    fn the_bound_is_kept_by_weight() {
        let local = Local::new(100_000);
        for number in 0..1000 {
            local.insert(key(number), held(1000, 100));
        }
        local.cache.run_pending_tasks();
        assert!(local.cache.weighted_size() <= 100_000);
        assert!(local.cache.entry_count() > 50);
    }

    #[test]
    fn a_sweep_frees_what_has_ended_and_nothing_else() {
        let local = Local::new(1 << 20);
        for number in 0..100 {
            local.insert(key(number), held(4, 100));
            local.insert(key(100 + number), held(4, 200));
        }
        local.sweep(99);
        assert_eq!(local.cache.entry_count(), 200);
        local.sweep(100);
        assert_eq!(local.cache.entry_count(), 100);
        assert!((100..200).all(|number| local.get(&key(number)).is_some()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_sweeper_sweeps_by_itself_until_it_is_dropped() {
        let (local, clock) = (Local::new(1 << 20), crate::clock::ManualClock::new());
        let sweeper = Sweeper::start(local.clone(), clock.clone().into());
        local.insert(key(1), held(4, 100));
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
