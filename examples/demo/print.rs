//! The report of this example: at most 80 columns, and readable without colours.

use std::env;
use std::fmt::Write;
use std::fs;
use std::io::{IsTerminal, stdout};
use std::thread::available_parallelism;

use crate::format::{bytes, count, seconds, time, times};
use crate::load::Loaded;
use crate::measure::{self, Measured};
use crate::place::{Place, Servers};
use crate::reports::Report;
use crate::second::{Found, ROUNDS};

/// Where the numbers come from.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) scale: f64,
    pub(crate) runs: usize,
    pub(crate) servers: &'a Servers,
    pub(crate) place: &'a Place,
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
        setting.servers.leftovers(setting.place),
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
