//! [`Outcomes`]: what came of the refreshes, told one by one or all at the end.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::steps;
use crate::failure::{Failure, counted, with_sources};
use crate::text::{self, BOLD, RESET, paragraph, print, width};
use larder::refresh::{PlannedView, RefreshError, RefreshOutcome, RefreshPlan, RefreshReport};

/// What is printed of them.
pub(super) struct Outcomes {
    json: bool,
    left_out: Vec<(String, String)>,
    notes: Vec<String>,
    views: Vec<Value>,
    refreshed: usize,
    failed: usize,
}

impl Outcomes {
    pub(super) fn new(json: bool, left_out: Vec<(String, String)>) -> Outcomes {
        Outcomes { json, left_out, notes: vec![], views: vec![], refreshed: 0, failed: 0 }
    }

    pub(super) fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }

    pub(super) fn plan(&self, plan: &RefreshPlan) -> Result<(), Failure> {
        if !self.json {
            return print(&(steps(plan, width()) + &self.about_left_out()));
        }
        let view = |view: &PlannedView| {
            let after: Vec<&str> = view.after().collect();
            json!({ "view": view.name(), "after": after, "exists": view.exists() })
        };
        let steps: Vec<Value> = plan.steps().map(|step| step.iter().map(view).collect()).collect();
        text::print_json(&json!({ "steps": steps, "left_out": self.left_out_json() }))
    }

    /// Of one view.
    pub(super) fn add(
        &mut self,
        name: &str,
        outcome: Result<RefreshReport, RefreshError>,
    ) -> Result<(), Failure> {
        let (colour, word, mut text) = match &outcome {
            Ok(report) if report.rows().is_some() => {
                self.refreshed += 1;
                let took = text::duration(report.duration());
                ("\x1b[32m", "ok", format!("{name}: {}, in {took}", report.outcome()))
            }
            Ok(report) => ("\x1b[36m", "skipped", format!("{name}: {}", report.outcome())),
            Err(error) => {
                self.failed += 1;
                ("\x1b[1;31m", "failed", without_sql(error))
            }
        };
        let warnings: Vec<String> = match &outcome {
            Ok(report) => report.warnings().to_vec(),
            Err(_) => vec![],
        };
        warnings.iter().for_each(|warning| text.push_str(&format!("\nwarning: {warning}")));
        if self.json {
            self.views.push(as_json(name, &outcome, &warnings));
            return Ok(());
        }
        let first = format!("{colour}{word:<7}{RESET}  ");
        let mut out = paragraph(&first, 9, &text, width()) + "\n";
        for sql in mends(&outcome) {
            // Not wrapped: it is to be copied.
            out.push_str(&format!("           {BOLD}{sql}{RESET}\n"));
        }
        print(&out)
    }

    pub(super) fn end(self) -> Result<ExitCode, Failure> {
        let code = ExitCode::from(u8::from(self.failed > 0));
        if self.json {
            text::print_json(&json!({
                "views": self.views,
                "left_out": self.left_out_json(),
                "notes": self.notes,
            }))?;
            return Ok(code);
        }
        let mut out = self.about_left_out();
        for note in &self.notes {
            out.push_str(&(paragraph("note     ", 9, note, width()) + "\n"));
        }
        out.push_str(&format!("\n{} refreshed", counted(self.refreshed, "view")));
        if self.failed > 0 {
            out.push_str(&format!(", {} failed", self.failed));
        }
        print(&(out + "\n"))?;
        Ok(code)
    }

    fn about_left_out(&self) -> String {
        let line = |(name, why): &(String, String)| {
            paragraph("left out ", 9, &format!("{name}: {why}"), width()) + "\n"
        };
        self.left_out.iter().map(line).collect()
    }

    fn left_out_json(&self) -> Value {
        let left_out = self.left_out.iter();
        left_out.map(|(view, why)| json!({ "view": view, "why": why })).collect()
    }
}

fn mends(outcome: &Result<RefreshReport, RefreshError>) -> Vec<&str> {
    let findings = outcome.as_ref().err().map_or(&[][..], RefreshError::findings);
    findings.iter().flat_map(|finding| finding.mending_sql()).map(String::as_str).collect()
}

/// The error without the SQL that mends it, which has lines of its own.
fn without_sql(error: &RefreshError) -> String {
    if error.findings().is_empty() {
        return with_sources(error);
    }
    let mut text = error.to_string();
    for sql in error.findings().iter().flat_map(|finding| finding.mending_sql()) {
        text = text.replace(&format!("\n    {sql}"), "");
    }
    text.replace("\n  ", "\n")
}

fn as_json(
    name: &str,
    outcome: &Result<RefreshReport, RefreshError>,
    warnings: &[String],
) -> Value {
    match outcome {
        Ok(report) => {
            let rows = report.rows();
            json!({
                "view": name,
                "outcome": match report.outcome() {
                    RefreshOutcome::Refreshed(_) => "refreshed",
                    _ => "skipped",
                },
                "text": report.outcome().to_string(),
                "changed": report.changed(),
                "inserted": rows.map(|rows| rows.inserted),
                "updated": rows.map(|rows| rows.updated),
                "deleted": rows.map(|rows| rows.deleted),
                "plain": rows.map(|rows| rows.plain),
                "seconds": report.duration().as_secs_f64(),
                "warnings": warnings,
            })
        }
        Err(error) => json!({
            "view": name,
            "outcome": "failed",
            "text": without_sql(error),
            "sqlstate": error.sqlstate().map(tokio_postgres::error::SqlState::code),
            "run": mends(outcome),
        }),
    }
}
