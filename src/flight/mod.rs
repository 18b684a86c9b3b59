//! [`Flights`]: at most one lookup or load per key at a time in this process.
//!
//! The first caller that misses a key in memory starts a *flight*. Callers that miss the key while
//! the flight is running join it and wait for its outcome. A flight has three stages:
//!
//! - *Looking*: a Redis lookup, run by the caller that started the flight. A task of its own would
//!   make this short step a third more expensive. If that caller leaves, the flight vanishes and
//!   its waiters start over. If that caller stays but is no longer polled (its future sits in a
//!   `select!` that is busy elsewhere), the waiters wait for as long as a lookup can take and then
//!   take the flight over.
//! - *Found*: Redis has answered. The remaining work, such as decoding a large value, waits for
//!   nothing.
//! - *Loading*: the load runs in a task of its own, so a caller that leaves cannot harm it.

pub(crate) mod waits;

use crate::sync::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::currency::Stamp;
use crate::error::Error;
use crate::flight::waits::FlightNumber;
use crate::l1::entry::Entry;
use crate::value::key::{CacheKey, KeyHasher};

pub(crate) type Outcome = Result<Loaded, Failure>;

/// The result of a flight.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) entry: Arc<Entry>,
    /// The order (by this process's count of loads and invalidations) at which the result was known
    /// to be current: when its load began, or when the Redis lookup that found it was sent.
    pub(crate) verified_at: u64,
    /// Whether the flight's own lookup found it, and no load was needed.
    pub(crate) looked_up: bool,
}

/// The error of a load that failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// The stamp of the query, if the query was run.
    pub(crate) stamp: Option<Stamp>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Looking,
    /// Redis has answered. The leader will wait for nothing more before it completes or loads.
    Found,
    Loading,
}

/// The state of a flight, as its waiters see it.
enum State {
    Under(Stage),
    Ended(Outcome),
}

type Results = watch::Sender<State>;

/// The flights that are running.
///
/// One lock serves all keys. It is taken a few times per flight, which costs a thousand times less
/// than the round trip that the flight is about to make.
#[derive(Default, Clone)]
pub(crate) struct Flights(Arc<Mutex<InFlight>>);

#[derive(Default)]
struct InFlight {
    flights: HashMap<CacheKey, Slot, KeyHasher>,
}

struct Slot {
    /// Distinguishes a flight from one that replaced it.
    number: FlightNumber,
    /// Created when the first waiter joins: most flights are a short Redis lookup and have no
    /// waiter.
    results: Option<Results>,
    skip_permit: Option<Arc<Notify>>,
    stage: Stage,
    /// The flight's own deadline: it must have completed by then.
    until: Option<Instant>,
}

impl Slot {
    fn waiter(&mut self) -> Waiter {
        let results =
            self.results.get_or_insert_with(|| watch::channel(State::Under(self.stage)).0);
        let results = results.subscribe();
        Waiter { number: self.number, results, skip_permit: self.skip_permit().clone() }
    }

    fn reach(&mut self, stage: Stage) {
        self.stage = stage;
        if let Some(results) = &self.results {
            results.send_replace(State::Under(stage));
        }
    }

    fn skip_permit(&mut self) -> &Arc<Notify> {
        self.skip_permit.get_or_insert_default()
    }
}

pub(crate) enum Joined {
    /// No flight was running: the caller must run this one.
    Leader(Flight),
    Follower(Waiter),
}

impl Flights {
    pub(crate) fn join(&self, key: CacheKey) -> Joined {
        let mut in_flight = self.lock();
        match in_flight.flights.get_mut(&key) {
            Some(under_way) => Joined::Follower(under_way.waiter()),
            None => Joined::Leader(self.list(&mut in_flight, key)),
        }
    }

    /// Whether a flight is under way.
    pub(crate) fn has(&self, key: &CacheKey) -> bool {
        self.lock().flights.contains_key(key)
    }

