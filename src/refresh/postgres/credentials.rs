//! [`PostgresCredentials`]: a user of PostgreSQL and its password.

use std::fmt;

/// A user of PostgreSQL and the password, or the token, that proves it; see
/// [`listen_credentials`](crate::refresh::RefresherBuilder::listen_credentials).
///
/// `Debug` shows neither.
#[derive(Clone)]
pub struct PostgresCredentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl PostgresCredentials {
    /// The credentials of a user.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> PostgresCredentials {
        PostgresCredentials { user: user.into(), password: password.into() }
    }
}

impl fmt::Debug for PostgresCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresCredentials(***)")
    }
}
