//! The report as text, for a terminal of any width.

use super::format::{bytes, count, percent, plain, three_digits, time, times};
use super::report::{
    Ended, Mode, ModeReport, Moment, Quantiles, Report, Setup, Source, Sweep, WorkloadKind,
};
use super::table::Table;
use crate::failure::{counted, plural};

pub(super) fn text(report: &Report, width: usize) -> String {
    let mut text = wrapped(&heading(report), width);
    if !report.modes.is_empty() {
        text += &title("What the cache does");
        text += &modes(&report.modes).text(width);
        text += &title("Latency");
        text += &latencies(&report.modes).text(width);
        text += &title("Hits over time");
        text += &series(&report.modes, width);
        text += &findings(report, width);
    }
    if let Some(sweep) = &report.sweep {
        text += &title("Hit ratio by the size of the memory tier");
        text += &swept(sweep).text(width);
        let note = format!(
            "{} to {}; each result takes {}. OPT knows the future: no cache has more. \
             Larder and moka throw out in batches of 64, so OPT may hold as many results more.{}",
            many(sweep.accesses, "access"),
            many(sweep.keys, "key"),
            bytes(sweep.entry_bytes),
            if sweep.interrupted { " Interrupted: capacities are missing." } else { "" },
        );
        text += &wrapped(&note, width);
    }
    text
}

fn title(text: &str) -> String {
    format!("\n\x1b[1m{text}\x1b[0m\n")
}

fn heading(report: &Report) -> String {
    let Report { larder, begun, machine, workload, .. } = report;
    let mut lines = vec![format!("larder {larder} bench, {begun}")];
    let keys = many(workload.keys, "key");
    lines.push(match workload.kind {
        WorkloadKind::Zipf => {
            format!("Zipf {} over {keys}", plain(workload.skew.unwrap_or_default()))
        }
        WorkloadKind::Uniform => format!("uniform over {keys}, one after the other"),
        WorkloadKind::Trace => format!(
            "trace {}: {} to {keys}",
            workload.trace.as_deref().unwrap_or_default(),
            many(workload.accesses.unwrap_or_default(), "access")
        ),
    });
    if let Some(setup) = &report.setup {
        lines.extend(setup_lines(setup));
    }
    if let Some(servers) = &report.servers {
        let redis = servers.redis.as_ref().map(|redis| format!(", {redis}")).unwrap_or_default();
        lines.push(format!("{}{redis}", servers.postgres));
    }
    let memory = machine.memory_bytes.map(|it| format!(", {}", bytes(it))).unwrap_or_default();
    let processor = machine.processor.as_deref().unwrap_or(&machine.system);
    lines.push(format!("{} of {processor}{memory}", counted(machine.cores, "core")));
    lines.push(format!("seed {}", workload.seed));
    if machine.debug_build {
        lines.push("a build without optimizations: its times mean nothing".to_owned());
    }
    if report.interrupted {
        lines.push("interrupted: this is what was measured so far".to_owned());
    }
    lines.join("\n")
}

/// `1,234 keys`
fn many(number: u64, what: &str) -> String {
    format!("{} {}", count(number), plural(number, what))
}

fn setup_lines(setup: &Setup) -> [String; 2] {
    let writes = match (setup.write_share, setup.write_rate) {
        (Some(share), _) => format!("{} % writes", plain(share * 100.0)),
        (None, rate) => format!("{} writes/s", plain(rate.unwrap_or_default())),
    };
    let length = match (setup.duration_seconds, setup.reads) {
        (Some(seconds), _) => format!("{} s", plain(seconds)),
        (None, reads) => many(reads.unwrap_or_default(), "read"),
    };
    [
        format!(
            "{} of {} in a closed loop, {writes}; {length} each mode; TTL {} s, L1 {}",
            many(setup.processes.into(), "process"),
            many(setup.tasks.into(), "reader"),
            plain(setup.ttl_seconds),
            bytes(setup.l1_bytes)
        ),
        format!(
            "query: {} alone, reads {}, returns {} of {} and more",
            time(setup.query_ns as f64),
            many(setup.rows_read.into(), "row"),
            count(setup.rows.into()),
            bytes(setup.row_bytes.into())
        ),
    ]
}

