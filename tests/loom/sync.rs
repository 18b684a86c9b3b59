//! The primitives that [`currency`](crate::currency) finds here are loom's, behind a thin layer that
//! weakens one of them where a test asks for a mutant.
//!
//! Loom remembers one access to an atomic, the last, and so forgets a reader when the writer loads
//! what it is about to store: it would not try to put the store before that reader. Whoever holds the
//! lock therefore takes the last value from beside the atomic. That is what it would load, since all
//! stores are made under the lock.
//!
//! Loom runs all threads of a model on the thread of the test, so that what belongs to one test is
//! kept in thread-locals.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;

use loom::sync::atomic;
pub(crate) use loom::sync::atomic::Ordering;
use loom::thread::{self, ThreadId};

use crate::tag;

/// What an atomic of the table is, by the order in which `Currency` makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Epoch,
    ConfirmedUntil,
    Cell,
    Applied,
    Moments,
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
}

thread_local! {
    /// Who holds the lock; there is one table at a time.
    static HOLDER: Cell<Option<ThreadId>> = const { Cell::new(None) };
    static MADE: Cell<usize> = const { Cell::new(0) };
    static MUTANTS: Cell<&[Mutant]> = const { Cell::new(&[]) };
}

/// From here on the source has these defects.
pub(crate) fn mutate(mutants: &'static [Mutant]) {
    MUTANTS.set(mutants);
}

fn mutated(mutant: Mutant) -> bool {
    MUTANTS.get().contains(&mutant)
}

pub(crate) struct AtomicU64 {
    atomic: atomic::AtomicU64,
    /// What was stored last.
    last: std::sync::atomic::AtomicU64,
    field: Field,
}

impl AtomicU64 {
    pub(crate) fn new(value: u64) -> AtomicU64 {
        let made = MADE.replace(MADE.get() + 1) % (tag::Cell::COUNT + 4);
        let field = match made.checked_sub(2) {
            None if made == 0 => Field::Epoch,
            None => Field::ConfirmedUntil,
            Some(at) if at < tag::Cell::COUNT => Field::Cell,
            Some(at) if at == tag::Cell::COUNT => Field::Applied,
            Some(_) => Field::Moments,
        };
        AtomicU64 { atomic: atomic::AtomicU64::new(value), last: value.into(), field }
    }

    pub(crate) fn load(&self, order: Ordering) -> u64 {
        if self.field != Field::Moments && is_locked_here() {
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
        assert_eq!(self.field, Field::Moments);
        let relaxed = mutated(Mutant::RelaxedCount);
        self.atomic.fetch_add(value, if relaxed { Ordering::Relaxed } else { order })
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
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, T>, PoisonError<MutexGuard<'_, T>>> {
        let guard = self.0.lock().expect("no thread panics");
        HOLDER.set(Some(thread::current().id()));
        Ok(MutexGuard(guard))
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
