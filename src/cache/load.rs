//! One load: acquires the permission, runs the query, and stores the result in both tiers.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::cache::config::QueryConfig;
use crate::cache::gather::Member;
use crate::cache::inner::{Inner, LoadFn, LoadResult, Phase};
use crate::cache::large::{self, LargeEntry};
use crate::cache::loading::LOADING;
use crate::cache::lookup::{Lookup, MissReason};
use crate::cache::permission::Permission;
use crate::clock;
use crate::currency::Stamp;
use crate::error::Error;
use crate::fleet::{Fleet, Lease};
use crate::flight::waits::Loading;
use crate::flight::{Failure, Flight, Loaded};
use crate::l1::entry::{Entry, Lifetime, LoadInfo};
use crate::l2::body::{Body, THRESHOLD};
use crate::l2::entry::{self, Header};
use crate::l2::{Fill, InParts, LeaseOutcome, StoreError};
use crate::policy::Policy;
use crate::sync::Mutex;
use crate::telemetry::counters::{count, count_bytes};
use crate::telemetry::trace::{self, Span};
use crate::value::key::CacheKey;
use crate::value::tag::{Dependencies, LoadReport, Tag};
use crate::value::token::Token;
use crate::value::{Value, unless_it_panics};

/// A load, which the load task takes when it runs the query.
pub(crate) type SharedLoadFn<V> = Arc<Mutex<Option<LoadFn<<V as Value>::Stored>>>>;

/// What the lookup before a load found.
pub(crate) enum Looked {
    Nothing(MissReason),
    /// An entry whose body is fetched first. The load is needed only if that fails.
    Large(Box<LargeEntry>),
}

/// What a load has acquired so far. It is needed whether the load succeeds or fails.
#[derive(Default)]
struct Attempt {
    lease: Option<Lease>,
    /// When the query began, and the stamp taken then.
    began: Option<(clock::Instant, Stamp)>,
    /// There is a current entry in Redis, which this process cannot fetch.
    out_of_reach: bool,
}

impl Inner {
    /// Returns the task of a load: it gives the result to all waiters and stores it in both tiers.
    pub(crate) fn spawn_load<V: Value>(
        self: Arc<Self>,
        flight: Flight,
        key: CacheKey,
        config: Arc<QueryConfig>,
        load: SharedLoadFn<V>,
        looked: Looked,
        member: Option<Arc<Member>>,
    ) -> impl Future<Output = ()> + Send {
        // Created here and not in the task, so that its parent is the span of the leader.
        let span = Span::load(config.counters.name(), &key);
        async move {
            let mut closing = self.closing.subscribe();
            let loading = Loading { flight: flight.number(), query: config.counters.clone() };
            let job = Job { key, config, token: Token::random(), loading, member };
            let flying = self.load_and_store::<V>(&span, flight, job, load, looked);
            tokio::select! {
                () = span.around(flying) => {}
                // No read can be waiting. The load is dropped, and its lease is given back.
                () = reached(&mut closing, Phase::Abandoned) => {}
            }
        }
    }

    async fn load_and_store<V: Value>(
        &self,
        span: &Span,
        flight: Flight,
        job: Job,
        load: SharedLoadFn<V>,
        looked: Looked,
    ) {
        let mut attempt = Attempt::default();
        let outcome =
            self.attempt::<V>(&job, &load, looked, &flight.skip_permit(), &mut attempt).await;
        let Attempt { lease, began, out_of_reach } = attempt;
        match outcome {
            Ok(Outcome::Loaded(loaded)) => {
                self.loaded::<V>(span, flight, &job, loaded, lease, out_of_reach).await;
            }
            Ok(Outcome::Found(loaded)) => {
                span.ends("found", Duration::ZERO, None);
                self.l1.insert(job.key, loaded.entry.clone());
                flight.complete(Ok(loaded));
            }
            Err(error) => {
                let error = error.of_query(job.config.counters.name());
                self.failed(span, flight, &job, error, began, lease);
            }
        }
    }

