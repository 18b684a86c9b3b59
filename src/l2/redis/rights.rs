//! [`Right`]: a command that Larder uses, and how to find out whether a user of Redis may use it.

// Public with the feature `admin`.
#![cfg_attr(not(feature = "admin"), allow(unreachable_pub))]

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};

use super::connection::Connection;
use super::endpoint::CONNECT;
use super::names::Names;
use super::refusal::{Purpose, Refusal, RefusalKind};
use super::subscription::Subscription;
use crate::value::key::CacheKey;

/// A command that Larder uses on Redis, and how to find out whether a user may use it, without harm.
#[derive(Debug, Clone)]
pub struct Right {
    command: &'static str,
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
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

#[cfg(feature = "admin")]
impl Right {
    /// The command, in lower case, as an ACL rule names it.
    pub fn command(&self) -> &'static str {
        self.command
    }

    /// What Larder uses it for.
    pub fn purpose(&self) -> &'static str {
        self.purpose
    }

    /// A command that is refused without the right and changes nothing with it.
    pub(crate) fn attempt(&self) -> &[Vec<u8>] {
        &self.attempt
    }
}

impl MissingRight {
    /// Reads what a server of any version replies.
    pub(crate) fn of_reply(reply: &str) -> MissingRight {
        let reply = reply.to_ascii_lowercase();
        if reply.contains("channel") {
            MissingRight::Channel
        } else if reply.contains("key") && !reply.contains("command") {
            MissingRight::Keys
        } else {
            MissingRight::Command
        }
    }

    /// What an ACL rule grants it with; `command` is the one that was refused.
    fn rule(self, command: &str, names: &Names) -> String {
        match self {
            MissingRight::Command => format!("+{command}"),
            MissingRight::Keys => format!("~{}", names.pattern()),
            MissingRight::Channel => format!("&{}", names.pattern()),
        }
    }
}

fn right(command: &'static str, words: &[&str], purpose: &'static str) -> Right {
    let attempt = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    Right { command, purpose, attempt }
}

