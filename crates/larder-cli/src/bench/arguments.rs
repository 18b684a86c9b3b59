//! The arguments of `larder bench`, and what is to be done by them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::super::failure::Failure;
use super::report::{Followed, Mode};
use super::value::{self, Capacity, Writes};

/// Measure what the cache does for a workload: hits, latencies, load on PostgreSQL, staleness
///
/// Reader processes, each with a cache of its own over the given Redis, run a query of the given
/// cost on the given PostgreSQL: without the cache, with memory alone, with Redis alone, and with
/// both. Each reader asks again as soon as it is answered (a closed loop): latencies are of a system
/// that is as busy as its answers let it be, and a slow answer delays the reads behind it. Every
/// answer is checked against the writes that were acknowledged before it was asked for.
///
/// It makes a schema larder_bench_… in the database and drops it at its end, also after Ctrl-C,
/// which reports what was measured so far. What it writes to Redis has a namespace of its own.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  larder bench --redis redis://localhost --postgres postgres://me@localhost/test
  larder bench --keys 100000 --skew 0.8 --writes 50/s --query-cost 20ms --json report.json
  larder bench --trace accesses.xz --sweep-only
  larder bench --from report.json --html report.html

A trace is a file of one whole number a line, or of big-endian 32-bit numbers, either of them
compressed by xz or not; which it is, is seen from its content.")]
pub(in super::super) struct Bench {
    /// Which keys are asked for [default: zipf, or trace if there is one]
    #[arg(long, value_enum, value_name = "KIND")]
    workload: Option<Distribution>,

    /// Of zipf: the key of rank r is asked for in proportion to 1 / r^SKEW [default: 0.99]
    #[arg(long, value_name = "SKEW", allow_negative_numbers = true)]
    skew: Option<f64>,

    /// How many different keys there are [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    keys: Option<u32>,

    /// A file of accesses to be made in their order, once
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Reader processes, each with a memory tier of its own
    #[arg(long, value_name = "N", default_value_t = 2,
        value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: u32,

    /// Concurrent readers in each process
    #[arg(long, value_name = "N", default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=4096))]
    tasks: u32,

    /// Connections to PostgreSQL of each process
    #[arg(long, value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,

    /// How long each mode is run [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = value::duration, conflicts_with = "reads")]
    duration: Option<Duration>,

    /// How many reads are made in each mode, instead of a time; of a sweep, at each capacity
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    reads: Option<u64>,

    /// Writes, each of which invalidates one key: a share of what readers do, as 1%, or a rate, as
    /// 50/s
    #[arg(long, value_name = "SHARE|RATE", default_value = "1%")]
    writes: Writes,

    /// Follow the database: queries learn what they read, writers tell nobody, and an answer may be
    /// behind a commit for --max-staleness. It needs wal_level=logical and a role with REPLICATION,
    /// and makes logged tables
    #[arg(long, value_name = "BY", num_args = 0..=1, require_equals = true,
        default_missing_value = "keys")]
    follow: Option<Followed>,

    /// How long results live
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = value::duration)]
    ttl: Duration,

    /// For how long after that they are still served, while new ones are loaded [default: not at all]
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    stale_while_revalidate: Option<Duration>,

    /// The longest time that a memory tier which is cut off from Redis goes on to serve
    #[arg(
        long,
        alias = "max-blind",
        value_name = "TIME",
        default_value = "1s",
        value_parser = value::duration
    )]
    max_staleness: Duration,

    /// The bound of each process's memory tier
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = value::bytes)]
    l1_bytes: u64,

    /// Rows of each result
    #[arg(long, value_name = "N", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rows: u32,

    /// Bytes of text in each row, beside four numbers
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = value::bytes)]
    row_bytes: u64,

    /// How long the query takes: it sums up as many rows as that takes here, found out by trying
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = value::duration)]
    query_cost: Duration,

    /// The ways of caching to compare
    #[arg(
        long,
        value_enum,
        value_name = "MODES",
        value_delimiter = ',',
        default_value = "none,l1,l2,both"
    )]
    modes: Vec<Mode>,

    /// Measure the memory tier's hit ratio at these capacities as well, shares of the keys or
    /// numbers of them, beside plain moka, LRU, and what no cache can exceed
    #[arg(long, value_name = "CAPACITIES", num_args = 0..=1, require_equals = true,
        value_delimiter = ',', default_missing_value = SWEEP)]
    sweep: Option<Vec<Capacity>>,

    /// Nothing but a sweep, which needs no servers
    #[arg(long, conflicts_with = "modes")]
    sweep_only: bool,

    /// What random numbers grow from: the same seed, the same keys [default: another each time]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Write the report as JSON, into FILE or to standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(super) json: Option<PathBuf>,

    /// Write the report as a page with pictures, into FILE
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,

    /// Measure nothing: report once more what an earlier run has written with --json
    #[arg(long, value_name = "FILE", conflicts_with_all = MEASURING)]
    pub(super) from: Option<PathBuf>,

    /// Leave the schema in PostgreSQL
    #[arg(long)]
    keep: bool,

    /// Drop what benchmarks have left in PostgreSQL that were killed or told to keep it, and do
    /// nothing else
    #[arg(long)]
    pub(super) clean: bool,
}

