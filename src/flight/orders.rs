//! Every order in which callers of one key can meet.
//!
//! Flights act in critical sections under one lock and notify through watch channels, so it is
//! enough to try every order of those steps. The search is depth first and replays each prefix on
//! new flights. Waiters are polled by hand.
//!
//! Checked at every step: at most one flight is listed; a waiter receives the outcome of the flight
//! that it joined, or learns that it vanished, and never receives the outcome of another flight.
//! Checked at the end of every order: no caller is still waiting, and no flight is listed.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::tests::{entry, key, soon};
use super::{Flight, Flights, Joined, WaitOutcome, Waiter};

/// One caller: its flight, or the flight that it waits for.
#[derive(Default)]
struct Caller {
    joined: u32,
    flight: Option<(i32, Flight)>,
    /// The number of the flight it waits for, and the wait.
    waiting: Option<(i32, Waiting)>,
}

type Waiting = Pin<Box<dyn Future<Output = (Waiter, WaitOutcome)>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Join,
    /// The lookup has its answer.
    Found,
    /// The flight moves to a task of its own, and its caller waits.
    Loads,
    Land,
    /// The caller leaves, or its load is lost.
    Leave,
    Poll,
    /// The lookup has taken too long.
    TakeOver,
}

const STEPS: [Step; 7] =
    [Step::Join, Step::Found, Step::Loads, Step::Land, Step::Leave, Step::Poll, Step::TakeOver];

struct World {
    flights: Flights,
    callers: Vec<Caller>,
    /// The loading tasks: each flight with its number.
    loads: Vec<(i32, Flight)>,
    /// Maps the slot number of a waiter to the number that its outcome carries.
    numbers: BTreeMap<u64, i32>,
    next: i32,
}

async fn wait(mut waiter: Waiter) -> (Waiter, WaitOutcome) {
    // The explored order decides whether a lookup took too long, not the time.
    let outcome = waiter.wait(Duration::MAX).await;
    (waiter, outcome)
}

impl World {
    fn new(callers: usize) -> World {
        World {
            flights: Flights::default(),
            callers: (0..callers).map(|_| Caller::default()).collect(),
            loads: vec![],
            numbers: BTreeMap::new(),
            next: 1,
        }
    }

    fn follow(&mut self, who: usize, waiter: Waiter) {
        let number = self.numbers[&waiter.number];
        // Exempt from Tokio's cooperative budget, which would make it report that it is not ready.
        let waiting = tokio::task::unconstrained(wait(waiter));
        self.callers[who].waiting = Some((number, Box::pin(waiting)));
    }

    fn take(&mut self, who: usize, joined: Joined) {
        match joined {
            Joined::Leader(flight) => {
                let number = self.next;
                self.next += 1;
                self.numbers.insert(flight.number, number);
                self.callers[who].flight = Some((number, flight));
            }
            Joined::Follower(waiter) => self.follow(who, waiter),
        }
    }

    /// Does a step if the caller can. Returns whether it could.
    fn step(&mut self, who: usize, step: Step, joins: u32) -> bool {
        let caller = &mut self.callers[who];
        match step {
            Step::Join => {
                if caller.flight.is_some() || caller.waiting.is_some() || caller.joined == joins {
                    return false;
                }
                caller.joined += 1;
                let joined = self.flights.join(key(1));
                self.take(who, joined);
            }
            Step::Found => match &caller.flight {
                Some((_, flight)) => flight.found(),
                None => return false,
            },
            Step::Loads => {
                let Some((number, flight)) = caller.flight.take() else { return false };
                if let Some(waiter) = flight.begin_load(soon()) {
                    self.loads.push((number, flight));
                    self.follow(who, waiter);
                }
            }
            Step::Land => {
                // Completes a lookup, or the oldest running load.
                let (number, flight) = match caller.flight.take() {
                    Some(looked) => looked,
                    None if who == 0 && !self.loads.is_empty() => self.loads.remove(0),
                    None => return false,
                };
                flight.complete(Ok(entry(number)));
            }
            Step::Leave => {
                if caller.flight.take().is_none() && caller.waiting.take().is_none() {
                    if who != 0 || self.loads.is_empty() {
                        return false;
                    }
                    self.loads.remove(0);
                }
            }
            Step::Poll => return self.poll(who),
            Step::TakeOver => {
                let Some((_, waiting)) = caller.waiting.take() else { return false };
                // The wait owns its waiter, so a second waiter of the same flight takes over.
                drop(waiting);
                let in_flight = self.flights.lock().flights.get(&key(1)).map(|slot| slot.number);
                let Some(_) = in_flight else { return true };
                let Joined::Follower(stuck) = self.flights.join(key(1)) else { unreachable!() };
                let joined = self.flights.take_over(key(1), &stuck);
                self.take(who, joined);
            }
        }
        true
    }

    /// Polls a waiter. Returns whether there was one.
    fn poll(&mut self, who: usize) -> bool {
        let Some((number, waiting)) = &mut self.callers[who].waiting else { return false };
        match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => {}
            Poll::Ready((_, WaitOutcome::Ended(outcome))) => {
                let value = outcome.unwrap().entry.value::<i32>().unwrap();
                assert_eq!(*value, *number, "the outcome of another flight");
                self.callers[who].waiting = None;
            }
            Poll::Ready((_, WaitOutcome::Vanished)) => self.callers[who].waiting = None,
            Poll::Ready((_, WaitOutcome::Stuck)) => unreachable!("there is no time here"),
        }
        true
    }

    /// Completes or loses all running flights. No caller may wait after that.
    fn end(mut self, lost: bool, order: &[(usize, Step)]) {
        let under_way: Vec<_> =
            self.callers.iter_mut().filter_map(|caller| caller.flight.take()).collect();
        for (number, flight) in under_way.into_iter().chain(std::mem::take(&mut self.loads)) {
            if lost {
                drop(flight);
            } else {
                flight.complete(Ok(entry(number)));
            }
        }
        for who in 0..self.callers.len() {
            self.poll(who);
            assert!(
                self.callers[who].waiting.is_none(),
                "caller {who} waits for nobody: {order:?}"
            );
        }
        assert!(self.flights.lock().flights.is_empty(), "a flight that has ended is in_flight");
    }
}

struct Explorer {
    callers: usize,
    joins: u32,
    depth: usize,
    orders: u64,
}

impl Explorer {
    fn replay(&self, order: &[(usize, Step)]) -> Option<World> {
        let mut world = World::new(self.callers);
        for &(who, step) in order {
            if !world.step(who, step, self.joins) {
                return None;
            }
        }
        Some(world)
    }

    fn explore(&mut self, order: &mut Vec<(usize, Step)>) {
        let Some(world) = self.replay(order) else { return };
        self.orders += 1;
        world.end(false, order);
        self.replay(order).expect("it went through before").end(true, order);
        if order.len() == self.depth {
            return;
        }
        for who in 0..self.callers {
            for step in STEPS {
                // Repeating one of these steps changes nothing.
                let idle = matches!(step, Step::Poll | Step::Found);
                if idle && order.last() == Some(&(who, step)) {
                    continue;
                }
                order.push((who, step));
                self.explore(order);
                order.pop();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_every_order_each_hears_of_its_own_flight_and_nobody_is_left_waiting() {
    for (callers, joins, depth) in [(2, 2, 7), (3, 1, 6)] {
        let mut explorer = Explorer { callers, joins, depth, orders: 0 };
        explorer.explore(&mut vec![]);
        println!("{callers} callers, up to {depth} steps: {} orders", explorer.orders);
        assert!(explorer.orders > 1_000);
    }
}
