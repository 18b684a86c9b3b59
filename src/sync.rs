//! Locks and atomics, in one place.
//!
//! A lock is usable again after a thread has panicked while holding it. No code here panics between
//! two steps that belong together, so the data under a lock is always consistent.
//!
//! For [`currency`](crate::currency) and the front of [`l1`](crate::l1), the loom tests replace
//! these primitives by loom's and try every order in which threads can meet.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

pub(crate) use arc_swap::ArcSwapOption;
pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock};
