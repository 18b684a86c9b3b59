//! The lookup in the shared tier: reads the entry of a key, checks it, and decides whether it may
//! be served.

use std::sync::Arc;

use crate::cache::config::QueryConfig;
use crate::cache::inner::Inner;
use crate::cache::judge::Judgement;
use crate::cache::large::LargeEntry;
use crate::clock::{self};
use crate::flight::Loaded;
use crate::l1::entry::{Entry, LoadInfo};
use crate::l2::entry::{self, Content, Opened};
use crate::l2::{Found, StoreError};
use crate::telemetry::counters::{count, count_bytes};
use crate::telemetry::trace::{self, Span};
use crate::value::key::CacheKey;
use crate::value::tag::Dependencies;
use crate::value::token::Token;
use crate::value::{Value, unless_it_panics};

/// The outcome of a lookup in Redis.
pub(crate) enum Lookup<V: Value> {
    Fresh(Arc<V::Stored>, Loaded),
    /// There is a fresh result whose body is still to be fetched.
    Large(Box<LargeEntry>),
    /// There is no fresh result. A stale one that may be served is in memory now.
    Nothing(MissReason),
}

/// Why a lookup found no fresh result. The lease request of the load depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MissReason {
    Absent,
    /// There is an intact entry, which is to be replaced. The token names its load.
    Unwanted(Token),
    /// There is an invalid entry. The token is the one in its header.
    Refused(Token),
    /// There is a current entry, which this process cannot fetch in time or must not keep. It loads
    /// for itself, and leaves the entry to others.
    OutOfReach,
    /// Redis has not answered. This read sends it no further request.
    Unreachable,
}

/// What Redis holds under a key, as of when it was asked.
pub(crate) struct Look {
    /// When it was asked. The remaining lifetime of the entry is counted from here, so that the
    /// duration of the request does not lengthen it.
    asked: clock::Instant,
    /// The process's order at that time.
    verified_at: u64,
    found: Result<Found, StoreError>,
}

impl Inner {
    /// Looks up the first of these keys in one round trip, as many of them as suit one. Without an
    /// answer it is that of all keys.
    pub(crate) async fn look_many(&self, config: &QueryConfig, keys: &[CacheKey]) -> Vec<Look> {
        let Some(fleet) = &self.fleet else { return vec![] };
        let (asked, verified_at) = (self.clock.now(), self.currency.stamp().order);
        let found = fleet.look_many(keys).await;
        let took = clock::since(self.clock.now(), asked);
        let look = |found| {
            config.counters.looked_up(took);
            Look { asked, verified_at, found }
        };
        match found {
            Ok(found) => found.into_iter().map(|found| look(Ok(found))).collect(),
            Err(error) => keys.iter().map(|_| look(Err(error))).collect(),
        }
    }