    /// Replaces a flight that makes no progress by a new one. If another flight has replaced it
    /// already, or it has moved past its lookup, joins that flight instead.
    pub(crate) fn take_over(&self, key: CacheKey, stuck: &Waiter) -> Joined {
        let mut in_flight = self.lock();
        match in_flight.flights.get_mut(&key) {
            Some(under_way)
                if under_way.number != stuck.number || under_way.stage != Stage::Looking =>
            {
                Joined::Follower(under_way.waiter())
            }
            // The results channel is dropped with the slot; waiters that remain notice that and
            // join again.
            _ => Joined::Leader(self.list(&mut in_flight, key)),
        }
    }

    /// Removes a flight that is past its own deadline: its task is on a runtime that is no longer
    /// driven.
    pub(crate) fn forget(&self, key: CacheKey, lost: &Waiter) {
        let mut in_flight = self.lock();
        if let hash_map::Entry::Occupied(slot) = in_flight.flights.entry(key)
            && slot.get().number == lost.number
            && slot.get().until.is_some_and(|until| until <= Instant::now())
        {
            slot.remove();
        }
    }

    /// Starts a flight that nobody else can join.
    pub(crate) fn alone(key: CacheKey) -> Joined {
        Flights::default().join(key)
    }

    fn list(&self, in_flight: &mut InFlight, key: CacheKey) -> Flight {
        let number = waits::next_number();
        in_flight.flights.insert(
            key,
            Slot { number, results: None, skip_permit: None, stage: Stage::Looking, until: None },
        );
        Flight { flights: self.clone(), key, number }
    }

    fn lock(&self) -> MutexGuard<'_, InFlight> {
        self.0.lock()
    }
}

/// The right and the duty to produce an outcome for a key.
///
/// If it is dropped without an outcome, its waiters see that it vanished.
pub(crate) struct Flight {
    flights: Flights,
    key: CacheKey,
    number: FlightNumber,
}

impl Flight {
    pub(crate) fn number(&self) -> FlightNumber {
        self.number
    }

    /// Records that Redis has answered. The work that follows, such as decoding a large value,
    /// takes time but waits for nothing; a flight that took over would have to repeat it.
    pub(crate) fn found(&self) {
        let mut in_flight = self.flights.lock();
        if let Some(slot) = in_flight.flights.get_mut(&self.key)
            && slot.number == self.number
        {
            slot.reach(Stage::Found);
        }
    }

    /// Moves the flight to a task of its own, which completes it before `until`. The caller that
    /// started it waits for it like all others. Returns `None` if the flight was replaced
    /// meanwhile: there is another flight to join.
    pub(crate) fn begin_load(&self, until: Instant) -> Option<Waiter> {
        let mut in_flight = self.flights.lock();
        let slot = in_flight.flights.get_mut(&self.key)?;
        if slot.number != self.number {
            return None;
        }
        slot.reach(Stage::Loading);
        slot.until = Some(until);
        Some(slot.waiter())
    }

    /// Whether no other flight has replaced this one.
    pub(crate) fn is_current(&self) -> bool {
        let in_flight = self.flights.lock();
        in_flight.flights.get(&self.key).is_some_and(|slot| slot.number == self.number)
    }

    /// Notified when a waiter holds a permit that the load may be waiting for.
    pub(crate) fn skip_permit(&self) -> Arc<Notify> {
        match self.flights.lock().flights.get_mut(&self.key) {
            Some(slot) if slot.number == self.number => slot.skip_permit().clone(),
            _ => Arc::default(),
        }
    }

    /// Delivers the outcome to all waiters that have joined, and to none that come later.
    ///
    /// The flight is removed first. A caller that asks again right after an error, or after a
    /// result that was not stored, must not receive the same outcome again. A result that was
    /// stored is in memory by now, and the leader of the next flight checks memory again.
    pub(crate) fn complete(self, outcome: Outcome) {
        if let Some(results) = self.unlist() {
            results.send_replace(State::Ended(outcome));
        }
    }

