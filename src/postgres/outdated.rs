//! [`Failed`]: why a query failed, and whether it may work when it is prepared again.

use tokio_postgres::error::SqlState;

use crate::error::{Error, ErrorKind};

pub(super) fn of_postgres(error: tokio_postgres::Error) -> Error {
    Error::query(error.into())
}

/// Why an attempt to run a query failed. In every case PostgreSQL has undone what it had run.
pub(super) enum Failed {
    /// By itself. It would fail again.
    Query(Error),
    /// Perhaps because its statement is outdated.
    Statement(Error),
    /// Because the connection's descriptions of its types are outdated.
    Types(Error),
    /// By itself, and it may have left a transaction open.
    Connection(Error),
    /// Because the connection cannot look types up: `tokio_postgres` does so with prepared
    /// statements that it never prepares again, and the session does not have them any more.
    Lookup(Error),
}

impl Failed {
    pub(super) fn of_prepare(error: Error) -> Failed {
        let Some(code) = error.sqlstate() else {
            // A type that was dropped meanwhile is an answer that `tokio_postgres` does not expect.
            return if is_of_client(&error) {
                Failed::Statement(error)
            } else {
                Failed::Query(error)
            };
        };
        if code == &SqlState::INVALID_SQL_STATEMENT_NAME {
            Failed::Lookup(error)
        } else if is_of_a_plan(code, error.routine()) {
            Failed::Statement(error)
        } else {
            Failed::Query(error)
        }
    }

    /// `may_be_outdated`: the statement was prepared for an earlier load, or it has types whose
    /// descriptions an earlier load may have brought.
    pub(super) fn of_run(error: Error, may_be_outdated: bool) -> Failed {
        let outdated = match error.sqlstate() {
            Some(code) => {
                is_of_a_plan(code, error.routine()) || (may_be_outdated && is_of_names(code))
            }
            None => may_be_outdated && is_of_client(&error),
        };
        if outdated { Failed::Statement(error) } else { Failed::Query(error) }
    }

    pub(super) fn outdated_types() -> Failed {
        Failed::Types(Error::changed_types())
    }

    pub(super) fn is_too_large(&self) -> bool {
        matches!(self, Failed::Query(error) if error.kind() == ErrorKind::TooLarge)
    }

    /// Whether the connection may run other queries. After `TooLarge` it is not idle: the rows that
    /// were not read are still arriving.
    pub(super) fn leaves_a_usable_connection(&self) -> bool {
        matches!(self, Failed::Query(_) | Failed::Statement(_)) && !self.is_too_large()
    }

    pub(super) fn into_error(self) -> Error {
        match self {
            Failed::Query(error)
            | Failed::Statement(error)
            | Failed::Types(error)
            | Failed::Connection(error)
            | Failed::Lookup(error) => error,
        }
    }
}

/// Whether the session does not know the statement: `DISCARD ALL`, `DEALLOCATE`, or a pooler that
/// switched to another session. It has then forgotten all others as well.
pub(super) fn is_unknown_statement(error: &Error) -> bool {
    error.sqlstate() == Some(&SqlState::INVALID_SQL_STATEMENT_NAME)
}

/// Whether only a statement that was prepared earlier fails like this.
fn is_of_a_plan(code: &SqlState, routine: Option<&str>) -> bool {
    // The routine tells an outdated plan from other errors with the same SQLSTATE.
    let by = |routines: &[&str]| routine.is_some_and(|by| routines.contains(&by));
    match *code {
        SqlState::INVALID_SQL_STATEMENT_NAME => true,
        // "cache lookup failed for type 16396", "could not open relation with OID 16400": the plan
        // refers to something that was dropped.
        SqlState::INTERNAL_ERROR => true,
        // "cached plan must not change result type"
        SqlState::FEATURE_NOT_SUPPORTED => by(&["RevalidateCachedQuery"]),
        // "attribute 2 of type record has been dropped", "function return row and query-specified
        // return row do not match"
        SqlState::UNDEFINED_COLUMN | SqlState::DATATYPE_MISMATCH => {
            by(&["CheckVarSlotCompatibility", "ExecEvalWholeRowVar", "tupledesc_match"])
        }
        _ => false,
    }
}

/// Whether something that the statement refers to does not exist, or is of another type.
fn is_of_names(code: &SqlState) -> bool {
    [
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_OBJECT,
        SqlState::UNDEFINED_PARAMETER,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::DATATYPE_MISMATCH,
        SqlState::CANNOT_COERCE,
        SqlState::INVALID_BINARY_REPRESENTATION,
        SqlState::PROTOCOL_VIOLATION,
    ]
    .contains(code)
}

/// Whether the driver failed, and not the connection: a parameter that does not fit its type.
fn is_of_client(error: &Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let closed = error.downcast_ref().is_some_and(tokio_postgres::Error::is_closed);
        if closed || error.is::<std::io::Error>() {
            return false;
        }
        source = error.source();
    }
    error.kind() == ErrorKind::Query
}
