//! A read that memory cannot answer: it joins the flight of its key, or starts one.
//!
//! The leader of a flight makes the lookup in Redis. If that finds nothing to serve, the leader
//! starts the load as a task of its own, and then waits like the followers. A reader repeats the
//! loop in [`ReadThrough::run`] until it has an answer, since a flight may vanish, be stuck, or end
//! with a result that this reader must not be given. [`next`] decides what the reader does then.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::{Instant, timeout};

use crate::cache::config::QueryConfig;
use crate::cache::gather::Member;
use crate::cache::inner::{Inner, LoadFn};
use crate::cache::load::{Looked, SharedLoadFn};
use crate::cache::loading::LOADING;
use crate::cache::lookup::{Look, Lookup, MissReason};
use crate::cache::next::{Ended, Next, Waited, next};
use crate::cache::serve::ReadStart;
use crate::error::{Error, ErrorKind};
use crate::flight::waits::{Cycle, Loading};
use crate::flight::{Failure, Flight, Flights, Joined, Loaded, WaitOutcome, Waiter};
use crate::l1::entry::Entry;
use crate::sync::Mutex;
use crate::telemetry::counters::count;
use crate::value::Value;
use crate::value::answer::{Answer, Origin};
use crate::value::key::CacheKey;
use crate::value::token::Token;

/// How much longer than the load deadline a reader waits for a flight. A flight ends by itself
/// before that, unless the runtime that it runs on is blocked.
const GRACE: Duration = Duration::from_secs(2);

/// One read after its miss in memory.
pub(super) struct ReadThrough<V: Value> {
    inner: Arc<Inner>,
    key: CacheKey,
    config: Arc<QueryConfig>,
    /// The load task takes it from here when it runs the query. If the task is dropped before that,
    /// because its runtime has shut down, the load is still here.
    load: SharedLoadFn<V>,
    begin: Instant,
    asked: ReadStart,
    /// The load that this read is part of. It holds a permit.
    part_of: Option<Loading>,
    /// The runtime for a load of this read.
    runtime: Handle,
    /// Whether the first runtime dropped the task.
    moved: bool,
    /// What a lookup for many reads has found for this one.
    looked: Option<Looked>,
    /// The batch that it is part of.
    member: Option<Arc<Member>>,
}

/// How far the leader of a flight got.
enum Led<V> {
    Answered(Answer<V>),
    /// The load is under way; the leader waits for it.
    Loading(Waiter),
    /// Another reader has taken the flight over.
    TakenOver,
}

impl<V: Value> ReadThrough<V> {
    pub(super) fn new(
        inner: &Arc<Inner>,
        key: CacheKey,
        config: Arc<QueryConfig>,
        load: LoadFn<V::Stored>,
        begin: Instant,
        asked: ReadStart,
    ) -> ReadThrough<V> {
        ReadThrough {
            inner: inner.clone(),
            key,
            config,
            load: Arc::new(Mutex::new(Some(load))),
            begin,
            asked,
            part_of: LOADING.try_with(Loading::clone).ok(),
            runtime: inner.place(),
            moved: false,
            looked: None,
            member: None,
        }
    }

    /// Makes it part of a batch, which has this load for it.
    pub(super) fn join(&mut self, member: Arc<Member>, load: LoadFn<V::Stored>) {
        self.load = Arc::new(Mutex::new(Some(load)));
        self.member = Some(member);
    }

    /// Answers with what a lookup for many reads has found, if that may be served.
    ///
    /// It was made before this read joins a flight. That is no worse than a lookup within it: what
    /// was found is judged by the table as it is now, and those who join the flight are served by
    /// the order that was noted before the lookup. A flight that is under way is not disturbed.
    pub(super) async fn answer_from(&mut self, look: Look) -> Option<Answer<V>> {
        let Joined::Leader(flight) = self.inner.flights.join(self.key) else { return None };
        if let Some(hit) = self.newer_in_memory() {
            return Some(hit);
        }
        let looked = self.inner.judge::<V>(&self.key, &self.config, look, || flight.found()).await;
        self.looked = Some(match looked {
            Lookup::Fresh(value, loaded) => return Some(self.found(flight, value, loaded)),
            Lookup::Large(large) => Looked::Large(large),
            Lookup::Nothing(miss_reason) => Looked::Nothing(miss_reason),
        });
        None
    }