    fn unlist(&self) -> Option<Results> {
        let mut in_flight = self.flights.lock();
        match in_flight.flights.entry(self.key) {
            // The number differs if another flight has replaced this one.
            hash_map::Entry::Occupied(slot) if slot.get().number == self.number => {
                slot.remove().results
            }
            _ => None,
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.unlist();
    }
}

/// Waits for the outcome of a flight.
pub(crate) struct Waiter {
    number: FlightNumber,
    results: watch::Receiver<State>,
    skip_permit: Arc<Notify>,
}

pub(crate) enum WaitOutcome {
    Ended(Outcome),
    /// The flight was dropped without an outcome.
    Vanished,
    /// The Redis lookup takes longer than a lookup can take.
    Stuck,
}

impl Waiter {
    /// The number of the flight.
    pub(crate) fn flight(&self) -> FlightNumber {
        self.number
    }

    /// Lets the load begin without a permit.
    pub(crate) fn skip_permit(&self) {
        self.skip_permit.notify_one();
    }

    /// Waits for the outcome. Waits at most `patience` for the end of the Redis lookup.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with timers.
    pub(crate) async fn wait(&mut self, patience: Duration) -> WaitOutcome {
        let looked = self.results.wait_for(|state| !matches!(state, State::Under(Stage::Looking)));
        match timeout(patience, looked).await {
            Err(_) => return WaitOutcome::Stuck,
            Ok(Err(_)) => return WaitOutcome::Vanished,
            Ok(Ok(_)) => {}
        }
        match self.results.wait_for(|state| matches!(state, State::Ended(_))).await.as_deref() {
            Ok(State::Ended(outcome)) => WaitOutcome::Ended(outcome.clone()),
            _ => WaitOutcome::Vanished,
        }
    }
}

#[cfg(test)]
mod orders;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::l1::entry::{Lifetime, LoadInfo};
    use crate::value::key::{Digest, KeyEncoder, Shape};
    use crate::value::tag::{Dependencies, TagSlot};
    use crate::value::token::Token;
    use futures_util::FutureExt;

    const PATIENCE: Duration = Duration::from_secs(5);

    pub(super) fn key(number: u64) -> CacheKey {
        KeyEncoder::new(Digest::new("n", "q", None, 0), Shape(number)).finish()
    }

    pub(super) fn entry(number: i32) -> Loaded {
        let lifetime = Lifetime::of_nanos([0, 0, 0, 9, 9]);
        let depends = Arc::new(Dependencies::new([], TagSlot::of(0)));
        let load = LoadInfo { stamp: Stamp::default(), token: Token([0; 16]), depends };
        let entry = Entry::new(&key(0), Arc::new(number), 4, lifetime, load);
        Loaded { entry, verified_at: 0, looked_up: false }
    }

    pub(super) fn soon() -> Instant {
        Instant::now() + PATIENCE
    }

    fn first(joined: Joined) -> Flight {
        match joined {
            Joined::Leader(flight) => flight,
            Joined::Follower(_) => panic!("a flight was under way"),
        }
    }

    fn later(joined: Joined) -> Waiter {
        match joined {
            Joined::Leader(..) => panic!("no flight was under way"),
            Joined::Follower(waiter) => waiter,
        }
    }

    async fn number(mut waiter: Waiter) -> i32 {
        match waiter.wait(PATIENCE).await {
            WaitOutcome::Ended(outcome) => *outcome.unwrap().entry.value().unwrap(),
            _ => panic!("it did not complete"),
        }
    }

    #[tokio::test]
    async fn all_who_joined_get_the_one_result_and_the_next_starts_anew() {
        let flights = Flights::default();
        let flight = first(flights.join(key(1)));
        let one = later(flights.join(key(1)));
        let _other = first(flights.join(key(2)));
        let two = flight.begin_load(soon()).unwrap();
        let three = later(flights.join(key(1)));
        flight.complete(Ok(entry(7)));
        for waiter in [one, two, three] {
            assert_eq!(number(waiter).await, 7);
        }
        first(flights.join(key(1)));
    }

    #[tokio::test]
    async fn an_error_reaches_those_who_waited_and_nobody_after() {
        let flights = Flights::default();
        let flight = first(flights.join(key(1)));
        let mut one = flight.begin_load(soon()).unwrap();
        flight.complete(Err(Failure { error: Error::closed(), stamp: None }));
        first(flights.join(key(1)));
        match one.wait(PATIENCE).await {
            WaitOutcome::Ended(Err(failure)) => assert_eq!(failure.error.kind(), ErrorKind::Closed),
            _ => panic!("no error arrived"),
        }
    }

