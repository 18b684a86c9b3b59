//! Fresh caches that fetch a directory with many used slots, beside caches that are in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clap::Args;
use futures_util::future::{join_all, try_join_all};
use larder::QueryCache;
use redis::cmd;
use tokio::task::JoinHandle;

use crate::fleet::{self, PATIENCE};
use crate::measure::{Times, share, thousands, time};
use crate::table::Table;
use crate::target::Target;

#[derive(Args)]
pub(crate) struct Resync {
    /// How many slots of the directory are used; 65,536 are all
    #[arg(long, value_delimiter = ',', default_value = "0,10000,40000,65536")]
    cells: Vec<u64>,
    /// How many caches are built at once
    #[arg(long, default_value_t = 8)]
    fresh: usize,
    /// How many caches are in use all the time
    #[arg(long, default_value_t = 20)]
    old: usize,
    /// For how many seconds all of them are watched
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

/// How many tags one call invalidates while the directory is filled.
const TAGS: usize = 500;
/// Some 730,000 tags use all slots.
const MOST_TAGS: usize = 3_000_000;

impl Resync {
    pub(crate) async fn run(&self, target: &Target) -> anyhow::Result<Vec<Table>> {
        let mut table = Table::new([
            "used slots",
            "fresh caches",
            "all of them confirmed after",
            "not confirmed in time",
            "old caches",
            "confirmed, of all samples",
            "`PING` of a bystander, p99 / longest",
            "epochs begun",
        ]);
        for &cells in &self.cells {
            let namespace = target.namespace("resync");
            let builder = fleet::settings(target.url(), &namespace);
            // They hear of each slot as it is used, and fetch nothing afterwards.
            let old = fleet::build(&builder, self.old).await?;
            fleet::all_confirmed(&old).await?;
            let used = fill(target, &namespace, cells).await?;
            fleet::all_confirmed(&old).await?;
            let epochs = || old.iter().map(|cache| cache.stats().epochs).sum::<u64>();
            let before = epochs();

            let over = Arc::new(AtomicBool::new(false));
            let sampled = sample(old.clone(), over.clone());
            let pinged = ping(target, over.clone()).await?;
            let begin = Instant::now();
            let limit = Duration::from_secs_f64(self.seconds);
            let fresh = try_join_all((0..self.fresh).map(|_| builder.clone().build())).await?;
            let confirming = join_all(fresh.iter().map(|cache| {
                let rest = limit.saturating_sub(begin.elapsed());
                tokio::time::timeout(rest, fleet::confirmed(cache))
            }));
            let confirmed: Vec<Instant> =
                confirming.await.into_iter().filter_map(|it| it.ok()?.ok()).collect();
            tokio::select! {
                () = fleet::keep_in_use(&fresh) => unreachable!("it does not end"),
                () = tokio::time::sleep(limit.saturating_sub(begin.elapsed())) => {}
            }
            over.store(true, Ordering::Relaxed);
            let ((good, all), pings) = (sampled.await?, pinged.await??);
            let last = confirmed.iter().max().map(|last| time(*last - begin));
            let missing = self.fresh - confirmed.len();
            table.line([
                thousands(used),
                self.fresh.to_string(),
                match (last, missing) {
                    (Some(last), 0) => last,
                    _ => format!("not within {}", time(limit)),
                },
                missing.to_string(),
                self.old.to_string(),
                share(good, all),
                format!("{} / {}", time(pings.percentile(0.99)), time(pings.max())),
                (epochs() - before).to_string(),
            ]);
            fleet::end(fresh).await?;
            fleet::end(old).await?;
        }
        Ok(vec![table])
    }
}

/// Invalidates tags until so many slots of the directory are used. Returns how many are.
async fn fill(target: &Target, namespace: &str, cells: u64) -> anyhow::Result<u64> {
    ensure!(cells <= 65_536, "a directory has 65,536 slots");
    // The marks are no slots.
    let used = async || {
        let mut count = cmd("ZCOUNT");
        count.arg(format!("larder:{namespace}:directory")).arg("(0").arg("+inf");
        target.ask::<u64>(&count).await
    };
    let filler = fleet::settings(target.url(), namespace);
    let filler = filler.redis_timeout(Duration::from_secs(5)).build().await?;
    let (mut tag, mut have) = (0, used().await?);
    while have < cells {
        // Fewer at the end, so that there are not many more than were asked for.
        let next = TAGS.min(usize::try_from(cells - have)?.max(1));
        let next = if have + 1_000 > 65_536 { TAGS } else { next };
        let tags = (tag..tag + next).map(|tag| format!("tag:{tag}"));
        filler.invalidate(tags).await.acknowledged()?;
        (tag, have) = (tag + next, used().await?);
        ensure!(tag < MOST_TAGS, "{tag} tags use no more than {have} slots");
    }
    filler.shutdown().await;
    Ok(have)
}

/// Asks each cache every few milliseconds whether it is confirmed. Ends with how often one was, and
/// how often it was asked.
fn sample(caches: Vec<QueryCache>, over: Arc<AtomicBool>) -> JoinHandle<(u64, u64)> {
    tokio::spawn(async move {
        let (mut good, mut all) = (0, 0);
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while !over.load(Ordering::Relaxed) {
            ticks.tick().await;
            for cache in &caches {
                good += u64::from(fleet::is_confirmed(cache));
                all += 1;
            }
        }
        (good, all)
    })
}

/// Sends `PING` every millisecond on a connection of its own.
async fn ping(
    target: &Target,
    over: Arc<AtomicBool>,
) -> anyhow::Result<JoinHandle<anyhow::Result<Times>>> {
    let mut connection = target.connect().await?;
    Ok(tokio::spawn(async move {
        let mut times = Times::default();
        while !over.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let command = cmd("PING");
            let pong = command.query_async::<String>(&mut connection);
            match tokio::time::timeout(PATIENCE, pong).await {
                Ok(pong) => drop(pong?),
                Err(_) => bail!("no answer to PING within {PATIENCE:?}"),
            }
            times.add(begin.elapsed());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(times)
    }))
}
