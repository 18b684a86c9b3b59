//! [`L1`]: the tier in this process's memory, built on moka.

pub(crate) mod entry;
mod front;
// Separate from `front.rs`, which the loom tests include as it is.
#[cfg(test)]
mod front_tests;

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::{MissedTickBehavior, interval};

use crate::background::{Background, BackgroundTask};
use crate::clock::{Clock, Instant};
use crate::l1::entry::Entry;
use crate::l1::front::Front;
use crate::value::key::{CacheKey, KeyHasher};

/// Results by key, bounded by weight. moka's TinyLFU keeps the most useful ones, and the most read
/// ones are also in a front before moka. Clones share the results.
#[derive(Clone)]
pub(crate) struct L1 {
    /// Keyed by the first eight bytes of the key; the entry verifies the others. Two keys share
    /// these bytes, and replace each other's entry, in one of ten million caches of a million
    /// entries.
    cache: Cache<u64, Arc<Entry>, KeyHasher>,
    front: Arc<Front>,
}

/// moka is notified of one in this many reads that the front answers, so it underestimates how
/// often the entry is read. That does little harm: moka counts only to 15, entries in the front are
/// read far more often than most, and the front keeps an entry even if moka drops it.
const REPORT_ONE_IN: u8 = 32;

/// One in this many reads that moka answers promotes the entry to the front. An entry that is read
/// often gets there soon, and one that is read once mostly does not disturb the front.
const PROMOTE_ONE_IN: u8 = 4;

/// Returns true for one in this many calls, at random. A counter would always select the same one
/// of two keys that are read in turn.
#[inline]
fn one_in(calls: u8) -> bool {
    fastrand::u8(..) < u8::MAX / calls + 1
}

impl L1 {
    pub(crate) fn new(max_bytes: u64) -> L1 {
        let front = Arc::new(Front::new(max_bytes));
        let cache = Cache::builder()
            // The front may hold entries that moka has dropped.
            .max_capacity(max_bytes - front.bytes())
            .weigher(|_, entry: &Arc<Entry>| entry.weight())
            .build_with_hasher(KeyHasher::default());
        L1 { cache, front }
    }

    /// Returns what `judge` makes of the key's entry, or `None` if the entry may not be served.
    ///
    /// If the entry in the front may not be served, moka's entry is judged as well: if it is a
    /// different one, it is newer.
    #[inline]
    pub(crate) fn read<R>(
        &self,
        key: &CacheKey,
        judge: impl Fn(&Arc<Entry>) -> Option<R>,
    ) -> Option<R> {
        let Some(read) = self.front.read(key, &judge) else {
            let watch = self.front.watch(key);
            let entry = self.behind(key)?;
            let read = judge(&entry)?;
            if one_in(PROMOTE_ONE_IN) {
                watch.promote(&entry);
            }
            return Some(read);
        };
        if one_in(REPORT_ONE_IN) {
            self.tell(key);
        }
        Some(read)
    }

    /// The key's entry, for a read that may already have missed. moka is not notified of a second
    /// miss: that would count a key that is read once as one that is read often.
    pub(crate) fn get(&self, key: &CacheKey) -> Option<Arc<Entry>> {
        if !self.has(key) {
            return None;
        }
        self.front.read(key, |entry| Some(entry.clone())).or_else(|| self.behind(key))
    }

    /// Whether there is an entry for the key. moka does not count this as a read.
    pub(crate) fn has(&self, key: &CacheKey) -> bool {
        self.front.read(key, |_| Some(())).is_some() || self.cache.contains_key(&key.first())
    }

    pub(crate) fn insert(&self, key: CacheKey, entry: Arc<Entry>) {
        let watch = self.front.watch(&key);
        self.cache.insert(key.first(), entry.clone());
        watch.replace(&key, &entry);
    }

    /// Counts more bytes for the key's entry, if it is still the one that `is_it` names.
    ///
    /// Another entry may be inserted at the same moment and be replaced here. The older one is judged
    /// at each read like any other, so it costs a load at most.
    pub(crate) fn grow(&self, key: &CacheKey, bytes: usize, is_it: impl Fn(&Entry) -> bool) {
        if let Some(entry) = self.get(key).filter(|entry| is_it(entry)) {
            self.insert(*key, entry.heavier(bytes));
        }
    }

