//! `multi-tier-cache`, with the constructor that its documentation gives for several processes.

use std::sync::Arc;

use multi_tier_cache::error::CacheError;
use multi_tier_cache::{CacheManager, CacheStrategy, InvalidationConfig, L1Cache, L2Cache};

use super::{Key, seen};
use crate::peer::Peer;
use crate::work::{Database, Failed, Line};

pub struct MultiTier {
    cache: CacheManager,
    database: Database,
}

fn name(id: i64, region: &'static str) -> String {
    format!("multi-tier:{}", Key::new(id, region))
}

impl Peer for MultiTier {
    const NAME: &'static str = "multi-tier-cache";
    const REMARK: &'static str = "`get_or_compute_typed` of a manager with invalidation; JSON in \
         both tiers, decoded at every hit; keys and patterns (`SCAN`), no tags; one load per key in \
         a process";

    type Answer = Vec<Line>;

    async fn open(redis: &str, database: &Database) -> MultiTier {
        let memory = Arc::new(L1Cache::new(Default::default()).unwrap());
        let shared = Arc::new(L2Cache::with_url(redis).await.unwrap());
        let config = InvalidationConfig::default();
        let cache = CacheManager::new_with_invalidation(memory, shared, redis, config).await;
        MultiTier { cache: cache.unwrap(), database: database.clone() }
    }

    async fn read(&self, id: i64, region: &'static str) -> Result<Vec<Line>, Failed> {
        let load = || async {
            let loaded = self.database.load(id, region).await;
            loaded.map_err(|error| CacheError::BackendError(error.0))
        };
        let name = name(id, region);
        let read = self.cache.get_or_compute_typed(&name, CacheStrategy::MediumTerm, load);
        read.await.map_err(Failed::of)
    }

    fn seen(lines: &Vec<Line>) -> (usize, i64) {
        seen(lines)
    }

    async fn invalidate(&self, id: i64, region: &'static str) -> Result<(), Failed> {
        self.cache.invalidate(&name(id, region)).await.map_err(Failed::of)
    }
}
