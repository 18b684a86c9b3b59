//! [`Fleet`]: this process's part in the state that all processes of a service share.

pub(crate) mod following;
pub(crate) mod heartbeat;
pub(crate) mod leader;
pub(crate) mod notices;
mod rounds;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at, sleep, timeout};

use crate::background::Background;
use crate::clock::Clock;
use crate::currency::{Currency, Position};
use crate::fleet::heartbeat::Heartbeat;
use crate::fleet::notices::Notices;
use crate::l2::{Fill, Found, LEASE, LeaseOutcome, ReadReply, Store, StoreError};
use crate::value::key::CacheKey;
use crate::value::tag::TagSlot;
use crate::value::token::Token;

/// The shared tier, and the parts that keep this process's table of invalidations in step with it.
pub(crate) struct Fleet {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) notices: Arc<Notices>,
    heartbeat: Heartbeat,
    clock: Clock,
    background: Background,
    /// The number of leases that are ours, or are being requested or given back.
    leases: watch::Sender<usize>,
}

/// The pause before giving back a lease is tried again.
const AGAIN: Duration = Duration::from_millis(25);

/// The time limit of a shutdown's requests to Redis.
const FAREWELL: Duration = Duration::from_secs(1);

impl Fleet {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        notices: Arc<Notices>,
        heartbeat: Heartbeat,
        clock: Clock,
        background: Background,
    ) -> Fleet {
        Fleet { store, notices, heartbeat, clock, background, leases: watch::Sender::new(0) }
    }

    /// Waits for Redis after the background tasks have moved to another runtime, as long as one
    /// request may take.
    pub(crate) async fn resumed(&self) {
        self.heartbeat.resumed().await;
    }

    fn currency(&self) -> &Currency {
        &self.notices.currency
    }

    /// Whether the table is confirmed now.
    pub(crate) fn is_confirmed(&self) -> bool {
        let until = self.currency().confirmed_until();
        self.clock.now() < until
    }

    /// Requests a beat and waits for it. Returns whether the table is confirmed then.
    pub(crate) async fn confirm(&self) -> bool {
        self.heartbeat.beaten().await;
        self.is_confirmed()
    }

    /// Reads the content under a key. On return the table has all invalidations that were
    /// acknowledged when Redis was asked. It takes one round trip, and rarely a second.
    pub(crate) async fn look(&self, key: &CacheKey) -> Result<Found, StoreError> {
        let asked = self.currency().position();
        let glance = self.store.read(key).await?;
        if self.knows(&glance, asked) {
            return Ok(glance.found);
        }
        // The directory is ahead of the table, or has lost data, or this connection is new and it
        // is not known yet whether its server is of the same lineage.
        if self.confirm().await && self.knows(&glance, asked) {
            return Ok(glance.found);
        }
        let asked = self.currency().position();
        let glance = self.store.read(key).await?;
        if self.knows(&glance, asked) { Ok(glance.found) } else { Err(StoreError::Unavailable) }
    }

    /// The same for the first of these keys, as many of them as suit one round trip.
    pub(crate) async fn look_many(&self, keys: &[CacheKey]) -> Result<Vec<Found>, StoreError> {
        // All replies are of one connection and have one position of the directory.
        let knows = |replies: &[ReadReply], asked: Position| {
            replies.first().is_some_and(|reply| self.knows(reply, asked))
        };
        let found =
            |replies: Vec<ReadReply>| replies.into_iter().map(|reply| reply.found).collect();
        let asked = self.currency().position();
        let replies = self.store.read_many(keys).await?;
        if knows(&replies, asked) || self.confirm().await && knows(&replies, asked) {
            return Ok(found(replies));
        }
        let asked = self.currency().position();
        let replies = self.store.read_many(keys).await?;
        if knows(&replies, asked) { Ok(found(replies)) } else { Err(StoreError::Unavailable) }
    }

    fn knows(&self, glance: &ReadReply, asked: Position) -> bool {
        self.is_confirmed()
            && glance.directory.is_some_and(|directory| {
                self.currency().covers(directory, glance.connection, asked)
            })
    }

    /// Invalidates in this process at once, and in all others when it is announced.
    pub(crate) fn invalidate(&self, slots: &[TagSlot]) {
        self.currency().invalidate(slots);
    }

    /// Announces all pending invalidations. If it fails or is dropped, the next beat tries again.
    pub(crate) async fn announce(&self) -> Result<(), StoreError> {
        let again = AnnounceAgain(&self.notices);
        let outcome = self.heartbeat.announce().await;
        if outcome.is_ok() {
            std::mem::forget(again);
        }
        outcome
    }

    /// Guards a lease that is about to be requested. Redis may grant it and its reply be lost with
    /// the connection or with the caller. Then nobody would renew the lease, and everybody would
    /// wait until it expires.
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

    /// Announces what is pending, gives back all leases, and stops. Takes a second at most.
    pub(crate) async fn shut_down(&self) {
        let farewell = async {
            let _ = self.heartbeat.announce().await;
            let _ = self.leases.subscribe().wait_for(|&leases| leases == 0).await;
        };
        let _ = timeout(FAREWELL, farewell).await;
        self.close();
    }

    /// Stops at once.
    pub(crate) fn close(&self) {
        self.heartbeat.stop();
        self.store.close();
    }
}

