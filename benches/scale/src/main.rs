//! What a fleet of Larder's caches costs one Redis, and what the fleet gets from it.
//!
//! ```sh
//! cargo run --release -p larder-scale -- idle
//! cargo run --release -p larder-scale -- --redis redis://cache.internal:6379 reads --tasks 64
//! cargo run --release -p larder-scale -- all > scale.md
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
mod push;
mod reads;
mod reconnect;
mod resync;
mod starved;
mod table;
mod target;
mod tls;

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
                run(&one.mode, arguments.redis.as_deref(), &[mode.to_owned()]).await?;
            }
        }
        mode => {
            let words: Vec<String> = without_url(std::env::args().skip(1));
            run(mode, arguments.redis.as_deref(), &words).await?;
        }
    }
    Ok(())
}

async fn run(mode: &Mode, url: Option<&str>, words: &[String]) -> anyhow::Result<()> {
    let target = Target::open(url).await?;
    let head = target.head(words).await?;
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
    println!("{head}");
    for table in measured.with_context(|| format!("measure {}", words.join(" ")))? {
        println!("\n{table}");
    }
    println!();
    cleaned
}

/// The arguments without the URL, which may have a password.
fn without_url(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let (mut words, mut skip) = (vec![], false);
    for word in arguments {
        if std::mem::take(&mut skip) {
            words.push("URL".to_owned());
        } else if word.starts_with("--redis=") {
            words.push("--redis=URL".to_owned());
        } else {
            skip = word == "--redis";
            words.push(word);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_is_printed_shows_no_password() {
        let words = |line: &str| without_url(line.split(' ').map(str::to_owned)).join(" ");
        assert_eq!(words("idle --caches 1"), "idle --caches 1");
        assert_eq!(words("--redis redis://:hunter2@h idle"), "--redis URL idle");
        assert_eq!(words("idle --redis=redis://:hunter2@h"), "idle --redis=URL");
    }

    #[test]
    fn each_mode_of_all_is_a_command_with_defaults() {
        for mode in MODES {
            Arguments::try_parse_from(["larder-scale", mode])
                .unwrap_or_else(|error| panic!("{error}"));
        }
    }
}
