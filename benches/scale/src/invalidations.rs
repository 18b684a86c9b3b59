//! Invalidations by several callers of one cache, while the other caches listen.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;

use crate::fleet;
use crate::measure::{FLEETS, Times, micros, micros_each, on_line, rate, thousands};
use crate::table::Table;
use crate::target::Target;

#[derive(Args)]
pub(crate) struct Invalidations {
    /// How many caches; one of them invalidates
    #[arg(long, value_delimiter = ',', default_value = "1,50,200")]
    caches: Vec<usize>,
    /// How many callers invalidate at once, without a pause
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    callers: Vec<usize>,
    /// How many different tags they invalidate, one each time
    #[arg(long, default_value_t = 1_000)]
    tags: usize,
    /// For how many seconds each is measured
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

impl Invalidations {
    pub(crate) async fn run(&self, target: &Target) -> anyhow::Result<Vec<Table>> {
        let mut table = Table::new([
            "caches",
            "callers",
            "acknowledged/s",
            "p50 / p99",
            "Redis, each",
            "messages published, each",
            "not acknowledged",
        ]);
        let mut computed = Table::new([
            "processes (computed)",
            "callers",
            "Redis, each invalidation",
            "invalidations/s that one Redis can do",
        ]);
        // What each costs, by the number of callers and of caches.
        let mut costs: BTreeMap<usize, Vec<(f64, f64)>> = BTreeMap::new();
        for &count in &self.caches {
            let namespace = target.namespace("invalidations");
            let builder = fleet::settings(target.url(), &namespace);
            let caches = fleet::build(&builder, count).await?;
            fleet::all_confirmed(&caches).await?;
            fleet::all_listen(target, &namespace, count).await?;
            for &callers in &self.callers {
                let before = target.info().await?;
                let begin = Instant::now();
                let until = begin + Duration::from_secs_f64(self.seconds);
                let called = join_all((0..callers).map(|caller| {
                    let (cache, tags) = (caches[0].clone(), self.tags.max(1));
                    tokio::spawn(async move {
                        let (mut times, mut failed) = (Times::default(), 0);
                        let mut number = caller * 7_919;
                        while Instant::now() < until {
                            let called = Instant::now();
                            number += 1;
                            let tag = format!("tag:{}", number % tags);
                            if cache.invalidate([tag]).await.is_acknowledged() {
                                times.add(called.elapsed());
                            } else {
                                failed += 1;
                            }
                        }
                        (times, failed)
                    })
                }))
                .await;
                let elapsed = begin.elapsed();
                let (mut times, mut failed) = (Times::default(), 0_u64);
                for caller in called {
                    let (some, without) = caller?;
                    times.append(some);
                    failed += without;
                }
                let after = target.info().await?;
                let processor = after.processor().saturating_sub(before.processor());
                let published = after.calls(&["publish"]) - before.calls(&["publish"]);
                let each = micros_each(processor, times.count());
                costs.entry(callers).or_default().push((count as f64, each));
                table.line([
                    count.to_string(),
                    callers.to_string(),
                    rate(times.count(), elapsed),
                    times.usual_and_rare(),
                    micros(each),
                    format!("{:.2}", published as f64 / times.count().max(1) as f64),
                    failed.to_string(),
                ]);
            }
            fleet::end(caches).await?;
        }
        for (callers, costs) in costs {
            let (Some(&few), Some(&many)) = (costs.first(), costs.last()) else { continue };
            for processes in FLEETS {
                let each = on_line(few, many, processes as f64);
                let possible = (1e6 / each) as u64;
                computed.line([
                    thousands(processes),
                    callers.to_string(),
                    micros(each),
                    thousands(possible),
                ]);
            }
        }
        Ok(vec![table, computed])
    }
}
