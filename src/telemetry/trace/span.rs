//! [`Span`]: an operation with a duration, for `tracing`. Without the feature, it does nothing.
//!
//! `docs/tracing.md` lists the fields. An outcome is always a term of this crate and never the text
//! of an error, which may reveal the query.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::value::key::CacheKey;

/// A clone is the same span.
#[derive(Clone)]
pub(crate) struct Span {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

#[cfg(feature = "tracing")]
macro_rules! span {
    ($level:ident, $name:literal, $($field:ident = $value:expr),*) => {
        Span {
            span: tracing::span!(
                target: "larder",
                tracing::Level::$level,
                $name,
                $($field = $value,)*
                took_us = tracing::field::Empty,
                bytes = tracing::field::Empty,
                outcome = tracing::field::Empty,
            ),
        }
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! span {
    ($level:ident, $name:literal, $($field:ident = $value:expr),*) => {
        Span {}
    };
}

#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
impl Span {
    /// A load, from before the request for permission until its result is in both tiers.
    pub(crate) fn load(query: &str, key: &CacheKey) -> Span {
        span!(DEBUG, "load", query = query, key = &key.to_hex()[..16])
    }

    /// A lookup in Redis.
    pub(crate) fn look_up(query: &str, key: &CacheKey) -> Span {
        span!(TRACE, "look_up", query = query, key = &key.to_hex()[..16])
    }

    /// An invalidation.
    pub(crate) fn invalidate(tags: usize) -> Span {
        span!(DEBUG, "invalidate", tags = tags)
    }

    /// An attempt to refresh a view.
    pub(crate) fn refresh(view: &str) -> Span {
        span!(INFO, "refresh", view = view)
    }

    /// Runs a future within the span.
    pub(crate) fn around<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        #[cfg(feature = "tracing")]
        return tracing::Instrument::instrument(future, self.span.clone());
        #[cfg(not(feature = "tracing"))]
        return future;
    }

    /// Records the outcome, the duration, and the size if it is known.
    pub(crate) fn ends(&self, outcome: &str, took: Duration, bytes: Option<usize>) {
        #[cfg(feature = "tracing")]
        {
            self.span.record("took_us", u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            if let Some(bytes) = bytes {
                self.span.record("bytes", bytes);
            }
            self.span.record("outcome", outcome);
        }
    }

    /// Records a failure by the kind of its error.
    pub(crate) fn failed(&self, kind: &impl fmt::Debug, took: Duration) {
        self.ends(&word(kind), took, None);
    }
}

/// The name of a kind in snake case: `TooLarge` as `too_large`.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
fn word(kind: &impl fmt::Debug) -> String {
    #[allow(unused_mut)]
    let mut word = String::new();
    #[cfg(feature = "tracing")]
    for letter in format!("{kind:?}").chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}
