//! [`Flights`]: one look-up or load per key in this process at a time.
//!
//! Whoever asks first for a key that is not in memory starts a *flight*; whoever asks while it is
//! under way joins it. A flight has stages:
//!
//! - *Looking* into Redis, which the one who started it does itself: to hand so short a thing to
//!   another task would cost a third of it again. If that caller leaves, the flight vanishes and
//!   those who joined start over. If it stays and is not polled any more (a future kept in a
//!   `select!` that is busy elsewhere), they wait for as long as a look can take and then take the
//!   flight over.
//! - *Found*: Redis has answered. What is left, such as decoding a large value, waits for nothing.
//! - *Loading*, which is a task of its own: nobody who leaves can harm it.

use crate::sync::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::currency::Stamp;
use crate::error::Error;
use crate::l1::entry::Held;
use crate::value::key::{CacheKey, KeyHasher};

pub(crate) type Outcome = Result<Landing, Failure>;

/// What a flight brings.
#[derive(Clone)]
pub(crate) struct Landing {
    pub(crate) held: Arc<Held>,
    /// The moment, by this process's count of loads and invalidations, at which its load began, or
    /// at which Redis was asked and it was shown to be current then.
    pub(crate) shown: u64,
}

/// The end of a load that failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// As of when the query ran, if it came to that.
    pub(crate) stamp: Option<Stamp>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Looking,
    /// Redis has answered, and whoever looked will not wait for anything more before it lands or
    /// loads.
    Found,
    Loading,
}

/// What passengers see of a flight.
enum Sight {
    Under(Stage),
    Landed(Outcome),
}

type Board = watch::Sender<Sight>;

/// The flights under way.
///
/// One lock for all keys: it is taken a few times per flight, which costs a thousand times less than
/// the round trip the flight is about to make.
#[derive(Default, Clone)]
pub(crate) struct Flights(Arc<Mutex<Listed>>);

#[derive(Default)]
struct Listed {
    flights: HashMap<CacheKey, Slot, KeyHasher>,
    /// The last flight's number.
    number: u64,
}

struct Slot {
    /// Tells a flight from the one that took it over.
    number: u64,
    /// Made when the first passenger joins: most flights are a short look into Redis and have none.
    board: Option<Board>,
    urgent: Option<Arc<Notify>>,
    stage: Stage,
    /// When it must have landed by its own deadline.
    until: Option<Instant>,
}

impl Slot {
    fn passenger(&mut self) -> Passenger {
        let board = self.board.get_or_insert_with(|| watch::channel(Sight::Under(self.stage)).0);
        let board = board.subscribe();
        Passenger { number: self.number, board, urgent: self.urgent().clone() }
    }

    fn reach(&mut self, stage: Stage) {
        self.stage = stage;
        if let Some(board) = &self.board {
            board.send_replace(Sight::Under(stage));
        }
    }

    fn urgent(&mut self) -> &Arc<Notify> {
        self.urgent.get_or_insert_default()
    }
}

pub(crate) enum Joined {
    /// Nobody was on the way: the caller has to fly.
    First(Flight),
    Later(Passenger),
}

impl Flights {
    pub(crate) fn join(&self, key: CacheKey) -> Joined {
        let mut listed = self.lock();
        match listed.flights.get_mut(&key) {
            Some(under_way) => Joined::Later(under_way.passenger()),
            None => Joined::First(self.list(&mut listed, key)),
        }
    }

    /// Puts a new flight in the place of one that does not get on, unless that has been done or it
    /// has landed.
    pub(crate) fn take_over(&self, key: CacheKey, stuck: &Passenger) -> Joined {
        let mut listed = self.lock();
        match listed.flights.get_mut(&key) {
            Some(under_way)
                if under_way.number != stuck.number || under_way.stage != Stage::Looking =>
            {
                Joined::Later(under_way.passenger())
            }
            // Its board goes with its slot; whoever still waits there notices and joins anew.
            _ => Joined::First(self.list(&mut listed, key)),
        }
    }

    /// Takes a flight off that should have landed long ago: its task is on a runtime that nobody
    /// drives any more.
    pub(crate) fn forget(&self, key: CacheKey, lost: &Passenger) {
        let mut listed = self.lock();
        if let Entry::Occupied(slot) = listed.flights.entry(key)
            && slot.get().number == lost.number
            && slot.get().until.is_some_and(|until| until <= Instant::now())
        {
            slot.remove();
        }
    }

    /// A flight that nobody else can join.
    pub(crate) fn alone(key: CacheKey) -> Joined {
        Flights::default().join(key)
    }

    fn list(&self, listed: &mut Listed, key: CacheKey) -> Flight {
        listed.number += 1;
        let number = listed.number;
        listed.flights.insert(
            key,
            Slot { number, board: None, urgent: None, stage: Stage::Looking, until: None },
        );
        Flight { flights: self.clone(), key, number }
    }

