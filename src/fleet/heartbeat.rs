//! [`Heartbeat`]: the task that keeps the table of what is current confirmed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::clock::{self, Clock};
use crate::currency::{Applied, Currency};
use crate::fleet::notices::Backplane;
use crate::l2::{Store, StoreError};
use crate::telemetry::counters::{Counters, count};
use crate::telemetry::trace;

/// How often the table is confirmed while the cache is in use.
const INTERVAL: Duration = Duration::from_millis(250);
/// How often an announcement is tried that comes to an epoch which has just ended.
const TRIES: usize = 5;

/// Beats while the cache is in use, and announces what could not be announced at once.
///
/// It runs as a task of its own, in the runtime that the cache was built in, so that no caller who
/// stops polling can hold it up, and ends with its last owner. A cache that nobody uses is silent;
/// the next read finds the table unconfirmed and asks for a beat.
pub(crate) struct Heartbeat {
    pulse: Arc<Pulse>,
    task: JoinHandle<()>,
}

struct Pulse {
    store: Arc<dyn Store>,
    backplane: Arc<Backplane>,
    counters: Arc<Counters>,
    clock: Clock,
    max_staleness: Duration,
    /// How many beats have begun.
    begun: AtomicU64,
    /// How many have ended, well or not.
    ended: watch::Sender<u64>,
}

impl Heartbeat {
    pub(crate) fn start(
        runtime: &Handle,
        store: Arc<dyn Store>,
        backplane: Arc<Backplane>,
        counters: Arc<Counters>,
        clock: Clock,
        max_staleness: Duration,
    ) -> Heartbeat {
        let pulse = Arc::new(Pulse {
            store,
            backplane,
            counters,
            clock,
            max_staleness,
            begun: AtomicU64::new(0),
            ended: watch::Sender::new(0),
        });
        let task = runtime.spawn(pulse.clone().run());
        Heartbeat { pulse, task }
    }

    /// Waits for a beat that begins after this call, for no longer than it may take: what had been
    /// acknowledged before is in the table then, if the beat was answered.
    pub(crate) async fn beaten(&self) {
        if !self.pulse.store.is_connected() {
            return;
        }
        let mut ended = self.pulse.ended.subscribe();
        let next = self.pulse.begun.load(Ordering::SeqCst) + 1;
        self.pulse.backplane.beat.notify_one();
        let limit = self.pulse.store.limit();
        let _ = timeout(limit, ended.wait_for(|&ended| ended >= next)).await;
    }

    /// Announces all that is pending.
    pub(crate) async fn announce(&self) -> Result<(), StoreError> {
        self.pulse.announce().await
    }

    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Pulse {
    async fn run(self: Arc<Self>) {
        let every = INTERVAL.min(self.max_staleness / 4);
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reads = 0;
        loop {
            tokio::select! {
                () = self.backplane.beat.notified() => {}
                _ = ticks.tick() => {
                    let before = std::mem::replace(&mut reads, self.counters.reads());
                    if before == reads && self.currency().unannounced().is_none() {
                        continue;
                    }
                }
            }
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            if self.store.is_connected() {
                // First, so that nothing is read from a Redis that is back before it has heard what
                // was invalidated meanwhile. Where it cannot take them (it is full, say), they stay
                // pending, and with that in force here.
                if self.announce().await.is_err() {
                    count(&self.counters.l2_errors);
                }
                if self.beat().await.is_err() {
                    count(&self.counters.l2_errors);
                    // Redis refuses what holders of leases would do as well.
                    self.backplane.ask_all();
                }
            }
            self.ended.send_replace(number);
        }
    }

    fn currency(&self) -> &Currency {
        &self.backplane.currency
    }

    async fn beat(&self) -> Result<(), StoreError> {
        // The clock before the question is sent: whatever was acknowledged by then is in the answer,
        // and what comes later may not be, however late the answer is.
        let (sent, known) = (self.clock.now(), self.currency().position());
        let beat = self.store.beat(known).await?;
        let until = clock::after(sent, self.max_staleness);
        let heard = self.currency().beat(beat.at, &beat.slots, beat.connection, until);
        if heard == Applied::Ok && beat.at.epoch != known.epoch {
            count(&self.counters.epochs);
            trace::epoch(known.epoch, beat.at.epoch);
            // Their leases are lost with the rest.
            self.backplane.ask_all();
        }
        Ok(())
    }

    async fn announce(&self) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let Some(pending) = self.currency().unannounced() else { return Ok(()) };
            let at = self.store.invalidate(self.currency().position(), &pending.slots).await?;
            match self.currency().acknowledged(&pending, at) {
                Applied::Ok => {}
                Applied::OldEpoch => continue,
                Applied::Gap => {
                    self.beat().await?;
                    if self.currency().acknowledged(&pending, at) != Applied::Ok {
                        continue;
                    }
                }
            }
            return Ok(());
        }
        Err(StoreError::Unavailable)
    }
}
