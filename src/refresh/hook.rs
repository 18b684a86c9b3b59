//! [`RefreshHook`]: a user's function that runs before or after a refresh.

mod line;

use std::error::Error as StdError;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::timeout;

pub(crate) use self::line::HookLine;
use super::event::RefreshEvent;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What a hook returns when it fails: any error.
pub type HookError = Box<dyn StdError + Send + Sync>;

/// The error with which a [`before_refresh`](crate::refresh::RefresherBuilder::before_refresh) hook
/// prevents a refresh.
///
/// No other failure prevents it: if such a hook fails in another way, panics or exceeds its
/// timeout, this is reported and the refresh goes on. From other hooks, a veto is an error like any
/// other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veto(String);

impl Veto {
    /// A veto with a reason, which [`SkipReason::Vetoed`](crate::refresh::SkipReason::Vetoed)
    /// contains.
    pub fn because(reason: impl Into<String>) -> Veto {
        Veto(reason.into())
    }
}

impl fmt::Display for Veto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vetoed: {}", self.0)
    }
}

impl StdError for Veto {}

type Closure = dyn Fn(RefreshEvent) -> BoxFuture<'static, Result<(), HookError>> + Send + Sync;

/// A function that runs before a refresh, after it, or when it has failed. Cheap to clone.
///
/// A hook cannot harm the refresh or other hooks. Each call runs in a task of its own. If it fails,
/// panics or exceeds its [`timeout`](RefreshHook::timeout), this is reported and nothing is undone.
///
/// ```
/// use larder::refresh::{RefreshHook, Veto};
///
/// let announce = RefreshHook::new("announce", async |event| {
///     println!("{}: {:?} changed", event.view(), event.rows());
///     Ok(())
/// });
///
/// let not_on_battery = RefreshHook::blocking("battery", |_event| {
///     match std::fs::read_to_string("/sys/class/power_supply/AC/online") {
///         Ok(online) if online.trim() == "0" => Err(Veto::because("on battery").into()),
///         _ => Ok(()),
///     }
/// });
/// ```
///
/// # Cancellation
///
/// When a call exceeds its timeout, or the refresher ends, the task is aborted: the future is
/// dropped at its next `.await`. A [`blocking`](RefreshHook::blocking) closure that has begun
/// cannot be aborted.
#[derive(Clone)]
pub struct RefreshHook {
    name: Arc<str>,
    closure: Arc<Closure>,
    timeout: Duration,
}

impl RefreshHook {
    /// An asynchronous hook. Reports refer to it by its name.
    ///
    /// It shares the runtime's threads with all other tasks; if it blocks, use
    /// [`blocking`](RefreshHook::blocking).
    pub fn new<F, Fut>(name: impl Into<String>, closure: F) -> RefreshHook
    where
        F: Fn(RefreshEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HookError>> + Send + 'static,
    {
        RefreshHook {
            name: Arc::from(name.into()),
            closure: Arc::new(move |event| Box::pin(closure(event))),
            timeout: TIMEOUT,
        }
    }

    /// A hook that may block: it runs on a thread that Tokio keeps for blocking work.
    ///
    /// It cannot be stopped once it has begun. After its [`timeout`](RefreshHook::timeout) it is
    /// reported and no longer waited for, and it continues in parallel with what follows. It also
    /// continues when the refresher ends, and a runtime that shuts down waits for it.
    pub fn blocking<F>(name: impl Into<String>, closure: F) -> RefreshHook
    where
        F: Fn(RefreshEvent) -> Result<(), HookError> + Send + Sync + 'static,
    {
        let closure = Arc::new(closure);
        RefreshHook::new(name, move |event| {
            let closure = closure.clone();
            async move {
                // Aborting it removes the closure from the queue if no thread has been free yet.
                let mut thread = AbortOnDrop(spawn_blocking(move || closure(event)));
                match (&mut thread.0).await {
                    Ok(result) => result,
                    Err(error) => match error.try_into_panic() {
                        Ok(payload) => resume_unwind(payload),
                        Err(error) => Err(error.into()),
                    },
                }
            }
        })
    }

    /// The time limit of one call.
    ///
    /// A refresh waits for its `before_refresh` hooks. Later events of a view wait for the hooks of
    /// earlier ones.
    ///
    /// # Default
    ///
    /// 10 seconds. For a hook made from a `Webhook`, slightly more than the webhook's own limit.
    #[must_use = "a hook with this timeout is returned, the one it was called on is used up"]
    pub fn timeout(mut self, timeout: Duration) -> RefreshHook {
        self.timeout = timeout;
        self
    }

    /// Runs the hook once.
    ///
    /// # Cancellation
    ///
    /// Dropping the future aborts the call.
    pub(crate) async fn run(&self, event: RefreshEvent) -> Result<(), HookFailure> {
        let may_veto = is_before(&event);
        let closure = self.closure.clone();
        // The closure is called within the task, since it may panic before it returns a future.
        let mut task = AbortOnDrop(tokio::spawn(async move { closure(event).await }));
        let kind = match timeout(self.timeout, &mut task.0).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error))) => match error.downcast::<Veto>() {
                Ok(veto) if may_veto => FailureKind::Vetoed(veto.0),
                Ok(veto) => FailureKind::Failed(veto.to_string()),
                Err(error) => FailureKind::Failed(with_sources(&*error)),
            },
            Ok(Err(ended)) => ended_early(ended),
            Err(_) => FailureKind::TimedOut(self.timeout),
        };
        Err(HookFailure { hook: self.name.clone(), kind })
    }
}

