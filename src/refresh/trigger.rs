//! [`Trigger`]: why a view is refreshed, and how certain it must be before a refresh is skipped.

use std::time::SystemTime;

use crate::refresh::postgres::state::ViewVersion;
use crate::refresh::postgres::writes::UnreportedSession;

/// Why a view is to be refreshed.
#[derive(Debug, Clone)]
pub(super) enum Trigger {
    /// A tick of its schedule.
    Tick {
        tick: SystemTime,
        /// The version of the view from well before the tick.
        before: Option<ViewVersion>,
        patience: Patience,
    },
    /// A request to refresh all views, except those that are certainly unchanged.
    Round,
    /// A request to refresh this view.
    Asked,
}

impl Trigger {
    /// The pending reports so far, if the refresh is to be skipped once there are none. `None` if
    /// it is not to be skipped.
    pub(super) fn patience(&self) -> Option<Option<PendingReports>> {
        match self {
            Trigger::Tick { patience: Patience::Waiting(pending), .. } => Some(pending.clone()),
            Trigger::Round => Some(None),
            Trigger::Tick { patience: Patience::Over, .. } | Trigger::Asked => None,
        }
    }
}

/// Whether to wait for certainty that nothing was written.
#[derive(Debug, Clone)]
pub(super) enum Patience {
    /// There is time to examine the sources again.
    Waiting(Option<PendingReports>),
    /// The time has passed: any doubt means a refresh.
    Over,
}

/// Some sessions may have writes that they have not reported.
#[derive(Debug, Clone)]
pub(super) struct PendingReports {
    /// When this was first examined, by PostgreSQL's clock: microseconds since 1970.
    pub(super) first: i64,
    /// The sessions that still may have unreported writes from before `first`. `None` until idle
    /// sessions have had the time to report.
    pub(super) unreported: Option<Vec<UnreportedSession>>,
}

impl PendingReports {
    /// Whether the sessions had the time to report, and were busy instead.
    pub(super) fn is_late(&self) -> bool {
        self.unreported.is_some()
    }
}
