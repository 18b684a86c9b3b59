//! [`HookLine`]: runs the hooks of one view separately from its refreshes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::{AbortOnDrop, FailureKind, HookFailure, Hooks, OnFailure};
use crate::refresh::event::RefreshEvent;

/// How many events of one view may wait for its hooks.
pub(super) const QUEUE: usize = 16;

/// Runs the hooks that come after the refreshes of one view, so that no refresh waits for them.
///
/// It handles one event after the other, and runs the hooks of each event in order. So a hook
/// receives a failure and the success that follows it in this order. It runs in a task of its own,
/// which ends with its owner.
pub(crate) struct HookLine {
    queue: mpsc::Sender<RefreshEvent>,
    sent: AtomicU64,
    hooks: Arc<Hooks>,
    failed: OnFailure,
    /// How many of the sent events have been handled.
    done: watch::Receiver<u64>,
    _task: AbortOnDrop<()>,
}

impl HookLine {
    pub(crate) fn start(runtime: &Handle, hooks: Arc<Hooks>, failed: OnFailure) -> HookLine {
        let (queue, mut events) = mpsc::channel::<RefreshEvent>(QUEUE);
        let (count, done) = watch::channel(0);
        let (all, tell) = (hooks.clone(), failed.clone());
        let task = runtime.spawn(async move {
            while let Some(event) = events.recv().await {
                for hook in all.of(&event) {
                    if let Err(failure) = hook.run(event.clone()).await {
                        tell(failure);
                    }
                }
                count.send_modify(|done| *done += 1);
            }
        });
        let sent = AtomicU64::new(0);
        HookLine { queue, sent, hooks, failed, done, _task: AbortOnDrop(task) }
    }

    /// Queues an event without waiting. If the queue is full, the event is dropped, and a failure
    /// is reported for each hook that would have received it.
    pub(crate) fn send(&self, event: RefreshEvent) {
        match self.queue.try_send(event) {
            Ok(()) => {
                self.sent.fetch_add(1, Ordering::SeqCst);
            }
            Err(TrySendError::Full(event) | TrySendError::Closed(event)) => {
                for hook in self.hooks.of(&event) {
                    let (hook, kind) = (hook.name.clone(), FailureKind::LeftOut);
                    (self.failed)(HookFailure { hook, kind });
                }
            }
        }
    }

    /// Waits until all events sent so far have been handled. Returns `false` if the deadline passes
    /// first, or if the task has ended.
    pub(crate) async fn drain(&self, deadline: Instant) -> bool {
        // An event that is handled before `send` has counted it makes `done` greater than `sent`
        // for a moment. This is harmless: such a `send` is concurrent with this call, so its event
        // is not one sent before.
        let sent = self.sent.load(Ordering::SeqCst);
        let mut done = self.done.clone();
        let all = done.wait_for(|&done| done >= sent);
        // The inner error: the task has ended, with its runtime.
        matches!(timeout_at(deadline, all).await, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::super::TIMEOUT;
    use super::super::tests::{Log, after, all, fails, hangs, log, panics, says, to_log};
    use super::*;
    use crate::refresh::postgres::{RefreshError, RefreshErrorKind};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn failed(view: &str) -> RefreshEvent {
        let error = RefreshError::new(RefreshErrorKind::Missing, view, "there is none");
        RefreshEvent::failed(view.into(), SystemTime::UNIX_EPOCH, Duration::ZERO, error, 1)
    }

    async fn drained(line: &HookLine) -> bool {
        line.drain(Instant::now() + PATIENCE).await
    }

    fn start(hooks: Hooks, log: &Log) -> HookLine {
        HookLine::start(&Handle::current(), Arc::new(hooks), to_log(log))
    }

    #[tokio::test(start_paused = true)]
    async fn hooks_run_in_order_and_none_harms_the_next() {
        let (log, mut read) = log();
        let hooks = Hooks {
            before: vec![says("before", &log)],
            after: vec![says("1", &log), fails("slack"), panics("mail"), says("2", &log)],
            error: vec![says("error", &log)],
        };
        let line = start(hooks, &log);
        [failed("a"), after("b"), after("c")].into_iter().for_each(|event| line.send(event));
        assert!(drained(&line).await);
        let of_success = |view| {
            [
                format!("1 {view}"),
                "the hook \"slack\" failed: no such channel".to_owned(),
                format!("the hook \"mail\" panicked: what is {view}?"),
                format!("2 {view}"),
            ]
        };
        let expected: Vec<_> = ["error a".to_owned()]
            .into_iter()
            .chain(of_success("b"))
            .chain(of_success("c"))
            .collect();
        assert_eq!(all(&mut read), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_hook_is_aborted_and_reported_and_the_next_one_runs() {
        let (log, mut read) = log();
        let hung = hangs("slack", &log).timeout(Duration::from_secs(3));
        let line = start(Hooks { after: vec![hung, says("2", &log)], ..Hooks::default() }, &log);
        line.send(after("a"));
        assert!(drained(&line).await);
        let said = all(&mut read);
        assert!(
            said.contains(&"dropped".to_owned()) && said.contains(&"2 a".to_owned()),
            "{said:?}"
        );
        let report = "the hook \"slack\" had not ended after its `timeout` of 3s and was given up";
        assert!(said.contains(&report.to_owned()), "{said:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_to_a_full_queue_is_left_out_and_reported() {
        let (log, mut read) = log();
        let line = start(Hooks { after: vec![hangs("slack", &log)], ..Hooks::default() }, &log);
        line.send(after("under way"));
        assert_eq!(read.recv().await.unwrap(), "hangs");
        (0..QUEUE).for_each(|_| line.send(after("waits")));
        assert_eq!(all(&mut read), [""; 0]);
        line.send(after("too many"));
        let left_out = "the hook \"slack\" was not told of an event: 16 others wait";
        assert_eq!(all(&mut read), [left_out]);
        assert!(!line.drain(Instant::now() + TIMEOUT / 2).await);
        assert!(line.drain(Instant::now() + TIMEOUT * (QUEUE as u32 + 1)).await);
        all(&mut read);
        line.send(after("room again"));
        assert_eq!(read.recv().await.unwrap(), "hangs");
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_is_dropped_aborts_the_hook_that_runs() {
        let (log, mut read) = log();
        let hook = hangs("slack", &log).timeout(Duration::MAX);
        let line = start(Hooks { after: vec![hook, says("2", &log)], ..Hooks::default() }, &log);
        line.send(after("a"));
        assert_eq!(read.recv().await.unwrap(), "hangs");
        drop(line);
        assert_eq!(read.recv().await.unwrap(), "dropped");
        drop(log);
        assert_eq!(read.recv().await, None);
    }
}
