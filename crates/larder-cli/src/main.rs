//! The command `larder`: what an operator wants from a cache, and the benchmark.
//!
//! It uses the public interface of the library only. One file per subcommand; what they share is in
//! `config` (where the servers are), `connect` (the ways there) and `failure` (exit codes).

mod bench;
mod check;
mod complete;
mod config;
mod connect;
mod connection;
mod explain;
mod failure;
mod fleet;
mod follow;
mod inspect;
mod invalidate;
mod ls;
mod refresh;
mod stats;
mod text;
mod tls;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tokio::runtime;

use self::config::{Config, Connection};
use self::failure::{EXIT_CODES, Failure};

/// A cache for the results of PostgreSQL queries: look at it, look after it, measure it.
#[derive(Parser)]
#[command(name = "larder", version, after_long_help = EXIT_CODES, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    connection: Connection,

    /// When to use colours: `auto` is on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        value_name = "WHEN",
        global = true,
        default_value = "auto",
        value_enum,
        help_heading = "Output"
    )]
    color: Color,

    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Subcommand)]
enum Command {
    Bench(Box<bench::Bench>),
    /// A reader process of `bench`
    #[command(hide = true, name = bench::READER)]
    BenchReader,
    Check(check::Check),
    Explain(explain::Explain),
    Follow(follow::Follow),
    Inspect(inspect::Inspect),
    Invalidate(invalidate::Invalidate),
    Ls(ls::Ls),
    Refresh(refresh::Refresh),
    Stats(stats::Stats),
    Watch(watch::Watch),
    Completions(complete::Completions),
    Man(complete::Man),
}

/// Runs the command with the arguments of this process. Returns its exit code.
fn main() -> ExitCode {
    let arguments = match Arguments::command()
        .try_get_matches()
        .and_then(|matches| Arguments::from_arg_matches(&matches))
    {
        Ok(arguments) => arguments,
        // clap's own codes: 0 for --help, 2 for what it does not understand.
        Err(error) => error.exit(),
    };
    match arguments.color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();
    match run(arguments) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    // Neither needs a server.
    match arguments.command {
        Command::Completions(completions) => return completions.run(),
        Command::Man(man) => return man.run(),
        Command::BenchReader => return bench::reader(),
        _ => {}
    }
    let config = Config::gather(arguments.connection)?;
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("cannot start threads: {error}")))?;
    runtime.block_on(async {
        match arguments.command {
            Command::Bench(bench) => bench.run(&config).await,
            Command::Check(check) => check.run(&config).await,
            Command::Explain(explain) => explain.run(&config).await,
            Command::Follow(follow) => follow.run(&config).await,
            Command::Inspect(inspect) => inspect.run(&config).await,
            Command::Invalidate(invalidate) => invalidate.run(&config).await,
            Command::Ls(ls) => ls.run(&config).await,
            Command::Refresh(refresh) => refresh.run(&config).await,
            Command::Stats(stats) => stats.run(&config).await,
            Command::Watch(watch) => watch.run(&config).await,
            Command::Completions(_) | Command::Man(_) | Command::BenchReader => {
                unreachable!("they have run")
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }
}
