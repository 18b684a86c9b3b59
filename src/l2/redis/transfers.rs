//! [`Transfers`]: the bodies of large entries, on a connection of their own.
//!
//! A body is moved part by part. [`WINDOW`] parts are requested at once, so that the next one is on
//! its way when one arrives. More would only fill the buffers of the network, in which the small
//! replies of the other connection wait behind them.
//!
//! Each way has two lanes: bodies that take long do not make shorter ones wait until they have
//! ended. Within a lane bodies are moved in the order of their requests.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt, iter};
use redis::{Cmd, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::connection::{Connection, Role};
use super::names::Names;
use super::refusal::Purpose;
use crate::l2::body::{Body, part_size, parts_of};
use crate::l2::{BodyError, InParts, StoreError};
use crate::sync::Mutex;
use crate::value::key::CacheKey;
use crate::value::token::Token;

/// The number of parts that are under way at once.
const WINDOW: usize = 2;
/// The slowest transfer, in bytes a second, that still counts as one: 16 Mbit/s.
const SLOWEST: u64 = 2 << 20;
/// No command for a part takes this long: the transfer ends before.
const EVER: Duration = Duration::from_secs(3600);
/// Larger bodies take the lane of one at a time.
const LONG: u64 = 4 << 20;
/// How many shorter ones are moved at a time, each way.
const SHORT_ONES: usize = 2;
/// How much longer than its transfer a part lives that no entry names yet.
const SPARE: Duration = Duration::from_secs(10);

/// Moves bodies to and from Redis. Its connection is opened when the first body is moved.
pub(super) struct Transfers {
    main: Arc<Connection>,
    link: Connection,
    names: Arc<Names>,
    /// When the connection was asked for. From then on it is kept open.
    opened: OnceLock<Instant>,
    /// [`Connections::moves`](super::connection::Connections::moves) of the main connection, as far
    /// as this one has followed them.
    followed: Mutex<u64>,
    reads: Lanes,
    writes: Lanes,
}

struct Lanes {
    short: Semaphore,
    long: Semaphore,
}

impl Lanes {
    fn new() -> Lanes {
        Lanes { short: Semaphore::new(SHORT_ONES), long: Semaphore::new(1) }
    }

    async fn turn(&self, length: u64, limit: Duration) -> Option<SemaphorePermit<'_>> {
        let lane = if length > LONG { &self.long } else { &self.short };
        timeout(limit, lane.acquire()).await.ok()?.ok()
    }
}

impl Transfers {
    pub(super) fn new(main: Arc<Connection>, names: Arc<Names>) -> Transfers {
        let endpoint = (*main.endpoint()).clone();
        let limit = main.limit() + lasts(WINDOW * part_size(0));
        let link =
            Connection::of(Role::Transfers, endpoint, limit, main.counters(), main.background());
        Transfers {
            main,
            link,
            names,
            opened: OnceLock::new(),
            followed: Mutex::new(0),
            reads: Lanes::new(),
            writes: Lanes::new(),
        }
    }

    pub(super) fn close(&self) {
        self.link.close();
    }

    pub(super) async fn read(
        &self,
        key: &CacheKey,
        token: Token,
        body: Body,
        limit: Duration,
    ) -> Result<Bytes, BodyError> {
        let turn = self.reads.turn(body.length(), limit).await;
        let _turn = turn.ok_or(BodyError::Busy)?;
        let transfer = self.collect(key, token, body, limit);
        timeout(limit, transfer).await.unwrap_or_else(|_| {
            self.link.test();
            Err(BodyError::TooSlow)
        })
    }

    async fn collect(
        &self,
        key: &CacheKey,
        token: Token,
        body: Body,
        limit: Duration,
    ) -> Result<Bytes, BodyError> {
        let begin = Instant::now();
        self.connected().await.map_err(|_| BodyError::Unavailable)?;
        let commands = (0..body.parts()).map(|index| {
            let mut command = redis::cmd("GET");
            command.arg(self.names.part(key, token, index));
            command
        });
        let length = usize::try_from(body.length()).map_err(|_| BodyError::Missing)?;
        let mut replies = pin!(self.each(commands));
        let mut bytes: Vec<u8> = vec![];
        while let Some(reply) = self.next(&mut replies, part_size(length)).await? {
            let part = match reply {
                Ok(Value::BulkString(part)) => part,
                Ok(_) => return Err(BodyError::Missing),
                Err(_) => return Err(BodyError::Unavailable),
            };
            let missing = length.checked_sub(bytes.len() + part.len());
            let missing = missing.ok_or(BodyError::Missing)?;
            // Room for at most twice of what has arrived, whatever the head claims.
            if bytes.capacity() < bytes.len() + part.len() {
                bytes.reserve_exact(part.len() + missing.min(bytes.len()));
            }
            bytes.extend_from_slice(&part);
            if is_hopeless(begin, limit, bytes.len(), length) {
                return Err(BodyError::TooSlow);
            }
        }
        if bytes.len() == length { Ok(bytes.into()) } else { Err(BodyError::Missing) }
    }

