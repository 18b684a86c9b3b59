//! What a fleet of Larder's caches costs one Redis, and what the fleet gets from it.
//!
//! ```sh
//! cargo run --release -p larder-scale -- idle
//! cargo run --release -p larder-scale -- --redis redis://cache.internal:6379 reads --tasks 64
//! cargo run --release -p larder-scale -- all --into docs/scale.md
//! ```
//!
//! Each mode prints a table as Markdown, with the command that prints it again, the version of Redis
//! and the number of processors. `docs/scale.md` says what the tables mean. Without `--redis` a private
//! server is started. On one that is given, nothing is left behind; what others do there meanwhile is
//! measured as well.

mod busy;
mod fleet;
mod idle;
mod invalidations;
mod measure;
mod page;
mod push;
mod reads;
mod reconnect;
mod resync;
mod starved;
mod table;
mod target;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::table::Table;
use crate::target::Target;

/// What a fleet of Larder's caches costs one Redis
#[derive(Parser)]
#[command(name = "larder-scale", version)]
struct Arguments {
    /// The Redis to measure; a private one is started if none is given
    #[arg(long, global = true, value_name = "URL")]
    redis: Option<String>,

    /// Also put the figures into this page, in place of those that stand there
    #[arg(long, global = true, value_name = "PAGE")]
    into: Option<PathBuf>,

    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Caches that are in use and invalidate nothing: beats
    Idle(idle::Idle),
    /// Invalidations by several callers of one cache, while other caches listen
    Invalidations(invalidations::Invalidations),
    /// From the call of an invalidation until it is in force in all caches
    Push(push::Push),
    /// Reads from Redis beside GET by hand
    Reads(reads::Reads),
    /// Fresh caches that fetch a directory with many used slots, beside caches in use
    Resync(resync::Resync),
    /// A Redis that is killed and comes back with its data
    Reconnect(reconnect::Reconnect),
    /// Reads while other processes keep all processors busy
    Starved(starved::Starved),
    /// All of these, with their default sizes
    All,
    /// Keeps one processor busy
    #[command(hide = true)]
    Spin { seconds: u64 },
}

impl Mode {
    fn name(&self) -> &'static str {
        match self {
            Mode::Idle(_) => "idle",
            Mode::Invalidations(_) => "invalidations",
            Mode::Push(_) => "push",
            Mode::Reads(_) => "reads",
            Mode::Resync(_) => "resync",
            Mode::Reconnect(_) => "reconnect",
            Mode::Starved(_) => "starved",
            Mode::All => "all",
            Mode::Spin { .. } => "spin",
        }
    }
}

/// The modes of `all`, in the order of the page.
const MODES: [&str; 7] =
    ["idle", "invalidations", "push", "reads", "resync", "reconnect", "starved"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match &arguments.mode {
        Mode::Spin { seconds } => busy::spin(Duration::from_secs(*seconds)),
        Mode::All => {
            for mode in MODES {
                let one = Arguments::parse_from(["larder-scale", mode]);
                run(mode, &one.mode, &arguments, &[mode.to_owned()]).await?;
            }
        }
        mode => {
            let words: Vec<String> = shown(std::env::args().skip(1));
            run(mode.name(), mode, &arguments, &words).await?;
        }
    }
    Ok(())
}

async fn run(
    name: &str,
    mode: &Mode,
    arguments: &Arguments,
    words: &[String],
) -> anyhow::Result<()> {
    let target = Target::open(arguments.redis.as_deref()).await?;
    let mut text = target.head(words).await?;
    let measured: anyhow::Result<Vec<Table>> = match mode {
        Mode::Idle(mode) => mode.run(&target).await,
        Mode::Invalidations(mode) => mode.run(&target).await,
        Mode::Push(mode) => mode.run(&target).await,
        Mode::Reads(mode) => mode.run(&target).await,
        Mode::Resync(mode) => mode.run(&target).await,
        Mode::Reconnect(mode) => mode.run(&target).await,
        Mode::Starved(mode) => mode.run(&target).await,
        Mode::All | Mode::Spin { .. } => Ok(vec![]),
    };
    // Also after a failure: a Redis that was given belongs to somebody.
    let cleaned = target.clean().await;
    for table in measured.with_context(|| format!("measure {}", words.join(" ")))? {
        write!(text, "\n\n{table}")?;
    }
    println!("{text}\n");
    if let Some(page) = &arguments.into {
        page::put(page, name, &text)?;
    }
    cleaned
}

/// The arguments as they are printed: without the URL, which may have a password, and without the page.
fn shown(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let (mut words, mut arguments) = (vec![], arguments);
    while let Some(word) = arguments.next() {
        match word.split_once('=').map_or(&*word, |(name, _)| name) {
            "--redis" => words.extend(["--redis".to_owned(), "URL".to_owned()]),
            "--into" => {}
            _ => {
                words.push(word);
                continue;
            }
        }
        if !word.contains('=') {
            arguments.next();
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_is_printed_shows_no_password() {
        let words = |line: &str| shown(line.split(' ').map(str::to_owned)).join(" ");
        assert_eq!(words("idle --caches 1"), "idle --caches 1");
        assert_eq!(words("--redis redis://:hunter2@h idle"), "--redis URL idle");
        assert_eq!(words("idle --redis=redis://:hunter2@h"), "idle --redis URL");
        assert_eq!(words("--into a.md idle --into=b --seconds 1"), "idle --seconds 1");
    }

    #[test]
    fn each_mode_of_all_is_a_command_with_defaults() {
        for mode in MODES {
            let one = Arguments::try_parse_from(["larder-scale", mode]);
            let one = one.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(one.mode.name(), mode);
        }
    }
}
