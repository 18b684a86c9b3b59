//! [`ViewStatus`]: the status of a view.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::report::RefreshReport;
use crate::refresh::postgres::{Finding, RefreshError};
use crate::telemetry::stats::ViewStats;

/// The status of a view, in this process.
#[derive(Debug, Clone)]
pub struct ViewStatus {
    pub(super) view: Arc<str>,
    pub(super) activity: Activity,
    /// How many attempts are running: scheduled and requested ones may coincide.
    pub(super) attempts: u32,
    pub(super) waits_for: Vec<Finding>,
    pub(super) next: Option<SystemTime>,
    pub(super) last: Option<Arc<RefreshReport>>,
    pub(super) last_refreshed: Option<Arc<RefreshReport>>,
    pub(super) last_error: Option<RefreshError>,
    pub(super) failures_in_a_row: u32,
    pub(super) refreshes: u64,
    pub(super) noticed: u64,
    pub(super) hook_failures: u64,
    pub(super) last_hook_failure: Option<String>,
    pub(super) not_listening: Option<Finding>,
}

/// What is being done about a view at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activity {
    /// Nothing: the next tick has not come.
    Idle,
    /// A tick has come, and the views below, which are refreshed first, are not done yet.
    WaitingForDependencies,
    /// This process is refreshing it, or is about to. Whether it waits for a lock is in
    /// [`waits_for`](ViewStatus::waits_for).
    Refreshing,
    /// Another process is refreshing it. If that process dies, this one takes over.
    RefreshedElsewhere,
    /// Nothing that it reads seems to have been written. To be certain, the process waits until
    /// sessions have reported their writes. See
    /// [`skip_unchanged`](crate::refresh::MaterializedView::skip_unchanged).
    Verifying,
    /// The refresh failed for a transient reason, and is retried after a pause.
    Retrying,
}

impl ViewStatus {
    pub(super) fn new(view: Arc<str>) -> ViewStatus {
        ViewStatus {
            view,
            activity: Activity::Idle,
            attempts: 0,
            waits_for: vec![],
            next: None,
            last: None,
            last_refreshed: None,
            last_error: None,
            failures_in_a_row: 0,
            refreshes: 0,
            noticed: 0,
            hook_failures: 0,
            last_hook_failure: None,
            not_listening: None,
        }
    }

    pub(super) fn with(self, not_listening: Option<Finding>) -> ViewStatus {
        ViewStatus { not_listening, ..self }
    }

    /// The status as it is published for the whole fleet.
    pub(super) fn published(&self) -> ViewStats {
        let unix_ms = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_millis() as u64)
        };
        let refreshed = self.last_refreshed.as_deref();
        let ended = refreshed.and_then(|report| report.started.checked_add(report.duration));
        ViewStats {
            view: self.view.to_string(),
            activity: if self.waits_for.is_empty() {
                self.activity().to_string()
            } else {
                "waiting for a lock".to_owned()
            },
            last: self.last.as_ref().map(|last| last.outcome.to_string()),
            took_ms: refreshed.map(|report| report.duration.as_millis() as u64),
            next_unix_ms: self.next.and_then(unix_ms),
            last_refreshed_unix_ms: ended.and_then(unix_ms),
            refreshes: self.refreshes,
            noticed: self.noticed,
            failures_in_a_row: self.failures_in_a_row,
            last_error: self.last_error.as_ref().map(ToString::to_string),
            hook_failures: self.hook_failures,
        }
    }

    /// The name of the view, as given to the refresher.
    pub fn view(&self) -> &str {
        &self.view
    }

    /// What is being done about it at this moment.
    pub fn activity(&self) -> Activity {
        if self.attempts > 0 { Activity::Refreshing } else { self.activity }
    }

    /// The sessions that a running refresh waits for, because they hold a lock that it needs, or
    /// come first in the queue for it. Each finding names the process, its user and application,
    /// the relation, the mode of the lock and how long it has been held, and the SQL that ends the
    /// wait.
    ///
    /// A refresh is looked at after 200 milliseconds, and at least every 2 seconds from then on,
    /// over another connection of the pool. If the pool has none to spare, this stays empty.
    pub fn waits_for(&self) -> &[Finding] {
        &self.waits_for
    }

    /// The tick of its schedule that comes next, or that is being handled.
    pub fn next(&self) -> Option<SystemTime> {
        self.next
    }

    /// The report of the last attempt that did not fail, whether or not the view was refreshed.
    pub fn last(&self) -> Option<&RefreshReport> {
        self.last.as_deref()
    }

    /// The report of the last refresh that this process made.
    pub fn last_refreshed(&self) -> Option<&RefreshReport> {
        self.last_refreshed.as_deref()
    }

    /// Why the last failed attempt failed, if this process has not refreshed the view since.
    pub fn last_error(&self) -> Option<&RefreshError> {
        self.last_error.as_ref()
    }

    /// How many attempts have failed since the last refresh that succeeded.
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    /// How many times this process has refreshed it.
    pub fn refreshes(&self) -> u64 {
        self.refreshes
    }

    /// How many times this process was the one that detected a refresh made by others, and made
    /// results stale because of it.
    pub fn noticed(&self) -> u64 {
        self.noticed
    }

    /// How many calls of hooks have failed, panicked, exceeded their timeout, or were dropped
    /// because too many events were waiting.
    pub fn hook_failures(&self) -> u64 {
        self.hook_failures
    }

    /// Why refreshes by others are noticed by polling only, although the refresher was told to
    /// [listen](crate::refresh::RefresherBuilder::listen): its connection was refused or lost, and is
    /// tried again. `None` if it listens, is connecting for the first time, or was not told to.
    pub fn not_listening(&self) -> Option<&Finding> {
        self.not_listening.as_ref()
    }

    /// The last failure of a hook.
    pub fn last_hook_failure(&self) -> Option<&str> {
        self.last_hook_failure.as_deref()
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activity::Idle => "idle",
            Activity::WaitingForDependencies => "waiting for views below",
            Activity::Refreshing => "refreshing",
            Activity::RefreshedElsewhere => "refreshed by another process",
            Activity::Verifying => "seems unchanged",
            Activity::Retrying => "to be tried again",
        })
    }
}

impl fmt::Display for ViewStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.view, self.activity())?;
        self.waits_for.iter().try_for_each(|finding| write!(f, "; {}", finding.message()))?;
        if let Some(last) = &self.last {
            write!(f, "; last {}", last.outcome)?;
        }
        if let Some(error) = &self.last_error {
            write!(f, "; failed {} times in a row: {error}", self.failures_in_a_row)?;
        }
        if let Some(finding) = &self.not_listening {
            write!(f, "; {}", finding.message())?;
        }
        Ok(())
    }
}