    fn behind(&self, key: &CacheKey) -> Option<Arc<Entry>> {
        self.cache.get(&key.first()).filter(|entry| entry.is_of(key))
    }

    /// Notifies moka of a read. If moka has dropped the entry, it is not put back: that could
    /// overwrite an entry that is being inserted at this moment. The front keeps it until another
    /// entry replaces it.
    #[cold]
    fn tell(&self, key: &CacheKey) {
        self.cache.get(&key.first());
    }

    /// The number of results and their weight. moka's own counts are exact only after its pending
    /// tasks ran.
    pub(crate) fn size(&self) -> (u64, u64) {
        self.cache.run_pending_tasks();
        let (count, weight) = self.front.alone(|first| self.cache.contains_key(&first));
        (self.cache.entry_count() + count, self.cache.weighted_size() + weight)
    }

    /// Frees the memory of expired entries.
    ///
    /// They would never be served, but moka does not know that and would keep unread ones until
    /// others need the memory. moka's own expiry would know, at a cost of 30 ns per hit and 40
    /// bytes per entry. A periodic scan of the table costs neither.
    fn sweep(&self, now: Instant) {
        for (key, entry) in &self.cache {
            if entry.lifetime.evict_at <= now {
                self.cache.invalidate(&*key);
            }
        }
        self.front.sweep(now);
        self.cache.run_pending_tasks();
    }
}

/// The interval between two sweeps of expired entries.
const SWEEP: Duration = Duration::from_secs(30);

/// Sweeps expired entries periodically until it is dropped.
pub(crate) struct Sweeper {
    _task: BackgroundTask,
}

impl Sweeper {
    pub(crate) fn start(background: &Background, l1: L1, clock: Clock) -> Sweeper {
        let task = background.keep(move |_| {
            let (l1, clock) = (l1.clone(), clock.clone());
            async move {
                let mut ticks = interval(SWEEP);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    let (l1, clock) = (l1.clone(), clock.clone());
                    // A sweep of a million entries takes a tenth of a second, too long for a worker
                    // thread of the runtime.
                    let _ = tokio::task::spawn_blocking(move || l1.sweep(clock.now())).await;
                }
            }
        });
        Sweeper { _task: task }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::currency::Stamp;
    use crate::l1::entry::{Lifetime, LoadInfo};
    use crate::value::key::{Digest, KeyEncoder, Shape};
    use crate::value::tag::{Dependencies, TagSlot};
    use crate::value::token::Token;
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn key(number: u64) -> CacheKey {
        KeyEncoder::new(Digest::new("n", "q", None, 0), Shape(number)).finish()
    }

    fn entry(number: u64, bytes: usize, kept: u64) -> Arc<Entry> {
        let lifetime = Lifetime::of_nanos([0, 0, 0, 50, kept]);
        let depends = Arc::new(Dependencies::new([], TagSlot::of(0)));
        Entry::new(
            &key(number),
            Arc::new(7_i32),
            bytes,
            lifetime,
            LoadInfo { stamp: Stamp::default(), token: Token([0; 16]), depends },
        )
    }

    /// Reads the entry until it is in the front.
    fn bring(l1: &L1, number: u64) {
        while l1.front.read(&key(number), |_| Some(())).is_none() {
            l1.read(&key(number), |_| Some(())).expect("moka has it");
        }
    }

    fn value(entry: &Arc<Entry>) -> Option<i32> {
        entry.value().map(|value| *value)
    }

    #[test]
    fn a_value_is_only_read_as_what_it_is() {
        let entry = entry(0, 4, 100);
        assert!(entry.value::<u32>().is_none());
        assert_eq!(entry.value::<i32>(), Some(Arc::new(7)));
    }

    #[test]
    fn the_bound_is_kept_by_weight() {
        let l1 = L1::new(100_000);
        for number in 0..1000 {
            l1.insert(key(number), entry(number, 1000, 100));
        }
        l1.cache.run_pending_tasks();
        assert!(l1.cache.weighted_size() <= 100_000);
        assert!(l1.cache.entry_count() > 50);
    }

