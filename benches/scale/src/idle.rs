//! Caches that are in use, and of which none invalidates anything: what beats cost.

use std::time::{Duration, Instant};

use clap::Args;

use crate::fleet;
use crate::measure::{FLEETS, busy, load, micros, rate, share, thousands};
use crate::table::Table;
use crate::target::Target;

#[derive(Args)]
pub(crate) struct Idle {
    /// How many caches
    #[arg(long, value_delimiter = ',', default_value = "1,8,50,200")]
    caches: Vec<usize>,
    /// Their `max_staleness`, in seconds
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    max_staleness: Vec<f64>,
    /// For how many seconds each is measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

impl Idle {
    pub(crate) async fn run(&self, target: &Target) -> anyhow::Result<Vec<Table>> {
        let mut table = Table::new([
            "`max_staleness`",
            "caches",
            "beats/s",
            "Redis busy",
            "Redis, each cache and second, without that of no caches",
            "reads served from memory",
        ]);
        let mut computed =
            Table::new(["processes (computed)", "`max_staleness`", "Redis busy with their beats"]);
        let mut nothing = None;
        for &staleness in &self.max_staleness {
            let mut of_each = 0.0;
            // No caches first: a server is not idle without clients either.
            let none = nothing.is_none().then_some(0);
            for count in none.into_iter().chain(self.caches.iter().copied()) {
                let namespace = target.namespace("idle");
                let builder = fleet::settings(target.url(), &namespace)
                    .max_staleness(Duration::from_secs_f64(staleness));
                let caches = fleet::build(&builder, count).await?;
                fleet::all_confirmed(&caches).await?;
                let reads = || {
                    caches.iter().map(larder::QueryCache::stats).fold((0, 0), |(hits, all), it| {
                        let others = it.l2_hits + it.reads_loaded + it.coalesced;
                        (hits + it.l1_hits, all + it.l1_hits + others)
                    })
                };
                // A second to begin with, in which the beats of the start end.
                let settle = Duration::from_secs_f64(self.seconds.min(1.0));
                let measured = async {
                    tokio::time::sleep(settle).await;
                    let (begin, before, first) = (Instant::now(), target.info().await?, reads());
                    tokio::time::sleep(Duration::from_secs_f64(self.seconds)).await;
                    let (elapsed, after) = (begin.elapsed(), target.info().await?);
                    anyhow::Ok((elapsed, before, after, first, reads()))
                };
                let (elapsed, before, after, first, last) = tokio::select! {
                    measured = measured => measured?,
                    () = fleet::keep_in_use(&caches) => unreachable!("it does not end"),
                };
                let scripts = ["evalsha", "eval"];
                let processor = after.processor().saturating_sub(before.processor());
                let a_second = processor.as_secs_f64() / elapsed.as_secs_f64();
                let base = *nothing.get_or_insert(a_second);
                of_each = (a_second - base).max(0.0) / count.max(1) as f64;
                table.line([
                    format!("{staleness} s"),
                    count.to_string(),
                    rate(after.calls(&scripts) - before.calls(&scripts), elapsed),
                    busy(processor, elapsed),
                    micros(of_each * 1e6),
                    share(last.0 - first.0, last.1 - first.1),
                ]);
                fleet::end(caches).await?;
            }
            // From the largest fleet that was measured, which is the last.
            for processes in FLEETS {
                let all = of_each * processes as f64;
                computed.line([thousands(processes), format!("{staleness} s"), load(all)]);
            }
        }
        Ok(vec![table, computed])
    }
}
