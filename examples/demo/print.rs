//! The report of this example: at most 80 columns, and readable without colours.

use std::env;
use std::fmt::Write;
use std::fs;
use std::io::{IsTerminal, stdout};
use std::thread::available_parallelism;

use crate::diagnosis::Diagnosis;
use crate::format::{bytes, count, seconds, time, times};
use crate::load::Loaded;
use crate::matview::Watched;
use crate::measure::{self, Measured};
use crate::place::Servers;
use crate::reports::Report;
use crate::second::{Found, ROUNDS};

/// Where the numbers come from.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) scale: f64,
    pub(crate) runs: usize,
    pub(crate) servers: &'a Servers,
    pub(crate) postgres_version: String,
    pub(crate) redis_version: String,
    pub(crate) loaded: Loaded,
}

/// One report with all that was measured of it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) report: Report,
    pub(crate) here: Measured,
    pub(crate) there: Found,
}

/// The whole text.
pub(crate) fn text(setting: &Setting<'_>, lines: &[Line]) -> String {
    let paint = Paint::for_stdout();
    let sections = [
        environment(setting, paint),
        answers(lines, paint),
        timings(lines, paint),
        legend(setting),
    ];
    sections.concat()
}

fn environment(setting: &Setting<'_>, paint: Paint) -> String {
    let loaded = &setting.loaded;
    let loading = match loaded.took {
        Some(took) => format!("loaded in {}", seconds(took)),
        None => "loaded by an earlier run".to_owned(),
    };
    let title = paint.bold(&format!("Larder on TPC-H at scale {}", setting.scale));
    format!(
        "\n{title}\n\
         machine     {}\n\
         PostgreSQL  {}, {}\n\
         Redis       {}, {}\n\
         data        {} rows, {} with indexes, {loading}\n",
        machine(),
        setting.postgres_version,
        setting.servers.postgres(),
        setting.redis_version,
        setting.servers.redis(),
        count(loaded.rows),
        bytes(loaded.bytes),
    )
}

fn machine() -> String {
    let cores = available_parallelism().map_or(1, usize::from);
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "))
        .map_or(env::consts::ARCH, |(_, model)| model);
    let cores = if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
    // The longest model names would break the line.
    let model: String = model.chars().take(55).collect();
    format!("{cores}, {model}")
}

fn answers(lines: &[Line], paint: Paint) -> String {
    let head = format!("{:<20}{:>6}{:>10}   {}", "report", "rows", "bytes", "answer");
    let mut text = format!("\n{}\n", paint.bold(&head));
    for Line { report, here, .. } in lines {
        let rows = count(here.cells.rows());
        let bytes = bytes(here.cells.bytes());
        let _ = writeln!(text, "{:<20}{rows:>6}{bytes:>10}   {}", report.name, here.gist);
        let _ = writeln!(text, "  {}", paint.dim(&report.params.to_string()));
    }
    text
}

fn timings(lines: &[Line], paint: Paint) -> String {
    let over = format!("{:<20}{:^40}{:>20}", "", "time to the answer", "times as fast");
    let head = format!(
        "{:<20}{:>10}{:>10}{:>10}{:>10}{:>9}{:>11}",
        "report", "PostgreSQL", "miss", "Redis", "memory", "Redis", "memory"
    );
    let mut text = format!("\n{}\n{}\n", paint.dim(over.trim_end()), paint.bold(&head));
    for Line { report, here, there } in lines {
        let shown = [here.postgres, here.miss, there.redis, here.memory].map(time);
        let [postgres, miss, redis, memory] = shown;
        let by_redis = format!("{:>9}", times(here.postgres, there.redis));
        let by_memory = format!("{:>11}", times(here.postgres, here.memory));
        let _ = writeln!(
            text,
            "{:<20}{postgres:>10}{miss:>10}{redis:>10}{memory:>10}{}{}",
            report.name,
            paint.green(&by_redis),
            paint.green(&by_memory),
        );
    }
    text
}

fn legend(setting: &Setting<'_>) -> String {
    let runs = setting.runs;
    let (batches, batch) = (measure::BATCHES, measure::BATCH);
    format!(
        "
PostgreSQL  a prepared query on an open connection, no cache; median of {runs}
            after 5 to warm up
miss        through Larder, which asks Redis in vain, runs the query, answers,
            and then fills both tiers; likewise, each time under a new key
Redis       by a second process with nothing in its memory; median of {ROUNDS},
            each by a new cache; it never connected to PostgreSQL
memory      in this process; median of {batches} batches of {batch} reads

Checked: each read was answered from where its column says, and the rows from
every tier equal PostgreSQL's own, cell by cell.
"
    )
}

/// What was wrong with the view, and what mended it.
pub(crate) fn diagnosis(found: &Diagnosis) -> String {
    let paint = Paint::for_stdout();
    let title = paint.bold("A materialized view over the orders, with the classic mistake");
    let indented = |text: &str| -> String {
        text.lines().map(|line| format!("{}\n", wrapped(line, 2, 80))).collect()
    };
    let parts = [
        ("made", paint.dim(&indented(found.made))),
        ("check()", indented(&found.report)),
        ("refresh_now() all the same", indented(&found.error)),
        ("the SQL of the check, run", paint.green(&indented(&found.mended.join("\n")))),
        ("check() again", indented(&found.after)),
    ];
    let parts = parts.map(|(name, text)| format!("\n{}\n{text}", paint.bold(name)));
    format!("\n{title}\n{}", parts.concat())
}

/// Indents a line by so many columns more, and breaks it where it would be longer than `width`.
fn wrapped(line: &str, by: usize, width: usize) -> String {
    let words = line.trim_start();
    let indent = by + line.len() - words.len();
    let mut text = " ".repeat(indent);
    let mut column = indent;
    for (number, word) in words.split(' ').enumerate() {
        let length = word.chars().count();
        if number > 0 && column + 1 + length > width {
            let _ = write!(text, "\n{}", " ".repeat(indent + 2));
            column = indent + 2;
        } else if number > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text
}

/// What readers saw while the view was refreshed.
pub(crate) fn watched(seen: &Watched) -> String {
    let paint = Paint::for_stdout();
    let title = paint.bold("The view, refreshed while orders come in");
    let verdict = &seen.verdict;
    let origins: Vec<String> =
        verdict.origins.iter().map(|(name, reads)| format!("{name} {}", count(*reads))).collect();
    format!(
        "
{title}
refreshes   {}, every {} s; median {}; {} rows written or removed
written     {} orders inserted, {} changed
reads       {}: {}
stale       {}

Checked: each answer equals, cell by cell, what PostgreSQL said the view held at
that time: after the last refresh that was done when the read began, or, for the
{} reads that met a refresh, before it or after it.
",
        seen.took.len(),
        seen.every.as_secs(),
        measure::median(seen.took.clone()).map_or_else(|_| "none".to_owned(), time),
        count(seen.rows),
        count(seen.inserted),
        count(seen.updated),
        count(verdict.reads),
        origins.join(", "),
        paint.green(&count(verdict.stale)),
        count(verdict.during),
    )
}

/// Colours for a terminal, and none for anything else.
#[derive(Clone, Copy, Debug)]
struct Paint {
    colours: bool,
}

impl Paint {
    fn for_stdout() -> Self {
        let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = env::var_os("TERM").is_some_and(|term| term != "dumb");
        Self { colours: stdout().is_terminal() && wanted && able }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
