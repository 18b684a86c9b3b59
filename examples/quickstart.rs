//! A report that PostgreSQL answers first and memory after that. Run the example twice: Redis then
//! has the result of the first process.
//!
//! ```sh
//! DATABASE_URL=postgres://localhost/shop REDIS_URL=redis://localhost cargo run --example quickstart
//! ```
//!
//! Without these variables it starts a private PostgreSQL and a private Redis.

use std::time::Instant;

use larder::{Origin, QueryCache, Rows};

mod support;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let servers = support::servers().await?;
    let cache =
        QueryCache::builder().namespace("quickstart").redis(&servers.redis_url).build().await?;

    let report = cache.query(
        "SELECT n % $1::int4 AS shelf, count(*) AS jars, avg(sqrt(n)) AS weight
         FROM generate_series(1, 1000000) AS n GROUP BY 1 ORDER BY 1",
    );
    for _ in 0..3 {
        let begin = Instant::now();
        let answer = report.bind(4_i32).fetch(&servers.pool).answer().await?;
        let (took, origin) = (begin.elapsed(), answer.origin());
        let rows: Rows = answer.into_value();
        println!("{} rows from {origin:?} in {took:.1?}", rows.len());
        if origin == Origin::L1 {
            for row in &rows {
                let (shelf, jars): (i32, i64) = (row.get("shelf"), row.get("jars"));
                println!("  shelf {shelf}: {jars} jars of {:.1}", row.get::<_, f64>("weight"));
            }
            break;
        }
    }
    Ok(())
}
