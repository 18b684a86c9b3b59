//! [`Login`]: a stream on which `tokio-postgres` logs in, and which becomes a connection for
//! replication by that.
//!
//! What makes a session one for replication is a parameter of its first message, which
//! `tokio-postgres` cannot send. So this stream, above TLS and below the protocol, adds it. It hands
//! the server's messages on until the session is ready, and not one byte more: what comes later
//! belongs to [`ReplicationConnection`](super::connection::ReplicationConnection).
//!
//! The other way is a login of our own. It would repeat the password methods, and could not bind
//! SCRAM to the TLS channel: only `tokio-postgres` can read that from a connector's stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use crate::sync::Mutex;

/// A stream to the server, with TLS or without.
pub(super) type Stream = Box<dyn TlsStream + Send + Unpin>;

/// The stream when the session is ready, and what the server has sent on it since.
pub(super) struct Opened {
    pub(super) stream: Stream,
    pub(super) arrived: BytesMut,
}

/// Where the stream is put when `tokio-postgres` drops it.
pub(super) type Home = Arc<Mutex<Option<Opened>>>;

pub(super) struct Login {
    /// There until this is dropped.
    stream: Option<Stream>,
    home: Home,
    /// What is written first, until all of it is there, and then until it has left.
    leaving: BytesMut,
    has_started: bool,
    arrived: BytesMut,
    /// How much of the server's present message is still to be handed on.
    left: usize,
    /// The present message is the last one.
    is_last: bool,
}

/// What the startup message gets. The session decodes the database that the message names.
const REPLICATION: &[u8] = b"replication\0database\0";

/// The kind of the message that says that a session is ready.
const READY: u8 = b'Z';

/// The kind and the length of a message.
const HEAD: usize = 5;

impl Login {
    pub(super) fn new(stream: Stream, home: Home) -> Login {
        Login {
            stream: Some(stream),
            home,
            leaving: BytesMut::new(),
            has_started: false,
            arrived: BytesMut::new(),
            left: 0,
            is_last: false,
        }
    }

    fn stream(&mut self) -> Pin<&mut Stream> {
        Pin::new(self.stream.as_mut().expect("it is there until this is dropped"))
    }

    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_started && !self.leaving.is_empty() {
            let leaving = std::mem::take(&mut self.leaving);
            let written = self.stream().poll_write(cx, &leaving);
            self.leaving = leaving;
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.leaving.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The startup message with one parameter more; `None` while it is not complete.
fn for_replication(message: &[u8]) -> io::Result<Option<BytesMut>> {
    let Some(head) = message.first_chunk::<8>() else { return Ok(None) };
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let is_version_3 = head[4..6] == [0, 3];
    if !is_version_3 || !(9..=1 << 16).contains(&length) {
        return Err(io::Error::other("the login did not begin with a startup message"));
    }
    if message.len() < length {
        return Ok(None);
    }
    let (parameters, after) = message[4..].split_at(length - 4 - 1);
    let mut with = BytesMut::with_capacity(message.len() + REPLICATION.len());
    let length = u32::try_from(length + REPLICATION.len()).expect("it was checked above");
    with.extend_from_slice(&length.to_be_bytes());
    with.extend_from_slice(parameters);
    with.extend_from_slice(REPLICATION);
    with.extend_from_slice(after);
    Ok(Some(with))
}

impl AsyncRead for Login {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.left > 0 {
                let now = this.left.min(this.arrived.len()).min(into.remaining());
                if now > 0 || into.remaining() == 0 {
                    into.put_slice(&this.arrived.split_to(now));
                    this.left -= now;
                    return Poll::Ready(Ok(()));
                }
            } else if this.is_last {
                // The login is over, and whoever still reads is about to be dropped.
                return Poll::Pending;
            } else if let Some(head) = this.arrived.first_chunk::<HEAD>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                this.is_last = head[0] == READY;
                this.left = 1 + length;
                continue;
            }
            let mut chunk = [0; 1024];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(this.stream().poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                // The end of the stream.
                return Poll::Ready(Ok(()));
            }
            this.arrived.extend_from_slice(chunk.filled());
        }
    }
}

