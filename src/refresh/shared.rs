//! [`Shared`]: the state of a refresher. What its parts do is in the files along the path of a
//! refresh: `ticks` (when), `attempt` (one refresh), `follow` (refreshes made by others).

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::{Notify, RwLock, Semaphore, watch};

use super::event::RefreshEvent;
use super::events;
use super::hook::{HookFailure, HookLine, Hooks, OnFailure};
use super::notes::Notes;
use super::plan::Order;
use super::report::RefreshReport;
use super::schedule::Schedule;
use super::status::{Activity, ViewStatus};
use super::view::MaterializedView;
use crate::cache::QueryCache;
use crate::clock::Clock;
use crate::refresh::postgres::session::Source;
use crate::refresh::postgres::state::ViewVersion;
use crate::refresh::postgres::{Finding, RefreshError};
use crate::sync::{Mutex, MutexGuard};
use crate::telemetry::metrics::Namespaces;
use crate::telemetry::stats::ViewStats;
use crate::value::relation::RelationName;

pub(super) struct Shared {
    pub(super) source: Source,
    pub(super) caches: Vec<QueryCache>,
    pub(super) notes: Notes,
    pub(super) views: Vec<Arc<View>>,
    pub(super) clock: Clock,
    /// One permit for each refresh that may run at the same time.
    pub(super) permits: Semaphore,
    pub(super) permits_at_all: u32,
    /// Which views read which, as last read from PostgreSQL.
    pub(super) order: RwLock<Arc<Order>>,
    /// The name of the database, for the names of notes.
    pub(super) database: String,
    pub(super) closing: watch::Sender<Closing>,
    /// Makes `follow` look for refreshes made by others at once.
    pub(super) look: Arc<Notify>,
    /// Why notifications are not received, if they should be.
    pub(super) not_listening: Mutex<Option<Finding>>,
    pub(super) poll: Duration,
    pub(super) shutdown_deadline: Duration,
}

/// How far the refresher has shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closing {
    Open,
    /// Running refreshes may finish, and none begins.
    Finishing,
    /// Running refreshes are cancelled.
    Cancelling,
}

/// One view and its state in this process.
pub(super) struct View {
    pub(super) view: MaterializedView,
    pub(super) schedule: Option<Schedule>,
    pub(super) hooks: Arc<Hooks>,
    pub(super) on_failure: OnFailure,
    pub(super) namespaces: Namespaces,
    /// Runs the view's hooks one after the other, so that they delay no refresh. `None` after the
    /// shutdown.
    line: Mutex<Option<Arc<HookLine>>>,
    status: Mutex<ViewStatus>,
    /// The tick that comes next or is being handled. Earlier ticks are done. Views above wait until
    /// this is later than their own tick.
    next: watch::Sender<Option<SystemTime>>,
    looks: Mutex<Looks>,
}

/// How many versions of a view are remembered. Two changes within one tick are already rare.
const REMEMBERED: usize = 8;

/// The versions that a view was seen in, each with the time since when.
#[derive(Default)]
struct Looks(VecDeque<(SystemTime, ViewVersion)>);

impl Shared {
    pub(super) fn not_listening(&self) -> Option<Finding> {
        self.not_listening.lock().clone()
    }

    /// Notifications are received from now on.
    pub(super) fn listens(&self) {
        *self.not_listening.lock() = None;
    }

    /// Notifications are not received. Each reason is reported once, until they are received again.
    pub(super) fn does_not_listen(&self, why: Finding) {
        let before = self.not_listening.lock().replace(why.clone());
        if before.as_ref() != Some(&why) {
            events::not_listening(&why);
        }
    }
}

impl View {
    pub(super) fn new(
        view: MaterializedView,
        schedule: Option<Schedule>,
        hooks: Arc<Hooks>,
        namespaces: Namespaces,
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
                namespaces,
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
        self.status.lock()
    }

    pub(super) fn is(&self, activity: Activity) {
        self.status().activity = activity;
    }

