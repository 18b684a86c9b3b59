//! [`Shared`]: all parts of a refresher. What they do together stands in the files of the path of a
//! refresh: `ticks` (when), `turn` (one refresh), `follow` (refreshes by others).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::{Notify, RwLock, Semaphore, watch};

use super::event::RefreshEvent;
use super::hook::{HookFailure, HookLine, Hooks, OnFailure};
use super::notes::Notes;
use super::plan::Order;
use super::report::RefreshReport;
use super::schedule::Schedule;
use super::status::{Activity, ViewStatus};
use super::view::MaterializedView;
use crate::cache::QueryCache;
use crate::clock::Clock;
use crate::metrics;
use crate::postgres::matview::RefreshError;
use crate::postgres::matview::session::Source;
use crate::postgres::matview::sight::Seen;
use crate::stats::ViewStats;
use crate::trace;

pub(super) struct Shared {
    pub(super) source: Source,
    pub(super) caches: Vec<QueryCache>,
    pub(super) notes: Notes,
    pub(super) views: Vec<Arc<View>>,
    pub(super) clock: Clock,
    /// A permit for each refresh that may run at a time.
    pub(super) permits: Semaphore,
    pub(super) permits_at_all: u32,
    /// Which views read which, as PostgreSQL last said.
    pub(super) order: RwLock<Arc<Order>>,
    /// The name of the database, for notes.
    pub(super) database: String,
    pub(super) closing: watch::Sender<Closing>,
    /// Looks for refreshes by others at once.
    pub(super) look: Arc<Notify>,
    pub(super) poll: Duration,
    pub(super) shutdown_deadline: Duration,
}

/// How far the end of a refresher has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closing {
    Open,
    /// What runs may finish; nothing begins.
    Finishing,
    /// What runs is cancelled.
    Cancelling,
}

/// One view and its state in this process.
pub(super) struct View {
    pub(super) view: MaterializedView,
    pub(super) schedule: Option<Schedule>,
    pub(super) hooks: Arc<Hooks>,
    pub(super) on_failure: OnFailure,
    /// Runs its hooks one after the other, so that they delay no refresh. Until the end has come.
    line: Mutex<Option<Arc<HookLine>>>,
    status: Mutex<ViewStatus>,
    /// The tick that comes next or is being worked on: earlier ones are done. Views above wait for
    /// it to pass theirs.
    next: watch::Sender<Option<SystemTime>>,
    looks: Mutex<Looks>,
}

/// How many changes of a view are remembered. Two within one tick would be many.
const REMEMBERED: usize = 8;

/// The states that a view was seen in, and since when.
#[derive(Default)]
struct Looks(VecDeque<(SystemTime, Seen)>);

impl View {
    pub(super) fn new(
        view: MaterializedView,
        schedule: Option<Schedule>,
        hooks: Arc<Hooks>,
        runtime: &Handle,
    ) -> Arc<View> {
        let status = ViewStatus::new(view.name.clone());
        Arc::new_cyclic(|this: &Weak<View>| {
            let this = this.clone();
            let on_failure: OnFailure = Arc::new(move |failure| {
                if let Some(view) = this.upgrade() {
                    view.hook_failed(&failure);
                }
            });
            let line = HookLine::start(runtime, hooks.clone(), on_failure.clone());
            View {
                view,
                schedule,
                line: Mutex::new(Some(Arc::new(line))),
                hooks,
                on_failure,
                status: Mutex::new(status),
                next: watch::Sender::new(None),
                looks: Mutex::default(),
            }
        })
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.view.name
    }

