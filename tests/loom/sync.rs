//! The primitives that [`currency`](crate::currency) and [`front`](crate::front) use in these tests
//! are loom's, behind a thin layer that weakens one of them when a test requests a mutant.
//!
//! Loom remembers only the last access to an atomic. It forgets a reader when the writer loads the
//! value that it is about to replace, and then would not try the store before that reader.
//! Therefore a thread that holds the lock takes the last value from a copy next to the atomic. That
//! is the value it would load, since all stores happen under the lock. A writer to a set of the
//! front reads the set's count before it has the lock, so each thread has its own copy of the
//! count.
//!
//! Loom runs all threads of a model on the thread of the test, so the state of a test is in
//! thread-locals.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use loom::sync::atomic;
pub(crate) use loom::sync::atomic::Ordering;
use loom::thread::{self, ThreadId};

use crate::tag;

/// What an atomic of the table is, by the order in which `Currency` makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Epoch,
    ConfirmedUntil,
    TagSlot,
    Applied,
    Orders,
    FollowedUntil,
    /// The front's count, and the only one of its type.
    Replaced,
    /// What the front says of a key without looking at its entry.
    First,
}

/// One change for the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// All stores to this field are relaxed.
    RelaxedStore(Field),
    /// All loads of this field are relaxed.
    RelaxedLoad(Field),
    /// Reading and writing at once is relaxed.
    RelaxedCount,
    /// There is no fence of this kind.
    NoFence(Ordering),
    /// The epoch is not closed while the table is replaced.
    NeverClosed,
    /// The front does not count replacements.
    NeverCounted,
    /// Who brings an entry to the front watches the slot only after moka was asked.
    LateWatch,
    /// Who gives moka an entry watches the slot only then.
    LateWatchOfAWriter,
}

thread_local! {
    /// Who holds the lock; there is one table at a time, or one set.
    static HOLDER: Cell<Option<ThreadId>> = const { Cell::new(None) };
    static MADE: Cell<usize> = const { Cell::new(0) };
    static MUTANTS: Cell<&[Mutant]> = const { Cell::new(&[]) };
}

/// From here on the source has these defects.
pub(crate) fn mutate(mutants: &'static [Mutant]) {
    MUTANTS.set(mutants);
}

pub(crate) fn mutated(mutant: Mutant) -> bool {
    MUTANTS.get().contains(&mutant)
}

pub(crate) struct AtomicU64 {
    atomic: atomic::AtomicU64,
    /// What was stored last.
    last: std::sync::atomic::AtomicU64,
    field: Field,
}

/// Of the front.
impl Default for AtomicU64 {
    fn default() -> AtomicU64 {
        let (atomic, last) = (atomic::AtomicU64::new(0), 0.into());
        AtomicU64 { atomic, last, field: Field::First }
    }
}

impl AtomicU64 {
    pub(crate) fn new(value: u64) -> AtomicU64 {
        let made = MADE.replace(MADE.get() + 1) % (tag::TagSlot::COUNT + 5);
        let field = match made.checked_sub(2) {
            None if made == 0 => Field::Epoch,
            None => Field::ConfirmedUntil,
            Some(at) if at < tag::TagSlot::COUNT => Field::TagSlot,
            Some(at) if at == tag::TagSlot::COUNT => Field::Applied,
            Some(at) if at == tag::TagSlot::COUNT + 1 => Field::Orders,
            Some(_) => Field::FollowedUntil,
        };
        AtomicU64 { atomic: atomic::AtomicU64::new(value), last: value.into(), field }
    }

    pub(crate) fn load(&self, order: Ordering) -> u64 {
        if self.field != Field::Orders && is_locked_here() {
            return self.last.load(Ordering::Relaxed);
        }
        let relaxed = mutated(Mutant::RelaxedLoad(self.field));
        self.atomic.load(if relaxed { Ordering::Relaxed } else { order })
    }

    pub(crate) fn store(&self, value: u64, order: Ordering) {
        let closes = self.field == Field::Epoch && value == u64::MAX;
        if closes && mutated(Mutant::NeverClosed) {
            return;
        }
        assert!(is_locked_here());
        self.last.store(value, Ordering::Relaxed);
        let relaxed = mutated(Mutant::RelaxedStore(self.field));
        self.atomic.store(value, if relaxed { Ordering::Relaxed } else { order });
    }

