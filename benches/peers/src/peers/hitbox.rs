//! `hitbox`: its macro over moka composed with Redis. What the documentation calls recommended is
//! set: bincode, one flight per key, memory filled from Redis.

use std::time::Duration;

use hitbox::concurrency::BroadcastConcurrencyManager;
use hitbox::offload::OffloadManager;
use hitbox::policy::{ConcurrencyLimit, PolicyConfig};
use hitbox_backend::composition::CompositionPolicy;
use hitbox_backend::composition::policy::RefillPolicy;
use hitbox_backend::format::BincodeFormat;
use hitbox_backend::{Backend, Compose, CompositionBackend};
use hitbox_core::{CacheKey, DisabledOffload};
use hitbox_fn::{Cache, cached};
use hitbox_moka::MokaBackend;
use hitbox_redis::{ConnectionMode, RedisBackend};

use super::seen;
use crate::peer::Peer;
use crate::work::{Database, Failed, Line, SQL_DIGEST};

type Report = Result<Vec<Line>, Failed>;
type Tiers = CompositionBackend<MokaBackend<BincodeFormat>, RedisBackend, OffloadManager>;

#[cached(prefix = "report", skip(database))]
async fn report(query: u64, id: i64, region: String, database: Database) -> Report {
    let _ = query;
    database.load(id, &region).await
}

pub struct Hitbox {
    cache: Cache<Tiers, BroadcastConcurrencyManager<Report>, DisabledOffload>,
    database: Database,
}

impl Peer for Hitbox {
    const NAME: &'static str = "hitbox";
    const REMARK: &'static str = "`#[cached]` over moka composed with Redis: bincode, \
         `BroadcastConcurrencyManager`, `RefillPolicy::Always`; decoded at every hit; no \
         invalidation but `remove` of a key that one makes again by hand, of which other processes \
         do not hear";

    type Answer = Vec<Line>;

    async fn open(redis: &str, database: &Database) -> Hitbox {
        let memory =
            MokaBackend::builder().max_entries(100_000).value_format(BincodeFormat).build();
        let shared =
            RedisBackend::builder().connection(ConnectionMode::single(redis)).build().unwrap();
        let policy = CompositionPolicy::new().refill(RefillPolicy::Always);
        let tiers = memory.compose_with(shared, OffloadManager::with_defaults(), policy);
        let policy = PolicyConfig::builder()
            .ttl(Duration::from_secs(3600))
            .concurrency(ConcurrencyLimit::new(1).expect("it is within its bounds"))
            .build();
        let cache = Cache::builder()
            .backend(tiers)
            .policy(policy)
            .concurrency_manager(BroadcastConcurrencyManager::new())
            .build();
        Hitbox { cache, database: database.clone() }
    }

    async fn read(&self, id: i64, region: &'static str) -> Report {
        report(*SQL_DIGEST, id, region.to_owned(), self.database.clone()).cache(&self.cache).await
    }

    fn seen(lines: &Vec<Line>) -> (usize, i64) {
        seen(lines)
    }

    async fn invalidate(&self, id: i64, region: &'static str) -> Result<(), Failed> {
        let (query, id) = (SQL_DIGEST.to_string(), id.to_string());
        let key = CacheKey::from_slice(&[
            ("fn", Some("report")),
            ("query", Some(&query)),
            ("id", Some(&id)),
            ("region", Some(region)),
        ]);
        self.cache.backend().remove(&key).await.map(drop).map_err(Failed::of)
    }
}
