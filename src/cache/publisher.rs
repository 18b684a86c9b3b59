//! [`Publisher`]: the task that writes the statistics of a cache to the shared tier.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::background::{Background, BackgroundTask};
use crate::cache::collector::Collector;
use crate::l2::Store;
use crate::telemetry::counters::count;
use crate::telemetry::stats::LASTS;
use crate::value::token::Token;

/// Publishes the statistics of a cache at an interval, and withdraws them when it is dropped.
///
/// It runs as a task of its own, and no read waits for it. A failure is counted, and the next write
/// replaces the failed one.
pub(crate) struct Publisher {
    id: Arc<str>,
    store: Arc<dyn Store>,
    background: Background,
    task: BackgroundTask,
}

impl Publisher {
    pub(crate) fn start(
        background: &Background,
        store: Arc<dyn Store>,
        collector: Collector,
        every: Duration,
    ) -> Publisher {
        let id: Arc<str> = format!("{:032x}", u128::from_be_bytes(Token::random().0)).into();
        let began = Instant::now();
        let task = background.keep({
            let (store, id) = (store.clone(), id.clone());
            move |_| run(store.clone(), collector.clone(), id.clone(), began, every)
        });
        Publisher { id, store, background: background.clone(), task }
    }

    /// Stops the task and removes the published statistics.
    pub(crate) async fn withdraw(&self) {
        self.task.stop();
        // If this fails, the statistics expire by themselves.
        let _ = self.store.withdraw(&self.id).await;
    }
}

async fn run(
    store: Arc<dyn Store>,
    collector: Collector,
    id: Arc<str>,
    began: Instant,
    every: Duration,
) {
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
        self.task.stop();
        let (id, store) = (self.id.clone(), self.store.clone());
        // Sent on the same connection, so Redis receives it after the last publication.
        self.background.spawn(async move { store.withdraw(&id).await });
    }
}
