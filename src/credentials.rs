//! [`CredentialsProvider`]: a closure that is asked for credentials at each connect, to Redis or to
//! PostgreSQL.

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

type Asked<T> = BoxFuture<'static, Result<T, BoxError>>;

/// A closure that is asked for credentials `T` at each connect.
pub(crate) struct CredentialsProvider<T>(Arc<dyn Fn() -> Asked<T> + Send + Sync>);

impl<T> CredentialsProvider<T> {
    pub(crate) fn new<C>(ask: impl Fn() -> C + Send + Sync + 'static) -> CredentialsProvider<T>
    where
        C: Future<Output = Result<T, BoxError>> + Send + 'static,
    {
        CredentialsProvider(Arc::new(move || Box::pin(ask())))
    }

    /// Asks the provider. A provider that panics or does not answer has failed, and is asked again
    /// at the next attempt to connect.
    pub(crate) async fn ask(&self) -> Result<T, BoxError> {
        let asked = AssertUnwindSafe(async { (self.0)().await }).catch_unwind();
        match timeout(LIMIT, asked).await {
            Ok(Ok(credentials)) => credentials,
            Ok(Err(_)) => Err("the provider panicked".into()),
            Err(_) => Err(format!("the provider gave no answer within {LIMIT:?}").into()),
        }
    }
}

impl<T> Clone for CredentialsProvider<T> {
    fn clone(&self) -> CredentialsProvider<T> {
        CredentialsProvider(self.0.clone())
    }
}

impl<T> fmt::Debug for CredentialsProvider<T> {
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
            async |provider: CredentialsProvider<()>| provider.ask().await.unwrap_err().to_string();
        let fails = CredentialsProvider::new(|| async { Err("no token".into()) });
        assert_eq!(error(fails).await, "no token");
        let panics = CredentialsProvider::new(|| -> Asked<()> { panic!("on purpose") });
        assert_eq!(error(panics).await, "the provider panicked");
        let hangs = CredentialsProvider::new(std::future::pending);
        assert_eq!(error(hangs).await, "the provider gave no answer within 10s");
    }
}
