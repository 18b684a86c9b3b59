//! Materialized views, refreshed on schedule by one process of the fleet at a time.
//!
//! A refresh is one transaction that holds an advisory lock. After its commit, results that read
//! the view become stale in the caches.

mod attempt;
mod basis;
mod builder;
mod check;
mod discover;
mod event;
mod events;
mod follow;
mod hook;
mod notes;
mod plan;
pub(crate) mod postgres;
mod refresher;
mod report;
mod schedule;
mod shared;
mod start_error;
mod status;
mod ticks;
mod trigger;
mod view;
mod watch;
#[cfg(feature = "webhook")]
mod webhook;

pub use self::builder::RefresherBuilder;
pub use self::check::{CheckReport, ViewCheck};
pub use self::discover::DiscoveredView;
pub use self::event::RefreshEvent;
pub use self::hook::{HookError, RefreshHook, Veto};
pub use self::plan::{PlannedView, RefreshPlan};
pub use self::postgres::credentials::PostgresCredentials;
pub use self::postgres::{Finding, FindingKind, RefreshError, RefreshErrorKind};
pub use self::refresher::Refresher;
pub use self::report::{RefreshOutcome, RefreshReport, RowChanges, SkipReason};
pub use self::start_error::StartError;
pub use self::status::{Activity, ViewStatus};
pub use self::view::MaterializedView;
#[cfg(feature = "webhook")]
pub use self::webhook::{Webhook, WebhookError};
