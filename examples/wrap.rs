//! The cache in front of a query function of your own, with any driver and any struct as its
//! result.

use std::sync::Arc;

use larder::{QueryCache, Wrapped};
use serde::{Deserialize, Serialize};

mod support;

#[derive(Debug, Serialize, Deserialize)]
struct ShelfStats {
    jars: i64,
    heaviest: Option<f64>,
}

/// The interface for the rest of the program. It shows neither the cache nor the SQL.
#[derive(Clone)]
struct Shelves {
    stats: Wrapped<(i32, String), ShelfStats>,
}

impl Shelves {
    fn new(cache: &QueryCache, pool: deadpool_postgres::Pool) -> Shelves {
        let sql = "SELECT count(*), max(sqrt(n)) FROM generate_series(1, 200000) AS n
                   WHERE n % 4 = $1 AND $2 <> 'empty'";
        Shelves { stats: cache.query(sql).wrap_with(pool, Shelves::load) }
    }

    async fn load(
        pool: deadpool_postgres::Pool,
        sql: Arc<str>,
        (shelf, kind): (i32, String),
    ) -> Result<ShelfStats, deadpool_postgres::PoolError> {
        let row = pool.get().await?.query_one(&*sql, &[&shelf, &kind]).await?;
        Ok(ShelfStats { jars: row.get(0), heaviest: row.get(1) })
    }

    async fn stats(&self, shelf: i32, kind: &str) -> Result<Arc<ShelfStats>, larder::Error> {
        self.stats.call((shelf, kind.to_owned())).await
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let servers = support::servers().await?;
    let cache = QueryCache::builder().namespace("wrap").redis(&servers.redis_url).build().await?;
    let shelves = Shelves::new(&cache, servers.pool);

    for (shelf, kind) in [(1, "jam"), (1, "jam"), (1, "empty"), (2, "jam")] {
        let stats = shelves.stats(shelf, kind).await?;
        println!("shelf {shelf}, {kind}: {stats:?}");
    }
    println!("{:#?}", cache.stats());
    Ok(())
}