    /// Fetches the body of a large entry, or acquires the permission and runs the query, within the
    /// deadline. A panic is returned as an error.
    async fn attempt<V: Value>(
        &self,
        job: &Job,
        load: &SharedLoadFn<V>,
        looked: Looked,
        skip_permit: &Notify,
        attempt: &mut Attempt,
    ) -> Result<Outcome<V::Stored>, Error> {
        let run = async {
            let miss_reason = match looked {
                Looked::Nothing(miss_reason) => miss_reason,
                Looked::Large(large) => {
                    // The others of its batch do not wait for the transfer.
                    job.member.iter().for_each(|member| member.step_aside());
                    match self.fetch::<V>(&job.key, &job.config, &large).await {
                        Lookup::Fresh(_, loaded) => return Ok(Outcome::Found(loaded)),
                        Lookup::Nothing(miss_reason) => miss_reason,
                        Lookup::Large(_) => MissReason::OutOfReach,
                    }
                }
            };
            match self
                .acquire_permission::<V>(
                    (&job.key, job.token),
                    &job.config,
                    miss_reason,
                    skip_permit,
                    job.member.as_deref(),
                )
                .await
            {
                Permission::AlreadyLoaded(loaded) => return Ok(Outcome::Found(loaded)),
                Permission::Leased(granted) => attempt.lease = Some(granted),
                Permission::Unleased => {}
                Permission::OutOfReach => attempt.out_of_reach = true,
            }
            self.run::<V>(load, job, skip_permit, attempt).await.map(Outcome::Loaded)
        };
        let deadline = job.config.policy.load_deadline;
        match timeout(deadline, AssertUnwindSafe(run).catch_unwind()).await {
            Err(_) => Err(Error::deadline(deadline)),
            Ok(Err(panic)) => Err(Error::panicked(&*panic)),
            Ok(Ok(outcome)) => outcome,
        }
    }

    /// Handles a failed load: counts it, caches the error if the policy does so, and gives it to
    /// all waiters.
    fn failed(
        &self,
        span: &Span,
        flight: Flight,
        Job { key, config, .. }: &Job,
        error: Error,
        began: Option<(clock::Instant, Stamp)>,
        lease: Option<Lease>,
    ) {
        count(&config.counters.load_errors);
        let took = began.map(|(began, _)| clock::since(self.clock.now(), began));
        span.failed(&error.kind(), took.unwrap_or_default());
        if let Some(((began, stamp), took)) = began.zip(took) {
            config.counters.load_took(took);
            self.keep_failure(key, config, &error, began, stamp);
        }
        // The lease is released before the flight is completed: a waiter that gets the error may
        // load again at once.
        release(lease, LeaseOutcome::NoResult);
        flight.complete(Err(Failure { error, stamp: began.map(|(_, stamp)| stamp) }));
    }

    /// Handles a successful load: stores the result in memory, gives it to all waiters, and stores
    /// it in Redis.
    async fn loaded<V: Value>(
        &self,
        span: &Span,
        flight: Flight,
        job: &Job,
        loaded: Completed<V::Stored>,
        lease: Option<Lease>,
        out_of_reach: bool,
    ) {
        let (key, config) = (job.key, &*job.config);
        let Completed { value, report, is_kept, times } = loaded;
        let took = times.load();
        config.counters.load_took(took);
        // Of a query that learns also what it has learned. What a call adds may show its parameters.
        let learned: &[Tag] = if config.learns { &report.tags } else { &[] };
        config.counters.depends(config.slot, config.declared.tags().iter().chain(learned));
        let value = Arc::new(value);
        let encoded = if is_kept { self.encode::<V>(config, &value) } else { None };
        let size = encoded.as_ref().map(|(_, payload)| payload.len());
        let empty =
            encoded.as_ref().is_some_and(|(codec, bytes)| V::is_empty(&value, *codec, bytes));
        count_bytes(&config.counters.loaded_bytes, size.unwrap_or(0));
        span.ends("loaded", took, size);
        trace::loaded(&key, took, size);
        let depends = if report.tags.is_empty() && !report.is_followed {
            config.depends.clone()
        } else {
            Arc::new(config.depends.with(report))
        };
        let ttl = config.policy.draw_ttl(empty);
        let lifetime = times.lifetime(&config.policy, ttl);
        let load = LoadInfo { stamp: times.stamp, token: job.token, depends: depends.clone() };
        let entry = Entry::new(&key, value, size.unwrap_or(0), lifetime, load);
        // Stored in memory before the flight is completed, so that a later read finds it there.
        // Stored in Redis after that, so that no reader waits for the round trip.
        if encoded.is_some() {
            self.l1.insert(key, entry.clone());
        }
        let verified_at = times.stamp.order;
        flight.complete(Ok(Loaded { entry, verified_at, looked_up: false }));
        let Some(fleet) = self.fleet.as_ref().filter(|_| !out_of_reach) else { return };
        match encoded {
            Some((codec, payload)) => {
                let entry = NewEntry { times, ttl, depends, codec, payload };
                self.store(fleet, job, entry, lease).await;
            }
            None => release(lease, LeaseOutcome::NoResult),
        }
    }

