//! What a reader wants first: a few numbers, what is wrong, and all modes side by side.

use maud::{Markup, html};

use super::super::report::{Mode, ModeReport, Quantiles, RedisLoad, Report, SweepPoint, Versus};
use super::figure::{Table, mode_name, source_name};
use super::latency;
use super::number::{bytes, count, number, percent, seconds, time, times};

/// The mode that the report is about: the most that was cached.
pub(super) fn lead(report: &Report) -> Option<&ModeReport> {
    [Mode::Both, Mode::L2, Mode::L1].into_iter().find_map(|mode| report.mode(mode))
}

/// For the title: what it came to in a few words.
pub(super) fn title(report: &Report) -> String {
    let parts = lead(report).map(|mode| {
        let hits = format!("{} hits", percent(mode.hit_ratio));
        let less = mode.versus_none.and_then(|it| it.less_query_time);
        match less {
            Some(less) => format!("{hits}, {} less PostgreSQL time", times(less)),
            None => hits,
        }
    });
    match parts {
        Some(parts) => format!("larder bench: {parts}"),
        None => "larder bench".to_owned(),
    }
}

struct Tile {
    name: &'static str,
    value: String,
    note: String,
    wrong: bool,
}

fn tile(name: &'static str, value: String, note: String) -> Tile {
    Tile { name, value, note, wrong: false }
}

pub(super) fn tiles(report: &Report) -> Markup {
    let mut tiles = vec![];
    if let Some(mode) = lead(report).or(report.modes.first()) {
        tiles.extend(of_mode(report, mode));
    }
    if report.modes.is_empty()
        && let Some(sweep) = &report.sweep
        && let Some(point) = sweep.points.get(sweep.points.len() / 2)
    {
        tiles.extend(of_sweep(point));
    }
    html! {
        dl.tiles {
            @for Tile { name, value, note, wrong } in tiles {
                div.wrong[wrong] { dt { (name) } dd.value { (value) } dd.note { (note) } }
            }
        }
    }
}

fn of_mode(report: &Report, mode: &ModeReport) -> Vec<Tile> {
    let none = report.mode(Mode::None).filter(|none| none.reads > 0);
    let per_read = |it: &ModeReport| seconds(it.postgres.query_seconds / it.reads.max(1) as f64);
    let mut tiles = vec![];
    if mode.mode != Mode::None {
        let note = format!("of {} reads, {}", count(mode.reads), mode_name(mode.mode));
        tiles.push(tile("Hit ratio", percent(mode.hit_ratio), note));
    }
    let name = "Time in PostgreSQL";
    tiles.push(match (mode.versus_none, none) {
        (Some(versus), Some(none)) => {
            let value = match versus.less_query_time {
                Some(less) if less >= 1.0 => format!("{} less", times(less)),
                Some(less) => format!("{} more", times(1.0 / less.max(f64::MIN_POSITIVE))),
                None => "none left".to_owned(),
            };
            let note = format!("{} per read, {} without a cache", per_read(mode), per_read(none));
            tile(name, value, note)
        }
        _ => tile(name, per_read(mode), format!("per read, {}", mode_name(mode.mode))),
    });
    let note = match (mode.versus_none, none) {
        (Some(versus), Some(none)) => format!(
            "{} of the {} without a cache",
            times(versus.throughput),
            number(none.reads_per_second)
        ),
        _ => mode_name(mode.mode).to_owned(),
    };
    tiles.push(tile("Reads per second", number(mode.reads_per_second), note));
    let checked = report.modes.iter().map(|it| it.currency.checked).sum();
    tiles.push(Tile {
        name: "Violations",
        value: count(report.violations()),
        note: format!("of {} answers held against the writes", count(checked)),
        wrong: report.violations() > 0,
    });
    tiles
}

fn of_sweep(point: &SweepPoint) -> Vec<Tile> {
    let room = format!("with room for {} of the keys", percent(point.share));
    vec![
        tile("Hit ratio of larder", percent(point.larder), room.clone()),
        tile("Of plain moka", percent(point.moka), room.clone()),
        tile("Of LRU", percent(point.lru), room.clone()),
        tile("No cache can exceed", percent(point.opt), room),
    ]
}

/// What must not be overlooked.
pub(super) fn warnings(report: &Report) -> Markup {
    let mut warnings = vec![];
    if report.violations() > 0 {
        warnings.push(format!(
            "Larder gave {} answers that it must not give. They are listed under “Currency”.",
            count(report.violations())
        ));
    }
    if report.machine.debug_build {
        warnings.push(
            "Larder was built without optimizations: its times mean nothing. Build it with --release."
                .to_owned(),
        );
    }
    if report.interrupted {
        warnings.push(
            "The benchmark was ended early: modes may be missing, and the last one is shorter."
                .to_owned(),
        );
    }
    for mode in &report.modes {
        if mode.errors > 0 {
            warnings.push(format!(
                "{}: {} reads failed and are in no other number. The first of them: {}",
                mode_name(mode.mode),
                count(mode.errors),
                mode.first_error.as_deref().unwrap_or("nothing is known of it")
            ));
        }
    }
    html! {
        @if !warnings.is_empty() {
            ul.warnings role="alert" { @for warning in warnings { li { (warning) } } }
        }
    }
}

