//! [`RedisStore`]: the shared tier in Redis.

pub(crate) mod batch;
pub(crate) mod connection;
pub(crate) mod credentials;
mod current;
#[cfg(test)]
mod differential;
pub(crate) mod endpoint;
#[cfg(test)]
mod fixtures;
mod following;
#[cfg(test)]
mod late_tests;
mod names;
#[cfg(test)]
mod pages_tests;
mod published;
mod refusal;
mod reports;
pub(crate) mod rights;
mod script;
mod subscription;
#[cfg(feature = "tls")]
pub(crate) mod tls;
mod transfers;
pub(crate) mod url;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::{Pipeline, RedisWrite, ToRedisArgs, Value};

use self::batch::ReadBatcher;
pub(crate) use self::connection::Connection;
pub(crate) use self::endpoint::ConnectError;
pub(crate) use self::names::Names;
pub(crate) use self::refusal::RefusalKind;
use self::script::{Call, Script};
use self::subscription::Subscription;
use self::transfers::Transfers;
use crate::clock::{self, Clock, Instant};
use crate::currency::Position;
use crate::l2::Snapshot;
use crate::l2::body::Body;
use crate::l2::follow::{RoundEnd, RoundReply, TermReply, TermStart};
use crate::l2::{
    Beat, BodyError, Fill, LEASE, LeaseOutcome, LeaseReply, LeaseRequest, Listener, NOTED,
    ReadReply, SLOTS_PER_NUMBER, Store, StoreError, WAITED_FOR,
};
use crate::value::key::CacheKey;
use crate::value::tag::TagSlot;
use crate::value::token::Token;

/// Entries and leases are strings of their own, each with an expiry. The directory is one sorted
/// set.
pub(crate) struct RedisStore {
    link: Arc<Connection>,
    batcher: ReadBatcher,
    subscription: Subscription,
    transfers: Transfers,
    names: Arc<Names>,
    scripts: Scripts,
    min_replicas: MinReplicas,
}

/// What a master must have so that its acknowledgements count. See `directory.lua`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MinReplicas {
    /// How many replicas must be online.
    pub(crate) replicas: u8,
    /// When each of them must have been heard of last, in whole seconds.
    pub(crate) max_lag: Duration,
}

struct Scripts {
    beat: Script,
    invalidate: Script,
    begin: Script,
    follow: Script,
    lease: Script,
    renew: Script,
    fill: Script,
    release: Script,
    publish: Script,
}

impl Scripts {
    fn new() -> Scripts {
        const DIRECTORY: &str = include_str!("lua/directory.lua");
        const SLOTS: &str = include_str!("lua/slots.lua");
        const MARKS: &str = include_str!("lua/marks.lua");
        const ENTRY: &str = include_str!("lua/entry.lua");
        Scripts {
            beat: Script::new(&[DIRECTORY, MARKS, include_str!("lua/beat.lua")]),
            invalidate: Script::new(&[DIRECTORY, SLOTS, include_str!("lua/invalidate.lua")]),
            begin: Script::new(&[DIRECTORY, MARKS, include_str!("lua/begin.lua")]),
            follow: Script::new(&[DIRECTORY, SLOTS, MARKS, include_str!("lua/follow.lua")]),
            lease: Script::new(&[ENTRY, include_str!("lua/lease.lua")]),
            renew: Script::new(&[ENTRY, include_str!("lua/renew.lua")]),
            fill: Script::new(&[ENTRY, include_str!("lua/fill.lua")]),
            release: Script::new(&[ENTRY, include_str!("lua/release.lua")]),
            publish: Script::new(&[include_str!("lua/publish.lua")]),
        }
    }
}

impl RedisStore {
    /// Notices go to `listener`, which is also notified of new connections of the link.
    pub(crate) fn new(
        link: Connection,
        namespace: &str,
        listener: Arc<dyn Listener>,
    ) -> RedisStore {
        let names = Arc::new(Names::new(namespace, link.endpoint().database()));
        let link = Arc::new(link);
        link.tell(listener.clone());
        let subscription = Subscription::start(&link, names.channel().to_owned(), listener);
        let batcher = ReadBatcher::new(link.clone(), names.clone());
        let transfers = Transfers::new(link.clone(), names.clone());
        let (scripts, min_replicas) = (Scripts::new(), MinReplicas::default());
        RedisStore { link, batcher, subscription, transfers, names, scripts, min_replicas }
    }