/// Arguments about a run, which a report that is there already has had.
const MEASURING: [&str; 23] = [
    "workload",
    "skew",
    "keys",
    "trace",
    "processes",
    "tasks",
    "connections",
    "duration",
    "reads",
    "writes",
    "follow",
    "ttl",
    "stale_while_revalidate",
    "max_staleness",
    "l1_bytes",
    "rows",
    "row_bytes",
    "query_cost",
    "modes",
    "sweep",
    "sweep_only",
    "seed",
    "keep",
];

const SWEEP: &str = "1%,2%,5%,10%,25%,50%,100%";

/// No cache that follows a database may be blind for less.
const LEAST_BLIND: Duration = Duration::from_millis(200);

/// More results than this would not fit into the memory of most machines.
const LARGEST_ROW: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Distribution {
    /// A few keys often, most of them rarely.
    Zipf,
    /// All keys one after the other, again and again.
    Uniform,
    /// The accesses of a file.
    Trace,
}

/// Which keys.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Keys {
    Zipf { keys: u32, skew: f64 },
    Uniform { keys: u32 },
    Trace(PathBuf),
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) keys: Keys,
    pub(super) seed: u64,
    pub(super) modes: Vec<Mode>,
    pub(super) processes: u32,
    pub(super) tasks: u32,
    pub(super) connections: u32,
    /// Either of these two, or the length of a trace, ends a mode.
    pub(super) duration: Option<Duration>,
    pub(super) reads: Option<u64>,
    pub(super) writes: Writes,
    pub(super) follow: Option<Followed>,
    pub(super) ttl: Duration,
    pub(super) stale_while_revalidate: Duration,
    pub(super) max_staleness: Duration,
    pub(super) l1_bytes: u64,
    pub(super) rows: u32,
    pub(super) row_bytes: u32,
    pub(super) query_cost: Duration,
    pub(super) sweep: Option<Vec<Capacity>>,
    pub(super) json: Option<PathBuf>,
    pub(super) html: Option<PathBuf>,
    pub(super) keep: bool,
}

