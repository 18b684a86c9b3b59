//! The statements about materialized views that PostgreSQL runs, and what its answers mean.

pub(crate) mod blocker;
pub(crate) mod check;
pub(crate) mod credentials;
pub(crate) mod definitions;
mod error;
mod finding;
mod kind;
mod limits;
pub(crate) mod lineage;
pub(crate) mod listen;
mod search_path;
pub(crate) mod session;
pub(crate) mod state;
pub(crate) mod transaction;
pub(crate) mod trigger;
pub(crate) mod writes;

pub use self::error::RefreshError;
pub use self::finding::{Finding, FindingKind};
pub use self::kind::RefreshErrorKind;
