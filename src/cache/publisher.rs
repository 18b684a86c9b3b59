//! [`Publisher`]: the task that tells the fleet what a cache did.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::cache::collector::Collector;
use crate::l2::Store;
use crate::telemetry::counters::count;
use crate::telemetry::stats::LASTS;
use crate::value::token::Token;

/// Publishes a cache's collector from time to time, until it is dropped; then they are withdrawn.
///
/// It is a task of its own, and nobody waits for it. What fails is counted, and done anew at the
/// next time.
pub(crate) struct Publisher {
    id: Arc<str>,
    store: Arc<dyn Store>,
    runtime: Handle,
    task: JoinHandle<()>,
}

impl Publisher {
    pub(crate) fn start(
        runtime: &Handle,
        store: Arc<dyn Store>,
        collector: Collector,
        every: Duration,
    ) -> Publisher {
        let id: Arc<str> = format!("{:032x}", u128::from_be_bytes(Token::random().0)).into();
        let run = run(store.clone(), collector, id.clone(), every);
        Publisher { id, store, runtime: runtime.clone(), task: runtime.spawn(run) }
    }

    /// Stops, and takes back what it has published.
    pub(crate) async fn withdraw(&self) {
        self.task.abort();
        // It ends by itself otherwise.
        let _ = self.store.withdraw(&self.id).await;
    }
}

async fn run(store: Arc<dyn Store>, collector: Collector, id: Arc<str>, every: Duration) {
    let began = Instant::now();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(snapshot) = collector.published(&id, began.elapsed(), every) else { continue };
        if store.publish(&id, snapshot, LASTS * every).await.is_err() {
            count(&collector.counters.unpublished);
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
        let (id, store) = (self.id.clone(), self.store.clone());
        // After what it has sent on the same connection.
        self.runtime.spawn(async move { store.withdraw(&id).await });
    }
}
