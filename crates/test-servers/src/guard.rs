//! Nothing is left behind: no process, no directory.
//!
//! No destructor runs when a process is killed, and none runs for a `static`.
//! What does happen in every case is that the kernel closes the pipes of the
//! dead. So two shells, in process groups of their own where Ctrl-C does not
//! reach them, block on pipes that only this process writes to:
//!
//! ```text
//! this process ──lifeline──▶ watcher     at end of file: kills its server
//!      └────────keeper────┬▶ keeper sh   at end of file: removes the directory
//!      server, backends ──┘
//! ```
//!
//! The server and all that it forks inherit the keeper's pipe too, so its end
//! of file means that the last of them is gone, and the directory is removed
//! only then. `PR_SET_PDEATHSIG` would not do: it fires when the *thread* ends
//! that started the server, which in a test binary is one test of many.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, PipeWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::{PATIENCE, ServerError, wait_for};

/// Makes the directory, reports that, and removes it when no process needs it
/// any more.
///
/// It ignores `PIPE`: the reader of its report may have died.
const KEEPER: &str = r#"
trap '' HUP INT PIPE QUIT TERM
umask 077
exec 2>&1
mkdir "$1" || exit 1
echo ready
exec >/dev/null 2>&1
while read -r line; do :; done
rm -rf "$1"
"#;

/// Starts a watcher, then becomes the server.
///
/// The watcher is forked twice: a server must not find a child that it did not
/// start. It is forked before the server runs, so at no time is there a server
/// without one, and it knows the process id beforehand: `exec` keeps it. A line
/// instead of an end of file means that the process id is no longer ours.
///
/// A watcher ignores signals for one reason above all: when this process dies
/// while the server is stopped, the kernel sends `HUP` to their process group.
/// It sends its own signal before `CONT`, so that a stopped server runs no
/// further than to that signal.
///
/// A server that does not handle the signal yet may ignore it: programs that a
/// script starts in the background inherit that. Only `KILL` is certain then.
/// It does no harm, because the server has set nothing up.
const RUNNER: &str = r#"
ulimit -c 0
umask 077
signal=$1
handled=$2
shift 2
exec 3<&0 4>&1 </dev/null >&2
(
    trap '' HUP INT QUIT TERM
    (
        read -r reaped <&3 && exit
        [ -e "$handled" ] || signal=KILL
        kill -s "$signal" $$
        kill -s CONT $$
    ) 2>/dev/null 4>&- &
)
exec "$@" 3<&-
"#;

/// Starts the same watcher, then becomes a program whose standard input and
/// output are pipes of this process. The lifeline arrives as the standard error,
/// which is then the log.
const TALKER: &str = r#"
ulimit -c 0
exec 3<&2 2>"$1"
shift
(
    trap '' HUP INT QUIT TERM
    (
        read -r reaped <&3 && exit
        kill -s KILL $$
    ) </dev/null >/dev/null 2>&1 &
)
exec "$@" 3<&-
"#;

/// How a process is ended, for certain and at once.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending<'a> {
    Kill,
    /// By `QUIT`, which it handles from when this file exists.
    Quit(&'a Path),
}

/// A user to run a server as.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A directory that is removed with its owner, or when this process ends.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    keeper: Child,
    /// Open as long as the directory is needed; servers hold copies.
    hold: Option<PipeWriter>,
}

