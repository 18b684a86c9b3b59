//! [`Failure`]: why the command could not do what it was asked, and the exit codes.

use std::error::Error;
use std::process::ExitCode;

/// Documented with `--help` and in the man page.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    done, and nothing to complain about
  1    it was done, and something is wrong: `check` has a finding that must be mended, a refresh
       failed, `explain` has a query that cannot be followed, a benchmark served what it must
       not serve
  2    the arguments, the environment or the configuration file ask for what cannot be
  3    a server could not be reached, or refuses
  4    anything else, such as a file that cannot be written
  130  ended by Ctrl-C; `bench` has reported on what it had done by then, `refresh` has cancelled
       what it had not";

/// A message for whoever typed the command, and the exit code that goes with it.
#[derive(Debug)]
pub(super) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// What was asked for cannot be.
    pub(super) fn usage(message: impl Into<String>) -> Failure {
        Failure { code: 2, message: message.into() }
    }

    /// A server does not answer, or refuses.
    pub(super) fn server(message: impl Into<String>) -> Failure {
        Failure { code: 3, message: message.into() }
    }

    pub(super) fn other(message: impl Into<String>) -> Failure {
        Failure { code: 4, message: message.into() }
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn report(&self) -> ExitCode {
        anstream::eprintln!("\x1b[1;31merror:\x1b[0m {}", self.message);
        ExitCode::from(self.code)
    }
}

/// An error with all that lies under it, on one line.
pub(super) fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let line = source.to_string();
        // Many errors say what their source says.
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        next = source.source();
    }
    text
}

/// `12` and `tag`, or `tags`.
pub(super) fn counted(number: usize, what: &str) -> String {
    format!("{number} {}", plural(number as u64, what))
}

/// The noun for so many of it.
pub(super) fn plural(number: u64, what: &str) -> String {
    match what.strip_suffix('y') {
        _ if number == 1 => what.to_owned(),
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
        None if what.ends_with('s') => format!("{what}es"),
        _ => format!("{what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_once() {
        let inner = std::io::Error::other("the disk is full");
        let outer = std::io::Error::other(format!("cannot write: {inner}"));
        assert_eq!(with_sources(&outer), "cannot write: the disk is full");
        assert_eq!(counted(1, "tag"), "1 tag");
        assert_eq!(counted(2, "tag"), "2 tags");
        assert_eq!(plural(2, "key"), "keys");
        assert_eq!((plural(1, "query"), plural(0, "query")), ("query".into(), "queries".into()));
        assert_eq!(
            (plural(1, "process"), plural(9, "process")),
            ("process".into(), "processes".into())
        );
    }
}
