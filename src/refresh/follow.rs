//! Refreshes by others: psql, pg_cron, a process that was killed between its commit and its
//! announcement. Noticed by looking, and, where an event trigger tells, by looking at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::plan::Order;
use super::shared::{Closing, Shared, content_of};
use crate::backoff;
use crate::error::BoxError;
use crate::metrics;
use crate::postgres::matview::lineage::Lineage;
use crate::postgres::matview::listen::Listen;
use crate::postgres::matview::session::Session;
use crate::postgres::matview::sight;
use crate::trace;

/// How long a process of the fleet has to announce what it has committed. After that it is dead, or
/// cut off, and whoever notices announces it.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(1);

const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What was done about each state of a view that was seen.
pub(super) struct Followed {
    names: Vec<String>,
    views: HashMap<usize, State>,
}

struct State {
    xmin: String,
    oid: u32,
    since: Instant,
    handled: bool,
}

impl Followed {
    pub(super) fn new(shared: &Shared) -> Followed {
        let names = shared.views.iter().map(|view| view.name().to_string()).collect();
        Followed { names, views: HashMap::new() }
    }

    /// Looks at all views once, and makes stale what a refresh has changed.
    pub(super) async fn look(&mut self, shared: &Arc<Shared>) -> Result<(), BoxError> {
        let mut session = Session::open(&shared.source).await?;
        let seen = sight::glance(&mut session, &self.names).await?;
        let oids: Vec<_> = seen.iter().map(|seen| Some(seen.as_ref()?.0)).collect();
        if !shared.order.read().await.is_of(&oids) {
            let known: Vec<u32> = oids.iter().copied().flatten().collect();
            let lineage = Lineage::of(&mut session, &known).await?;
            *shared.order.write().await = Arc::new(Order::new(oids, &lineage));
        }
        drop(session);
        let now = shared.clock.wall();
        for (at, seen) in seen.into_iter().enumerate() {
            let Some((oid, seen)) = seen else {
                self.views.remove(&at);
                continue;
            };
            shared.views[at].saw(now, &seen);
            let is_known = |state: &State| state.xmin == seen.xmin && state.oid == oid;
            if !self.views.get(&at).is_some_and(is_known) {
                let (xmin, since) = (seen.xmin, Instant::now());
                self.views.insert(at, State { xmin, oid, since, handled: false });
            }
        }
        for (&at, state) in &mut self.views {
            if !state.handled {
                state.handled = shared.follow(at, state).await;
            }
        }
        Ok(())
    }

    /// Whether a process is being given the time to announce its refresh.
    fn is_waiting(&self) -> bool {
        self.views.values().any(|state| !state.handled)
    }
}

impl Shared {
    /// Does what is to be done about a state of a view; whether nothing is left to do.
    async fn follow(&self, at: usize, state: &State) -> bool {
        let (view, name) = (&self.views[at], self.note_name(state.oid));
        // Rows that a refresh has left as they were are those of an earlier state. Whoever made that
        // one may have died before they announced it.
        let note = self.notes.of(&name, &state.xmin).await;
        let content = note.as_ref().map_or(&state.xmin, |note| &note.content);
        let (tag, content) = (self.tag_name(view), content_of(state.oid, content));
        let mut noticed = false;
        for (at, cache) in self.caches.iter().enumerate() {
            if self.notes.is_announced(at, &tag, &content).await {
                continue;
            }
            if note.is_some() && state.since.elapsed() < ANNOUNCED_WITHIN {
                return false;
            }
            noticed = true;
            // What could not be announced is kept by the cache, which does so when Redis is back.
            if cache.invalidate([view.view.tag()]).await.is_ok() {
                self.notes.announced(at, &tag, &content).await;
            }
        }
        if noticed {
            view.status().noticed += 1;
            trace::noticed(view.name());
            metrics::noticed(view.name());
        }
        true
    }
}

/// Looks again and again, until the refresher ends.
pub(super) async fn run(shared: Arc<Shared>, mut followed: Followed) {
    let mut failed = 0;
    loop {
        let pause = match followed.is_waiting() {
            // However long the interval: somebody may have told of what was to be seen.
            _ if failed > 0 => backoff::delay(failed, RECONNECT.0, RECONNECT.1),
            true => shared.poll.min(ANNOUNCED_WITHIN / 4),
            false => shared.poll,
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.look.notified() => {}
            () = shared.closes(Closing::Finishing) => return,
        }
        let looked = tokio::select! {
            looked = followed.look(&shared) => looked,
            // A server or a pool that does not answer is not waited for.
            () = shared.closes(Closing::Cancelling) => return,
        };
        failed = match looked {
            Ok(()) => 0,
            Err(_) => failed + 1,
        };
    }
}

/// Keeps a connection on which the event trigger's notices come.
pub(super) async fn listen(shared: Arc<Shared>, listen: Listen) {
    let mut failed = 0;
    loop {
        let begin = Instant::now();
        tokio::select! {
            _ = listen(shared.look.clone()) => {}
            () = shared.closes(Closing::Finishing) => return,
        }
        failed = if begin.elapsed() > RECONNECT.1 { 0 } else { failed + 1 };
        tokio::select! {
            () = sleep(backoff::delay(failed, RECONNECT.0, RECONNECT.1)) => {}
            () = shared.closes(Closing::Finishing) => return,
        }
    }
}
