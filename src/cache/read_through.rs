//! A read that memory cannot answer: it joins the flight of its key, or begins one.
//!
//! The leader of a flight looks into Redis and, if there is nothing to serve, starts the load as a
//! task of its own; then it waits like everybody else. A reader goes through the loop in
//! [`ReadThrough::run`] until it has an answer: a flight may vanish, be stuck, or end with a result
//! that was invalidated since the reader began. [`next`] decides what a reader does then.

use crate::sync::Mutex;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::{Instant, timeout};

use crate::cache::config::QueryConfig;
use crate::cache::inner::{Core, Load};
use crate::cache::load::{LOADING, Reload};
use crate::cache::lookup::{Missed, Sight};
use crate::cache::serve::Asked;
use crate::error::{Error, ErrorKind};
use crate::flight::{Arrival, Failure, Flight, Flights, Joined, Landing, Passenger};
use crate::telemetry::counters::count;
use crate::value::Value;
use crate::value::answer::{Answer, Origin};
use crate::value::key::CacheKey;
use crate::value::token::Token;

/// How much longer than its load's deadline a caller waits for a flight. A flight ends by itself
/// before that, unless the runtime that it runs on is blocked.
const GRACE: Duration = Duration::from_secs(2);

/// One read after its miss in memory.
struct ReadThrough<V: Value> {
    core: Arc<Core>,
    key: CacheKey,
    config: Arc<QueryConfig>,
    /// The task that runs the query takes it from here. A task that is dropped before, with a
    /// runtime that has shut down, leaves it.
    load: Reload<V>,
    begin: Instant,
    asked: Asked,
    /// Whether this read is part of another load, which holds a permit.
    nested: bool,
    /// Where a load of this read runs.
    runtime: Handle,
    /// Whether the first runtime refused the task.
    moved: bool,
}

/// How far the leader of a flight got.
enum Led<V> {
    Answered(Answer<V>),
    /// The load is under way; the leader waits for it.
    Loading(Passenger),
    /// Another reader has taken the flight over.
    TakenOver,
}

impl<V: Value> ReadThrough<V> {
    async fn run(mut self) -> Result<Answer<V>, Error> {
        let mut joined = self.core.flights.join(self.key);
        if let Joined::Later(_) = joined {
            count(&self.core.counters.coalesced);
        }
        loop {
            let (passenger, origin) = match joined {
                // A new result is on the way; a reader that may be served a stale one need not wait.
                Joined::Later(passenger) => match self.while_revalidating() {
                    Some(stale) => return Ok(stale),
                    None => (passenger, Origin::Coalesced),
                },
                Joined::First(flight) => match self.lead(flight).await {
                    Led::Answered(answer) => return Ok(answer),
                    Led::Loading(passenger) => (passenger, Origin::Loaded),
                    Led::TakenOver => {
                        joined = self.core.flights.join(self.key);
                        continue;
                    }
                },
            };
            match self.wait(passenger, origin).await? {
                ControlFlow::Break(answer) => return Ok(answer),
                ControlFlow::Continue(next) => joined = next,
            }
        }
    }

    fn while_revalidating(&self) -> Option<Answer<V>> {
        self.core.while_revalidating::<V>(&self.key, &self.config)
    }

    fn deadline(&self) -> Duration {
        self.config.policy.load_deadline
    }

    /// Looks into memory once more and into Redis, and starts the load if neither can answer.
    async fn lead(&self, flight: Flight) -> Led<V> {
        let (core, key, config) = (&self.core, self.key, &self.config);
        // The flight that was under way when memory had nothing may have stored its result and
        // ended since. From here on nobody else can start one.
        if core.local.has(&key)
            && let Some(hit) = core.hit(&key, config)
        {
            return Led::Answered(hit.answer);
        }
        let missed = match core.find::<V>(&key, config, || flight.found()).await {
            Sight::Fresh(value, landing) => {
                return Led::Answered(self.found(flight, value, landing));
            }
            Sight::Nothing(missed) => missed,
        };
        let Some(passenger) = flight.loads(Instant::now() + self.deadline() + GRACE) else {
            return Led::TakenOver;
        };
        // Before the load can take its place in memory.
        let stale = self.while_revalidating();
        let load = self.load.clone();
        self.runtime.spawn(core.clone().fly::<V>(flight, key, config.clone(), load, missed));
        match stale {
            Some(stale) => {
                count(&core.counters.refreshes);
                Led::Answered(stale)
            }
            None => Led::Loading(passenger),
        }
    }

