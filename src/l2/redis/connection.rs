//! [`Connection`]: one connection to Redis, maintained by a task of its own.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};
use tokio::sync::{Notify, watch};
use tokio::time::timeout_at;

use super::current::{Current, Sent, TEST, Test};
use super::endpoint::{CONNECT, ConnectError, Endpoint, Reference, bounded};
use super::refusal::{self, Purpose, Refusal};
use super::reports::{Reports, count_refusal};
use super::script::Call;
use crate::background::{Background, BackgroundTask, Start};
use crate::backoff::Backoff;
use crate::clock::{self, Clock, Instant};
use crate::l2::{Listener, Notice, StoreError};
use crate::patience::within;
use crate::sync::{Mutex, MutexGuard};
use crate::telemetry::counters::Counters;
use crate::telemetry::trace;

/// The pause between attempts to connect doubles from the first to the last. With the longest pause
/// and the time of an attempt, a Redis that is back is in use again within a second.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(500);
/// A connection that lived this long counts as stable and resets the pause.
const STEADY: Duration = Duration::from_secs(1);
/// A multiplexed connection that is replaced when it breaks.
///
/// Without a connection, commands fail at once instead of waiting for one: a read can use
/// PostgreSQL instead. Only an invalidation waits, since it has nothing else to use. The task that
/// reconnects ends with the link.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    limit: Duration,
    background: Background,
    keeper: BackgroundTask,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// All commands. Without it nothing comes from Redis.
    Commands,
    /// The bodies of large entries.
    Transfers,
}

struct Shared {
    role: Role,
    endpoint: Arc<Endpoint>,
    limit: Duration,
    address: String,
    counters: Option<Arc<Counters>>,
    /// Notified of every new connection.
    listener: OnceLock<Arc<dyn Listener>>,
    /// Locked while the connection is cloned, never across an await.
    current: Mutex<Current>,
    broken: Notify,
    connections: watch::Sender<Connections>,
}

/// The connections so far, for those who wait for the next one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Connections {
    /// The number of the last connection.
    pub(super) number: u64,
    /// How many of them may lead to another server than the one before.
    pub(super) moves: u64,
    /// No other connection follows.
    pub(super) closed: bool,
}

/// Why a connection was given up.
enum Loss {
    /// No reply in time. The server may be slow.
    Late,
    Broken,
    /// The server cannot serve; see [`refusal`].
    Refused(Refusal),
}

impl Connection {
    /// Creates a connection that is not open yet. Nothing is sent yet; see [`connect`](Connection::connect).
    pub(crate) fn new(
        endpoint: Endpoint,
        limit: Duration,
        counters: Option<Arc<Counters>>,
        background: &Background,
    ) -> Connection {
        Connection::of(Role::Commands, endpoint, limit, counters, background)
    }

    pub(super) fn of(
        role: Role,
        endpoint: Endpoint,
        limit: Duration,
        counters: Option<Arc<Counters>>,
        background: &Background,
    ) -> Connection {
        let shared = Arc::new(Shared {
            role,
            address: endpoint.address(),
            endpoint: Arc::new(endpoint),
            limit,
            counters,
            listener: OnceLock::new(),
            current: Mutex::default(),
            broken: Notify::new(),
            connections: watch::Sender::default(),
        });
        let keeper = background.keep({
            let shared = shared.clone();
            move |start| {
                // The connection's own task has ended with the runtime.
                if start == Start::Again {
                    shared.lost();
                }
                reconnect(shared.clone())
            }
        });
        Connection { shared, limit, background: background.clone(), keeper }
    }

    /// Sets the listener that is notified of every new connection from now on.
    pub(super) fn tell(&self, listener: Arc<dyn Listener>) {
        let _ = self.shared.listener.set(listener);
    }

    pub(super) fn endpoint(&self) -> Arc<Endpoint> {
        self.shared.endpoint.clone()
    }

    /// Announces every new connection.
    pub(super) fn connections(&self) -> watch::Receiver<Connections> {
        self.shared.connections.subscribe()
    }

    pub(super) fn counters(&self) -> Option<Arc<Counters>> {
        self.shared.counters.clone()
    }

    /// Gives the connection up, if there is one, so that a new one is opened.
    pub(super) fn lose(&self) {
        self.shared.lost();
    }

    /// Tests the connection, if there is one, and gives it up if its peer does not reply in time.
    pub(super) fn test(&self) {
        let test = self.shared.lock().begin_test();
        self.probe(test);
    }