    #[test]
    fn the_bound_is_kept_by_the_front_and_moka_together() {
        const BOUND: u64 = 1 << 21;
        let l1 = L1::new(BOUND);
        let read = |number| l1.read(&key(number), |entry| Some(entry.weight()));
        for number in 0..1000 {
            l1.insert(key(number), entry(number, 3000, 100));
            (0..5).for_each(|_| drop(l1.cache.get(&key(number).first())));
        }
        // These are never read, so moka does not admit them when all others are read.
        (1000..2000).for_each(|number| l1.insert(key(number), entry(number, 3000, 100)));
        l1.cache.run_pending_tasks();
        let moka: HashSet<u64> = l1.cache.iter().map(|(first, _)| *first).collect();
        let here = (0..2000).filter_map(|number| {
            Some((number, l1.front.read(&key(number), |entry| Some(entry.weight()))?))
        });
        let alone: Vec<_> =
            here.filter(|(number, _)| !moka.contains(&key(*number).first())).collect();
        assert!(!alone.is_empty());
        let weight: u64 = alone.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let count = moka.len() + alone.len();
        assert_eq!(l1.size(), (count as u64, l1.cache.weighted_size() + weight));
        assert!(l1.size().1 <= BOUND);
        assert!(moka.len() > 500);
        // They are served nevertheless, and reads that accept a stale result find them.
        for (number, weight) in alone {
            assert_eq!(read(number), Some(weight));
            assert!(l1.get(&key(number)).is_some());
        }
    }

    #[test]
    fn what_is_too_large_is_never_in_the_front_and_a_small_memory_has_none() {
        let large = L1::new(1 << 20);
        large.insert(key(1), entry(1, 1 << 16, 100));
        let small = L1::new(2000);
        small.insert(key(1), entry(1, 4, 100));
        for l1 in [large, small] {
            for _ in 0..1000 {
                assert_eq!(l1.read(&key(1), value), Some(7));
            }
            assert!(l1.front.read(&key(1), |_| Some(())).is_none());
        }
    }

    #[test]
    fn an_entry_in_the_front_is_replaced_with_moka_s() {
        let l1 = L1::new(1 << 20);
        l1.insert(key(1), entry(1, 4, 100));
        bring(&l1, 1);
        l1.insert(key(1), entry(1, 4, 200));
        assert_eq!(
            l1.front.read(&key(1), |entry| Some(entry.lifetime.evict_at.nanos())),
            Some(200)
        );
        // Too large for the front: the old entry must not stay there.
        l1.insert(key(1), entry(1, 1 << 16, 300));
        assert_eq!(l1.read(&key(1), |entry| Some(entry.lifetime.evict_at.nanos())), Some(300));
    }

    #[test]
    fn what_may_not_be_served_from_the_front_is_asked_of_moka() {
        let l1 = L1::new(1 << 20);
        l1.insert(key(1), entry(1, 4, 100));
        bring(&l1, 1);
        // The state while a writer is between moka and the front.
        l1.cache.insert(key(1).first(), entry(1, 4, 200));
        let wanted = |entry: &Arc<Entry>| (entry.lifetime.evict_at.nanos() == 200).then_some(());
        assert_eq!(l1.read(&key(1), wanted), Some(()));
        assert_eq!(l1.read(&key(1), |_| None::<()>), None);
    }

    #[test]
    fn moka_hears_of_reads_that_the_front_answers() {
        let l1 = L1::new(1 << 21);
        let insert = |number| l1.insert(key(number), entry(number, 3000, 100));
        let (read, unread) = (0, 1);
        // moka counts reads only once it is half full.
        (0..500).for_each(insert);
        l1.cache.run_pending_tasks();
        bring(&l1, read);
        for _ in 0..1000 {
            assert_eq!(l1.front.read(&key(read), |_| Some(())), Some(()));
            assert_eq!(l1.read(&key(read), |_| Some(())), Some(()));
        }
        l1.cache.run_pending_tasks();
        for number in 500..1500 {
            insert(number);
            (0..2).for_each(|_| drop(l1.cache.get(&key(number).first())));
        }
        l1.cache.run_pending_tasks();
        assert!(l1.cache.contains_key(&key(read).first()));
        assert!(!l1.cache.contains_key(&key(unread).first()));
    }

