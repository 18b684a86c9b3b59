//! A second process, which finds in Redis what the first one put there.
//!
//! The example runs itself once more. The two share nothing but Redis, as two servers of one
//! service do. The second process holds a pool for PostgreSQL, as it must, and at the end proves
//! that it never opened a connection.

use std::io::{BufRead, Write, stdin, stdout};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use larder::Origin;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::cells::Cells;
use crate::measure::{ensure_from, median};
use crate::place::Place;
use crate::reports::{self, Report};

/// The hidden subcommand.
pub(crate) const NAME: &str = "second-process";

/// How many caches the second process builds. Each reads every report once.
pub(crate) const ROUNDS: usize = 25;

/// What the second process found for one report.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    /// How long the answer took.
    pub(crate) redis: Duration,
    pub(crate) cells: Cells,
}

/// Starts the second process and returns what it found, in the order of the reports.
///
/// # Errors
///
/// If it cannot be started, or says that something went wrong.
pub(crate) async fn run(place: &Place) -> Result<Vec<Found>> {
    let program = std::env::current_exe().context("cannot find this program to run it again")?;
    let mut process = Command::new(program)
        .arg(NAME)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the second process")?;

    // By a pipe and not by an argument: URLs hold passwords, and arguments are for all to see.
    let mut input = process.stdin.take().context("the second process has no input")?;
    input.write_all(serde_json::to_string(place)?.as_bytes()).await?;
    input.write_all(b"\n").await?;
    drop(input);

    let output = process.stdout.take().context("the second process has no output")?;
    let mut lines = BufReader::new(output).lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next_line().await? {
        found.push(serde_json::from_str(&line).context("the second process talks nonsense")?);
    }
    let status = process.wait().await?;
    ensure!(status.success(), "the second process failed (see above)");
    Ok(found)
}

/// What the second process does.
///
/// # Errors
///
/// If any answer does not come from Redis.
pub(crate) async fn main() -> Result<()> {
    let mut line = String::new();
    stdin().lock().read_line(&mut line)?;
    let place: Place = serde_json::from_str(&line).context("the first process talks nonsense")?;
    let pool = place.pool(1)?;
    let reports = reports::all();

    let mut times = vec![Vec::new(); reports.len()];
    let mut cells = vec![None; reports.len()];
    for round in 0..ROUNDS {
        // An answer from Redis is in memory from then on, so only the first read by each cache
        // counts. Every round begins with another report: whatever a new cache has to settle with
        // Redis at first then falls on each of them a few times, too few to move the median.
        let cache = place.cache().await?;
        for turn in 0..reports.len() {
            let number = (round + turn) % reports.len();
            let report: &Report = &reports[number];
            let query = cache.query(report.sql);
            let begun = Instant::now();
            let answer = report.params.ask(&query, &pool).await?;
            times[number].push(begun.elapsed());
            ensure_from(&answer, Origin::L2, report)?;
            let answered = Cells::cached(answer.value());
            let before = cells[number].get_or_insert_with(|| answered.clone());
            answered.ensure_equals(before, "Redis")?;
        }
    }
    ensure!(
        pool.status().size == 0,
        "the second process connected to PostgreSQL, though Redis had all answers"
    );

    let mut out = stdout().lock();
    for (times, cells) in times.into_iter().zip(cells) {
        let found = Found { redis: median(times)?, cells: cells.context("nothing was read")? };
        serde_json::to_writer(&mut out, &found)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
