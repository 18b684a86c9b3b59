//! [`RefreshEvent`]: what a hook receives.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::report::{RefreshReport, RowChanges};
use crate::refresh::postgres::RefreshError;

/// What a hook receives about a refresh. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RefreshEvent {
    view: Arc<str>,
    started: SystemTime,
    stage: Stage,
}

#[derive(Debug, Clone)]
enum Stage {
    Before,
    After(Arc<RefreshReport>),
    Failed { error: RefreshError, duration: Duration, failures_in_a_row: u32 },
}

impl RefreshEvent {
    pub(crate) fn before(view: Arc<str>, started: SystemTime) -> RefreshEvent {
        RefreshEvent { view, started, stage: Stage::Before }
    }

    pub(crate) fn after(report: Arc<RefreshReport>) -> RefreshEvent {
        let (view, started) = (report.view.clone(), report.started);
        RefreshEvent { view, started, stage: Stage::After(report) }
    }

    pub(crate) fn failed(
        view: Arc<str>,
        started: SystemTime,
        duration: Duration,
        error: RefreshError,
        failures_in_a_row: u32,
    ) -> RefreshEvent {
        let stage = Stage::Failed { error, duration, failures_in_a_row };
        RefreshEvent { view, started, stage }
    }

    /// The name of the view, as given to the refresher.
    pub fn view(&self) -> &str {
        &self.view
    }

    /// When the refresh began.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// How long the refresh took; zero before a refresh.
    pub fn duration(&self) -> Duration {
        match &self.stage {
            Stage::Before => Duration::ZERO,
            Stage::After(report) => report.duration,
            Stage::Failed { duration, .. } => *duration,
        }
    }

    /// The report, after a refresh.
    pub fn report(&self) -> Option<&RefreshReport> {
        match &self.stage {
            Stage::After(report) => Some(report),
            _ => None,
        }
    }

    /// The rows that changed, after a refresh.
    pub fn rows(&self) -> Option<RowChanges> {
        self.report().and_then(RefreshReport::rows)
    }

    /// Whether rows changed, so that cached results were made stale.
    pub fn changed(&self) -> bool {
        self.report().is_some_and(RefreshReport::changed)
    }

    /// Why the refresh failed, for [`on_error`](crate::refresh::RefresherBuilder::on_error).
    pub fn error(&self) -> Option<&RefreshError> {
        match &self.stage {
            Stage::Failed { error, .. } => Some(error),
            _ => None,
        }
    }

    /// How many times the refresh has failed since it last succeeded, including this failure. Zero
    /// in events that are not failures.
    pub fn failures_in_a_row(&self) -> u32 {
        match &self.stage {
            Stage::Failed { failures_in_a_row, .. } => *failures_in_a_row,
            _ => 0,
        }
    }
}
