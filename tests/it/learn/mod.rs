//! What a query depends on is learned: is it all that it reads, and is what cannot be followed not
//! stored?

mod hostile;
#[cfg(feature = "redis")]
mod pooled;
mod serving;
mod sessions;
mod shapes;
mod verdicts;

use deadpool_postgres::Pool;
use larder::{Answer, Error, Origin, Query, QueryCache, Rows, Source};

use crate::servers::Database;
use crate::support::database;

/// A database with these objects, and a pool of it.
async fn with(sql: &str) -> (Database, Pool) {
    let database = database().await;
    database.connect().await.unwrap().batch_execute(sql).await.unwrap();
    let pool = database.pool(2);
    (database, pool)
}

async fn read(query: &Query, source: &impl Source) -> Answer<Rows> {
    query.fetch(source).answer().await.unwrap_or_else(|error| panic!("{query:?}: {error}"))
}

/// Where the result of a query comes from that was read just now.
async fn again(query: &Query, source: &impl Source) -> Origin {
    read(query, source).await;
    read(query, source).await.origin()
}

async fn write(cache: &QueryCache, pool: &Pool, sql: &str) {
    let written = cache.write(pool, async |tx| tx.batch_execute(sql).await.map_err(Error::from));
    written.await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}
