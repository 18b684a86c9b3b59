//! [`Console`]: questions to Redis that the cache itself does not ask, for the command `larder`.

pub(crate) mod look;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, Value};

use super::link::{CONNECT, Link, bounded, client};
use super::{Names, RedisStore, mark, number};
use crate::clock::Clock;
use crate::currency::Position;
use crate::l2::{Listener, Notice};
use crate::value::key::CacheKey;
use crate::value::tag::TagSlot;

/// How long one question may take: a person waits for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection of its own, which is not kept up.
pub(crate) struct Console {
    client: Client,
    connection: MultiplexedConnection,
    names: Names,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The user may not ask that.
    Denied(Denied),
    /// Redis answers that it cannot.
    Refused(String),
    /// No answer, or no connection.
    Lost(String),
}

/// What a user lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Denied {
    Command,
    Keys,
    Channel,
}

/// A command that the protocol uses, and how to find out without harm whether a user may.
pub(crate) struct Right {
    pub(crate) command: &'static str,
    pub(crate) purpose: &'static str,
    attempt: Vec<Vec<u8>>,
}

fn right(command: &'static str, words: &[&str], purpose: &'static str) -> Right {
    let attempt = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    Right { command, purpose, attempt }
}

/// What the directory says.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) at: Option<Position>,
    /// Of those asked for, the ones that were ever invalidated in this epoch.
    pub(crate) slots: BTreeMap<TagSlot, u64>,
    /// Whether it belongs to this very server; `None` if Redis does not tell.
    pub(crate) is_of_this_server: Option<bool>,
}

