//! A materialized view that is refreshed every two seconds while sales are inserted. For each sale
//! it prints what a reader sees, the origin of the answer, and the status of the view.

use std::time::{Duration, SystemTime};

use larder::QueryCache;
use larder::refresh::{MaterializedView, RefreshHook, Refresher};
use tokio::time::interval;

mod support;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS larder_example_sales (shelf text NOT NULL);
    CREATE MATERIALIZED VIEW IF NOT EXISTS larder_example_totals AS
      SELECT shelf, count(*) AS sold FROM larder_example_sales GROUP BY shelf;
    CREATE UNIQUE INDEX IF NOT EXISTS larder_example_totals_key ON larder_example_totals (shelf)";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let servers = support::servers().await?;
    let client = servers.pool.get().await?;
    client.batch_execute(SCHEMA).await?;
    let cache = QueryCache::builder().namespace("matview").redis(&servers.redis_url);
    let cache = cache.build().await?;

    let view = MaterializedView::new("larder_example_totals").every(Duration::from_secs(2));
    let sql = "SELECT coalesce(sum(sold), 0)::int8 AS sold FROM larder_example_totals
               WHERE shelf = $1";
    let sold = cache.query(sql).reads(&view);
    let refresher = Refresher::builder(servers.pool.clone())
        .cache(&cache)
        .view(view)
        .after_refresh(RefreshHook::new("print", async |event| {
            println!("{}", event.report().expect("there is one after a refresh"));
            Ok(())
        }))
        .start()
        .await?;
    println!("check: {}", refresher.check().await?);

    let mut turns = interval(Duration::from_millis(300));
    for number in 1..=20 {
        turns.tick().await;
        client.execute("INSERT INTO larder_example_sales VALUES ('jam')", &[]).await?;
        let answer = sold.bind("jam").fetch(&servers.pool).answer().await?;
        let seen: i64 = answer.value().row(0).get("sold");
        let status = &refresher.status()[0];
        let next = status.next().and_then(|next| next.duration_since(SystemTime::now()).ok());
        println!(
            "  sale {number:2}; read {seen:2} from {:9} view {}, {} refreshes, next in {:.1?}",
            format!("{:?};", answer.origin()),
            status.activity(),
            status.refreshes(),
            next.unwrap_or_default()
        );
    }

    refresher.shutdown().await;
    println!("{}", refresher.status()[0]);
    let tables = "DROP MATERIALIZED VIEW larder_example_totals; DROP TABLE larder_example_sales";
    client.batch_execute(tables).await?;
    cache.shutdown().await;
    Ok(())
}