    pub(super) fn status(&self) -> MutexGuard<'_, ViewStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is(&self, activity: Activity) {
        self.status().activity = activity;
    }

    /// Shows it as being refreshed for as long as the answer is kept, whatever else it is.
    pub(super) fn shown_as_refreshing(&self) -> Shown<'_> {
        self.status().attempts += 1;
        Shown(self)
    }

    pub(super) fn line(&self) -> Option<Arc<HookLine>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives up the hooks that run or wait.
    pub(super) fn end_hooks(&self) {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn next(&self) -> Option<SystemTime> {
        *self.next.borrow()
    }

    /// All ticks before this one are done.
    pub(super) fn done_before(&self, next: Option<SystemTime>) {
        self.status().next = next;
        self.next.send_replace(next);
    }

    /// Waits until all ticks up to this one are done.
    pub(super) async fn passed(&self, tick: SystemTime) {
        let mut next = self.next.subscribe();
        // It ends with the refresher, as we do.
        let _ = next.wait_for(|next| next.is_none_or(|next| next > tick)).await;
    }

    /// The view was in this state at this time.
    pub(super) fn saw(&self, at: SystemTime, seen: &Seen) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.0.back().is_none_or(|(_, last)| last != seen) {
            looks.0.push_back((at, seen.clone()));
            if looks.0.len() > REMEMBERED {
                looks.0.pop_front();
            }
        }
    }

    /// The state that it was last seen in is that of this tick, or of an earlier one, however long
    /// after the tick it was seen.
    pub(super) fn done(&self, tick: SystemTime) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, _)) = looks.0.back_mut() {
            *since = tick.min(*since);
        }
    }

    /// The state that it was last seen in at that time, or else the first that it was seen in.
    pub(super) fn as_of(&self, at: SystemTime) -> Option<Seen> {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let then = looks.0.iter().rev().find(|(since, _)| *since <= at);
        then.or(looks.0.front()).map(|(_, seen)| seen.clone())
    }

    /// An attempt came to an end without a failure.
    pub(super) fn succeeded(&self, report: Arc<RefreshReport>) {
        trace::refreshed(&report);
        metrics::refreshed(&report);
        let refreshed = report.rows().is_some();
        {
            let mut status = self.status();
            status.last = Some(report.clone());
            if refreshed {
                status.last_refreshed = Some(report.clone());
                status.refreshes += 1;
                status.failures_in_a_row = 0;
                status.last_error = None;
            }
        }
        if refreshed {
            self.tell(RefreshEvent::after(report));
        }
    }

    /// Another process is at it.
    pub(super) fn watches(&self, report: RefreshReport) {
        self.status().last = Some(Arc::new(report));
    }

    pub(super) fn hook_failed(&self, failure: &HookFailure) {
        trace::hook_failed(self.name(), failure);
        metrics::hook_failed(self.name());
        let mut status = self.status();
        status.hook_failures += 1;
        status.last_hook_failure = Some(failure.to_string());
    }

    /// An attempt failed. `tell`: whether hooks hear of it; not of each new try in a row.
    pub(super) fn failed(
        &self,
        started: SystemTime,
        took: Duration,
        error: &RefreshError,
        tell: bool,
    ) {
        let failures = {
            let mut status = self.status();
            status.failures_in_a_row += 1;
            status.last_error = Some(error.clone());
            status.failures_in_a_row
        };
        trace::refresh_failed(error, failures);
        metrics::refresh_failed(self.name(), took);
        if !tell {
            return;
        }
        let name = self.name().clone();
        self.tell(RefreshEvent::failed(name, started, took, error.clone(), failures));
    }

    fn tell(&self, event: RefreshEvent) {
        if let Some(line) = self.line() {
            line.send(event);
        }
    }
}

/// Held while an attempt is made, by whoever makes it. They may leave at any time.
pub(super) struct Shown<'a>(&'a View);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.status().attempts -= 1;
    }
}

impl Shared {
    /// How it stands with the views, as it is published for the whole fleet.
    pub(super) fn published(&self) -> Vec<ViewStats> {
        self.views.iter().map(|view| view.status().published()).collect()
    }

    pub(super) fn closing(&self) -> Closing {
        *self.closing.borrow()
    }

    /// Waits until the end has come so far.
    pub(super) async fn closes(&self, phase: Closing) {
        // The sender is ours, so there is always one.
        let _ = self.closing.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// The name under which a view's notes are: of the relation, so that one that was dropped and
    /// made again has none.
    pub(super) fn note_name(&self, oid: u32) -> String {
        format!("{}:{oid}", self.database)
    }

    /// The name under which it is noted what was announced of a view: of its tag, since others may
    /// call the same view otherwise, and this name may come to be another view's.
    pub(super) fn tag_name(&self, view: &View) -> String {
        format!("{}:{}", self.database, view.name())
    }
}

/// What is to be read under a view's name: rows of a relation, by the state in which they came to be.
pub(super) fn content_of(oid: u32, xmin: &str) -> String {
    format!("{oid}:{xmin}")
}
