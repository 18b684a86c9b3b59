//! The fetch of a large entry's body, after the lookup that found the entry.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::cache::config::QueryConfig;
use crate::cache::inner::Inner;
use crate::cache::large::{self, LargeEntry};
use crate::cache::lookup::{Lookup, MissReason};
use crate::clock;
use crate::flight::Loaded;
use crate::l1::entry::{Entry, LoadInfo};
use crate::l2::BodyError;
use crate::l2::body::Body;
use crate::telemetry::counters::{count, count_bytes};
use crate::telemetry::trace;
use crate::value::key::CacheKey;
use crate::value::{Value, unless_it_panics};

impl Inner {
    /// Whether this process fetches a body. Counts it if not.
    pub(super) fn is_in_reach(&self, key: &CacheKey, config: &QueryConfig, body: &Body) -> bool {
        if body.length() > config.policy.max_value_bytes as u64 {
            count(&self.counters.l2_misses);
            return false;
        }
        if self.slow_reads.has(key, self.clock.now()) {
            count(&self.counters.l2_too_slow);
            return false;
        }
        true
    }

    /// Fetches the body of a large entry. The result is [`Lookup::Fresh`] if the entry is still
    /// fresh and current afterwards.
    pub(super) async fn fetch<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        large: &LargeEntry,
    ) -> Lookup<V> {
        match self.fetch_entry::<V>(key, config, large).await {
            Err(reason) => Lookup::Nothing(reason),
            Ok((value, entry)) => {
                let loaded = Loaded { entry, verified_at: large.verified_at, looked_up: true };
                Lookup::Fresh(value, loaded)
            }
        }
    }

    /// Fetches the body of a large entry and decodes it.
    pub(super) async fn fetch_entry<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        large: &LargeEntry,
    ) -> Result<(Arc<V::Stored>, Arc<Entry>), MissReason> {
        let LargeEntry { header, body, stamp, lifetime, depends, .. } = large;
        let (token, body) = (header.token, *body);
        let Some(fleet) = &self.fleet else { return Err(MissReason::Unreachable) };
        let limit = large::limit(fleet.store.limit(), body.length(), header.load);
        let begin = self.clock.now();
        let read = fleet.store.read_body(key, token, body, limit).await;
        let took = clock::since(self.clock.now(), begin);
        trace::transferred(key, "read", took, body.length(), read.is_ok());
        let payload = match read {
            Ok(payload) => payload,
            Err(error) => {
                return Err(match error {
                    BodyError::Missing => {
                        count(&self.counters.l2_refused);
                        MissReason::Refused(token)
                    }
                    BodyError::Busy => {
                        count(&self.counters.l2_too_slow);
                        MissReason::OutOfReach
                    }
                    BodyError::TooSlow => {
                        count(&self.counters.l2_too_slow);
                        self.slow_reads.add(*key, self.clock.now());
                        MissReason::OutOfReach
                    }
                    BodyError::Unavailable => {
                        count(&self.counters.l2_errors);
                        MissReason::Unreachable
                    }
                });
            }
        };
        count_bytes(&config.counters.l2_bytes_read, payload.len());
        let bytes = payload.len();
        // Hashing and decoding some MiB takes milliseconds, which small reads would wait for.
        let (secret, columns, codec) = (self.secret.clone(), self.columns.clone(), header.codec);
        let decoding = spawn_blocking(move || {
            let is_whole = body.matches(token, &payload, secret.as_ref());
            is_whole.then(|| unless_it_panics(|| V::decode(codec, payload, &columns).map(Arc::new)))
        });
        let decoded = match decoding.await {
            Ok(Some(decoded)) => decoded,
            Ok(None) => {
                count(&self.counters.l2_refused);
                return Err(MissReason::Refused(token));
            }
            // The runtime is shutting down.
            Err(_) => return Err(MissReason::Unreachable),
        };
        // Invalidated meanwhile: the load that follows is current.
        if !config.policy.allow_invalidated && !self.currency.is_current(stamp, depends.slots()) {
            count(&config.counters.outdated);
            trace::invalidated(key, "redis", &self.currency, stamp, depends, &config.depends);
            return Err(MissReason::Unwanted(token));
        }
        let Some(value) = decoded else {
            count(&self.counters.l2_refused);
            return Err(MissReason::Unwanted(token));
        };
        let load = LoadInfo { stamp: *stamp, token, depends: depends.clone() };
        Ok((value.clone(), Entry::new(key, value, bytes, *lifetime, load)))
    }
}
