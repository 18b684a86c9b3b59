//! Why a webhook could not be created, and why a message was not delivered.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use reqwest::StatusCode;

/// Why a [`Webhook`](crate::refresh::Webhook) could not be created.
///
/// The message names the setting and what is allowed. It does not contain the given value, which
/// may be a secret.
#[derive(Debug)]
pub struct WebhookError {
    pub(super) setting: Option<&'static str>,
    pub(super) why: String,
}

impl WebhookError {
    pub(super) fn of(setting: &'static str, why: String) -> WebhookError {
        WebhookError { setting: Some(setting), why }
    }

    /// The setting whose value was rejected, if one was: `url`, `secret` or `header`.
    pub fn setting(&self) -> Option<&'static str> {
        self.setting
    }
}

impl fmt::Display for WebhookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the webhook cannot be made: ")?;
        if let Some(setting) = self.setting {
            write!(f, "its `{setting}` cannot be used: ")?;
        }
        f.write_str(&self.why)
    }
}

impl StdError for WebhookError {}

/// Why one attempt did not deliver the message.
#[derive(Debug)]
pub(super) enum Miss {
    Status { status: StatusCode, retry_after: Option<Duration> },
    Timeout(Duration),
    Transport(String),
}

impl Miss {
    /// Whether another attempt may succeed.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Miss::Status { status, .. } => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
                    )
            }
            Miss::Timeout(_) | Miss::Transport(_) => true,
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::Status { status, retry_after: None } => write!(f, "status {status}"),
            Miss::Status { status, retry_after: Some(asked) } => {
                write!(f, "status {status}, to be tried again after {asked:?}")
            }
            Miss::Timeout(time) => write!(f, "no answer within {time:?}"),
            Miss::Transport(why) => f.write_str(why),
        }
    }
}

/// Why there was no further attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The next attempt would have failed in the same way.
    Final,
    /// All attempts were used.
    Attempts,
    /// The next attempt would have begun too late.
    Limit(Duration),
}

/// A message that could not be delivered, and why.
#[derive(Debug)]
pub(super) struct Undelivered {
    /// Scheme, host and port.
    pub(super) to: String,
    pub(super) attempts: u32,
    pub(super) miss: Miss,
    pub(super) end: End,
}

impl fmt::Display for Undelivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Undelivered { to, attempts, miss, end } = self;
        let times = if *attempts == 1 { "attempt" } else { "attempts" };
        write!(f, "post to {to}: not delivered in {attempts} {times}; the last one: {miss}")?;
        match (end, miss) {
            (End::Final, Miss::Status { status, .. }) if status.is_redirection() => {
                f.write_str("; redirects are not followed: set the url that this one leads to")
            }
            (End::Final, _) => {
                f.write_str("; that will not pass: check the url and what the receiver expects")
            }
            (End::Attempts, _) => Ok(()),
            (End::Limit(limit), _) => write!(f, "; the next would exceed the `limit` of {limit:?}"),
        }
    }
}

impl StdError for Undelivered {}

/// The innermost source of an error. With `reqwest`, it is the one that says what happened.
pub(super) fn root(error: &(dyn StdError + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}