impl fmt::Debug for RefreshHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshHook")
            .field("name", &self.name)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

fn is_before(event: &RefreshEvent) -> bool {
    event.report().is_none() && event.error().is_none()
}

fn with_sources(error: &(dyn StdError + 'static)) -> String {
    let (mut said, mut next) = (error.to_string(), error.source());
    while let Some(source) = next {
        let source_said = source.to_string();
        // Many errors quote their source in their own message.
        if !said.contains(&source_said) {
            said = format!("{said}: {source_said}");
        }
        next = source.source();
    }
    said
}

fn ended_early(ended: JoinError) -> FailureKind {
    let Ok(payload) = ended.try_into_panic() else {
        return FailureKind::Failed("the runtime has shut down".to_owned());
    };
    let said = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    FailureKind::Panicked(said.unwrap_or("with something that is no text").to_owned())
}

/// Why a call of a hook did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HookFailure {
    pub(crate) hook: Arc<str>,
    pub(crate) kind: FailureKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FailureKind {
    Vetoed(String),
    Failed(String),
    Panicked(String),
    TimedOut(Duration),
    /// The event was dropped, because too many others were waiting.
    LeftOut,
}

impl fmt::Display for HookFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the hook {:?} ", self.hook)?;
        match &self.kind {
            FailureKind::Vetoed(reason) => write!(f, "vetoed the refresh: {reason}"),
            FailureKind::Failed(why) => write!(f, "failed: {why}"),
            FailureKind::Panicked(said) => write!(f, "panicked: {said}"),
            FailureKind::LeftOut => {
                write!(f, "was not told of an event: {} others wait", line::QUEUE)
            }
            FailureKind::TimedOut(after) => {
                write!(f, "had not ended after its `timeout` of {after:?} and was given up")
            }
        }
    }
}

/// Is called with each failure.
pub(crate) type OnFailure = Arc<dyn Fn(HookFailure) + Send + Sync>;

/// The hooks of a view, in the order in which they were added.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) before: Vec<RefreshHook>,
    pub(crate) after: Vec<RefreshHook>,
    pub(crate) error: Vec<RefreshHook>,
}

impl Hooks {
    /// Runs the hooks that come before a refresh.
    ///
    /// # Errors
    ///
    /// The reason of the first veto. The hooks after it do not run.
    pub(crate) async fn ask(&self, event: &RefreshEvent, failed: &OnFailure) -> Result<(), String> {
        for hook in &self.before {
            match hook.run(event.clone()).await {
                Ok(()) => {}
                Err(HookFailure { kind: FailureKind::Vetoed(reason), .. }) => return Err(reason),
                Err(failure) => failed(failure),
            }
        }
        Ok(())
    }

    fn of(&self, event: &RefreshEvent) -> &[RefreshHook] {
        match event.error() {
            Some(_) => &self.error,
            None if is_before(event) => &self.before,
            None => &self.after,
        }
    }
}

