//! [`Error`]: why Redis did not report what was asked for.

use std::fmt;

use redis::RedisError;

use super::rights::MissingRight;
use crate::l2::redis::url::WrongUrl;
use crate::l2::redis::{ConnectError, RefusalKind};

/// Why Redis did not report what was asked for.
///
/// The message holds what Redis replied, and no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    reply: String,
}

/// The kind of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The user lacks a right.
    Denied(MissingRight),
    /// Redis replied with an error, or with something unexpected.
    Refused,
    /// There is no connection, or no reply in time.
    Unreachable,
}

impl Error {
    pub(super) fn of(error: RedisError) -> Error {
        let reply = match (error.code(), error.detail()) {
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            _ => error.to_string(),
        };
        let kind = match error.code() {
            Some("NOPERM") => {
                ErrorKind::Denied(MissingRight::of_reply(error.detail().unwrap_or_default()))
            }
            Some(_) => ErrorKind::Refused,
            None if error.is_io_error() || error.is_unrecoverable_error() => ErrorKind::Unreachable,
            None => ErrorKind::Refused,
        };
        Error { kind, reply }
    }

    pub(super) fn of_connecting(error: ConnectError) -> Error {
        match error {
            ConnectError::Unreachable(error) => Error::of(error),
            ConnectError::NoCredentials(error) => Error::unexpected(error.to_string()),
            ConnectError::Refused(refusal) => {
                let reply = refusal.to_string();
                let kind = match refusal.kind() {
                    RefusalKind::Rights => ErrorKind::Denied(MissingRight::of_reply(&reply)),
                    RefusalKind::Credentials | RefusalKind::Server => ErrorKind::Refused,
                };
                Error { kind, reply }
            }
        }
    }

    pub(super) fn of_url(wrong: WrongUrl) -> Error {
        Error::unexpected(format!("the url is not one of a redis; allowed: {}", wrong.allowed()))
    }

    pub(super) fn unexpected(reply: impl Into<String>) -> Error {
        Error { kind: ErrorKind::Refused, reply: reply.into() }
    }

    /// Its kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What Redis replied, in its own words.
    pub fn reply(&self) -> &str {
        &self.reply
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ErrorKind::Denied(MissingRight::Command) => f.write_str("the user may not ask that"),
            ErrorKind::Denied(MissingRight::Keys) => {
                f.write_str("the user may not touch these keys")
            }
            ErrorKind::Denied(MissingRight::Channel) => {
                f.write_str("the user may not use this channel")
            }
            ErrorKind::Refused | ErrorKind::Unreachable => f.write_str(&self.reply),
        }
    }
}

impl std::error::Error for Error {}
