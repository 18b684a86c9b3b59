//! A reader follows what somebody writes who knows of no cache.

use larder::{Follow, QueryCache};
use tokio_postgres::NoTls;

mod support;

const SCHEMA: &str = "
    DROP TABLE IF EXISTS larder_example_orders, larder_example_staff;
    CREATE TABLE larder_example_orders (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount int8);
    CREATE TABLE larder_example_staff (name text);";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let servers = support::servers_with(&["wal_level=logical"]).await?;
    let pool = servers.pool;
    pool.get().await?.batch_execute(SCHEMA).await?;
    let cache = QueryCache::builder()
        .namespace("follow")
        .redis(&servers.redis_url)
        .follow(Follow::new(servers.config, NoTls))
        .build()
        .await?;

    // Not one tag: what they read is learned from PostgreSQL.
    let orders = cache.query("SELECT count(*) FROM larder_example_orders").auto();
    let staff = cache.query("SELECT count(*) FROM larder_example_staff").auto();

    // It could be psql, another service or a cron job.
    let writer = pool.get().await?;
    for sql in [
        "SELECT 1",
        "INSERT INTO larder_example_orders (amount) SELECT generate_series(1, 3)",
        "TRUNCATE larder_example_orders",
    ] {
        writer.batch_execute(sql).await?;
        // Only so that this program prints the same each time: it takes milliseconds.
        cache.caught_up().await?;
        println!("{sql}");
        for (name, query) in [("orders", &orders), ("staff", &staff), ("orders", &orders)] {
            let answer = query.fetch(&pool).answer().await?;
            let count: i64 = answer.value().row(0).get(0);
            println!("  {name:6} {count}   from {:?}", answer.origin());
        }
    }
    println!("{:?}", cache.follow_stats().map(|stats| stats.role));
    writer.batch_execute("DROP TABLE larder_example_orders, larder_example_staff").await?;
    cache.shutdown().await;
    Ok(())
}