    /// Demands replicas of the master. By default none.
    pub(crate) fn with_min_replicas(self, min_replicas: MinReplicas) -> RedisStore {
        RedisStore { min_replicas, ..self }
    }

    /// Tests whether Redis supports what the protocol needs, and returns the error otherwise: each
    /// right, a beat, lookups that find nothing, and operations on a lease that nobody holds.
    pub(crate) async fn check(&self) -> Result<(), ConnectError> {
        // The errors of scripts do not name what is missing, and some scripts go on without it.
        let missing = rights::missing(&self.link, &self.names, &self.subscription);
        if let Some(refusal) = missing.await {
            return Err(ConnectError::Refused(refusal));
        }
        self.try_commands().await.map_err(|error| ConnectError::of(error, &[]))
    }

    async fn try_commands(&self) -> Result<(), redis::RedisError> {
        let start = Position { epoch: 0, seq: 0 };
        self.link.check(&self.beat_command(start, 1, false)).await?;
        for keys in [&[CacheKey::random()][..], &[CacheKey::random(), CacheKey::random()]] {
            self.link.check_pipeline(&ReadBatcher::commands(&self.names, keys)).await?;
        }
        let (key, token) = (CacheKey::random(), Token::random());
        let ask = LeaseRequest { token, at: start, need: 0, seen: None, refused: false };
        self.link.check(&self.lease_command(&key, &ask, None)).await?;
        self.link.check(&self.renew_command(&key, token)).await?;
        self.link.check(&self.release_command(&key, token, LeaseOutcome::NoResult)).await
    }

    fn beat_command(&self, known: Position, most: usize, in_use: bool) -> Call {
        let mut call = self.scripts.beat.guarded_call(&[self.names.directory()]);
        self.head(&mut call, known);
        call.arg(most).arg(u8::from(in_use));
        call
    }

    /// `latest`: until when the lease may be granted, by Redis's clock; `None` if that is not known.
    fn lease_command(&self, key: &CacheKey, ask: &LeaseRequest, latest: Option<u64>) -> Call {
        let seen = ask.seen.map_or_else(Vec::new, |seen| seen.0.to_vec());
        let mut lease = ask.token.0.to_vec();
        lease.extend(ask.at.epoch.to_be_bytes());
        lease.extend(ask.at.seq.to_be_bytes());
        let mut call = self.on_entry(&self.scripts.lease, key, ask.token);
        call.arg(ask.at.epoch).arg(ask.at.seq).arg(ask.need).arg(seen);
        call.arg(LEASE.as_millis() as u64).arg(lease);
        call.arg(u8::from(ask.refused)).arg(latest.unwrap_or(0));
        call
    }

    fn renew_command(&self, key: &CacheKey, token: Token) -> Call {
        let mut call = self.on_entry(&self.scripts.renew, key, token);
        call.arg(LEASE.as_millis() as u64);
        call
    }

    fn release_command(&self, key: &CacheKey, token: Token, done: LeaseOutcome) -> Call {
        let mut call = self.on_entry(&self.scripts.release, key, token);
        call.arg(self.names.channel()).arg(&[done.byte()]).arg(key.as_bytes());
        call
    }

    /// Appends the arguments that all scripts on the directory begin with.
    fn head(&self, call: &mut Call, known: Position) {
        call.arg(known.epoch).arg(known.seq).arg(fastrand::u32(..1 << 24));
        call.arg(self.min_replicas.replicas).arg(self.min_replicas.max_lag.as_secs());
    }

    fn on_entry(&self, script: &Script, key: &CacheKey, token: Token) -> Call {
        let mut call = script.call(&[&self.names.entry(key), &self.names.lease(key)]);
        call.arg(&token.0);
        call
    }
}

impl Store for RedisStore {
    fn limit(&self) -> Duration {
        self.link.limit()
    }

    fn now(&self) -> Instant {
        // Redis's clock is known by its difference to this clock.
        Clock::system().now()
    }