/// The commands that every cache uses.
pub(crate) fn of_protocol(names: &Names) -> Vec<Right> {
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

/// The commands that publishing statistics and reading them uses in addition.
#[cfg(feature = "admin")]
pub(crate) fn of_publishing(names: &Names) -> Vec<Right> {
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

/// Tries all rights. Returns the first refusal, with the ACL rules that are missing.
pub(super) async fn missing(
    link: &Connection,
    names: &Names,
    subscription: &Subscription,
) -> Option<Refusal> {
    let ask = async |commands: &Pipeline| {
        let count = commands.len();
        let send = async |connection: &mut MultiplexedConnection| {
            connection.send_packed_commands(commands, 0, count).await
        };
        // Without a reply here, the commands that follow have none either, and say why.
        link.send(CONNECT, Purpose::Other, send).await.unwrap_or_default().0
    };
    let attempts = Attempts::new(names);
    let mut denied = attempts.missing(ask(attempts.commands()).await, names);
    if denied.has_channel()
        && let [Value::Int(_)] = ask(&publish(names)).await[..]
    {
        denied.permit_channel();
    }
    if let Some(refusal) = subscription.refused().await {
        denied.add("subscribe", refusal, names);
    }
    denied.refusal()
}

/// The attempts of all rights that a connection for commands can make.
struct Attempts {
    rights: Vec<Right>,
    commands: Pipeline,
}

impl Attempts {
    /// The notice is published on a channel that nobody hears, though the pattern of the namespace has
    /// it: every cache that is built tries this, and a message to all others would cost Redis more than
    /// the rest of a build in a large fleet.
    fn new(names: &Names) -> Attempts {
        let mut rights = of_protocol(names);
        rights.retain(|right| right.command != "subscribe");
        let mut commands = Pipeline::with_capacity(rights.len());
        for right in &rights {
            let mut command = Cmd::new();
            match right.command {
                "publish" => command.arg("PUBLISH").arg(names.unheard_channel()).arg(""),
                _ => command.arg(&right.attempt),
            };
            commands.add_command(command);
        }
        Attempts { rights, commands }
    }

    fn commands(&self) -> &Pipeline {
        &self.commands
    }

    /// What is missing. If that is the channel, a user may still have the right to the namespace's
    /// channel alone.
    fn missing(&self, replies: Vec<Value>, names: &Names) -> Denied {
        let mut denied = Denied::default();
        for (right, reply) in self.rights.iter().zip(replies) {
            if let Err(error) = reply.extract_error()
                && let Some(refusal) = Refusal::of(&error, &[])
            {
                denied.add(right.command, refusal, names);
            }
        }
        denied
    }
}

/// Publishes what is no notice on the namespace's channel. Subscribers pass over it.
fn publish(names: &Names) -> Pipeline {
    let mut commands = Pipeline::with_capacity(1);
    commands.cmd("PUBLISH").arg(names.channel()).arg("");
    commands
}

/// What a user may not do: the first reply that says so, and all ACL rules that are missing.
#[derive(Debug, Default)]
struct Denied {
    first: Option<Refusal>,
    rules: Vec<String>,
}

impl Denied {
    /// Adds a reply to a command, if it is about a right.
    fn add(&mut self, command: &str, refusal: Refusal, names: &Names) {
        if refusal.kind() != RefusalKind::Rights {
            return;
        }
        let rule = MissingRight::of_reply(&refusal.to_string()).rule(command, names);
        if !self.rules.contains(&rule) {
            self.rules.push(rule);
        }
        self.first.get_or_insert(refusal);
    }

    fn has_channel(&self) -> bool {
        self.rules.iter().any(|rule| rule.starts_with('&'))
    }

    /// The channel is permitted, whatever was replied about another one.
    fn permit_channel(&mut self) {
        self.rules.retain(|rule| !rule.starts_with('&'));
        if self.rules.is_empty() {
            self.first = None;
        }
    }

    fn refusal(self) -> Option<Refusal> {
        Some(self.first?.lacking(self.rules))
    }
}

/// The ACL rule that a refused command lacks, if the reply says which.
pub(crate) fn rule_of(reply: &str, names: &Names) -> Option<String> {
    let missing = MissingRight::of_reply(reply);
    // Redis writes `the 'zadd' command`.
    let command = reply.split('\'').nth(1).unwrap_or_default();
    let is_name = !command.is_empty() && command.bytes().all(|byte| byte.is_ascii_lowercase());
    (is_name || missing != MissingRight::Command).then(|| missing.rule(command, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_of_every_version_is_understood() {
        let names = Names::new("shop", 0);
        for (reply, missing, rule) in [
            (
                "NOPERM this user has no permissions to run the 'zadd' command or its subcommand",
                MissingRight::Command,
                Some("+zadd"),
            ),
            (
                "NOPERM User cache has no permissions to run the 'zadd' command",
                MissingRight::Command,
                Some("+zadd"),
            ),
            (
                "NOPERM this user has no permissions to access one of the keys used as arguments",
                MissingRight::Keys,
                Some("~larder:shop:*"),
            ),
            ("NOPERM No permissions to access a key", MissingRight::Keys, Some("~larder:shop:*")),
            (
                "NOPERM this user has no permissions to access one of the channels used as arguments",
                MissingRight::Channel,
                Some("&larder:shop:*"),
            ),
            (
                "NOPERM No permissions to access a channel",
                MissingRight::Channel,
                Some("&larder:shop:*"),
            ),
            (
                "ERR The user executing the script can't run this command or subcommand",
                MissingRight::Command,
                None,
            ),
        ] {
            assert_eq!(MissingRight::of_reply(reply), missing, "{reply}");
            assert_eq!(rule_of(reply, &names).as_deref(), rule, "{reply}");
        }
    }
}