    /// Writes the entry to Redis and gives the lease back. A result that was invalidated meanwhile
    /// is not written.
    async fn store(
        &self,
        fleet: &Fleet,
        Job { key, config, token, member, .. }: &Job,
        NewEntry { times, ttl, depends, codec, payload }: NewEntry,
        lease: Option<Lease>,
    ) {
        if !self.currency.is_current(&times.stamp, depends.slots()) {
            // Invalidated while the query ran.
            count(&self.counters.l2_overtaken);
            return release(lease, LeaseOutcome::Superseded);
        }
        let life = ttl + config.policy.longest_stale();
        // `None` if the clock of the shared tier is not known, or the tier is away. Then the end of
        // the entry's lifetime cannot be stated.
        let Some(ends) = fleet.store.time_of(clock::after(times.by_store, life)) else {
            count(&self.counters.l2_errors);
            return release(lease, LeaseOutcome::NoResult);
        };
        let (token, at, load) = (*token, times.stamp.position(), times.load());
        let header = Header { codec, at, token, life, ends, ttl, load };
        let in_parts = payload.len() > THRESHOLD && fleet.store.splits();
        if in_parts && self.slow_writes.has(key, self.clock.now()) {
            count(&self.counters.l2_too_slow);
            return release(lease, LeaseOutcome::NoResult);
        }
        let secret = self.secret.as_ref();
        let (sealed, in_parts) = if in_parts {
            let body = Body::of(token, &payload, secret);
            let limit = large::limit(fleet.store.limit(), body.length(), load);
            let in_parts = InParts { parts: body.parts(), limit };
            (entry::seal_head(key, &header, &depends, &body, secret), Some(in_parts))
        } else {
            (entry::seal(key, &header, &depends, &payload, secret), None)
        };
        let Some(header) = sealed else { return release(lease, LeaseOutcome::NoResult) };
        let size = header.len() + payload.len();
        let fill = Fill { token, at, ends, header, payload, in_parts };
        let _turn = Member::turn(member.as_deref(), Member::FILL).await;
        let begin = self.clock.now();
        let filled = match lease {
            Some(lease) => lease.fill(fill).await,
            None => fleet.store.fill(key, fill).await,
        };
        if in_parts.is_some() {
            let took = clock::since(self.clock.now(), begin);
            trace::transferred(key, "written", took, size as u64, filled.is_ok());
        }
        count(match filled {
            Ok(true) => {
                count_bytes(&config.counters.l2_bytes_written, size);
                &self.counters.l2_writes
            }
            Ok(false) => &self.counters.l2_overtaken,
            Err(StoreError::TooSlow) => {
                self.slow_writes.add(*key, self.clock.now());
                &self.counters.l2_too_slow
            }
            Err(StoreError::Busy) => &self.counters.l2_too_slow,
            Err(StoreError::Unavailable) => &self.counters.l2_errors,
        });
    }

