//! The statements about materialized views that PostgreSQL runs, and what its answers mean.

pub(crate) mod blocker;
pub(crate) mod check;
pub(crate) mod credentials;
mod error;
mod finding;
mod limits;
pub(crate) mod lineage;
pub(crate) mod listen;
pub(crate) mod session;
pub(crate) mod state;
pub(crate) mod transaction;
pub(crate) mod trigger;
pub(crate) mod writes;

pub use self::error::{RefreshError, RefreshErrorKind};
pub use self::finding::{Finding, FindingKind};
