//! Many caches of one namespace, as many processes would have them.
//!
//! All of them live in this process, so what a client needs of a processor is measured as if the whole
//! fleet ran on this machine. What Redis needs is the same.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::FutureExt;
use futures_util::future::try_join_all;
use larder::{Origin, QueryCache, QueryCacheBuilder};
use redis::cmd;

use crate::target::Target;

/// How many caches are built at once.
const TOGETHER: usize = 25;
/// How long anything may take that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The settings of a cache that serves from memory only while it is confirmed, so that a hit in memory
/// shows that it is.
pub(crate) fn settings(url: &str, namespace: &str) -> QueryCacheBuilder {
    QueryCache::builder()
        .namespace(namespace)
        .redis(url)
        .ttl(Duration::from_secs(3600))
        .disconnected_ttl(Duration::ZERO)
}

pub(crate) async fn build(
    builder: &QueryCacheBuilder,
    count: usize,
) -> anyhow::Result<Vec<QueryCache>> {
    let mut caches = vec![];
    while caches.len() < count {
        let some = (count - caches.len()).min(TOGETHER);
        caches.extend(try_join_all((0..some).map(|_| builder.clone().build())).await?);
    }
    Ok(caches)
}

/// Reads the one result that all caches share.
pub(crate) async fn read(cache: &QueryCache) -> Origin {
    let query = cache.query("SELECT 1").tag("shared");
    let read = query.load(|| async { Ok::<_, std::io::Error>(1_i32) });
    // The load does not fail, so nor does the read.
    read.answer().await.map_or(Origin::Loaded, |answer| answer.origin())
}

/// Whether memory serves the result. It does while the cache is confirmed.
pub(crate) fn is_confirmed(cache: &QueryCache) -> bool {
    read(cache).now_or_never() == Some(Origin::L1)
}

/// Reads until memory serves the result. Returns when it does.
pub(crate) async fn confirmed(cache: &QueryCache) -> anyhow::Result<Instant> {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if read(cache).await == Origin::L1 {
            return Ok(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bail!("a cache was not confirmed within {PATIENCE:?}")
}

pub(crate) async fn all_confirmed(caches: &[QueryCache]) -> anyhow::Result<Instant> {
    let all = try_join_all(caches.iter().map(confirmed)).await?;
    Ok(all.into_iter().max().unwrap_or_else(Instant::now))
}

/// Waits until all caches listen.
pub(crate) async fn all_listen(
    target: &Target,
    namespace: &str,
    count: usize,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut ask = cmd("PUBSUB");
    ask.arg("CHANNELS").arg(format!("larder:{namespace}:notices*"));
    while begin.elapsed() < PATIENCE {
        let channels: Vec<String> = target.ask(&ask).await?;
        if let Some(channel) = channels.first() {
            let (_, listening): (String, usize) =
                target.ask(cmd("PUBSUB").arg("NUMSUB").arg(channel)).await?;
            if listening >= count {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!("{count} caches did not listen within {PATIENCE:?}")
}

/// Ends all caches, so that the next line of a table is measured without them.
pub(crate) async fn end(caches: Vec<QueryCache>) -> anyhow::Result<()> {
    let all = caches.iter().map(QueryCache::shutdown);
    let ended = tokio::time::timeout(PATIENCE, futures_util::future::join_all(all)).await;
    ended.map(drop).context("end the caches")
}

/// Reads all caches again and again, as their users would, so that they are in use.
pub(crate) async fn keep_in_use(caches: &[QueryCache]) {
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    loop {
        ticks.tick().await;
        for cache in caches {
            is_confirmed(cache);
        }
    }
}
