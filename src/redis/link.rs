//! [`Link`]: one connection to Redis, kept up by a task of its own.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, Pipeline, RedisError, Value};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::clock::{self, Clock, Instant};
use crate::store::StoreError;

/// How long connecting may take, the greeting included.
const CONNECT: Duration = Duration::from_secs(2);
/// Pauses between attempts to connect: from the first to the last, doubling. With the last one and
/// the time an attempt takes, a Redis that is back is used again within a second.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(500);
/// A connection that lived for so long was a good one.
const STEADY: Duration = Duration::from_secs(1);
/// So many commands in a row without an answer in time, and the connection is given up. One may be
/// a hiccup, and so may all that were under way together; a connection whose other end was frozen
/// or cut off without a word never fails by itself.
const TIMEOUTS: u32 = 2;

/// A multiplexed connection, replaced when it breaks.
///
/// While there is none, commands are refused at once instead of waiting for one: a read has
/// PostgreSQL to go to. The task that connects again ends with the link.
pub(crate) struct Link {
    shared: Arc<Shared>,
    limit: Duration,
    runtime: Handle,
    keeper: JoinHandle<()>,
}

struct Shared {
    client: Client,
    /// Held for the time of a clone, never across an await.
    current: Mutex<Current>,
    broken: Notify,
}

#[derive(Default)]
struct Current {
    connection: Option<MultiplexedConnection>,
    /// Counts connections.
    number: u64,
    timeouts: u32,
    /// When the oldest command was sent since the last answer that was taken.
    unanswered: Option<Instant>,
    time: Option<Reference>,
}

/// Redis's clock beside ours: what both showed at one moment, in nanoseconds.
#[derive(Clone, Copy)]
struct Reference {
    redis: i128,
    ours: Instant,
}

impl Reference {
    fn now(answer: &Value) -> Option<Reference> {
        let (seconds, micros): (i64, i64) = redis::from_redis_value_ref(answer).ok()?;
        let redis = i128::from(seconds) * 1_000_000_000 + i128::from(micros) * 1_000;
        Some(Reference { redis, ours: Clock::system().now() })
    }
}

impl Link {
    /// Makes a link. Nothing is sent yet; see [`connect`](Link::connect).
    pub(crate) fn new(url: &str, limit: Duration) -> Result<Link, RedisError> {
        let info = url.into_connection_info()?;
        // Without it, small commands wait for the answer to earlier ones (Nagle's algorithm).
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let shared = Arc::new(Shared {
            client: Client::open(info)?,
            current: Mutex::default(),
            broken: Notify::new(),
        });
        let keeper = tokio::spawn(keep(shared.clone()));
        Ok(Link { shared, limit, runtime: Handle::current(), keeper })
    }

    /// Connects for the first time.
    pub(crate) async fn connect(&self) -> Result<(), RedisError> {
        let connection = connect(&self.shared.client).await?;
        self.shared.install(connection);
        Ok(())
    }

    /// Lets the keeper do the connecting, for a start without Redis.
    pub(crate) fn connect_later(&self) {
        self.shared.broken.notify_one();
    }

