//! `larder stats`.

pub(super) mod print;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::config::Config;
use super::connect;
use super::failure::Failure;
use super::fleet::{Fleet, Flow};
use super::text::{self, read_duration};
use larder::QueryCache;
use larder::stats::{FleetStats, Latency, QueryStats};

/// Show what the cache does for a running fleet
///
/// The processes must publish their numbers: .publish_stats(Duration::from_secs(5)) in the builder
/// of each. Shown are the sums of all that publish now, since each was built; with --interval, what
/// happens in a second.
#[derive(Args)]
#[command(after_long_help = "\
Exit code 1: no process publishes its numbers.

Examples:
  larder stats
  larder stats --sort postgres --top 5
  larder stats --interval 5s
  larder stats --json | jq .total.hit_ratio")]
pub(super) struct Stats {
    /// By what queries are sorted, most first
    #[arg(long, value_enum, default_value_t = Sort::Reads)]
    sort: Sort,

    /// How many queries to show
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    top: usize,

    /// Show it again and again, as rates per second; Ctrl-C ends
    #[arg(long, value_name = "TIME", value_parser = read_interval)]
    interval: Option<Duration>,

    /// Print one JSON object, with --interval one on each line
    #[arg(long)]
    json: bool,
}

/// By what queries are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// Reads
    Reads,
    /// The time that loads kept PostgreSQL busy
    Postgres,
    /// Loads
    Loads,
    /// Reads and loads that ended with an error
    Errors,
    /// The share of reads that needed no load, lowest first
    Hits,
    /// The name
    Name,
}

pub(super) fn read_interval(text: &str) -> Result<Duration, String> {
    let interval = read_duration(text)?;
    if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval) {
        Ok(interval)
    } else {
        Err("it is from 100ms to 1h".to_owned())
    }
}

impl Stats {
    pub(super) async fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let cache = connect::cache(config).await?;
        let namespace = config.namespace()?;
        let done = tokio::select! {
            done = self.show(&cache, namespace) => done,
            _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
        };
        cache.shutdown().await;
        done
    }

    async fn show(&self, cache: &QueryCache, namespace: &str) -> Result<ExitCode, Failure> {
        let mut fleet = Fleet::default();
        fleet.observe(look(cache).await?);
        let Some(every) = self.interval else {
            if self.json {
                text::print_json(&self.as_json(&fleet, namespace, None))?;
            } else if !fleet.processes.is_empty() {
                let shown =
                    print::totals(&fleet, namespace, self.sort, self.top, text::table_width());
                text::print(&shown)?;
            }
            if fleet.processes.is_empty() {
                anstream::eprintln!("{}", nobody(namespace, fleet.skipped));
            }
            return Ok(ExitCode::from(u8::from(fleet.processes.is_empty())));
        };
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            fleet.observe(look(cache).await?);
            let (all, queries) = fleet.flow();
            if self.json {
                let mut line = self.as_json(&fleet, namespace, Some((&all, &queries))).to_string();
                line.push('\n');
                text::print(&line)?;
            } else if fleet.processes.is_empty() {
                anstream::eprintln!("{}", nobody(namespace, fleet.skipped));
            } else if fleet.flows() {
                let width = text::table_width();
                text::print(&print::rates(&fleet, namespace, self.sort, self.top, width))?;
            }
        }
    }

    fn as_json(
        &self,
        fleet: &Fleet,
        namespace: &str,
        flow: Option<(&Flow, &std::collections::BTreeMap<String, Flow>)>,
    ) -> serde_json::Value {
        let mut queries = fleet.queries();
        sort(&mut queries, self.sort);
        queries.truncate(self.top);
        let mut all = json!({
            "namespace": namespace,
            "total": with_quantiles(&fleet.total()),
            "rest": fleet.rest(),
            "queries": queries.iter().map(with_quantiles).collect::<Vec<_>>(),
            "views": fleet.views(),
            "processes": fleet.processes,
            "skipped": fleet.skipped,
        });
        if let Some((flow, queries)) = flow {
            all["per_second"] = json!({ "total": flow, "queries": queries });
        }
        all
    }
}

/// Asks Redis once.
pub(super) async fn look(cache: &QueryCache) -> Result<FleetStats, Failure> {
    cache.fleet_stats().await.map_err(|_| {
        Failure::server(
            "redis does not tell what the processes publish: it does not answer, or its user lacks \
             +hgetall (larder check tells more)",
        )
    })
}

/// What is said where nobody publishes.
pub(super) fn nobody(namespace: &str, skipped: usize) -> String {
    let others = match skipped {
        0 => String::new(),
        skipped => format!(
            " ({skipped} published something that this build cannot read: is it of another version?)"
        ),
    };
    format!(
        "no process of the namespace {namespace} publishes its numbers{others}; let each do so, with \
         this line in its builder:\n  .publish_stats(Duration::from_secs(5))\nA user of Redis with \
         limited rights needs +hkeys +hset +hdel for it."
    )
}

pub(super) fn sort(queries: &mut [QueryStats], by: Sort) {
    use std::cmp::Reverse;
    queries.sort_by(|one, other| one.name.cmp(&other.name));
    match by {
        Sort::Reads => queries.sort_by_key(|query| Reverse(query.reads())),
        Sort::Postgres => queries.sort_by_key(|query| Reverse(query.load_latency.sum())),
        Sort::Loads => queries.sort_by_key(|query| Reverse(query.loads)),
        Sort::Errors => queries.sort_by_key(|query| Reverse(query.failed + query.load_errors)),
        Sort::Hits => queries.sort_by(|one, other| {
            let ratio = |query: &QueryStats| query.hit_ratio().unwrap_or(2.0);
            ratio(one).total_cmp(&ratio(other))
        }),
        Sort::Name => {}
    }
}

/// What happens to the queries in a second, sorted as the totals are.
pub(super) fn sort_flows(queries: &BTreeMap<String, Flow>, by: Sort) -> Vec<(&String, &Flow)> {
    let mut flows: Vec<(&String, &Flow)> = queries.iter().collect();
    flows.sort_by(|(_, one), (_, other)| {
        let key = |flow: &Flow| match by {
            Sort::Reads => flow.reads(),
            Sort::Postgres => flow.postgres,
            Sort::Loads => flow.loads,
            Sort::Errors => flow.failed + flow.load_errors,
            Sort::Hits => -flow.hit_ratio().unwrap_or(2.0),
            Sort::Name => 0.0,
        };
        key(other).total_cmp(&key(one))
    });
    flows
}

fn with_quantiles(query: &QueryStats) -> serde_json::Value {
    let millis = |latency: &Latency, share: f64| {
        latency.quantile(share).map(|time| time.as_secs_f64() * 1_000.0)
    };
    let of = |latency: &Latency| {
        json!({
            "count": latency.count(),
            "sum_ms": latency.sum().as_secs_f64() * 1_000.0,
            "p50_ms": millis(latency, 0.5),
            "p90_ms": millis(latency, 0.9),
            "p99_ms": millis(latency, 0.99),
        })
    };
    let mut json = json!(query);
    json["reads"] = query.reads().into();
    json["hit_ratio"] = query.hit_ratio().into();
    json["lookup_latency"] = of(&query.lookup_latency);
    json["load_latency"] = of(&query.load_latency);
    json
}
