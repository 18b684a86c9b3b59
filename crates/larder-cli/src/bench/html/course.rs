//! Pictures over time: hits, where answers came from, and the load on PostgreSQL.

use super::super::report::{Answers, Mode, ModeReport, Moment, Report, Source};
use super::figure::{Figure, Sample, Table, mode_ink, mode_name, source_ink, source_name};
use super::number::{count, number, percent, seconds, short};
use super::plot::{Axis, Plot, Shape, uncovered};
use super::series::{Clock, merged};

/// Modes that have a course to show.
fn shown(report: &Report, caching: bool) -> Vec<&ModeReport> {
    let modes = report.modes.iter();
    modes.filter(|it| !it.series.is_empty() && (it.mode != Mode::None || !caching)).collect()
}

fn head(modes: &[&ModeReport], clock: Clock) -> Vec<String> {
    let modes = modes.iter().map(|mode| mode_name(mode.mode).to_owned());
    [clock.title().to_owned()].into_iter().chain(modes).collect()
}

/// A row for each part of the time, and one for the whole run.
fn rows<T>(
    clock: Clock,
    modes: &[&ModeReport],
    part: impl Fn(&Moment) -> T,
    whole: impl Fn(&ModeReport) -> T,
    text: impl Fn(T) -> String,
) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = clock
        .table(modes, part)
        .into_iter()
        .map(|(called, values)| {
            let values = values.into_iter().map(|value| value.map_or("–".to_owned(), &text));
            [called].into_iter().chain(values).collect()
        })
        .collect();
    let wholes = modes.iter().map(|mode| text(whole(mode)));
    rows.push(["the whole run".to_owned()].into_iter().chain(wholes).collect());
    rows
}

pub(super) fn hit_ratio(report: &Report) -> Option<Figure> {
    let modes = shown(report, true);
    let best = modes.iter().max_by(|a, b| a.hit_ratio.total_cmp(&b.hit_ratio))?;
    let clock = Clock::of(modes.iter().copied());
    let shapes = modes.iter().flat_map(|mode| {
        let lines = clock.lines(mode, |it| (it.answers.total() > 0).then_some(it.hit_ratio));
        lines.into_iter().map(|line| course(mode, line))
    });
    Some(Figure {
        id: "hit-ratio",
        title: "Hit ratio over time",
        found: format!(
            "Most hits with {}: {} of {} reads.",
            mode_name(best.mode),
            percent(best.hit_ratio),
            count(best.reads)
        ),
        axes: ("answers that waited for no query".to_owned(), clock.title().to_owned()),
        legend: legend(&modes),
        plot: Plot {
            x: clock.axis(),
            y: Axis::from_zero(1.0, |at| format!("{:.0}\u{a0}%", at * 100.0)),
            shapes: uncovered(shapes),
        },
        caption: "Each mode begins with nothing in the cache. What it settles at is what writes and \
                  the time to live leave of it.",
        table: Table {
            caption: "Hit ratio".to_owned(),
            head: head(&modes, clock),
            rows: rows(clock, &modes, |it| it.hit_ratio, |it| it.hit_ratio, percent),
        },
    })
}

/// From below: what is a hit, and what is none.
const SOURCES: [Source; 5] =
    [Source::L1, Source::L2, Source::Stale, Source::Coalesced, Source::Loaded];

fn of(answers: &Answers, source: Source) -> u64 {
    match source {
        Source::All => answers.total(),
        Source::L1 => answers.l1,
        Source::L2 => answers.l2,
        Source::Loaded => answers.loaded,
        Source::Coalesced => answers.coalesced,
        Source::Stale => answers.stale,
        Source::Postgres => answers.postgres,
    }
}

fn share(answers: &Answers, source: Source) -> f64 {
    of(answers, source) as f64 / answers.total().max(1) as f64
}

