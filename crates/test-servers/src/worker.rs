//! Another process of ours: what only several processes show.
//!
//! A test binary has no other program to run, so it runs itself, as one test
//! that returns at once unless it is a worker:
//!
//! ```text
//! #[test]
//! fn worker_that_answers() {
//!     let Some(lines) = worker::parent_lines() else { return };
//!     for line in lines {
//!         worker::say(&format!("heard {line}"));
//!     }
//! }
//!
//! #[test]
//! fn another_process_answers() {
//!     let mut worker = Worker::start("this_module::worker_that_answers", &[]).unwrap();
//!     worker.send("hello").unwrap();
//!     assert_eq!(worker.next_line(PATIENCE).unwrap(), "heard hello");
//! }
//! ```
//!
//! Both sides say lines. The child's have a prefix, for libtest prints lines of
//! its own.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::guard::{Directory, Process, state};
use super::{PATIENCE, ServerError, wait_for};

/// Says that this process is a worker, and of which kind.
const VARIABLE: &str = "LARDER_WORKER";

/// The kind whose parent waits for a [`HELLO`]. A program is not asked for one:
/// it may know nothing of this.
const TEST: &str = "test";
const PROGRAM: &str = "program";

/// What the child's lines begin with.
const PREFIX: &str = "@ ";

/// What a child says when it has found out that it is one.
const HELLO: &str = "worker";

