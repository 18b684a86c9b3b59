//! [`Subscription`]: the connection on which notices come.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use redis::{Client, RedisError};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::link::{CONNECT, backoff};
use crate::currency::Position;
use crate::key::CacheKey;
use crate::store::{Done, Listener, Notice};
use crate::tag::Cell;

/// How often a silent connection is asked whether it is still there. One whose other end was cut off
/// without a word never fails by itself.
const ASK: Duration = Duration::from_secs(1);

/// Listens on a channel until it is dropped, connecting again whenever it has to.
///
/// A connection of its own: on one for commands a notice that comes unasked could be taken for a
/// reply.
pub(super) struct Subscription(JoinHandle<()>);

impl Subscription {
    pub(super) fn start(
        client: Client,
        channel: String,
        listener: Arc<dyn Listener>,
    ) -> Subscription {
        Subscription(tokio::spawn(async move {
            let mut backoff = backoff();
            loop {
                let begin = tokio::time::Instant::now();
                let _ = listen(&client, &channel, &*listener).await;
                listener.hear(Notice::Deaf);
                backoff.rest(begin.elapsed()).await;
            }
        }))
    }

    pub(super) fn stop(&self) {
        self.0.abort();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn listen(client: &Client, channel: &str, listener: &dyn Listener) -> Result<(), RedisError> {
    let connecting = async {
        let mut subscribed = client.get_async_pubsub().await?;
        subscribed.subscribe(channel).await?;
        Ok::<_, RedisError>(subscribed)
    };
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    let (mut sink, mut notices) = timeout(CONNECT, connecting).await.map_err(late)??.split();
    listener.hear(Notice::Listening);
    let mut ticks = interval(ASK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = notices.next() => match message {
                Some(message) => {
                    if let Some(notice) = parse(message.get_payload_bytes()) {
                        listener.hear(notice);
                    }
                }
                None => return Ok(()),
            },
            _ = ticks.tick() => {
                timeout(CONNECT, sink.ping::<redis::Value>()).await.map_err(late)??;
            }
        }
    }
}

/// The notices are written by the scripts:
///
/// - `i <epoch> <seq> <cell> <cell> …`: an invalidation,
/// - `d`, how a load came out, and its key in 32 bytes: a lease that somebody waits for has been
///   given back.
fn parse(notice: &[u8]) -> Option<Notice> {
    match notice {
        [b'i', b' ', rest @ ..] => {
            let numbers: Result<Vec<u64>, _> =
                std::str::from_utf8(rest).ok()?.split(' ').map(str::parse).collect();
            let numbers = numbers.ok()?;
            let (&[epoch, seq], cells) = numbers.split_first_chunk()?;
            let cells = cells.iter().map(|&cell| Cell::numbered(cell)).collect::<Option<_>>()?;
            Some(Notice::Invalidated { at: Position { epoch, seq }, cells })
        }
        [b'd', done, key @ ..] => {
            let key = CacheKey::of_bytes(key.try_into().ok()?);
            Some(Notice::Done { key, done: Done::of_byte(*done)? })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_notice_is_passed_over() {
        let at = Position { epoch: 5, seq: 7 };
        let cells = |cells: &[u64]| cells.iter().map(|&it| Cell::numbered(it).unwrap()).collect();
        assert_eq!(
            parse(b"i 5 7 1 65536"),
            Some(Notice::Invalidated { at, cells: cells(&[1, 65_536]) })
        );
        assert_eq!(parse(b"i 5 7"), Some(Notice::Invalidated { at, cells: vec![] }));
        let mut done = b"df".to_vec();
        done.extend([3; 32]);
        let key = CacheKey::of_bytes([3; 32]);
        assert_eq!(parse(&done), Some(Notice::Done { key, done: Done::Filled }));
        for wrong in
            [&b""[..], b"i", b"i 5", b"i 5 7 ", b"i 5 7 65537", b"i -5 7", b"x", b"df123", b"\xff"]
        {
            assert_eq!(parse(wrong), None);
        }
        done[1] = b'?';
        assert_eq!(parse(&done), None);
    }
}