/// Requests a beat when it is dropped: the beat announces what is pending.
struct AnnounceAgain<'a>(&'a Notices);

impl Drop for AnnounceAgain<'_> {
    fn drop(&mut self) {
        self.0.beat.notify_one();
    }
}

/// The right to load a key for all processes, until it is dropped.
///
/// It only saves work; correctness depends on stamps. If it is dropped, the waiters ask again and
/// one of them loads.
pub(crate) struct Lease {
    fleet: Arc<Fleet>,
    key: CacheKey,
    token: Token,
    renewal: Option<JoinHandle<()>>,
    /// The outcome that waiters are notified of when it is given back; `None` if it has been given
    /// back.
    done: Option<LeaseOutcome>,
}

impl Lease {
    /// Redis has granted the lease: it is renewed from now on until it is given back.
    pub(crate) fn granted(mut self) -> Lease {
        let (store, key, token) = (self.fleet.store.clone(), self.key, self.token);
        // Spawned on the runtime of the background tasks: the load may block the runtime that it runs on.
        self.renewal = Some(self.fleet.background.spawn(async move {
            let period = LEASE / 3;
            let mut ticks = interval_at(Instant::now() + period, period);
            loop {
                ticks.tick().await;
                // The lease was lost to another process. The load continues, because waiters in
                // this process need its result.
                if store.renew(&key, token).await == Ok(false) {
                    return;
                }
            }
        }));
        self
    }

    /// Redis did not grant the lease: there is nothing to give back.
    pub(crate) fn refused(mut self) {
        self.done = None;
    }

    /// Stores the result and gives the lease back. Returns whether the result was stored: a lease
    /// that expired may be held by another process by now.
    pub(crate) async fn fill(mut self, fill: Fill) -> Result<bool, StoreError> {
        // Without a reply it is unknown whether the result was stored, so the waiters have to ask.
        let outcome = self.fleet.store.fill(&self.key, fill).await;
        self.done = match outcome {
            Ok(_) => None,
            // The next process would hardly be faster. Nobody waits for it.
            Err(StoreError::TooSlow | StoreError::Busy) => Some(LeaseOutcome::NoResult),
            Err(StoreError::Unavailable) => self.done,
        };
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
        let counted = Counted(self.fleet.clone());
        let Some(done) = self.done else { return };
        let (key, token) = (self.key, self.token);
        self.fleet.background.spawn(async move {
            // Without a reply the lease would expire by itself, but only after its full time.
            let asked = Instant::now();
            let store = &counted.0.store;
            while store.release(&key, token, done).await.is_err() && asked.elapsed() < LEASE {
                sleep(AGAIN).await;
            }
        });
    }
}

/// One of [`Fleet::leases`], until this is dropped: also if a runtime ends with the task that gives
/// the lease back.
struct Counted(Arc<Fleet>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.leases.send_modify(|leases| *leases -= 1);
    }
}
