//! [`Right`]: a command that Larder uses, and whether a user of Redis may use it.

use redis::{Cmd, Value};

use super::redis::{Redis, command};
use super::{Error, ErrorKind};
use crate::l2::redis::Names;
use crate::value::key::CacheKey;

/// A command that Larder uses on Redis, and how to find out whether a user may use it, without harm.
#[derive(Debug, Clone)]
pub struct Right {
    command: &'static str,
    purpose: &'static str,
    attempt: Vec<Vec<u8>>,
}

/// What a user of Redis lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MissingRight {
    /// The command.
    Command,
    /// The keys of the namespace.
    Keys,
    /// The channel of the namespace.
    Channel,
}

impl Right {
    /// The command, in lower case, as an ACL rule names it.
    pub fn command(&self) -> &'static str {
        self.command
    }

    /// What Larder uses it for.
    pub fn purpose(&self) -> &'static str {
        self.purpose
    }
}

impl MissingRight {
    /// Reads what a server of any version replies.
    pub(super) fn of_reply(reply: &str) -> MissingRight {
        let reply = reply.to_ascii_lowercase();
        if reply.contains("channel") {
            MissingRight::Channel
        } else if reply.contains("key") && !reply.contains("command") {
            MissingRight::Keys
        } else {
            MissingRight::Command
        }
    }
}

fn right(command: &'static str, words: &[&str], purpose: &'static str) -> Right {
    let attempt = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    Right { command, purpose, attempt }
}

pub(super) fn of_protocol(names: &Names) -> Vec<Right> {
    let key = CacheKey::random();
    let (entry, directory) = (names.entry(&key), names.directory());
    // A member that does not exist, and is not created either.
    let nobody = format!("check:{}", &*key.to_hex());
    let nowhere = "0".repeat(40);
    let channel = names.channel();
    let on_entry = "an entry and its lease, in scripts";
    let on_directory = "the directory, in scripts";
    vec![
        right("ping", &["PING"], "to see whether a connection still is one"),
        right("time", &["TIME"], "to tell the age of an entry"),
        right("get", &["GET", &entry], "to read an entry"),
        right("mget", &["MGET", &entry, &entry], "to read several entries at once"),
        right("pttl", &["PTTL", &entry], on_entry),
        right("zmscore", &["ZMSCORE", directory, "epoch", "seq"], "to read the directory"),
        right("subscribe", &["SUBSCRIBE", channel], "to hear of invalidations"),
        right("eval", &["EVAL", "return 1", "0"], "scripts that Redis does not know yet"),
        right("evalsha", &["EVALSHA", &nowhere, "0"], "scripts"),
        right("info", &["INFO", "replication"], "to notice a restart or a failover"),
        right("zadd", &["ZADD", directory, "XX", "0", &nobody], on_directory),
        right("zrangebyscore", &["ZRANGEBYSCORE", directory, "1", "0"], on_directory),
        right("persist", &["PERSIST", directory], on_directory),
        right("del", &["DEL", &entry], on_entry),
        right("publish", &["PUBLISH", channel, ""], "to tell of invalidations"),
        right("getrange", &["GETRANGE", &entry, "0", "0"], on_entry),
        right("setrange", &["SETRANGE", &entry, "0", ""], on_entry),
        right("set", &["SET", &entry, "", "XX", "PX", "1"], on_entry),
        right("pexpire", &["PEXPIRE", &entry, "1"], on_entry),
    ]
}

pub(super) fn of_publishing(names: &Names) -> Vec<Right> {
    let (stats, directory) = (names.stats(), names.directory());
    let purpose = "what processes publish";
    vec![
        right("hkeys", &["HKEYS", stats], purpose),
        // The directory is no hash: nothing is written.
        right("hset", &["HSET", directory, "check", ""], purpose),
        right("hdel", &["HDEL", stats, "check"], purpose),
        right("hgetall", &["HGETALL", stats], purpose),
    ]
}

impl Redis {
    /// All commands that a cache uses, for [`missing_right`](Redis::missing_right).
    pub fn rights(&self) -> Vec<Right> {
        of_protocol(self.names())
    }

    /// The commands that [`publish_stats`](crate::QueryCacheBuilder::publish_stats) and readers of
    /// [`fleet_stats`](crate::QueryCache::fleet_stats) use in addition.
    pub fn rights_to_publish(&self) -> Vec<Right> {
        of_publishing(self.names())
    }

    /// What the user lacks to use a command; `None` if nothing.
    ///
    /// For the user of this connection, the command is tried on names that do not exist. For
    /// another `user`, Redis is asked by `ACL DRYRUN` (Redis 7 and later).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] if this connection's user may not use `ACL DRYRUN`; otherwise what
    /// Redis replied to the attempt.
    pub async fn missing_right(
        &self,
        right: &Right,
        user: Option<&str>,
    ) -> Result<Option<MissingRight>, Error> {
        let mut words = Cmd::new();
        if let Some(user) = user {
            words.arg("ACL").arg("DRYRUN").arg(user);
        }
        right.attempt.iter().for_each(|word| {
            words.arg(word);
        });
        let reply = match right.command {
            // On the connection for commands, a notice could be taken for a reply.
            "subscribe" if user.is_none() => self.subscribe().await.map(|()| Value::Okay),
            _ => self.ask(&words).await,
        };
        match reply {
            Ok(Value::BulkString(reply)) if user.is_some() => {
                Ok(Some(MissingRight::of_reply(&String::from_utf8_lossy(&reply))))
            }
            Ok(_) => Ok(None),
            Err(error) => match error.kind() {
                ErrorKind::Denied(missing) if user.is_none() => Ok(Some(missing)),
                // There is no script with that digest, so the command may be used.
                ErrorKind::Refused if error.reply().contains("NOSCRIPT") => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// The name of the connection's user, as far as it is known.
    pub async fn user(&self) -> String {
        match self.text(&command(&["ACL", "WHOAMI"])).await {
            Ok(name) => name,
            Err(_) => self.configured_user(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_of_every_version_is_understood() {
        for (reply, missing) in [
            ("this user has no permissions to run the 'zadd' command", MissingRight::Command),
            ("User cache has no permissions to run the 'zadd' command", MissingRight::Command),
            (
                "this user has no permissions to access one of the keys used as arguments",
                MissingRight::Keys,
            ),
            ("No permissions to access a key", MissingRight::Keys),
            (
                "this user has no permissions to access one of the channels used as arguments",
                MissingRight::Channel,
            ),
            ("No permissions to access a channel", MissingRight::Channel),
        ] {
            assert_eq!(MissingRight::of_reply(reply), missing, "{reply}");
        }
    }

    /// Two lists of one thing: what is tried here, and what the documentation says to grant.
    #[tokio::test]
    async fn the_rights_that_are_tried_are_those_of_the_documentation() {
        let redis = test_servers::Redis::shared().unwrap();
        let redis = Redis::connect(&redis.url(), "rights").await.unwrap();
        let mut tried: Vec<String> =
            redis.rights().iter().map(|right| format!("+{}", right.command())).collect();
        let documentation = include_str!("../cache/builder/redis.rs");
        let from = documentation.find("~larder:shop:*").unwrap();
        let until = from + documentation[from..].find("```").unwrap();
        let listed = documentation[from..until].split_whitespace();
        let mut listed: Vec<&str> = listed.filter(|word| word.starts_with('+')).collect();
        listed.sort_unstable();
        tried.sort_unstable();
        assert_eq!(tried, listed);
    }
}
