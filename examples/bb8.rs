//! Rows from a pool that Larder does not know: bb8's, or any other of `tokio_postgres` clients.
//!
//! The function of `load_rows` receives the SQL and the parameters, and runs them on a client of its
//! own. Two things are lost, compared with `fetch` from a pool of deadpool: a load past its deadline is
//! not cancelled in PostgreSQL, and a role or settings are set by the function, if at all.

use bb8_postgres::PostgresConnectionManager;
use bb8_postgres::bb8::Pool;
use larder::{Query, QueryCache, Rows};
use tokio_postgres::NoTls;

mod support;

type Clients = Pool<PostgresConnectionManager<NoTls>>;

/// The rows of a shelf: from memory, from Redis, or from PostgreSQL through `pool`.
async fn jars_of(query: &Query, pool: &Clients, shelf: i32) -> Result<Rows, larder::Error> {
    let pool = pool.clone();
    let read = query.bind(shelf).load_rows(move |sql, params| async move {
        let client = pool.get().await?;
        let rows = Rows::query(&*client, &sql, &params.as_refs()).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(rows)
    });
    read.await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let servers = support::servers().await?;
    let manager = PostgresConnectionManager::new(servers.config, NoTls);
    let pool: Clients = Pool::builder().max_size(4).build(manager).await?;
    let cache = QueryCache::builder().namespace("bb8").redis(&servers.redis_url).build().await?;

    let jars = cache
        .query("SELECT n, sqrt(n) AS weight FROM generate_series(1, 20) AS n WHERE n % 4 = $1")
        .name("jars of a shelf");
    for shelf in [1, 1, 2] {
        let rows = jars_of(&jars, &pool, shelf).await?;
        println!("shelf {shelf}: {} jars", rows.len());
    }
    println!("{} loads", cache.stats().loads);
    Ok(())
}