/// Where the answers of one mode came from.
pub(super) fn sources(report: &Report, mode: &ModeReport) -> Option<Figure> {
    if mode.series.is_empty() || mode.reads == 0 || mode.mode == Mode::None {
        return None;
    }
    let clock = Clock::of([mode].into_iter());
    let used: Vec<Source> =
        SOURCES.into_iter().filter(|source| of(&mode.answers, *source) > 0).collect();
    let mut parts = merged(&mode.series, 60);
    parts.retain(|it| it.answers.total() > 0);
    let mut shapes = vec![];
    let mut below = vec![0.0; parts.len()];
    for source in &used {
        let above: Vec<f64> =
            parts.iter().zip(&below).map(|(it, low)| low + share(&it.answers, *source)).collect();
        let mut band: Vec<(f64, f64, f64)> = vec![];
        for ((part, low), high) in parts.iter().zip(&below).zip(&above) {
            // To both ends of the run, not from the middle of a part to the middle of another.
            let first = band.is_empty().then_some(part.at_seconds);
            let middle = part.at_seconds + part.seconds / 2.0;
            let at = first.into_iter().chain([middle]);
            band.extend(at.map(|at| (clock.place(mode, at), *low, *high)));
        }
        if let (Some((_, low, high)), Some(part)) = (band.last().copied(), parts.last()) {
            band.push((clock.place(mode, part.at_seconds + part.seconds), low, high));
        }
        let edge = band.iter().map(|(x, _, high)| (*x, *high)).collect();
        shapes.push(Shape::Area(source_ink(*source), band));
        shapes.push(Shape::Line(source_ink(*source), edge));
        below = above;
    }
    let table: Vec<(Source, Vec<String>)> = SOURCES
        .into_iter()
        .map(|source| {
            let modes = shown(report, true);
            let cells = modes.iter().map(|it| {
                let answers = of(&it.answers, source);
                format!("{} ({})", percent(share(&it.answers, source)), count(answers))
            });
            (source, cells.collect())
        })
        .collect();
    let found = used.iter().map(|source| {
        format!("{} {}", source_name(*source), percent(share(&mode.answers, *source)))
    });
    Some(Figure {
        id: "sources",
        title: "Where answers came from",
        found: format!("With {}: {}.", mode_name(mode.mode), found.collect::<Vec<_>>().join("; ")),
        axes: ("share of the answers".to_owned(), clock.title().to_owned()),
        legend: used
            .iter()
            .rev()
            .map(|it| (source_ink(*it), Sample::Area, source_name(*it).to_owned()))
            .collect(),
        plot: Plot {
            x: clock.axis(),
            y: Axis::from_zero(1.0, |at| format!("{:.0}\u{a0}%", at * 100.0)),
            shapes,
        },
        caption: "Layers lie in the order of the legend. Memory answers what it holds, Redis what \
                  another process has loaded or memory has lost; a loaded answer ran the query, and \
                  a coalesced one waited for another read that did.",
        table: Table {
            caption: "Answers by source, in the whole run".to_owned(),
            head: head(&shown(report, true), clock)
                .into_iter()
                .enumerate()
                .map(|(i, name)| if i == 0 { "source".to_owned() } else { name })
                .collect(),
            rows: table
                .into_iter()
                .map(|(source, cells)| {
                    [source_name(source).to_owned()].into_iter().chain(cells).collect()
                })
                .collect(),
        },
    })
}

/// How long PostgreSQL worked for each read.
fn per_read(moment: &Moment) -> f64 {
    moment.queries_running * moment.seconds / moment.answers.total().max(1) as f64
}

fn per_read_whole(mode: &ModeReport) -> f64 {
    mode.postgres.query_seconds / mode.reads.max(1) as f64
}

