//! Reports what a refresher does as spans, events and metrics.

use std::time::Duration;

use super::check::CheckReport;
use super::hook::HookFailure;
use super::report::{RefreshOutcome, RefreshReport};
use crate::refresh::postgres::{Finding, RefreshError};
use crate::telemetry::{metrics, trace};

/// Reports an attempt to refresh a view that ended without a failure.
pub(super) fn refreshed(report: &RefreshReport) {
    let (view, outcome) = (report.view(), report.outcome());
    match outcome {
        RefreshOutcome::Refreshed(_) => {
            trace::refreshed(view, report.duration(), outcome);
            metrics::refreshed(view, "refreshed", Some(report.duration()));
        }
        RefreshOutcome::Skipped(_) => {
            trace::refresh_skipped(view, outcome);
            metrics::refreshed(view, "skipped", None);
        }
    }
    for warning in report.warnings() {
        trace::refresh_warning(view, warning);
    }
}

/// Reports a failed attempt to refresh a view, with the number of failures in a row.
pub(super) fn failed(error: &RefreshError, failures: u32, took: Duration) {
    trace::refresh_failed(error.view(), error, failures);
    metrics::refreshed(error.view(), "failed", Some(took));
}

/// Reports a failed hook.
pub(super) fn hook_failed(view: &str, failure: &HookFailure) {
    trace::hook_failed(view, failure);
    metrics::hook_failed(view);
}

/// Reports a refresh that this process detected and no process had announced.
pub(super) fn noticed(view: &str) {
    trace::noticed(view);
    metrics::noticed(view);
}

/// Reports that notifications of the event trigger are not received.
pub(super) fn not_listening(why: &Finding) {
    trace::not_listening(&why.message());
}

/// Reports the findings of a check.
pub(super) fn found(report: &CheckReport) {
    for check in report.views() {
        for finding in check.findings() {
            trace::finding(check.view(), finding, finding.kind().is_fatal());
        }
    }
}