    /// Shows the view as being refreshed until the returned guard is dropped, whatever its
    /// activity.
    pub(super) fn shown_as_refreshing(&self) -> Shown<'_> {
        self.status().attempts += 1;
        Shown(self)
    }

    pub(super) fn line(&self) -> Option<Arc<HookLine>> {
        self.line.lock().clone()
    }

    /// Aborts the running hook and drops the queued events.
    pub(super) fn end_hooks(&self) {
        self.line.lock().take();
    }

    pub(super) fn next(&self) -> Option<SystemTime> {
        *self.next.borrow()
    }

    /// Records that all ticks before this one are done.
    pub(super) fn done_before(&self, next: Option<SystemTime>) {
        self.status().next = next;
        self.next.send_replace(next);
    }

    /// Waits until all ticks up to this one are done.
    pub(super) async fn passed(&self, tick: SystemTime) {
        let mut next = self.next.subscribe();
        // This fails only when the refresher has ended, and then the caller ends too.
        let _ = next.wait_for(|next| next.is_none_or(|next| next > tick)).await;
    }

    /// Records that the view was in this version at this time.
    pub(super) fn saw(&self, at: SystemTime, version: &ViewVersion) {
        let mut looks = self.looks.lock();
        if looks.0.back().is_none_or(|(_, last)| last != version) {
            looks.0.push_back((at, version.clone()));
            if looks.0.len() > REMEMBERED {
                looks.0.pop_front();
            }
        }
    }

    /// Records that the version last seen belongs to this tick, or to an earlier one, however long
    /// after the tick it was seen.
    pub(super) fn done(&self, tick: SystemTime) {
        let mut looks = self.looks.lock();
        if let Some((since, _)) = looks.0.back_mut() {
            *since = tick.min(*since);
        }
    }

    /// The version last seen at that time, or else the earliest one that is remembered.
    pub(super) fn as_of(&self, at: SystemTime) -> Option<ViewVersion> {
        let looks = self.looks.lock();
        let then = looks.0.iter().rev().find(|(since, _)| *since <= at);
        then.or(looks.0.front()).map(|(_, version)| version.clone())
    }

    /// Records an attempt that ended without a failure.
    pub(super) fn succeeded(&self, report: Arc<RefreshReport>) {
        events::refreshed(&self.namespaces, &report);
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

    /// Records that another process is refreshing the view.
    pub(super) fn watches(&self, report: RefreshReport) {
        self.status().last = Some(Arc::new(report));
    }

    pub(super) fn hook_failed(&self, failure: &HookFailure) {
        events::hook_failed(&self.namespaces, self.name(), failure);
        let mut status = self.status();
        status.hook_failures += 1;
        status.last_hook_failure = Some(failure.to_string());
    }

    /// Records a failed attempt. `tell`: whether hooks are notified. Retries do not notify them.
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
        events::failed(&self.namespaces, error, failures, took);
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

/// Counts an attempt for as long as it runs. The attempt's future may be dropped at any time.
pub(super) struct Shown<'a>(&'a View);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.status().attempts -= 1;
    }
}

impl Shared {
    /// The status of the views, as it is published for the whole fleet.
    pub(super) fn published(&self) -> Vec<ViewStats> {
        self.views.iter().map(|view| view.status().published()).collect()
    }

    pub(super) fn closing(&self) -> Closing {
        *self.closing.borrow()
    }

    /// Waits until the shutdown has reached this phase.
    pub(super) async fn closes(&self, phase: Closing) {
        // `self` owns the sender, so it exists.
        let _ = self.closing.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// The name of a view's notes. It contains the OID of the relation, so that a view that was
    /// dropped and created again has no notes.
    pub(super) fn note_name(&self, oid: u32) -> String {
        format!("{}:{oid}", self.database)
    }

    /// The names under which an announcement for a view is noted: with its schema, and without.
    /// They are names and not the OID: a name may become that of another view, and then results
    /// that have its tag are those of the earlier one.
    pub(super) fn names_of(&self, relation: &RelationName) -> Vec<String> {
        [relation.canonical(), relation.unqualified()].map(|it| self.announced(&it)).into()
    }

    /// The names under which an announcement must be noted, so that nothing is left to be done for
    /// the view under the name that it was given: also without the schema, if that has none. If
    /// two schemas have views of that name, each of their refreshes is announced once more.
    pub(super) fn names_under(&self, view: &View, relation: &RelationName) -> Vec<String> {
        let given = RelationName::parse(view.name());
        let mut names = self.names_of(relation);
        if given.is_some_and(|given| given.is_qualified()) {
            names.truncate(1);
        }
        names
    }

    fn announced(&self, name: &str) -> String {
        format!("{}:{name}", self.database)
    }
}

/// Identifies the rows that are read under a view's name: the relation, and the version in which
/// the rows became what they are.
pub(super) fn content_of(oid: u32, xmin: &str) -> String {
    format!("{oid}:{xmin}")
}