    /// Redis had the result: keeps it in memory, hands it to all who wait, and answers.
    fn found(&self, flight: Flight, value: Arc<V::Stored>, landing: Landing) -> Answer<V> {
        let (core, policy) = (&self.core, &self.config.policy);
        let (now, held) = (core.clock.now(), &landing.held);
        let (age, life, token) = (held.age(now), held.life, held.token);
        // Taken over, this look was so slow that a newer result may be in memory.
        if flight.is_current() {
            core.local.insert(self.key, held.clone());
        }
        flight.land(Ok(landing));
        if policy.is_due_early(life.load(), life.remaining(policy, now)) {
            core.reload::<V>(self.key, &self.config, self.load.clone(), token);
        }
        Answer::new(V::of(value), Origin::L2, age)
    }

    /// Waits for the flight: an answer, or what to wait for next.
    async fn wait(
        &mut self,
        mut passenger: Passenger,
        origin: Origin,
    ) -> Result<ControlFlow<Answer<V>, Joined>, Error> {
        if self.nested {
            passenger.hurry();
        }
        let arrival = passenger.arrival(self.core.look_limit());
        let arrival = timeout(self.deadline() + GRACE, arrival).await.ok();
        let ended = self.ended(arrival.as_ref());
        let waited = Waited {
            own: origin == Origin::Loaded,
            nested: self.nested,
            in_time: self.begin.elapsed() < self.deadline(),
        };
        let flights = &self.core.flights;
        Ok(ControlFlow::Continue(match (next(ended, waited), arrival) {
            (Next::Answer, Some(Arrival::Landed(Ok(Landing { held, .. })))) => {
                let value = held.value().ok_or_else(Error::closed)?;
                let age = held.age(self.core.clock.now());
                return Ok(ControlFlow::Break(Answer::new(V::of(value), origin, age)));
            }
            (Next::Fail, Some(Arrival::Landed(Err(failure)))) => {
                return self.stale_or(failure.error).map(ControlFlow::Break);
            }
            (Next::Forget, _) => {
                flights.forget(self.key, &passenger);
                return self.stale_or(Error::deadline(self.deadline())).map(ControlFlow::Break);
            }
            (Next::JoinAgain, _) => flights.join(self.key),
            (Next::LoadAlone, _) => Flights::alone(self.key),
            (Next::TakeOver, _) => flights.take_over(self.key, &passenger),
            (Next::OtherRuntime, _) => {
                self.runtime = Handle::try_current().map_err(|_| Error::closed())?;
                self.moved = true;
                flights.join(self.key)
            }
            (Next::Closed | Next::Answer | Next::Fail, _) => return Err(Error::closed()),
        }))
    }

    fn stale_or(&self, error: Error) -> Result<Answer<V>, Error> {
        self.core.or_stale(&self.key, &self.config, error)
    }

    /// What [`next`] has to know of the end of a wait.
    fn ended(&self, arrival: Option<&Arrival>) -> Ended {
        match arrival {
            None => Ended::TimedOut,
            Some(Arrival::Landed(Ok(landing))) => Ended::Result {
                serves: self.core.serves(landing, &self.config, self.asked, self.core.clock.now()),
                readable: landing.held.value::<V::Stored>().is_some(),
            },
            Some(Arrival::Landed(Err(failure))) => Ended::Error {
                deadline: failure.error.kind() == ErrorKind::Deadline,
                invalidated: self.is_invalidated(failure),
            },
            Some(Arrival::Vanished) => {
                Ended::Vanished { taken: self.load.lock().is_none(), moved: self.moved }
            }
            Some(Arrival::Stuck) => Ended::Stuck,
        }
    }

