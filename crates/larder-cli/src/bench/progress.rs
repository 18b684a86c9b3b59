//! [`Progress`]: how far it is.

use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is written where there is no terminal. What ends before that needs none.
const EVERY: Duration = Duration::from_secs(10);

/// On standard error, so that the report on standard output stays clean: a bar on a terminal, and
/// elsewhere, such as in the log of a CI, a line now and then.
pub(super) enum Progress {
    Bar(ProgressBar),
    Lines { what: String, all: u64, told: Mutex<Instant> },
}

impl Progress {
    /// Begins something of which so much is to be done; of 0, nobody knows how much.
    pub(super) fn begin(what: &str, all: u64) -> Progress {
        if !stderr().is_terminal() {
            let told = Mutex::new(Instant::now());
            return Progress::Lines { what: what.to_owned(), all, told };
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
        Progress::Bar(bar)
    }

    pub(super) fn at(&self, done: u64, message: impl Into<String>) {
        match self {
            Progress::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(message.into());
            }
            Progress::Lines { what, all, told } => {
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.elapsed() >= EVERY {
                    *told = Instant::now();
                    anstream::eprintln!("{}", line(what, done, *all, &message.into()));
                }
            }
        }
    }
}

fn line(what: &str, done: u64, all: u64, message: &str) -> String {
    let part = match all {
        0 => String::new(),
        all => format!(" {} %", 100 * done.min(all) / all),
    };
    let message = if message.is_empty() { String::new() } else { format!(", {message}") };
    format!("{what}:{part}{message}").replace(":,", ":")
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_what_and_how_far() {
        assert_eq!(line("sweep", 1, 3, ""), "sweep: 33 %");
        assert_eq!(line("both", 7, 4, "9 reads/s"), "both: 100 %, 9 reads/s");
        assert_eq!(line("warming", 7, 0, "12 keys"), "warming: 12 keys");
    }
}
