//! [`Directory`]: the state of a namespace's directory.

use crate::currency::Position;

/// The state of a namespace's directory in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    pub(super) at: Option<Position>,
    pub(super) is_of_this_server: Option<bool>,
}

impl Directory {
    /// The epoch; `None` if there is no directory.
    pub fn epoch(&self) -> Option<u64> {
        self.at.map(|at| at.epoch)
    }

    /// The count of invalidations; `None` if there is no directory.
    pub fn seq(&self) -> Option<u64> {
        self.at.map(|at| at.seq)
    }

    /// Whether it was written by this server: not before a restart, and not by another master.
    /// `None` if Redis does not report its replication id.
    pub fn is_of_this_server(&self) -> Option<bool> {
        self.is_of_this_server
    }
}
