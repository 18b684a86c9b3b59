//! A thousand tasks read the same report at once, and PostgreSQL runs it once.

use std::time::Instant;

use larder::{Origin, QueryCache};
use tokio::task::JoinSet;

mod support;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let servers = support::servers().await?;
    let cache =
        QueryCache::builder().namespace("stampede").redis(&servers.redis_url).build().await?;
    let report = cache.query("SELECT pg_sleep(0.5)::text, clock_timestamp()::text AS run_at");

    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..1000 {
        let (report, pool) = (report.clone(), servers.pool.clone());
        tasks.spawn(async move {
            let answer = report.fetch(&pool).answer().await?;
            Ok::<_, larder::Error>((answer.origin(), answer.into_value()))
        });
    }
    let mut runs = std::collections::BTreeSet::new();
    let mut loaded = 0;
    while let Some(task) = tasks.join_next().await {
        let (origin, rows) = task??;
        loaded += u32::from(origin == Origin::Loaded);
        runs.insert(rows.row(0).get::<_, String>("run_at"));
    }
    println!("1,000 answers in {:.0?}: {loaded} loaded, the others waited for it", begin.elapsed());
    println!("times at which PostgreSQL ran the report: {runs:?}");
    Ok(())
}
