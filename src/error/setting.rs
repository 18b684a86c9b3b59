//! [`WrongSetting`]: a setting with a value that is not allowed.

use std::fmt;

/// A setting with a value that is not allowed: its name, the given value, and the allowed ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrongSetting {
    pub(crate) setting: &'static str,
    pub(crate) given: String,
    pub(crate) allowed: String,
}

impl fmt::Display for WrongSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is {}; allowed: {}", self.setting, self.given, self.allowed)
    }
}
