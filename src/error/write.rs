//! The errors of a transaction that is run by [`QueryCache::write`](crate::QueryCache::write).

use tokio_postgres::error::SqlState;

use super::{Error, ErrorKind};

impl Error {
    /// PostgreSQL did not begin the transaction.
    pub(crate) fn not_begun(source: tokio_postgres::Error) -> Error {
        Error::of_transaction(
            ErrorKind::Query,
            "the transaction could not be begun, and nothing was written",
            Some(source.into()),
        )
    }

    /// The pool is one of sqlx.
    #[cfg(feature = "sqlx")]
    pub(crate) fn no_write_of_sqlx() -> Error {
        Error::of_transaction(
            ErrorKind::Query,
            "the transaction was not begun: `write` gives its function a transaction of \
             tokio_postgres, and this pool is one of sqlx; run the transaction with sqlx and call \
             `invalidate_table` when it has committed",
            None,
        )
    }

    /// PostgreSQL has rolled the transaction back instead of committing it.
    pub(crate) fn not_committed(source: tokio_postgres::Error) -> Error {
        let attempt = match source.code() {
            Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
                "the transaction was rolled back, because a statement in it failed and its function \
                 returned no error; let the function return the error of the statement"
            }
            Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED) => {
                "the transaction was rolled back because of another one; run it again"
            }
            _ => "the transaction was rolled back, because postgresql refused to commit it",
        };
        Error::of_transaction(ErrorKind::Query, attempt, Some(source.into()))
    }

    /// The connection was lost during the commit.
    pub(crate) fn in_doubt(source: tokio_postgres::Error) -> Error {
        Error::of_transaction(
            ErrorKind::InDoubt,
            "the connection to postgresql was lost while the transaction was being committed, so it \
             may have been committed or not; read from the database which it is before it is run \
             again",
            Some(source.into()),
        )
    }
}

/// So that a function can return a [`larder::Error`](Error) and use `?` on statements: its kind is
/// [`ErrorKind::Query`].
impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Error {
        Error::query(error.into())
    }
}
