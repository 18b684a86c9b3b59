//! How far it is: a bar on a terminal, or lines that change; plain lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A line that is longer would be broken in two, and only one of them drawn over.
const WIDTH: usize = 79;

/// Shows one phase at a time, on standard error: the report on standard output stays clean.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    plain: bool,
}

impl Progress {
    /// Begins a phase that counts rows and knows about how many will come.
    pub(crate) fn rows(what: &'static str, expected: u64) -> Self {
        Self::begin(what, expected, "{msg:24} [{bar:24}] {human_pos} rows {per_sec}")
    }

    /// Begins a phase that counts steps.
    pub(crate) fn steps(what: &'static str, expected: u64) -> Self {
        Self::begin(what, expected, "{msg:24} [{bar:24}] {pos} of {len}")
    }

    /// Begins a phase that shows how things stand, in lines of its own.
    pub(crate) fn live(what: &'static str) -> Self {
        let live = Self::begin(what, 0, "{msg}");
        if !live.plain {
            live.stays(&format!("\n{what} ..."));
        }
        live
    }

    fn begin(what: &'static str, expected: u64, template: &str) -> Self {
        let plain = !stderr().is_terminal();
        if plain {
            eprintln!("{what} ...");
            return Self { bar: ProgressBar::hidden(), plain };
        }
        let bar = ProgressBar::new(expected);
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        bar.set_style(style);
        bar.set_message(what);
        // Building an index reports nothing for a while; the bar still shows
        // that something lives.
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, plain }
    }

    pub(crate) fn advance(&self, by: u64) {
        self.bar.inc(by);
    }

    /// How things stand now. Where nothing can be drawn over, nothing is shown.
    pub(crate) fn show(&self, now: &[String]) {
        let lines: Vec<String> =
            now.iter().map(|line| line.chars().take(WIDTH).collect()).collect();
        self.bar.set_message(lines.join("\n"));
    }

    /// A line that stays, above what changes.
    pub(crate) fn stays(&self, line: &str) {
        if self.plain { eprintln!("{line}") } else { self.bar.println(line) }
    }

    /// Ends the phase with a line that stays.
    pub(crate) fn done(&self, line: &str) {
        self.end();
        let indent = if self.plain { "  " } else { "" };
        eprintln!("{indent}{line}");
    }

    /// Ends the phase.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