impl Console {
    pub(crate) async fn connect(url: &str, namespace: &str) -> Result<Console, Trouble> {
        let client = client(url).map_err(Trouble::of)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(PATIENCE));
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let connection = bounded(CONNECT, connecting).await.map_err(Trouble::of)?;
        Ok(Console { client, connection, names: Names::new(namespace) })
    }

    /// The server's address, without credentials.
    pub(crate) fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// The user that this is, as far as is known.
    pub(crate) async fn user(&self) -> String {
        match self.text(&["ACL", "WHOAMI"]).await {
            Ok(name) => name,
            Err(_) => {
                let settings = self.client.get_connection_info().redis_settings();
                settings.username().unwrap_or("default").to_owned()
            }
        }
    }

    /// How long a round trip takes.
    pub(crate) async fn ping(&self) -> Result<Duration, Trouble> {
        let begin = std::time::Instant::now();
        self.ask(&command(&["PING"])).await?;
        Ok(begin.elapsed())
    }

    /// By how much Redis's clock is ahead of this machine's, or behind it, in milliseconds.
    pub(crate) async fn clock_ahead(&self) -> Result<i128, Trouble> {
        let wall = || Clock::system().wall().duration_since(std::time::UNIX_EPOCH);
        let before = wall().unwrap_or_default();
        let reply = self.ask(&command(&["TIME"])).await?;
        let between = (before + wall().unwrap_or_default()) / 2;
        let (seconds, micros): (i64, i64) = redis::from_redis_value(reply)
            .map_err(|_| Trouble::Refused("TIME is not answered by a time".to_owned()))?;
        let theirs = i128::from(seconds) * 1_000 + i128::from(micros) / 1_000;
        Ok(theirs - between.as_millis() as i128)
    }

    /// What `INFO` tells, by its names.
    pub(crate) async fn info(&self) -> Result<BTreeMap<String, String>, Trouble> {
        let text = self.text(&["INFO"]).await?;
        let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// How many processes listen for invalidations.
    pub(crate) async fn listeners(&self) -> Result<u64, Trouble> {
        let reply = self.ask(&command(&["PUBSUB", "NUMSUB", &self.names.channel])).await?;
        match reply {
            Value::Array(pair) => match pair.as_slice() {
                [_, Value::Int(count)] => Ok(u64::try_from(*count).unwrap_or(0)),
                _ => Ok(0),
            },
            _ => Ok(0),
        }
    }

    /// A server's setting, where it may be asked for.
    pub(crate) async fn setting(&self, name: &str) -> Result<Option<String>, Trouble> {
        let reply = self.ask(&command(&["CONFIG", "GET", name])).await?;
        let pairs: Vec<String> = redis::from_redis_value(reply).unwrap_or_default();
        Ok(pairs.into_iter().nth(1))
    }

    /// All that the protocol asks of Redis, command by command.
    pub(crate) fn rights(&self) -> Vec<Right> {
        let key = CacheKey::random();
        let (entry, directory) = (self.names.entry(&key), self.names.directory.clone());
        // A member that is not there, and is not to be put there either.
        let nobody = format!("check:{}", &*key.to_hex());
        let nowhere = "0".repeat(40);
        let channel = self.names.channel.clone();
        let on_entry = "an entry and its lease, in scripts";
        let on_directory = "the directory, in scripts";
        vec![
            right("ping", &["PING"], "to see whether a connection still is one"),
            right("time", &["TIME"], "to tell the age of an entry"),
            right("get", &["GET", &entry], "to read an entry"),
            right("mget", &["MGET", &entry, &entry], "to read several entries at once"),
            right("pttl", &["PTTL", &entry], on_entry),
            right("zmscore", &["ZMSCORE", &directory, "epoch", "seq"], "to read the directory"),
            right("subscribe", &["SUBSCRIBE", &channel], "to hear of invalidations"),
            right("eval", &["EVAL", "return 1", "0"], "scripts that Redis does not know yet"),
            right("evalsha", &["EVALSHA", &nowhere, "0"], "scripts"),
            right("info", &["INFO", "replication"], "to notice a restart or a failover"),
            right("zadd", &["ZADD", &directory, "XX", "0", &nobody], on_directory),
            right("zrangebyscore", &["ZRANGEBYSCORE", &directory, "1", "0"], on_directory),
            right("persist", &["PERSIST", &directory], on_directory),
            right("del", &["DEL", &entry], on_entry),
            right("publish", &["PUBLISH", &channel, ""], "to tell of invalidations"),
            right("getrange", &["GETRANGE", &entry, "0", "0"], on_entry),
            right("setrange", &["SETRANGE", &entry, "0", ""], on_entry),
            right("set", &["SET", &entry, "", "XX", "PX", "1"], on_entry),
            right("pexpire", &["PEXPIRE", &entry, "1"], on_entry),
        ]
    }

    /// What `publish_stats` asks of Redis besides, and who reads what is published.
    pub(crate) fn rights_to_publish(&self) -> Vec<Right> {
        let (stats, directory) = (&*self.names.stats, &*self.names.directory);
        let purpose = "what processes publish";
        vec![
            right("hkeys", &["HKEYS", stats], purpose),
            // The directory is no hash: nothing is written.
            right("hset", &["HSET", directory, "check", ""], purpose),
            right("hdel", &["HDEL", stats, "check"], purpose),
            right("hgetall", &["HGETALL", stats], purpose),
        ]
    }

    /// Whether the user of this connection may do it: it does it, to nothing that is there. Of another
    /// user Redis is asked, which only administrators may.
    pub(crate) async fn may(
        &self,
        right: &Right,
        user: Option<&str>,
    ) -> Result<Option<Denied>, Trouble> {
        let mut words = Cmd::new();
        if let Some(user) = user {
            words.arg("ACL").arg("DRYRUN").arg(user);
        }
        right.attempt.iter().for_each(|word| {
            words.arg(word);
        });
        let reply = match right.command {
            // On a connection for commands, what is heard could be taken for replies.
            "subscribe" if user.is_none() => self.listen().await.map(|()| Value::Okay),
            _ => self.ask(&words).await,
        };
        match reply {
            Ok(Value::BulkString(verdict)) if user.is_some() => {
                Ok(Some(denied(&String::from_utf8_lossy(&verdict))))
            }
            Ok(_) => Ok(None),
            Err(Trouble::Denied(denied)) if user.is_none() => Ok(Some(denied)),
            // The script of no such digest: it may be called.
            Err(Trouble::Refused(said)) if said.contains("NOSCRIPT") => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    async fn listen(&self) -> Result<(), Trouble> {
        let subscribing = async {
            let mut subscribed = self.client.get_async_pubsub().await?;
            subscribed.subscribe(&self.names.channel).await
        };
        bounded(CONNECT, subscribing).await.map_err(Trouble::of)
    }

    /// What the directory says about itself and about these slots.
    pub(crate) async fn directory(&self, slots: &[TagSlot]) -> Result<Directory, Trouble> {
        let info = self.text(&["INFO", "replication"]).await.ok();
        let id = info.as_deref().and_then(|info| {
            info.lines().find_map(|line| line.trim_end().strip_prefix("master_replid:"))
        });
        let mut ask = command(&["ZMSCORE", &self.names.directory, "epoch", "seq"]);
        ask.arg(format!("at:{}", id.unwrap_or_default()));
        for slot in slots {
            ask.arg(slot.index());
        }
        let Value::Array(scores) = self.ask(&ask).await? else {
            return Err(Trouble::Refused("ZMSCORE is not answered by scores".to_owned()));
        };
        let [epoch, seq, here, scores @ ..] = scores.as_slice() else {
            return Err(Trouble::Refused("ZMSCORE answers too few scores".to_owned()));
        };
        let at = mark(epoch).zip(mark(seq)).map(|(epoch, seq)| Position { epoch, seq });
        let score = |value: &Value| match value {
            Value::Double(score) => Some(*score as u64),
            other => number(other),
        };
        let slots = slots.iter().zip(scores);
        Ok(Directory {
            at,
            slots: slots.filter_map(|(slot, value)| Some((*slot, score(value)?))).collect(),
            is_of_this_server: id.map(|_| !matches!(here, Value::Nil)),
        })
    }

    async fn text(&self, words: &[&str]) -> Result<String, Trouble> {
        let reply = self.ask(&command(words)).await?;
        redis::from_redis_value(reply)
            .map_err(|_| Trouble::Refused(format!("{} is not answered by text", words[0])))
    }

    async fn ask(&self, command: &Cmd) -> Result<Value, Trouble> {
        let mut connection = self.connection.clone();
        let reply = bounded(PATIENCE, connection.send_packed_command(command)).await;
        reply.and_then(Value::extract_error).map_err(Trouble::of)
    }
}

/// Runs the scripts of the protocol, as a cache does when it is built.
pub(crate) async fn run_scripts(url: &str, namespace: &str) -> Result<(), Trouble> {
    let link = Link::new(url, PATIENCE).map_err(Trouble::of)?;
    link.connect().await.map_err(Trouble::of)?;
    let store = RedisStore::new(link, namespace, Arc::new(Nobody));
    let checked = store.check().await;
    crate::l2::Store::close(&store);
    checked.map_err(Trouble::of)
}

struct Nobody;

impl Listener for Nobody {
    fn hear(&self, _: Notice) {}
}

fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(word);
    }
    command
}

