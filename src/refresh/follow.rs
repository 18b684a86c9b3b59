//! Detects refreshes made by others: psql, pg_cron, or a process that was killed between its commit
//! and its announcement. It polls PostgreSQL, and looks at once when the event trigger sends a
//! notification.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::events;
use super::plan::Order;
use super::shared::{Closing, Shared, content_of};
use crate::backoff;
use crate::credentials::CredentialsProvider;
use crate::error::BoxError;
use crate::refresh::postgres::credentials::PostgresCredentials;
use crate::refresh::postgres::lineage::Lineage;
use crate::refresh::postgres::listen::{Heard, Listen};
use crate::refresh::postgres::session::Session;
use crate::refresh::postgres::state;
use crate::value::relation::{self, RelationName};

/// How long a process of the fleet may take to announce what it has committed. After that it is
/// considered dead or disconnected, and the process that detects the refresh announces it.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(1);

const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The version that each view was last seen in, and whether it was handled.
pub(super) struct Followed {
    names: Vec<String>,
    views: HashMap<usize, State>,
}

struct State {
    xmin: String,
    oid: u32,
    relation: RelationName,
    since: Instant,
    handled: bool,
}

impl Followed {
    pub(super) fn new(shared: &Shared) -> Followed {
        let names = shared.views.iter().map(|view| view.name().to_string()).collect();
        Followed { names, views: HashMap::new() }
    }

    /// Looks at all views once, and makes results stale that read a changed view.
    pub(super) async fn look(&mut self, shared: &Arc<Shared>) -> Result<(), BoxError> {
        let mut session = Session::open(&shared.source).await?;
        let found = state::glance(&mut session, &self.names).await?;
        let oids: Vec<_> = found.iter().map(|found| Some(found.as_ref()?.oid)).collect();
        if !shared.order.read().await.is_of(&oids) {
            let known: Vec<u32> = oids.iter().copied().flatten().collect();
            let lineage = Lineage::of(&mut session, &known).await?;
            *shared.order.write().await = Arc::new(Order::new(oids, &lineage));
        }
        drop(session);
        let now = shared.clock.wall();
        for (at, found) in found.into_iter().enumerate() {
            let Some(state::FoundView { oid, schema, name, version }) = found else {
                self.views.remove(&at);
                continue;
            };
            shared.views[at].saw(now, &version);
            let relation = RelationName::of(&schema, &name);
            let is_known = |state: &State| {
                state.xmin == version.xmin && state.oid == oid && state.relation == relation
            };
            if !self.views.get(&at).is_some_and(is_known) {
                let view = &shared.views[at];
                events::seen(&view.namespaces, view.name(), now);
                let (xmin, since) = (version.xmin, Instant::now());
                self.views.insert(at, State { xmin, oid, relation, since, handled: false });
            }
        }
        for (&at, state) in &mut self.views {
            if !state.handled {
                state.handled = shared.follow(at, state).await;
            }
        }
        Ok(())
    }

    /// Whether another process still has time to announce its refresh.
    fn is_waiting(&self) -> bool {
        self.views.values().any(|state| !state.handled)
    }
}

impl Shared {
    /// Handles a version of a view. Returns `true` if nothing is left to do.
    async fn follow(&self, at: usize, state: &State) -> bool {
        let (view, name) = (&self.views[at], self.note_name(state.oid));
        // If a refresh changed no row, the rows are those of an earlier version. The process that
        // made that version may have died before it announced it.
        let note = self.notes.of(&name, &state.xmin).await;
        let content = note.as_ref().map_or(&state.xmin, |note| &note.content);
        let content = content_of(state.oid, content);
        let names = self.names_of(&state.relation);
        let mine = self.names_under(view, &state.relation);
        let mut noticed = false;
        for (at, cache) in self.caches.iter().enumerate() {
            if self.notes.is_announced(at, &mine, &content).await {
                continue;
            }
            if note.is_some() && state.since.elapsed() < ANNOUNCED_WITHIN {
                return false;
            }
            noticed = true;
            // If Redis does not acknowledge it, the cache keeps it and repeats it when Redis is back.
            let tags = relation::tags_of_refresh(view.name(), &state.relation);
            if cache.invalidate(tags).await.is_acknowledged() {
                self.notes.announced(at, &names, &content).await;
            }
        }
        if noticed {
            view.status().noticed += 1;
            events::noticed(&view.namespaces, view.name());
        }
        true
    }
}

/// Polls until the refresher ends.
pub(super) async fn run(shared: Arc<Shared>, mut followed: Followed) {
    let mut failed = 0;
    loop {
        let pause = if failed > 0 {
            // After a failure, do not wait for the poll interval, which may be long: a notification
            // may have caused the look that failed.
            backoff::delay(failed, RECONNECT.0, RECONNECT.1)
        } else if followed.is_waiting() {
            shared.poll.min(ANNOUNCED_WITHIN / 4)
        } else {
            shared.poll
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.look.notified() => {}
            () = shared.closes(Closing::Finishing) => return,
        }
        let looked = tokio::select! {
            looked = followed.look(&shared) => looked,
            // Shutdown does not wait for a server or a pool that does not answer.
            () = shared.closes(Closing::Cancelling) => return,
        };
        failed = match looked {
            Ok(()) => 0,
            Err(_) => failed + 1,
        };
    }
}

/// Keeps a connection open that receives the notifications of the event trigger.
pub(super) async fn listen(
    shared: Arc<Shared>,
    listen: Listen,
    provider: Option<CredentialsProvider<PostgresCredentials>>,
) {
    let this = Arc::downgrade(&shared);
    let heard = Arc::new(move |heard| {
        let Some(shared) = this.upgrade() else { return };
        if heard == Heard::Listening {
            shared.listens();
        }
        shared.look.notify_one();
    });
    let mut failed = 0;
    loop {
        let begin = Instant::now();
        tokio::select! {
            ended = listen(provider.clone(), heard.clone()) => {
                if let Err(reason) = ended {
                    shared.does_not_listen(reason.finding());
                }
            }
            () = shared.closes(Closing::Finishing) => return,
        }
        failed = if begin.elapsed() > RECONNECT.1 { 0 } else { failed + 1 };
        tokio::select! {
            () = sleep(backoff::delay(failed, RECONNECT.0, RECONNECT.1)) => {}
            () = shared.closes(Closing::Finishing) => return,
        }
    }
}