    /// The server's address, without credentials.
    pub(crate) fn address(&self) -> String {
        self.shared.client.get_connection_info().addr().to_string()
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// A point of the system's clock by Redis's clock, in milliseconds since 1970, or a little
    /// before it.
    pub(crate) fn time_of(&self, instant: Instant) -> Option<i64> {
        let Reference { redis, ours } = self.shared.lock().time?;
        let ahead = i128::from(instant) - i128::from(ours);
        i64::try_from(redis.checked_add(ahead)?.div_euclid(1_000_000)).ok()
    }

    /// Takes Redis's answer to `TIME` for the time it is now. It was that or later when Redis
    /// answered, so what is reckoned from it lies rather early.
    pub(crate) fn set_time(&self, answer: &Value) {
        if let Some(reference) = Reference::now(answer) {
            self.shared.lock().time = Some(reference);
        }
    }

    /// Several commands in one round trip; an error among their replies is one of the values.
    pub(crate) async fn pipeline(&self, commands: &Pipeline) -> Result<Vec<Value>, StoreError> {
        let count = commands.len();
        self.call(async |connection| connection.send_packed_commands(commands, 0, count).await)
            .await
    }

    async fn call<T>(
        &self,
        send: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, StoreError> {
        let (mut connection, sent) = self.current().ok_or(StoreError::Unavailable)?;
        match timeout(self.limit, send(&mut connection)).await {
            Ok(Ok(reply)) => {
                self.shared.answered(sent);
                Ok(reply)
            }
            Ok(Err(error)) if error.is_unrecoverable_error() || error.is_io_error() => {
                self.shared.give_up(sent);
                Err(StoreError::Unavailable)
            }
            Ok(Err(_)) => {
                self.shared.answered(sent);
                Err(StoreError::Unavailable)
            }
            Err(_) => {
                self.shared.timed_out(sent);
                Err(StoreError::Unavailable)
            }
        }
    }

    fn current(&self) -> Option<(MultiplexedConnection, Sent)> {
        let mut current = self.shared.lock();
        let sent = Sent { number: current.number, timeouts: current.timeouts };
        let connection = current.connection.clone()?;
        let now = Clock::system().now();
        // Callers who lose patience before we do drop their command and report nothing. If nobody
        // has taken an answer for so long, a command that no caller can drop finds out why.
        let unanswered = *current.unanswered.get_or_insert(now);
        if clock::since(now, unanswered) > TIMEOUTS * self.limit {
            current.unanswered = Some(now);
            let (shared, limit) = (self.shared.clone(), self.limit);
            // Not on the caller's runtime, which may end with the call.
            self.runtime.spawn(probe(shared, connection.clone(), sent, limit));
        }
        Some((connection, sent))
    }
}

async fn probe(
    shared: Arc<Shared>,
    mut connection: MultiplexedConnection,
    sent: Sent,
    limit: Duration,
) {
    let ping = redis::cmd("PING");
    match timeout(limit, connection.send_packed_command(&ping)).await {
        Ok(Ok(_)) => shared.answered(sent),
        _ => shared.give_up(sent),
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn install(&self, (connection, time): (MultiplexedConnection, Option<Reference>)) {
        let mut current = self.lock();
        current.unanswered = None;
        current.time = time;
        current.connection = Some(connection);
        current.number += 1;
        current.timeouts = 0;
    }

    fn answered(&self, sent: Sent) {
        let mut current = self.lock();
        if current.number == sent.number {
            current.timeouts = 0;
            current.unanswered = None;
        }
    }

    fn timed_out(&self, sent: Sent) {
        let mut current = self.lock();
        // Of many commands that were sent before the last timeout, that one has counted.
        if current.number != sent.number || current.timeouts != sent.timeouts {
            return;
        }
        current.timeouts += 1;
        if current.timeouts >= TIMEOUTS && current.connection.take().is_some() {
            self.broken.notify_one();
        }
    }

    fn give_up(&self, sent: Sent) {
        let mut current = self.lock();
        // Of many commands that fail together only the first calls the keeper.
        if current.number == sent.number && current.connection.take().is_some() {
            self.broken.notify_one();
        }
    }
}

/// Which connection a command was sent on, and after how many timeouts in a row. The late failure of
/// a command on an old connection must not bring down its successor.
#[derive(Clone, Copy)]
struct Sent {
    number: u64,
    timeouts: u32,
}

/// Connects again, whenever the connection was given up.
async fn keep(shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    let mut connected = None;
    loop {
        shared.broken.notified().await;
        // A server that accepts connections and breaks them at once is not besieged with them.
        match connected {
            Some(at) if clock::since(Clock::system().now(), at) < STEADY => rest(&mut pause).await,
            _ => pause = FIRST_PAUSE,
        }
        loop {
            match connect(&shared.client).await {
                Ok(connection) => break shared.install(connection),
                Err(_) => rest(&mut pause).await,
            }
        }
        connected = Some(Clock::system().now());
    }
}

async fn rest(pause: &mut Duration) {
    // Not all processes of a fleet at the same instant.
    sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
    *pause = (2 * *pause).min(LAST_PAUSE);
}

async fn connect(
    client: &Client,
) -> Result<(MultiplexedConnection, Option<Reference>), RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        // Every call has a time limit of its own, which also counts towards giving up.
        .set_response_timeout(None);
    let greeting = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        // A server that wants a password, or is still loading its data, accepts connections too.
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        let time = redis::cmd("TIME").query_async::<Value>(&mut connection).await;
        // Where it is not allowed, nothing is written, for nobody could say how long it may live.
        let time = time.ok().and_then(|answer| Reference::now(&answer));
        Ok((connection, time))
    };
    bounded(greeting).await
}

async fn bounded<T>(
    connecting: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    timeout(CONNECT, connecting).await.unwrap_or_else(|_| {
        let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer to the greeting");
        Err(late.into())
    })
}
