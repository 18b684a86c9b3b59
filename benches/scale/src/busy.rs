//! Processes that keep processors busy.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::Context;

/// Processes that do nothing and never wait. They end with this value, and by themselves after their
/// time.
pub(crate) struct Busy(Vec<Child>);

impl Busy {
    pub(crate) fn start(count: usize, at_most: Duration) -> anyhow::Result<Busy> {
        let program = std::env::current_exe().context("find this program")?;
        let mut busy = Busy(vec![]);
        for _ in 0..count {
            let mut command = Command::new(&program);
            command.arg("spin").arg(at_most.as_secs().max(1).to_string());
            busy.0.push(command.spawn().context("start a busy process")?);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended by itself cannot be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn spin(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}
