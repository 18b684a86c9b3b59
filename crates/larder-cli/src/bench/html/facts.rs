//! What was run, on what, and what the words mean.

use maud::{Markup, html};

use super::super::report::{Machine, Report, Setup, Workload, WorkloadKind};
use super::number::{bytes, count, number, percent, seconds, short, time};
use crate::failure::{counted, plural};

/// The workload in a line, under the title.
pub(super) fn subtitle(report: &Report) -> String {
    let workload = workload(&report.workload);
    match &report.setup {
        Some(setup) => format!(
            "{workload}. {} reader processes with {} readers each; {}.",
            setup.processes,
            setup.tasks,
            writes(setup)
        ),
        None => format!("{workload}."),
    }
}

fn workload(it: &Workload) -> String {
    let keys = many(it.keys, "key");
    match it.kind {
        WorkloadKind::Zipf => match it.skew {
            Some(skew) => format!("Zipf with skew {skew} over {keys}"),
            None => format!("Zipf over {keys}"),
        },
        WorkloadKind::Uniform => format!("All of {keys} in turn, again and again"),
        WorkloadKind::Trace => format!(
            "The trace {}: {} to {keys}",
            it.trace.as_deref().unwrap_or("–"),
            it.accesses.map_or("–".to_owned(), |accesses| many(accesses, "access")),
        ),
    }
}

/// `1,234 keys`
fn many(number: u64, what: &str) -> String {
    format!("{} {}", count(number), plural(number, what))
}

fn writes(setup: &Setup) -> String {
    match (setup.write_share, setup.write_rate) {
        (Some(share), _) if share > 0.0 => {
            format!("{} of what they do is writing", short(&percent(share)))
        }
        (_, Some(rate)) if rate > 0.0 => format!("{} writes per second", short(&number(rate))),
        _ => "no writes".to_owned(),
    }
}

fn machine(it: &Machine) -> String {
    let memory = it.memory_bytes.map(|it| format!(", {} of memory", bytes(it)));
    format!(
        "{}, {}{}, {}",
        it.processor.as_deref().unwrap_or("processor not known"),
        counted(it.cores, "thread"),
        memory.unwrap_or_default(),
        it.system
    )
}

pub(super) fn parameters(report: &Report) -> Markup {
    let mut facts = vec![
        ("Begun", report.begun.clone()),
        ("Command", report.command.clone()),
        ("Workload", workload(&report.workload)),
        ("Seed", report.workload.seed.to_string()),
    ];
    if let Some(it) = &report.setup {
        let ended = match (it.duration_seconds, it.reads) {
            (_, Some(reads)) => format!("{} in each mode", many(reads, "read")),
            (Some(duration), None) => format!("{} for each mode", short(&seconds(duration))),
            (None, None) => "to the end of the trace".to_owned(),
        };
        let stale = match it.stale_while_revalidate_seconds {
            0.0 => String::new(),
            more => format!(", and {} more while a new one is loaded", short(&seconds(more))),
        };
        facts.extend([
            (
                "Readers",
                format!(
                    "{}, each with {} and {} to PostgreSQL",
                    many(it.processes.into(), "process"),
                    many(it.tasks.into(), "concurrent reader"),
                    many(it.connections.into(), "connection")
                ),
            ),
            ("Length", ended),
            ("Writes", writes(it)),
            ("Time to live", format!("{}{stale}", short(&seconds(it.ttl_seconds)))),
            ("Memory cut off from Redis serves for", short(&seconds(it.max_staleness_seconds))),
            ("Memory tier", format!("{} in each process", short(&bytes(it.l1_bytes)))),
            (
                "Result",
                format!(
                    "{}, {} of text in each",
                    many(it.rows.into(), "row"),
                    short(&bytes(it.row_bytes.into()))
                ),
            ),
            (
                "Query",
                format!(
                    "sums up {}, which took {} alone",
                    many(it.rows_read.into(), "row"),
                    time(it.query_ns as f64)
                ),
            ),
        ]);
    }
    if let Some(it) = &report.sweep {
        let text = format!(
            "{} to {}, {} of memory for each result",
            many(it.accesses, "access"),
            many(it.keys, "key"),
            bytes(it.entry_bytes)
        );
        facts.push(("Sweep", text));
    }
    facts.push(("Larder", report.larder.clone()));
    if let Some(it) = &report.servers {
        facts.push(("PostgreSQL", it.postgres.clone()));
        facts.extend(it.redis.clone().map(|redis| ("Redis", redis)));
    }
    facts.push(("Machine", machine(&report.machine)));
    html! {
        section id="parameters" {
            h2 { "What was run" }
            dl.facts {
                @for (name, value) in facts {
                    div { dt { (name) } dd { @if name == "Command" { code { (value) } } @else { (value) } } }
                }
            }
        }
    }
}

const WORDS: [(&str, &str); 12] = [
    (
        "Hit",
        "An answer that neither ran a query nor waited for one: from memory, from Redis, or stale \
         as it was allowed to be.",
    ),
    ("Memory, L1", "Each process’s own tier. It is told of writes by a push through Redis."),
    ("Redis, L2", "The tier that all processes share."),
    ("Loaded", "A read that found nothing and ran the query."),
    (
        "Coalesced",
        "A read that waited for another read’s look-up or query of the same key, instead of \
         making its own.",
    ),
    (
        "Stale",
        "An answer past its time to live, given while a new one was loaded. There are none \
         unless --stale-while-revalidate allows them.",
    ),
    (
        "Acknowledged",
        "A write is committed and its invalidation has returned: who reads afterwards is \
         promised the new result.",
    ),
    (
        "Behind, allowed",
        "An answer from the memory of another process than the writer’s, while the push \
         was on its way: less than the bound under “What was run”.",
    ),
    (
        "Violation",
        "An answer that must not have been given: behind a write of its own process, behind \
         any from Redis or PostgreSQL, or behind by that bound or more. There must be none.",
    ),
    (
        "Failed by Redis",
        "A command that it did not answer within its time limit, or answered with an error. The read \
         went on to PostgreSQL.",
    ),
    ("p99", "99 of 100 answers took so long or less; p50 is the median."),
    (
        "Time in PostgreSQL",
        "What queries took there, from having a connection to the last row, added \
         up. Ten queries at a time add ten seconds each second.",
    ),
];

pub(super) fn words() -> Markup {
    html! {
        section id="words" {
            h2 { "How to read it" }
            p {
                "Readers work in a closed loop: each asks again as soon as it is answered. Latencies are \
                 of a system that is as busy as its answers let it be, and a slow answer delays the \
                 reads behind it."
            }
            dl.facts { @for (word, meaning) in WORDS { div { dt { (word) } dd { (meaning) } } } }
        }
    }
}