/// The load for the same work: closed loops with a cache ask far more.
pub(super) fn work(report: &Report) -> Option<Figure> {
    let modes = shown(report, false);
    let clock = Clock::of(modes.iter().copied());
    let lines: Vec<_> = modes
        .iter()
        .flat_map(|mode| {
            let lines = clock.lines(mode, |it| (it.answers.total() > 0).then(|| per_read(it)));
            lines.into_iter().map(move |line| (*mode, line))
        })
        .collect();
    let highest = lines.iter().flat_map(|(_, line)| line).map(|(_, y)| *y).fold(0.0, f64::max);
    if highest <= 0.0 {
        return None;
    }
    let found = modes
        .iter()
        .map(|mode| format!("{} {}", mode_name(mode.mode), seconds(per_read_whole(mode))));
    Some(Figure {
        id: "work",
        title: "PostgreSQL’s time for each read",
        found: format!("{}.", sentence(&found.collect::<Vec<_>>().join("; "))),
        axes: ("time in queries per read".to_owned(), clock.title().to_owned()),
        legend: legend(&modes),
        plot: Plot {
            x: clock.axis(),
            y: Axis::from_zero(highest, |at| short(&seconds(at))),
            shapes: filled(&modes, &lines),
        },
        caption: "The time that queries took in PostgreSQL, divided by the reads answered: the load \
                  for the same work, with the cache and without.",
        table: Table {
            caption: "PostgreSQL’s time for each read".to_owned(),
            head: head(&modes, clock),
            rows: rows(clock, &modes, per_read, per_read_whole, seconds),
        },
    })
}

/// The load as PostgreSQL feels it.
pub(super) fn load(report: &Report) -> Option<Figure> {
    let modes = shown(report, false);
    let clock = Clock::of(modes.iter().copied());
    let lines: Vec<_> = modes
        .iter()
        .flat_map(|mode| {
            let lines = clock.lines(mode, |it| Some(it.queries_running));
            lines.into_iter().map(move |line| (*mode, line))
        })
        .collect();
    let highest = lines.iter().flat_map(|(_, line)| line).map(|(_, y)| *y).fold(0.0, f64::max);
    if highest <= 0.0 {
        return None;
    }
    let found = modes.iter().map(|mode| {
        format!(
            "{} {} at {} reads per second",
            mode_name(mode.mode),
            number(mode.postgres.queries_running),
            number(mode.reads_per_second)
        )
    });
    Some(Figure {
        id: "load",
        title: "Load on PostgreSQL over time",
        found: format!("Queries at a time: {}.", found.collect::<Vec<_>>().join("; ")),
        axes: ("queries running at a time".to_owned(), clock.title().to_owned()),
        legend: legend(&modes),
        plot: Plot {
            x: clock.axis(),
            y: Axis::from_zero(highest, |at| short(&number(at))),
            shapes: filled(&modes, &lines),
        },
        caption: "Readers ask again as soon as they are answered, so that modes with a cache make \
                  many more reads in the same time: the picture before this one compares like with \
                  like.",
        table: Table {
            caption: "Queries running at a time, on average".to_owned(),
            head: head(&modes, clock),
            rows: rows(
                clock,
                &modes,
                |it| it.queries_running,
                |it| it.postgres.queries_running,
                number,
            ),
        },
    })
}

fn legend(modes: &[&ModeReport]) -> Vec<(super::plot::Ink, Sample, String)> {
    let modes = modes.iter();
    modes.map(|it| (mode_ink(it.mode), Sample::Line, mode_name(it.mode).to_owned())).collect()
}

/// A line, or what is left of it in a run with a single part.
fn course(mode: &ModeReport, line: Vec<(f64, f64)>) -> Shape {
    match line.len() {
        1 => Shape::Dots(mode_ink(mode.mode), line),
        _ => Shape::Line(mode_ink(mode.mode), line),
    }
}

/// Lines, with the area below the one without a cache filled: what there is to be saved.
fn filled(modes: &[&ModeReport], lines: &[(&ModeReport, Vec<(f64, f64)>)]) -> Vec<Shape> {
    let fill = modes.iter().map(|it| it.mode).find(|mode| *mode == Mode::None);
    let areas = lines.iter().filter(|(mode, _)| Some(mode.mode) == fill).map(|(mode, line)| {
        let band = line.iter().map(|(x, y)| (*x, 0.0, *y)).collect();
        Shape::Area(mode_ink(mode.mode), band)
    });
    let lines = lines.iter().map(|(mode, line)| course(mode, line.clone()));
    areas.chain(uncovered(lines)).collect()
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