    fn time_of(&self, instant: Instant) -> Option<u64> {
        self.link.time_of(instant).and_then(|time| time.try_into().ok())
    }

    fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    fn close(&self) {
        self.subscription.stop();
        self.transfers.close();
        self.link.close();
    }

    fn read<'a>(&'a self, key: &'a CacheKey) -> BoxFuture<'a, Result<ReadReply, StoreError>> {
        Box::pin(self.batcher.look(key))
    }

    fn read_many<'a>(
        &'a self,
        keys: &'a [CacheKey],
    ) -> BoxFuture<'a, Result<Vec<ReadReply>, StoreError>> {
        Box::pin(self.batcher.look_many(keys))
    }

    fn splits(&self) -> bool {
        true
    }

    fn read_body<'a>(
        &'a self,
        key: &'a CacheKey,
        token: Token,
        body: Body,
        limit: Duration,
    ) -> BoxFuture<'a, Result<Bytes, BodyError>> {
        Box::pin(self.transfers.read(key, token, body, limit))
    }

    fn lease<'a>(
        &'a self,
        key: &'a CacheKey,
        ask: LeaseRequest,
    ) -> BoxFuture<'a, Result<LeaseReply, StoreError>> {
        Box::pin(async move {
            // Twice as long as the reply is waited for: Redis's clock is known a little early.
            let latest = self.time_of(clock::after(self.now(), 2 * self.link.limit()));
            let call = self.lease_command(key, &ask, latest);
            match self.link.call(&call).await?.0 {
                Value::Int(remaining) => {
                    let remaining = u64::try_from(remaining).unwrap_or(0);
                    Ok(LeaseReply::Wait(Duration::from_millis(remaining)))
                }
                reply => match bytes(&reply) {
                    Some(b"granted") => Ok(LeaseReply::Granted),
                    Some(b"entry") => Ok(LeaseReply::Entry),
                    _ => Err(StoreError::Unavailable),
                },
            }
        })
    }

    fn renew<'a>(
        &'a self,
        key: &'a CacheKey,
        token: Token,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let call = self.renew_command(key, token);
            Ok(self.link.call(&call).await?.0 == Value::Int(1))
        })
    }

    fn fill<'a>(
        &'a self,
        key: &'a CacheKey,
        fill: Fill,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            // Not PX, which would start a lifetime when the command is executed. A command whose
            // reply we no longer wait for may still be queued at a frozen server, which executes it
            // when it continues: an expired result would begin a second lifetime.
            let mut call = self.on_entry(&self.scripts.fill, key, fill.token);
            call.arg(fill.at.epoch).arg(fill.at.seq).arg(fill.ends).arg(self.names.channel());
            call.arg(&[LeaseOutcome::Filled.byte()]).arg(key.as_bytes());
            // The parts first: as soon as the entry names them, they are read.
            match fill.in_parts {
                None => call.arg(Entry(&fill.header, &fill.payload)).arg(0),
                Some(in_parts) => {
                    self.transfers.write(key, fill.token, &fill.payload, in_parts).await?;
                    call.arg(&fill.header[..]).arg(in_parts.parts)
                }
            };
            Ok(self.link.call(&call).await?.0 == Value::Int(1))
        })
    }

    fn release<'a>(
        &'a self,
        key: &'a CacheKey,
        token: Token,
        done: LeaseOutcome,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let call = self.release_command(key, token, done);
            self.link.call(&call).await.map(drop)
        })
    }

    fn beat(
        &self,
        known: Position,
        most: usize,
        in_use: bool,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Beat, StoreError>> {
        Box::pin(async move {
            let call = self.beat_command(known, most, in_use);
            let (reply, connection) = self.link.beat(&call, limit).await?;
            following::beat(&reply, connection).ok_or(StoreError::Unavailable)
        })
    }

    fn noted<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move {
            let mut all = Pipeline::with_capacity(1);
            all.cmd("GET").arg(self.names.note(name));
            match self.link.pipeline(&all).await?.0.pop() {
                Some(Value::BulkString(note)) => Ok(Some(note.into())),
                Some(Value::Nil) => Ok(None),
                _ => Err(StoreError::Unavailable),
            }
        })
    }

    fn note<'a>(&'a self, name: &'a str, note: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut all = Pipeline::with_capacity(1);
            all.cmd("SET").arg(self.names.note(name)).arg(&note[..]);
            all.arg("PX").arg(NOTED.as_millis() as u64);
            match self.link.pipeline(&all).await?.0.pop() {
                Some(Value::Okay) => Ok(()),
                _ => Err(StoreError::Unavailable),
            }
        })
    }

    fn publish<'a>(
        &'a self,
        id: &'a str,
        snapshot: Bytes,
        lasts: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut call = self.scripts.publish.call(&[self.names.stats()]);
            call.arg(id).arg(lasts.as_millis() as u64).arg(&snapshot[..]);
            self.link.call(&call).await.map(drop)
        })
    }

    fn withdraw<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut call = self.scripts.publish.call(&[self.names.stats()]);
            call.arg(id);
            self.link.call(&call).await.map(drop)
        })
    }

    fn published(&self) -> BoxFuture<'_, Result<Vec<Snapshot>, StoreError>> {
        Box::pin(async move {
            let mut all = Pipeline::with_capacity(2);
            all.cmd("TIME").cmd("HGETALL").arg(self.names.stats());
            let (replies, _) = self.link.pipeline(&all).await?;
            published::snapshots(&replies).ok_or(StoreError::Unavailable)
        })
    }

    fn invalidate<'a>(
        &'a self,
        known: Position,
        slots: &'a [TagSlot],
    ) -> BoxFuture<'a, Result<Position, StoreError>> {
        Box::pin(async move {
            let mut call = self.scripts.invalidate.guarded_call(&[self.names.directory()]);
            self.head(&mut call, known);
            call.arg(self.names.channel()).arg(SLOTS_PER_NUMBER);
            for slot in slots {
                call.arg(slot.index());
            }
            let (reply, _) = self.link.patient_call(&call, WAITED_FOR).await?;
            match &reply {
                Value::Array(reply) => match reply.as_slice() {
                    [epoch, seq] => number(epoch)
                        .zip(number(seq))
                        .map(|(epoch, seq)| Position { epoch, seq })
                        .ok_or(StoreError::Unavailable),
                    _ => Err(StoreError::Unavailable),
                },
                _ => Err(StoreError::Unavailable),
            }
        })
    }

    fn begin_following<'a>(
        &'a self,
        known: Position,
        beginning: &'a TermStart,
    ) -> BoxFuture<'a, Result<TermReply, StoreError>> {
        Box::pin(self.begin_term(known, beginning))
    }

    fn follow<'a>(
        &'a self,
        known: Position,
        end: &'a RoundEnd,
        slots: &'a [TagSlot],
    ) -> BoxFuture<'a, Result<RoundReply, StoreError>> {
        Box::pin(self.end_round(known, end, slots))
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

