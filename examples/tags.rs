//! Two caches, as in two processes of a service: an invalidation in one makes the results in both
//! stale.

use larder::QueryCache;

mod support;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let servers = support::servers().await?;
    let client = servers.pool.get().await?;
    let table = "CREATE TABLE IF NOT EXISTS larder_example_orders (amount int8 NOT NULL)";
    client.batch_execute(table).await?;
    let build = || QueryCache::builder().namespace("tags").redis(&servers.redis_url).build();
    let (one, other) = (build().await?, build().await?);

    let sql = "SELECT count(*) AS orders, sum(amount)::int8 AS total FROM larder_example_orders";
    let here = one.query(sql).tag("orders");
    let there = other.query(sql).tag("orders");

    for round in 1..=3 {
        client.execute("INSERT INTO larder_example_orders VALUES (100)", &[]).await?;
        // Invalidate after the insert has committed.
        one.invalidate(["orders"]).await;

        println!("order {round} is in");
        for (name, query) in [("one", &here), ("other", &there), ("one", &here), ("other", &there)]
        {
            let answer = query.fetch(&servers.pool).answer().await?;
            let row = answer.value().row(0);
            let (orders, total): (i64, i64) = (row.get("orders"), row.get("total"));
            println!("  {name:5} {orders} orders, {total} in all   from {:?}", answer.origin());
        }
    }
    client.batch_execute("DROP TABLE larder_example_orders").await?;
    one.shutdown().await;
    other.shutdown().await;
    Ok(())
}