    fn probe(&self, test: Test) {
        if let Some((connection, sent)) = test {
            // Spawned on the connection's own runtime; the caller's may end with the call.
            let limit = self.limit.max(TEST);
            self.background.spawn(probe(self.shared.clone(), connection, sent, limit));
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.shared.lock().connection.is_some()
    }

    /// Closes the connection permanently.
    pub(super) fn close(&self) {
        self.keeper.stop();
        {
            let mut current = self.shared.lock();
            current.closed = true;
            current.connection = None;
        }
        self.shared.connections.send_modify(|connections| connections.closed = true);
    }

    /// Connects for the first time. A slow reply is accepted here: whether Redis meets the time
    /// limit shows in use.
    pub(crate) async fn connect(&self) -> Result<(), ConnectError> {
        let connection = self.shared.endpoint.connect(CONNECT).await?;
        self.shared.install(connection);
        Ok(())
    }

    /// Lets the background task connect, for a start without Redis.
    pub(crate) fn connect_later(&self) {
        self.shared.broken.notify_one();
    }

    /// The server's address, without credentials.
    pub(crate) fn address(&self) -> String {
        self.shared.address.clone()
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// The runtime of the connections.
    pub(super) fn background(&self) -> &Background {
        &self.background
    }

    /// Marks the start of a time limit; see [`timed_out`](Connection::timed_out).
    pub(super) fn sent(&self) -> Sent {
        self.shared.lock().sent()
    }

    /// Reports a timeout of a caller whose command was sent since `sent` was taken.
    pub(super) fn timed_out(&self, sent: Sent) {
        let (is_lost, test) = {
            let mut current = self.shared.lock();
            let test = current.timed_out(sent);
            (current.is_untestable(self.limit), test)
        };
        if is_lost {
            self.shared.give_up(sent, Loss::Late);
        } else {
            self.probe(test);
        }
    }

    /// Converts a time of the system's clock to Redis's clock, in milliseconds since 1970. The
    /// result is exact or slightly early.
    pub(crate) fn time_of(&self, instant: Instant) -> Option<i64> {
        self.shared.lock().time?.time_of(instant)
    }

    /// Sends several commands in one round trip. Returns the replies and the number of the
    /// connection. A reply that is an error is one of the values.
    pub(crate) async fn pipeline(
        &self,
        commands: &Pipeline,
    ) -> Result<(Vec<Value>, u64), StoreError> {
        let count = commands.len();
        self.send(self.limit, Purpose::Other, async |connection| {
            let replies = connection.send_packed_commands(commands, 0, count).await?;
            refusal::check(&replies)?;
            Ok(replies)
        })
        .await
    }

    /// Calls a script. Returns its reply and the number of the connection.
    pub(super) async fn call(&self, call: &Call) -> Result<(Value, u64), StoreError> {
        self.call_within(call, self.limit).await
    }

    /// Calls a script, and waits for a connection if there is none. If the connection is lost before
    /// the reply, the script is called again on the next one. So it may take effect twice.
    pub(super) async fn patient_call(
        &self,
        call: &Call,
        limit: Duration,
    ) -> Result<(Value, u64), StoreError> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut connections = self.connections();
        loop {
            let (number, is_open) = self.shared.state();
            if is_open {
                let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
                // A connection that came late has the time of any other call.
                let reply = self.call_within(call, remaining.max(limit.min(self.limit))).await;
                if reply.is_ok() || self.shared.state() == (number, true) {
                    return reply;
                }
            }
            let next = connections.wait_for(|it| it.closed || it.number > number);
            match timeout_at(deadline, next).await {
                Ok(Ok(connections)) if !connections.closed => {}
                _ => return Err(StoreError::Unavailable),
            }
        }
    }

    /// Calls a script once, within a time limit of its own.
    pub(super) async fn call_within(
        &self,
        call: &Call,
        limit: Duration,
    ) -> Result<(Value, u64), StoreError> {
        self.send(limit, Purpose::Other, async |connection| call.run(connection).await).await
    }

    /// Calls the script of a beat, and reads Redis's clock in the same round trip.
    pub(super) async fn beat(
        &self,
        call: &Call,
        limit: Duration,
    ) -> Result<(Value, u64), StoreError> {
        let (replies, connection) = self
            .send(limit, Purpose::Beat, async |connection| {
                let ([time], reply) = call.run_after([redis::cmd("TIME")], connection).await?;
                Ok((time, reply))
            })
            .await?;
        let (time, reply) = replies;
        if let Some(reference) = Reference::now(&time) {
            let mut current = self.shared.lock();
            if current.number == connection {
                current.time = Some(reference);
            }
        }
        Ok((reply, connection))
    }

    /// Calls a script once and returns its error.
    pub(super) async fn check(&self, call: &Call) -> Result<(), RedisError> {
        let mut connection = self.connection()?;
        bounded(CONNECT, call.run(&mut connection)).await.map(drop)
    }

    /// Sends several commands and returns the first error.
    pub(super) async fn check_pipeline(&self, commands: &Pipeline) -> Result<(), RedisError> {
        let mut connection = self.connection()?;
        let count = commands.len();
        let replies = bounded(CONNECT, connection.send_packed_commands(commands, 0, count)).await?;
        replies.into_iter().try_for_each(|reply| reply.extract_error().map(drop))
    }

    fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
        let connection = self.shared.lock().connection.clone();
        connection.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected).into())
    }

    /// Sends what `send` sends, within a time limit. Returns the reply and the number of the
    /// connection.
    pub(super) async fn send<T>(
        &self,
        limit: Duration,
        purpose: Purpose,
        send: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<(T, u64), StoreError> {
        let (mut connection, sent) = self.current().ok_or(StoreError::Unavailable)?;
        match within(limit, send(&mut connection)).await {
            Some(Ok(reply)) => {
                self.shared.answered(sent);
                Ok((reply, sent.number))
            }
            Some(Err(error)) if error.is_unrecoverable_error() || error.is_io_error() => {
                self.shared.give_up(sent, Loss::Broken);
                Err(StoreError::Unavailable)
            }
            Some(Err(error)) if refusal::ends_connection(&error, purpose) => {
                if let Some(refusal) = Refusal::of(&error, &[]) {
                    self.shared.give_up(sent, Loss::Refused(refusal));
                }
                Err(StoreError::Unavailable)
            }
            Some(Err(_)) => {
                self.shared.answered(sent);
                Err(StoreError::Unavailable)
            }
            None => {
                self.timed_out(sent);
                Err(StoreError::Unavailable)
            }
        }
    }

    fn current(&self) -> Option<(MultiplexedConnection, Sent)> {
        let (connection, sent, test) = self.shared.lock().take(self.limit)?;
        self.probe(test);
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
    match within(limit, connection.send_packed_command(&ping)).await {
        Some(Ok(_)) => shared.tested(sent),
        Some(Err(_)) => shared.give_up(sent, Loss::Broken),
        None => shared.give_up(sent, Loss::Late),
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock()
    }

    /// The number of the last connection, and whether it is open.
    fn state(&self) -> (u64, bool) {
        let current = self.lock();
        (current.number, current.connection.is_some())
    }

    fn install(&self, (connection, time): (MultiplexedConnection, Option<Reference>)) {
        let (number, moves) = {
            let mut current = self.lock();
            if current.closed {
                return;
            }
            let (number, moves) = current.install(connection, time);
            (number, u64::from(moves))
        };
        self.report(true);
        self.connections.send_modify(|connections| {
            connections.number = number;
            connections.moves += moves;
        });
        if let Some(listener) = self.listener.get() {
            listener.hear(Notice::Connected);
        }
    }

    fn answered(&self, sent: Sent) {
        self.lock().answered(sent);
    }

    fn tested(&self, sent: Sent) {
        self.lock().tested(sent);
    }

    /// Called outside the lock: a listener may run any code.
    fn gone(&self, loss: &Loss) {
        match loss {
            Loss::Late | Loss::Broken => self.report(false),
            Loss::Refused(refusal) => self.refused(refusal),
        }
        self.broken.notify_one();
        if let Some(listener) = self.listener.get() {
            listener.hear(Notice::Disconnected);
        }
    }

    fn report(&self, is_up: bool) {
        match self.role {
            Role::Commands => trace::connection(&self.address, is_up),
            Role::Transfers => trace::transfers(&self.address, is_up),
        }
    }

    fn refused(&self, refusal: &Refusal) {
        trace::refused(&self.address, refusal, refusal.is_of_credentials());
        count_refusal(self.counters.as_deref(), refusal);
    }

    /// Gives up whatever connection there is, so that a new one is opened.
    fn lost(&self) {
        let sent = self.lock().sent();
        self.give_up(sent, Loss::Broken);
    }

    fn give_up(&self, sent: Sent, loss: Loss) {
        let lost = {
            let mut current = self.lock();
            // Of many commands that fail together, only the first wakes the background task.
            if current.number != sent.number {
                return;
            }
            current.moves |= !matches!(loss, Loss::Late);
            current.connection.take()
        };
        if lost.is_some() {
            self.gone(&loss);
        }
    }
}

/// Reconnects whenever the connection was given up.
async fn reconnect(shared: Arc<Shared>) {
    let mut backoff = backoff();
    let mut connected = None;
    loop {
        let mut reports = Reports::new(&shared.address, shared.counters.as_deref());
        shared.broken.notified().await;
        // Avoids a rush of attempts at a server that accepts connections and breaks them at once.
        if let Some(at) = connected {
            backoff.rest(clock::since(Clock::system().now(), at)).await;
        }
        loop {
            // A server whose greeting exceeds the time limit of a reply is no better than a silent
            // one.
            match shared.endpoint.connect(shared.limit).await {
                Ok(connection) => break shared.install(connection),
                Err(error) => reports.failed(&error),
            }
            backoff.rest(Duration::ZERO).await;
        }
        connected = Some(Clock::system().now());
    }
}

/// The pauses between attempts to connect.
pub(super) fn backoff() -> Backoff {
    Backoff::new(FIRST_PAUSE, LAST_PAUSE, STEADY)
}
