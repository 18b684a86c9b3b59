//! The faults that a [`Proxy`](super::Proxy) adds to its connections.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How far behind its rate a network may be before it loses the time.
const LAG: Duration = Duration::from_millis(2);

/// A direction through the proxy, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
    /// Both directions.
    Both,
}

impl Way {
    fn includes(self, way: usize) -> bool {
        match self {
            Self::ToServer => way == TO_SERVER,
            Self::ToClient => way == TO_CLIENT,
            Self::Both => true,
        }
    }
}

pub(super) const TO_SERVER: usize = 0;
pub(super) const TO_CLIENT: usize = 1;

/// The faults of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Controls {
    pub(super) stalled: [bool; 2],
    pub(super) delay: Duration,
    pub(super) reset_after: Option<u64>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) rate: Option<Rate>,
}

impl Controls {
    pub(super) fn stall(&mut self, way: Way) {
        for each in [TO_SERVER, TO_CLIENT] {
            self.stalled[each] |= way.includes(each);
        }
    }

    pub(super) fn release(&mut self) {
        self.stalled = [false; 2];
    }
}

/// A rate that connections share, each way on its own.
#[derive(Clone, Debug)]
pub(super) struct Rate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes_a_second: f64,
    /// When everything that was let through so far has been sent.
    sent: [Mutex<Instant>; 2],
}

impl Rate {
    pub(super) fn new(bytes_a_second: f64) -> Self {
        let now = || Mutex::new(Instant::now());
        Self(Arc::new(Shared { bytes_a_second, sent: [now(), now()] }))
    }

    /// Blocks until so many bytes are sent. Connections take turns in the order
    /// of their calls.
    pub(super) fn send(&self, way: usize, bytes: usize) {
        let took = Duration::from_secs_f64(bytes as f64 / self.0.bytes_a_second);
        let until = {
            let mut sent = self.0.sent[way].lock().unwrap_or_else(PoisonError::into_inner);
            // A thread that slept too long makes up for it.
            let latest = Instant::now().checked_sub(LAG);
            *sent = latest.map_or(*sent, |latest| (*sent).max(latest)) + took;
            *sent
        };
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

type Rewriting = dyn FnMut(&[u8]) -> Vec<u8> + Send;

#[derive(Clone)]
pub(super) struct Rewrite(Arc<Mutex<Rewriting>>);

impl Rewrite {
    pub(super) fn new(rewrite: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(rewrite)))
    }

    pub(super) fn apply(&self, chunk: &[u8]) -> Vec<u8> {
        (self.0.lock().unwrap_or_else(PoisonError::into_inner))(chunk)
    }
}

impl fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rewrite")
    }
}
