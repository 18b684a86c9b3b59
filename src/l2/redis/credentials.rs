//! [`RedisCredentials`]: a user of Redis and its password.

use std::fmt;

/// A user of Redis and the password, or the token, that proves it; see
/// [`redis_credentials`](crate::QueryCacheBuilder::redis_credentials).
///
/// `Debug` shows neither.
#[derive(Clone)]
pub struct RedisCredentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl RedisCredentials {
    /// The credentials of a user. A server that has only a password has the user `default`.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> RedisCredentials {
        RedisCredentials { user: user.into(), password: password.into() }
    }
}

impl fmt::Debug for RedisCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisCredentials(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_credentials() {
        let credentials = RedisCredentials::new("app", "hunter2");
        assert_eq!(format!("{credentials:?}"), "RedisCredentials(***)");
    }
}
