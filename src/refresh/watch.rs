//! Watches a running refresh from another connection: does it wait for a lock, and for whom?

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::shared::{Shared, View};
use crate::postgres::cancel::LIMIT;
use crate::refresh::postgres::blocker::{self, LockWait};
use crate::refresh::postgres::session::Session;

/// When the first look comes. Most refreshes have their locks by then.
const FIRST: Duration = Duration::from_millis(200);

/// The longest pause between two looks.
const LONGEST: Duration = Duration::from_secs(2);

/// The pause after a look that found a wait.
const WAITING: Duration = Duration::from_millis(500);

/// How long to wait for a connection to look over. The refresh does not need the look.
const CONNECT: Duration = Duration::from_secs(1);

/// How a refresh ran.
pub(super) struct Watched {
    pub(super) took: Duration,
    /// The wait for a lock that it was in when it was last looked at.
    pub(super) wait: Option<LockWait>,
}

impl Shared {
    /// Runs a statement of the server process `pid`, and shows meanwhile in the view's status for
    /// whom it waits. `shortest`: the shortest time limit of the statement.
    pub(super) async fn watch<T>(
        self: &Arc<Self>,
        view: &View,
        pid: i32,
        shortest: Duration,
        statement: impl Future<Output = T>,
    ) -> (T, Watched) {
        let (clock, shown) = (Instant::now(), ShownWait(view));
        let mut statement = pin!(statement);
        let mut pause = FIRST.min(shortest / 2);
        let (mut seen, mut next) = (None, pause);
        let done = loop {
            let look = async {
                sleep(next).await;
                // A task of its own: if the statement ends during the look, the look's connection
                // is returned to the pool in good order.
                tokio::spawn(look(self.clone(), pid)).await.ok().flatten()
            };
            tokio::select! {
                biased;
                done = &mut statement => break done,
                found = look => seen = found.map(|wait| (wait, Instant::now())),
            }
            shown.set(seen.as_ref().map(|(wait, _)| wait));
            pause = (pause * 2).min(LONGEST);
            next = if seen.is_some() { WAITING.min(pause) } else { pause };
        };
        let wait = seen.map(|(wait, at)| wait.lasts_for(at.elapsed()));
        (done, Watched { took: clock.elapsed(), wait })
    }
}

/// `None` if the process waits for no lock, or if this cannot be found out.
async fn look(shared: Arc<Shared>, pid: i32) -> Option<LockWait> {
    let mut session = timeout(CONNECT, Session::open(&shared.source)).await.ok()?.ok()?;
    timeout(LIMIT, blocker::waits(&mut session, pid)).await.ok()?.ok()?
}

/// Shows a wait in the view's status until it is dropped.
struct ShownWait<'a>(&'a View);

impl ShownWait<'_> {
    fn set(&self, wait: Option<&LockWait>) {
        let findings = wait.map(LockWait::findings).unwrap_or_default();
        self.0.status().waits_for = findings;
    }
}

impl Drop for ShownWait<'_> {
    fn drop(&mut self) {
        self.set(None);
    }
}
