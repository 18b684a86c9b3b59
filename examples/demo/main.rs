//! What Larder does for reports over a real database.
//!
//! Loads TPC-H into PostgreSQL, runs nine reports, and shows how long each takes from PostgreSQL
//! itself, through a cache that misses, from Redis in another process, and from memory. Then it has a
//! materialized view refreshed while orders come in, and holds every answer against what the view
//! held:
//!
//! ```text
//! scripts/demo --scale 0.1
//! ```
//!
//! Without `DATABASE_URL` and `REDIS_URL` it starts servers of its own and leaves nothing behind.
//!
//! Where to look first: `reports.rs` has the queries, `measure.rs` asks them through the cache;
//! `diagnosis.rs` and `matview.rs` are about the view.

mod cells;
mod diagnosis;
mod format;
mod history;
mod load;
mod matview;
mod measure;
mod params;
mod place;
mod print;
mod progress;
mod reports;
mod rows;
mod schema;
mod second;
mod wire;

use std::env;
use std::io::{Write, stdout};
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::{Context, Error, Result, ensure};
use clap::Parser;
use larder::QueryCache;

use crate::measure::Paths;
use crate::place::{Place, Servers};
use crate::print::{Line, Setting};
use crate::progress::Progress;

/// How many connections may load at once. More than PostgreSQL has cores to serve gain nothing.
const MOST_CONNECTIONS: usize = 4;

/// Shows what Larder, a query-result cache for PostgreSQL, does for TPC-H reports
/// and for a materialized view over TPC-H's orders.
///
/// DATABASE_URL and REDIS_URL name your own servers; the data then goes into a
/// schema of its own, and nothing else is touched. Without them, private
/// servers are started for this run, and nothing is left of them.
#[derive(Debug, Parser)]
#[command(verbatim_doc_comment)]
struct Options {
    /// Size of the data: 1 is TPC-H's smallest official size, 8.7 million rows
    #[arg(long, value_name = "FACTOR", default_value = "0.1", value_parser = scale)]
    scale: f64,
    /// How often each report is run by PostgreSQL, without the cache and through it
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// The schema to create in PostgreSQL
    #[arg(long, default_value = "larder_demo", value_parser = schema_name)]
    schema: String,
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(scale) if (0.001..=10.0).contains(&scale) => Ok(scale),
        _ => Err("a number from 0.001 to 10 is needed".to_owned()),
    }
}

/// A name that means the same to PostgreSQL with quotes and without.
fn schema_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let fits = text.starts_with(|c: char| c.is_ascii_lowercase()) && text.len() <= 63;
    if !fits || !text.chars().all(plain) || text.starts_with("pg_") {
        return Err("lower-case letters, digits and underscores, and not pg_".to_owned());
    }
    Ok(text.to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    // The servers are dropped, and so ended, with the future that owns them: also when Ctrl-C wins.
    let outcome = tokio::select! {
        outcome = run() => outcome,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("\ninterrupted");
            return ExitCode::from(130);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes in one line. Many errors repeat their cause; this does not.
fn chain(error: &Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

async fn run() -> Result<()> {
    if env::args_os().nth(1).is_some_and(|argument| argument == second::NAME) {
        return second::main().await;
    }
    tour(&Options::parse()).await
}

fn say(text: &str) {
    // `println!` would panic if whoever reads this had seen enough.
    let _ = stdout().lock().write_all(text.as_bytes());
}

async fn tour(options: &Options) -> Result<()> {
    let (servers, place) = Servers::find(&options.schema, options.scale).await?;
    let connections = available_parallelism().map_or(1, usize::from).min(MOST_CONNECTIONS);
    let pool = place.pool(connections)?;
    let postgres_version = place.postgres_version(&pool).await?;
    let redis_version = place.redis_version().await?;
    let loaded = load::load(&pool, &options.schema, options.scale, connections).await?;

    let cache = place.cache().await?;
    let paths = Paths { client: pool.get().await?, pool: place.pool(1)? };
    let runs = usize::from(options.runs);
    let reports = reports::all();
    let progress = Progress::steps("running the reports", measure::steps(runs, reports.len()));
    let mut here = Vec::new();
    for report in &reports {
        let measured = measure::measure(&cache, &paths, report, runs, &progress)
            .await
            .with_context(|| format!("cannot measure {}", report.name))?;
        here.push(measured);
    }
    let there = second::run(&place).await?;
    progress.end();
    ensure!(there.len() == here.len(), "the second process left reports out");

    let lines = reports
        .into_iter()
        .zip(here)
        .zip(there)
        .map(|((report, here), there)| {
            let tier = format!("Redis, asked for {},", report.name);
            there.cells.ensure_equals(&here.cells, &tier)?;
            Ok(Line { report, here, there })
        })
        .collect::<Result<Vec<Line>>>()?;
    let setting = Setting {
        scale: options.scale,
        runs,
        servers: &servers,
        postgres_version,
        redis_version,
        loaded,
    };
    say(&print::text(&setting, &lines));
    let viewed = view(&place, &cache).await;
    matview::clean(&pool).await?;
    viewed?;
    say(&servers.leftovers(&place));
    Ok(())
}

/// The part about a materialized view.
async fn view(place: &Place, cache: &QueryCache) -> Result<()> {
    say(&print::diagnosis(&diagnosis::diagnose(place).await?));
    say(&print::watched(&matview::watch(place, cache).await?));
    Ok(())
}
