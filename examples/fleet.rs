//! A fleet to observe with `larder stats` and `larder watch`: three caches that read four reports,
//! invalidate some of them now and then, and share one materialized view that is refreshed. It ends
//! with Ctrl-C, or after the number of seconds in its argument:
//!
//! ```text
//! cargo run --example fleet
//! ```

use std::time::Duration;

use larder::QueryCache;
use larder::refresh::{MaterializedView, Refresher};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

mod support;

/// Name and SQL of each report. PostgreSQL takes some time for each.
const REPORTS: [(&str, &str); 4] = [
    ("revenue by month", "SELECT $1::int8 AS region, pg_sleep(0.03)::text"),
    ("open orders", "SELECT $1::int8 AS region, pg_sleep(0.01)::text"),
    ("top customers", "SELECT $1::int8 AS region, pg_sleep(0.06)::text"),
    ("stock", "SELECT $1::int8 AS region, pg_sleep(0.02)::text"),
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).map(|text| text.parse()).transpose()?;
    let end = Duration::from_secs(seconds.unwrap_or(u64::MAX / 2));
    let servers = support::servers().await?;
    servers
        .pool
        .get()
        .await?
        .batch_execute(
            "CREATE MATERIALIZED VIEW IF NOT EXISTS larder_example_stock AS
               SELECT n AS shelf, n % 7 AS pieces FROM generate_series(1, 1000) AS n;
             CREATE UNIQUE INDEX IF NOT EXISTS larder_example_stock_key
               ON larder_example_stock (shelf)",
        )
        .await?;
    let mut fleet = vec![];
    for _ in 0..3 {
        let cache = QueryCache::builder()
            .namespace("fleet")
            .redis(&servers.redis_url)
            .ttl(Duration::from_secs(20))
            .publish_stats(Duration::from_secs(1));
        fleet.push(cache.build().await?);
    }
    let view = MaterializedView::new("larder_example_stock").every(Duration::from_secs(10));
    let refresher =
        Refresher::builder(servers.pool.clone()).cache(&fleet[0]).view(view).start().await?;

    println!("look at it with one of:\n");
    for command in ["watch", "stats --interval 2s"] {
        println!(
            "  cargo run --features cli -- {command} --namespace fleet --redis {}",
            servers.redis_url
        );
    }
    println!("\nCtrl-C ends it");

    let mut tasks = JoinSet::new();
    for (number, cache) in (0_i64..).zip(&fleet) {
        let (cache, pool) = (cache.clone(), servers.pool.clone());
        tasks.spawn(async move {
            let mut turns = interval(Duration::from_millis(2));
            for turn in 0_i64.. {
                turns.tick().await;
                // Low regions are read more often than high ones.
                let region = (turn * (turn + number)) % 97 % (1 + turn % 12);
                let (name, sql) = REPORTS[(turn % 7 % 4) as usize];
                let query = cache.query(sql).name(name).tag("orders").tag(format!("of {region}"));
                let read = query.bind(region).fetch(&pool);
                let _ = read.await.inspect_err(|error| eprintln!("{name}: {error}"));
                if turn % 100 == 99 {
                    cache.invalidate([format!("of {region}")]).await;
                }
            }
        });
    }
    tokio::select! {
        () = sleep(end) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tasks.shutdown().await;
    refresher.shutdown().await;
    for cache in fleet {
        cache.shutdown().await;
    }
    servers.pool.get().await?.batch_execute("DROP MATERIALIZED VIEW larder_example_stock").await?;
    Ok(())
}
