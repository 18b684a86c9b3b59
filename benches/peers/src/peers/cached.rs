//! `cached`, whose tiers one puts together: a sharded store in memory over its Redis store. Done
//! twice, since what loads once per key is a macro over another store, whose hits cost more.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cached::macros::cached;
use cached::prelude::*;
use cached::{AsyncRedisCache, ShardedLruTtlCache};

use super::{Key, Lines, seen};
use crate::peer::Peer;
use crate::work::{Database, Failed, Line};

const SIZE: usize = 100_000;
const TTL: Duration = Duration::from_secs(3600);

/// The tier in Redis, over PostgreSQL.
struct Shared {
    redis: AsyncRedisCache<Key, Vec<Line>>,
    database: Database,
}

impl Shared {
    async fn open(name: &str, redis: &str, database: &Database) -> Shared {
        let redis = AsyncRedisCache::builder(name)
            .ttl(TTL)
            .connection_string(redis)
            .connection_manager(true)
            .build()
            .await
            .unwrap();
        Shared { redis, database: database.clone() }
    }

    /// As `#[concurrent_cached]` does it: an error of Redis is the function's.
    async fn read(&self, key: Key) -> Result<Vec<Line>, Failed> {
        if let Some(lines) = self.redis.async_cache_get(&key).await.map_err(Failed::of)? {
            return Ok(lines);
        }
        let lines = self.database.load(key.id, key.region).await?;
        self.redis.async_cache_set(key, lines.clone()).await.map_err(Failed::of)?;
        Ok(lines)
    }

    async fn delete(&self, key: Key) -> Result<(), Failed> {
        self.redis.async_cache_delete(&key).await.map(drop).map_err(Failed::of)
    }
}

pub struct Cached {
    memory: ShardedLruTtlCache<Key, Lines>,
    shared: Shared,
}

impl Peer for Cached {
    const NAME: &'static str = "cached";
    const REMARK: &'static str = "`ShardedLruTtlCache` over `AsyncRedisCache` with its connection \
         manager; no one flight per key, no tags, other processes do not hear of an invalidation; \
         an error of Redis is an error of the function";

    type Answer = Lines;

    async fn open(redis: &str, database: &Database) -> Cached {
        let shared = Shared::open("peers", redis, database).await;
        Cached { memory: ShardedLruTtlCache::new(SIZE, TTL), shared }
    }

    async fn read(&self, id: i64, region: &'static str) -> Result<Lines, Failed> {
        let key = Key::new(id, region);
        if let Some(lines) = self.memory.get(&key) {
            return Ok(lines);
        }
        let lines = Lines::new(self.shared.read(key).await?);
        self.memory.set(key, lines.clone());
        Ok(lines)
    }

    fn seen(lines: &Lines) -> (usize, i64) {
        seen(lines)
    }

    async fn invalidate(&self, id: i64, region: &'static str) -> Result<(), Failed> {
        let key = Key::new(id, region);
        let deleted = self.shared.delete(key).await;
        self.memory.remove(&key);
        deleted
    }
}

/// The macro's store is a static, and so is what it stands before.
static SHARED: RwLock<Option<Arc<Shared>>> = RwLock::new(None);

#[cached(
    name = "REPORTS",
    max_size = 100_000,
    ttl_secs = 3600,
    sync_writes = "by_key",
    key = "Key",
    convert = r#"{ Key::new(id, region) }"#
)]
async fn report(id: i64, region: &'static str) -> Result<Lines, Failed> {
    let shared = SHARED.read().unwrap_or_else(PoisonError::into_inner).clone();
    let shared = shared.ok_or_else(|| Failed("not opened".into()))?;
    shared.read(Key::new(id, region)).await.map(Lines::new)
}

pub struct CachedByKey;

impl Peer for CachedByKey {
    const NAME: &'static str = "cached, by key";
    const REMARK: &'static str = "`#[cached(sync_writes = \"by_key\")]` over `AsyncRedisCache`: one \
         load per key in a process, for which a hit takes a lock of its key and one of the store; \
         otherwise as `cached`";
    const TWICE: bool = false;

    type Answer = Lines;

    async fn open(redis: &str, database: &Database) -> CachedByKey {
        let shared = Shared::open("by-key", redis, database).await;
        *SHARED.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(shared));
        REPORTS.write().await.clear();
        CachedByKey
    }

    async fn read(&self, id: i64, region: &'static str) -> Result<Lines, Failed> {
        report(id, region).await
    }

    fn seen(lines: &Lines) -> (usize, i64) {
        seen(lines)
    }

    async fn invalidate(&self, id: i64, region: &'static str) -> Result<(), Failed> {
        let key = Key::new(id, region);
        let shared = SHARED.read().unwrap_or_else(PoisonError::into_inner).clone();
        let deleted = shared.ok_or_else(|| Failed("not opened".into()))?.delete(key).await;
        REPORTS.write().await.remove(&key);
        deleted
    }
}
