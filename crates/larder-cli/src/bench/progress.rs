//! [`Progress`]: how far it is, on a terminal.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error, so that the report on standard output stays clean; nothing where that is
/// no terminal.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Begins something of which so much is to be done; of 0, nobody knows how much.
    pub(super) fn begin(what: &str, all: u64) -> Progress {
        if !stderr().is_terminal() {
            return Progress(ProgressBar::hidden());
        }
        let template = match all {
            0 => "{prefix} {spinner} {wide_msg}",
            _ => "{prefix} [{bar:20}] {percent:>3}% {wide_msg}",
        };
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::new(all).with_style(style).with_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress(bar)
    }

    pub(super) fn at(&self, done: u64, message: impl Into<String>) {
        self.0.set_position(done);
        self.0.set_message(message.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
