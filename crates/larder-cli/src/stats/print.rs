//! A fleet's numbers as tables.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use super::{Sort, sort, sort_flows};
use crate::failure::counted;
use crate::fleet::{Fleet, Flow, View};
use crate::text::{BOLD, RESET, bytes, duration, paragraph, table, thousands};
use larder::stats::{Latency, QueryStats};

/// A terminal with less gets fewer columns.
const WIDE: usize = 72;

pub(super) fn totals(fleet: &Fleet, namespace: &str, by: Sort, top: usize, width: usize) -> String {
    let total = fleet.total();
    let mut out = head(fleet, namespace, total.hit_ratio(), width);
    let reads = total.reads();
    let share = |number: u64| percent((reads > 0).then(|| number as f64 / reads as f64));
    let rows = origins([
        total.l1_hits,
        total.l2_hits,
        total.coalesced,
        total.reads_loaded,
        total.stale,
        total.failed,
    ]);
    let rows = rows.map(|(name, number)| vec![name, thousands(number), share(number)]);
    section(&mut out, "", table(&["answered by", "reads", "share"], &[1, 2], rows, width));
    latencies(&mut out, &total.lookup_latency, &total.load_latency, width);
    rest(&mut out, fleet, &total, width);
    let mut queries = fleet.queries();
    sort(&mut queries, by);
    let left = queries.len().saturating_sub(top);
    let line = |query: &QueryStats| Line {
        name: query.name.clone(),
        reads: thousands(query.reads()),
        hit_ratio: query.hit_ratio(),
        loads: thousands(query.loads),
        errors: thousands(query.failed + query.load_errors),
        postgres: duration(query.load_latency.sum()),
        load: query.load_latency,
    };
    lines(&mut out, queries.iter().take(top).map(line).collect(), left, width);
    processes(&mut out, fleet, width);
    views(&mut out, &fleet.views(), width);
    out
}

pub(super) fn rates(fleet: &Fleet, namespace: &str, by: Sort, top: usize, width: usize) -> String {
    let (all, of_queries) = fleet.flow();
    let mut out = head(fleet, namespace, all.hit_ratio(), width);
    let total = [all.l1_hits, all.l2_hits, all.coalesced, all.loaded, all.stale, all.failed];
    let share = |rate: f64| percent((all.reads() > 0.0).then(|| rate / all.reads()));
    let rows = origins(total).map(|(name, rate)| vec![name, per_second(rate), share(rate)]);
    section(&mut out, "", table(&["answered by", "reads/s", "share"], &[1, 2], rows, width));
    latencies(&mut out, &all.lookup_latency, &all.load_latency, width);
    let text = format!(
        "In a second {} loads, {} of them failed, kept PostgreSQL busy for {}; {} invalidations, {} \
         results outdated by them.",
        per_second(all.loads),
        per_second(all.load_errors),
        duration(Duration::from_secs_f64(all.postgres.max(0.0))),
        per_second(all.invalidations),
        per_second(all.outdated),
    );
    let _ = writeln!(out, "\n{}", paragraph("", 0, &text, width));
    let flows = sort_flows(&of_queries, by);
    let left = flows.len().saturating_sub(top);
    let line = |(name, flow): (&String, &Flow)| Line {
        name: name.clone(),
        reads: per_second(flow.reads()),
        hit_ratio: flow.hit_ratio(),
        loads: per_second(flow.loads),
        errors: per_second(flow.failed + flow.load_errors),
        postgres: duration(Duration::from_secs_f64(flow.postgres.max(0.0))),
        load: flow.load_latency,
    };
    lines(&mut out, flows.into_iter().take(top).map(line).collect(), left, width);
    out
}

/// One line of the table of queries.
struct Line {
    name: String,
    reads: String,
    hit_ratio: Option<f64>,
    loads: String,
    errors: String,
    postgres: String,
    load: Latency,
}

fn head(fleet: &Fleet, namespace: &str, hit_ratio: Option<f64>, width: usize) -> String {
    let text = format!(
        "{namespace}: {}, hit ratio {}",
        counted(fleet.processes.len(), "process"),
        percent(hit_ratio)
    );
    let mut out = format!("{BOLD}{}{RESET}\n", paragraph("", 0, &text, width));
    if fleet.skipped > 0 {
        let text = format!("{} left out: of another version, or damaged", fleet.skipped);
        let _ = writeln!(out, "{}", paragraph("", 0, &text, width));
    }
    out
}

fn origins<T>(numbers: [T; 6]) -> impl Iterator<Item = (String, T)> {
    let names = ["memory", "Redis", "a read under way", "a load", "a stale result", "an error"];
    names.map(str::to_owned).into_iter().zip(numbers)
}

fn section(out: &mut String, title: &str, table: String) {
    let title = if title.is_empty() { String::new() } else { format!("{BOLD}{title}{RESET}\n") };
    let _ = writeln!(out, "\n{title}{table}");
}

fn latencies(out: &mut String, lookups: &Latency, loads: &Latency, width: usize) {
    let rows = [("Redis", lookups), ("loads", loads)].map(|(name, latency)| {
        let quantile = |share| latency.quantile(share).map_or("-".to_owned(), duration);
        let mut row = vec![name.to_owned(), thousands(latency.count())];
        row.extend([quantile(0.5), quantile(0.99)]);
        if width >= WIDE {
            row.insert(3, quantile(0.9));
            row.push(latency.mean().map_or("-".to_owned(), duration));
        }
        row
    });
    let header: &[&str] = if width >= WIDE {
        &["latency", "times", "p50", "p90", "p99", "mean"]
    } else {
        &["latency", "times", "p50", "p99"]
    };
    section(out, "", table(header, &[1, 2, 3, 4, 5], rows, width));
}

