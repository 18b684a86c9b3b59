//! How far the loading is: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shows one phase of the loading at a time, on standard error: the report
/// on standard output stays clean.
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
