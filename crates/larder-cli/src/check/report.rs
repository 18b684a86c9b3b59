//! [`Report`]: all findings, for people and for machines.

use std::fmt::Write;

use serde::Serialize;

use crate::failure::{Failure, counted};
use crate::text::{self, BOLD, RESET};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    Ok,
    Note,
    Warning,
    Error,
}

/// What was found about one thing.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    severity: Severity,
    area: &'static str,
    what: String,
    /// What to do, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// What to run: SQL, or a command for Redis.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    run: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    findings: Vec<Finding>,
    left_out: Vec<String>,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Severity::Ok => "\x1b[32m",
            Severity::Note => "\x1b[36m",
            Severity::Warning => "\x1b[33m",
            Severity::Error => "\x1b[1;31m",
        }
    }
}

impl Finding {
    pub(super) fn advise(&mut self, advice: impl Into<String>) -> &mut Finding {
        self.advice = Some(advice.into());
        self
    }

    pub(super) fn run(&mut self, command: impl Into<String>) -> &mut Finding {
        self.run.push(command.into());
        self
    }
}

impl Report {
    pub(super) fn add(
        &mut self,
        area: &'static str,
        severity: Severity,
        what: impl Into<String>,
    ) -> &mut Finding {
        let finding = Finding { severity, area, what: what.into(), advice: None, run: vec![] };
        self.findings.push(finding);
        self.findings.last_mut().expect("one was pushed")
    }

    pub(super) fn leave_out(&mut self, what: impl Into<String>) {
        self.left_out.push(what.into());
    }

    pub(super) fn worst(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
    }

    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        if json { text::print_json(self) } else { text::print(&self.text(text::width())) }
    }

    fn text(&self, width: usize) -> String {
        let (mut out, mut area) = (String::new(), "");
        for finding in &self.findings {
            if finding.area != area {
                let blank = if area.is_empty() { "" } else { "\n" };
                area = finding.area;
                let _ = writeln!(out, "{blank}{BOLD}{area}{RESET}");
            }
            finding.text(&mut out, width);
        }
        if !self.left_out.is_empty() {
            let _ = writeln!(out, "\n{BOLD}left out{RESET}");
            for what in &self.left_out {
                let _ = writeln!(out, "{}", text::paragraph("  ", 2, what, width));
            }
        }
        let count =
            |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let _ = writeln!(out, "\n{}, {}", counted(errors, "error"), counted(warnings, "warning"));
        out
    }
}

impl Finding {
    fn text(&self, out: &mut String, width: usize) {
        let (word, colour) = (self.severity.word(), self.severity.colour());
        let first = format!("  {colour}{word:<7}{RESET}  ");
        let _ = writeln!(out, "{}", text::paragraph(&first, 11, &self.what, width));
        if let Some(advice) = &self.advice {
            let _ = writeln!(out, "{}", text::paragraph("           ", 11, advice, width));
        }
        for command in &self.run {
            // Not wrapped: it is to be copied.
            let _ = writeln!(out, "             {BOLD}{command}{RESET}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_by_area_wrapped_and_its_commands_are_whole() {
        let mut report = Report::default();
        report.add("Redis", Severity::Ok, "version 7.0.15");
        let command = "ACL SETUSER cache +zadd +zrangebyscore +persist";
        let what = "the user cache lacks three rights that the protocol needs";
        report.add("Redis", Severity::Error, what).run(command);
        report.leave_out("PostgreSQL: not given");
        let text = report.text(40);
        assert_eq!(text.matches("Redis").count(), 1, "{text}");
        assert!(text.contains(command) && text.contains("1 error, 0 warnings"), "{text}");
        assert!(text.contains("left out"), "{text}");
        assert_eq!(report.worst(), Severity::Error);
    }
}
