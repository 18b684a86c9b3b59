//! Reports what a refresher does as spans, events and metrics.

use std::time::{Duration, SystemTime};

use super::check::CheckReport;
use super::hook::HookFailure;
use super::report::{RefreshOutcome, RefreshReport, SkipReason};
use crate::refresh::postgres::{Finding, RefreshError};
use crate::telemetry::metrics::Namespaces;
use crate::telemetry::trace;

/// Reports an attempt to refresh a view that ended without a failure.
pub(super) fn refreshed(of: &Namespaces, report: &RefreshReport) {
    let (view, outcome) = (report.view(), report.outcome());
    let ended = report.started() + report.duration();
    match outcome {
        RefreshOutcome::Refreshed(_) => {
            trace::refreshed(view, report.duration(), outcome);
            of.refreshed(view, "refreshed", Some(report.duration()));
            of.fresh(view, ended);
        }
        RefreshOutcome::Skipped(reason) => {
            trace::refresh_skipped(view, outcome);
            of.refreshed(view, "skipped", None);
            if *reason == SkipReason::Unchanged {
                of.fresh(view, ended);
            }
        }
    }
    for warning in report.warnings() {
        trace::refresh_warning(view, warning);
    }
}

/// Reports a failed attempt to refresh a view, with the number of failures in a row.
pub(super) fn failed(of: &Namespaces, error: &RefreshError, failures: u32, took: Duration) {
    trace::refresh_failed(error.view(), error, failures);
    of.refreshed(error.view(), "failed", Some(took));
}

/// Reports a failed hook.
pub(super) fn hook_failed(of: &Namespaces, view: &str, failure: &HookFailure) {
    trace::hook_failed(view, failure);
    of.hook_failed(view);
}

/// Reports a refresh that this process detected and no process had announced.
pub(super) fn noticed(of: &Namespaces, view: &str) {
    trace::noticed(view);
    of.noticed(view);
}

/// Reports that the view was seen in a version that was not there before, or for the first time:
/// what is older than this process is not known to be older than its beginning.
pub(super) fn seen(of: &Namespaces, view: &str, at: SystemTime) {
    of.fresh(view, at);
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
