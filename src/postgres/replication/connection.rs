//! [`ReplicationConnection`]: the messages of a session for replication: commands, and then the
//! stream of changes.
//!
//! A change is read up to a limit, and the rest of its message is skipped: a row may be a gigabyte,
//! and only the name of its relation is needed, which is in front.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::{ReplicationError, refused};
use super::login::{Opened, Stream};
use crate::patience::within;

/// How much of a change is read. Names have 63 bytes at most, and a `TRUNCATE` has many of them.
const KEPT: usize = 64 << 10;

/// The longest message that is no change. A row of a command's result, and errors, are far shorter.
const LONGEST: usize = 1 << 20;

/// How long the server may take to accept a message of ours. It reads while it sends.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

/// A session for replication.
pub(crate) struct ReplicationConnection {
    stream: Stream,
    arrived: BytesMut,
    /// How much of the last change is still to be skipped.
    skip: usize,
}

/// What the server has streamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Streamed {
    /// What the plugin has written at a position. The end of a long text is missing.
    Change { at: u64, text: Bytes, is_whole: bool },
    /// All that was committed up to here has been streamed.
    Passed { upto: u64, wants_reply: bool },
}

struct Message {
    kind: u8,
    body: Bytes,
    is_whole: bool,
}

impl ReplicationConnection {
    pub(super) fn new(opened: Opened) -> ReplicationConnection {
        ReplicationConnection { stream: opened.stream, arrived: opened.arrived, skip: 0 }
    }

    /// Runs a command and returns the rows of its result, as text.
    ///
    /// It must not be dropped before its end, unless the connection is dropped too.
    pub(crate) async fn run(
        &mut self,
        command: &str,
    ) -> Result<Vec<Vec<Option<String>>>, ReplicationError> {
        // The server reports why it closes the connection before it does, perhaps before this.
        let mut error = self.send(command).await.err();
        let mut rows = vec![];
        loop {
            let message = match self.message().await {
                Ok(message) => message,
                Err(lost) => return Err(error.unwrap_or(lost)),
            };
            match message.kind {
                b'D' => rows.push(row(message.body)?),
                b'E' => error = Some(ReplicationError::Refused(refused(&message.body))),
                b'Z' => return error.map_or(Ok(rows), Err),
                // The description of the rows, the end of a command, notices and settings.
                b'T' | b'C' | b'I' | b'N' | b'S' => {}
                _ => return Err(ReplicationError::Protocol("an unknown reply to a command")),
            }
        }
    }

    /// Begins the stream. Afterwards only [`next`](Self::next) and [`confirm`](Self::confirm) are of
    /// use.
    pub(crate) async fn start(&mut self, command: &str) -> Result<(), ReplicationError> {
        self.send(command).await?;
        loop {
            let message = self.message().await?;
            match message.kind {
                // Both sides may send now.
                b'W' => return Ok(()),
                b'E' => return Err(ReplicationError::Refused(refused(&message.body))),
                b'N' | b'S' => {}
                _ => {
                    return Err(ReplicationError::Protocol(
                        "an unknown reply to START_REPLICATION",
                    ));
                }
            }
        }
    }

    /// What the server streams next. It may be dropped at any time, and loses nothing by that.
    pub(crate) async fn next(&mut self) -> Result<Streamed, ReplicationError> {
        loop {
            let Message { kind, mut body, is_whole } = self.message().await?;
            match kind {
                b'd' => {}
                b'E' => return Err(ReplicationError::Refused(refused(&body))),
                b'N' | b'S' => continue,
                // The server shuts down.
                b'c' => return Err(ReplicationError::closed()),
                _ => return Err(ReplicationError::Protocol("an unknown message in the stream")),
            }
            match body.first() {
                // A change: where it is, the end of the log and the time.
                Some(b'w') if body.len() >= 25 => {
                    body.advance(1);
                    let at = body.get_u64();
                    body.advance(16);
                    return Ok(Streamed::Change { at, text: body, is_whole });
                }
                // A keepalive: the end of what was streamed, and the time.
                Some(b'k') if body.len() >= 18 => {
                    body.advance(1);
                    let upto = body.get_u64();
                    body.advance(8);
                    return Ok(Streamed::Passed { upto, wants_reply: body.get_u8() == 1 });
                }
                _ => return Err(ReplicationError::Protocol("an unknown message in the stream")),
            }
        }
    }

