//! [`Follower`]: announces what is committed in the database, by whomever.
//!
//! It reads PostgreSQL's stream of changes from a slot of its own ([`slot`], [`stream`]) and keeps what
//! each transaction has written to ([`decoded`]). A transaction is decoded before others can see it, so
//! it is announced when a snapshot shows it ([`round`]); a load that began before would count as
//! current otherwise, and lack it. Definitions are not in the stream; the catalogs are compared
//! instead ([`definitions`], [`schema`]). One process of a fleet leads and another one stands by
//! ([`leader`]).

mod decoded;
mod definitions;
pub(crate) mod failure;
mod leader;
mod round;
mod schema;
mod server;
pub(crate) mod settings;
mod slot;
mod snapshot;
mod status;
mod stream;
#[cfg(all(test, feature = "redis"))]
mod tests;
mod verified;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use self::failure::Failure;
use self::leader::Run;
use self::server::Server;
pub use self::settings::Follow;
use self::slot::SlotNames;
use self::status::Status;
use crate::background::{Background, BackgroundTask};
use crate::clock::Clock;
use crate::fleet::following::Following;
use crate::patience::within;
use crate::telemetry::counters::Counters;
use crate::telemetry::stats::FollowStats;

/// The follower of a cache. Its task ends with it.
pub(crate) struct Follower {
    following: Following,
    status: Arc<Status>,
    wake: Arc<Notify>,
    task: BackgroundTask,
    database: Option<String>,
}

/// A cache is built without an answer after this.
const CHECKED_WITHIN: Duration = Duration::from_secs(2);

/// Connects once, as a follower will, to see whether something stands in the way that lasts.
pub(crate) async fn check(follow: &Follow) -> Result<(), Failure> {
    match within(CHECKED_WITHIN, Server::connect(&follow.endpoint)).await {
        Some(Err(failure)) if failure.kind.is_lasting() => Err(failure),
        _ => Ok(()),
    }
}

impl Follower {
    pub(crate) fn start(
        background: &Background,
        follow: Follow,
        namespace: &str,
        following: Following,
        clock: Clock,
        counters: Arc<Counters>,
    ) -> Follower {
        let names = match &following {
            Following::Fleet(_) => SlotNames::shared(namespace),
            Following::Alone(_) => SlotNames::alone(),
        };
        let (status, wake) = (Arc::new(Status::new(counters)), Arc::new(Notify::new()));
        let database = follow.endpoint.database();
        let run = Run {
            endpoint: follow.endpoint,
            is_gated: follow.is_gated,
            names,
            following: following.clone(),
            clock,
            status: status.clone(),
            wake: wake.clone(),
        };
        let task = background.keep(move |_| run.clone().run());
        Follower { following, status, wake, task, database }
    }

    pub(crate) fn stats(&self) -> FollowStats {
        self.status.stats()
    }

    /// The name of the database that is followed, if the configuration says it.
    pub(crate) fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// Waits until what is visible in the database now is in the table of this process.
    pub(crate) async fn caught_up(&self, limit: Duration) -> bool {
        self.wake.notify_one();
        self.following.caught_up(limit).await
    }

    /// Ends it for good.
    pub(crate) fn stop(&self) {
        self.task.stop();
    }
}
