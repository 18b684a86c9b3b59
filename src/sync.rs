//! The primitives of [`currency`](crate::currency), in one place: a test puts those of loom there
//! and tries every order in which threads can meet.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};
pub(crate) use std::sync::{Mutex, MutexGuard};
