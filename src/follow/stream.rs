//! [`Stream`]: reads what the slot decodes, and waits until it has passed a position.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until};

use super::decoded::Decoded;
use crate::postgres::replication::connection::{ReplicationConnection, Streamed};
use crate::postgres::replication::error::ReplicationError;
use crate::postgres::replication::test_decoding::Encoding;
use crate::value::lsn::Lsn;

/// The pauses between two questions how far the server has come. It also tells by itself, before it
/// waits for more.
const FIRST_QUESTION: Duration = Duration::from_millis(5);
const LAST_QUESTION: Duration = Duration::from_millis(50);

/// A server that sends nothing for so long, although it is asked all the time, is gone. While it reads
/// a large transaction it answers.
const SILENCE: Duration = Duration::from_secs(15);

/// The server ends a stream whose reader has not replied for its `wal_sender_timeout`.
const REPLY_EVERY: Duration = Duration::from_secs(1);

/// How many messages are read without a pause for others.
const AT_ONCE: usize = 256;

pub(super) struct Stream {
    connection: ReplicationConnection,
    /// All that was committed before this has been read.
    passed: Lsn,
    pub(super) decoded: Decoded,
    /// How many transactions have been read.
    pub(super) transactions: u64,
    wants_reply: bool,
    replied: Instant,
}

impl Stream {
    pub(super) fn new(connection: ReplicationConnection, start: Lsn, encoding: Encoding) -> Stream {
        Stream {
            connection,
            passed: start,
            decoded: Decoded::new(encoding),
            transactions: 0,
            wants_reply: false,
            replied: Instant::now(),
        }
    }

    pub(super) fn passed(&self) -> Lsn {
        self.passed
    }

    /// Reads one message, and those that have arrived with it. It may be dropped at any time, so it
    /// leaves a reply that the server wants to [`reply`](Self::reply).
    pub(super) async fn read(&mut self) -> Result<(), ReplicationError> {
        let first = self.connection.next().await?;
        self.apply(first);
        for _ in 0..AT_ONCE {
            match self.connection.next().now_or_never() {
                Some(next) => self.apply(next?),
                None => break,
            }
        }
        Ok(())
    }

    /// Tells the server that everything that was read is not needed any more, if it asks for that or
    /// has not been told for a while.
    ///
    /// It must not be dropped before its end, unless the stream is dropped too.
    pub(super) async fn reply(&mut self) -> Result<(), ReplicationError> {
        if self.wants_reply || self.replied.elapsed() >= REPLY_EVERY {
            self.confirm(false).await?;
        }
        Ok(())
    }

    async fn confirm(&mut self, asks: bool) -> Result<(), ReplicationError> {
        self.wants_reply = false;
        self.replied = Instant::now();
        self.connection.confirm(self.passed.number(), asks).await
    }

    fn apply(&mut self, streamed: Streamed) {
        match streamed {
            Streamed::Passed { upto, wants_reply } => {
                self.passed = self.passed.max(Lsn::of(upto));
                self.wants_reply |= wants_reply;
            }
            Streamed::Change { at, text, is_whole } => {
                // Commits come in order. Lines within a transaction have their own positions.
                if let Some(end) = self.decoded.take(Lsn::of(at), &text, is_whole) {
                    self.passed = self.passed.max(end);
                    self.transactions += 1;
                }
            }
        }
    }

    /// Reads until all that was committed before `target` has been read. If that takes longer than
    /// `patience`, `force` is called once, so that the log is flushed up to there.
    ///
    /// It must not be dropped before its end, unless the stream is dropped too.
    pub(super) async fn pass(
        &mut self,
        target: Lsn,
        patience: Option<Duration>,
        force: impl AsyncFnOnce() -> Result<(), ReplicationError>,
    ) -> Result<(), ReplicationError> {
        let began = Instant::now();
        let mut last_read = began;
        let (mut ask_at, mut pause) = (began, FIRST_QUESTION);
        let mut force = patience.map(|patience| (began + patience, force));
        while self.passed < target {
            let force_at = force.as_ref().map_or(last_read + SILENCE, |(at, _)| *at);
            tokio::select! {
                biased;
                read = self.read() => {
                    read?;
                    last_read = Instant::now();
                    self.reply().await?;
                }
                () = sleep_until(ask_at) => {
                    if last_read.elapsed() >= SILENCE {
                        return Err(ReplicationError::TimedOut("the stream of changes"));
                    }
                    self.confirm(true).await?;
                    ask_at = Instant::now() + pause;
                    pause = (2 * pause).min(LAST_QUESTION);
                }
                () = sleep_until(force_at), if force.is_some() => {
                    if let Some((_, force)) = force.take() {
                        force().await?;
                    }
                }
            }
        }
        Ok(())
    }
}
