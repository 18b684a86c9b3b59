//! [`Front`]: a small table of the most read results, where a read is cheapest.
//!
//! moka records every read in a queue that all threads share, and that is most of the cost of its
//! reads. A read here writes nothing that another thread reads, except the reference count of the
//! value. The front is a table of sets. Some bits of the key select a set, and each set has two
//! slots: the entry of a key is in one of the two or not in the front.
//!
//! # A replaced entry never comes back
//!
//! moka is authoritative. When an entry was put into a slot, it was moka's own entry for its key,
//! and it is replaced when moka's entry is. Three operations change a set, each under the lock of
//! the set: an entry read from moka is *promoted*; an entry given to moka *replaces* the one in the
//! front; and expired entries are dropped. A thread that promotes or replaces starts to
//! [watch](Front::watch) the set before it reads from moka or writes to it. That makes both
//! operations safe, because the set counts its replacements:
//!
//! - A reader gets the old entry from moka. Then a writer gives moka the new entry and replaces.
//!   When the reader tries to promote the old entry, the count is no longer the one it watched, so
//!   it leaves the set alone. If the reader promotes before the writer replaces, the writer
//!   replaces the promoted entry.
//! - A reader that started to watch after the replacement also reads moka after it, and gets the
//!   new entry.
//! - Two writers of one key give moka first *a* and then *b*, but reach the set in the opposite
//!   order. The one that reaches it second started to watch before the first one reached it. It
//!   sees that the count has changed, cannot know whose entry moka has now, and removes the key's
//!   entry from the front. Had it started to watch after the first one reached the set, its own
//!   entry would be moka's.
//! - Comparing the contents of the slots instead of counting would not suffice: they may be the
//!   same again after having been different in between.
//!
//! While the writer is between moka and the set, both entries can be read. That is safe: the write
//! has not returned yet, and an invalidated entry is not served from either place, since every
//! entry is judged when it is read.

use std::sync::Arc;

use crate::clock::Instant;
use crate::l1::entry::Entry;
use crate::sync::{ArcSwapOption, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering};
use crate::value::key::CacheKey;

/// The front takes at most one part in this many of the memory. Its entries count in full, since
/// moka may have dropped them.
pub(super) const SHARE: u64 = 16;

/// The memory for one slot and its entry. An entry takes 416 bytes for itself and its slot, which
/// leaves 3.6 KB for the result.
pub(super) const ROOM: u64 = 4 << 10;

/// The part of [`ROOM`] that the slot itself takes.
pub(super) const SLOT: u64 = size_of::<Set>() as u64 / SLOTS;

/// Slots per set. With one slot, a tenth of the reads of ten thousand keys (Zipf 1.0) that fitted
/// into the front found another key's entry; with two slots, half as many do.
pub(super) const SLOTS: u64 = 2;

/// The upper limit of slots: more would not be read often enough to justify the table, which takes
/// half a megabyte at this size.
pub(super) const MOST: u64 = 1 << 14;

pub(crate) struct Front {
    /// The number of sets is a power of two, or zero.
    pub(super) sets: Box<[Set]>,
    /// The largest weight that an entry in the front may have.
    pub(super) largest: u32,
}

/// One set fills one cache line.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Set {
    /// The newest entry is in the first slot, unless its key already had the second.
    slots: [Slot; SLOTS as usize],
    /// How often an entry of a key of this set was replaced. It wraps around after four billion
    /// replacements: a thread would be misled only if it were suspended for hours and for exactly
    /// that many.
    replaced: AtomicU32,
    /// Held by every writer of the set.
    lock: Mutex<()>,
}

#[derive(Default)]
struct Slot {
    /// The first bytes of the key whose entry is in the slot, so that a reader skips entries of
    /// other keys. It is a hint: the slot may change between the read of this and the read of the
    /// entry.
    first: AtomicU64,
    entry: ArcSwapOption<Entry>,
}

/// The set of a key, as it was before the thread read from moka or wrote to it.
pub(crate) struct Watch<'f> {
    set: Option<&'f Set>,
    first: u64,
    replaced: u32,
    largest: u32,
}

impl Front {
    /// A front for a memory of this many bytes.
    pub(crate) fn new(max_bytes: u64) -> Front {
        let share = max_bytes / SHARE;
        let sets = match (share / ROOM).min(MOST) / SLOTS {
            0 => 0,
            most => 1 << most.ilog2(),
        };
        let room = share.checked_div(sets * SLOTS).unwrap_or(SLOT);
        let largest = (room - SLOT).try_into().unwrap_or(u32::MAX);
        Front { sets: (0..sets).map(|_| Set::default()).collect(), largest }
    }

    /// The maximum size of the entries and the table together.
    pub(crate) fn bytes(&self) -> u64 {
        self.sets.len() as u64 * SLOTS * (SLOT + u64::from(self.largest))
    }

    #[inline]
    fn set(&self, key: &CacheKey) -> Option<&Set> {
        // With zero sets the mask is all ones, and the index finds none.
        self.sets.get(key.first() as usize & self.sets.len().wrapping_sub(1))
    }

