//! Locks and atomics, in one place.
//!
//! A lock is free again after a thread has panicked while it held it: no code here panics between
//! two steps that belong together, so the data under a lock is whole at any time.
//!
//! The tests under loom put loom's primitives in the place of these, for [`currency`](crate::currency)
//! and for the front of [`l1`](crate::l1), and try every order in which threads can meet there.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

pub(crate) use arc_swap::ArcSwapOption;
pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock};
