//! Reads while other processes keep all processors busy. Redis answers, but late, and so does the
//! scheduler.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use larder::{Origin, QueryCache};

use crate::busy::Busy;
use crate::fleet;
use crate::measure::{Times, share, thousands, time};
use crate::table::Table;
use crate::target::Target;

#[derive(Args)]
pub(crate) struct Starved {
    /// How many processes keep the processors busy
    #[arg(long, value_delimiter = ',', default_value = "0,8")]
    loops: Vec<usize>,
    /// For how many seconds each is measured
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// How many milliseconds a task waits between two reads; with 0, the readers are as busy as the
    /// other processes
    #[arg(long, value_delimiter = ',', default_value = "1,0")]
    pause_ms: Vec<f64>,
    /// How many tasks read
    #[arg(long, default_value_t = 4)]
    tasks: usize,
    /// How many different results they read
    #[arg(long, default_value_t = 200)]
    results: usize,
}

impl Starved {
    pub(crate) async fn run(&self, target: &Target) -> anyhow::Result<Vec<Table>> {
        let mut table = Table::new([
            "busy processes",
            "pause between reads",
            "results are",
            "reads",
            "from there",
            "loads from PostgreSQL",
            "commands without an answer in time",
            "p50 / p99 of a read",
            "longest",
            "a thread that sleeps 1 ms is late by, p99 / longest",
        ]);
        for &loops in &self.loops {
            for &pause in &self.pause_ms {
                for is_in_memory in [true, false] {
                    let pause = Duration::from_secs_f64(pause / 1e3);
                    self.measure(target, &mut table, loops, pause, is_in_memory).await?;
                }
            }
        }
        Ok(vec![table])
    }

    async fn measure(
        &self,
        target: &Target,
        table: &mut Table,
        loops: usize,
        pause: Duration,
        is_in_memory: bool,
    ) -> anyhow::Result<()> {
        let namespace = target.namespace("starved");
        // As users have it: what is late is not confirmed, and then it is not served.
        let mut builder = fleet::settings(target.url(), &namespace);
        if !is_in_memory {
            builder = builder.memory_off();
        }
        let cache = builder.build().await?;
        let results = self.results.max(1);
        let expected = if is_in_memory { Origin::L1 } else { Origin::L2 };
        for number in 0..results {
            let begin = Instant::now();
            while read(&cache, number).await != expected && begin.elapsed() < fleet::PATIENCE {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let limit = Duration::from_secs_f64(self.seconds);
        let busy = Busy::start(loops, limit + fleet::PATIENCE)?;
        let (before, until) = (cache.stats(), Instant::now() + limit);
        let lateness = std::thread::spawn(move || lateness(until));
        let reading = join_all((0..self.tasks.max(1)).map(|task| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let (mut times, mut found, mut number) = (Times::default(), 0_u64, task * 31);
                while Instant::now() < until {
                    number += 1;
                    let begin = Instant::now();
                    found += u64::from(read(&cache, number % results).await == expected);
                    times.add(begin.elapsed());
                    if pause.is_zero() {
                        tokio::task::yield_now().await;
                    } else {
                        tokio::time::sleep(pause).await;
                    }
                }
                (times, found)
            })
        }));
        let (mut times, mut found) = (Times::default(), 0);
        for task in reading.await {
            let (some, of_them) = task?;
            times.append(some);
            found += of_them;
        }
        let after = cache.stats();
        drop(busy);
        // It has ended like the tasks.
        let late = lateness.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        table.line([
            loops.to_string(),
            if pause.is_zero() { "none".to_owned() } else { time(pause) },
            if is_in_memory { "in memory" } else { "in Redis" }.to_owned(),
            thousands(times.count()),
            share(found, times.count()),
            (after.loads - before.loads).to_string(),
            (after.l2_errors - before.l2_errors).to_string(),
            times.usual_and_rare(),
            time(times.max()),
            format!("{} / {}", time(late.percentile(0.99)), time(late.max())),
        ]);
        cache.shutdown().await;
        Ok(())
    }
}

/// How late the system wakes a thread: what no cache can do anything about.
fn lateness(until: Instant) -> Times {
    const PAUSE: Duration = Duration::from_millis(1);
    let mut times = Times::default();
    while Instant::now() < until {
        let begin = Instant::now();
        std::thread::sleep(PAUSE);
        times.add(begin.elapsed().saturating_sub(PAUSE));
    }
    times
}

async fn read(cache: &QueryCache, number: usize) -> Origin {
    let query = cache.query("SELECT text FROM t WHERE id = $1").tag("texts");
    let number = i32::try_from(number).unwrap_or(i32::MAX);
    let load = move || async move { Ok::<_, std::io::Error>(format!("the text of {number}")) };
    let answer = query.params((number,)).load(load).answer().await;
    answer.map_or(Origin::Loaded, |answer| answer.origin())
}
