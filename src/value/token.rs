//! [`Token`]: the identifier of one load.

use std::fmt;

/// The identifier of one load, in its lease and in its entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(pub(crate) [u8; 16]);

impl Token {
    pub(crate) fn random() -> Token {
        Token(fastrand::u128(..).to_be_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:032x})", u128::from_be_bytes(self.0))
    }
}
