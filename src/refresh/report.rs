//! [`RefreshReport`]: what came of one refresh.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What came of one attempt to refresh a view.
#[derive(Debug, Clone)]
pub struct RefreshReport {
    pub(crate) view: Arc<str>,
    pub(crate) started: SystemTime,
    pub(crate) duration: Duration,
    pub(crate) outcome: RefreshOutcome,
    pub(crate) warnings: Vec<String>,
}

/// Whether a view was refreshed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefreshOutcome {
    /// It was, and these rows changed.
    Refreshed(RowChanges),
    /// It was not, and need not be.
    Skipped(SkipReason),
}

/// How many rows of a view a refresh changed.
///
/// `CONCURRENTLY` writes the difference: a row that changed is one deleted and one inserted. A plain
/// refresh writes all rows anew and cannot tell which of them changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RowChanges {
    /// Rows that were written.
    pub inserted: u64,
    /// Rows that were updated in place.
    pub updated: u64,
    /// Rows that were removed.
    pub deleted: u64,
    /// Whether it was refreshed without `CONCURRENTLY`: all rows are counted as inserted.
    pub plain: bool,
    /// Whether the server counts rows at all (`track_counts`). If not, all may have changed.
    pub counted: bool,
}

impl RowChanges {
    /// Whether results that read the view may be different now.
    pub fn any(&self) -> bool {
        self.plain || !self.counted || self.inserted + self.updated + self.deleted > 0
    }
}

/// Why a view was not refreshed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// Another process, or another task of this one, is refreshing it at this moment.
    Busy {
        /// Which one, as far as PostgreSQL tells.
        holder: Option<String>,
    },
    /// Another process has refreshed it for this tick of the schedule.
    AlreadyDone,
    /// Nothing that it reads was written since its last refresh; see
    /// [`skip_unchanged`](crate::refresh::MaterializedView::skip_unchanged).
    Unchanged,
    /// A [`before_refresh`](crate::refresh::RefresherBuilder::before_refresh) hook said no, for this reason.
    Vetoed(String),
}

impl RefreshReport {
    /// The view, as it was named to the refresher.
    pub fn view(&self) -> &str {
        &self.view
    }

    /// When it began.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// How long it took, from the connection to the commit.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Whether it was refreshed, and how many rows changed, or why not.
    pub fn outcome(&self) -> &RefreshOutcome {
        &self.outcome
    }

    /// The rows that changed, if it was refreshed.
    pub fn rows(&self) -> Option<RowChanges> {
        match &self.outcome {
            RefreshOutcome::Refreshed(rows) => Some(*rows),
            RefreshOutcome::Skipped(_) => None,
        }
    }

    /// Whether it was refreshed and rows changed, so that cached results were made stale.
    pub fn changed(&self) -> bool {
        self.rows().is_some_and(|rows| rows.any())
    }

    /// What went wrong beside the refresh, which took place all the same: an `ANALYZE` that failed,
    /// an invalidation that Redis has not acknowledged yet.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl fmt::Display for RefreshReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.view, self.outcome)?;
        if let RefreshOutcome::Refreshed(_) = self.outcome {
            write!(f, ", in {:.1?}", self.duration)?;
        }
        self.warnings.iter().try_for_each(|warning| write!(f, "; {warning}"))
    }
}

impl fmt::Display for RefreshOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefreshOutcome::Refreshed(rows) => write!(f, "refreshed, {rows}"),
            RefreshOutcome::Skipped(reason) => write!(f, "not refreshed: {reason}"),
        }
    }
}

impl fmt::Display for RowChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowChanges { counted: false, .. } => f.write_str("all rows may have changed"),
            RowChanges { plain: true, .. } => write!(f, "all {} rows written", self.inserted),
            rows if !rows.any() => f.write_str("no row changed"),
            RowChanges { inserted, updated: 0, deleted, .. } => {
                write!(f, "{inserted} rows inserted, {deleted} deleted")
            }
            RowChanges { inserted, updated, deleted, .. } => {
                write!(f, "{inserted} rows inserted, {updated} updated, {deleted} deleted")
            }
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SkipReason::Busy { holder: Some(holder) } => write!(f, "{holder} is refreshing it"),
            SkipReason::Busy { holder: None } => f.write_str("somebody else is refreshing it"),
            SkipReason::AlreadyDone => f.write_str("another process has done so for this tick"),
            SkipReason::Unchanged => f.write_str("nothing that it reads was written"),
            SkipReason::Vetoed(reason) => write!(f, "a hook vetoed it: {reason}"),
        }
    }
}