fn rest(out: &mut String, fleet: &Fleet, total: &QueryStats, width: usize) {
    let rest = fleet.rest();
    let mut text = format!(
        "{} loads, {} of them failed, kept PostgreSQL busy for {}; {} invalidations, {} results \
         outdated by them; {} results in memory, {}; {} read from Redis, {} written.",
        thousands(total.loads),
        thousands(total.load_errors),
        duration(total.load_latency.sum()),
        thousands(rest.invalidations),
        thousands(total.invalidated),
        thousands(rest.entries),
        bytes(rest.memory_bytes),
        bytes(total.l2_bytes_read),
        bytes(total.l2_bytes_written),
    );
    let trouble = [
        (rest.redis_errors, "commands that Redis did not answer in time or refused"),
        (rest.too_slow, "large results not moved from or to Redis for want of time"),
        (rest.redis_refused, "entries in Redis that nobody could read"),
        (rest.unannounced, "invalidations that Redis had not acknowledged at first"),
        (rest.unstored, "results too large, or that no codec keeps"),
    ];
    for (number, what) in trouble.into_iter().filter(|(number, _)| *number > 0) {
        let _ = write!(text, "\n{} {what}.", thousands(number));
    }
    let _ = writeln!(out, "\n{}", paragraph("", 0, &text, width));
}

fn lines(out: &mut String, lines: Vec<Line>, left: usize, width: usize) {
    if lines.is_empty() {
        return;
    }
    let wide = width >= WIDE;
    let rows = lines.into_iter().map(|line| {
        let mut row = vec![line.name, line.reads, percent(line.hit_ratio)];
        if wide {
            let p99 = line.load.quantile(0.99).map_or("-".to_owned(), duration);
            row.extend([line.loads, line.errors, line.postgres, p99]);
        } else {
            row.push(line.postgres);
        }
        row
    });
    let header: &[&str] = if wide {
        &["query", "reads", "hits", "loads", "errors", "PostgreSQL", "load p99"]
    } else {
        &["query", "reads", "hits", "in PG"]
    };
    section(out, "", table(header, &[1, 2, 3, 4, 5, 6], rows, width));
    if left > 0 {
        let _ = writeln!(
            out,
            "… {} more (--top)",
            if left == 1 { "1 query".into() } else { format!("{left} queries") }
        );
    }
}

fn processes(out: &mut String, fleet: &Fleet, width: usize) {
    let wide = width >= WIDE;
    let rows = fleet.processes.iter().map(|process| {
        let sum = Fleet::of_process(process);
        let name = format!("{} {}", process.host, process.pid);
        let mut row = vec![name, thousands(sum.reads()), percent(sum.hit_ratio())];
        if wide {
            row.extend([
                thousands(process.cache.entries),
                bytes(process.cache.memory_bytes),
                duration(Duration::from_secs(process.uptime_ms / 1000)),
                process.larder.clone(),
            ]);
        }
        row
    });
    let header: &[&str] = if wide {
        &["process", "reads", "hits", "entries", "memory", "up", "version"]
    } else {
        &["process", "reads", "hits"]
    };
    section(out, "", table(header, &[1, 2, 3, 4, 5], rows, width));
}

fn views(out: &mut String, views: &[View], width: usize) {
    if views.is_empty() {
        return;
    }
    let wide = width >= WIDE;
    let rows = views.iter().map(|view| {
        let mut row = vec![view.view.clone(), next(view)];
        if wide {
            row.push(view.last.clone().unwrap_or_else(|| "-".to_owned()));
            row.push(view.took_ms.map_or("-".to_owned(), |ms| duration(Duration::from_millis(ms))));
            row.push(view.failures_in_a_row.to_string());
        }
        row
    });
    let header: &[&str] =
        if wide { &["view", "next", "last", "took", "failed"] } else { &["view", "next"] };
    section(out, "", table(header, &[3, 4], rows, width));
    for view in views {
        if let Some(error) = &view.last_error {
            let first = error.lines().next().unwrap_or_default();
            let text = format!(
                "{}, {} in a row: {first}",
                view.view,
                counted(view.failures_in_a_row as usize, "failure")
            );
            let _ = writeln!(out, "{}", paragraph("", 0, &text, width));
        }
    }
}

/// What comes next of a view: what is being done, or when its next tick is.
pub(crate) fn next(view: &View) -> String {
    if view.activity != "idle" {
        return view.activity.clone();
    }
    let Some(next) = view.next_unix_ms else { return "when asked".to_owned() };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match Duration::from_millis(next).checked_sub(now) {
        Some(left) => format!("in {}", duration(Duration::from_secs(left.as_secs().max(1)))),
        None => "now".to_owned(),
    }
}

pub(crate) fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}

/// A rate with as many digits as matter.
pub(crate) fn per_second(rate: f64) -> String {
    match rate {
        rate if rate >= 100.0 => thousands(rate.round() as u64),
        rate if rate >= 10.0 => format!("{rate:.1}"),
        rate if rate > 0.0 => format!("{rate:.2}"),
        _ => "0".to_owned(),
    }
}
