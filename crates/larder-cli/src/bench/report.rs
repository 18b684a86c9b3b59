//! [`Report`]: all that a benchmark found out, as `--json` writes it and the other reports draw it.
//!
//! Times are whole nanoseconds where a name ends in `_ns`, and seconds where it ends in `_seconds`;
//! sizes are bytes; ratios and shares are between 0 and 1.

use serde::{Deserialize, Serialize};

/// Of this form of the report. It is counted up when a field changes its meaning or goes away;
/// fields that come new do not count.
pub(crate) const VERSION: u32 = 1;

/// What a benchmark found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The form of the report: [`VERSION`].
    pub(crate) version: u32,
    /// The version of larder.
    pub(crate) larder: String,
    /// When the benchmark began, in UTC: `2026-03-01T12:00:00Z`.
    pub(crate) begun: String,
    /// What was asked for, as it could be typed again, without URLs.
    pub(crate) command: String,
    /// Whether Ctrl-C ended it: modes may be missing, and the last one may be shorter.
    pub(crate) interrupted: bool,
    pub(crate) machine: Machine,
    /// Not there if only a sweep was asked for.
    pub(crate) servers: Option<Servers>,
    pub(crate) workload: Workload,
    /// How the readers were set up; not there if only a sweep was asked for.
    pub(crate) setup: Option<Setup>,
    /// One for each way of caching, in the order in which they were run.
    pub(crate) modes: Vec<ModeReport>,
    pub(crate) sweep: Option<Sweep>,
}

/// Where it ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The operating system and the processor's architecture: `linux x86_64`.
    pub(crate) system: String,
    /// The processor's name, if the system tells it.
    pub(crate) processor: Option<String>,
    /// How many threads can run at a time.
    pub(crate) cores: usize,
    /// Memory of the machine in bytes, if the system tells it.
    pub(crate) memory_bytes: Option<u64>,
    /// Whether larder was built without optimizations: its times mean nothing then.
    pub(crate) debug_build: bool,
}

/// What it ran against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Servers {
    /// `Redis 7.0.15` or `Valkey 8.0.1`. Not there if no mode needed one.
    pub(crate) redis: Option<String>,
    /// `PostgreSQL 15.18`
    pub(crate) postgres: String,
}

/// Which keys were asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Workload {
    pub(crate) kind: WorkloadKind,
    /// How many different keys there are.
    pub(crate) keys: u64,
    /// Of `zipf`: the key of rank r is asked for in proportion to r to the power of minus this.
    pub(crate) skew: Option<f64>,
    /// Of `trace`: the file's name, without its directory.
    pub(crate) trace: Option<String>,
    /// Of `trace`: how many accesses it has.
    pub(crate) accesses: Option<u64>,
    /// What the random numbers grew from.
    pub(crate) seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WorkloadKind {
    Zipf,
    /// All keys one after the other, again and again.
    Uniform,
    Trace,
}

/// How the readers were set up, the same in all modes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// Reader processes, each with a cache of its own.
    pub(crate) processes: u32,
    /// Concurrent readers in each process. Each asks again as soon as it has its answer.
    pub(crate) tasks: u32,
    /// Connections to PostgreSQL of each process.
    pub(crate) connections: u32,
    /// How long each mode was to run, if no number of reads was given.
    pub(crate) duration_seconds: Option<f64>,
    /// How many reads each mode was to make, if they were given.
    pub(crate) reads: Option<u64>,
    /// Which share of what a reader does is a write, if it was given as a share.
    pub(crate) write_share: Option<f64>,
    /// Writes per second in all, if they were given as a rate.
    pub(crate) write_rate: Option<f64>,
    pub(crate) ttl_seconds: f64,
    /// For how long after its time to live a result could be served; 0 if it was not allowed.
    pub(crate) stale_while_revalidate_seconds: f64,
    /// The longest time that a memory tier cut off from Redis goes on to serve.
    #[serde(alias = "max_blind_seconds")]
    pub(crate) max_staleness_seconds: f64,
    /// The bound of each process's memory tier.
    pub(crate) l1_bytes: u64,
    /// Rows of each result.
    pub(crate) rows: u32,
    /// Bytes of filling in each row.
    pub(crate) row_bytes: u32,
    /// How many rows PostgreSQL reads and sums up for each query.
    pub(crate) rows_read: u32,
    /// How long one query took alone, before the run: the median.
    pub(crate) query_ns: u64,
}

/// A way of caching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Every read is a query.
    None,
    /// Memory of each process alone. Each process is told of every write before it counts as
    /// acknowledged.
    L1,
    /// Redis alone: what is in memory is not served.
    L2,
    /// Memory over Redis, as an application has it.
    Both,
}