    /// Confirms all up to a position, so that the server can drop its log, and asks for a keepalive
    /// if wanted.
    ///
    /// It must not be dropped before its end, unless the connection is dropped too.
    pub(crate) async fn confirm(
        &mut self,
        upto: u64,
        wants_reply: bool,
    ) -> Result<(), ReplicationError> {
        let mut message = BytesMut::with_capacity(39);
        message.put_u8(b'd');
        message.put_u32(38);
        message.put_u8(b'r');
        // Received, flushed and applied; the time is not used.
        [upto, upto, upto, 0].into_iter().for_each(|number| message.put_u64(number));
        message.put_u8(wants_reply.into());
        self.write(&message).await
    }

    async fn send(&mut self, command: &str) -> Result<(), ReplicationError> {
        let mut message = BytesMut::with_capacity(command.len() + 6);
        message.put_u8(b'Q');
        message.put_u32(u32::try_from(command.len() + 5).expect("a command is short"));
        message.put_slice(command.as_bytes());
        message.put_u8(0);
        self.write(&message).await
    }

    async fn write(&mut self, message: &[u8]) -> Result<(), ReplicationError> {
        let stream = &mut self.stream;
        let written = async {
            stream.write_all(message).await?;
            stream.flush().await
        };
        match within(WRITTEN_WITHIN, written).await {
            Some(written) => Ok(written?),
            None => Err(ReplicationError::TimedOut("sending to the walsender")),
        }
    }

    /// The next message. What has arrived of it is kept if this is dropped.
    async fn message(&mut self) -> Result<Message, ReplicationError> {
        loop {
            let skipped = self.skip.min(self.arrived.len());
            self.arrived.advance(skipped);
            self.skip -= skipped;
            if let Some(head) = self.arrived.first_chunk::<5>() {
                let kind = head[0];
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                let body = length
                    .checked_sub(4)
                    .ok_or(ReplicationError::Protocol("a message without a length"))?;
                let kept = if kind == b'd' { body.min(KEPT) } else { body };
                if kept > LONGEST {
                    return Err(ReplicationError::Protocol("a message of more than a MiB"));
                }
                if self.arrived.len() >= 5 + kept {
                    self.arrived.advance(5);
                    self.skip = body - kept;
                    let is_whole = kept == body;
                    return Ok(Message {
                        kind,
                        body: self.arrived.split_to(kept).freeze(),
                        is_whole,
                    });
                }
            }
            self.arrived.reserve(16 << 10);
            if self.stream.read_buf(&mut self.arrived).await? == 0 {
                return Err(ReplicationError::closed());
            }
        }
    }
}

