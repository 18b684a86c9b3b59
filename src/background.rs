//! [`Background`]: the runtime that a cache's background tasks run on, and what happens to them when
//! that runtime ends before the cache.
//!
//! A cache in a static outlives the runtime that it was built in; each `#[tokio::test]`, for
//! example, has a runtime of its own. All tasks of an ended runtime are gone. So each runtime in use
//! has one task that does nothing but note its own end, and the next caller on a runtime that is
//! alive [settles](Background::settle) there: it starts all background tasks again.
//!
//! A single-threaded runtime that exists and that no thread drives has not ended. Its tasks wait,
//! and so does what needs them.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};

use crate::sync::{Mutex, RwLock};

/// The runtime of the background tasks of one cache.
#[derive(Clone)]
pub(crate) struct Background(Arc<Place>);

struct Place {
    runtime: RwLock<Runtime>,
    /// The tasks that are started again on another runtime.
    tasks: Mutex<Vec<Weak<Restarted>>>,
}

struct Runtime {
    handle: Handle,
    /// Set when the runtime has ended.
    ended: Arc<AtomicBool>,
    sentinel: AbortHandle,
}

impl Runtime {
    fn new(handle: Handle) -> Runtime {
        let ended = Arc::new(AtomicBool::new(false));
        let end = End(ended.clone());
        let sentinel = handle.spawn(async move {
            let _end = end;
            pending::<()>().await
        });
        Runtime { handle, ended, sentinel: sentinel.abort_handle() }
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.sentinel.abort();
    }
}

/// Notes that its task was dropped.
struct End(Arc<AtomicBool>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Where the background tasks of a cache run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// On the same runtime as before.
    Already,
    /// On the caller's runtime, since a moment ago.
    Moved,
    /// On none: their runtime has ended, and the caller has no runtime that is alive.
    Nowhere,
}

/// How a task begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    First,
    /// On another runtime. All that the task had spawned is gone as well.
    Again,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Restarted {
    make: Box<dyn Fn(Start) -> Task + Send + Sync>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    task: Option<AbortHandle>,
    stopped: bool,
}

impl Restarted {
    fn start(&self, runtime: &Handle, start: Start) {
        let mut running = self.running.lock();
        if running.stopped {
            return;
        }
        let task = runtime.spawn((self.make)(start)).abort_handle();
        if let Some(before) = running.task.replace(task) {
            before.abort();
        }
    }

    fn stop(&self) {
        let mut running = self.running.lock();
        running.stopped = true;
        if let Some(task) = running.task.take() {
            task.abort();
        }
    }
}

/// A background task. It ends when this is dropped.
pub(crate) struct BackgroundTask(Arc<Restarted>);

impl BackgroundTask {
    /// Ends the task for good.
    pub(crate) fn stop(&self) {
        self.0.stop();
    }
}

impl Drop for BackgroundTask {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Background {
    pub(crate) fn on(runtime: Handle) -> Background {
        let runtime = RwLock::new(Runtime::new(runtime));
        Background(Arc::new(Place { runtime, tasks: Mutex::default() }))
    }

    /// The runtime of the tasks. It may have ended.
    pub(crate) fn runtime(&self) -> Handle {
        self.0.runtime.read().handle.clone()
    }

    /// Spawns a task that ends with the runtime.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        // Not under the lock: a runtime that has ended drops the task here.
        self.runtime().spawn(task)
    }

    /// Starts a task, now and on each runtime that the cache moves to.
    pub(crate) fn keep<F>(
        &self,
        make: impl Fn(Start) -> F + Send + Sync + 'static,
    ) -> BackgroundTask
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let make = Box::new(move |start| Box::pin(make(start)) as Task);
        let task = Arc::new(Restarted { make, running: Mutex::default() });
        // Locked until the task is listed: it must not miss a move.
        let runtime = self.0.runtime.read();
        let mut tasks = self.0.tasks.lock();
        tasks.retain(|task| task.strong_count() > 0);
        tasks.push(Arc::downgrade(&task));
        task.start(&runtime.handle, Start::First);
        BackgroundTask(task)
    }

    /// Whether the runtime of the tasks has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.runtime.read().has_ended()
    }

    /// Moves to the caller's runtime if the one of the tasks has ended.
    #[inline]
    pub(crate) fn settle(&self) -> Settled {
        if self.has_ended() { self.move_here() } else { Settled::Already }
    }

    #[cold]
    fn move_here(&self) -> Settled {
        let Ok(callers) = Handle::try_current() else { return Settled::Nowhere };
        let mut runtime = self.0.runtime.write();
        if !runtime.has_ended() {
            return Settled::Already;
        }
        let here = Runtime::new(callers);
        // A runtime that has ended drops a task as soon as it is spawned.
        if here.has_ended() {
            return Settled::Nowhere;
        }
        *runtime = here;
        for task in self.0.tasks.lock().iter().filter_map(Weak::upgrade) {
            task.start(&runtime.handle, Start::Again);
        }
        Settled::Moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    fn single() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn what_is_kept_starts_again_on_the_next_runtime_and_ends_with_its_owner() {
        let (starts, mut started) = mpsc::unbounded_channel();
        let (first, second) = (single(), single());
        let background = Background::on(first.handle().clone());
        let task = background.keep(move |start| {
            let starts = starts.clone();
            async move {
                starts.send(start).unwrap();
                pending::<()>().await
            }
        });
        assert_eq!(first.block_on(started.recv()), Some(Start::First));
        second.block_on(async { assert_eq!(background.settle(), Settled::Already) });
        drop(first);
        assert_eq!(background.settle(), Settled::Nowhere);
        second.block_on(async {
            assert_eq!(background.settle(), Settled::Moved);
            assert_eq!(background.settle(), Settled::Already);
            assert_eq!(started.recv().await, Some(Start::Again));
            task.stop();
            drop((task, background));
            // The sender was the task's.
            assert_eq!(started.recv().await, None);
        });
    }

    #[test]
    fn a_runtime_that_has_ended_is_no_place_to_settle() {
        let (first, second) = (single(), single());
        let background = Background::on(first.handle().clone());
        let handle = second.handle().clone();
        drop((first, second));
        let _within = handle.enter();
        assert_eq!(background.settle(), Settled::Nowhere);
    }
}