/// What one mode came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModeReport {
    pub(crate) mode: Mode,
    pub(crate) ended: Ended,
    /// How long it ran.
    pub(crate) seconds: f64,
    /// Reads that were answered.
    pub(crate) reads: u64,
    /// Reads answered per second, all processes together.
    pub(crate) reads_per_second: f64,
    /// Where the answers came from; together they are `reads`.
    pub(crate) answers: Answers,
    /// The share of reads that neither ran a query nor waited for one: l1, l2 and stale.
    pub(crate) hit_ratio: f64,
    /// Reads that failed. They are in no other number.
    pub(crate) errors: u64,
    /// What the first of them said.
    pub(crate) first_error: Option<String>,
    /// Equal parts of the run, in their order.
    pub(crate) series: Vec<Moment>,
    /// Of all answers together, and of each source that gave any.
    pub(crate) latency: Vec<Latency>,
    pub(crate) postgres: PostgresLoad,
    /// Not there in modes without Redis.
    pub(crate) redis: Option<RedisLoad>,
    pub(crate) currency: CurrencyReport,
    /// What the cache took off PostgreSQL, if mode `none` was run before.
    pub(crate) versus_none: Option<Versus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ended {
    /// Its time was over.
    Duration,
    /// All reads asked for were made, or the trace was at its end.
    Reads,
    /// Ctrl-C.
    Interrupted,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// All sources together.
    All,
    /// The process's memory.
    L1,
    /// Redis.
    L2,
    /// PostgreSQL, through the cache: this read ran the query.
    Loaded,
    /// Another read's look-up or query, which was waited for.
    Coalesced,
    /// Memory, past its time to live, while a new one was loaded.
    Stale,
    /// PostgreSQL, without a cache.
    Postgres,
}

/// A number of answers for each source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answers {
    pub(crate) l1: u64,
    pub(crate) l2: u64,
    pub(crate) loaded: u64,
    pub(crate) coalesced: u64,
    pub(crate) stale: u64,
    pub(crate) postgres: u64,
}

/// One of the equal parts of a run; all numbers are of what ended within it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// When it began, counted from the beginning of the run.
    pub(crate) at_seconds: f64,
    /// How long it is; the last one has what is left of the run.
    pub(crate) seconds: f64,
    pub(crate) answers: Answers,
    /// The share of l1, l2 and stale in these answers; 0 if there are none.
    pub(crate) hit_ratio: f64,
    pub(crate) errors: u64,
    /// Queries of readers that PostgreSQL answered.
    pub(crate) queries: u64,
    /// How many of them were running at a time, on average.
    pub(crate) queries_running: f64,
    pub(crate) writes: u64,
}

/// How long answers took, from the call to the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) source: Source,
    pub(crate) quantiles: Quantiles,
    /// The distribution: ranges of latency, each 1.25 times the one before it, from the shortest to
    /// the longest latency; empty ones between them are there as well.
    pub(crate) bars: Vec<Bar>,
    /// The distribution once more, as a curve of quantiles that becomes finer towards 1.
    pub(crate) curve: Vec<Point>,
}

/// Exact to 0.1 %.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) mean_ns: f64,
    pub(crate) p50_ns: u64,
    pub(crate) p90_ns: u64,
    pub(crate) p99_ns: u64,
    /// p99.9
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
}

/// A range of a distribution: at least `from_ns` and less than `to_ns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bar {
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
    pub(crate) count: u64,
}

/// A point of a distribution: this share of all took so long or less.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) quantile: f64,
    pub(crate) ns: u64,
}

/// What PostgreSQL had to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PostgresLoad {
    /// Queries of readers that reached it.
    pub(crate) queries: u64,
    /// The time that they took there together, from having a connection to the last row; it is more
    /// than the run took if several ran at a time.
    pub(crate) query_seconds: f64,
    /// How many were running at a time, on average.
    pub(crate) queries_running: f64,
    /// How long each took.
    pub(crate) query: Quantiles,
    /// Writes, the same for every mode: each an update and its commit.
    pub(crate) writes: u64,
    /// The time that writes took.
    pub(crate) write_seconds: f64,
}

/// What went through Redis. It is the server's own count: other clients' bytes are in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RedisLoad {
    /// Bytes that Redis received.
    pub(crate) bytes_in: u64,
    /// Bytes that Redis sent.
    pub(crate) bytes_out: u64,
    /// Commands that Redis ran, those in scripts included.
    pub(crate) commands: u64,
    /// Commands of the readers that Redis did not answer within their time limit, or answered with
    /// an error. Those reads went on to PostgreSQL.
    pub(crate) errors: u64,
}