/// All modes side by side. A mode is a column: there are four at most.
pub(super) fn modes(report: &Report) -> Markup {
    if report.modes.is_empty() {
        return html! {};
    }
    let row = |name: &str, cell: &dyn Fn(&ModeReport) -> String| {
        let cells = report.modes.iter().map(cell);
        [name.to_owned()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    let all = |pick: fn(&Quantiles) -> u64| {
        move |mode: &ModeReport| {
            latency::of_all(mode).map_or("–".to_owned(), |it| time(pick(&it.quantiles) as f64))
        }
    };
    let versus = |mode: &ModeReport, what: &dyn Fn(&Versus) -> Option<f64>| {
        mode.versus_none.as_ref().and_then(what).map_or("–".to_owned(), times)
    };
    let redis = |mode: &ModeReport, what: fn(&RedisLoad) -> u64, each: bool| {
        mode.redis.as_ref().map_or("–".to_owned(), |it| {
            if each {
                bytes((what(it) as f64 / mode.reads.max(1) as f64).round() as u64)
            } else {
                bytes(what(it))
            }
        })
    };
    let table = Table {
        caption: "Each mode made its reads of the same workload, beginning with an empty cache"
            .to_owned(),
        head: [""]
            .into_iter()
            .chain(report.modes.iter().map(|it| mode_name(it.mode)))
            .map(str::to_owned)
            .collect(),
        rows: vec![
            row("ran for", &|it| seconds(it.seconds)),
            row("reads", &|it| count(it.reads)),
            row("reads per second", &|it| number(it.reads_per_second)),
            row("… times no cache", &|it| versus(it, &|it| Some(it.throughput))),
            row("hit ratio", &|it| match it.mode {
                Mode::None => "–".to_owned(),
                _ => percent(it.hit_ratio),
            }),
            row("coalesced reads", &|it| count(it.answers.coalesced)),
            row("stale reads, allowed", &|it| count(it.answers.stale)),
            row("latency, median", &all(|it| it.p50_ns)),
            row("latency, p99", &all(|it| it.p99_ns)),
            row("latency, longest", &all(|it| it.max_ns)),
            row("queries to PostgreSQL", &|it| count(it.postgres.queries)),
            row("… times fewer per read", &|it| versus(it, &|it| it.fewer_queries)),
            row("time in these queries", &|it| seconds(it.postgres.query_seconds)),
            row("… times less per read", &|it| versus(it, &|it| it.less_query_time)),
            row("writes", &|it| count(it.postgres.writes)),
            row("into Redis", &|it| redis(it, |it| it.bytes_in, false)),
            row("… for each read", &|it| redis(it, |it| it.bytes_in, true)),
            row("out of Redis", &|it| redis(it, |it| it.bytes_out, false)),
            row("… for each read", &|it| redis(it, |it| it.bytes_out, true)),
            row("commands that Redis failed", &|it| {
                it.redis.as_ref().map_or("–".to_owned(), |it| count(it.errors))
            }),
            row("reads that failed", &|it| count(it.errors)),
        ],
    };
    html! { section id="modes" { h2 { "The modes side by side" } (table.draw()) } }
}

/// Whether anything was served that was too old.
pub(super) fn currency(report: &Report) -> Markup {
    if report.modes.is_empty() {
        return html! {};
    }
    let table = Table {
        caption: "Answers held against the writes".to_owned(),
        head: [
            "mode",
            "answers",
            "writes",
            "unacknowledged",
            "behind, allowed",
            "by p99",
            "by at most",
            "violations",
        ]
        .map(str::to_owned)
        .into(),
        rows: report
            .modes
            .iter()
            .map(|mode| {
                let it = &mode.currency;
                let by = |ns: u64| if it.behind == 0 { "–".to_owned() } else { time(ns as f64) };
                vec![
                    mode_name(mode.mode).to_owned(),
                    count(it.checked),
                    count(it.acknowledged),
                    count(it.unacknowledged),
                    count(it.behind),
                    by(it.behind_by.p99_ns),
                    by(it.behind_by.max_ns),
                    count(it.violations),
                ]
            })
            .collect(),
    };
    let examples = report.modes.iter().flat_map(|mode| {
        mode.currency.examples.iter().map(move |it| {
            vec![
                mode_name(mode.mode).to_owned(),
                source_name(it.source).to_owned(),
                count(it.key.into()),
                count(it.shown),
                count(it.acknowledged),
                time(it.behind_ns as f64),
                if it.own { "this process" } else { "another" }.to_owned(),
            ]
        })
    });
    let examples = Table {
        caption: "The first violations".to_owned(),
        head: ["mode", "source", "key", "shown", "acknowledged", "behind by", "written by"]
            .map(str::to_owned)
            .into(),
        rows: examples.take(50).collect(),
    };
    html! {
        section id="currency" {
            h2 { "Currency" }
            p {
                "Every answer shows the version of its key, and is held against the versions whose \
                 invalidation had been acknowledged before the read began."
            }
            (table.draw())
            (examples.draw())
        }
    }
}