/// What Redis complains about, in the words of one version or another.
fn denied(said: &str) -> Denied {
    let said = said.to_ascii_lowercase();
    if said.contains("channel") {
        Denied::Channel
    } else if said.contains("key") && !said.contains("command") {
        Denied::Keys
    } else {
        Denied::Command
    }
}

impl Trouble {
    fn of(error: RedisError) -> Trouble {
        let said = match (error.code(), error.detail()) {
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            _ => error.to_string(),
        };
        match error.code() {
            Some("NOPERM") => Trouble::Denied(denied(error.detail().unwrap_or_default())),
            Some(_) => Trouble::Refused(said),
            None if error.is_io_error() || error.is_unrecoverable_error() => Trouble::Lost(said),
            None => Trouble::Refused(said),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Denied(Denied::Command) => f.write_str("the user may not ask that"),
            Trouble::Denied(Denied::Keys) => f.write_str("the user may not touch these keys"),
            Trouble::Denied(Denied::Channel) => f.write_str("the user may not use this channel"),
            Trouble::Refused(said) | Trouble::Lost(said) => f.write_str(said),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_lacks_is_understood_from_every_version() {
        for (said, lacks) in [
            ("this user has no permissions to run the 'zadd' command", Denied::Command),
            ("User cache has no permissions to run the 'zadd' command", Denied::Command),
            (
                "this user has no permissions to access one of the keys used as arguments",
                Denied::Keys,
            ),
            ("No permissions to access a key", Denied::Keys),
            (
                "this user has no permissions to access one of the channels used as arguments",
                Denied::Channel,
            ),
            ("No permissions to access a channel", Denied::Channel),
        ] {
            assert_eq!(denied(said), lacks, "{said}");
        }
    }

    /// Two lists of one thing: what is asked for here, and what the documentation tells to grant.
    #[tokio::test]
    async fn the_rights_that_are_tried_are_those_of_the_documentation() {
        let redis = test_servers::Redis::shared().unwrap();
        let console = Console::connect(&redis.url(), "rights").await.unwrap();
        let mut tried: Vec<String> =
            console.rights().iter().map(|right| format!("+{}", right.command)).collect();
        let documentation = include_str!("../../cache/builder.rs");
        let from = documentation.find("~larder:shop:*").unwrap();
        let until = from + documentation[from..].find("```").unwrap();
        let listed = documentation[from..until].split_whitespace();
        let mut listed: Vec<&str> = listed.filter(|word| word.starts_with('+')).collect();
        listed.sort_unstable();
        tried.sort_unstable();
        assert_eq!(tried, listed);
    }
}
