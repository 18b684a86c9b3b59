//! [`Current`]: the connection in use, and whether its peer replies.
//!
//! Commands that are late say little: a single timeout may be a hiccup, and a process or a server that
//! is short of processor time is late all the time. So timeouts lead to a test, and the test decides.

use std::time::Duration;

use redis::aio::MultiplexedConnection;

use super::endpoint::Reference;
use crate::clock::{self, Clock, Instant};

/// After this many timeouts in a row the connection is tested. A single timeout may be a hiccup,
/// and so may the timeouts of all commands that were running together.
const TIMEOUTS: u32 = 2;
/// How long a test may take. A connection whose peer was frozen or silently cut off never fails by
/// itself. But one whose replies are merely late is worth more than a new one, to the same server:
/// replies come in order, so the reply to the test shows that all earlier ones have come.
pub(super) const TEST: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(super) struct Current {
    pub(super) connection: Option<MultiplexedConnection>,
    /// Closed permanently: no other connection follows.
    pub(super) closed: bool,
    /// Counts connections.
    pub(super) number: u64,
    timeouts: u32,
    is_tested: bool,
    /// Whether the next connection may lead to another server.
    pub(super) moves: bool,
    /// When the first command was sent since the last reply that a caller took.
    unanswered: Option<Instant>,
    pub(super) time: Option<Reference>,
}

impl Current {
    pub(super) fn sent(&self) -> Sent {
        Sent { number: self.number, timeouts: self.timeouts }
    }

    pub(super) fn answered(&mut self, sent: Sent) {
        if self.number == sent.number {
            self.timeouts = 0;
            self.unanswered = None;
        }
    }

    /// Counts a timeout. Returns what is to be tested, if it is time to.
    pub(super) fn timed_out(&mut self, sent: Sent) -> Test {
        // Commands that were sent before the last timeout do not count again.
        if self.number != sent.number || self.timeouts != sent.timeouts {
            return None;
        }
        self.timeouts += 1;
        if self.timeouts >= TIMEOUTS { self.begin_test() } else { None }
    }

    /// One test at a time.
    pub(super) fn begin_test(&mut self) -> Test {
        let connection = self.connection.clone()?;
        if std::mem::replace(&mut self.is_tested, true) {
            return None;
        }
        Some((connection, self.sent()))
    }

    /// The test has shown that the peer replies.
    pub(super) fn tested(&mut self, sent: Sent) {
        self.answered(sent);
        if self.number == sent.number {
            self.is_tested = false;
        }
    }

    /// Installs a new connection. Returns its number, and whether it may lead to another server than
    /// the one before.
    pub(super) fn install(
        &mut self,
        connection: MultiplexedConnection,
        time: Option<Reference>,
    ) -> (u64, bool) {
        self.connection = Some(connection);
        self.time = time;
        self.number += 1;
        self.timeouts = 0;
        self.is_tested = false;
        self.unanswered = None;
        (self.number, std::mem::take(&mut self.moves))
    }

    /// Takes the connection for a command. Returns a test as well, if no reply has been taken for
    /// long: a caller that gives up before the time limit drops its command and reports nothing.
    pub(super) fn take(&mut self, limit: Duration) -> Option<(MultiplexedConnection, Sent, Test)> {
        let connection = self.connection.clone()?;
        let sent = self.sent();
        let now = Clock::system().now();
        let unanswered = *self.unanswered.get_or_insert(now);
        let is_late = clock::since(now, unanswered) > TIMEOUTS * limit;
        let test = if is_late { self.begin_test() } else { None };
        Some((connection, sent, test))
    }

    /// Whether so many timeouts have come in a row that a test would have ended since, and has not:
    /// the runtime of the connection stands still, on which it runs.
    pub(super) fn is_untestable(&self, limit: Duration) -> bool {
        let of_the_test = (TEST.as_millis() / limit.as_millis().max(1)) as u32;
        self.timeouts > TIMEOUTS + 1 + of_the_test
    }
}

/// What is to be tested, if anything is.
pub(super) type Test = Option<(MultiplexedConnection, Sent)>;

/// The connection that a command was sent on, and the number of timeouts in a row at that time. A
/// late failure of a command on an old connection must not close the next connection.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    pub(super) number: u64,
    timeouts: u32,
}