    fn lock(&self) -> MutexGuard<'_, Listed> {
        self.0.lock()
    }
}

/// The right and duty to bring an outcome for a key.
///
/// Dropped without one, it leaves its passengers with none.
pub(crate) struct Flight {
    flights: Flights,
    key: CacheKey,
    number: u64,
}

impl Flight {
    /// Redis has answered. What follows, such as decoding a large value, takes its time without
    /// waiting for anything; to take it over would mean to begin it again.
    pub(crate) fn found(&self) {
        let mut listed = self.flights.lock();
        if let Some(slot) = listed.flights.get_mut(&self.key)
            && slot.number == self.number
        {
            slot.reach(Stage::Found);
        }
    }

    /// From here on the flight belongs to a task of its own, which lands until then, and who started
    /// it waits like all others. `None` if the flight was taken over meanwhile: there is another to
    /// join.
    pub(crate) fn loads(&self, until: Instant) -> Option<Passenger> {
        let mut listed = self.flights.lock();
        let slot = listed.flights.get_mut(&self.key)?;
        if slot.number != self.number {
            return None;
        }
        slot.reach(Stage::Loading);
        slot.until = Some(until);
        Some(slot.passenger())
    }

    /// Whether it has not been taken over.
    pub(crate) fn is_current(&self) -> bool {
        let listed = self.flights.lock();
        listed.flights.get(&self.key).is_some_and(|slot| slot.number == self.number)
    }

    /// Notified when somebody waits who holds what the load may be waiting for.
    pub(crate) fn urgent(&self) -> Arc<Notify> {
        match self.flights.lock().flights.get_mut(&self.key) {
            Some(slot) if slot.number == self.number => slot.urgent().clone(),
            _ => Arc::default(),
        }
    }

    /// Hands the outcome to all who joined, and to nobody after them.
    ///
    /// The flight is taken off first. A caller that asks again as soon as it has an error, or a
    /// result that was not to be stored, must not meet the same one here; and a result that was
    /// stored is in memory by now, where whoever starts the next flight looks once more.
    pub(crate) fn land(self, outcome: Outcome) {
        if let Some(board) = self.unlist() {
            board.send_replace(Sight::Landed(outcome));
        }
    }

    fn unlist(&self) -> Option<Board> {
        let mut listed = self.flights.lock();
        match listed.flights.entry(self.key) {
            // Not the flight that took this one over.
            Entry::Occupied(slot) if slot.get().number == self.number => slot.remove().board,
            _ => None,
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.unlist();
    }
}

/// Waits for a flight.
pub(crate) struct Passenger {
    number: u64,
    board: watch::Receiver<Sight>,
    urgent: Arc<Notify>,
}

pub(crate) enum Arrival {
    Landed(Outcome),
    /// The flight was dropped.
    Vanished,
    /// Its look into Redis takes longer than one can.
    Stuck,
}

impl Passenger {
    /// Lets the load begin without waiting for its turn.
    pub(crate) fn hurry(&self) {
        self.urgent.notify_one();
    }

    /// Waits for the outcome; for the end of the look into Redis not longer than `patience`.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with timers.
    pub(crate) async fn arrival(&mut self, patience: Duration) -> Arrival {
        let looked = self.board.wait_for(|sight| !matches!(sight, Sight::Under(Stage::Looking)));
        match timeout(patience, looked).await {
            Err(_) => return Arrival::Stuck,
            Ok(Err(_)) => return Arrival::Vanished,
            Ok(Ok(_)) => {}
        }
        match self.board.wait_for(|sight| matches!(sight, Sight::Landed(_))).await.as_deref() {
            Ok(Sight::Landed(outcome)) => Arrival::Landed(outcome.clone()),
            _ => Arrival::Vanished,
        }
    }
}

#[cfg(test)]
mod orders;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::l1::entry::Life;
    use crate::value::key::{Digest, KeyEncoder, Shape};
    use crate::value::tag::{Cell, Depends};
    use crate::value::token::Token;
    use futures_util::FutureExt;

    const PATIENCE: Duration = Duration::from_secs(5);

    pub(super) fn key(number: u64) -> CacheKey {
        KeyEncoder::new(Digest::new("n", "q", None, 0), Shape(number)).finish()
    }

    pub(super) fn held(number: i32) -> Landing {
        let life = Life { as_of: 0, born: 0, copied: 0, ends: 9, kept: 9 };
        let depends = Arc::new(Depends::new([], Cell::of(0)));
        let origin = (Stamp::default(), Token([0; 16]));
        Landing { held: Held::new(&key(0), Arc::new(number), 4, life, origin, depends), shown: 0 }
    }