/// The values of a row, as text.
fn row(mut body: Bytes) -> Result<Vec<Option<String>>, ReplicationError> {
    const CUT: ReplicationError = ReplicationError::Protocol("a row that ends too early");
    let count = body.try_get_u16().map_err(|_| CUT)?;
    let mut values = vec![];
    for _ in 0..count {
        let length = body.try_get_i32().map_err(|_| CUT)?;
        values.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) if length > body.len() => return Err(CUT),
            Ok(length) => Some(String::from_utf8_lossy(&body.split_to(length)).into_owned()),
        });
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::super::login::Plain;
    use super::*;

    fn connected(size: usize) -> (ReplicationConnection, DuplexStream) {
        let (ours, theirs) = duplex(size);
        let opened = Opened { stream: Box::new(Plain(ours)), arrived: BytesMut::new() };
        (ReplicationConnection::new(opened), theirs)
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    fn change(at: u64, text: &[u8]) -> Vec<u8> {
        message(b'd', &[&b"w"[..], &at.to_be_bytes(), &[0; 16], text].concat())
    }

    #[tokio::test]
    async fn a_command_returns_its_rows_or_its_error() {
        let (mut connection, mut server) = connected(1024);
        let values =
            [&2_u16.to_be_bytes()[..], &3_i32.to_be_bytes(), b"one", &(-1_i32).to_be_bytes()];
        for part in [message(b'T', b""), message(b'D', &values.concat()), message(b'Z', b"I")] {
            server.write_all(&part).await.unwrap();
        }
        assert_eq!(connection.run("SHOW").await.unwrap(), [[Some("one".to_owned()), None]]);
        let mut sent = [0; 10];
        server.read_exact(&mut sent).await.unwrap();
        assert_eq!(&sent, b"Q\0\0\0\x09SHOW\0");
        server.write_all(&message(b'E', b"C42710\0Mthere\0\0")).await.unwrap();
        // The session goes on, or ends.
        server.write_all(&message(b'Z', b"I")).await.unwrap();
        assert_eq!(connection.run("A").await.unwrap_err().sqlstate(), Some("42710"));
        server.write_all(&message(b'E', b"C57P01\0Mgone\0\0")).await.unwrap();
        drop(server);
        assert_eq!(connection.run("A").await.unwrap_err().sqlstate(), Some("57P01"));
    }

    #[tokio::test]
    async fn a_long_change_is_read_in_part_and_the_next_one_whole() {
        let (mut connection, mut server) = connected(4096);
        let long = vec![b'x'; 5 * KEPT];
        let sends = tokio::spawn(async move {
            server.write_all(&change(7, &long)).await.unwrap();
            server.write_all(&change(8, b"COMMIT 1")).await.unwrap();
            let alive = [&b"k"[..], &9_u64.to_be_bytes(), &[0; 8], &[1]].concat();
            server.write_all(&message(b'd', &alive)).await.unwrap();
            server
        });
        let Streamed::Change { at, text, is_whole } = connection.next().await.unwrap() else {
            panic!("it is a change");
        };
        assert_eq!((at, text.len(), is_whole), (7, KEPT - 25, false));
        let text = Bytes::from_static(b"COMMIT 1");
        assert_eq!(
            connection.next().await.unwrap(),
            Streamed::Change { at: 8, text, is_whole: true }
        );
        let passed = Streamed::Passed { upto: 9, wants_reply: true };
        assert_eq!(connection.next().await.unwrap(), passed);
        assert!(connection.arrived.capacity() < 4 * KEPT);
        drop(sends.await.unwrap());
        assert!(matches!(connection.next().await, Err(ReplicationError::Lost(_))));
    }

    #[tokio::test]
    async fn a_reader_that_leaves_loses_nothing() {
        let (mut connection, mut server) = connected(4096);
        let bytes = change(3, b"table public.t: INSERT:");
        for part in bytes.chunks(4) {
            assert!(futures_util::poll!(Box::pin(connection.next())).is_pending());
            server.write_all(part).await.unwrap();
        }
        let read = connection.next().await.unwrap();
        assert!(matches!(read, Streamed::Change { at: 3, is_whole: true, .. }));
    }

    #[tokio::test]
    async fn what_is_no_message_of_the_protocol_is_an_error() {
        let cases = [
            message(b'd', b"?"),
            message(b'd', b"w"),
            message(b'X', b""),
            [&b"E"[..], &u32::MAX.to_be_bytes()].concat(),
            b"Z\0\0\0\0".to_vec(),
        ];
        for bytes in cases {
            let (mut connection, mut server) = connected(1024);
            server.write_all(&bytes).await.unwrap();
            let error = connection.next().await.unwrap_err();
            assert!(matches!(error, ReplicationError::Protocol(_)), "{bytes:?}: {error}");
        }
    }
}
