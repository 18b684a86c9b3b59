//! How long to wait before trying again.

use std::time::{Duration, SystemTime};

use retry_policies::policies::ExponentialBackoff;
use retry_policies::{Jitter, RetryDecision, RetryPolicy};

/// A random time up to `base` doubled once for each earlier try, and up to `cap`: exponential backoff
/// with full jitter (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
pub(super) fn delay(tries: u32, base: Duration, cap: Duration) -> Duration {
    let policy = ExponentialBackoff::builder()
        .retry_bounds(base.min(cap), cap)
        .jitter(Jitter::Full)
        .build_with_max_retries(u32::MAX);
    let now = SystemTime::now();
    match policy.should_retry(now, tries) {
        RetryDecision::Retry { execute_after } => {
            execute_after.duration_since(now).unwrap_or_default().min(cap)
        }
        RetryDecision::DoNotRetry => cap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_the_cap_and_is_never_above() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(5));
        let longest = |tries| (0..200).map(|_| delay(tries, base, cap)).max().unwrap();
        assert!(longest(0) <= base * 2);
        assert!(longest(3) > base);
        assert!(longest(40) <= cap && longest(u32::MAX) <= cap);
    }
}
