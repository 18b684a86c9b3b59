//! [`Link`]: one connection to Redis, kept up by a task of its own.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, Pipeline, RedisError, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::store::StoreError;

/// How long connecting may take, the greeting included.
const CONNECT: Duration = Duration::from_secs(2);
/// Pauses between attempts to connect: from the first to the last, doubling. With the last one and
/// the time an attempt takes, a Redis that is back is used again within a second.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(500);
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
        Ok(Link { shared, limit, keeper })
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

    pub(crate) async fn command(&self, command: &Cmd) -> Result<Value, StoreError> {
        self.call(async |connection| connection.send_packed_command(command).await).await
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
        let (mut connection, sent) = self.shared.current().ok_or(StoreError::Unavailable)?;
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

    fn current(&self) -> Option<(MultiplexedConnection, Sent)> {
        let current = self.lock();
        let sent = Sent { number: current.number, timeouts: current.timeouts };
        Some((current.connection.clone()?, sent))
    }

    fn install(&self, connection: MultiplexedConnection) {
        let mut current = self.lock();
        current.connection = Some(connection);
        current.number += 1;
        current.timeouts = 0;
    }

    fn answered(&self, sent: Sent) {
        let mut current = self.lock();
        if current.number == sent.number {
            current.timeouts = 0;
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
    loop {
        shared.broken.notified().await;
        let mut pause = FIRST_PAUSE;
        loop {
            match connect(&shared.client).await {
                Ok(connection) => break shared.install(connection),
                Err(_) => {
                    // Not all processes of a fleet at the same instant.
                    sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
                    pause = (2 * pause).min(LAST_PAUSE);
                }
            }
        }
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        // Every call has a time limit of its own, which also counts towards giving up.
        .set_response_timeout(None);
    let greeting = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        // A server that wants a password, or is still loading its data, accepts connections too.
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        Ok(connection)
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
