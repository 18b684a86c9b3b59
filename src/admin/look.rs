//! What is under a key in Redis.

use std::time::Duration;

use redis::{Pipeline, Value};

use super::{Console, PATIENCE, Trouble, command};
use crate::currency::Position;
use crate::l2::redis::batch::milliseconds;
use crate::l2::redis::link::bounded;
use crate::value::key::CacheKey;

/// What is under a key at one moment, and what the directory says of it.
#[derive(Debug)]
pub(crate) struct Looked {
    /// `Err` holds the name of a type that no entry has.
    pub(crate) entry: Result<Option<Vec<u8>>, String>,
    /// The time by Redis's clock, in milliseconds since 1970; `None` if it does not tell.
    pub(crate) now: Option<u64>,
    pub(crate) lease: Option<Lease>,
}

#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) at: Position,
    pub(crate) awaited: bool,
    pub(crate) remaining: Option<Duration>,
}

impl Console {
    /// The keys in Redis that begin with these digits, as far as they are found among `most` names.
    /// The second says whether all were seen.
    pub(crate) async fn find(
        &self,
        prefix: &str,
        most: usize,
    ) -> Result<(Vec<CacheKey>, bool), Trouble> {
        let pattern = format!("{}{prefix}*", self.names.entries);
        let (mut cursor, mut seen, mut found) = ("0".to_owned(), 0, vec![]);
        loop {
            let scan = command(&["SCAN", &cursor, "MATCH", &pattern, "COUNT", "1000"]);
            let reply = self.ask(&scan).await?;
            let (next, names): (String, Vec<String>) = redis::from_redis_value(reply)
                .map_err(|_| Trouble::Refused("SCAN is not answered by names".to_owned()))?;
            found.extend(names.iter().filter_map(|name| self.key_of(name)));
            seen += 1000;
            cursor = next;
            if cursor == "0" || seen >= most {
                found.sort();
                found.dedup();
                return Ok((found, cursor == "0"));
            }
        }
    }

    /// The key of an entry's or a lease's name in this namespace.
    pub(crate) fn key_of(&self, name: &str) -> Option<CacheKey> {
        let hex = name.strip_prefix(&self.names.entries)?.split_once('}')?.0;
        CacheKey::of_hex(hex)
    }

    /// The name of an entry in Redis.
    pub(crate) fn name_of(&self, key: &CacheKey) -> String {
        self.names.entry(key)
    }

    pub(crate) async fn look(&self, key: &CacheKey) -> Result<Looked, Trouble> {
        let (entry, lease) = (self.names.entry(key), self.names.lease(key));
        let mut all = Pipeline::with_capacity(4);
        all.add_command(command(&["TIME"])).add_command(command(&["GET", &entry]));
        all.add_command(command(&["PTTL", &lease])).add_command(command(&["GET", &lease]));
        let replies = self.ask_all(&all).await?;
        let [time, bytes, lease_life, lease] = replies.as_slice() else {
            return Err(Trouble::Refused("four answers were expected".to_owned()));
        };
        let span = |life: &Value| match life {
            Value::Int(millis) => u64::try_from(*millis).ok().map(Duration::from_millis),
            _ => None,
        };
        let entry = match bytes {
            Value::BulkString(bytes) => Ok(Some(bytes.clone())),
            Value::Nil => Ok(None),
            Value::ServerError(error) => match Trouble::of(error.clone().into()) {
                Trouble::Refused(said) => Err(said),
                trouble => return Err(trouble),
            },
            _ => Err("something else".to_owned()),
        };
        let lease = match lease {
            Value::BulkString(lease) if lease.len() == 33 => {
                let number = |at: usize| {
                    u64::from_be_bytes(lease[at..at + 8].try_into().expect("eight bytes of 33"))
                };
                let at = Position { epoch: number(16), seq: number(24) };
                Some(Lease { at, awaited: lease[32] == b'1', remaining: span(lease_life) })
            }
            _ => None,
        };
        Ok(Looked { entry, now: milliseconds(time), lease })
    }

    async fn ask_all(&self, commands: &Pipeline) -> Result<Vec<Value>, Trouble> {
        let (mut connection, count) = (self.connection.clone(), commands.len());
        let replies = bounded(PATIENCE, connection.send_packed_commands(commands, 0, count)).await;
        replies.map_err(Trouble::of)
    }
}
