//! [`Open`]: a transaction that the cache has begun, and that ends in any case.

use futures_util::FutureExt;
use tokio_postgres::Client;

use super::outdated::Failed;

pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// The setting that allows parallel workers.
#[cfg(feature = "sqlx")]
pub(super) const WORKERS: &str = "max_parallel_workers_per_gather";

/// Without parallel workers, whose locks are not the session's. After the settings of a query, which may
/// allow them.
pub(super) const SERIALLY: &str = "SET LOCAL max_parallel_workers_per_gather = 0";

/// A transaction that has begun. If it is dropped before it has ended, such as when a load is given up
/// or panics, it is rolled back, so that nothing that was set stays on the connection.
pub(super) struct Open<'c> {
    client: &'c Client,
    ended: bool,
}

impl<'c> Open<'c> {
    /// A transaction whose begin is sent next.
    pub(super) fn new(client: &'c Client) -> Open<'c> {
        Open { client, ended: false }
    }

    pub(super) fn has_ended(&mut self) {
        self.ended = true;
    }

    /// Ends the transaction after an error, and returns the error.
    pub(super) async fn roll_back(&mut self, failed: Failed) -> Failed {
        match self.client.batch_execute("ROLLBACK").await {
            Ok(()) => {
                self.ended = true;
                failed
            }
            Err(_) => Failed::Connection(failed.into_error()),
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // The first poll sends it. The reply is not needed.
            let _ = self.client.batch_execute("ROLLBACK").now_or_never();
        }
    }
}
