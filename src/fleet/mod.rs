//! [`Fleet`]: this process's part in what all processes of a service share.

pub(crate) mod heartbeat;
pub(crate) mod notices;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at, sleep, timeout};

use crate::clock::Clock;
use crate::currency::{Currency, Position};
use crate::fleet::heartbeat::Heartbeat;
use crate::fleet::notices::Backplane;
use crate::l2::{Fill, Found, LEASE, LeaseOutcome, ReadReply, Store, StoreError};
use crate::value::key::CacheKey;
use crate::value::tag::TagSlot;
use crate::value::token::Token;

/// The shared tier, and what keeps this process's table of what is current in step with it.
pub(crate) struct Fleet {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) backplane: Arc<Backplane>,
    heartbeat: Heartbeat,
    clock: Clock,
    runtime: Handle,
    /// How many leases are ours, or being asked for or given back.
    leases: watch::Sender<usize>,
}

/// After how long giving back a lease is tried again.
const AGAIN: Duration = Duration::from_millis(25);

/// How long shutting down waits for Redis.
const FAREWELL: Duration = Duration::from_secs(1);

impl Fleet {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        backplane: Arc<Backplane>,
        heartbeat: Heartbeat,
        clock: Clock,
        runtime: Handle,
    ) -> Fleet {
        Fleet { store, backplane, heartbeat, clock, runtime, leases: watch::Sender::new(0) }
    }

    fn currency(&self) -> &Currency {
        &self.backplane.currency
    }

    /// Whether the table is confirmed at this moment.
    pub(crate) fn is_confirmed(&self) -> bool {
        let until = self.currency().confirmed_until();
        self.clock.now() < until
    }

    /// Asks for a beat and waits for it. Whether the table is confirmed then.
    pub(crate) async fn confirm(&self) -> bool {
        self.heartbeat.beaten().await;
        self.is_confirmed()
    }

    /// What is under a key, and a table that knows all invalidations that had been acknowledged when
    /// Redis was asked: one round trip, and rarely a second.
    pub(crate) async fn look(&self, key: &CacheKey) -> Result<Found, StoreError> {
        let asked = self.currency().position();
        let glance = self.store.read(key).await?;
        if self.knows(&glance, asked) {
            return Ok(glance.found);
        }
        // The directory is ahead of the table, or has lost something, or this connection is new and
        // nobody knows yet whether its server is of the same lineage.
        if self.confirm().await && self.knows(&glance, asked) {
            return Ok(glance.found);
        }
        let asked = self.currency().position();
        let glance = self.store.read(key).await?;
        if self.knows(&glance, asked) { Ok(glance.found) } else { Err(StoreError::Unavailable) }
    }

    fn knows(&self, glance: &ReadReply, asked: Position) -> bool {
        self.is_confirmed()
            && glance.directory.is_some_and(|directory| {
                self.currency().covers(directory, glance.connection, asked)
            })
    }

    /// Invalidates in this process at once, and in all others when this has returned.
    pub(crate) async fn invalidate(&self, slots: &[TagSlot]) -> Result<(), StoreError> {
        self.currency().invalidate(slots);
        let outcome = self.heartbeat.announce().await;
        if outcome.is_err() {
            self.backplane.beat.notify_one();
        }
        outcome
    }

    /// Takes care of a lease that is about to be asked for. Redis may grant it, and its answer be
    /// lost with the connection, or with whoever asked: nobody would renew it, and everybody would
    /// wait until it ends.
    pub(crate) fn ask(self: &Arc<Self>, key: CacheKey, token: Token) -> Lease {
        self.leases.send_modify(|leases| *leases += 1);
        Lease {
            fleet: self.clone(),
            key,
            token,
            renewal: None,
            done: Some(LeaseOutcome::Superseded),
        }
    }

    /// Announces what is pending, gives back all leases, and stops: for a second at most.
    pub(crate) async fn shut_down(&self) {
        let farewell = async {
            let _ = self.heartbeat.announce().await;
            let _ = self.leases.subscribe().wait_for(|&leases| leases == 0).await;
        };
        let _ = timeout(FAREWELL, farewell).await;
        self.heartbeat.stop();
        self.store.close();
    }
}

/// The right to load a key for all processes, until it is dropped.
///
/// It is about efficiency only: correctness rests on stamps. If it is dropped, whoever waits asks
/// again, and one of them loads.
pub(crate) struct Lease {
    fleet: Arc<Fleet>,
    key: CacheKey,
    token: Token,
    renewal: Option<JoinHandle<()>>,
    /// What those who wait are told when it is given back; `None` if that has been done.
    done: Option<LeaseOutcome>,
}

impl Lease {
    /// Redis granted it: renewed from now on, until it is given back.
    pub(crate) fn granted(mut self) -> Lease {
        let (store, key, token) = (self.fleet.store.clone(), self.key, self.token);
        // On the cache's own runtime: the load may block the one that it runs on.
        self.renewal = Some(self.fleet.runtime.spawn(async move {
            let period = LEASE / 3;
            let mut ticks = interval_at(Instant::now() + period, period);
            loop {
                ticks.tick().await;
                // Lost to another process. The load goes on: whoever waits here needs its result.
                if store.renew(&key, token).await == Ok(false) {
                    return;
                }
            }
        }));
        self
    }

    /// Redis did not grant it: there is nothing to give back.
    pub(crate) fn refused(mut self) {
        self.done = None;
    }

    /// Stores the result and gives the lease back. Whether it was stored: a lease that ran out may
    /// be another's by now.
    pub(crate) async fn fill(mut self, fill: Fill) -> Result<bool, StoreError> {
        // Without an answer nobody knows whether it was carried out: those who wait have to ask.
        let outcome = self.fleet.store.fill(&self.key, fill).await;
        if outcome.is_ok() {
            self.done = None;
        }
        outcome
    }

    /// Gives the lease back without an entry.
    pub(crate) fn release(mut self, done: LeaseOutcome) {
        self.done = Some(done);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(renewal) = &self.renewal {
            renewal.abort();
        }
        let fleet = self.fleet.clone();
        let Some(done) = self.done else {
            return fleet.leases.send_modify(|leases| *leases -= 1);
        };
        let (key, token) = (self.key, self.token);
        self.fleet.runtime.spawn(async move {
            // Without an answer it ends by itself, but that takes its time.
            let asked = Instant::now();
            while fleet.store.release(&key, token, done).await.is_err() && asked.elapsed() < LEASE {
                sleep(AGAIN).await;
            }
            fleet.leases.send_modify(|leases| *leases -= 1);
        });
    }
}