/// A process that does not outlive this one, in whatever way this one ends, and
/// paused or not.
#[derive(Debug)]
pub struct Worker {
    // Fields are dropped in this order: first the process, then its directory.
    process: Process,
    _directory: Directory,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Worker {
    /// Runs one test of this binary in another process, and waits until it has
    /// asked for its [`parent_lines`]. The name is that of `--exact`:
    /// `module::function`, where an ignored test will do too.
    pub fn start(test_name: &str, env: &[(&str, &str)]) -> Result<Self, ServerError> {
        let failed = |error: &dyn std::fmt::Display| {
            ServerError::new(format!("start a worker as the test {test_name}: {error}"))
        };
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let arguments = ["--exact", test_name, "--nocapture", "--include-ignored"];
        let env: Vec<_> = env.iter().copied().chain([(VARIABLE, TEST)]).collect();
        let heard = |line: &str| Some(line.strip_prefix(PREFIX)?.to_owned());
        let mut worker = Self::launch(&program, &arguments, &env, heard)?;
        match worker.next_line(PATIENCE) {
            Ok(hello) if hello == HELLO => Ok(worker),
            Ok(other) => Err(failed(&format!("it says {other:?} before parent_lines()"))),
            Err(error) => Err(failed(&format!("no such test, or no worker: {error}"))),
        }
    }

    /// Runs a program in another process. All lines of its output count, with
    /// and without the prefix, but not the empty ones.
    pub fn run(program: &Path, args: &[&str]) -> Result<Self, ServerError> {
        let heard = |line: &str| {
            let line = line.strip_prefix(PREFIX).unwrap_or(line);
            (!line.is_empty()).then(|| line.to_owned())
        };
        Self::launch(program, args, &[(VARIABLE, PROGRAM)], heard)
    }

    fn launch(
        program: &Path,
        arguments: &[&str],
        env: &[(&str, &str)],
        heard: impl Fn(&str) -> Option<String> + Send + 'static,
    ) -> Result<Self, ServerError> {
        let directory = Directory::new(&super::template::temporary())?;
        let (process, input, output) = Process::start_talking(program, arguments, env, &directory)?;
        let lines = listen(output, heard)?;
        Ok(Self { process, _directory: directory, input: Some(input), lines })
    }

    /// The process id; of a worker that is over, that of the dead.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Says a line to the process.
    pub fn send(&mut self, line: &str) -> Result<(), ServerError> {
        assert!(!line.contains('\n'), "not one line: {line:?}");
        let said = match &mut self.input {
            Some(input) => input.write_all(format!("{line}\n").as_bytes()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        said.map_err(|error| {
            let attempt = format!("say {line:?} to the process {}", self.pid());
            ServerError::new(format!("{attempt}: {error}{}", self.process.log()))
        })
    }

    /// The next line that the process says, or has said already.
    ///
    /// # Errors
    ///
    /// When there is none in this time, or the process has ended without one.
    pub fn next_line(&mut self, patience: Duration) -> Result<String, ServerError> {
        self.lines.recv_timeout(patience).map_err(|error| {
            let why = match error {
                RecvTimeoutError::Timeout => format!("nothing within {patience:?}"),
                RecvTimeoutError::Disconnected => match self.process.wait() {
                    Ok(status) => format!("it has said all, and ended with {status}"),
                    Err(error) => format!("it has said all: {error}"),
                },
            };
            let attempt = format!("listen to the process {}", self.pid());
            ServerError::new(format!("{attempt}: {why}{}", self.process.log()))
        })
    }

    /// The lines that it says from here on, until it has ended. There is no
    /// limit to the time that it takes.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.lines.iter()
    }

    /// The lines that it has said already.
    pub fn lines_so_far(&self) -> impl Iterator<Item = String> + '_ {
        self.lines.try_iter()
    }

    /// Stops the process in its tracks, with all its connections open, and
    /// waits until it stands still.
    pub fn pause(&mut self) -> Result<(), ServerError> {
        self.process.signal("STOP")?;
        let pid = self.pid();
        wait_for(PATIENCE, || (state(pid) == Some('T')).then_some(()))
            .ok_or_else(|| ServerError::new(format!("pause the process {pid}: it does not stop")))
    }

    /// Lets a paused process go on.
    pub fn resume(&mut self) -> Result<(), ServerError> {
        self.process.signal("CONT")
    }

    /// Kills the process, paused or not, and waits until it is dead. What it
    /// has said can still be heard.
    pub fn kill(&mut self) -> Result<(), ServerError> {
        self.process.end()
    }

    /// Has no more to say, and waits until the process has ended by itself:
    /// without success, if it is a test that failed.
    pub fn finish(&mut self) -> Result<ExitStatus, ServerError> {
        self.input = None;
        self.process.wait()
    }
}

/// Hears lines in a thread, so that nobody who waits for one waits forever. The
/// thread ends with the output, which a process takes along when it dies.
fn listen(
    output: ChildStdout,
    heard: impl Fn(&str) -> Option<String> + Send + 'static,
) -> Result<Receiver<String>, ServerError> {
    let (said, lines) = channel();
    let listener = move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        // To the end even when nobody listens: a full pipe would hold up the
        // process, which `finish` may be waiting for.
        while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line);
            if let Some(text) = heard(text.trim_end_matches(['\r', '\n'])) {
                let _ = said.send(text);
            }
            line.clear();
        }
    };
    let spawned = thread::Builder::new().name("worker".to_owned()).spawn(listener);
    spawned.map_err(|error| ServerError::caused("listen to a worker", &error))?;
    Ok(lines)
}

/// In a worker, what its parent says, until it has no more to say. In any other
/// process, `None`.
///
/// To be called once. When the parent dies this process is killed, so what the
/// lines are waited for with does not matter.
pub fn parent_lines() -> Option<impl Iterator<Item = String>> {
    if std::env::var_os(VARIABLE)? == TEST {
        say(HELLO);
    }
    Some(io::stdin().lines().map_while(Result::ok))
}

/// Says a line to the parent of this worker.
///
/// The line is begun anew, for libtest may have left one unfinished. A parent
/// that no longer listens is about to kill us.
pub fn say(line: &str) {
    assert!(!line.contains('\n'), "not one line: {line:?}");
    let mut output = io::stdout().lock();
    let said = output.write_all(format!("\n{PREFIX}{line}\n").as_bytes());
    let _ = said.and_then(|()| output.flush());
}
