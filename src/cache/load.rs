//! One load: the right to it, the query, and both tiers filled.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::cache::config::QueryConfig;
use crate::cache::inner::{Core, Load, Phase};
use crate::cache::lookup::{Missed, Sight};
use crate::clock;
use crate::currency::{Position, Stamp};
use crate::error::Error;
use crate::fleet::notices::Word;
use crate::fleet::{Fleet, Lease};
use crate::flight::{Failure, Flight, Landing};
use crate::l1::entry::{Held, Life};
use crate::l2::entry::{self, Header};
use crate::l2::{Ask, Done, Fill, LEASE, Leased};
use crate::telemetry::counters::{count, count_bytes};
use crate::telemetry::trace::{self, Span};
use crate::value::key::CacheKey;
use crate::value::tag::Tag;
use crate::value::token::Token;
use crate::value::{Value, unless_it_panics};

tokio::task_local! {
    /// Set while a load runs. What it asks the cache for must not wait for a turn while it has one
    /// itself: as many of them as there are turns would wait for each other.
    pub(crate) static LOADING: ();
}

/// A load that a task takes when it runs the query.
pub(crate) type Reload<V> = Arc<Mutex<Option<Load<<V as Value>::Stored>>>>;

/// How often what is in Redis is looked at because the lease was refused for it.
const LOOKS: usize = 3;

/// What a load has come to have, whether it succeeds or not.
#[derive(Default)]
struct Attempt {
    lease: Option<Lease>,
    /// When the query began, and as of which stamp.
    began: Option<(clock::Instant, Stamp)>,
}

/// The right to load.
enum Right {
    /// For all processes, or perhaps so.
    Leased(Lease),
    /// For this one: Redis does not answer, or another process's load came to nothing.
    Alone,
    /// None is needed: another process has loaded it meanwhile.
    Found(Landing),
}

impl Core {
    /// Loads, and brings the result to everybody who waits and into both tiers.
    pub(crate) fn fly<V: Value>(
        self: Arc<Self>,
        flight: Flight,
        key: CacheKey,
        config: Arc<QueryConfig>,
        load: Reload<V>,
        missed: Missed,
    ) -> impl Future<Output = ()> + Send {
        // Here, and not in the task: it belongs to what its first caller does.
        let span = Span::load(config.tally.name(), &key);
        async move {
            let mut closing = self.closing.subscribe();
            let flying = self.bring::<V>(&span, flight, key, config, load, missed);
            tokio::select! {
                () = span.around(flying) => {}
                // Nobody can be waiting. What the load holds is let go of, its lease first of all.
                () = reached(&mut closing, Phase::Abandoned) => {}
            }
        }
    }

