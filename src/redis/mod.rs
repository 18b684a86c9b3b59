//! [`RedisStore`]: the shared tier.

mod link;

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::{Cmd, Pipeline, RedisWrite, ToRedisArgs, Value};

pub(crate) use self::link::Link;
use crate::clock::Instant;
use crate::entry::HEADER;
use crate::key::{CacheKey, KEY_FORMAT};
use crate::store::{Found, Store, StoreError};

/// Entries as strings of their own, each with an expiry.
pub(crate) struct RedisStore {
    link: Link,
    /// `larder:<namespace>:<key format>:`. What follows is the hash, so that neither SQL nor a
    /// parameter can be read from a key's name.
    prefix: String,
}

impl RedisStore {
    pub(crate) fn new(link: Link, namespace: &str) -> RedisStore {
        RedisStore { link, prefix: format!("larder:{namespace}:{KEY_FORMAT}:") }
    }

    fn name(&self, key: &CacheKey) -> String {
        let hex = key.to_hex();
        let mut name = String::with_capacity(self.prefix.len() + hex.len());
        name.push_str(&self.prefix);
        name.push_str(&hex);
        name
    }
}

impl Store for RedisStore {
    fn limit(&self) -> Duration {
        self.link.limit()
    }

    fn read<'a>(&'a self, key: &'a CacheKey) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        Box::pin(async move {
            let name = self.name(key);
            // Sized for what goes in: this is the way of every hit.
            let command = |word: &str| {
                let mut command = Cmd::with_capacity(2, word.len() + name.len());
                command.arg(word).arg(&name);
                command
            };
            let mut both = Pipeline::with_capacity(2);
            // PTTL first. Between the two another process may replace the entry: what we then
            // believe to remain is the old one's life, shorter than the new one's. The other way
            // round an old value would get a new life.
            both.add_command(command("PTTL")).add_command(command("GET"));
            let mut replies = self.link.pipeline(&both).await?.into_iter();
            match (replies.next(), replies.next()) {
                (Some(Value::Int(-2)), Some(_)) | (Some(Value::Int(_)), Some(Value::Nil)) => {
                    Ok(None)
                }
                (Some(Value::Int(remaining)), Some(Value::BulkString(bytes))) => {
                    // -1: it never expires, so it is not from us.
                    let remaining = u64::try_from(remaining).map_err(|_| StoreError::Foreign)?;
                    let remaining = Duration::from_millis(remaining);
                    Ok(Some(Found { bytes: bytes.into(), remaining }))
                }
                _ => Err(StoreError::Foreign),
            }
        })
    }

    fn write<'a>(
        &'a self,
        key: &'a CacheKey,
        header: [u8; HEADER],
        payload: Bytes,
        ends: Instant,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            // Not PX, a life from when the command is carried out. A command whose answer we gave
            // up on may still lie before a frozen server, which carries it out when it thaws: an
            // expired result would begin a second life.
            let by_redis = self.link.time_of(ends).ok_or(StoreError::Unavailable)?;
            let mut set = Cmd::with_capacity(5, HEADER + payload.len() + self.prefix.len() + 100);
            set.arg("SET").arg(self.name(key)).arg(Entry(&header, &payload));
            set.arg("PXAT").arg(by_redis);
            let mut both = Pipeline::with_capacity(2);
            both.cmd("TIME").add_command(set);
            let sent = self.link.pipeline(&both).await?;
            match sent.as_slice() {
                [time, Value::Okay] => {
                    self.link.set_time(time);
                    Ok(())
                }
                _ => Err(StoreError::Unavailable),
            }
        })
    }
}

/// Header and payload as one argument, without putting them together first.
struct Entry<'a>(&'a [u8], &'a [u8]);

impl ToRedisArgs for Entry<'_> {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        let mut arg = out.writer_for_next_arg();
        for part in [self.0, self.1] {
            std::io::Write::write_all(&mut arg, part).expect("writing to memory does not fail");
        }
    }
}