/// How current the answers were. Every answer shows the version of its key, and is held against the
/// versions whose invalidation had been acknowledged before the read began.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct CurrencyReport {
    /// Answers that were held against the writes: all.
    pub(crate) checked: u64,
    /// Writes that were acknowledged: committed, and their invalidation has returned.
    pub(crate) acknowledged: u64,
    /// Writes that were committed and whose invalidation Redis did not acknowledge. Nothing is
    /// promised about them.
    pub(crate) unacknowledged: u64,
    /// Answers from the memory of another process than the writer's that were behind an acknowledged
    /// write by less than `max_staleness`: what is promised for memory while a push is on its way.
    pub(crate) behind: u64,
    /// Of these: by how much, from the acknowledgement to the call.
    pub(crate) behind_by: Quantiles,
    /// Answers that must not have been given: behind a write of the same process, from Redis or
    /// PostgreSQL and behind any, or from memory and behind by `max_staleness` or more.
    pub(crate) violations: u64,
    /// The first of them.
    pub(crate) examples: Vec<Violation>,
}

/// An answer that must not have been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Violation {
    pub(crate) source: Source,
    /// The key's number.
    pub(crate) key: u32,
    /// The version that the answer showed.
    pub(crate) shown: u64,
    /// The latest version that had been acknowledged when the read began.
    pub(crate) acknowledged: u64,
    /// How long before the call the first version after the shown one had been acknowledged.
    pub(crate) behind_ns: u64,
    /// Whether this process had written a version after the shown one itself.
    pub(crate) own: bool,
}

/// A mode beside mode `none` of the same run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Versus {
    /// How many times fewer queries reached PostgreSQL for each read. Not there if none did.
    pub(crate) fewer_queries: Option<f64>,
    /// How many times less time they took there for each read. Not there if none did.
    pub(crate) less_query_time: Option<f64>,
    /// How many times more reads were answered per second.
    pub(crate) throughput: f64,
}

/// Hit ratios by the capacity of the memory tier: one reader asks for one key after the other, and
/// every result takes the same room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sweep {
    /// How many accesses there were.
    pub(crate) accesses: u64,
    /// How many different keys they were to.
    pub(crate) keys: u64,
    /// What one result takes of the memory tier's bound.
    pub(crate) entry_bytes: u64,
    /// By growing capacity.
    pub(crate) points: Vec<SweepPoint>,
    /// Whether Ctrl-C ended it: points are missing then.
    pub(crate) interrupted: bool,
}

/// Hit ratios at one capacity; each counts the first access to a key as a miss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct SweepPoint {
    /// The capacity as a share of all different keys.
    pub(crate) share: f64,
    /// The capacity in results.
    pub(crate) capacity_keys: u64,
    /// The capacity in bytes of the bound.
    pub(crate) capacity_bytes: u64,
    /// Larder's memory tier.
    pub(crate) larder: f64,
    /// A plain moka cache of the same bound.
    pub(crate) moka: f64,
    /// A cache that throws out what was not used for longest.
    pub(crate) lru: f64,
    /// What no cache can exceed: Belady's, which knows the future. It may hold 64 results more, as
    /// Larder and moka may until they have thrown out what was too much.
    pub(crate) opt: f64,
}

impl Answers {
    pub(crate) fn total(&self) -> u64 {
        let Answers { l1, l2, loaded, coalesced, stale, postgres } = self;
        l1 + l2 + loaded + coalesced + stale + postgres
    }

    /// The share of those that neither ran a query nor waited for one; 0 of none.
    pub(crate) fn hit_ratio(&self) -> f64 {
        match self.total() {
            0 => 0.0,
            total => (self.l1 + self.l2 + self.stale) as f64 / total as f64,
        }
    }
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::None => "none",
            Mode::L1 => "l1",
            Mode::L2 => "l2",
            Mode::Both => "both",
        }
    }

    pub(crate) fn needs_redis(self) -> bool {
        matches!(self, Mode::L2 | Mode::Both)
    }
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Source::All => "all",
            Source::L1 => "l1",
            Source::L2 => "l2",
            Source::Loaded => "loaded",
            Source::Coalesced => "coalesced",
            Source::Stale => "stale",
            Source::Postgres => "postgres",
        }
    }
}

impl Report {
    /// Answers that must not have been given, in all modes.
    pub(crate) fn violations(&self) -> u64 {
        self.modes.iter().map(|mode| mode.currency.violations).sum()
    }

    pub(crate) fn mode(&self, mode: Mode) -> Option<&ModeReport> {
        self.modes.iter().find(|report| report.mode == mode)
    }
}