    /// Whether the load that failed began before this read, and something it depends on was
    /// invalidated since: the table that it did not find may be what the invalidation was about.
    fn is_invalidated(&self, failure: &Failure) -> bool {
        failure.stamp.is_some_and(|stamp| {
            stamp.moment <= self.asked.moment
                && !self.core.currency.is_current(&stamp, self.config.depends.cells())
        })
    }
}

/// How a reader's wait for a flight ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The flight took longer than its load may.
    TimedOut,
    Result {
        /// Whether this reader may be served the result.
        serves: bool,
        /// Whether it is of the type that this reader asks for: two types of one name share keys.
        readable: bool,
    },
    Error {
        /// Whether the load ran into its deadline.
        deadline: bool,
        /// Whether the error was invalidated before this read began.
        invalidated: bool,
    },
    /// The flight was dropped without a result.
    Vanished {
        /// Whether a task has taken this reader's load.
        taken: bool,
        /// Whether this reader has changed the runtime of its load before.
        moved: bool,
    },
    /// Its leader takes longer for Redis than is possible.
    Stuck,
}

/// What a reader was waiting as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waited {
    /// For its own load, not for another reader's.
    own: bool,
    /// As part of another load.
    nested: bool,
    /// Its own deadline has not passed.
    in_time: bool,
}

/// What a reader does when its wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Answer,
    /// A stale result if the policy allows one, otherwise the error.
    Fail,
    /// The flight never ends: take it off the list, and fail.
    Forget,
    JoinAgain,
    /// A flight of its own that nobody joins.
    LoadAlone,
    TakeOver,
    /// The runtime refused the task: try the caller's.
    OtherRuntime,
    Closed,
}

fn next(ended: Ended, waited: Waited) -> Next {
    match ended {
        Ended::TimedOut => Next::Forget,
        Ended::Result { serves: false, .. } => Next::JoinAgain,
        Ended::Result { readable: false, .. } => Next::LoadAlone,
        Ended::Result { .. } => Next::Answer,
        // The deadline of another query, or of a load that began before this read, is not this
        // reader's. Two loads that need each other would keep each other alive by trying again.
        Ended::Error { deadline: true, .. } if !waited.own && !waited.nested && waited.in_time => {
            Next::JoinAgain
        }
        Ended::Error { invalidated: true, .. } => Next::JoinAgain,
        Ended::Error { .. } => Next::Fail,
        Ended::Vanished { taken: true, .. } => Next::Closed,
        Ended::Vanished { moved: true, .. } if waited.own => Next::Closed,
        Ended::Vanished { .. } if waited.own => Next::OtherRuntime,
        Ended::Vanished { .. } => Next::JoinAgain,
        Ended::Stuck => Next::TakeOver,
    }
}

impl Core {
    /// Everything after a miss in memory.
    pub(crate) async fn miss<V: Value>(
        self: Arc<Self>,
        key: CacheKey,
        config: Arc<QueryConfig>,
        load: Load<V::Stored>,
    ) -> Result<Answer<V>, Error> {
        count(&self.counters.misses);
        let begin = Instant::now();
        let asked = Asked { at: self.clock.now(), moment: self.currency.moment() };
        let outcome = match self.settle::<V>(&key, &config, asked).await {
            Some(settled) => settled,
            None => {
                let read = ReadThrough::<V> {
                    key,
                    config: config.clone(),
                    load: Arc::new(Mutex::new(Some(load))),
                    begin,
                    asked,
                    nested: LOADING.try_with(|()| ()).is_ok(),
                    runtime: self.place(),
                    moved: false,
                    core: self,
                };
                read.run().await
            }
        };
        config.tally.answered(&outcome);
        outcome
    }