/// One column for each mode.
fn modes(modes: &[ModeReport]) -> Table {
    let mut table = Table::new(modes.iter().map(|mode| mode.mode.name()));
    let mut line = |label: &str, cell: &dyn Fn(&ModeReport) -> Option<String>| {
        let cells: Vec<Option<String>> = modes.iter().map(cell).collect();
        // A line that says nothing of any mode is left out.
        if cells.iter().any(Option::is_some) {
            table.line(label, cells.into_iter().map(|cell| cell.unwrap_or_else(|| "–".to_owned())));
        }
    };
    let some = |number: u64| (number > 0).then(|| count(number));
    let share = |mode: &ModeReport, answers: u64| {
        (answers > 0).then(|| percent(answers as f64 / mode.reads.max(1) as f64))
    };
    line("reads", &|it| Some(count(it.reads)));
    line("reads/s", &|it| Some(three_digits(it.reads_per_second)));
    line("hits", &|it| Some(percent(it.hit_ratio)));
    line("  l1", &|it| share(it, it.answers.l1));
    line("  l2", &|it| share(it, it.answers.l2));
    line("  stale, by policy", &|it| share(it, it.answers.stale));
    line("coalesced", &|it| share(it, it.answers.coalesced));
    line("loaded", &|it| share(it, it.answers.loaded));
    line("queries", &|it| Some(count(it.postgres.queries)));
    line("query time", &|it| Some(time(it.postgres.query_seconds * 1e9)));
    line("  per 1,000 reads", &|it| {
        Some(time(it.postgres.query_seconds * 1e12 / it.reads.max(1) as f64))
    });
    line("  running at a time", &|it| Some(format!("{:.2}", it.postgres.queries_running)));
    line("less query time", &|it| it.versus_none?.less_query_time.map(times));
    line("more reads/s", &|it| Some(times(it.versus_none?.throughput)));
    line("writes", &|it| some(it.postgres.writes));
    line("Redis in", &|it| it.redis.map(|redis| bytes(redis.bytes_in)));
    line("Redis out", &|it| it.redis.map(|redis| bytes(redis.bytes_out)));
    line("Redis errors", &|it| some(it.redis?.errors));
    line("unacknowledged", &|it| some(it.currency.unacknowledged));
    line("behind a push", &|it| some(it.currency.behind));
    line("  by, p99", &|it| {
        let by = it.currency.behind_by;
        (by.count > 0).then(|| time(by.p99_ns as f64))
    });
    line("errors", &|it| some(it.errors));
    line("violations", &|it| Some(count(it.currency.violations)));
    table
}

fn latencies(modes: &[ModeReport]) -> Table {
    let mut table = Table::new(["answers", "p50", "p90", "p99", "p99.9", "max"]);
    for mode in modes {
        // Where there is one source, it is all.
        let one = mode.latency.len() == 2;
        for latency in mode.latency.iter().skip(usize::from(one)) {
            let name = match latency.source {
                Source::All => mode.mode.name().to_owned(),
                source => {
                    if one {
                        format!("{} {}", mode.mode.name(), source.name())
                    } else {
                        format!("  {}", source.name())
                    }
                }
            };
            let Quantiles { count: answers, p50_ns, p90_ns, p99_ns, p999_ns, max_ns, .. } =
                latency.quantiles;
            let quantiles = [p50_ns, p90_ns, p99_ns, p999_ns, max_ns];
            let cells = quantiles.map(|nanos| time(nanos as f64));
            table.line(name, [count(answers)].into_iter().chain(cells));
        }
    }
    table
}

