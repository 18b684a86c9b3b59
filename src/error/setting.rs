//! [`WrongSetting`]: a value that a setting cannot have.

use std::fmt;

/// A setting that cannot be: which one, what was given, what is allowed.
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
