//! Another process of ours, for tests that need several.
//!
//! A test binary has no other program to run, so it runs itself, as one test
//! that returns at once unless it is a worker:
//!
//! ```text
//! #[test]
//! fn worker_that_answers() {
//!     let Some(lines) = worker::parent_lines() else { return };
//!     for line in lines {
//!         worker::say(&format!("got {line}"));
//!     }
//! }
//!
//! #[test]
//! fn another_process_answers() {
//!     let mut worker = Worker::start("this_module::worker_that_answers", &[]).unwrap();
//!     worker.send("hello").unwrap();
//!     assert_eq!(worker.next_line(PATIENCE).unwrap(), "got hello");
//! }
//! ```
//!
//! Both sides send lines. Those of the child have a prefix, because libtest
//! prints lines of its own.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::guard::{Directory, Process, state};
use super::{PATIENCE, ServerError, wait_for};

/// The variable that makes a process a worker. Its value is the kind.
const VARIABLE: &str = "LARDER_WORKER";

/// The parent of a test waits for a [`HELLO`]. A program need not send one: it
/// may not use this module.
const TEST: &str = "test";
const PROGRAM: &str = "program";

/// The beginning of each line of the child.
const PREFIX: &str = "@ ";

/// The first line of a child that is a test.
const HELLO: &str = "worker";

/// A process that ends with this one, however this one ends, and also while it
/// is paused.
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
    /// called [`parent_lines`]. The name is that of `--exact`:
    /// `module::function`. An ignored test is run as well.
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
            Ok(other) => Err(failed(&format!("it sent {other:?} before parent_lines()"))),
            Err(error) => Err(failed(&format!("no such test, or no worker: {error}"))),
        }
    }

    /// Runs a program in another process. All lines of its output count, with
    /// and without the prefix, except empty ones.
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

    /// The process id. After the end of the worker it is that of the dead process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends a line to the process.
    pub fn send(&mut self, line: &str) -> Result<(), ServerError> {
        assert!(!line.contains('\n'), "not one line: {line:?}");
        let said = match &mut self.input {
            Some(input) => input.write_all(format!("{line}\n").as_bytes()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        said.map_err(|error| {
            let attempt = format!("send {line:?} to the process {}", self.pid());
            ServerError::new(format!("{attempt}: {error}{}", self.process.log()))
        })
    }

    /// The next line from the process. It waits for one to arrive.
    ///
    /// # Errors
    ///
    /// When no line arrives in this time, or the process ends without one.
    pub fn next_line(&mut self, patience: Duration) -> Result<String, ServerError> {
        self.lines.recv_timeout(patience).map_err(|error| {
            let why = match error {
                RecvTimeoutError::Timeout => format!("no line within {patience:?}"),
                RecvTimeoutError::Disconnected => match self.process.wait() {
                    Ok(status) => format!("its output has ended, and it exited with {status}"),
                    Err(error) => format!("its output has ended: {error}"),
                },
            };
            let attempt = format!("read a line of the process {}", self.pid());
            ServerError::new(format!("{attempt}: {why}{}", self.process.log()))
        })
    }

    /// The further lines of the process, until it ends. There is no time limit.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.lines.iter()
    }

    /// The lines that have arrived already.
    pub fn lines_so_far(&self) -> impl Iterator<Item = String> + '_ {
        self.lines.try_iter()
    }

    /// Suspends the process, with all its connections open, and waits until it
    /// is suspended.
    pub fn pause(&mut self) -> Result<(), ServerError> {
        self.process.signal("STOP")?;
        let pid = self.pid();
        wait_for(PATIENCE, || (state(pid) == Some('T')).then_some(()))
            .ok_or_else(|| ServerError::new(format!("pause the process {pid}: it does not stop")))
    }

    /// Resumes a paused process.
    pub fn resume(&mut self) -> Result<(), ServerError> {
        self.process.signal("CONT")
    }

    /// Kills the process, paused or not, and waits until it is dead. Its lines
    /// can still be read.
    pub fn kill(&mut self) -> Result<(), ServerError> {
        self.process.end()
    }

    /// Closes the process's input, and waits until the process has ended by
    /// itself. A test that failed ends without success.
    pub fn finish(&mut self) -> Result<ExitStatus, ServerError> {
        self.input = None;
        self.process.wait()
    }
}

/// Reads lines in a thread, so that to wait for one can have a time limit. The
/// thread ends with the output, which is closed when the process dies.
fn listen(
    output: ChildStdout,
    heard: impl Fn(&str) -> Option<String> + Send + 'static,
) -> Result<Receiver<String>, ServerError> {
    let (said, lines) = channel();
    let listener = move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        // To the end even when no line is wanted: a full pipe would block the
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
    spawned.map_err(|error| {
        ServerError::caused("start a thread that reads the lines of a worker", &error)
    })?;
    Ok(lines)
}

/// In a worker, the lines of its parent until the parent closes the input. In any
/// other process, `None`.
///
/// Call it once. When the parent dies this process is killed, so a wait for the
/// next line needs no time limit.
pub fn parent_lines() -> Option<impl Iterator<Item = String>> {
    if std::env::var_os(VARIABLE)? == TEST {
        say(HELLO);
    }
    Some(io::stdin().lines().map_while(Result::ok))
}

/// Sends a line to the parent of this worker.
///
/// A line end comes first, because libtest may have left a line unfinished.
/// Errors are ignored: a parent that no longer reads is about to kill us.
pub fn say(line: &str) {
    assert!(!line.contains('\n'), "not one line: {line:?}");
    let mut output = io::stdout().lock();
    let said = output.write_all(format!("\n{PREFIX}{line}\n").as_bytes());
    let _ = said.and_then(|()| output.flush());
}
