//! [`BuildError`]: why a cache could not be built.

use std::fmt;

use crate::error::BoxError;
use crate::error::WrongSetting;

/// Why a cache could not be built: a setting is out of range, Redis does not answer or refuses
/// commands, or there is no Tokio runtime.
///
/// The message names the setting, the given value and the allowed ones. It contains no password.
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
    },
    NoRuntime,
}

impl BuildError {
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
            Kind::Refused { address, source } => write!(
                f,
                "the cache cannot be built: redis at {address} does not do what is asked of it \
                 ({source}); it must be a master of version 6.2 or later, with memory left, and its \
                 user must have the rights that `redis` lists in the documentation; or call \
                 `redis_optional` to begin without it"
            ),
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
            Kind::Unreachable { source, .. } | Kind::Refused { source, .. } => Some(&**source),
            _ => None,
        }
    }
}