/// A task that is aborted when its owner is dropped.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::{Mutex, mpsc as threads};
    use std::time::SystemTime;

    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    use super::*;
    use crate::refresh::report::{RefreshOutcome, RefreshReport, RowChanges};

    fn before() -> RefreshEvent {
        RefreshEvent::before("sales".into(), SystemTime::UNIX_EPOCH)
    }

    pub(super) fn after(view: &str) -> RefreshEvent {
        RefreshEvent::after(Arc::new(RefreshReport {
            view: view.into(),
            started: SystemTime::UNIX_EPOCH,
            duration: Duration::from_millis(5),
            outcome: RefreshOutcome::Refreshed(RowChanges::default()),
            warnings: vec![],
        }))
    }

    pub(super) type Log = UnboundedSender<String>;

    pub(super) fn log() -> (Log, UnboundedReceiver<String>) {
        unbounded_channel()
    }

    pub(super) fn to_log(log: &Log) -> OnFailure {
        let log = log.clone();
        Arc::new(move |failure| log.send(failure.to_string()).unwrap())
    }

    pub(super) fn says(name: &str, log: &Log) -> RefreshHook {
        let (said, log) = (name.to_owned(), log.clone());
        RefreshHook::new(name, move |event| {
            let line = format!("{said} {}", event.view());
            let log = log.clone();
            async move { Ok(log.send(line)?) }
        })
    }

    /// Logs that it was called and then never ends; logs when it is dropped.
    pub(super) fn hangs(name: &str, log: &Log) -> RefreshHook {
        struct Dropped(Log);
        impl Drop for Dropped {
            fn drop(&mut self) {
                let _ = self.0.send("dropped".to_owned());
            }
        }
        let log = log.clone();
        RefreshHook::new(name, move |_event| {
            let log = log.clone();
            async move {
                log.send("hangs".to_owned())?;
                let _dropped = Dropped(log);
                pending().await
            }
        })
    }

    pub(super) fn fails(name: &str) -> RefreshHook {
        RefreshHook::new(name, async |_event| Err("no such channel".into()))
    }

    pub(super) fn panics(name: &str) -> RefreshHook {
        RefreshHook::new(name, async |event| panic!("what is {}?", event.view()))
    }

    pub(super) fn all(read: &mut UnboundedReceiver<String>) -> Vec<String> {
        std::iter::from_fn(|| read.try_recv().ok()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_veto_before_a_refresh_keeps_it_from_happening() {
        let (log, mut read) = log();
        let veto = RefreshHook::new("window", async |_| Err(Veto::because("not at noon").into()));
        let mut hooks = Hooks {
            before: vec![fails("slack"), panics("mail"), hangs("slow", &log), says("last", &log)],
            ..Hooks::default()
        };
        assert_eq!(hooks.ask(&before(), &to_log(&log)).await, Ok(()));
        assert_eq!(all(&mut read).last().unwrap(), "last sales");

        hooks.before.insert(0, veto.clone());
        assert_eq!(hooks.ask(&before(), &to_log(&log)).await, Err("not at noon".to_owned()));
        assert_eq!(all(&mut read), Vec::<String>::new());

        let late = veto.run(after("sales")).await.unwrap_err();
        assert_eq!(late.kind, FailureKind::Failed("vetoed: not at noon".to_owned()));
    }

    // Paused time does not move by itself while a blocking closure runs, only when the test
    // advances it.
    #[tokio::test(start_paused = true)]
    async fn a_blocking_hook_may_block_and_is_left_alone_after_its_timeout() {
        let (release, held) = threads::channel::<()>();
        let (log, mut read) = log();
        let held = Mutex::new(held);
        let hook = RefreshHook::blocking("disk", move |event| {
            log.send("begun".to_owned())?;
            held.lock().unwrap().recv()?;
            Ok(log.send(event.view().to_owned())?)
        });
        let patient = hook.clone();
        let call = tokio::spawn(async move { hook.run(after("a")).await });
        assert_eq!(read.recv().await.unwrap(), "begun");
        tokio::time::advance(TIMEOUT).await;
        let failure = call.await.unwrap().unwrap_err();
        assert_eq!(failure.kind, FailureKind::TimedOut(TIMEOUT));
        release.send(()).unwrap();
        assert_eq!(read.recv().await.unwrap(), "a");

        release.send(()).unwrap();
        patient.run(after("b")).await.unwrap();
        assert_eq!(all(&mut read), ["begun", "b"]);
    }

    #[tokio::test]
    async fn a_blocking_hook_reports_its_error_and_its_panic() {
        let broken = RefreshHook::blocking("disk", |_| Err(std::io::Error::other("full").into()));
        let failure = broken.run(after("a")).await.unwrap_err();
        assert_eq!(failure.to_string(), "the hook \"disk\" failed: full");
        let broken = RefreshHook::blocking("disk", |_| panic!("on fire"));
        let failure = broken.run(after("a")).await.unwrap_err();
        assert_eq!(failure.to_string(), "the hook \"disk\" panicked: on fire");
    }
}