    /// Looks the key up in Redis. Every failure there is a counted miss. `answered` is called when
    /// nothing more is waited for and a value is about to be decoded.
    pub(crate) async fn lookup<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        answered: impl FnOnce(),
    ) -> Lookup<V> {
        let Some(fleet) = &self.fleet else { return Lookup::Nothing(MissReason::Unreachable) };
        // Read before the request is sent.
        let (asked, verified_at) = (self.clock.now(), self.currency.stamp().order);
        let span = Span::look_up(config.counters.name(), key);
        let found = span.around(fleet.look(key)).await;
        let took = clock::since(self.clock.now(), asked);
        let (outcome, bytes) = match &found {
            Ok(Found::Entry { bytes, .. }) => ("entry", Some(bytes.len())),
            Ok(Found::Nothing) => ("nothing", None),
            Err(_) => ("unanswered", None),
        };
        span.ends(outcome, took, bytes);
        config.counters.looked_up(took);
        self.judge::<V>(key, config, Look { asked, verified_at, found }, answered).await
    }

    /// Decides whether what was found may be served.
    pub(crate) async fn judge<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        Look { asked, verified_at, found }: Look,
        answered: impl FnOnce(),
    ) -> Lookup<V> {
        let (bytes, now) = match found {
            Ok(Found::Entry { bytes, now }) => {
                count_bytes(&config.counters.l2_bytes_read, bytes.len());
                (bytes, now)
            }
            Ok(Found::Nothing) => {
                count(&self.counters.l2_misses);
                return Lookup::Nothing(MissReason::Absent);
            }
            Err(_) => {
                count(&self.counters.l2_errors);
                return Lookup::Nothing(MissReason::Unreachable);
            }
        };
        let Ok(opened) = entry::open(key, &bytes, self.secret.as_ref()) else {
            count(&self.counters.l2_refused);
            return Lookup::Nothing(
                entry::token(&bytes).map_or(MissReason::Absent, MissReason::Refused),
            );
        };
        let seen = MissReason::Unwanted(opened.header.token);
        let depends = depends(&opened, config);
        // Judged before the payload is decoded: an invalidated one need not be.
        let (header, slots, policy) = (&opened.header, depends.slots(), &config.policy);
        let is_followed = depends.is_followed();
        let judged = Judgement::new(header, slots, is_followed, &self.currency, policy, now, asked);
        let stamp = judged.stamp;
        if !judged.is_current {
            count(&config.counters.outdated);
            trace::invalidated(key, "redis", &self.currency, &stamp, &depends, &config.depends);
            if !policy.allow_invalidated {
                return Lookup::Nothing(seen);
            }
        }
        let Some(lifetime) = judged.lifetime else {
            count(&self.counters.l2_refused);
            return Lookup::Nothing(MissReason::Refused(opened.header.token));
        };
        let now = self.clock.now();
        let fresh = judged.is_served(policy, now);
        if !fresh && !lifetime.allows_stale(policy, policy.longest_stale(), now) {
            count(&self.counters.l2_misses);
            return Lookup::Nothing(seen);
        }
        let Opened { header, content, .. } = opened;
        let (value, entry) = match content {
            Content::Whole(payload) => {
                answered();
                let bytes = payload.len();
                let decoded = unless_it_panics(|| V::decode(header.codec, payload, &self.columns));
                let Some(value) = decoded.map(Arc::new) else {
                    count(&self.counters.l2_refused);
                    return Lookup::Nothing(seen);
                };
                let load = LoadInfo { stamp, token: header.token, depends };
                (value.clone(), Entry::new(key, value, bytes, lifetime, load))
            }
            Content::Elsewhere(body) if !self.is_in_reach(key, config, &body) => {
                return Lookup::Nothing(if fresh { MissReason::OutOfReach } else { seen });
            }
            Content::Elsewhere(body) => {
                let large = LargeEntry { header, body, stamp, lifetime, depends, verified_at };
                if fresh {
                    return Lookup::Large(Box::new(large));
                }
                match self.fetch_entry::<V>(key, config, &large).await {
                    Ok(fetched) => fetched,
                    // The entry is of no use to others either.
                    Err(MissReason::OutOfReach) => return Lookup::Nothing(seen),
                    Err(reason) => return Lookup::Nothing(reason),
                }
            }
        };
        if fresh {
            return Lookup::Fresh(value, Loaded { entry, verified_at, looked_up: true });
        }
        count(&self.counters.l2_misses);
        // For reads that accept it while a new one is loaded, or if the load fails. The entry in
        // memory may be newer and is kept then.
        if self.l1.get(key).is_none_or(|here| here.lifetime.loaded < entry.lifetime.loaded) {
            self.l1.insert(*key, entry);
        }
        Lookup::Nothing(seen)
    }
}

/// The slots on which the entry depends. They are nearly always those of the query's own tags;
/// these are used then, since they include the tags' names.
fn depends(opened: &Opened, config: &QueryConfig) -> Arc<Dependencies> {
    let Opened { slots, is_followed, .. } = opened;
    if config.depends.is_followed() == *is_followed
        && config.depends.numbers().eq(slots.iter().copied())
    {
        config.depends.clone()
    } else {
        // Both apply: the tags that the writer stored, and those that this reader declares.
        Arc::new(config.depends.with_slots(slots, *is_followed))
    }
}
