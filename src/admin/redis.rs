//! [`Redis`]: a connection for an operator's questions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};
use tokio::runtime::Handle;

use super::Error;
use super::directory::Directory;
use crate::background::Background;
use crate::clock::Clock;
use crate::currency::Position;
use crate::l2::redis::endpoint::{CONNECT, Endpoint, bounded};
use crate::l2::redis::{Connection, Names, RedisStore, mark, number};
use crate::l2::{Listener, Notice, Store};
use crate::value::tag::TagSlot;

/// How long one question may take: a person waits for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection to Redis for the questions of an operator. It is not reconnected.
///
/// Each question takes 5 seconds at most.
pub struct Redis {
    endpoint: Endpoint,
    connection: MultiplexedConnection,
    names: Names,
    namespace: String,
}

impl Redis {
    /// Connects to the Redis of a namespace, within 2 seconds.
    ///
    /// `url` is what [`redis`](crate::QueryCacheBuilder::redis) of the builder takes. The user needs
    /// the right `+ping`, and `+select` for a database other than 0.
    ///
    /// # Errors
    ///
    /// [`Unreachable`](super::ErrorKind::Unreachable) if nothing answers,
    /// [`Refused`](super::ErrorKind::Refused) if the URL or the credentials are refused, and
    /// [`Denied`](super::ErrorKind::Denied) if the user lacks one of those rights.
    pub async fn connect(url: &str, namespace: &str) -> Result<Redis, Error> {
        let endpoint = Endpoint::new(url).map_err(Error::of_url)?;
        Redis::open(endpoint, namespace).await
    }