pub(crate) fn number(value: &Value) -> Option<u64> {
    std::str::from_utf8(bytes(value)?).ok()?.parse().ok()
}

/// The directory stores its marks as negative scores.
pub(crate) fn mark(value: &Value) -> Option<u64> {
    let score: f64 = match value {
        Value::Double(score) => *score,
        other => std::str::from_utf8(bytes(other)?).ok()?.parse().ok()?,
    };
    // Whole numbers below 2^53 are exact.
    let number = -score;
    (0.0..9_007_199_254_740_992.0).contains(&number).then_some(number as u64)
}

/// The header and the payload as one argument, without copying them into one buffer first.
struct Entry<'a>(&'a Bytes, &'a Bytes);

impl ToRedisArgs for Entry<'_> {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        let mut arg = out.writer_for_next_arg();
        for part in [self.0, self.1] {
            std::io::Write::write_all(&mut arg, part).expect("writing to memory does not fail");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_a_whole_number_below_zero_or_nothing() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        assert_eq!(mark(&text("-16777221")), Some(16_777_221));
        assert_eq!(mark(&text("-0")), Some(0));
        assert_eq!(mark(&Value::Double(-9_007_199_254_740_991.0)), Some(9_007_199_254_740_991));
        for wrong in [text("5"), text("nan"), text("-inf"), text(""), Value::Nil] {
            assert_eq!(mark(&wrong), None);
        }
    }
}
