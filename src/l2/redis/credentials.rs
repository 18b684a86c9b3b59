//! [`RedisCredentials`], and the provider that is asked for them.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use crate::error::BoxError;

/// How long a provider may take.
const LIMIT: Duration = Duration::from_secs(10);

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

type Asked = BoxFuture<'static, Result<RedisCredentials, BoxError>>;

/// A closure that is asked for credentials at each connect.
#[derive(Clone)]
pub(crate) struct CredentialsProvider(Arc<dyn Fn() -> Asked + Send + Sync>);

impl CredentialsProvider {
    pub(crate) fn new(ask: impl Fn() -> Asked + Send + Sync + 'static) -> CredentialsProvider {
        CredentialsProvider(Arc::new(ask))
    }

    /// Asks the provider. A provider that panics or does not answer has failed, and is asked again
    /// at the next attempt to connect.
    pub(super) async fn ask(&self) -> Result<RedisCredentials, BoxError> {
        let asked = AssertUnwindSafe(async { (self.0)().await }).catch_unwind();
        match timeout(LIMIT, asked).await {
            Ok(Ok(credentials)) => credentials,
            Ok(Err(_)) => Err("the provider panicked".into()),
            Err(_) => Err(format!("the provider gave no answer within {LIMIT:?}").into()),
        }
    }
}

impl fmt::Debug for CredentialsProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialsProvider")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_fails_panics_or_hangs_is_an_error() {
        let error =
            async |provider: CredentialsProvider| provider.ask().await.unwrap_err().to_string();
        let fails = CredentialsProvider::new(|| Box::pin(async { Err("no token".into()) }));
        assert_eq!(error(fails).await, "no token");
        let panics = CredentialsProvider::new(|| panic!("on purpose"));
        assert_eq!(error(panics).await, "the provider panicked");
        let hangs = CredentialsProvider::new(|| Box::pin(std::future::pending()));
        assert_eq!(error(hangs).await, "the provider gave no answer within 10s");
    }

    #[test]
    fn debug_output_shows_no_credentials() {
        let credentials = RedisCredentials::new("app", "hunter2");
        assert_eq!(format!("{credentials:?}"), "RedisCredentials(***)");
    }
}
