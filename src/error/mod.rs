//! [`Error`]: the errors that callers receive. A read never fails because of the cache's own tiers.

mod setting;
mod setup;
mod write;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

pub(crate) use self::setting::WrongSetting;

/// The error of a source or a query function, of any type.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a read, the decoding of its result, or an invalidation failed.
///
/// A read fails only if the result itself cannot be obtained: the query failed, exceeded its
/// deadline or panicked. A failure of the cache is never an error of a read; it is counted in
/// [`CacheStats`](crate::stats::CacheStats).
///
/// All callers that waited for the same load share the error, so it is cheap to clone. PostgreSQL's
/// own error is its [`source`](StdError::source), and [`sqlstate`](Error::sqlstate) returns the
/// SQLSTATE. Neither the message nor the debug output contains parameter values.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    attempt: String,
    source: Option<BoxError>,
    /// Whether PostgreSQL's own message is not shown, because it may quote a value.
    private: bool,
}

/// The category of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The query or the query function failed; its own error is the source.
    Query,
    /// The pool provided no connection to PostgreSQL.
    Connect,
    /// The load exceeded its deadline. On a pool, a cancel request was sent to PostgreSQL.
    Deadline,
    /// The query function panicked.
    Panicked,
    /// The query function reads a result whose load waits for this very load, directly or through
    /// other loads. The message names the queries in their order.
    Cycle,
    /// The result does not have the requested column, or the column cannot be read as the requested
    /// type.
    Column,
    /// A row does not fit the type that it was to be deserialized into.
    Deserialize,
    /// The result is larger than [`Rows`](crate::Rows) can hold (2 GiB).
    TooLarge,
    /// A setting of the query is out of range, not allowed, or not possible with the source.
    Setting,
    /// The runtime that ran the load, or the cache, has shut down.
    Closed,
    /// Redis does not answer in time, or refuses, and there is nothing else to answer from.
    Unavailable,
    /// The connection was lost while a transaction was being committed, so it may have been committed
    /// or not. What it may have changed is invalidated.
    InDoubt,
    /// An invalidation is in force in this process, but Redis has not acknowledged it: other
    /// processes may not know of it yet.
    Unacknowledged,
}

impl Error {
    fn new(kind: ErrorKind, attempt: impl Into<String>, source: Option<BoxError>) -> Error {
        Error(Arc::new(Inner { kind, attempt: attempt.into(), source, private: false }))
    }

    pub(crate) fn query(source: BoxError) -> Error {
        Error::new(ErrorKind::Query, "the query failed", Some(source))
    }

    /// A type changed between the preparation of a statement and the end of its query.
    pub(crate) fn changed_types() -> Error {
        Error::new(
            ErrorKind::Query,
            "the query's rows have a type that was altered after the query was prepared; clear the \
             connection's type cache, prepare the query again and run it again",
            None,
        )
    }

    /// `column` is of a type that rows cannot hold.
    pub(crate) fn unsupported_type(column: &str) -> Error {
        Error::new(
            ErrorKind::Query,
            format!(
                "rows cannot hold the type of column {column:?}: it is nested deeper than 64 \
                 levels, or of an unknown kind; cast the column to another type, or run the query \
                 without the cache"
            ),
            None,
        )
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

    /// `queries` are the names of the queries whose loads wait for each other.
    pub(crate) fn cycle(queries: &[String]) -> Error {
        Error::new(
            ErrorKind::Cycle,
            format!(
                "the load would wait for itself: {}; a query function must not read, through the \
                 cache, a result that is loaded by way of itself: run the inner query without the \
                 cache, or give it a key of its own",
                queries.join(" -> ")
            ),
            None,
        )
    }

    pub(crate) fn panicked(payload: &(dyn std::any::Any + Send)) -> Error {
        let said = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        // The panic message is the user's own text and may contain anything, so it is the error's
        // source and not part of its message.
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

    /// The category of this error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// PostgreSQL's five-character error code, if the error came from PostgreSQL.
    ///
    /// The whole chain of sources is searched, so the code is also found if the query function
    /// wrapped the driver's error in one of its own.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.postgres().and_then(tokio_postgres::Error::code)
    }

    /// PostgreSQL's full report of the error (message, detail, hint, position), if there is one.
    ///
    /// It may quote parameter values. Use it in the caller, and do not write it to a log.
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
        // Messages of class 22 (data exceptions) and P0 (a function's own RAISE) may quote values.
        let quotes = db.code().code().starts_with("22") || db.code().code().starts_with("P0");
        if !quotes && !self.0.private {
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