    /// Loads a result anew in the background, unless a flight for it is under way.
    pub(crate) fn reload<V: Value>(
        self: &Arc<Self>,
        key: CacheKey,
        config: &Arc<QueryConfig>,
        load: Reload<V>,
        seen: Token,
    ) {
        let Joined::First(flight) = self.flights.join(key) else { return };
        let until = Instant::now() + config.policy.load_deadline + GRACE;
        if flight.loads(until).is_some() {
            count(&self.counters.refreshes);
            let flying =
                self.clone().fly::<V>(flight, key, config.clone(), load, Missed::Unwanted(seen));
            self.place().spawn(flying);
        }
    }

    /// The runtime for a load.
    ///
    /// It must go on while others wait, whatever becomes of the caller. A runtime of many threads
    /// does, the caller's at least as long as ours: ours may have shut down. One of a single thread
    /// stands still whenever nobody blocks on it, as ours may for good; the caller's is moving now.
    fn place(&self) -> Handle {
        match Handle::try_current() {
            Ok(callers)
                if callers.runtime_flavor() == RuntimeFlavor::MultiThread
                    || self.runtime.runtime_flavor() != RuntimeFlavor::MultiThread =>
            {
                callers
            }
            _ => self.runtime.clone(),
        }
    }

    /// How long a look into Redis can take before something else than Redis keeps it.
    fn look_limit(&self) -> Duration {
        self.fleet.as_ref().map_or(GRACE, |fleet| 4 * fleet.store.limit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reader: waiting for its own load or another's, nested or not, in time or not.
    fn readers() -> impl Iterator<Item = Waited> {
        (0..8).map(|bits| Waited { own: bits & 1 > 0, nested: bits & 2 > 0, in_time: bits & 4 > 0 })
    }

    const BOTH: [bool; 2] = [false, true];

    #[test]
    fn a_result_is_answered_if_it_serves_the_reader_and_is_of_its_type() {
        for waited in readers() {
            for readable in BOTH {
                let outdated = Ended::Result { serves: false, readable };
                assert_eq!(next(outdated, waited), Next::JoinAgain);
            }
            let other = Ended::Result { serves: true, readable: false };
            assert_eq!(next(other, waited), Next::LoadAlone);
            let result = Ended::Result { serves: true, readable: true };
            assert_eq!(next(result, waited), Next::Answer);
        }
    }

    #[test]
    fn an_error_is_the_reader_s_own_unless_it_was_invalidated_before_the_read() {
        for waited in readers() {
            let error = Ended::Error { deadline: false, invalidated: false };
            assert_eq!(next(error, waited), Next::Fail);
            let invalidated = Ended::Error { deadline: false, invalidated: true };
            assert_eq!(next(invalidated, waited), Next::JoinAgain);
        }
    }

    #[test]
    fn another_reader_s_deadline_is_not_this_one_s() {
        for waited in readers() {
            let patient = !waited.own && !waited.nested && waited.in_time;
            for invalidated in BOTH {
                let again = patient || invalidated;
                let expected = if again { Next::JoinAgain } else { Next::Fail };
                assert_eq!(next(Ended::Error { deadline: true, invalidated }, waited), expected);
            }
        }
    }

    #[test]
    fn a_flight_that_vanished_is_flown_again_as_long_as_there_is_a_load_and_a_runtime() {
        for waited in readers() {
            for moved in BOTH {
                let taken = Ended::Vanished { taken: true, moved };
                assert_eq!(next(taken, waited), Next::Closed);
                let expected = match (waited.own, moved) {
                    (false, _) => Next::JoinAgain,
                    (true, false) => Next::OtherRuntime,
                    (true, true) => Next::Closed,
                };
                assert_eq!(next(Ended::Vanished { taken: false, moved }, waited), expected);
            }
        }
    }

    #[test]
    fn a_flight_that_does_not_end_is_taken_over_or_forgotten() {
        for waited in readers() {
            assert_eq!(next(Ended::Stuck, waited), Next::TakeOver);
            assert_eq!(next(Ended::TimedOut, waited), Next::Forget);
        }
    }
}