/// A line of bars for each mode that can hit.
fn series(modes: &[ModeReport], width: usize) -> String {
    const LABEL: usize = 5;
    let room = width.saturating_sub(LABEL + 8).clamp(8, 60);
    let mut text = String::new();
    for mode in modes.iter().filter(|mode| mode.mode != Mode::None) {
        let bars: String = resampled(&mode.series, room).iter().map(|it| bar(*it)).collect();
        // At the end, which is the last quarter.
        let quarter = mode.series.len().div_ceil(4);
        let last = resampled(&mode.series[mode.series.len() - quarter..], 1);
        let last = last.first().copied().unwrap_or_default();
        text += &format!("{:LABEL$}{bars} {:>3.0} %\n", mode.mode.name(), last * 100.0);
    }
    text
}

/// Hit ratios of as many parts as there is room for.
fn resampled(series: &[Moment], room: usize) -> Vec<f64> {
    let size = series.len().div_ceil(room).max(1);
    let merged = series.chunks(size).map(|moments| {
        let hits = moments.iter().map(|it| it.hit_ratio * it.answers.total() as f64).sum::<f64>();
        hits / (moments.iter().map(|it| it.answers.total()).sum::<u64>().max(1) as f64)
    });
    merged.collect()
}

fn bar(share: f64) -> char {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    BARS[((share * 8.0) as usize).min(7)]
}

/// What is worth a sentence.
fn findings(report: &Report, width: usize) -> String {
    let mut lines = vec![];
    let best = report
        .modes
        .iter()
        .filter_map(|mode| Some((mode.mode, mode.versus_none?.less_query_time?)))
        .max_by(|a, b| a.1.total_cmp(&b.1));
    if let Some((mode, ratio)) = best {
        let with = match mode {
            Mode::L1 => "memory alone",
            Mode::L2 => "Redis alone",
            _ => "both tiers",
        };
        lines.push(format!("{} less PostgreSQL time with {with}, read for read.", times(ratio)));
    }
    if report.modes.iter().any(|mode| mode.redis.is_some()) {
        lines.push(
            "Bytes through Redis are the server's count: other clients' are in it.".to_owned(),
        );
    }
    if report.modes.iter().any(|mode| mode.currency.behind > 0) {
        let staleness = report.setup.as_ref().map_or(0.0, |setup| setup.max_staleness_seconds);
        lines.push(format!(
            "Behind a push: answers from memory while another process's write was on its way, as \
             promised within {} s.",
            plain(staleness)
        ));
    }
    for mode in &report.modes {
        let name = mode.mode.name();
        if let Some(error) = &mode.first_error {
            lines.push(format!("First error in mode {name}: {error}"));
        }
        if mode.ended == Ended::Interrupted {
            lines.push(format!("Mode {name} was ended after {:.1} s.", mode.seconds));
        }
        for it in &mode.currency.examples {
            lines.push(format!(
                "VIOLATION in mode {name}: key {} was shown at version {} from {}, {} after \
                 version {} or one before it was acknowledged{}",
                it.key,
                it.shown,
                it.source.name(),
                time(it.behind_ns as f64),
                it.acknowledged,
                if it.own { " in the same process" } else { "" }
            ));
        }
    }
    if lines.is_empty() {
        String::new()
    } else {
        format!("\n{}", wrapped(&lines.join("\n"), width))
    }
}

fn swept(sweep: &Sweep) -> Table {
    let mut table = Table::new(["keys", "size", "larder", "moka", "LRU", "OPT"]);
    for point in &sweep.points {
        let ratios = [point.larder, point.moka, point.lru, point.opt].map(percent);
        let size = [count(point.capacity_keys), bytes(point.capacity_bytes)];
        table.line(format!("{} %", plain(point.share * 100.0)), size.into_iter().chain(ratios));
    }
    table
}

/// Breaks lines between words where they would be longer than the terminal is wide.
fn wrapped(text: &str, width: usize) -> String {
    let mut all = String::new();
    for line in text.lines() {
        let mut column = 0;
        for word in line.split(' ') {
            let length = word.chars().count();
            if column > 0 && column + 1 + length > width {
                all.push_str("\n  ");
                column = 2;
            } else if column > 0 {
                all.push(' ');
                column += 1;
            }
            all.push_str(word);
            column += length;
        }
        all.push('\n');
    }
    all
}