    async fn bring<V: Value>(
        &self,
        span: &Span,
        flight: Flight,
        key: CacheKey,
        config: Arc<QueryConfig>,
        load: Reload<V>,
        missed: Missed,
    ) {
        let token = Token::random();
        let deadline = config.policy.load_deadline;
        let mut attempt = Attempt::default();
        let run = async {
            match self.right::<V>(&key, &config, token, missed, &flight.urgent()).await {
                Right::Found(landing) => return Ok(Err(landing)),
                Right::Leased(granted) => attempt.lease = Some(granted),
                Right::Alone => {}
            }
            self.run::<V>(&load, &config, &flight.urgent(), &mut attempt).await.map(Ok)
        };
        let outcome = match timeout(deadline, AssertUnwindSafe(run).catch_unwind()).await {
            Err(_) => Err(Error::deadline(deadline)),
            Ok(Err(panic)) => Err(Error::panicked(&*panic)),
            Ok(Ok(outcome)) => outcome,
        };
        let Attempt { lease, began } = attempt;
        let loaded = match outcome {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(landing)) => {
                span.ends("found", Duration::ZERO, None);
                self.local.insert(key, landing.held.clone());
                return flight.land(Ok(landing));
            }
            Err(error) => {
                count(&config.tally.load_errors);
                let took = began.map(|(began, _)| clock::since(self.clock.now(), began));
                span.failed(&error.kind(), took.unwrap_or_default());
                if let Some((began, took)) = began.zip(took) {
                    config.tally.load_took(took);
                    self.keep_failure(&key, &config, &error, began);
                }
                // Given back with the word that there is no result, before those who wait here
                // have the error and ask again.
                release(lease, Done::Without);
                return flight.land(Err(Failure { error, stamp: began.map(|(_, stamp)| stamp) }));
            }
        };
        let Loaded { value, tags, stamp, began, ended, by_store } = loaded;
        let took = clock::since(ended, began);
        config.tally.load_took(took);
        let value = Arc::new(value);
        let encoded = self.encode::<V>(&config, &value);
        let (bytes, empty) = match &encoded {
            Some((codec, payload)) => (payload.len(), V::is_empty(&value, *codec, payload)),
            None => (0, false),
        };
        count_bytes(&config.tally.loaded_bytes, bytes);
        span.ends("loaded", took, encoded.is_some().then_some(bytes));
        trace::loaded(&key, took, encoded.is_some().then_some(bytes));
        let depends = match tags.is_empty() {
            true => config.depends.clone(),
            false => Arc::new(config.depends.and(tags)),
        };
        let ttl = config.policy.draw_ttl(empty);
        let stored_life = ttl + config.policy.longest_stale();
        let ends = clock::after(ended, ttl);
        let kept = config.policy.kept(ended, clock::after(ended, stored_life));
        let life = Life { as_of: began, born: ended, copied: ended, ends, kept };
        let held = Held::new(&key, value, bytes, life, (stamp, token), depends.clone());
        // Into memory before the callers have it, so that the next of them finds it there; into
        // Redis after that, so that nobody waits for the round trip.
        if encoded.is_some() {
            self.local.insert(key, held.clone());
        }
        flight.land(Ok(Landing { held, shown: stamp.moment }));
        let Some(fleet) = &self.fleet else { return };
        let Some((codec, payload)) = encoded else { return release(lease, Done::Without) };
        if !self.currency.is_current(&stamp, depends.cells()) {
            // Dead before it arrived.
            count(&self.counters.l2_overtaken);
            return release(lease, Done::Again);
        }
        let at = Position { epoch: stamp.epoch, seq: stamp.asof };
        let load = clock::since(ended, began);
        // The shared tier cannot say how long it would live there, or is away.
        let Some(ends) = fleet.store.time_of(clock::after(by_store, stored_life)) else {
            count(&self.counters.l2_errors);
            return release(lease, Done::Without);
        };
        let header = Header { codec, at, token, life: stored_life, ends, ttl, load };
        let sealed = entry::seal(&key, &header, &depends, &payload, self.secret.as_ref());
        let Some(header) = sealed else { return release(lease, Done::Without) };
        let fill = Fill { token, at, ends, header, payload };
        let size = fill.header.len() + fill.payload.len();
        let filled = match lease {
            Some(lease) => lease.fill(fill).await,
            None => fleet.store.fill(&key, fill).await,
        };
        count(match filled {
            Ok(true) => {
                count_bytes(&config.tally.l2_bytes_written, size);
                &self.counters.l2_writes
            }
            Ok(false) => &self.counters.l2_overtaken,
            Err(_) => &self.counters.l2_errors,
        });
    }

    /// Asks for the right to load, and waits while another process has it.
    async fn right<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        token: Token,
        mut missed: Missed,
        urgent: &Notify,
    ) -> Right {
        let usable = |fleet: &&Arc<Fleet>| fleet.is_confirmed() && fleet.store.is_connected();
        let Some(fleet) = self.fleet.as_ref().filter(usable) else {
            return Right::Alone;
        };
        let mut looks = 0;
        // Somebody waits for this who holds a turn of this process, which the other process's load
        // may be waiting for in the end. Longer than a lease that is not worth it.
        let mut patience = pin!(async {
            let asked = Instant::now();
            urgent.notified().await;
            // Said on for whoever waits for a turn after this.
            urgent.notify_one();
            sleep_until(asked + LEASE).await;
        });
        loop {
            let (seen, refused) = match missed {
                Missed::Absent => (None, false),
                Missed::Unwanted(token) => (Some(token), false),
                Missed::Refused(token) => (Some(token), true),
                Missed::Unreachable => return Right::Alone,
            };
            let waiter = fleet.backplane.wait_for(*key);
            let at = self.currency.position();
            let need = self.currency.newest(config.depends.cells());
            let lease = fleet.ask(*key, token);
            match fleet.store.lease(key, Ask { token, at, need, seen, refused }).await {
                Err(_) => {
                    count(&self.counters.l2_errors);
                    return Right::Leased(lease);
                }
                Ok(Leased::Granted) => return Right::Leased(lease.granted()),
                Ok(Leased::Entry) => lease.refused(),
                Ok(Leased::Wait(remaining)) => {
                    lease.refused();
                    count(&self.counters.lease_waits);
                    match select(pin!(waiter.word(remaining)), patience.as_mut()).await {
                        Either::Left((Word::Done(Done::Filled), _)) => {}
                        Either::Left((Word::Done(Done::Without), _)) => return Right::Alone,
                        Either::Left((Word::Done(Done::Again) | Word::Ask, _)) => continue,
                        Either::Right(_) => return Right::Alone,
                    }
                }
            }
            match self.find::<V>(key, config, || {}).await {
                Sight::Fresh(_, landing) => return Right::Found(landing),
                Sight::Nothing(again) => missed = again,
            }
            looks += 1;
            if looks == LOOKS {
                return Right::Alone;
            }
        }
    }

    /// Runs the query when it is its turn.
    async fn run<V: Value>(
        &self,
        load: &Reload<V>,
        config: &QueryConfig,
        urgent: &Notify,
        attempt: &mut Attempt,
    ) -> Result<Loaded<V::Stored>, Error> {
        // Whoever waits for this load and has a turn itself must not wait for another one.
        let (turn, hurried) = (pin!(self.loads.acquire()), pin!(urgent.notified()));
        let _permit = match select(turn, hurried).await {
            Either::Left((permit, _)) => Some(permit.map_err(|_| Error::closed())?),
            Either::Right(_) => None,
        };
        // Taken only now: whoever brought it may yet need it, if what another process has loaded is
        // of no use to him.
        let load = load.lock().unwrap_or_else(PoisonError::into_inner).take();
        let load = load.ok_or_else(Error::closed)?;
        count(&config.tally.loads);
        // The stamp first, then the load: what is invalidated while the query runs is not known to
        // the result.
        let (began, stamp) = (self.clock.now(), self.currency.stamp());
        attempt.began = Some((began, stamp));
        let mut closing = self.closing.subscribe();
        let mut running = pin!(LOADING.scope((), async { load().await }));
        let brought = tokio::select! {
            brought = &mut running => brought,
            () = reached(&mut closing, Phase::ShutDown) => {
                // Another process may load it; here somebody may still be waiting.
                attempt.lease = None;
                running.await
            }
        };
        let (value, tags) = brought?;
        let ended = self.clock.now();
        let by_store = self.fleet.as_ref().map_or(ended, |fleet| fleet.store.now());
        Ok(Loaded { value, tags, stamp, began, ended, by_store })
    }

    /// Keeps an error as an answer, if the query asks for that, and unless there is a stale result
    /// to answer with instead.
    fn keep_failure(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        error: &Error,
        (began, stamp): (clock::Instant, Stamp),
    ) {
        let Some(ttl) =
            error.sqlstate().and_then(|state| config.policy.negative_life(state.code()))
        else {
            return;
        };
        let now = self.clock.now();
        if self.local.get(key).is_some_and(|held| {
            held.failure().is_none()
                && held.life.allows_stale(&config.policy, config.policy.stale_if_error, now)
        }) {
            return;
        }
        let ends = clock::after(now, ttl);
        let life = Life { as_of: began, born: now, copied: now, ends, kept: ends };
        let (error, origin) = (Arc::new(error.clone()), (stamp, Token::random()));
        let held = Held::new(key, error, 0, life, origin, config.depends.clone());
        self.local.insert(*key, held);
    }

    /// The codec's number and the bytes to keep, unless the result is not to be kept.
    fn encode<V: Value>(&self, config: &QueryConfig, value: &V::Stored) -> Option<(u8, Bytes)> {
        let Some((codec, payload)) = unless_it_panics(|| V::encode(value, self.codec)) else {
            count(&self.counters.unstorable);
            return None;
        };
        if payload.len() > config.policy.max_value_bytes {
            count(&self.counters.oversized);
            return None;
        }
        Some((codec, payload))
    }
}

fn release(lease: Option<Lease>, done: Done) {
    if let Some(lease) = lease {
        lease.release(done);
    }
}

/// Waits until the end of the cache has come so far.
async fn reached(closing: &mut watch::Receiver<Phase>, phase: Phase) {
    let _ = closing.wait_for(|&now| now >= phase).await;
}

struct Loaded<T> {
    value: T,
    tags: Vec<Tag>,
    stamp: Stamp,
    began: clock::Instant,
    ended: clock::Instant,
    /// `ended` by the clock of the shared tier, whichever the cache's is.
    by_store: clock::Instant,
}