impl Directory {
    /// Makes a directory with a new name in `parent`, which only this user can read.
    pub(super) fn new(parent: &Path) -> Result<Self, ServerError> {
        let unique = RandomState::new().build_hasher().finish();
        let path = parent.join(format!("larder-{unique:016x}"));
        let attempt = format!("make the directory {}", path.display());
        let failed = |error: io::Error| ServerError::caused(&attempt, &error);

        let (end, hold) = io::pipe().map_err(failed)?;
        let (mut answer, said) = io::pipe().map_err(failed)?;
        let mut command = shell(KEEPER, "larder-keeper");
        command.arg(&path).stdin(end).stdout(said).stderr(Stdio::null());
        let keeper = command.spawn().map_err(failed)?;
        // The command holds our copy of the pipe's other end, without which
        // the reading below would never end.
        drop(command);

        let directory = Self { path, keeper, hold: Some(hold) };
        let mut said = String::new();
        answer.read_to_string(&mut said).map_err(failed)?;
        if said == "ready\n" {
            Ok(directory)
        } else {
            Err(ServerError::new(format!("{attempt}: {}", said.trim())))
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn hold(&self) -> io::Result<PipeWriter> {
        match &self.hold {
            Some(hold) => hold.try_clone(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.hold = None;
        // Past this time the keeper goes on alone.
        wait_for(Duration::from_secs(10), || self.keeper.try_wait().ok().flatten());
    }
}

/// A process that ends with this one.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    lifeline: Option<PipeWriter>,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in a file of `directory`.
    ///
    /// It runs as `account`, if one is given, which takes root.
    pub(super) fn start<S: AsRef<OsStr>>(
        program: &Path,
        arguments: &[S],
        directory: &Directory,
        ending: Ending<'_>,
        account: Option<Account>,
    ) -> Result<Self, ServerError> {
        let attempt = format!("start {}", program.display());
        let failed = |error: io::Error| ServerError::caused(&attempt, &error);
        let name = program.file_name().unwrap_or(program.as_os_str());
        let name = name.to_string_lossy().into_owned();
        let log = directory.path().join(format!("{name}.log"));

        let (end, lifeline) = io::pipe().map_err(failed)?;
        let (signal, handled) = match ending {
            Ending::Kill => ("KILL", Path::new("/")),
            Ending::Quit(handled) => ("QUIT", handled),
        };
        let mut command = shell(RUNNER, "larder-runner");
        command
            .arg(signal)
            .arg(handled)
            .arg(program)
            .args(arguments)
            .stdin(end)
            .stdout(directory.hold().map_err(failed)?)
            .stderr(File::create(&log).map_err(failed)?);
        if let Some(account) = account {
            command.gid(account.gid).uid(account.uid);
        }
        let child = command.spawn().map_err(failed)?;
        Ok(Self { name, child, lifeline: Some(lifeline), log })
    }

    /// Starts a program whose standard input and output are ours, with its
    /// errors in a file of `directory`. Unlike a server it has our environment
    /// and working directory, and does not keep its own from being removed.
    pub(super) fn start_talking<S: AsRef<OsStr>>(
        program: &Path,
        arguments: &[S],
        environment: &[(&str, &str)],
        directory: &Directory,
    ) -> Result<(Self, ChildStdin, ChildStdout), ServerError> {
        let attempt = format!("start {}", program.display());
        let failed = |error: io::Error| ServerError::caused(&attempt, &error);
        let name = program.file_name().unwrap_or(program.as_os_str());
        let name = name.to_string_lossy().into_owned();
        let log = directory.path().join(format!("{name}.log"));

        let (end, lifeline) = io::pipe().map_err(failed)?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", TALKER, "larder-talker"])
            .arg(&log)
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(end)
            .spawn()
            .map_err(failed)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked for");
        };
        Ok((Self { name, child, lifeline: Some(lifeline), log }, input, output))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether [`end`](Self::end) or [`exited`](Self::exited) has seen it dead.
    pub(super) fn is_over(&self) -> bool {
        self.lifeline.is_none()
    }

    /// The exit status, if it is no longer running.
    pub(super) fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten()?;
        if let Some(mut lifeline) = self.lifeline.take() {
            // From here on the process id may be given to another process. A
            // watcher that is gone needs no notice.
            let _ = lifeline.write_all(b"reaped\n");
        }
        Some(status)
    }

    /// Sends a signal, unless the process is over.
    pub(super) fn signal(&mut self, signal: &str) -> Result<(), ServerError> {
        let attempt = format!("send {signal} to {} ({})", self.name, self.pid());
        if self.is_over() || self.exited().is_some() {
            return Err(ServerError::new(format!(
                "{attempt}: it is not running, restart it first"
            )));
        }
        // The shell's own `kill`: a program of that name is not on every system.
        let status = shell("kill -s \"$1\" \"$2\"", "larder-kill")
            .arg(signal)
            .arg(self.pid().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(|error| ServerError::caused(&attempt, &error))?;
        if status.success() {
            Ok(())
        } else {
            Err(ServerError::new(format!("{attempt}: {status}")))
        }
    }

    /// Waits until it has exited by itself.
    pub(super) fn wait(&mut self) -> Result<ExitStatus, ServerError> {
        wait_for(PATIENCE, || self.exited()).ok_or_else(|| {
            ServerError::new(format!(
                "wait for {} ({}) to exit: it still runs after {PATIENCE:?}{}",
                self.name,
                self.pid(),
                self.log()
            ))
        })
    }

    /// Ends it, and waits until it is dead.
    pub(super) fn end(&mut self) -> Result<(), ServerError> {
        if self.is_over() || self.exited().is_some() {
            return Ok(());
        }
        // The watcher does the rest, as if this process had died.
        self.lifeline = None;
        self.wait().map(drop)
    }

    /// The last lines of its log, to be appended to an error.
    pub(super) fn log(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(20)..];
        if tail.is_empty() {
            return String::new();
        }
        format!("; the end of its log:\n{}", tail.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error cannot be returned, and the directory's keeper waits for the process.
        let _ = self.end();
    }
}

/// Whether a process with this id exists and is more than a zombie.
pub fn is_running(pid: u32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// The state of a process as `ps` prints it: `R`, `S`, `T`, `Z` and so on.
pub(super) fn state(pid: u32) -> Option<char> {
    if Path::new("/proc/self/stat").exists() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it is in parentheses, and may contain some.
        return stat.rsplit_once(") ")?.1.chars().next();
    }
    let pid = pid.to_string();
    let output = Command::new("ps").args(["-o", "state=", "-p", &pid]).output();
    let output = output.ok()?.stdout;
    String::from_utf8_lossy(&output).trim_start().chars().next()
}

/// A shell in its own process group. It inherits nothing from the environment of
/// the tests: not the locale, and not the `PG*` variables.
fn shell(script: &str, name: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, name]);
    command.env_clear().env("LC_ALL", "C");
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    command.env("PATH", path);
    for kept in ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command.current_dir("/").process_group(0);
    command
}