    pub(super) async fn run(mut self) -> Result<Answer<V>, Error> {
        let mut joined = self.inner.flights.join(self.key);
        if let Joined::Follower(_) = joined {
            count(&self.inner.counters.coalesced);
        }
        loop {
            let (waiter, origin) = match joined {
                // A new result is being loaded. A reader that accepts a stale one need not wait.
                Joined::Follower(waiter) => match self.while_revalidating() {
                    Some(stale) => return Ok(stale),
                    None => {
                        self.member.iter().for_each(|member| member.step_aside());
                        (waiter, Origin::Coalesced)
                    }
                },
                Joined::Leader(flight) => match self.lead(flight).await {
                    Led::Answered(answer) => return Ok(answer),
                    Led::Loading(waiter) => (waiter, Origin::Loaded),
                    Led::TakenOver => {
                        joined = self.inner.flights.join(self.key);
                        continue;
                    }
                },
            };
            match self.wait(waiter, origin).await? {
                ControlFlow::Break(answer) => return Ok(answer),
                ControlFlow::Continue(next) => joined = next,
            }
        }
    }

    fn while_revalidating(&self) -> Option<Answer<V>> {
        self.inner.while_revalidating::<V>(&self.key, &self.config)
    }

    fn deadline(&self) -> Duration {
        self.config.policy.load_deadline
    }

    /// Checks memory once more, then Redis, and starts the load if neither can answer.
    async fn lead(&mut self, flight: Flight) -> Led<V> {
        let looked = self.looked.take();
        let (inner, key, config) = (&self.inner, self.key, &self.config);
        // From here on no other flight can start for the key.
        if let Some(hit) = self.newer_in_memory() {
            return Led::Answered(hit);
        }
        // The reader may have waited for a flight that ended with the runtime of Redis.
        inner.settle().await;
        let looked = match looked {
            Some(looked) => looked,
            None => match inner.lookup::<V>(&key, config, || flight.found()).await {
                Lookup::Fresh(value, loaded) => {
                    return Led::Answered(self.found(flight, value, loaded));
                }
                // The task fetches it: the caller may leave, and others wait for it.
                Lookup::Large(large) => Looked::Large(large),
                Lookup::Nothing(miss_reason) => Looked::Nothing(miss_reason),
            },
        };
        let Some(waiter) = flight.begin_load(Instant::now() + self.deadline() + GRACE) else {
            return Led::TakenOver;
        };
        // Read before the load can replace it in memory.
        let stale = self.while_revalidating();
        let load = self.load.clone();
        self.runtime.spawn(inner.clone().spawn_load::<V>(
            flight,
            key,
            config.clone(),
            load,
            looked,
            self.member.clone(),
        ));
        match stale {
            Some(stale) => {
                count(&inner.counters.refreshes);
                Led::Answered(stale)
            }
            None => Led::Loading(waiter),
        }
    }

    /// An earlier flight may have stored its result and ended after this read missed in memory.
    fn newer_in_memory(&self) -> Option<Answer<V>> {
        let (inner, key) = (&self.inner, &self.key);
        if !inner.l1.has(key) {
            return None;
        }
        inner.hit(key, &self.config).map(|hit| hit.answer)
    }

