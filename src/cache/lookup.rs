//! What the shared tier has under a key, and whether it may be served.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::config::QueryConfig;
use crate::cache::inner::Inner;
use crate::clock::{self, Instant};
use crate::currency::Stamp;
use crate::flight::Loaded;
use crate::l1::entry::{Entry, Lifetime, LoadInfo};
use crate::l2::Found;
use crate::l2::entry::{self, Opened};
use crate::telemetry::counters::{count, count_bytes};
use crate::telemetry::trace::{self, Span};
use crate::value::key::CacheKey;
use crate::value::tag::Dependencies;
use crate::value::token::Token;
use crate::value::{Value, unless_it_panics};

/// What a look into Redis gave.
pub(crate) enum Lookup<V: Value> {
    Fresh(Arc<V::Stored>, Loaded),
    /// Nothing to serve as fresh. If what is there may be served as stale, it is in memory now.
    Nothing(MissReason),
}

/// Why there is nothing to serve: what whoever loads has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MissReason {
    Absent,
    /// There is an entry that is not wanted, of this load.
    Unwanted(Token),
    /// There is an entry that does not hold together, of that load by its own account.
    Refused(Token),
    /// Redis has not answered. It is not asked again for this read.
    Unreachable,
}

impl Inner {
    /// Looks into Redis. Whatever goes wrong there is a counted miss. `answered` is called when
    /// Redis has answered.
    pub(crate) async fn lookup<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        answered: impl FnOnce(),
    ) -> Lookup<V> {
        let Some(fleet) = &self.fleet else { return Lookup::Nothing(MissReason::Unreachable) };
        // Before the question is sent: what remains of the entry's life is counted from here, so
        // that the time the answer took is not added to it.
        let asked = self.clock.now();
        let verified_at = self.currency.stamp().order;
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
        answered();
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
        let at = opened.header.at;
        let stamp = Stamp { epoch: at.epoch, seq: at.seq, order: 0 };
        let depends = depends(&opened, config);
        // Before it is decoded: what was invalidated is not worth it.
        let current = self.currency.is_current(&stamp, depends.slots());
        if !current {
            count(&config.counters.outdated);
            trace::invalidated(key, "redis", &self.currency, &stamp, (&depends, &config.depends));
            if !config.policy.allow_invalidated {
                return Lookup::Nothing(seen);
            }
        }
        let remaining = Duration::from_millis(opened.header.ends.saturating_sub(now));
        // Its writer gave it no more than its life. With more left than that, Redis's clock has been
        // put back since; its age cannot be told.
        let Some(stored_for) = opened.header.life.checked_sub(remaining) else {
            count(&self.counters.l2_refused);
            return Lookup::Nothing(MissReason::Refused(opened.header.token));
        };
        let lifetime = lifetime(&opened, asked, stored_for, remaining, config);
        let now = self.clock.now();
        let fresh = current && lifetime.is_fresh(&config.policy, now);
        let longest = config.policy.longest_stale();
        if !fresh && !lifetime.allows_stale(&config.policy, longest, now) {
            count(&self.counters.l2_misses);
            return Lookup::Nothing(seen);
        }
        let Opened { header, payload, .. } = opened;
        let bytes = payload.len();
        let decoded = unless_it_panics(|| V::decode(header.codec, payload, &self.columns));
        let Some(value) = decoded.map(Arc::new) else {
            count(&self.counters.l2_refused);
            return Lookup::Nothing(seen);
        };
        let entry = Entry::new(
            key,
            value.clone(),
            bytes,
            lifetime,
            LoadInfo { stamp, token: header.token, depends },
        );
        if fresh {
            return Lookup::Fresh(value, Loaded { entry, verified_at });
        }
        count(&self.counters.l2_misses);
        // For whoever is content with it while a new one is loaded, or if that fails. What memory
        // has, may be newer.
        if self.l1.get(key).is_none_or(|here| here.lifetime.loaded < entry.lifetime.loaded) {
            self.l1.insert(*key, entry);
        }
        Lookup::Nothing(seen)
    }
}

/// What the entry depends on. Nearly always these are the query's own tags, whose names are known.
fn depends(opened: &Opened, config: &QueryConfig) -> Arc<Dependencies> {
    match config.depends.numbers() == opened.slots {
        true => config.depends.clone(),
        // A reader that declares more than the writer did is right as well.
        false => Arc::new(config.depends.with_slots(&opened.slots)),
    }
}

fn lifetime(
    opened: &Opened,
    asked: Instant,
    stored_for: Duration,
    remaining: Duration,
    config: &QueryConfig,
) -> Lifetime {
    let born = clock::before(asked, stored_for);
    let dies = clock::after(asked, remaining);
    let expires = clock::after(born, opened.header.ttl).min(dies);
    let evict_at = config.policy.kept(asked, dies);
    Lifetime {
        load_began: clock::before(born, opened.header.load),
        loaded: born,
        cached: asked,
        expires,
        evict_at,
    }
}