impl Bench {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        let refuse = |why: &str| Err(Failure::usage(why.to_owned()));
        let keys = self.keys()?;
        let sweep = match (self.sweep, self.sweep_only) {
            (None, true) => {
                Some(SWEEP.split(',').filter_map(|capacity| capacity.parse().ok()).collect())
            }
            (sweep, _) => sweep,
        };
        if sweep.is_some() && matches!(keys, Keys::Uniform { .. }) {
            return refuse(
                "a sweep over uniform keys tells nothing: each is asked for as often as any other. \
                 Take --workload zipf, or a --trace",
            );
        }
        if matches!(self.writes, Writes::Share(share) if share > 0.9) {
            return refuse("--writes above 90% leave nothing to read");
        }
        if self.row_bytes > LARGEST_ROW {
            return refuse("--row-bytes is more than 1 MiB: take more --rows");
        }
        let mut modes = if self.sweep_only { vec![] } else { self.modes };
        for number in (1..modes.len()).rev() {
            if modes[..number].contains(&modes[number]) {
                modes.remove(number);
            }
        }
        if self.follow.is_some() && self.max_staleness < LEAST_BLIND {
            return refuse("--max-staleness is below 200ms, which is too short to --follow");
        }
        let reads_end_it = self.reads.is_some();
        Ok(Plan {
            keys,
            // JSON's numbers are exact up to 2^53 only.
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..1 << 53)),
            modes,
            processes: self.processes,
            tasks: self.tasks,
            connections: self.connections,
            duration: (!reads_end_it)
                .then(|| self.duration.unwrap_or(const { Duration::from_secs(10) })),
            reads: self.reads,
            writes: self.writes,
            follow: self.follow,
            ttl: self.ttl,
            stale_while_revalidate: self.stale_while_revalidate.unwrap_or_default(),
            max_staleness: self.max_staleness,
            l1_bytes: self.l1_bytes,
            rows: self.rows,
            row_bytes: self.row_bytes as u32,
            query_cost: self.query_cost,
            sweep,
            json: self.json,
            html: self.html,
            keep: self.keep,
        })
    }

    fn keys(&self) -> Result<Keys, Failure> {
        let refuse = |why: &str| Err(Failure::usage(why.to_owned()));
        let implied = if self.trace.is_some() { Distribution::Trace } else { Distribution::Zipf };
        let kind = self.workload.unwrap_or(implied);
        let keys = self.keys.unwrap_or(1000);
        if kind != Distribution::Zipf && self.skew.is_some() {
            return refuse("--skew is of --workload zipf only");
        }
        match (kind, &self.trace) {
            (Distribution::Trace, None) => refuse("--workload trace needs a file: --trace FILE"),
            (Distribution::Trace, Some(_)) if self.keys.is_some() => {
                refuse("--keys and --trace exclude each other: a trace has the keys that are in it")
            }
            (Distribution::Trace, Some(path)) => Ok(Keys::Trace(path.clone())),
            (_, Some(_)) => refuse("--trace is of --workload trace only"),
            (Distribution::Uniform, None) => Ok(Keys::Uniform { keys }),
            (Distribution::Zipf, None) => match self.skew.unwrap_or(0.99) {
                skew if (0.0..=10.0).contains(&skew) => Ok(Keys::Zipf { keys, skew }),
                skew => refuse(&format!("--skew is {skew}; allowed: from 0 to 10")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        bench: Bench,
    }

    fn plan(arguments: &str) -> Result<Plan, String> {
        let arguments = std::iter::once("bench").chain(arguments.split_whitespace());
        let alone = Alone::try_parse_from(arguments).map_err(|error| error.to_string())?;
        alone.bench.plan().map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn defaults_are_a_zipf_workload_in_all_modes() {
        let plan = plan("").unwrap();
        assert_eq!(plan.keys, Keys::Zipf { keys: 1000, skew: 0.99 });
        assert_eq!(plan.modes, [Mode::None, Mode::L1, Mode::L2, Mode::Both]);
        assert_eq!(plan.writes, Writes::Share(0.01));
        assert_eq!(plan.duration, Some(Duration::from_secs(10)));
        assert_eq!(plan.sweep, None);
    }

    #[test]
    fn what_cannot_be_is_told_by_the_flags_that_say_it() {
        for (arguments, word) in [
            ("--trace t --keys 5", "--keys and --trace"),
            ("--workload zipf --trace t", "--trace is of"),
            ("--workload trace", "--trace FILE"),
            ("--workload uniform --skew 1", "--skew"),
            ("--workload uniform --sweep", "uniform"),
            ("--workload uniform --sweep-only", "uniform"),
            ("--skew -1", "-1"),
            ("--skew nan", "NaN"),
            ("--tasks 0", "--tasks"),
            ("--follow=rows", "keys, tables"),
            ("--follow --max-staleness 100ms", "--max-staleness"),
            ("--processes 0", "--processes"),
            ("--keys 0", "--keys"),
            ("--reads 5 --duration 1s", "--duration"),
            ("--writes 95%", "90%"),
            ("--writes 200%", "--writes"),
            ("--modes none,l3", "l3"),
            ("--sweep=0%", "--sweep"),
            ("--sweep-only --modes none", "--sweep-only"),
            ("--row-bytes 2MiB", "--row-bytes"),
            ("--from r.json --keys 5", "--from"),
            ("--from r.json --sweep", "--from"),
        ] {
            let told = plan(arguments).expect_err(arguments);
            assert!(told.contains(word), "{arguments}: {told}");
        }
    }

    #[test]
    fn a_mode_is_run_once_and_a_sweep_alone_runs_none() {
        assert_eq!(plan("--modes both,none,both").unwrap().modes, [Mode::Both, Mode::None]);
        let alone = plan("--sweep-only").unwrap();
        assert!(alone.modes.is_empty());
        assert_eq!(alone.sweep.unwrap().len(), 7);
        assert_eq!(
            plan("--sweep=5%,70").unwrap().sweep.unwrap(),
            [Capacity::Share(0.05), Capacity::Keys(70)]
        );
    }
}
