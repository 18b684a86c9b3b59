//! [`Notices`]: the notices that other processes of the fleet send, and the waiters they wake.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::currency::{Applied, Currency};
use crate::l2::{LeaseOutcome, Listener, Notice};
use crate::sync::{Mutex, MutexGuard};
use crate::value::key::{CacheKey, KeyHasher};

/// Receives the notices of the shared tier.
///
/// All of them are hints. A missed invalidation is found by the next beat. A missed end of another
/// process's load is noticed when its lease expires.
pub(crate) struct Notices {
    pub(crate) currency: Arc<Currency>,
    /// Requests a beat from the heartbeat.
    pub(crate) beat: Notify,
    listening: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// The waiters for another process's load, by key. Nearly always there is one flight per key.
    keys: HashMap<CacheKey, Vec<(u64, oneshot::Sender<WakeReason>)>, KeyHasher>,
    /// The number of the last waiter.
    number: u64,
}

/// Why a waiter wakes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WakeReason {
    /// The load has ended with this outcome.
    Ended(LeaseOutcome),
    /// A notice may have been missed: the waiter asks again.
    AskAgain,
}

/// While no notices arrive, waiters ask again after this time.
const UNSUBSCRIBED: Duration = Duration::from_millis(100);

impl Notices {
    pub(crate) fn new(currency: Arc<Currency>) -> Notices {
        Notices {
            currency,
            beat: Notify::new(),
            listening: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }

    /// Registers a waiter for the end of another process's load. Must precede the request for the
    /// lease: an end between the request and the registration would be missed.
    pub(crate) fn wait_for(self: &Arc<Self>, key: CacheKey) -> Waiter {
        let (tell, told) = oneshot::channel();
        let mut waiting = self.lock();
        waiting.number += 1;
        let number = waiting.number;
        waiting.keys.entry(key).or_default().push((number, tell));
        Waiter { notices: self.clone(), key, number, told }
    }

    fn tell(&self, key: &CacheKey, word: WakeReason) {
        for (_, waiter) in self.lock().keys.remove(key).into_iter().flatten() {
            // A waiter that has left needs no notice.
            let _ = waiter.send(word);
        }
    }

    /// Makes all waiters for another process's load ask again: its lease may be lost, or the notice
    /// of its end may not reach them.
    pub(crate) fn ask_all(&self) {
        for (_, waiter) in self.lock().keys.drain().flat_map(|(_, waiters)| waiters) {
            let _ = waiter.send(WakeReason::AskAgain);
        }
    }
}

impl Listener for Notices {
    fn hear(&self, notice: Notice) {
        match notice {
            Notice::Connected => self.beat.notify_one(),
            // Without a connection, waiters will not find the result of another process's load.
            Notice::Disconnected => self.ask_all(),
            Notice::Subscribed => {
                self.listening.store(true, Ordering::Release);
                self.beat.notify_one();
                self.ask_all();
            }
            Notice::Unsubscribed => {
                self.listening.store(false, Ordering::Release);
                self.ask_all();
            }
            Notice::Invalidated { at, slots } => match self.currency.pushed(at, &slots) {
                Applied::Gap => self.beat.notify_one(),
                Applied::Ok | Applied::OldEpoch => {}
            },
            Notice::LeaseEnded { key, done } => self.tell(&key, WakeReason::Ended(done)),
        }
    }
}

/// Waits for the end of another process's load.
pub(crate) struct Waiter {
    notices: Arc<Notices>,
    key: CacheKey,
    number: u64,
    told: oneshot::Receiver<WakeReason>,
}

impl Waiter {
    /// Waits for the end of the load, and no longer than its lease.
    pub(crate) async fn word(mut self, lease: Duration) -> WakeReason {
        let listening = self.notices.listening.load(Ordering::Acquire);
        let patience = if listening { lease } else { lease.min(UNSUBSCRIBED) };
        match timeout(patience, &mut self.told).await {
            Ok(Ok(word)) => word,
            Ok(Err(_)) | Err(_) => WakeReason::AskAgain,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.notices.lock();
        if let Some(waiters) = waiting.keys.get_mut(&self.key) {
            waiters.retain(|(number, _)| *number != self.number);
            if waiters.is_empty() {
                waiting.keys.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Instant;
    use crate::currency::Position;
    use crate::value::key::{Digest, KeyEncoder, Shape};
    use futures_util::FutureExt;

    const LEASE: Duration = Duration::from_secs(2);

    fn key(number: u64) -> CacheKey {
        KeyEncoder::new(Digest::new("n", "q", None, 0), Shape(number)).finish()
    }

    fn notices() -> Arc<Notices> {
        Arc::new(Notices::new(Arc::new(Currency::shared())))
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_load_wakes_those_who_wait_for_its_key() {
        let notices = notices();
        notices.hear(Notice::Subscribed);
        let (one, two, other) =
            (notices.wait_for(key(1)), notices.wait_for(key(1)), notices.wait_for(key(2)));
        notices.hear(Notice::LeaseEnded { key: key(1), done: LeaseOutcome::Filled });
        assert_eq!(one.word(LEASE).await, WakeReason::Ended(LeaseOutcome::Filled));
        assert_eq!(two.word(LEASE).await, WakeReason::Ended(LeaseOutcome::Filled));
        assert!(other.word(LEASE).now_or_never().is_none());
        assert!(notices.lock().keys.is_empty(), "whoever leaves is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_word_a_waiter_asks_when_the_lease_ends_or_sooner_if_deaf() {
        let notices = notices();
        let begin = tokio::time::Instant::now();
        assert_eq!(notices.wait_for(key(1)).word(LEASE).await, WakeReason::AskAgain);
        assert!(begin.elapsed() >= UNSUBSCRIBED && begin.elapsed() < LEASE);
        notices.hear(Notice::Subscribed);
        let begin = tokio::time::Instant::now();
        assert_eq!(notices.wait_for(key(1)).word(LEASE).await, WakeReason::AskAgain);
        assert!(begin.elapsed() >= LEASE);
    }

    #[tokio::test(start_paused = true)]
    async fn when_notices_come_no_more_or_again_all_who_wait_ask() {
        let notices = notices();
        notices.hear(Notice::Subscribed);
        let waiter = notices.wait_for(key(1));
        notices.hear(Notice::Unsubscribed);
        assert_eq!(waiter.word(LEASE).now_or_never(), Some(WakeReason::AskAgain));
        let waiter = notices.wait_for(key(1));
        notices.hear(Notice::Subscribed);
        assert_eq!(waiter.word(LEASE).now_or_never(), Some(WakeReason::AskAgain));
    }

    #[test]
    fn a_gap_in_what_is_told_asks_for_a_beat() {
        let notices = notices();
        let told = |seq| {
            let at = Position { epoch: 7, seq };
            notices.hear(Notice::Invalidated { at, slots: vec![] });
            notices.beat.notified().now_or_never().is_some()
        };
        assert!(told(1), "of an epoch not known yet");
        let at = Position { epoch: 7, seq: 1 };
        assert_eq!(notices.currency.beat(at, &[], 1, Some(Instant::from_nanos(9))), Applied::Ok);
        assert!(!told(2));
        assert!(told(4));
    }
}