    /// Waits for a permit and runs the query.
    async fn run<V: Value>(
        &self,
        load: &SharedLoadFn<V>,
        Job { config, loading, member, .. }: &Job,
        skip_permit: &Notify,
        attempt: &mut Attempt,
    ) -> Result<Completed<V::Stored>, Error> {
        // A waiter that holds a permit itself lets this load skip the wait for one: otherwise each
        // could wait for the other.
        // The one query of a batch waits for its permit by itself.
        let _permit = match member {
            Some(_) => None,
            None => self.permit(skip_permit).await?,
        };
        // Taken only now: until here, the reader that provided the load may still need it, if the
        // result of another process turns out to be unusable for it.
        let load = load.lock().take();
        let load = load.ok_or_else(Error::closed)?;
        count(&config.counters.loads);
        // The stamp first, then the load: an invalidation while the query runs is newer than the
        // stamp, so it makes the result stale.
        let (began, stamp) = (self.clock.now(), self.currency.stamp());
        attempt.began = Some((began, stamp));
        let mut closing = self.closing.subscribe();
        let mut running = pin!(LOADING.scope(loading.clone(), async {
            match member {
                None => load().await,
                Some(member) => member.skipping_permit(skip_permit, load()).await,
            }
        }));
        let brought = tokio::select! {
            brought = &mut running => brought,
            () = reached(&mut closing, Phase::ShutDown) => {
                // The lease is given back, so that another process may load. The query continues,
                // since a reader here may still wait for it.
                attempt.lease = None;
                running.await
            }
        };
        let LoadResult { value, report, is_kept } = brought?;
        let ended = self.clock.now();
        let by_store = self.fleet.as_ref().map_or(ended, |fleet| fleet.store.now());
        Ok(Completed { value, report, is_kept, times: Times { stamp, began, ended, by_store } })
    }

    /// Caches an error if the policy does so, unless memory has a stale result that may be served
    /// instead.
    fn keep_failure(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        error: &Error,
        began: clock::Instant,
        stamp: Stamp,
    ) {
        // What an error depends on is not learned.
        if config.learns {
            return;
        }
        let Some(ttl) =
            error.sqlstate().and_then(|state| config.policy.negative_life(state.code()))
        else {
            return;
        };
        let now = self.clock.now();
        if self.l1.get(key).is_some_and(|entry| {
            entry.failure().is_none()
                && entry.lifetime.allows_stale(&config.policy, config.policy.stale_if_error, now)
        }) {
            return;
        }
        let expires = clock::after(now, ttl);
        let lifetime =
            Lifetime { load_began: began, loaded: now, cached: now, expires, evict_at: expires };
        let error = Arc::new(error.clone());
        let depends = config.depends.clone();
        let load = LoadInfo { stamp, token: Token::random(), depends };
        let entry = Entry::new(key, error, 0, lifetime, load);
        self.l1.insert(*key, entry);
    }

    /// Returns the number of the codec and the encoded bytes, or `None` if the result must not be
    /// stored.
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

fn release(lease: Option<Lease>, done: LeaseOutcome) {
    if let Some(lease) = lease {
        lease.release(done);
    }
}

/// Waits until the shutdown of the cache has reached a phase.
async fn reached(closing: &mut watch::Receiver<Phase>, phase: Phase) {
    let _ = closing.wait_for(|&now| now >= phase).await;
}

/// The key and configuration of one load, the token that names it in the shared tier, and what
/// identifies it in this process.
struct Job {
    key: CacheKey,
    config: Arc<QueryConfig>,
    token: Token,
    loading: Loading,
    /// The batch that it is part of.
    member: Option<Arc<Member>>,
}

/// Where the result of a successful load came from.
enum Outcome<T> {
    Loaded(Completed<T>),
    /// Another process has loaded it meanwhile, and the lookup found it.
    Found(Loaded),
}

struct Completed<T> {
    value: T,
    report: LoadReport,
    is_kept: bool,
    times: Times,
}

/// An encoded result that is to be written to Redis.
struct NewEntry {
    times: Times,
    ttl: Duration,
    depends: Arc<Dependencies>,
    codec: u8,
    payload: Bytes,
}

/// When a query ran.
struct Times {
    stamp: Stamp,
    began: clock::Instant,
    ended: clock::Instant,
    /// `ended` by the clock of the shared tier, which may differ from that of the cache.
    by_store: clock::Instant,
}

impl Times {
    fn load(&self) -> Duration {
        clock::since(self.ended, self.began)
    }

    /// The lifetime in memory of a result with this `ttl`.
    fn lifetime(&self, policy: &Policy, ttl: Duration) -> Lifetime {
        let dies = clock::after(self.ended, ttl + policy.longest_stale());
        Lifetime {
            load_began: self.began,
            loaded: self.ended,
            cached: self.ended,
            expires: clock::after(self.ended, ttl),
            evict_at: policy.kept(self.ended, dies),
        }
    }
}
