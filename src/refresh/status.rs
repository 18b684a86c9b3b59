//! [`ViewStatus`]: how it stands with a view.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::report::RefreshReport;
use crate::postgres::matview::RefreshError;
use crate::stats::ViewStats;

/// How it stands with a view, in this process.
#[derive(Debug, Clone)]
pub struct ViewStatus {
    pub(super) view: Arc<str>,
    pub(super) activity: Activity,
    /// How many attempts are being made: ticks and people may come at the same time.
    pub(super) attempts: u32,
    pub(super) next: Option<SystemTime>,
    pub(super) last: Option<Arc<RefreshReport>>,
    pub(super) last_refreshed: Option<Arc<RefreshReport>>,
    pub(super) last_error: Option<RefreshError>,
    pub(super) failures_in_a_row: u32,
    pub(super) refreshes: u64,
    pub(super) noticed: u64,
    pub(super) hook_failures: u64,
    pub(super) last_hook_failure: Option<String>,
}

/// What is being done about a view at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activity {
    /// Nothing: its time has not come.
    Idle,
    /// Its time has come, and views below it, which are refreshed first, are not done yet.
    Behind,
    /// This process is refreshing it, or is about to.
    Refreshing,
    /// Another process is refreshing it. Should that one die, this one takes over.
    Watching,
    /// Nothing that it reads seems to have been written; to be sure, sessions are given the time to
    /// report what they wrote. See [`skip_unchanged`](crate::MaterializedView::skip_unchanged).
    Settling,
    /// It failed for a reason that may pass, and is tried again in a while.
    Retrying,
}

impl ViewStatus {
    pub(super) fn new(view: Arc<str>) -> ViewStatus {
        ViewStatus {
            view,
            activity: Activity::Idle,
            attempts: 0,
            next: None,
            last: None,
            last_refreshed: None,
            last_error: None,
            failures_in_a_row: 0,
            refreshes: 0,
            noticed: 0,
            hook_failures: 0,
            last_hook_failure: None,
        }
    }

    /// As it is published for the whole fleet.
    pub(super) fn published(&self) -> ViewStats {
        let unix_ms = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_millis() as u64)
        };
        let refreshed = self.last_refreshed.as_deref();
        let ended = refreshed.and_then(|report| report.started.checked_add(report.duration));
        ViewStats {
            view: self.view.to_string(),
            activity: self.activity().to_string(),
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

    /// The view, as it was named to the refresher.
    pub fn view(&self) -> &str {
        &self.view
    }

    /// What is being done about it at this moment.
    pub fn activity(&self) -> Activity {
        if self.attempts > 0 { Activity::Refreshing } else { self.activity }
    }

    /// The tick of its schedule that comes next, or that is being worked on.
    pub fn next(&self) -> Option<SystemTime> {
        self.next
    }

    /// What came of the last attempt that did not fail, refreshed or not.
    pub fn last(&self) -> Option<&RefreshReport> {
        self.last.as_deref()
    }

    /// The last refresh that this process made.
    pub fn last_refreshed(&self) -> Option<&RefreshReport> {
        self.last_refreshed.as_deref()
    }

    /// Why the last attempt failed, if it did.
    pub fn last_error(&self) -> Option<&RefreshError> {
        self.last_error.as_ref()
    }

    /// How many times it has failed since it last succeeded.
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    /// How many times this process has refreshed it.
    pub fn refreshes(&self) -> u64 {
        self.refreshes
    }

    /// How many times this process was the one that noticed a refresh made by somebody else, and
    /// made results stale because of it.
    pub fn noticed(&self) -> u64 {
        self.noticed
    }

    /// How many hooks have failed, panicked, run into their timeout or were left out because too
    /// many were waiting.
    pub fn hook_failures(&self) -> u64 {
        self.hook_failures
    }

    /// What went wrong with the last hook that failed.
    pub fn last_hook_failure(&self) -> Option<&str> {
        self.last_hook_failure.as_deref()
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activity::Idle => "idle",
            Activity::Behind => "waiting for views below",
            Activity::Refreshing => "refreshing",
            Activity::Watching => "refreshed by another process",
            Activity::Settling => "seems unchanged",
            Activity::Retrying => "to be tried again",
        })
    }
}

impl fmt::Display for ViewStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.view, self.activity())?;
        if let Some(last) = &self.last {
            write!(f, "; last {}", last.outcome)?;
        }
        if let Some(error) = &self.last_error {
            write!(f, "; failed {} times in a row: {error}", self.failures_in_a_row)?;
        }
        Ok(())
    }
}