    pub(super) fn soon() -> Instant {
        Instant::now() + PATIENCE
    }

    fn first(joined: Joined) -> Flight {
        match joined {
            Joined::First(flight) => flight,
            Joined::Later(_) => panic!("a flight was under way"),
        }
    }

    fn later(joined: Joined) -> Passenger {
        match joined {
            Joined::First(..) => panic!("no flight was under way"),
            Joined::Later(passenger) => passenger,
        }
    }

    async fn number(mut passenger: Passenger) -> i32 {
        match passenger.arrival(PATIENCE).await {
            Arrival::Landed(outcome) => *outcome.unwrap().held.value().unwrap(),
            _ => panic!("it did not land"),
        }
    }

    #[tokio::test]
    async fn all_who_joined_get_the_one_result_and_the_next_starts_anew() {
        let flights = Flights::default();
        let flight = first(flights.join(key(1)));
        let one = later(flights.join(key(1)));
        let _other = first(flights.join(key(2)));
        let two = flight.loads(soon()).unwrap();
        let three = later(flights.join(key(1)));
        flight.land(Ok(held(7)));
        for passenger in [one, two, three] {
            assert_eq!(number(passenger).await, 7);
        }
        first(flights.join(key(1)));
    }

    #[tokio::test]
    async fn an_error_reaches_those_who_waited_and_nobody_after() {
        let flights = Flights::default();
        let flight = first(flights.join(key(1)));
        let mut one = flight.loads(soon()).unwrap();
        flight.land(Err(Failure { error: Error::closed(), stamp: None }));
        first(flights.join(key(1)));
        match one.arrival(PATIENCE).await {
            Arrival::Landed(Err(failure)) => assert_eq!(failure.error.kind(), ErrorKind::Closed),
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
                flight.loads(soon()).unwrap();
            }
            assert!(one.arrival(PATIENCE).now_or_never().is_none());
            let mut two = later(flights.join(key(1)));
            drop(flight);
            assert!(matches!(one.arrival(PATIENCE).await, Arrival::Vanished));
            assert!(matches!(two.arrival(PATIENCE).await, Arrival::Vanished));
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
        flight.land(Ok(held(3)));
        assert_eq!(number(two).await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_takes_too_long_is_taken_over_once() {
        let flights = Flights::default();
        let asleep = first(flights.join(key(1)));
        let (mut one, mut two) = (later(flights.join(key(1))), later(flights.join(key(1))));
        assert!(matches!(one.arrival(PATIENCE).await, Arrival::Stuck));
        assert!(matches!(two.arrival(PATIENCE).await, Arrival::Stuck));
        let flight = first(flights.take_over(key(1), &one));
        let two = later(flights.take_over(key(1), &two));
        // The first wakes up at last. Its landing does not take the other flight off, and neither
        // does it begin a second load.
        assert!(asleep.loads(soon()).is_none());
        asleep.land(Ok(held(1)));
        let three = later(flights.join(key(1)));
        flight.land(Ok(held(2)));
        for passenger in [two, three] {
            assert_eq!(number(passenger).await, 2);
        }
        first(flights.join(key(1)));
    }

    #[tokio::test]
    async fn a_flight_that_is_past_its_look_is_not_taken_over() {
        for loading in [false, true] {
            let flights = Flights::default();
            let flight = first(flights.join(key(1)));
            let impatient = later(flights.join(key(1)));
            match loading {
                true => drop(flight.loads(soon())),
                false => flight.found(),
            }
            let one = later(flights.take_over(key(1), &impatient));
            flight.land(Ok(held(4)));
            assert_eq!(number(one).await, 4);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_that_never_lands_is_forgotten_after_its_own_deadline() {
        let flights = Flights::default();
        let flight = first(flights.join(key(1)));
        let passenger = flight.loads(soon()).unwrap();
        flights.forget(key(1), &passenger);
        later(flights.join(key(1)));
        tokio::time::advance(PATIENCE).await;
        flights.forget(key(1), &passenger);
        first(flights.join(key(1)));
    }

    #[tokio::test]
    async fn those_who_still_wait_for_a_flight_that_was_taken_over_start_over() {
        let flights = Flights::default();
        let _asleep = first(flights.join(key(1)));
        let (stuck, mut waiting) = (later(flights.join(key(1))), later(flights.join(key(1))));
        let _flight = first(flights.take_over(key(1), &stuck));
        assert!(matches!(waiting.arrival(PATIENCE).await, Arrival::Vanished));
        later(flights.join(key(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_may_take_as_long_as_it_takes() {
        let flights = Flights::default();
        let flight = first(flights.join(key(1)));
        let one = flight.loads(soon()).unwrap();
        tokio::spawn(async move {
            tokio::time::advance(100 * PATIENCE).await;
            flight.land(Ok(held(2)));
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
