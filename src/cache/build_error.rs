//! [`BuildError`]: why a cache could not be built.

use std::fmt;

use crate::error::BoxError;
use crate::error::WrongSetting;
use crate::follow::failure::Failure;
#[cfg(feature = "redis")]
use crate::l2::redis::rights::rule_of;
#[cfg(feature = "redis")]
use crate::l2::redis::{ConnectError, Names, RefusalKind};

/// Why a cache could not be built: a setting is out of range, Redis does not answer or refuses the
/// credentials or commands, the database cannot be followed, or there is no Tokio runtime.
///
/// The message names the setting, the given value and the allowed ones, or what Redis replied. It
/// contains no password.
pub struct BuildError(Kind);

#[derive(Debug)]
pub(crate) enum Kind {
    Setting(WrongSetting),
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    Unreachable {
        address: String,
        source: BoxError,
    },
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    Refused {
        address: String,
        source: BoxError,
        /// ACL rules, if they are known.
        lacks: Vec<String>,
    },
    /// The user or the password was refused.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    Unauthenticated {
        address: String,
        source: BoxError,
    },
    /// The provider of credentials failed.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    NoCredentials {
        address: String,
        source: BoxError,
    },
    /// Something lasting keeps the database from being followed.
    NotFollowed(Failure),
    NoRuntime,
}

impl BuildError {
    /// Redis cannot be connected to.
    #[cfg(feature = "redis")]
    pub(crate) fn no_connection(address: String, error: ConnectError, names: &Names) -> BuildError {
        BuildError(match error {
            ConnectError::Unreachable(error) => Kind::Unreachable { address, source: error.into() },
            ConnectError::Refused(refusal) => match refusal.kind() {
                RefusalKind::Credentials => {
                    Kind::Unauthenticated { address, source: refusal.into() }
                }
                RefusalKind::Server => {
                    Kind::Refused { address, source: refusal.into(), lacks: vec![] }
                }
                RefusalKind::Rights => {
                    let mut lacks = refusal.lacks().to_vec();
                    if lacks.is_empty() {
                        lacks.extend(rule_of(&refusal.to_string(), names));
                    }
                    Kind::Refused { address, source: refusal.into(), lacks }
                }
            },
            ConnectError::NoCredentials(source) => Kind::NoCredentials { address, source },
        })
    }

    /// Redis does not do what the cache needs.
    #[cfg(feature = "redis")]
    pub(crate) fn refused(address: String, error: ConnectError, names: &Names) -> BuildError {
        match error {
            ConnectError::Unreachable(error) => {
                BuildError(Kind::Refused { address, source: error.into(), lacks: vec![] })
            }
            error => BuildError::no_connection(address, error, names),
        }
    }

    pub(crate) fn new(kind: Kind) -> BuildError {
        BuildError(kind)
    }

    /// Returns the name of the builder method whose value was refused, if it was a setting.
    pub fn setting(&self) -> Option<&'static str> {
        match &self.0 {
            Kind::Setting(wrong) => Some(wrong.setting),
            _ => None,
        }
    }

    /// Returns whether the reason is a Redis that did not answer.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.0, Kind::Unreachable { .. })
    }

    /// Returns whether the reason is a Redis that answered and refused: the credentials, a command,
    /// or to serve at all, as a replica does. The message and the source show its reply.
    pub fn is_refused(&self) -> bool {
        matches!(self.0, Kind::Refused { .. } | Kind::Unauthenticated { .. })
    }

    /// Returns whether the reason is the database that was to be [followed](crate::Follow): a setting,
    /// a right or an address, which the message names with what to change.
    pub fn is_not_followed(&self) -> bool {
        matches!(self.0, Kind::NotFollowed(_))
    }

    /// Returns whether the reason is the user or the password of Redis: Redis refused them, or the
    /// [provider](crate::QueryCacheBuilder::redis_credentials) gave none.
    pub fn is_unauthenticated(&self) -> bool {
        matches!(self.0, Kind::Unauthenticated { .. } | Kind::NoCredentials { .. })
    }
}

impl From<WrongSetting> for BuildError {
    fn from(wrong: WrongSetting) -> BuildError {
        BuildError(Kind::Setting(wrong))
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Setting(wrong) => write!(f, "the cache cannot be built: {wrong}"),
            Kind::Unreachable { address, .. } => write!(
                f,
                "the cache cannot be built: redis at {address} does not answer; start it, correct \
                 the url, or call `redis_optional` to begin without it"
            ),
            Kind::Refused { address, source, lacks } if !lacks.is_empty() => write!(
                f,
                "the cache cannot be built: redis at {address} refuses its user a right ({source}); \
                 its user must have the rights that `redis` lists in the documentation, and lacks \
                 {lacks}; grant them with `ACL SETUSER <user> {lacks}`, or call `redis_optional` to \
                 begin without Redis",
                lacks = lacks.join(" "),
            ),
            Kind::Refused { address, source, .. } => write!(
                f,
                "the cache cannot be built: redis at {address} does not do what is asked of it \
                 ({source}); it must be a master of version 6.2 or later, with memory left, and its \
                 user must have the rights that `redis` lists in the documentation; or call \
                 `redis_optional` to begin without it"
            ),
            Kind::Unauthenticated { address, source } => write!(
                f,
                "the cache cannot be built: redis at {address} refuses the user or the password \
                 ({source}); correct the url (`@` in a password is written %40, `%` is \
                 %25, and `+` in that of a unix socket is %2B) or what \
                 `redis_credentials` returns"
            ),
            Kind::NoCredentials { address, .. } => write!(
                f,
                "the cache cannot be built: the closure given to `redis_credentials` returned no \
                 credentials for redis at {address}"
            ),
            Kind::NotFollowed(failure) => {
                write!(f, "the cache cannot be built: {failure}; or build it without `follow`")
            }
            Kind::NoRuntime => f.write_str(
                "the cache cannot be built: there is no tokio runtime here; call `build` from \
                 within one, such as a function under `#[tokio::main]`",
            ),
        }
    }
}

impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BuildError").field(&self.to_string()).finish()
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Kind::Unreachable { source, .. }
            | Kind::Refused { source, .. }
            | Kind::Unauthenticated { source, .. }
            | Kind::NoCredentials { source, .. } => Some(&**source),
            Kind::NotFollowed(failure) => Some(failure),
            _ => None,
        }
    }
}
