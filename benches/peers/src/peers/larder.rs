//! Larder, as in its README: a query made once, two tags; all defaults but the
//! hour that everybody's results live.

use std::sync::Arc;
use std::time::Duration;

use larder::{Query, QueryCache, Rows, Wrapped};

use super::{Lines, seen};
use crate::peer::Peer;
use crate::work::{Database, Failed, Line, SQL};

async fn cache(redis: &str) -> QueryCache {
    let cache = QueryCache::builder().namespace("peers").redis(redis);
    cache.ttl(Duration::from_secs(3600)).build().await.unwrap()
}

fn query(cache: &QueryCache) -> Query {
    cache.query(SQL).tag("orders").tag("customers")
}

/// PostgreSQL's own rows.
pub struct LarderRows {
    cache: QueryCache,
    query: Query,
    database: Database,
}

impl Peer for LarderRows {
    const NAME: &'static str = "Larder, `Rows`";
    const REMARK: &'static str = "the rows as PostgreSQL sent them; cells are decoded as they are \
         read, which no case here does";

    type Answer = Rows;

    async fn open(redis: &str, database: &Database) -> LarderRows {
        let cache = cache(redis).await;
        LarderRows { query: query(&cache), cache, database: database.clone() }
    }

    async fn read(&self, id: i64, region: &'static str) -> Result<Rows, Failed> {
        let bound = self.query.bind(id).bind(region);
        bound.fetch(self.database.pool()).await.map_err(Failed::of)
    }

    fn seen(rows: &Rows) -> (usize, i64) {
        (rows.len(), rows.first().map_or(0, |row| row.get("orders")))
    }

    async fn invalidate(&self, _: i64, _: &'static str) -> Result<(), Failed> {
        self.cache.invalidate(["orders"]).await.acknowledged().map_err(Failed::of)
    }
}

/// The serde type that all others have, too.
pub struct LarderTyped {
    cache: QueryCache,
    report: Wrapped<(i64, &'static str), Vec<Line>>,
}

impl Peer for LarderTyped {
    const NAME: &'static str = "Larder, typed";
    const REMARK: &'static str =
        "an `Arc` of the same type as the others; JSON in Redis, by default";

    type Answer = Lines;

    async fn open(redis: &str, database: &Database) -> LarderTyped {
        let (cache, database) = (cache(redis).await, database.clone());
        let report = query(&cache).wrap(move |_, (id, region): (i64, &'static str)| {
            let database = database.clone();
            async move { database.load(id, region).await }
        });
        LarderTyped { cache, report }
    }

    async fn read(&self, id: i64, region: &'static str) -> Result<Arc<Vec<Line>>, Failed> {
        self.report.call((id, region)).await.map_err(Failed::of)
    }

    fn seen(lines: &Lines) -> (usize, i64) {
        seen(lines)
    }

    async fn invalidate(&self, _: i64, _: &'static str) -> Result<(), Failed> {
        self.cache.invalidate(["orders"]).await.acknowledged().map_err(Failed::of)
    }
}
