//! [`ReplicationError`]: why a connection for replication could not be had, or was lost.

use std::fmt;
use std::io;

use crate::error::BoxError;

/// Why a connection for replication, or the connection for SQL beside it, failed.
#[derive(Debug)]
pub(crate) enum ReplicationError {
    /// The connection could not be opened, or was lost.
    Lost(BoxError),
    /// The server refused something. It may have closed the connection.
    Refused(Refused),
    /// The server sent what the protocol does not allow here.
    Protocol(&'static str),
    /// There was no answer in time.
    TimedOut(&'static str),
}

/// An error that the server has reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) sqlstate: String,
    pub(crate) message: String,
}

impl ReplicationError {
    /// The SQLSTATE of what the server refused.
    pub(crate) fn sqlstate(&self) -> Option<&str> {
        match self {
            ReplicationError::Refused(refused) => Some(&refused.sqlstate),
            _ => None,
        }
    }

    pub(super) fn closed() -> ReplicationError {
        ReplicationError::Lost("the server closed the connection".into())
    }
}

impl From<tokio_postgres::Error> for ReplicationError {
    fn from(error: tokio_postgres::Error) -> ReplicationError {
        match error.as_db_error() {
            Some(refused) => ReplicationError::Refused(Refused {
                sqlstate: refused.code().code().to_owned(),
                message: refused.message().to_owned(),
            }),
            None => ReplicationError::Lost(error.into()),
        }
    }
}

impl From<io::Error> for ReplicationError {
    fn from(error: io::Error) -> ReplicationError {
        ReplicationError::Lost(error.into())
    }
}

impl fmt::Display for ReplicationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplicationError::Lost(error) => {
                write!(f, "{error}")?;
                // tokio-postgres names the attempt only.
                let mut next = error.source();
                while let Some(error) = next {
                    write!(f, ": {error}")?;
                    next = error.source();
                }
                Ok(())
            }
            ReplicationError::Refused(Refused { sqlstate, message }) => {
                write!(f, "{message} ({sqlstate})")
            }
            ReplicationError::Protocol(what) => {
                write!(f, "the server does not speak the replication protocol: {what}")
            }
            ReplicationError::TimedOut(what) => write!(f, "no answer in time: {what}"),
        }
    }
}

impl std::error::Error for ReplicationError {}

/// Reads the fields of an error or a notice: a letter and a text each.
pub(super) fn refused(mut fields: &[u8]) -> Refused {
    let (mut sqlstate, mut message) = (String::new(), String::new());
    while let Some((&kind, rest)) = fields.split_first()
        && kind != 0
    {
        let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
        let text = String::from_utf8_lossy(&rest[..end]);
        match kind {
            b'C' => sqlstate = text.into_owned(),
            b'M' => message = text.into_owned(),
            _ => {}
        }
        fields = rest.get(end + 1..).unwrap_or_default();
    }
    Refused { sqlstate, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_and_the_message_of_an_error_are_read() {
        let fields = b"SERROR\0VERROR\0C42710\0Mreplication slot \"a\" already exists\0Fslot.c\0\0";
        let error = refused(fields);
        assert_eq!(error.sqlstate, "42710");
        assert_eq!(error.message, "replication slot \"a\" already exists");
        for cut in 0..fields.len() {
            refused(&fields[..cut]);
        }
    }
}
