//! [`Heartbeat`]: the task that keeps the table of invalidations confirmed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::background::{Background, BackgroundTask};
use crate::clock::{self, Clock};
use crate::currency::{Applied, Currency, Round};
use crate::fleet::leader::{LeaderWatch, Standing};
use crate::fleet::notices::Notices;
use crate::fleet::rounds::Rounds;
use crate::l2::{Store, StoreError, WAITED_FOR};
use crate::patience::within;
use crate::policy::MAX_BLIND;
use crate::telemetry::counters::{Counters, count};
use crate::telemetry::trace;

/// The interval between attempts to announce what Redis has refused, its memory being full for
/// example.
const AGAIN: Duration = Duration::from_millis(250);
/// For how long, at least, an acknowledged invalidation is announced again if another epoch begins. A
/// process that is left with a deposed master for longer was not told to demand replicas.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The maximum time limit of a beat.
const LONGEST: Duration = Duration::from_secs(1);
/// How many slots a page of a beat's reply has, at most. Redis is blocked for half a millisecond by a
/// page of this size.
const PAGE: usize = 1000;
/// How often an announcement is retried if it reaches an epoch that has just ended.
const TRIES: usize = 5;

/// Beats while the cache is in use, and announces the invalidations that are still pending.
///
/// It runs as a task of its own, on the runtime that the cache was built on, or that it moved to. So a caller that stops
/// polling cannot delay it. It ends with its last owner. The heartbeat of an unused cache is
/// silent; the next read finds the table unconfirmed and requests a beat.
pub(crate) struct Heartbeat {
    pulse: Arc<Pulse>,
    task: BackgroundTask,
}

struct Pulse {
    store: Arc<dyn Store>,
    notices: Arc<Notices>,
    counters: Arc<Counters>,
    clock: Clock,
    max_staleness: Duration,
    /// The same of results that are followed, counted from the commit; `None` if this process has no
    /// follower.
    max_blind: Option<Duration>,
    /// The number of reads when the last beat was sent.
    reads: AtomicU64,
    /// The follower that leads, as far as beats have shown it.
    leader: LeaderWatch,
    /// The time limit of a beat. A beat may take longer than a read, whose caller waits: up to
    /// this, its reply still confirms the table for a while.
    limit: Duration,
    rounds: Arc<Rounds>,
    /// The number of beats that have begun.
    begun: AtomicU64,
    /// The number of beats that have ended, successfully or not.
    ended: watch::Sender<u64>,
}

impl Heartbeat {
    pub(crate) fn start(
        background: &Background,
        store: Arc<dyn Store>,
        notices: Arc<Notices>,
        counters: Arc<Counters>,
        clock: Clock,
        max_staleness: Duration,
        max_blind: Option<Duration>,
    ) -> Heartbeat {
        let limit = (max_staleness / 2).min(LONGEST).max(store.limit());
        let pulse = Arc::new(Pulse {
            store,
            notices,
            counters,
            clock,
            max_staleness,
            max_blind,
            reads: AtomicU64::new(0),
            leader: LeaderWatch::default(),
            limit,
            rounds: Arc::default(),
            begun: AtomicU64::new(0),
            ended: watch::Sender::new(0),
        });
        let task = background.keep({
            let pulse = pulse.clone();
            move |_| pulse.clone().run()
        });
        Heartbeat { pulse, task }
    }

    /// Waits for a beat that begins after this call, at most as long as a beat may take. If the
    /// beat was answered, the table has everything that was acknowledged before the call.
    pub(crate) async fn beaten(&self) {
        if !self.pulse.store.is_connected() {
            return;
        }
        let mut ended = self.pulse.ended.subscribe();
        let next = self.pulse.begun.load(Ordering::SeqCst) + 1;
        self.pulse.notices.beat.notify_one();
        let limit = self.pulse.store.limit();
        let _ = within(limit, ended.wait_for(|&ended| ended >= next)).await;
    }

    /// Waits until there is a connection and a beat was answered on it, at most as long as a request
    /// may take.
    pub(crate) async fn resumed(&self) {
        let mut ended = self.pulse.ended.subscribe();
        let limit = self.pulse.store.limit();
        ended.mark_unchanged();
        self.pulse.notices.beat.notify_one();
        let resumed =
            async { while ended.changed().await.is_ok() && !self.pulse.store.is_connected() {} };
        let _ = within(limit, resumed).await;
    }

