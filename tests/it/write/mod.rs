//! Does a transaction that is run by the cache make stale what it has written, and nothing else?

mod around;
mod commit;
mod doubt;
mod pooled;
mod relations;

use deadpool_postgres::Pool;
use larder::{Error, Origin, QueryCache, WriteSource};

use crate::servers::Database;
use crate::support::database;

/// A database with these objects, and a pool of it.
async fn with(sql: &str) -> (Database, Pool) {
    let database = database().await;
    database.connect().await.unwrap().batch_execute(sql).await.unwrap();
    let pool = database.pool(4);
    (database, pool)
}

/// What a transaction of these statements has written, as the cache sees it. "everything" if that is
/// not known.
async fn relations(cache: &QueryCache, source: &impl WriteSource, sql: &str) -> Vec<String> {
    let written = cache.write(source, async |tx| tx.batch_execute(sql).await.map_err(Error::from));
    let written = written.await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert!(written.invalidated().is_acknowledged());
    written.relations().map_or(vec!["everything".to_owned()], <[String]>::to_vec)
}

/// Where the result of a query comes from that reads this table.
async fn origin(cache: &QueryCache, table: &str) -> Origin {
    let query = cache.query(format!("SELECT '{table}'")).table(table);
    let load = query.load(async || Ok::<_, std::io::Error>(1_i64));
    load.answer().await.unwrap().origin()
}
