//! The same reports from PostgreSQL, through the cache, and out of it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use deadpool_postgres::{Client, Pool};
use larder::{Answer, Origin, QueryCache, Rows};
use tokio::time::sleep;

use crate::cells::Cells;
use crate::progress::Progress;
use crate::reports::Report;

/// An answer from memory takes less time than two looks at the clock are worth, so the clock is
/// read around a batch.
pub(crate) const BATCHES: usize = 200;
pub(crate) const BATCH: u32 = 100;

/// PostgreSQL plans a prepared query anew five times before it may settle on one plan for all
/// parameters, which is often the faster one. So the first run and these go untimed.
const SETTLING: usize = 4;

/// How many steps measuring so many reports reports to the progress bar.
pub(crate) fn steps(runs: usize, reports: usize) -> u64 {
    (reports * 2 * (1 + SETTLING + runs)) as u64
}

/// What was found out about one report in this process.
#[derive(Debug)]
pub(crate) struct Measured {
    /// PostgreSQL's own answer.
    pub(crate) cells: Cells,
    pub(crate) gist: String,
    /// A prepared query on an open connection, without any cache.
    pub(crate) postgres: Duration,
    /// The same through a cache that does not have the answer yet.
    pub(crate) miss: Duration,
    /// The same from the memory of this process.
    pub(crate) memory: Duration,
}

/// The two ways to PostgreSQL, of one connection each, so that neither is warmer than the other.
#[derive(Debug)]
pub(crate) struct Paths {
    /// For queries past the cache.
    pub(crate) client: Client,
    /// For the cache.
    pub(crate) pool: Pool,
}

/// Measures `report`, and leaves its answer in the cache.
///
/// # Errors
///
/// If a query fails, or the cache answers anything else than PostgreSQL or from elsewhere than
/// expected: a number measured then would be of something else.
pub(crate) async fn measure(
    cache: &QueryCache,
    paths: &Paths,
    report: &Report,
    runs: usize,
    progress: &Progress,
) -> Result<Measured> {
    let Paths { client, pool } = paths;
    let statement = client.prepare(report.sql).await?;
    let params = report.params.list();

    // The first run by either way brings pages into memory and prepares the statement. It gives
    // answers, not times.
    let cells = Cells::direct(&client.query(&statement, &params).await?);
    progress.advance(1);
    let query = cache.query(report.sql);
    let answer = report.params.ask(&query, pool).await?;
    let gist = (report.gist)(answer.value());
    stored(cache).await?;
    progress.advance(1);

    let (mut direct, mut misses) = (Vec::new(), Vec::new());
    for run in 0..SETTLING + runs {
        // By turns, so that whatever else this machine does meets both.
        let begun = Instant::now();
        let rows = client.query(&statement, &params).await?;
        direct.push(begun.elapsed());
        progress.advance(1);
        ensure!(
            Cells::direct(&rows) == cells,
            "PostgreSQL answers {} differently each time: is somebody writing to the tables?",
            report.name
        );

        // Another scope is another key, so neither tier has it.
        let another = cache.query(report.sql).scope(format!("run {run}"));
        let begun = Instant::now();
        let answer = report.params.ask(&another, pool).await?;
        misses.push(begun.elapsed());
        progress.advance(1);
        ensure_from(&answer, Origin::Loaded, report)?;
        Cells::cached(answer.value()).ensure_equals(&cells, "a miss")?;
        stored(cache).await?;
    }

    let mut batches = Vec::new();
    for _ in 0..BATCHES {
        let begun = Instant::now();
        for _ in 0..BATCH {
            let answer = report.params.ask(&query, pool).await?;
            ensure_from(black_box(&answer), Origin::L1, report)?;
        }
        batches.push(begun.elapsed() / BATCH);
    }
    let answer = report.params.ask(&query, pool).await?;
    Cells::cached(answer.value()).ensure_equals(&cells, "memory")?;

    Ok(Measured {
        cells,
        gist,
        postgres: median(direct.split_off(SETTLING))?,
        miss: median(misses.split_off(SETTLING))?,
        memory: median(batches)?,
    })
}

/// Waits until both tiers have what was loaded: the cache hands out an answer before it stores it.
async fn stored(cache: &QueryCache) -> Result<()> {
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        let stats = cache.stats();
        if stats.l2_writes == stats.loads {
            return Ok(());
        }
        ensure!(
            stats.l2_errors == 0 && Instant::now() < patience,
            "not stored in Redis: {stats:?}"
        );
        sleep(Duration::from_millis(1)).await;
    }
}

/// Fails unless the answer came from where the measurement says it did.
pub(crate) fn ensure_from(answer: &Answer<Rows>, origin: Origin, report: &Report) -> Result<()> {
    ensure!(
        answer.origin() == origin,
        "{} was answered from {:?} instead of {origin:?}: its time would mean nothing",
        report.name,
        answer.origin()
    );
    Ok(())
}

/// The value in the middle.
pub(crate) fn median(mut times: Vec<Duration>) -> Result<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied().context("nothing was measured")
}
