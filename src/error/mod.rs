//! [`Error`]: what reaches the caller, and nothing about the cache's own trouble.

mod setting;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

pub(crate) use self::setting::WrongSetting;

/// The error of a source or a query function, whatever its type was.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a read has no answer.
///
/// A read fails only when the result itself cannot be had: the query failed, ran into its deadline
/// or panicked. Trouble of the cache is never an error of a read; it is counted in
/// [`CacheStats`](crate::stats::CacheStats).
///
/// The error is shared by every caller that waited for the same load, so it is cheap to clone. What
/// PostgreSQL said is its [`source`](StdError::source), and its SQLSTATE is at hand in
/// [`sqlstate`](Error::sqlstate). Neither the message nor the debug output holds parameter values.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    attempt: String,
    source: Option<BoxError>,
}

/// What sort of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The query or the query function failed; its own error is the source.
    Query,
    /// No connection to PostgreSQL could be had from the pool.
    Connect,
    /// The load ran into its deadline. On a pool, PostgreSQL was told to cancel the query.
    Deadline,
    /// The query function panicked.
    Panicked,
    /// A column was asked for that the result does not have, or as a type it cannot be read as.
    Column,
    /// A row does not fit the struct it was to be deserialized into.
    Deserialize,
    /// The result is larger than [`Rows`](crate::Rows) can hold (2 GiB).
    TooLarge,
    /// A setting of the query is out of range.
    Setting,
    /// The runtime that ran the load, or the cache, has shut down.
    Closed,
    /// Redis does not answer in time, or refuses, and there is nothing else to answer from.
    Unavailable,
    /// An invalidation is in force in this process, and Redis has not acknowledged it: other
    /// processes may not know of it yet.
    Unacknowledged,
}

impl Error {
    fn new(kind: ErrorKind, attempt: impl Into<String>, source: Option<BoxError>) -> Error {
        Error(Arc::new(Inner { kind, attempt: attempt.into(), source }))
    }

    pub(crate) fn query(source: BoxError) -> Error {
        Error::new(ErrorKind::Query, "the query failed", Some(source))
    }

    pub(crate) fn connect(source: BoxError) -> Error {
        Error::new(
            ErrorKind::Connect,
            "no connection to postgresql for the query; check that the server answers and that the \
             pool is large enough",
            Some(source),
        )
    }

    pub(crate) fn deadline(after: Duration) -> Error {
        Error::new(
            ErrorKind::Deadline,
            format!(
                "the query had no result within its load deadline of {after:?} and was given up; \
                 make it faster or raise `load_deadline`"
            ),
            None,
        )
    }

    pub(crate) fn panicked(payload: &(dyn std::any::Any + Send)) -> Error {
        let said = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        // The panic message is the user's own text and may hold anything, so it is a source to be
        // asked for, not a part of our words.
        let source = said.map(|said| BoxError::from(said.to_owned()));
        Error::new(ErrorKind::Panicked, "the query function panicked", source)
    }

    pub(crate) fn column(attempt: String, source: Option<BoxError>) -> Error {
        Error::new(ErrorKind::Column, attempt, source)
    }

    pub(crate) fn deserialize(attempt: String) -> Error {
        Error::new(ErrorKind::Deserialize, attempt, None)
    }

    pub(crate) fn too_large() -> Error {
        Error::new(
            ErrorKind::TooLarge,
            "the result is larger than the 2 GiB that rows can hold; run this query without the \
             cache, as a stream",
            None,
        )
    }

    pub(crate) fn setting(wrong: &WrongSetting) -> Error {
        Error::new(ErrorKind::Setting, wrong.to_string(), None)
    }

    pub(crate) fn closed() -> Error {
        Error::new(
            ErrorKind::Closed,
            "the load was dropped before it ended: the runtime that it ran on, or the cache, has \
             shut down",
            None,
        )
    }

    /// `what` was asked of the shared tier.
    pub(crate) fn unavailable(what: &str) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "redis was asked for {what} and did not answer as expected; check that redis \
                 answers and that its user may run the command"
            ),
            None,
        )
    }

    pub(crate) fn unacknowledged() -> Error {
        Error::new(
            ErrorKind::Unacknowledged,
            "the invalidation is in force in this process, but redis has not acknowledged it, so \
             other processes may serve what it concerns for as long as they can show it to be \
             current; it is kept and announced as soon as redis takes it: check that redis answers, \
             accepts writes and has memory left",
            None,
        )
    }

    /// What sort of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// PostgreSQL's five-letter code for what went wrong, if PostgreSQL said so.
    ///
    /// It is looked for along the chain of sources, so it is found as well when the query function
    /// wrapped the driver's error in one of its own.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.postgres().and_then(tokio_postgres::Error::code)
    }

    /// PostgreSQL's whole report of the error (message, detail, hint, position), if there is one.
    ///
    /// It may quote parameter values; it is for the caller, not for a log.
    pub fn db_error(&self) -> Option<&DbError> {
        self.postgres().and_then(tokio_postgres::Error::as_db_error)
    }

    fn postgres(&self) -> Option<&tokio_postgres::Error> {
        let mut next = self.source();
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.attempt)?;
        let Some(db) = self.db_error() else { return Ok(()) };
        write!(f, ": ")?;
        // Messages of class 22 (data exceptions) and P0 (a function's own RAISE) quote values.
        if !db.code().code().starts_with("22") && !db.code().code().starts_with("P0") {
            write!(f, "{} ", db.message())?;
        }
        write!(f, "(SQLSTATE {})", db.code().code())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.to_string())
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_shares_kind_and_source() {
        let error = Error::query("no such table".into());
        let clone = error.clone();
        assert_eq!(clone.kind(), ErrorKind::Query);
        assert_eq!(clone.source().unwrap().to_string(), "no such table");
        assert_eq!(clone.to_string(), "the query failed");
        assert!(clone.sqlstate().is_none());
    }

    #[test]
    fn debug_output_holds_no_word_of_the_source() {
        let error = Error::query("password is hunter2".into());
        assert!(!format!("{error:?}").contains("hunter2"));
        assert!(!error.to_string().contains("hunter2"));
    }
}
