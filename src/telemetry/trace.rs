//! Spans and events for `tracing`. Without the feature, all functions here do nothing.
//!
//! No span or event contains SQL, a parameter, a value or a secret. A key appears as the first 16
//! digits of its hash, as in its name in Redis.

mod span;

use std::fmt::Display;
use std::time::Duration;

pub(crate) use self::span::Span;
use crate::currency::{Currency, Stamp};
use crate::value::key::CacheKey;
use crate::value::tag::Dependencies;

/// A result was found and not served, because something it depends on was invalidated.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn invalidated(
    key: &CacheKey,
    tier: &'static str,
    currency: &Currency,
    stamp: &Stamp,
    found: &Dependencies,
    query: &Dependencies,
) {
    #[cfg(feature = "tracing")]
    if tracing::enabled!(target: "larder", tracing::Level::DEBUG)
        && let Some((slot, at)) = currency.killer(stamp, found.slots())
    {
        let by = match slot {
            None => "a new epoch: redis had lost what it knew".to_owned(),
            Some(crate::value::tag::TagSlot::EVERYTHING) => "everything".to_owned(),
            Some(crate::value::tag::TagSlot::FOLLOWED) => {
                "all that is followed: what has changed could not be named".to_owned()
            }
            Some(slot) => {
                // An entry from Redis has only its slots; the query has the names of its tags.
                let mut tags: Vec<&str> =
                    found.named(slot).chain(query.named(slot)).map(|tag| tag.as_str()).collect();
                tags.dedup();
                match tags.as_slice() {
                    [] => "the query itself, a tag that its loader reported, or a row that it has read"
                        .to_owned(),
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

/// The epoch in Redis has changed: results cached before it are not served any more.
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

/// The connection to Redis was lost or established.
#[cfg(feature = "redis")]
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn connection(address: &str, up: bool) {
    #[cfg(feature = "tracing")]
    if up {
        tracing::info!(target: "larder", address, "connected to redis");
    } else {
        tracing::warn!(
            target: "larder",
            address,
            "redis does not answer and is passed over; queries go to postgresql until it does"
        );
    }
}

/// The body of a large entry was read from Redis or written to it, or not.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn transferred(
    key: &CacheKey,
    way: &'static str,
    took: Duration,
    bytes: u64,
    done: bool,
) {
    #[cfg(feature = "tracing")]
    if tracing::enabled!(target: "larder", tracing::Level::DEBUG) {
        let key = &key.to_hex()[..16];
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let message =
            if done { "a large result was moved" } else { "a large result was not moved" };
        tracing::debug!(target: "larder", key, way, took_us, bytes, "{message}");
    }
}

/// The connection for large results was lost or established.
#[cfg(feature = "redis")]
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn transfers(address: &str, up: bool) {
    #[cfg(feature = "tracing")]
    if up {
        tracing::info!(target: "larder", address, "connected to redis for large results");
    } else {
        tracing::warn!(
            target: "larder",
            address,
            "the connection to redis for large results is lost; their queries go to postgresql \
             until there is another"
        );
    }
}

/// Redis refused a connection, or replied on a connection that it cannot serve now.
#[cfg(feature = "redis")]
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn refused(address: &str, reply: &dyn Display, is_of_credentials: bool) {
    #[cfg(feature = "tracing")]
    if is_of_credentials {
        tracing::warn!(
            target: "larder",
            address,
            %reply,
            "redis refuses the user or its password; queries go to postgresql until it accepts them"
        );
    } else {
        tracing::warn!(
            target: "larder",
            address,
            %reply,
            "redis cannot serve the cache now; the address is resolved again, and queries go to \
             postgresql until a server accepts writes"
        );
    }
}

/// The provider of credentials for Redis failed.
#[cfg(feature = "redis")]
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn no_credentials(address: &str, error: &dyn Display) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: "larder",
        address,
        %error,
        "the provider gave no credentials for redis; queries go to postgresql until it does"
    );
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

/// It is not known what a transaction has changed, so everything is invalidated.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn wholesale(reason: &'static str) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: "larder",
        reason,
        "it is not known what a transaction has changed; all results are stale from now on"
    );
}

/// The result of a load cannot be followed.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn unfollowed(query: &str, reason: &str) {
    #[cfg(feature = "tracing")]
    tracing::debug!(
        target: "larder",
        query,
        reason,
        "what a result depends on cannot be followed; it is not stored, unless its query has a ttl"
    );
}

/// The database cannot be followed now.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn not_followed(kind: &'static str, reason: &str) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: "larder",
        kind,
        reason,
        "the database is not followed by this process now; it tries again"
    );
}

/// This process announces what is committed in the database, from now on.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn leads(term: u64) {
    #[cfg(feature = "tracing")]
    tracing::info!(target: "larder", term, "this process follows the database for all processes");
}

/// Changes of the database were announced.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn followed(relations: impl FnOnce() -> String, round: u64) {
    #[cfg(feature = "tracing")]
    if tracing::enabled!(target: "larder", tracing::Level::DEBUG) {
        let relations = relations();
        tracing::debug!(target: "larder", relations, round, "the database was changed");
    }
}

/// Everything that is followed was invalidated.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn followed_wholesale(reason: &'static str) {
    #[cfg(feature = "tracing")]
    tracing::info!(
        target: "larder",
        reason,
        "all results that are followed are stale from now on"
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

/// A refresh was detected that had not been announced.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn noticed(view: &str) {
    #[cfg(feature = "tracing")]
    tracing::info!(
        target: "larder",
        view,
        "somebody else has refreshed a view; results that read it are stale from now on"
    );
}

/// A refresher does not receive the notifications of its event trigger.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn not_listening(reason: &dyn Display) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: "larder",
        %reason,
        "a refresher receives no notifications; it polls, and tries to connect again"
    );
}

/// Whether a subscriber would record a warning.
pub(crate) fn warns() -> bool {
    #[cfg(feature = "tracing")]
    return tracing::enabled!(target: "larder", tracing::Level::WARN);
    #[cfg(not(feature = "tracing"))]
    return false;
}

/// A check has a finding about a view.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(crate) fn finding(view: &str, finding: &dyn Display, is_fatal: bool) {
    #[cfg(feature = "tracing")]
    if is_fatal {
        tracing::error!(target: "larder", view, %finding, "a view cannot be refreshed");
    } else {
        tracing::warn!(target: "larder", view, %finding, "about a view");
    }
}