    #[test]
    fn a_key_that_shares_its_first_bytes_is_another() {
        let l1 = L1::new(1 << 20);
        l1.cache.insert(key(1).first(), entry(2, 4, 100));
        assert!(l1.get(&key(1)).is_none());
        assert!(l1.read(&key(1), |_| Some(())).is_none());
    }

    #[test]
    fn a_sweep_frees_what_has_ended_and_nothing_else() {
        let l1 = L1::new(1 << 22);
        for number in 0..100 {
            l1.insert(key(number), entry(number, 4, 100));
            l1.insert(key(100 + number), entry(100 + number, 4, 200));
        }
        (0..200).for_each(|number| bring(&l1, number));
        let front = |numbers: std::ops::Range<u64>| {
            numbers.filter(|&number| l1.front.read(&key(number), |_| Some(())).is_some()).count()
        };
        let lasting = front(100..200);
        assert!(front(0..100) > 0 && lasting > 0);
        l1.sweep(Instant::from_nanos(99));
        assert_eq!(l1.cache.entry_count(), 200);
        l1.sweep(Instant::from_nanos(100));
        assert_eq!(l1.cache.entry_count(), 100);
        assert_eq!((front(0..100), front(100..200)), (0, lasting));
        assert!((100..200).all(|number| l1.get(&key(number)).is_some()));
    }

    /// Threads read and write a few keys that share two slots. No read that begins after a write
    /// has returned finds an older entry.
    #[test]
    fn no_read_finds_what_was_replaced_before_it_began() {
        const WRITES: u64 = 20_000;
        let l1 = L1::new(1 << 17);
        assert_eq!(l1.front.bytes(), 1 << 13);
        let written: [AtomicU64; 3] = Default::default();
        (0..3).for_each(|number| l1.insert(key(number), entry(number, 4, 0)));
        let reads = |number: u64| {
            let written = &written[number as usize];
            while written.load(Ordering::Relaxed) < WRITES {
                let before = written.load(Ordering::SeqCst);
                let found = l1.read(&key(number), |entry| Some(entry.lifetime.evict_at.nanos()));
                assert!(found.is_none_or(|found| found >= before), "{found:?} after {before}");
            }
        };
        std::thread::scope(|scope| {
            for number in 0..3 {
                scope.spawn(move || reads(number));
            }
            scope.spawn(|| {
                for count in 1..=WRITES {
                    for number in 0..3 {
                        l1.insert(key(number), entry(number, 4, count));
                        written[number as usize].store(count, Ordering::SeqCst);
                    }
                }
            });
        });
    }

    #[test]
    fn of_many_writers_the_front_believes_the_one_whom_moka_does() {
        let l1 = L1::new(1 << 17);
        for round in 0..2_000 {
            l1.insert(key(1), entry(1, 4, 0));
            bring(&l1, 1);
            std::thread::scope(|scope| {
                for writer in 1..=3 {
                    let l1 = &l1;
                    scope.spawn(move || l1.insert(key(1), entry(1, 4, writer)));
                }
            });
            let moka = l1.cache.get(&key(1).first()).map(|entry| entry.lifetime.evict_at.nanos());
            let front = l1.front.read(&key(1), |entry| Some(entry.lifetime.evict_at.nanos()));
            assert!(front.is_none() || front == moka, "{front:?}, {moka:?} in round {round}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_sweeper_sweeps_by_itself_until_it_is_dropped() {
        let (l1, clock) = (L1::new(1 << 20), crate::clock::ManualClock::new());
        let background = Background::on(tokio::runtime::Handle::current());
        let sweeper = Sweeper::start(&background, l1.clone(), clock.clone().into());
        l1.insert(key(1), entry(1, 4, 100));
        clock.advance(Duration::from_nanos(100));
        // The sweep itself runs on a thread that does not follow paused time.
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while l1.cache.contains_key(&key(1).first()) {
            assert!(std::time::Instant::now() < deadline, "nothing was swept");
            tokio::time::advance(SWEEP).await;
            tokio::task::yield_now().await;
        }
        let held = Arc::downgrade(&l1.front);
        drop((l1, sweeper));
        while held.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
