//! [`Front`]: a few of the results that are read most, where a read costs least.
//!
//! moka notes every read of an entry, in a queue that all threads share, and that is most of what a
//! read of it costs. Here a read writes to nothing that another thread reads, but for the reference
//! count of the value. It is a table of sets, one for each value of some bits of the key, and each
//! set has two slots: a key's entry is in one of them or it is not here.
//!
//! # No entry is brought back that was replaced
//!
//! moka is the truth. What is in a slot was moka's own entry for its key when it came here, and is
//! replaced when moka's is. Three things are done to a set, each under its lock: an entry that moka
//! was asked for is *promoted*; what moka was given *replaces* what is here; and what has ended is
//! dropped. Whoever promotes or replaces has [watched](Front::watch) the set since before asking or
//! telling moka, which is what makes both safe. The set counts the replacements.
//!
//! - A reader gets the old entry from moka; a writer gives moka the new one and replaces; the reader
//!   would promote the old one. The count is not the one it watched: it leaves the set alone. If
//!   the reader promotes before the writer replaces, it is replaced.
//! - A reader that watched after the replacement asks moka after it, and gets the new one.
//! - Two writers of one key give moka first *a* and then *b*, and come to the set in the other
//!   order. Whoever comes second has watched since before the first one came, sees that the count
//!   has moved, does not know whose entry moka has now, and leaves none of the key's here. Had it
//!   watched after the first one came, its own entry would be moka's.
//! - Comparing what is in the slots instead of counting would not do: it may be the same again, after
//!   something else was in between.
//!
//! For as long as the writer is between moka and the set, both entries can be read. It has not
//! returned yet, and what was invalidated is served from neither: every entry is judged when it is
//! read.

use std::sync::Arc;

use crate::clock::Instant;
use crate::l1::entry::Entry;
use crate::sync::{ArcSwapOption, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering};
use crate::value::key::CacheKey;

/// How much of the memory is the front's at most, its entries being here alone: one part of so many.
pub(super) const SHARE: u64 = 16;

/// The room for one slot and its entry: with 416 bytes for themselves they leave 3.6 KB for the
/// result.
pub(super) const ROOM: u64 = 4 << 10;

/// What the slot itself takes of it.
pub(super) const SLOT: u64 = size_of::<Set>() as u64 / SLOTS;

/// In each set. With one, a tenth of the reads of ten thousand keys (Zipf 1.0) that had room here
/// found another key's entry; with two it is half of that.
pub(super) const SLOTS: u64 = 2;

/// More slots would not be read often enough to be worth the table: this one takes half a megabyte.
pub(super) const MOST: u64 = 1 << 14;

pub(crate) struct Front {
    /// A power of two of them, or none.
    pub(super) sets: Box<[Set]>,
    /// The largest weight that an entry here may have.
    pub(super) largest: u32,
}

/// In one cache line.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Set {
    /// What came last is in the first, unless its key had the second already.
    slots: [Slot; SLOTS as usize],
    /// How often an entry was replaced whose key has this set. It comes round after four billion
    /// times: to be misled, a thread would have to be suspended for hours and for exactly so many.
    replaced: AtomicU32,
    /// Who writes to the set holds it.
    lock: Mutex<()>,
}

#[derive(Default)]
struct Slot {
    /// The first bytes of the key whose entry is here, so that nobody looks at that in vain. It is a
    /// hint: between this and the entry, another may come.
    first: AtomicU64,
    entry: ArcSwapOption<Entry>,
}

/// A key's set, as it was before moka was asked or told.
pub(crate) struct Watch<'f> {
    set: Option<&'f Set>,
    first: u64,
    replaced: u32,
    largest: u32,
}

impl Front {
    /// A front for a memory of so many bytes.
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

    /// The most that the entries here can weigh together, and the table.
    pub(crate) fn bytes(&self) -> u64 {
        self.sets.len() as u64 * SLOTS * (SLOT + u64::from(self.largest))
    }

    #[inline]
    fn set(&self, key: &CacheKey) -> Option<&Set> {
        // Without sets the index is that of none.
        self.sets.get(key.first() as usize & self.sets.len().wrapping_sub(1))
    }

    /// What `judge` makes of the key's entry, if it is here.
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

    /// To be called before moka is asked for the key's entry or given another.
    #[inline]
    pub(crate) fn watch(&self, key: &CacheKey) -> Watch<'_> {
        let set = self.set(key);
        // What is read from moka after this is at least as new as the replacements counted here.
        let replaced = set.map_or(0, |set| set.replaced.load(Ordering::Acquire));
        Watch { set, first: key.first(), replaced, largest: self.largest }
    }

    /// How many of the entries are here alone, and what they weigh; `is_elsewhere` says of the first
    /// bytes of a key whether moka has its entry.
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

    /// Drops the entries whose life has ended.
    pub(crate) fn sweep(&self, now: Instant) {
        let has_ended = |slot: &Slot| {
            slot.entry.load().as_ref().is_some_and(|entry| entry.lifetime.evict_at <= now)
        };
        for set in self.sets.iter().filter(|set| set.slots.iter().any(has_ended)) {
            let locked = set.lock();
            // What has come here meanwhile has not.
            let ended = set.slots.each_ref().map(|slot| has_ended(slot).then(|| slot.take()));
            drop(locked);
            drop(ended);
        }
    }
}

impl Watch<'_> {
    /// Puts an entry that moka has given into a slot, unless it is too large or may not be moka's any
    /// more.
    #[cold]
    pub(crate) fn promote(self, entry: &Arc<Entry>) {
        let Some(set) = self.set else { return };
        if entry.weight() > self.largest {
            return;
        }
        // Whoever has the lock brings something as good.
        let Some(locked) = set.lock.try_lock() else { return };
        if set.replaced.load(Ordering::Relaxed) == self.replaced {
            let before = set.put(self.first, entry);
            // The value's own `drop` may be next, and that is not for under a lock.
            drop(locked);
            drop(before);
        }
    }

    /// moka has been given this entry for the key. It comes here as well: what has just been loaded
    /// is often read again soon, and moka may not have admitted it.
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

    /// Under the lock: puts an entry where its key's is, or else in the first slot, and what was in
    /// that into the second. To be dropped is what this returns.
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
    /// Under the lock: its key may find nothing here from now on.
    fn take(&self) -> Option<Arc<Entry>> {
        self.entry.swap(None)
    }
}