    #[tokio::test]
    async fn a_flight_dropped_in_either_stage_leaves_nobody_hanging() {
        for loading in [false, true] {
            let flights = Flights::default();
            let flight = first(flights.join(key(1)));
            let mut one = later(flights.join(key(1)));
            if loading {
                flight.begin_load(soon()).unwrap();
            }
            assert!(one.wait(PATIENCE).now_or_never().is_none());
            let mut two = later(flights.join(key(1)));
            drop(flight);
            assert!(matches!(one.wait(PATIENCE).await, WaitOutcome::Vanished));
            assert!(matches!(two.wait(PATIENCE).await, WaitOutcome::Vanished));
            first(flights.join(key(1)));
        }
    }

    #[tokio::test]
    async fn a_passenger_who_leaves_harms_no_other() {
        let flights = Flights::default();
        let flight = first(flights.join(key(1)));
        let one = later(flights.join(key(1)));
        let two = later(flights.join(key(1)));
        drop(one);
        flight.complete(Ok(entry(3)));
        assert_eq!(number(two).await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_takes_too_long_is_taken_over_once() {
        let flights = Flights::default();
        let asleep = first(flights.join(key(1)));
        let (mut one, mut two) = (later(flights.join(key(1))), later(flights.join(key(1))));
        assert!(matches!(one.wait(PATIENCE).await, WaitOutcome::Stuck));
        assert!(matches!(two.wait(PATIENCE).await, WaitOutcome::Stuck));
        let flight = first(flights.take_over(key(1), &one));
        let two = later(flights.take_over(key(1), &two));
        // The first flight wakes up after it was replaced. It neither removes its replacement when
        // it completes nor begins a second load.
        assert!(asleep.begin_load(soon()).is_none());
        asleep.complete(Ok(entry(1)));
        let three = later(flights.join(key(1)));
        flight.complete(Ok(entry(2)));
        for waiter in [two, three] {
            assert_eq!(number(waiter).await, 2);
        }
        first(flights.join(key(1)));
    }

    #[tokio::test]
    async fn a_flight_that_is_past_its_look_is_not_taken_over() {
        for loading in [false, true] {
            let flights = Flights::default();
            let flight = first(flights.join(key(1)));
            let impatient = later(flights.join(key(1)));
            if loading {
                drop(flight.begin_load(soon()));
            } else {
                flight.found();
            }
            let one = later(flights.take_over(key(1), &impatient));
            flight.complete(Ok(entry(4)));
            assert_eq!(number(one).await, 4);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_that_never_lands_is_forgotten_after_its_own_deadline() {
        let flights = Flights::default();
        let flight = first(flights.join(key(1)));
        let waiter = flight.begin_load(soon()).unwrap();
        flights.forget(key(1), &waiter);
        later(flights.join(key(1)));
        tokio::time::advance(PATIENCE).await;
        flights.forget(key(1), &waiter);
        first(flights.join(key(1)));
    }

    #[tokio::test]
    async fn those_who_still_wait_for_a_flight_that_was_taken_over_start_over() {
        let flights = Flights::default();
        let _asleep = first(flights.join(key(1)));
        let (stuck, mut waiting) = (later(flights.join(key(1))), later(flights.join(key(1))));
        let _flight = first(flights.take_over(key(1), &stuck));
        assert!(matches!(waiting.wait(PATIENCE).await, WaitOutcome::Vanished));
        later(flights.join(key(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_may_take_as_long_as_it_takes() {
        let flights = Flights::default();
        let flight = first(flights.join(key(1)));
        let one = flight.begin_load(soon()).unwrap();
        tokio::spawn(async move {
            tokio::time::advance(100 * PATIENCE).await;
            flight.complete(Ok(entry(2)));
        });
        assert_eq!(number(one).await, 2);
    }

    #[tokio::test]
    async fn a_flight_alone_is_joined_by_nobody() {
        let flights = Flights::default();
        let alone = first(Flights::alone(key(1)));
        let _listed = first(flights.join(key(1)));
        drop(alone);
        later(flights.join(key(1)));
    }
}
