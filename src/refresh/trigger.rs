//! [`Trigger`]: why a view is refreshed, and how sure to be that it need not be.

use std::time::SystemTime;

use crate::refresh::postgres::state::ViewVersion;
use crate::refresh::postgres::writes::UnreportedSession;

/// Why a view is to be refreshed.
#[derive(Debug, Clone)]
pub(super) enum Trigger {
    /// A tick of its schedule.
    Tick {
        tick: SystemTime,
        /// The state that the view was in well before.
        before: Option<ViewVersion>,
        patience: Patience,
    },
    /// Somebody asked for all views: what is surely unchanged need not be refreshed.
    Round,
    /// Somebody asked for this one.
    Asked,
}

impl Trigger {
    /// The doubt so far, if it need not be refreshed when there is none any more.
    pub(super) fn patience(&self) -> Option<Option<PendingReports>> {
        match self {
            Trigger::Tick { patience: Patience::Waiting(pending), .. } => Some(pending.clone()),
            Trigger::Round => Some(None),
            Trigger::Tick { patience: Patience::Over, .. } | Trigger::Asked => None,
        }
    }
}

/// How sure to be that nothing was written.
#[derive(Debug, Clone)]
pub(super) enum Patience {
    /// There is time to ask again.
    Waiting(Option<PendingReports>),
    /// It was long enough: any doubt means a refresh.
    Over,
}

/// Sessions may have written what they have not reported.
#[derive(Debug, Clone)]
pub(super) struct PendingReports {
    /// When this was first asked, by PostgreSQL's clock.
    pub(super) first: i64,
    /// Those that still may, of what they wrote before that, after the time in which idle ones
    /// report.
    pub(super) unreported: Option<Vec<UnreportedSession>>,
}

impl PendingReports {
    /// Whether it is about sessions that had the time to report, and were busy instead.
    pub(super) fn is_late(&self) -> bool {
        self.unreported.is_some()
    }
}