impl AsyncWrite for Login {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.has_started {
            self.leaving.extend_from_slice(bytes);
            if let Some(with) = for_replication(&self.leaving)? {
                self.leaving = with;
                self.has_started = true;
            }
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(self.poll_leave(cx))?;
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_leave(cx))?;
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

impl TlsStream for Login {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.as_ref().map_or_else(ChannelBinding::none, |stream| stream.channel_binding())
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        // In the middle of the login it is of no use.
        if self.is_last
            && self.left == 0
            && let Some(stream) = self.stream.take()
        {
            let arrived = std::mem::take(&mut self.arrived);
            *self.home.lock() = Some(Opened { stream, arrived });
        }
    }
}

/// A stream without TLS.
pub(super) struct Plain<S>(pub(super) S);

impl<S: AsyncRead + Unpin> AsyncRead for Plain<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Plain<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Plain<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A message of the server.
    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    fn login(size: usize) -> (Login, DuplexStream, Home) {
        let (ours, theirs) = duplex(size);
        let home = Home::default();
        (Login::new(Box::new(Plain(ours)), home.clone()), theirs, home)
    }

    #[tokio::test]
    async fn the_startup_message_asks_for_replication_however_it_is_cut() {
        let startup = b"\0\0\0\x1a\0\x03\0\0user\0u\0database\0d\0\0";
        let startup = {
            let mut bytes = startup.to_vec();
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            bytes
        };
        for (size, cut) in [(1024, startup.len()), (3, 7), (1, 1)] {
            let (mut login, mut server, _home) = login(size);
            let sent = startup.clone();
            let writes = async {
                for part in sent.chunks(cut) {
                    login.write_all(part).await.unwrap();
                    login.flush().await.unwrap();
                }
                login.write_all(b"more").await.unwrap();
                login.flush().await.unwrap();
            };
            let reads = async {
                let mut received = vec![0; startup.len() + REPLICATION.len() + 4];
                server.read_exact(&mut received).await.unwrap();
                received
            };
            let ((), received) = tokio::join!(writes, reads);
            let length = u32::from_be_bytes(received[..4].try_into().unwrap()) as usize;
            assert_eq!(length, received.len() - 4);
            assert!(received.ends_with(b"database\0d\0replication\0database\0\0more"));
        }
    }

    #[tokio::test]
    async fn nothing_is_handed_on_after_the_session_is_ready() {
        let before = [message(b'R', &[0; 4]), message(b'S', b"a\0b\0"), message(READY, b"I")];
        let before = before.concat();
        let after = message(b'N', b"later");
        for size in [1, 7, 4096] {
            let (mut login, mut server, home) = login(size);
            let all = [before.clone(), after.clone()].concat();
            let sends = tokio::spawn(async move {
                // What is not read any more does not fit.
                let _ = server.write_all(&all).await;
                server
            });
            let mut received = vec![0; before.len()];
            login.read_exact(&mut received).await.unwrap();
            assert_eq!(received, before);
            assert!(futures_util::poll!(Box::pin(login.read_u8())).is_pending());
            drop(login);
            let Opened { mut stream, arrived } = home.lock().take().unwrap();
            let mut rest = arrived.to_vec();
            let mut more = vec![0; after.len() - rest.len()];
            stream.read_exact(&mut more).await.unwrap();
            rest.extend(more);
            assert_eq!(rest, after);
            sends.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_login_that_is_given_up_leaves_no_stream() {
        let (mut login, mut server, home) = login(64);
        server.write_all(&message(b'R', &[0; 4])).await.unwrap();
        login.read_u8().await.unwrap();
        drop(login);
        assert!(home.lock().is_none());
    }
}
