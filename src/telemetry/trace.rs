//! Spans and events for `tracing`: what the cache has to tell beside its numbers. Without the feature
//! all of them are nothing.
//!
//! None of them holds SQL, a parameter, a value or a secret. A key is told by the first 16 digits of its
//! hash, as its name in Redis shows them.

mod span;

use std::fmt::Display;
use std::time::Duration;

pub(crate) use self::span::Span;
use crate::currency::{Currency, Stamp};
use crate::value::key::CacheKey;
use crate::value::tag::Dependencies;

/// A result was found and not served, because something that it depends on was invalidated.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn invalidated(
    key: &CacheKey,
    tier: &'static str,
    currency: &Currency,
    stamp: &Stamp,
    (found, query): (&Dependencies, &Dependencies),
) {
    #[cfg(feature = "tracing")]
    if tracing::enabled!(target: "larder", tracing::Level::DEBUG)
        && let Some((slot, at)) = currency.killer(stamp, found.slots())
    {
        let by = match slot {
            None => "a new epoch: redis had lost what it knew".to_owned(),
            Some(crate::value::tag::TagSlot::EVERYTHING) => "everything".to_owned(),
            Some(slot) => {
                // An entry from Redis knows its slots only; the query knows its tags.
                let mut tags: Vec<&str> =
                    found.named(slot).chain(query.named(slot)).map(|tag| tag.as_str()).collect();
                tags.dedup();
                match tags.as_slice() {
                    [] => "the query itself, or a tag that its loader reported".to_owned(),
                    tags => tags.join(" or "),
                }
            }
        };
        let key = &key.to_hex()[..16];
        tracing::debug!(
            target: "larder",
            key,
            tier,
            by,
            at,
            loaded_as_of = stamp.seq,
            epoch = stamp.epoch,
            "a result was not served: it was invalidated after its load began"
        );
    }
}

/// The lineage of the directory in Redis has changed: all that was cached before is dead.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn epoch(from: u64, to: u64) {
    #[cfg(feature = "tracing")]
    tracing::info!(
        target: "larder",
        from,
        to,
        "redis counts invalidations anew: it was started, emptied or replaced, or this is the first \
         time; results from before are not served any more"
    );
}

/// The connection to Redis is gone, or there again.
#[cfg(feature = "redis")]
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn connection(address: &str, up: bool) {
    #[cfg(feature = "tracing")]
    match up {
        true => tracing::info!(target: "larder", address, "connected to redis"),
        false => tracing::warn!(
            target: "larder",
            address,
            "redis does not answer and is passed over; queries go to postgresql until it does"
        ),
    }
}

/// An invalidation could not be announced.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn unannounced(slots: usize) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: "larder",
        tags = slots,
        "an invalidation is in force in this process and could not be announced to the others; it \
         will be as soon as redis takes it"
    );
}

/// A load has ended.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn loaded(key: &CacheKey, took: Duration, bytes: Option<usize>) {
    #[cfg(feature = "tracing")]
    if tracing::enabled!(target: "larder", tracing::Level::TRACE) {
        let key = &key.to_hex()[..16];
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        tracing::trace!(target: "larder", key, took_us, bytes, "a query was run");
    }
}

/// A view was refreshed.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn refreshed(view: &str, took: Duration, outcome: &dyn Display) {
    #[cfg(feature = "tracing")]
    {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(target: "larder", view, took_ms, %outcome, "a view was refreshed");
    }
}

/// A refresh was skipped.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn refresh_skipped(view: &str, outcome: &dyn Display) {
    #[cfg(feature = "tracing")]
    tracing::debug!(target: "larder", view, %outcome, "a view was not refreshed");
}

/// A refresh succeeded with a warning.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn refresh_warning(view: &str, warning: &str) {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "larder", view, warning, "a view was refreshed, with a warning");
}

/// An attempt to refresh a view failed.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn refresh_failed(view: &str, error: &dyn Display, failures_in_a_row: u32) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: "larder",
        view,
        failures_in_a_row,
        %error,
        "a view could not be refreshed"
    );
}

/// A hook failed.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn hook_failed(view: &str, failure: &dyn Display) {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "larder", view, %failure, "a hook of a refresh failed");
}

/// A refresh was noticed that nobody had announced.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn noticed(view: &str) {
    #[cfg(feature = "tracing")]
    tracing::info!(
        target: "larder",
        view,
        "somebody else has refreshed a view; results that read it are stale from now on"
    );
}

/// Whether anybody would hear a warning.
pub(crate) fn warns() -> bool {
    #[cfg(feature = "tracing")]
    return tracing::enabled!(target: "larder", tracing::Level::WARN);
    #[cfg(not(feature = "tracing"))]
    return false;
}

/// A check found something about a view.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn finding(view: &str, finding: &dyn Display, is_fatal: bool) {
    #[cfg(feature = "tracing")]
    match is_fatal {
        true => tracing::error!(target: "larder", view, %finding, "a view cannot be refreshed"),
        false => tracing::warn!(target: "larder", view, %finding, "about a view"),
    }
}
