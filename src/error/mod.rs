//! [`Error`]: the errors that callers receive. A read never fails because of the cache's own tiers.

mod cause;
mod many;
mod setting;
mod setup;
mod write;

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::types::WasNull;

pub(crate) use self::setting::WrongSetting;

/// The error of a source or a query function, of any type.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a read, the decoding of its result, or an invalidation failed.
///
/// A read fails only if the result itself cannot be obtained: the query failed, exceeded its
/// deadline or panicked. A failure of the cache is never an error of a read; it is counted in
/// [`CacheStats`](crate::stats::CacheStats).
///
/// All callers that waited for the same load share the error, so it is cheap to clone. The driver's
/// own error, or that of the query function, is its [`source`](StdError::source), and
/// [`sqlstate`](Error::sqlstate) returns the SQLSTATE.
///
/// # Message
///
/// It names the query and the cause, so that one line in a log is enough:
///
/// ```text
/// the query `top customers` failed: relation "customers" does not exist (SQLSTATE 42P01)
/// ```
///
/// The name is that of [`Query::name`](crate::Query::name), or the one that
/// [`query_stats`](crate::QueryCache::query_stats) shows. The cause is the message of the source and
/// of its sources. Neither the message nor the debug output contains values of parameters: a message
/// of PostgreSQL that may quote one (SQLSTATE class 22, or a function's own `RAISE`) is left out, and
/// so is whatever wraps it, and a panic's. What an error of your own query function says of itself is
/// shown.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    /// The query that failed, once it is known.
    query: OnceLock<Arc<str>>,
    attempt: String,
    source: Option<BoxError>,
    sqlstate: Option<SqlState>,
    /// Whether PostgreSQL's own message is not shown, because it may quote a value.
    private: bool,
    /// Whether it is about a transaction of the application, and not about a query.
    of_transaction: bool,
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
    /// The result has more or fewer rows than were asked for, as by
    /// [`fetch_one`](crate::Bound::fetch_one).
    RowCount,
    /// A value has no form in JSON.
    Json,
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
    /// The cache does not follow the database, or no process could tell in time what has changed in
    /// it.
    NotFollowed,
    /// An invalidation is in force in this process, but Redis has not acknowledged it: other
    /// processes may not know of it yet.
    Unacknowledged,
}

impl Inner {
    fn new(kind: ErrorKind, attempt: String, source: Option<BoxError>, private: bool) -> Inner {
        let sqlstate = source.as_deref().and_then(|source| cause::sqlstate(source));
        let (query, of_transaction) = (OnceLock::new(), false);
        Inner { kind, query, attempt, source, sqlstate, private, of_transaction }
    }
}

impl Error {
    fn new(kind: ErrorKind, attempt: impl Into<String>, source: Option<BoxError>) -> Error {
        Error::with(kind, attempt.into(), source, false)
    }

    fn with(kind: ErrorKind, attempt: String, source: Option<BoxError>, private: bool) -> Error {
        Error(Arc::new(Inner::new(kind, attempt, source, private)))
    }

    fn of_transaction(kind: ErrorKind, attempt: &str, source: Option<BoxError>) -> Error {
        let inner = Inner::new(kind, attempt.to_owned(), source, false);
        Error(Arc::new(Inner { of_transaction: true, ..inner }))
    }

    /// Names the query that failed. If a query function passes on the error of another query, the
    /// name of that one stays.
    pub(crate) fn of_query(self, name: &str) -> Error {
        self.0.query.get_or_init(|| name.into());
        self
    }

    pub(crate) fn query(source: BoxError) -> Error {
        Error::new(ErrorKind::Query, "", Some(source))
    }

    /// A type changed between the preparation of a statement and the end of its query.
    pub(crate) fn changed_types() -> Error {
        Error::new(
            ErrorKind::Query,
            "its rows have a type that was altered after it was prepared; clear the connection's type \
             cache, prepare the query again and run it again",
            None,
        )
    }

    #[cfg(feature = "sqlx")]
    pub(crate) fn undescribed(source: BoxError) -> Error {
        Error::new(
            ErrorKind::Query,
            "sqlx cannot describe the type of a column or a parameter (it does not know multiranges, \
             nor types of postgresql's own catalogs); cast it in the query, to text for example",
            Some(source),
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
            "no connection to postgresql (check that the server answers and that the pool is large \
             enough)",
            Some(source),
        )
    }

