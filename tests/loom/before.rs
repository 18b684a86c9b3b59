//! Shows that the front is never older than moka: `src/l1/front.rs`, used as in `src/l1/mod.rs`.

use std::sync::Arc as Shared;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use crate::front::{Front, ROOM, SHARE, SLOTS};
use crate::key::{CacheKey, Entry, Instant};
use crate::sync::{Field, Mutant, mutated};
use crate::{Case, broken, hold, holds, holds_nearly};

const KEY: CacheKey = CacheKey(1);
/// Their entries take the same slots.
const OTHERS: [CacheKey; 2] = [CacheKey(2), CacheKey(3)];

/// Memory with room for two entries before moka, which has the first result of the key.
struct Memory {
    front: Front,
    /// Which result moka has of the key. moka orders what is read of an entry after what wrote it,
    /// and no more is asked of it here.
    moka: AtomicU64,
    /// The result that was given to moka last by a call that has returned.
    returned: AtomicU64,
}

impl Memory {
    fn new() -> Arc<Memory> {
        let front = Front::new(ROOM * SHARE * SLOTS);
        Arc::new(Memory { front, moka: AtomicU64::new(1), returned: AtomicU64::new(1) })
    }

    /// As in `Local::read`, and every read of moka brings the entry to the front.
    fn read(&self) -> u64 {
        if let Some(kept) = self.in_front(&KEY) {
            return kept;
        }
        let mut watch = self.front.watch(&KEY);
        let kept = self.moka.load(Ordering::Acquire);
        if mutated(Mutant::LateWatch) {
            watch = self.front.watch(&KEY);
        }
        watch.promote(&entry(KEY, kept));
        kept
    }

    /// As in `Local::insert`. The results of a key come with growing numbers, but for those of two
    /// threads at once.
    fn insert(&self, kept: u64) {
        let mut watch = self.front.watch(&KEY);
        self.moka.swap(kept, Ordering::AcqRel);
        if mutated(Mutant::LateWatchOfAWriter) {
            watch = self.front.watch(&KEY);
        }
        watch.replace(&KEY, &entry(KEY, kept));
    }

    fn in_front(&self, key: &CacheKey) -> Option<u64> {
        self.front.read(key, |entry| Some(entry.lifetime.evict_at.nanos()))
    }

    /// Once all threads have ended: the front has what moka has, or nothing.
    fn agrees(&self) {
        let moka = self.moka.load(Ordering::Acquire);
        hold(self.in_front(&KEY).is_none_or(|kept| kept == moka));
    }
}

fn entry(key: CacheKey, kept: u64) -> Shared<Entry> {
    Shared::new(Entry::new(key, kept))
}

fn aside(memory: &Arc<Memory>, run: impl FnOnce(&Memory) + 'static) -> thread::JoinHandle<()> {
    let memory = memory.clone();
    thread::spawn(move || run(&memory))
}

/// A reader has the old result from moka while a writer gives it the new one.
fn reader_and_writer() {
    let memory = Memory::new();
    let writer = aside(&memory, |memory| {
        memory.insert(2);
        memory.returned.store(2, Ordering::Release);
    });
    let returned = memory.returned.load(Ordering::Acquire);
    hold(memory.read() >= returned);
    let returned = memory.returned.load(Ordering::Acquire);
    hold(memory.read() >= returned);
    writer.join().unwrap();
    memory.agrees();
    hold(memory.read() == 2);
}

/// The old result is before moka already.
fn replaced_in_front() {
    let memory = Memory::new();
    memory.read();
    hold(memory.in_front(&KEY) == Some(1));
    let writer = aside(&memory, |memory| {
        memory.insert(2);
        memory.returned.store(2, Ordering::Release);
    });
    let returned = memory.returned.load(Ordering::Acquire);
    hold(memory.read() >= returned);
    writer.join().unwrap();
    memory.agrees();
}

/// Two readers, one of which may bring the new result and the other the old one.
fn two_readers_and_a_writer() {
    let memory = Memory::new();
    let writer = aside(&memory, |memory| memory.insert(2));
    let reader = aside(&memory, |memory| {
        memory.read();
    });
    memory.read();
    writer.join().unwrap();
    reader.join().unwrap();
    memory.agrees();
    hold(memory.read() == 2);
}

/// Two results at once: which of them moka has in the end, the front has or none.
fn two_writers() {
    let memory = Memory::new();
    let writer = aside(&memory, |memory| memory.insert(2));
    memory.insert(3);
    writer.join().unwrap();
    memory.agrees();
}

fn two_writers_and_a_reader() {
    let memory = Memory::new();
    let writer = aside(&memory, |memory| memory.insert(2));
    let reader = aside(&memory, |memory| {
        memory.read();
    });
    memory.insert(3);
    writer.join().unwrap();
    reader.join().unwrap();
    memory.agrees();
}

/// Before the writer comes, and after it, the slots have the entries of two other keys: to compare
/// what is in them would not do.
fn slots_that_are_what_they_were() {
    let memory = Memory::new();
    let promote = |memory: &Memory| {
        for other in OTHERS {
            memory.front.watch(&other).promote(&entry(other, 1));
        }
    };
    promote(&memory);
    let writer = aside(&memory, move |memory| {
        memory.insert(2);
        promote(memory);
    });
    memory.read();
    writer.join().unwrap();
    memory.agrees();
}

/// An entry that others push from one slot to the other, and out.
fn moved_while_it_is_replaced() {
    let memory = Memory::new();
    memory.read();
    let writer = aside(&memory, |memory| memory.insert(2));
    memory.front.watch(&OTHERS[0]).promote(&entry(OTHERS[0], 1));
    memory.read();
    writer.join().unwrap();
    memory.agrees();
    hold(memory.in_front(&OTHERS[0]).is_none_or(|kept| kept == 1));
}

/// What has ended is dropped, and nothing else is.
fn swept() {
    let memory = Memory::new();
    memory.read();
    let writer = aside(&memory, |memory| memory.insert(2));
    memory.front.sweep(Instant::from_nanos(1));
    hold(memory.in_front(&KEY) != Some(1));
    writer.join().unwrap();
    hold(memory.in_front(&KEY) == Some(2));
}

#[test]
fn the_front_never_goes_back_to_what_was_replaced() {
    holds(reader_and_writer);
    holds(replaced_in_front);
    holds(slots_that_are_what_they_were);
    holds(moved_while_it_is_replaced);
    holds(swept);
    holds_nearly(two_readers_and_a_writer);
}

#[test]
fn of_two_writers_the_front_believes_the_one_whom_moka_does() {
    holds(two_writers);
    holds_nearly(two_writers_and_a_reader);
}

#[test]
fn a_front_without_one_of_its_rules_is_noticed() {
    use Field::Replaced;
    let mutants: [Case; 7] = [
        (reader_and_writer, &[Mutant::NeverCounted]),
        (slots_that_are_what_they_were, &[Mutant::NeverCounted]),
        (two_writers_and_a_reader, &[Mutant::NeverCounted]),
        (reader_and_writer, &[Mutant::LateWatch]),
        (two_writers_and_a_reader, &[Mutant::LateWatchOfAWriter]),
        (reader_and_writer, &[Mutant::RelaxedLoad(Replaced)]),
        (reader_and_writer, &[Mutant::RelaxedStore(Replaced)]),
    ];
    for (model, mutants) in mutants {
        assert_ne!(broken(model, Some(2), mutants), 0, "{mutants:?} lives");
    }
}