    pub(crate) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        // The one field that is counted; it shows that the order above is still that of the source.
        assert_eq!(self.field, Field::Orders);
        let relaxed = mutated(Mutant::RelaxedCount);
        self.atomic.fetch_add(value, if relaxed { Ordering::Relaxed } else { order })
    }
}

/// With a copy for each of three threads to read: a writer who has read a single one himself would
/// hide who else has. A store reaches one copy after the other, which is an order more and none less.
#[derive(Default)]
pub(crate) struct AtomicU32 {
    copies: [Copy; 3],
    readers: std::sync::Mutex<Vec<ThreadId>>,
    /// What was stored last.
    last: std::sync::atomic::AtomicU32,
}

struct Copy(atomic::AtomicU32);

impl Default for Copy {
    fn default() -> Copy {
        Copy(atomic::AtomicU32::new(0))
    }
}

impl AtomicU32 {
    pub(crate) fn load(&self, order: Ordering) -> u32 {
        if is_locked_here() {
            return self.last.load(Ordering::Relaxed);
        }
        let relaxed = mutated(Mutant::RelaxedLoad(Field::Replaced));
        self.mine().0.load(if relaxed { Ordering::Relaxed } else { order })
    }

    pub(crate) fn store(&self, value: u32, order: Ordering) {
        assert!(is_locked_here());
        if mutated(Mutant::NeverCounted) {
            return;
        }
        self.last.store(value, Ordering::Relaxed);
        let relaxed = mutated(Mutant::RelaxedStore(Field::Replaced));
        let order = if relaxed { Ordering::Relaxed } else { order };
        self.copies.iter().for_each(|copy| copy.0.store(value, order));
    }

    fn mine(&self) -> &Copy {
        let (mut readers, me) =
            (self.readers.lock().expect("no thread panics"), thread::current().id());
        let at = readers.iter().position(|&reader| reader == me).unwrap_or_else(|| {
            readers.push(me);
            readers.len() - 1
        });
        &self.copies[at]
    }
}

/// A place for a pointer, with the orders that `arc-swap` promises. What was in it is never freed,
/// so that it is a number of it that loom has to follow; 0 stands for none.
pub(crate) struct ArcSwapOption<T> {
    at: atomic::AtomicUsize,
    /// What was put there last.
    last: std::sync::atomic::AtomicUsize,
    all: std::sync::Mutex<Vec<Arc<T>>>,
}

impl<T> Default for ArcSwapOption<T> {
    fn default() -> ArcSwapOption<T> {
        let at = atomic::AtomicUsize::new(0);
        ArcSwapOption { at, last: 0.into(), all: std::sync::Mutex::default() }
    }
}

impl<T> ArcSwapOption<T> {
    pub(crate) fn load(&self) -> Option<Arc<T>> {
        self.numbered(if is_locked_here() {
            self.last.load(Ordering::Relaxed)
        } else {
            self.at.load(Ordering::Acquire)
        })
    }

    pub(crate) fn swap(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
        assert!(is_locked_here());
        let at = value.map_or(0, |value| {
            let mut all = self.all.lock().expect("no thread panics");
            all.push(value);
            all.len()
        });
        self.last.store(at, Ordering::Relaxed);
        self.numbered(self.at.swap(at, Ordering::AcqRel))
    }

    fn numbered(&self, at: usize) -> Option<Arc<T>> {
        let all = self.all.lock().expect("no thread panics");
        Some(all[at.checked_sub(1)?].clone())
    }
}

pub(crate) fn fence(order: Ordering) {
    if !mutated(Mutant::NoFence(order)) {
        atomic::fence(order);
    }
}

fn is_locked_here() -> bool {
    HOLDER.get() == Some(thread::current().id())
}

#[derive(Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

pub(crate) struct MutexGuard<'a, T>(loom::sync::MutexGuard<'a, T>);

impl<T> Mutex<T> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let guard = self.0.lock().expect("no thread panics");
        HOLDER.set(Some(thread::current().id()));
        MutexGuard(guard)
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = self.0.try_lock().ok()?;
        HOLDER.set(Some(thread::current().id()));
        Some(MutexGuard(guard))
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        HOLDER.set(None);
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
