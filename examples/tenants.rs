//! Two tenants, row-level security and a pool of one connection: each tenant gets its own rows, although
//! somebody leaves a `SET` on the connection.

use larder::QueryCache;

mod support;

const SET_UP: &str = "
    DROP TABLE IF EXISTS larder_example_invoices;
    DROP ROLE IF EXISTS larder_example_app;
    CREATE ROLE larder_example_app;
    CREATE TABLE larder_example_invoices (tenant int, cents int8);
    INSERT INTO larder_example_invoices VALUES (7, 70), (7, 700), (8, 80);
    ALTER TABLE larder_example_invoices ENABLE ROW LEVEL SECURITY;
    CREATE POLICY of_the_tenant ON larder_example_invoices
        USING (tenant = nullif(current_setting('app.tenant', true), '')::int);
    GRANT SELECT ON larder_example_invoices TO larder_example_app";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let servers = support::servers().await?;
    servers.pool.get().await?.batch_execute(SET_UP).await?;
    let pool = servers.pool;
    pool.resize(1);
    let cache =
        QueryCache::builder().namespace("tenants").redis(&servers.redis_url).build().await?;

    // Made once. No policy holds for the owner of a table, so the query runs as another role.
    let invoices = cache
        .query(
            "SELECT count(*) AS invoices, sum(cents)::int8 AS cents FROM larder_example_invoices",
        )
        .as_role("larder_example_app")
        .tag("invoices");

    // Somebody else's mistake, on the connection that all loads will use.
    pool.get().await?.batch_execute("SET app.tenant = '8'").await?;

    for tenant in ["7", "8", "7", "8", "9"] {
        let read = invoices.params(()).with_setting("app.tenant", tenant).fetch(&pool);
        let answer = read.answer().await?;
        let row = answer.value().row(0);
        let (count, cents): (i64, Option<i64>) = (row.get("invoices"), row.get("cents"));
        let cents = cents.unwrap_or(0);
        println!("tenant {tenant}: {count} invoices, {cents} cents   from {:?}", answer.origin());
    }

    cache.shutdown().await;
    let tidy = "DROP TABLE larder_example_invoices; DROP ROLE larder_example_app";
    pool.get().await?.batch_execute(tidy).await?;
    Ok(())
}