    /// Announces all pending invalidations. Without a connection it waits for one, for a second at
    /// most.
    ///
    /// A failure always yields to the runtime first. Otherwise a caller that tries again at once
    /// could keep the thread from the tasks that connect again.
    pub(crate) async fn announce(&self) -> Result<(), StoreError> {
        // A connection that comes at the end of the wait still has the time of any other call.
        let limit = WAITED_FOR + self.pulse.store.limit().min(WAITED_FOR);
        let outcome = self.pulse.announced(limit).await;
        if outcome.is_err() {
            yield_now().await;
        }
        outcome
    }

    pub(crate) fn stop(&self) {
        self.task.stop();
    }

    /// The follower that leads, if one has in this epoch, as the last beat has shown it.
    pub(crate) fn leader(&self) -> Option<Standing> {
        self.pulse.leader.standing()
    }

    /// How late a change of the database may be noticed.
    pub(crate) fn max_blind(&self) -> Duration {
        self.pulse.max_blind.unwrap_or(MAX_BLIND)
    }
}

impl Pulse {
    async fn run(self: Arc<Self>) {
        let every = self.max_staleness.min(self.max_blind.unwrap_or(Duration::MAX)) / 4;
        let mut reads = 0;
        let mut forgot = Instant::now();
        loop {
            if forgot.elapsed() >= REMEMBERED {
                forgot = Instant::now();
                self.currency().forget_acknowledged();
            }
            let pause = if self.currency().has_pending() { every.min(AGAIN) } else { every };
            tokio::select! {
                () = self.notices.beat.notified() => {}
                () = sleep(pause) => {
                    let before = std::mem::replace(&mut reads, self.counters.reads());
                    let is_idle = before == reads && !self.currency().has_acknowledged();
                    if is_idle && !self.currency().has_pending() {
                        continue;
                    }
                }
            }
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            if self.store.is_connected() {
                // Announced first, so that nothing is read from a Redis that is back before it has
                // the invalidations of the outage. If Redis cannot accept them (its memory is full,
                // for example), they stay pending and therefore in force in this process.
                // A table that is not confirmed in time helps nobody, so an announcement that takes
                // long is left to its next attempt.
                if self.announced(self.limit).await.is_err() {
                    count(&self.counters.l2_errors);
                }
                if self.beat().await.is_err() {
                    count(&self.counters.l2_errors);
                    // Redis also refuses the writes of lease holders then, so waiters ask again.
                    self.notices.ask_all();
                }
            }
            self.ended.send_replace(number);
        }
    }

    fn currency(&self) -> &Currency {
        &self.notices.currency
    }

    /// Requests the invalidations since the table's position, page by page.
    async fn beat(&self) -> Result<(), StoreError> {
        loop {
            // The clock is read before the request is sent. The reply includes everything
            // acknowledged by then, and may lack later invalidations, however late it arrives.
            let (sent, known) = (self.clock.now(), self.currency().position());
            let begin = Instant::now();
            let reads = self.counters.reads();
            let in_use = self.reads.swap(reads, Ordering::Relaxed) != reads;
            let beat = self.store.beat(known, PAGE, in_use, self.limit).await?;
            let until = (!beat.more).then(|| clock::after(sent, self.max_staleness));
            let heard = self.currency().beat(beat.at, &beat.slots, beat.connection, until);
            if heard == Applied::Ok && beat.at.epoch != known.epoch {
                count(&self.counters.epochs);
                trace::epoch(known.epoch, beat.at.epoch);
                // Their leases were lost with the directory's data.
                self.notices.ask_all();
                // What was acknowledged in the last epoch may be pending again.
                self.notices.beat.notify_one();
            }
            if heard == Applied::Ok {
                self.leader.saw(beat.at.epoch, beat.leader, self.clock.now());
            }
            if !beat.more {
                if heard == Applied::Ok {
                    let round = beat.leader.map_or(Round::default(), |leader| leader.round);
                    let until = clock::after(sent, self.max_blind.unwrap_or(MAX_BLIND));
                    self.currency().heard_of(beat.at.epoch, round, until);
                }
                return Ok(());
            }
            if beat.at == known {
                // Not what the script replies. Asking again would never end.
                return Err(StoreError::Unavailable);
            }
            // Half of the time is left to others: a whole deployment may be catching up.
            sleep(begin.elapsed()).await;
        }
    }

    /// Announces all that is pending, together with all others who want to.
    async fn announced(&self, limit: Duration) -> Result<(), StoreError> {
        self.rounds.join(limit, async || self.announce().await).await
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
