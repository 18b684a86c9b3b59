//! What many tests need.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{interval, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// A name that no other test of this process uses.
pub fn namespace() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The command, with nothing that the environment or the directory of the tests may say, and with no
/// terminal.
pub fn larder<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args(arguments).stdin(Stdio::null()).current_dir(std::env::temp_dir());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LARDER_") {
            command.env_remove(name);
        }
    }
    command
}

/// What it did: exit code, standard output, standard error.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs it to its end, not on a runtime's thread.
pub async fn run(mut command: Command) -> Ran {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let Output { status, stdout, stderr } = output;
    Ran {
        code: status.code().unwrap_or_else(|| panic!("ended by a signal: {status}")),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

/// Waits until something has happened that nobody tells about.
pub async fn until(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    let poll = async {
        let mut ticks = interval(Duration::from_millis(2));
        while !happened().await {
            ticks.tick().await;
        }
    };
    timeout(PATIENCE, poll).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}
