//! [`Subscription`]: the connection that receives notices.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::connection::{Connection, Connections, backoff};
use super::endpoint::{CONNECT, ConnectError, Endpoint};
use super::refusal::Refusal;
use super::reports::Reports;
use crate::background::{BackgroundTask, Start};
use crate::currency::Position;
use crate::l2::{LeaseOutcome, Listener, Notice};
use crate::value::key::CacheKey;
use crate::value::tag::TagSlot;

/// The interval of pings on a silent connection. A connection whose peer was silently cut off never
/// fails by itself.
const ASK: Duration = Duration::from_secs(1);

/// Listens on a channel until it is dropped, and reconnects whenever needed.
///
/// It has a connection of its own: on a connection for commands, an unsolicited notice could be
/// taken for a reply. It follows the connection for commands: a server that was demoted keeps this
/// connection open too, and may publish nothing that its successor publishes.
pub(super) struct Subscription {
    task: BackgroundTask,
    /// The outcome of the last attempt to subscribe.
    attempted: watch::Receiver<Option<Result<(), Refusal>>>,
}

impl Subscription {
    pub(super) fn start(
        link: &Connection,
        channel: String,
        listener: Arc<dyn Listener>,
    ) -> Subscription {
        let (endpoint, address) = (link.endpoint(), link.address());
        let (connections, counters) = (link.connections(), link.counters());
        let (attempt, attempted) = watch::channel(None);
        let attempt = Arc::new(attempt);
        let task = link.background().keep(move |start| {
            // A task that ended with its runtime could not report it.
            if start == Start::Again {
                listener.hear(Notice::Unsubscribed);
            }
            let (endpoint, address) = (endpoint.clone(), address.clone());
            let (mut connections, counters) = (connections.clone(), counters.clone());
            let (channel, listener) = (channel.clone(), listener.clone());
            let attempt = attempt.clone();
            async move {
                let mut backoff = backoff();
                let mut reports = Reports::new(&address, counters.as_deref());
                loop {
                    let begin = tokio::time::Instant::now();
                    let ended =
                        listen(&endpoint, &channel, &*listener, &mut connections, &attempt).await;
                    if let Err(error) = ended {
                        reports.failed(&error);
                        if let ConnectError::Refused(refusal) = error {
                            attempt.send_replace(Some(Err(refusal)));
                        }
                    }
                    listener.hear(Notice::Unsubscribed);
                    backoff.rest(begin.elapsed()).await;
                }
            }
        });
        Subscription { task, attempted }
    }

    /// Waits for the first attempt to subscribe. Returns why it was refused, if it was.
    pub(super) async fn refused(&self) -> Option<Refusal> {
        let mut attempted = self.attempted.clone();
        let attempted = timeout(CONNECT, attempted.wait_for(Option::is_some)).await.ok()?.ok()?;
        attempted.as_ref()?.as_ref().err().cloned()
    }

    pub(super) fn stop(&self) {
        self.task.stop();
    }
}

/// Returns an error if no subscription was possible, and nothing once it has ended.
async fn listen(
    endpoint: &Endpoint,
    channel: &str,
    listener: &dyn Listener,
    connections: &mut watch::Receiver<Connections>,
    attempt: &watch::Sender<Option<Result<(), Refusal>>>,
) -> Result<(), ConnectError> {
    // Read before connecting: after a later move this subscription may be on the old server.
    let moves = connections.borrow_and_update().moves;
    let (mut sink, mut notices) = endpoint.subscribe(channel).await?.split();
    attempt.send_replace(Some(Ok(())));
    listener.hear(Notice::Subscribed);
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
                match timeout(CONNECT, sink.ping::<redis::Value>()).await {
                    Ok(Ok(_)) => {}
                    _ => return Ok(()),
                }
            }
            () = moved(connections, moves) => return Ok(()),
        }
    }
}

/// Waits until the connection for commands may lead to another server.
async fn moved(connections: &mut watch::Receiver<Connections>, moves: u64) {
    let _ = connections.wait_for(|it| it.moves != moves).await;
}

/// Parses a notice. The scripts write two kinds:
///
/// - `i <epoch> <seq> <slot> <slot> …`: an invalidation,
/// - `d`, the outcome of a load, and its key in 32 bytes: a lease that a process waits for was
///   given back.
pub(super) fn parse(notice: &[u8]) -> Option<Notice> {
    match notice {
        [b'i', b' ', rest @ ..] => {
            let numbers: Result<Vec<u64>, _> =
                std::str::from_utf8(rest).ok()?.split(' ').map(str::parse).collect();
            let numbers = numbers.ok()?;
            let (&[epoch, seq], slots) = numbers.split_first_chunk()?;
            let slots = slots.iter().map(|&slot| TagSlot::numbered(slot)).collect::<Option<_>>()?;
            Some(Notice::Invalidated { at: Position { epoch, seq }, slots })
        }
        [b'd', done, key @ ..] => {
            let key = CacheKey::of_bytes(key.try_into().ok()?);
            Some(Notice::LeaseEnded { key, done: LeaseOutcome::of_byte(*done)? })
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
        let slots =
            |slots: &[u64]| slots.iter().map(|&it| TagSlot::numbered(it).unwrap()).collect();
        assert_eq!(
            parse(b"i 5 7 1 65536 65537"),
            Some(Notice::Invalidated { at, slots: slots(&[1, 65_536, 65_537]) })
        );
        assert_eq!(parse(b"i 5 7"), Some(Notice::Invalidated { at, slots: vec![] }));
        let mut done = b"df".to_vec();
        done.extend([3; 32]);
        let key = CacheKey::of_bytes([3; 32]);
        assert_eq!(parse(&done), Some(Notice::LeaseEnded { key, done: LeaseOutcome::Filled }));
        for wrong in
            [&b""[..], b"i", b"i 5", b"i 5 7 ", b"i 5 7 65538", b"i -5 7", b"x", b"df123", b"\xff"]
        {
            assert_eq!(parse(wrong), None);
        }
        done[1] = b'?';
        assert_eq!(parse(&done), None);
    }
}
