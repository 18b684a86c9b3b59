//! [`RefreshReport`]: the outcome of one refresh.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The outcome of one attempt to refresh a view.
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
    /// The view was refreshed, and these rows changed.
    Refreshed(RowChanges),
    /// The view was not refreshed, for a reason that is not an error.
    Skipped(SkipReason),
}

/// How many rows of a view a refresh changed.
///
/// `CONCURRENTLY` writes the difference: a changed row counts as one deleted and one inserted. A
/// plain refresh rewrites all rows, and cannot determine which of them changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RowChanges {
    /// Rows that were written.
    pub inserted: u64,
    /// Rows that were updated in place.
    pub updated: u64,
    /// Rows that were removed.
    pub deleted: u64,
    /// Whether the view was refreshed without `CONCURRENTLY`. Then all rows count as inserted.
    pub plain: bool,
    /// Whether the server counts rows (`track_counts`). If not, all rows may have changed.
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
    /// Another process, or another task of this one, is refreshing the view at this moment.
    Busy {
        /// Which process, as far as PostgreSQL shows it.
        holder: Option<String>,
    },
    /// Another process has refreshed the view for this tick of the schedule.
    AlreadyDone,
    /// Nothing that the view reads was written since its last refresh; see
    /// [`skip_unchanged`](crate::refresh::MaterializedView::skip_unchanged).
    Unchanged,
    /// A [`before_refresh`](crate::refresh::RefresherBuilder::before_refresh) hook vetoed the
    /// refresh, for this reason.
    Vetoed(String),
}

impl RefreshReport {
    /// The name of the view, as given to the refresher.
    pub fn view(&self) -> &str {
        &self.view
    }

    /// When the attempt began.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// How long the attempt took, from opening the connection to the commit.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Whether the view was refreshed, and how many rows changed, or why it was not refreshed.
    pub fn outcome(&self) -> &RefreshOutcome {
        &self.outcome
    }

    /// The rows that changed, if the view was refreshed.
    pub fn rows(&self) -> Option<RowChanges> {
        match &self.outcome {
            RefreshOutcome::Refreshed(rows) => Some(*rows),
            RefreshOutcome::Skipped(_) => None,
        }
    }

    /// Whether the view was refreshed and rows changed, so that cached results were made stale.
    pub fn changed(&self) -> bool {
        self.rows().is_some_and(|rows| rows.any())
    }

    /// Problems that did not prevent the refresh: an `ANALYZE` that failed, or an invalidation that
    /// Redis has not acknowledged yet.
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
            RowChanges { plain: true, .. } => write!(f, "all {} written", rows(self.inserted)),
            rows if !rows.any() => f.write_str("no row changed"),
            RowChanges { inserted, updated: 0, deleted, .. } => {
                write!(f, "{} inserted, {deleted} deleted", rows(*inserted))
            }
            RowChanges { inserted, updated, deleted, .. } => {
                let inserted = rows(*inserted);
                write!(f, "{inserted} inserted, {updated} updated, {deleted} deleted")
            }
        }
    }
}

fn rows(number: u64) -> String {
    format!("{number} row{}", if number == 1 { "" } else { "s" })
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
