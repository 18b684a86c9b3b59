//! The primitives of [`currency`](crate::currency) and of the front of [`local`](crate::l1), in one
//! place: a test puts those of loom there and tries every order in which threads can meet.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
pub(crate) use std::sync::{Mutex, MutexGuard};

pub(crate) use arc_swap::ArcSwapOption;
