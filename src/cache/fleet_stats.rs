//! The statistics that all processes of a namespace publish.

use crate::cache::QueryCache;
use crate::l2::StoreError;
use crate::telemetry::stats::Roll;

impl QueryCache {
    /// Returns the statistics of all processes of the namespace, or none without a shared tier.
    #[allow(dead_code)] // Used by the command only.
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
