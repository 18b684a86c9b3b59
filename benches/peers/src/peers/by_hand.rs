//! What one writes oneself in an afternoon: moka's `try_get_with` around `GET` and `SET`, JSON, and
//! a failing Redis passed over.

use std::time::Duration;

use moka::future::Cache;
use redis::AsyncCommands;
use redis::aio::ConnectionManager;

use super::{Key, Lines, seen};
use crate::peer::Peer;
use crate::work::{Database, Failed};

const TTL: Duration = Duration::from_secs(3600);

pub struct ByHand {
    memory: Cache<Key, Lines>,
    redis: ConnectionManager,
    database: Database,
}

fn name(key: Key) -> String {
    format!("by-hand:{key}")
}

impl ByHand {
    async fn fetch(&self, key: Key) -> Result<Lines, Failed> {
        let mut redis = self.redis.clone();
        let found: Option<Vec<u8>> = redis.get(name(key)).await.unwrap_or_default();
        if let Some(lines) = found.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(Lines::new(lines));
        }
        let lines = Lines::new(self.database.load(key.id, key.region).await?);
        let json = serde_json::to_vec(&*lines).map_err(Failed::of)?;
        // A Redis that does not take it must not fail the read.
        let _: Result<(), _> = redis.set_ex(name(key), json, TTL.as_secs()).await;
        Ok(lines)
    }
}

impl Peer for ByHand {
    const NAME: &'static str = "by hand: moka, redis";
    const REMARK: &'static str = "`try_get_with` of moka around `GET` and `SET` over a \
         `ConnectionManager` with its defaults, JSON; other processes do not hear of an \
         invalidation, and no tags";

    type Answer = Lines;

    async fn open(redis: &str, database: &Database) -> ByHand {
        let client = redis::Client::open(redis).unwrap();
        ByHand {
            memory: Cache::builder().max_capacity(100_000).time_to_live(TTL).build(),
            redis: client.get_connection_manager().await.unwrap(),
            database: database.clone(),
        }
    }

    async fn read(&self, id: i64, region: &'static str) -> Result<Lines, Failed> {
        let key = Key::new(id, region);
        if let Some(lines) = self.memory.get(&key).await {
            return Ok(lines);
        }
        self.memory.try_get_with(key, self.fetch(key)).await.map_err(Failed::of)
    }

    fn seen(lines: &Lines) -> (usize, i64) {
        seen(lines)
    }

    async fn invalidate(&self, id: i64, region: &'static str) -> Result<(), Failed> {
        let key = Key::new(id, region);
        let deleted: Result<(), _> = self.redis.clone().del(name(key)).await;
        self.memory.invalidate(&key).await;
        deleted.map_err(Failed::of)
    }
}
