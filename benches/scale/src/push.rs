//! From the call of an invalidation until it is in force in all caches.

use std::time::Instant;

use anyhow::bail;
use clap::Args;

use crate::fleet::{self, PATIENCE};
use crate::measure::Times;
use crate::table::Table;
use crate::target::Target;

#[derive(Args)]
pub(crate) struct Push {
    /// How many caches
    #[arg(long, value_delimiter = ',', default_value = "1,8,50,200")]
    caches: Vec<usize>,
    /// How many invalidations
    #[arg(long, default_value_t = 200)]
    rounds: usize,
}

impl Push {
    pub(crate) async fn run(&self, target: &Target) -> anyhow::Result<Vec<Table>> {
        let mut table = Table::new([
            "caches",
            "from the call to the acknowledgement, p50 / p99",
            "from the call until it is in force in all, p50 / p99",
            "longest",
        ]);
        for &count in &self.caches {
            let namespace = target.namespace("push");
            let builder = fleet::settings(target.url(), &namespace);
            let caches = fleet::build(&builder, count).await?;
            fleet::all_listen(target, &namespace, count).await?;
            let (mut acknowledged, mut in_force) = (Times::default(), Times::default());
            for _ in 0..self.rounds {
                // Each has the result in memory, so a read that is not answered from there shows that
                // the invalidation has arrived.
                fleet::all_confirmed(&caches).await?;
                let begin = Instant::now();
                let cache = caches[0].clone();
                let call = tokio::spawn(async move {
                    let outcome = cache.invalidate(["shared"]).await;
                    (outcome.is_acknowledged(), begin.elapsed())
                });
                let mut waiting: Vec<_> = caches.iter().collect();
                while !waiting.is_empty() {
                    waiting.retain(|cache| fleet::is_confirmed(cache));
                    if begin.elapsed() > PATIENCE {
                        bail!("an invalidation did not arrive within {PATIENCE:?}");
                    }
                    tokio::task::yield_now().await;
                }
                in_force.add(begin.elapsed());
                let (is_acknowledged, took) = call.await?;
                if !is_acknowledged {
                    bail!("an invalidation was not acknowledged");
                }
                acknowledged.add(took);
            }
            table.line([
                count.to_string(),
                acknowledged.usual_and_rare(),
                in_force.usual_and_rare(),
                crate::measure::time(in_force.max()),
            ]);
            fleet::end(caches).await?;
        }
        Ok(vec![table])
    }
}
