//! [`CheckReport`]: what a check found out about the views before a refresh fails.

use std::fmt;
use std::sync::Arc;

use crate::refresh::postgres::Finding;

/// The findings of [`Refresher::check`](crate::refresh::Refresher::check). Its `Display` is for
/// people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    pub(super) views: Vec<ViewCheck>,
}

/// The findings about one view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewCheck {
    pub(super) view: Arc<str>,
    pub(super) findings: Vec<Finding>,
}

impl CheckReport {
    /// Each view, in the order in which the views were added.
    pub fn views(&self) -> &[ViewCheck] {
        &self.views
    }

    /// Whether every view can be refreshed.
    pub fn is_ok(&self) -> bool {
        self.views.iter().all(ViewCheck::is_ok)
    }
}

impl ViewCheck {
    /// The name of the view, as given to the refresher.
    pub fn view(&self) -> &str {
        &self.view
    }

    /// The findings; empty if there are none.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether the view can be refreshed.
    pub fn is_ok(&self) -> bool {
        !self.findings.iter().any(|finding| finding.kind().is_fatal())
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, view) in self.views.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{view}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ViewCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.is_ok(), self.findings.is_empty()) {
            (_, true) => "ok",
            (true, false) => "can be refreshed",
            (false, _) => "cannot be refreshed",
        };
        write!(f, "{}: {verdict}", self.view)?;
        self.findings.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}
