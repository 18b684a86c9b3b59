//! Large entries: their bodies are moved to and from the shared tier apart from all others, and only
//! where that is worth the wait.
//!
//! The limit of a transfer grows with the size of the body. Above the time that the body takes on a
//! usual network, no read waits longer for the copy than its load took: it could have loaded
//! instead. A transfer that fails for want of time is not tried again for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::currency::Stamp;
use crate::l1::entry::Lifetime;
use crate::l2::body::Body;
use crate::l2::entry::Header;
use crate::sync::Mutex;
use crate::value::key::{CacheKey, KeyHasher};
use crate::value::tag::Dependencies;

/// A usual network, in bytes a second. The rows of a load cross one as well, so a transfer at this
/// rate takes no longer than the load does, whatever the query costs.
const USUAL: u64 = 32 << 20;
/// The slowest transfer that is waited for, in bytes a second, if the load takes as long.
const SLOWEST: u64 = 2 << 20;
/// How long a transfer that was too slow is not tried again.
const PAUSE: Duration = Duration::from_secs(60);
/// How many keys are remembered at most.
const MOST: usize = 1024;

/// How long a transfer of so many bytes waits for its turn at most, and how long it takes at most
/// from then on. `load` is the duration of the load, and `limit` the time limit of any request.
pub(super) fn limit(limit: Duration, bytes: u64, load: Duration) -> Duration {
    let at = |rate: u64| Duration::from_secs_f64(bytes as f64 / rate as f64);
    limit + load.clamp(at(USUAL), at(SLOWEST))
}

/// The keys whose transfers were too slow, for a while.
#[derive(Default)]
pub(crate) struct SlowKeys(Mutex<HashMap<CacheKey, Instant, KeyHasher>>);

impl SlowKeys {
    pub(super) fn has(&self, key: &CacheKey, now: Instant) -> bool {
        self.0.lock().get(key).is_some_and(|until| now < *until)
    }

    pub(super) fn add(&self, key: CacheKey, now: Instant) {
        let mut keys = self.0.lock();
        if keys.len() >= MOST {
            keys.retain(|_, until| now < *until);
        }
        // If there are too many, the transfers of further keys are tried each time.
        if keys.len() < MOST {
            keys.insert(key, clock::after(now, PAUSE));
        }
    }
}

/// A large entry that may be served, and whose body is still in the shared tier.
pub(crate) struct LargeEntry {
    pub(super) header: Header,
    pub(super) body: Body,
    pub(super) stamp: Stamp,
    pub(super) lifetime: Lifetime,
    pub(super) depends: Arc<Dependencies>,
    pub(super) verified_at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_grows_with_the_size_and_is_that_of_the_load_in_between() {
        let (base, size) = (Duration::from_millis(50), 16 << 20);
        let of = |load: u64| limit(base, size, Duration::from_millis(load)).as_millis();
        assert_eq!(
            [of(1), of(500), of(2_000), of(8_000), of(60_000)],
            [550, 550, 2_050, 8_050, 8_050]
        );
        assert_eq!(limit(base, 2 * size, Duration::ZERO).as_millis(), 1_050);
    }

    #[test]
    fn a_slow_key_is_left_alone_for_a_while_and_memory_stays_bounded() {
        let (slow, start) = (SlowKeys::default(), Instant::from_nanos(1));
        let key = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            CacheKey::of_bytes(bytes)
        };
        slow.add(key(0), start);
        assert!(slow.has(&key(0), start) && !slow.has(&key(1), start));
        let end = clock::after(start, PAUSE);
        assert!(slow.has(&key(0), clock::before(end, Duration::from_nanos(1))));
        assert!(!slow.has(&key(0), end));
        for number in 0..2 * MOST {
            slow.add(key(number), start);
        }
        assert_eq!(slow.0.lock().len(), MOST);
        slow.add(key(2 * MOST), end);
        assert!(slow.has(&key(2 * MOST), end));
        assert_eq!(slow.0.lock().len(), 1);
    }
}