    /// Connects over TLS with these certificates; otherwise like [`connect`](Redis::connect).
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Redis::connect).
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub async fn connect_with_tls(
        url: &str,
        namespace: &str,
        tls: &crate::l2::redis::tls::RedisTls,
    ) -> Result<Redis, Error> {
        let endpoint = Endpoint::new(url).map_err(Error::of_url)?;
        Redis::open(endpoint.with_tls(tls).map_err(Error::of)?, namespace).await
    }

    async fn open(endpoint: Endpoint, namespace: &str) -> Result<Redis, Error> {
        let (mut connection, _) = endpoint.connect(CONNECT).await.map_err(Error::of_connecting)?;
        connection.set_response_timeout(PATIENCE);
        let names = Names::new(namespace, endpoint.database());
        Ok(Redis { endpoint, connection, names, namespace: namespace.to_owned() })
    }

    /// The server's address, without credentials.
    pub fn address(&self) -> String {
        self.endpoint.address()
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How long a round trip takes.
    ///
    /// # Errors
    ///
    /// Those of Redis to `PING`.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let begin = std::time::Instant::now();
        self.ask(&command(&["PING"])).await?;
        Ok(begin.elapsed())
    }

    /// By how many milliseconds the clock of Redis is ahead of this machine's; negative if behind.
    ///
    /// # Errors
    ///
    /// Those of Redis to `TIME`.
    pub async fn clock_ahead(&self) -> Result<i64, Error> {
        let wall = || Clock::system().wall().duration_since(std::time::UNIX_EPOCH);
        let before = wall().unwrap_or_default();
        let reply = self.ask(&command(&["TIME"])).await?;
        let between = (before + wall().unwrap_or_default()) / 2;
        let (seconds, micros): (i64, i64) = redis::from_redis_value(reply)
            .map_err(|_| Error::unexpected("TIME is not answered by a time"))?;
        let theirs = i128::from(seconds) * 1_000 + i128::from(micros) / 1_000;
        let ahead = theirs - between.as_millis() as i128;
        Ok(i64::try_from(ahead).unwrap_or(if ahead > 0 { i64::MAX } else { i64::MIN }))
    }

    /// The fields of `INFO`.
    ///
    /// # Errors
    ///
    /// Those of Redis to `INFO`.
    pub async fn info(&self) -> Result<BTreeMap<String, String>, Error> {
        let text = self.text(&command(&["INFO"])).await?;
        let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// How many processes subscribe to the notices of the namespace.
    ///
    /// # Errors
    ///
    /// Those of Redis to `PUBSUB NUMSUB`.
    pub async fn subscribers(&self) -> Result<u64, Error> {
        let reply = self.ask(&command(&["PUBSUB", "NUMSUB", self.names.channel()])).await?;
        let Value::Array(pair) = reply else { return Ok(0) };
        Ok(match pair.as_slice() {
            [_, Value::Int(count)] => u64::try_from(*count).unwrap_or(0),
            _ => 0,
        })
    }

    /// A setting of the server; `None` if there is none of this name.
    ///
    /// # Errors
    ///
    /// Those of Redis to `CONFIG GET`.
    pub async fn setting(&self, name: &str) -> Result<Option<String>, Error> {
        let reply = self.ask(&command(&["CONFIG", "GET", name])).await?;
        let pairs: Vec<String> = redis::from_redis_value(reply).unwrap_or_default();
        Ok(pairs.into_iter().nth(1))
    }

    /// The state of the namespace's directory.
    ///
    /// # Errors
    ///
    /// Those of Redis to `ZMSCORE`.
    pub async fn directory(&self) -> Result<Directory, Error> {
        Ok(self.directory_of(&[]).await?.0)
    }

    /// Runs the scripts of the protocol, as a cache does when it is built.
    ///
    /// # Errors
    ///
    /// What Redis replies if one of them fails: on a replica, without a right, or with a renamed
    /// command.
    pub async fn run_scripts(&self) -> Result<(), Error> {
        let background = Background::on(Handle::current());
        let link = Connection::new(self.endpoint.clone(), PATIENCE, None, &background);
        link.connect().await.map_err(Error::of_connecting)?;
        let store = RedisStore::new(link, &self.namespace, Arc::new(Nobody));
        let checked = store.check().await;
        Store::close(&store);
        checked.map_err(Error::of_connecting)
    }

    /// The directory, and when each of these slots was last invalidated in its epoch.
    pub(super) async fn directory_of(
        &self,
        slots: &[TagSlot],
    ) -> Result<(Directory, BTreeMap<TagSlot, u64>), Error> {
        let info = self.text(&command(&["INFO", "replication"])).await.ok();
        let id = info.as_deref().and_then(|info| {
            info.lines().find_map(|line| line.trim_end().strip_prefix("master_replid:"))
        });
        let mut ask = command(&["ZMSCORE", self.names.directory(), "epoch", "seq"]);
        ask.arg(format!("at:{}", id.unwrap_or_default()));
        for slot in slots {
            ask.arg(slot.index());
        }
        let Value::Array(scores) = self.ask(&ask).await? else {
            return Err(Error::unexpected("ZMSCORE is not answered by scores"));
        };
        let [epoch, seq, here, scores @ ..] = scores.as_slice() else {
            return Err(Error::unexpected("ZMSCORE answers too few scores"));
        };
        let at = mark(epoch).zip(mark(seq)).map(|(epoch, seq)| Position { epoch, seq });
        let score = |value: &Value| match value {
            Value::Double(score) => Some(*score as u64),
            other => number(other),
        };
        let scores = slots.iter().zip(scores);
        let directory =
            Directory { at, is_of_this_server: id.map(|_| !matches!(here, Value::Nil)) };
        Ok((directory, scores.filter_map(|(slot, value)| Some((*slot, score(value)?))).collect()))
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    pub(super) fn configured_user(&self) -> String {
        self.endpoint.user().unwrap_or("default").to_owned()
    }

    /// Subscribes on a connection of its own.
    pub(super) async fn subscribe(&self) -> Result<(), Error> {
        let subscribed = self.endpoint.subscribe(self.names.channel()).await;
        subscribed.map(drop).map_err(Error::of_connecting)
    }

    pub(super) async fn text(&self, command: &Cmd) -> Result<String, Error> {
        let reply = self.ask(command).await?;
        redis::from_redis_value(reply).map_err(|_| Error::unexpected("a text was expected"))
    }

    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, Error> {
        let mut connection = self.connection.clone();
        let reply = bounded(PATIENCE, connection.send_packed_command(command)).await;
        reply.and_then(Value::extract_error).map_err(Error::of)
    }

    pub(super) async fn ask_all(&self, commands: &Pipeline) -> Result<Vec<Value>, Error> {
        let (mut connection, count) = (self.connection.clone(), commands.len());
        let replies = bounded(PATIENCE, connection.send_packed_commands(commands, 0, count)).await;
        replies.map_err(Error::of)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("address", &self.address())
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

struct Nobody;

impl Listener for Nobody {
    fn hear(&self, _: Notice) {}
}

pub(super) fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(word);
    }
    command
}