    /// Stores the parts of a body. An entry that names them extends their life; see `fill.lua`.
    pub(super) async fn write(
        &self,
        key: &CacheKey,
        token: Token,
        payload: &Bytes,
        InParts { limit, .. }: InParts,
    ) -> Result<(), StoreError> {
        let turn = self.writes.turn(payload.len() as u64, limit).await;
        let _turn = turn.ok_or(StoreError::Busy)?;
        let transfer = self.deliver(key, token, payload, limit);
        timeout(limit, transfer).await.unwrap_or_else(|_| {
            self.link.test();
            Err(StoreError::TooSlow)
        })
    }

    async fn deliver(
        &self,
        key: &CacheKey,
        token: Token,
        payload: &Bytes,
        limit: Duration,
    ) -> Result<(), StoreError> {
        let begin = Instant::now();
        self.connected().await?;
        let life = (2 * limit + SPARE).as_millis() as u64;
        let commands = parts_of(payload).zip(0..=u8::MAX).map(|(part, index)| {
            let name = self.names.part(key, token, index);
            let mut command = Cmd::with_capacity(5, name.len() + part.len() + 40);
            command.arg("SET").arg(name).arg(&part[..]).arg("PX").arg(life);
            command
        });
        let mut replies = pin!(self.each(commands));
        let (size, mut arrived) = (part_size(payload.len()), 0);
        while let Some(reply) =
            self.next(&mut replies, size).await.map_err(|_| StoreError::TooSlow)?
        {
            reply?;
            arrived += size;
            if is_hopeless(begin, limit, arrived, payload.len()) {
                return Err(StoreError::TooSlow);
            }
        }
        Ok(())
    }

    /// Sends the commands, [`WINDOW`] at a time, and yields the replies in their order.
    fn each(
        &self,
        commands: impl Iterator<Item = Cmd> + Send,
    ) -> impl Stream<Item = Result<Value, StoreError>> + Send {
        let send = async |command: Cmd| {
            let sent = self.link.send(EVER, Purpose::Other, async |connection| {
                connection.send_packed_command(&command).await?.extract_error()
            });
            sent.await.map(|(reply, _)| reply)
        };
        iter(commands).map(send).buffered(WINDOW)
    }

    /// Waits for the next reply. If none arrives in the time of the slowest transfer, the connection
    /// is given up: its peer may be gone.
    async fn next<R>(
        &self,
        replies: &mut (impl Stream<Item = R> + Unpin),
        size: usize,
    ) -> Result<Option<R>, BodyError> {
        let patience = self.main.limit() + lasts(WINDOW * size);
        match timeout(patience, replies.next()).await {
            Ok(reply) => Ok(reply),
            Err(_) => {
                self.link.lose();
                Err(BodyError::TooSlow)
            }
        }
    }

    /// Waits for the connection, if it has just been asked for or the server has moved. While it is
    /// lost otherwise, nobody waits for it.
    async fn connected(&self) -> Result<(), StoreError> {
        let mut connections = self.link.connections();
        let before = connections.borrow().number;
        let moves = self.main.connections().borrow().moves;
        let has_moved = std::mem::replace(&mut *self.followed.lock(), moves) != moves;
        let opened = *self.opened.get_or_init(|| {
            self.link.connect_later();
            Instant::now()
        });
        let limit = self.link.limit();
        if has_moved && before > 0 {
            // This one may lead to a server that was demoted, where nothing new arrives.
            self.link.lose();
        } else if self.link.is_connected() {
            return Ok(());
        } else if before > 0 || opened.elapsed() > limit {
            return Err(StoreError::Unavailable);
        }
        let next = connections.wait_for(|now| now.closed || now.number > before);
        match timeout(limit, next).await {
            Ok(Ok(now)) if !now.closed => Ok(()),
            _ => Err(StoreError::Unavailable),
        }
    }
}

/// Whether a transfer has moved less than a quarter in half of its time, and is given up early.
fn is_hopeless(begin: Instant, limit: Duration, moved: usize, length: usize) -> bool {
    begin.elapsed() > limit / 2 && moved < length / 4
}

/// How long the slowest transfer takes for so many bytes.
fn lasts(bytes: usize) -> Duration {
    Duration::from_secs_f64(bytes as f64 / SLOWEST as f64)
}