    pub(crate) fn deadline(after: Duration) -> Error {
        Error::new(
            ErrorKind::Deadline,
            format!(
                "it had no result within its load deadline of {after:?} and was given up; make it \
                 faster or raise `load_deadline`"
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
        Error::with(ErrorKind::Panicked, "its query function panicked".into(), source, true)
    }

    pub(crate) fn column(attempt: String, source: Option<BoxError>) -> Error {
        // Other sources repeat the types, or quote the value.
        let is_null = source.as_ref().is_some_and(|source| source.is::<WasNull>());
        Error::with(ErrorKind::Column, attempt, source, !is_null)
    }

    pub(crate) fn deserialize(attempt: String) -> Error {
        Error::new(ErrorKind::Deserialize, attempt, None)
    }

    /// `wanted`: how many rows were asked for.
    pub(crate) fn row_count(rows: usize, wanted: &str) -> Error {
        let rows = match rows {
            0 => "no rows".to_owned(),
            1 => "one row".to_owned(),
            rows => format!("{rows} rows"),
        };
        Error::new(
            ErrorKind::RowCount,
            format!("the result has {rows}, and {wanted} was asked for"),
            None,
        )
    }

    pub(crate) fn column_count(columns: usize) -> Error {
        Error::new(
            ErrorKind::Column,
            format!("the result has {columns} columns, and a single value was asked for"),
            None,
        )
    }

    /// A message of ours, which names the column and quotes no value.
    pub(crate) fn json(message: &str) -> Error {
        Error::new(ErrorKind::Json, format!("the rows cannot be written as json: {message}"), None)
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

    /// `reason`: why this process cannot follow, if it should.
    pub(crate) fn not_followed(reason: Option<Option<String>>) -> Error {
        let attempt = match reason {
            None => "the cache does not follow the database: build it with `follow`".to_owned(),
            Some(reason) => format!(
                "it is not known in time whether the database has changed: {}",
                reason.as_deref().unwrap_or("check that redis and the database answer")
            ),
        };
        Error::new(ErrorKind::NotFollowed, attempt, None)
    }

    /// The category of this error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The name of the query that failed; `None` for an error that is of no query of a cache, such
    /// as one of [`Rows::query`](crate::Rows::query) or of a column that is not there.
    pub fn query_name(&self) -> Option<&str> {
        self.0.query.get().map(|name| &**name)
    }

    /// PostgreSQL's five-character error code, if the error came from PostgreSQL.
    ///
    /// The whole chain of sources is searched, so the code is also found if the query function
    /// wrapped the driver's error in one of its own.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.0.sqlstate.as_ref()
    }

    /// PostgreSQL's full report of the error (message, detail, hint, position), if there is one and
    /// the query ran by `tokio_postgres`.
    ///
    /// It may quote parameter values. Use it in the caller, and do not write it to a log.
    pub fn db_error(&self) -> Option<&DbError> {
        self.0.source.as_deref().and_then(|source| cause::db_error(source))
    }

    /// The routine in PostgreSQL that reported the error.
    pub(crate) fn routine(&self) -> Option<&str> {
        self.0.source.as_deref().and_then(|source| cause::routine(source))
    }

    /// Whether it is about a query as a whole, even if nobody has named that.
    fn is_of_a_query(&self) -> bool {
        use ErrorKind::*;
        match self.0.kind {
            // Those errors say so themselves.
            _ if self.0.of_transaction => false,
            Query | Connect | Deadline | Panicked | Cycle | TooLarge | Setting | Closed => true,
            Column | Deserialize | RowCount | Json | Unavailable | Unacknowledged | InDoubt
            | NotFollowed => self.0.query.get().is_some(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { query, attempt, source, private, .. } = &*self.0;
        let cause = source.as_deref().map(|source| cause::message(source, *private));
        let lead = match query.get() {
            Some(name) => format!("the query `{name}` failed"),
            None if self.is_of_a_query() => "the query failed".to_owned(),
            None => String::new(),
        };
        let parts = [&*lead, attempt, cause.as_deref().unwrap_or_default()];
        let mut parts = parts.into_iter().filter(|part| !part.is_empty());
        f.write_str(parts.next().unwrap_or_default())?;
        // A code alone is no further part of the sentence.
        parts.try_for_each(|part| {
            let between = if part.starts_with("(SQLSTATE") { " " } else { ": " };
            write!(f, "{between}{part}")
        })
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
        assert_eq!(clone.to_string(), "the query failed: no such table");
        assert!(clone.sqlstate().is_none());
    }

    #[test]
    fn the_query_that_failed_first_is_named() {
        let error = Error::query("no such table".into()).of_query("inner");
        assert_eq!(error.query_name(), Some("inner"));
        let error = error.of_query("outer");
        assert_eq!(error.to_string(), "the query `inner` failed: no such table");
        let late = Error::deadline(Duration::from_secs(5)).of_query("top");
        assert!(late.to_string().starts_with("the query `top` failed: it had no result within"));
        // Of no query, until a query function passes it on.
        let column = Error::column("there is no column \"a\" in the result".into(), None);
        assert_eq!(column.to_string(), "there is no column \"a\" in the result");
        let column = column.of_query("top").to_string();
        assert_eq!(column, "the query `top` failed: there is no column \"a\" in the result");
    }

    #[test]
    fn a_panics_own_words_are_not_shown() {
        let error = Error::panicked(&"password is hunter2".to_owned()).of_query("top");
        assert_eq!(error.to_string(), "the query `top` failed: its query function panicked");
        assert!(!format!("{error:?}").contains("hunter2"));
        assert_eq!(error.source().unwrap().to_string(), "password is hunter2");
    }
}
