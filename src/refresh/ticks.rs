//! When: one task for each view with a schedule.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, sleep_until};

use super::basis::{Doubt, Patience};
use super::report::{RefreshOutcome, RefreshReport, SkipReason};
use super::schedule::Schedule;
use super::shared::{Closing, Shared, View};
use super::status::Activity;
use super::turn::{Attempt, Occasion};
use crate::backoff;
use crate::postgres::matview::sight::Seen;
use crate::postgres::matview::writes::REPORTED_AFTER;

/// How far the clocks of two processes may be apart for one to notice, without a note of it, that the
/// other has refreshed a view for the tick that has just come here. Half the interval if that is less.
const CLOCKS_APART: Duration = Duration::from_secs(10);

/// How long between two looks at a lock that another process holds.
const WATCH: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long between two tries at what has failed for a reason that may pass.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// How often it is asked again whether sessions have been idle once, after all that were idle have
/// reported.
const SETTLING_TRIES: u32 = 5;

/// What is remembered of a doubt from one tick to the next: where ticks come faster than sessions
/// report, no tick could be sure otherwise.
struct Settling {
    doubt: Doubt,
    again: Instant,
    tries: u32,
}

/// Refreshes a view at each tick of its schedule, until the refresher ends.
pub(super) async fn run(shared: Arc<Shared>, at: usize, schedule: Schedule, mut from: SystemTime) {
    let view = shared.views[at].clone();
    let mut settling = None;
    while let Some(next) = view.next() {
        let it_is_time = shared.clock.until(next);
        if !shared.goes_on(it_is_time).await {
            return;
        }
        // One of them, however many have passed: a process that was stopped for three days has one
        // refresh to make up for, not a thousand.
        let tick = schedule.latest(from, shared.clock.wall()).unwrap_or(next).max(next);
        let due = Due { shared: &shared, view: &view, at, schedule: &schedule, tick };
        from = due.work(&mut settling).await;
        view.is(Activity::Idle);
        if shared.closing() >= Closing::Finishing {
            return;
        }
        view.done_before(schedule.next(from));
    }
}

/// A view whose time has come.
struct Due<'a> {
    shared: &'a Arc<Shared>,
    view: &'a Arc<View>,
    at: usize,
    schedule: &'a Schedule,
    tick: SystemTime,
}

impl Due<'_> {
    /// Tries until it is refreshed, need not be, cannot be, the next tick comes, or the refresher
    /// ends. The time up to which ticks are dealt with.
    async fn work(&self, settling: &mut Option<Settling>) -> SystemTime {
        if !self.begins().await {
            return self.tick;
        }
        let mut before = self.before();
        let (mut watched, mut failed) = (0, 0);
        loop {
            let patience = match settling {
                None => Patience::Waiting(None),
                Some(settling) if settling.tries > SETTLING_TRIES => Patience::Over,
                Some(settling) => Patience::Waiting(Some(settling.doubt.clone())),
            };
            let occasion = Occasion::Tick { tick: self.tick, before: before.clone(), patience };
            let overtaken = match self.shared.attempt(self.view, occasion, failed == 0).await {
                Ok(Attempt::Done(_)) => {
                    *settling = None;
                    self.view.done(self.tick);
                    return self.now();
                }
                // Whoever it is may die of it. As long as they have the lock they are at it; when
                // it is free, what they have left shows whether they were done.
                Ok(Attempt::Busy { holder, seen }) => {
                    before.get_or_insert(seen);
                    if watched == 0 {
                        let reason = SkipReason::Busy { holder };
                        self.view.watches(RefreshReport {
                            view: self.view.name().clone(),
                            started: self.shared.clock.wall(),
                            duration: Duration::ZERO,
                            outcome: RefreshOutcome::Skipped(reason),
                            warnings: vec![],
                        });
                    }
                    self.view.is(Activity::Watching);
                    let pause = backoff::delay(watched, WATCH.0, WATCH.1);
                    watched += 1;
                    let goes_on = self.shared.goes_on(sleep(pause)).await;
                    (!goes_on).then(|| self.now())
                }
                Ok(Attempt::Unsettled(doubt)) => {
                    let settling = Settling::after(settling.take(), doubt).keep(settling);
                    self.view.is(Activity::Settling);
                    self.until_next_tick(sleep_until(settling)).await
                }
                Err(error) if error.kind().is_passing() => {
                    self.view.is(Activity::Retrying);
                    let pause = backoff::delay(failed, RETRY.0, RETRY.1);
                    failed += 1;
                    self.until_next_tick(sleep(pause)).await
                }
                Err(_) => return self.now(),
            };
            if let Some(dealt_with) = overtaken {
                return dealt_with;
            }
        }
    }

    /// Waits for the jitter and for the views below.
    async fn begins(&self) -> bool {
        self.view.is(Activity::Behind);
        let jitter = self.view.view.jitter.mul_f64(fastrand::f64());
        if !jitter.is_zero() {
            let at = self.tick.checked_add(jitter).unwrap_or(self.tick);
            if !self.shared.goes_on(self.shared.clock.until(at)).await {
                return false;
            }
        }
        let order = self.shared.order.read().await.clone();
        for &below in order.below(self.at) {
            // One that cannot be refreshed keeps nobody from it. One that is being tried again is waited
            // for, until its own next tick: with its old rows, those above would be a tick behind.
            if !self.shared.goes_on(self.shared.views[below].passed(self.tick)).await {
                return false;
            }
        }
        true
    }

    /// The state of the view at a time when nobody, by however wrong a clock, can have thought that
    /// this tick had come.
    fn before(&self) -> Option<Seen> {
        let apart = CLOCKS_APART.min(self.schedule.interval(self.tick) / 2);
        self.view.as_of(self.tick.checked_sub(apart)?)
    }

    /// Ticks that came while it was refreshed are left out: they would only queue up.
    fn now(&self) -> SystemTime {
        self.shared.clock.wall().max(self.tick)
    }

    /// Waits, unless a tick comes before, which takes the place of this one, or the refresher ends:
    /// then, the time up to which ticks are dealt with.
    async fn until_next_tick(&self, pause: impl Future<Output = ()>) -> Option<SystemTime> {
        let now = self.now();
        let next_tick = async {
            match self.schedule.next(now) {
                Some(next) => self.shared.clock.until(next).await,
                None => pending().await,
            }
        };
        tokio::select! {
            goes_on = self.shared.goes_on(pause) => (!goes_on).then_some(now),
            () = next_tick => Some(now),
        }
    }
}

impl Settling {
    fn after(earlier: Option<Settling>, doubt: Doubt) -> Settling {
        let now = Instant::now();
        match earlier {
            None => Settling { doubt, again: now + REPORTED_AFTER, tries: 0 },
            Some(earlier) if !doubt.is_late() => Settling { doubt, ..earlier },
            Some(Settling { tries, .. }) => {
                Settling { doubt, again: now + Duration::from_secs(1), tries: tries + 1 }
            }
        }
    }

    fn keep(self, place: &mut Option<Settling>) -> Instant {
        place.insert(self).again
    }
}

impl Shared {
    /// Waits for something, or until nothing is to begin any more; whether it was the first.
    async fn goes_on(&self, something: impl Future<Output = ()>) -> bool {
        tokio::select! {
            () = something => true,
            () = self.closes(Closing::Finishing) => false,
        }
    }
}
