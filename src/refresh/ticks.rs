//! When a view is refreshed: one task for each view with a schedule.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, sleep_until};

use super::attempt::Attempt;
use super::report::{RefreshOutcome, RefreshReport, SkipReason};
use super::schedule::Schedule;
use super::shared::{Closing, Shared, View};
use super::status::Activity;
use super::trigger::{Patience, PendingReports, Trigger};
use crate::backoff;
use crate::refresh::postgres::state::ViewVersion;
use crate::refresh::postgres::writes::REPORTED_AFTER;

/// How far the clocks of two processes may differ. Up to this difference, a process detects even
/// without a note that another one has refreshed a view for the tick that has just come. Half the
/// interval if that is less.
const CLOCKS_APART: Duration = Duration::from_secs(10);

/// Backoff (base, cap) between checks of a lock that another process holds.
const WATCH: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Backoff (base, cap) between attempts after a transient failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// How many more times the busy sessions are checked for having been idle once, after all idle
/// sessions have reported. Then the view is refreshed.
const SETTLING_TRIES: u32 = 5;

/// The pending reports, kept from one tick to the next. If ticks come faster than sessions report,
/// no single tick could wait long enough to be sure.
struct Settling {
    pending: PendingReports,
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
        // Only the latest tick counts, however many have passed: a process that was stopped for
        // three days has one refresh to make up for, not a thousand.
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

/// A view that is due.
struct Due<'a> {
    shared: &'a Arc<Shared>,
    view: &'a Arc<View>,
    at: usize,
    schedule: &'a Schedule,
    tick: SystemTime,
}

impl Due<'_> {
    /// Makes attempts until the view is refreshed, need not be, or cannot be, until the next tick
    /// comes, or until the refresher ends. Returns the time up to which ticks are dealt with.
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
                Some(settling) => Patience::Waiting(Some(settling.pending.clone())),
            };
            let trigger = Trigger::Tick { tick: self.tick, before: before.clone(), patience };
            let overtaken = match self.shared.attempt(self.view, trigger, failed == 0).await {
                Ok(Attempt::Done(_)) => {
                    *settling = None;
                    self.view.done(self.tick);
                    return self.now();
                }
                // The holder of the lock may die during the refresh. While the lock is held, the
                // refresh is under way. When it is free, the holder's note and the view's version
                // show whether the refresh was committed.
                Ok(Attempt::Busy { holder, version }) => {
                    before.get_or_insert(version);
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
                    self.view.is(Activity::RefreshedElsewhere);
                    let pause = backoff::delay(watched, WATCH.0, WATCH.1);
                    watched += 1;
                    let goes_on = self.shared.goes_on(sleep(pause)).await;
                    (!goes_on).then(|| self.now())
                }
                Ok(Attempt::Unsettled(pending)) => {
                    let settling = Settling::after(settling.take(), pending).keep(settling);
                    self.view.is(Activity::Verifying);
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

    /// Waits for the jitter and for the views below. Returns `false` if the refresher ends first.
    async fn begins(&self) -> bool {
        self.view.is(Activity::WaitingForDependencies);
        let jitter = self.view.view.jitter.mul_f64(fastrand::f64());
        if !jitter.is_zero() {
            let at = self.tick.checked_add(jitter).unwrap_or(self.tick);
            if !self.shared.goes_on(self.shared.clock.until(at)).await {
                return false;
            }
        }
        let order = self.shared.order.read().await.clone();
        for &below in order.below(self.at) {
            // A view below that cannot be refreshed does not delay this one. A view below that is
            // being retried does, until its own next tick: with its old rows, this view would be a
            // tick behind.
            if !self.shared.goes_on(self.shared.views[below].passed(self.tick)).await {
                return false;
            }
        }
        true
    }

    /// The version of the view from so long before this tick that no process can have considered
    /// the tick due by then, even if its clock differs.
    fn before(&self) -> Option<ViewVersion> {
        let apart = CLOCKS_APART.min(self.schedule.interval(self.tick) / 2);
        self.view.as_of(self.tick.checked_sub(apart)?)
    }

    /// The time up to which ticks are dealt with. Ticks that came during the refresh are skipped:
    /// they would only queue up.
    fn now(&self) -> SystemTime {
        self.shared.clock.wall().max(self.tick)
    }

    /// Waits for `pause` and returns `None`. If the next tick comes first, which replaces this one,
    /// or if the refresher ends, returns the time up to which ticks are dealt with.
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
    fn after(earlier: Option<Settling>, pending: PendingReports) -> Settling {
        let now = Instant::now();
        match earlier {
            None => Settling { pending, again: now + REPORTED_AFTER, tries: 0 },
            Some(earlier) if !pending.is_late() => Settling { pending, ..earlier },
            Some(Settling { tries, .. }) => {
                Settling { pending, again: now + Duration::from_secs(1), tries: tries + 1 }
            }
        }
    }

    fn keep(self, place: &mut Option<Settling>) -> Instant {
        place.insert(self).again
    }
}

impl Shared {
    /// Waits for `something`. Returns `false` if the refresher began to shut down first.
    async fn goes_on(&self, something: impl Future<Output = ()>) -> bool {
        tokio::select! {
            () = something => true,
            () = self.closes(Closing::Finishing) => false,
        }
    }
}
