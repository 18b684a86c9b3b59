//! What all processes of a namespace publish about their caches.

use crate::cache::QueryCache;
use crate::l2::StoreError;
use crate::telemetry::stats::Roll;

impl QueryCache {
    /// What all processes of the namespace publish. Without a shared tier that is nothing.
    #[allow(dead_code)] // Asked for by the command only.
    pub(crate) async fn roll(&self) -> Result<Roll, StoreError> {
        match &self.inner.fleet {
            Some(fleet) => {
                let snapshots = fleet.store.published().await?;
                Ok(Roll::new(snapshots.into_iter().map(|it| (it.bytes, it.remaining))))
            }
            None => Ok(Roll::default()),
        }
    }
}