    /// The lookup found the result: stores it in memory, completes the flight, and answers.
    fn found(&self, flight: Flight, value: Arc<V::Stored>, loaded: Loaded) -> Answer<V> {
        let (inner, policy) = (&self.inner, &self.config.policy);
        let (now, entry) = (inner.clock.now(), &loaded.entry);
        let (age, lifetime, token) = (entry.age(now), entry.lifetime, entry.token);
        // If the flight was taken over, this lookup was slow, and memory may have a newer result.
        if flight.is_current() {
            inner.l1.insert(self.key, entry.clone());
        }
        flight.complete(Ok(loaded));
        if policy.is_due_early(lifetime.load(), lifetime.remaining(policy, now)) {
            inner.reload::<V>(self.key, &self.config, self.load.clone(), token);
        }
        Answer::new(V::of(value), Origin::L2, age)
    }

    /// The flight's task found the result in Redis. As after [`found`](ReadThrough::found), it may be
    /// time to load it again.
    fn fetched(&self, entry: &Entry) {
        let (policy, lifetime) = (&self.config.policy, entry.lifetime);
        if policy.is_due_early(lifetime.load(), lifetime.remaining(policy, self.inner.clock.now()))
        {
            self.inner.reload::<V>(self.key, &self.config, self.load.clone(), entry.token);
        }
    }

    /// Waits for the flight. Returns an answer, or the flight to continue with.
    async fn wait(
        &mut self,
        mut waiter: Waiter,
        origin: Origin,
    ) -> Result<ControlFlow<Answer<V>, Joined>, Error> {
        let _recorded = match &self.part_of {
            None => None,
            Some(load) => {
                let wait = load.wait_for(waiter.flight(), &self.config.counters);
                let wait = wait.map_err(|Cycle(queries)| Error::cycle(&queries))?;
                waiter.skip_permit();
                Some(wait)
            }
        };
        let outcome = waiter.wait(self.inner.look_limit());
        let outcome = timeout(self.deadline() + GRACE, outcome).await.ok();
        let ended = self.ended(outcome.as_ref());
        let waited = Waited {
            own: origin == Origin::Loaded,
            nested: self.part_of.is_some(),
            in_time: self.begin.elapsed() < self.deadline(),
        };
        let flights = &self.inner.flights;
        Ok(ControlFlow::Continue(match (next(ended, waited), outcome) {
            (Next::Answer, Some(WaitOutcome::Ended(Ok(Loaded { entry, looked_up, .. })))) => {
                let value = entry.value().ok_or_else(Error::closed)?;
                let age = entry.age(self.inner.clock.now());
                let mut origin = origin;
                if waited.own && looked_up {
                    self.fetched(&entry);
                    origin = Origin::L2;
                }
                return Ok(ControlFlow::Break(Answer::new(V::of(value), origin, age)));
            }
            (Next::Fail, Some(WaitOutcome::Ended(Err(failure)))) => {
                return self.stale_or(failure.error).map(ControlFlow::Break);
            }
            (Next::Forget, _) => {
                flights.forget(self.key, &waiter);
                return self.stale_or(Error::deadline(self.deadline())).map(ControlFlow::Break);
            }
            (Next::JoinAgain, _) => flights.join(self.key),
            (Next::LoadAlone, _) => Flights::alone(self.key),
            (Next::TakeOver, _) => flights.take_over(self.key, &waiter),
            (Next::OtherRuntime, _) => {
                self.runtime = Handle::try_current().map_err(|_| Error::closed())?;
                self.moved = true;
                flights.join(self.key)
            }
            (Next::Closed | Next::Answer | Next::Fail, _) => return Err(Error::closed()),
        }))
    }

    fn stale_or(&self, error: Error) -> Result<Answer<V>, Error> {
        self.inner.or_stale(&self.key, &self.config, error)
    }