    /// Returns what `judge` makes of the key's entry, if the entry is in the front.
    #[inline]
    pub(crate) fn read<R>(
        &self,
        key: &CacheKey,
        judge: impl FnOnce(&Arc<Entry>) -> Option<R>,
    ) -> Option<R> {
        let slots = &self.set(key)?.slots;
        let slot = slots.iter().find(|slot| slot.first.load(Ordering::Relaxed) == key.first())?;
        let here = slot.entry.load();
        here.as_ref().filter(|entry| entry.is_of(key)).and_then(judge)
    }

    /// Must be called before the key's entry is read from moka or written to it.
    #[inline]
    pub(crate) fn watch(&self, key: &CacheKey) -> Watch<'_> {
        let set = self.set(key);
        // A later read from moka is at least as new as the replacements counted here.
        let replaced = set.map_or(0, |set| set.replaced.load(Ordering::Acquire));
        Watch { set, first: key.first(), replaced, largest: self.largest }
    }

    /// The number and the weight of the entries that only the front has. `is_elsewhere` says
    /// whether moka has an entry for these first bytes of a key.
    pub(crate) fn alone(&self, is_elsewhere: impl Fn(u64) -> bool) -> (u64, u64) {
        let here = self.sets.iter().flat_map(|set| {
            let _locked = set.lock();
            set.slots.each_ref().map(|slot| {
                let weight = slot.entry.load().as_ref()?.weight();
                Some((slot.first.load(Ordering::Relaxed), u64::from(weight)))
            })
        });
        let alone = here.flatten().filter(|(first, _)| !is_elsewhere(*first));
        alone.fold((0, 0), |(count, sum), (_, weight)| (count + 1, sum + weight))
    }

    /// Drops the expired entries.
    pub(crate) fn sweep(&self, now: Instant) {
        let has_ended = |slot: &Slot| {
            slot.entry.load().as_ref().is_some_and(|entry| entry.lifetime.evict_at <= now)
        };
        for set in self.sets.iter().filter(|set| set.slots.iter().any(has_ended)) {
            let locked = set.lock();
            // Checks again under the lock: a new entry may have replaced an expired one meanwhile.
            let ended = set.slots.each_ref().map(|slot| has_ended(slot).then(|| slot.take()));
            drop(locked);
            drop(ended);
        }
    }
}

impl Watch<'_> {
    /// Puts an entry read from moka into a slot, unless it is too large or moka may have replaced
    /// it meanwhile.
    #[cold]
    pub(crate) fn promote(self, entry: &Arc<Entry>) {
        let Some(set) = self.set else { return };
        if entry.weight() > self.largest {
            return;
        }
        // The thread that holds the lock stores an entry that is just as good.
        let Some(locked) = set.lock.try_lock() else { return };
        if set.replaced.load(Ordering::Relaxed) == self.replaced {
            let before = set.put(self.first, entry);
            // This may run the value's own `drop`, which must not happen under a lock.
            drop(locked);
            drop(before);
        }
    }

    /// Stores the entry that moka has just been given for the key. A result that has just been
    /// loaded is often read again soon, and moka may not have admitted it.
    pub(crate) fn replace(self, key: &CacheKey, entry: &Arc<Entry>) {
        let Some(set) = self.set else { return };
        let locked = set.lock();
        let replaced = set.replaced.load(Ordering::Relaxed);
        set.replaced.store(replaced.wrapping_add(1), Ordering::Release);
        let before = if replaced == self.replaced && entry.weight() <= self.largest {
            set.put(self.first, entry)
        } else {
            set.slots.each_ref().map(|slot| {
                let is_of = slot.entry.load().as_ref().is_some_and(|here| here.is_of(key));
                if is_of { slot.take() } else { None }
            })
        };
        drop(locked);
        drop(before);
    }
}

impl Set {
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock()
    }

    /// Puts an entry into the slot of its key. If the key has none, puts it into the first slot and
    /// moves the entry of that slot to the second. Requires the lock. Returns the entries for the
    /// caller to drop.
    fn put(&self, first: u64, entry: &Arc<Entry>) -> [Option<Arc<Entry>>; SLOTS as usize] {
        let [newer, older] = &self.slots;
        let is_of = |slot: &Slot| slot.first.load(Ordering::Relaxed) == first;
        let mut moved_out = None;
        let slot = if is_of(older) { older } else { newer };
        if !is_of(slot)
            && let Some(moved) = newer.entry.load().clone()
        {
            older.first.store(newer.first.load(Ordering::Relaxed), Ordering::Relaxed);
            moved_out = older.entry.swap(Some(moved));
        }
        slot.first.store(first, Ordering::Relaxed);
        [slot.entry.swap(Some(entry.clone())), moved_out]
    }
}

impl Slot {
    /// Empties the slot: its key finds nothing here from now on. Requires the lock.
    fn take(&self) -> Option<Arc<Entry>> {
        self.entry.swap(None)
    }
}