    /// Describes the end of a wait for [`next`].
    fn ended(&self, outcome: Option<&WaitOutcome>) -> Ended {
        match outcome {
            None => Ended::TimedOut,
            Some(WaitOutcome::Ended(Ok(loaded))) => Ended::Result {
                serves: self.inner.serves(loaded, &self.config, self.asked, self.inner.clock.now()),
                readable: loaded.entry.value::<V::Stored>().is_some(),
            },
            Some(WaitOutcome::Ended(Err(failure))) => Ended::Error {
                deadline: failure.error.kind() == ErrorKind::Deadline,
                invalidated: self.is_invalidated(failure),
            },
            Some(WaitOutcome::Vanished) => {
                Ended::Vanished { taken: self.load.lock().is_none(), moved: self.moved }
            }
            Some(WaitOutcome::Stuck) => Ended::Stuck,
        }
    }

    /// Whether the failed load began before this read and was invalidated since. Then the error may
    /// be outdated: the invalidation may be about the very table that the load did not find.
    fn is_invalidated(&self, failure: &Failure) -> bool {
        failure.stamp.is_some_and(|stamp| {
            let is_current = || self.inner.currency.is_current(&stamp, self.config.depends.slots());
            // What an error depends on is not learned.
            stamp.order <= self.asked.order && (self.config.learns || !is_current())
        })
    }
}

impl Inner {
    /// Answers a read after its miss in memory.
    pub(crate) async fn miss<V: Value>(
        self: Arc<Self>,
        key: CacheKey,
        config: Arc<QueryConfig>,
        load: LoadFn<V::Stored>,
    ) -> Result<Answer<V>, Error> {
        count(&self.counters.misses);
        if !self.settle().await {
            let outcome = Err(Error::closed().of_query(config.counters.name()));
            config.counters.answered(&outcome);
            return outcome;
        }
        let begin = Instant::now();
        let asked = ReadStart { at: self.clock.now(), order: self.currency.order() };
        let newly_confirmed = self.confirm().await;
        let outcome = match self.recheck_memory::<V>(&key, &config, asked, newly_confirmed) {
            Some(settled) => settled,
            None => ReadThrough::new(&self, key, config.clone(), load, begin, asked).run().await,
        };
        let outcome = outcome.map_err(|error| error.of_query(config.counters.name()));
        config.counters.answered(&outcome);
        outcome
    }

    /// Loads a result again in the background, unless a flight for its key is under way.
    pub(crate) fn reload<V: Value>(
        self: &Arc<Self>,
        key: CacheKey,
        config: &Arc<QueryConfig>,
        load: SharedLoadFn<V>,
        seen: Token,
    ) {
        let Joined::Leader(flight) = self.flights.join(key) else { return };
        let until = Instant::now() + config.policy.load_deadline + GRACE;
        if flight.begin_load(until).is_some() {
            count(&self.counters.refreshes);
            let flying = self.clone().spawn_load::<V>(
                flight,
                key,
                config.clone(),
                load,
                Looked::Nothing(MissReason::Unwanted(seen)),
                None,
            );
            self.place().spawn(flying);
        }
    }

    /// Chooses the runtime for a load: the caller's or the one that the cache was built in
    /// ("ours").
    ///
    /// The load must continue while other readers wait, even if the caller leaves. A multi-threaded
    /// runtime guarantees that; the caller's is preferred, since ours may have shut down. A
    /// single-threaded runtime only runs while a thread blocks on it. If both are single-threaded,
    /// the caller's is chosen: it is running now, and ours may never run again.
    fn place(&self) -> Handle {
        let ours = self.background.runtime();
        match Handle::try_current() {
            Ok(callers)
                if callers.runtime_flavor() == RuntimeFlavor::MultiThread
                    || self.background.has_ended()
                    || ours.runtime_flavor() != RuntimeFlavor::MultiThread =>
            {
                callers
            }
            _ => ours,
        }
    }

    /// The longest time that Redis can delay a lookup. A lookup that takes longer is delayed by
    /// something else, such as a leader that is not polled.
    fn look_limit(&self) -> Duration {
        self.fleet.as_ref().map_or(GRACE, |fleet| 4 * fleet.store.limit())
    }
}
