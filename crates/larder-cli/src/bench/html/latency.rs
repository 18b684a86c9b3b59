//! Pictures of latency: by source, and what readers waited in each mode.

use super::super::report::{Latency, Mode, ModeReport, Report, Source};
use super::figure::{Figure, Sample, Table, mode_ink, mode_name, source_ink, source_name};
use super::number::{count, time};
use super::plot::{Axis, Plot, Shape, uncovered};

/// From above.
const SOURCES: [Source; 6] =
    [Source::L1, Source::L2, Source::Stale, Source::Coalesced, Source::Loaded, Source::Postgres];

/// Fewer answers than this have no distribution to look at.
const FEW: u64 = 20;

/// A whole number of thirds of a power of ten (1, 2, 5) around all of them.
fn times(from: f64, to: f64) -> Axis {
    let near = |at: f64, up: bool| {
        let (power, rest) = (at.floor(), at - at.floor());
        let thirds = [0.0, 2.0_f64.log10(), 5.0_f64.log10(), 1.0];
        let fits = |it: &&f64| if up { **it >= rest - 1e-9 } else { **it <= rest + 1e-9 };
        let third = if up { thirds.iter().find(fits) } else { thirds.iter().rev().find(fits) };
        power + third.copied().unwrap_or(rest)
    };
    let (from, mut to) = (near(from.max(1.0).log10(), false), near(to.max(1.0).log10(), true));
    if to - from < 0.3 {
        to = from + 0.5;
    }
    let powers = from.floor() as i32..=to.ceil() as i32;
    let steps: &[f64] = if to - from < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let ticks = powers.flat_map(|power| steps.iter().map(move |it| it * 10_f64.powi(power)));
    let within = |at: f64| at.log10() >= from - 1e-9 && at.log10() <= to + 1e-9;
    Axis {
        from,
        to,
        ticks: ticks.filter(|at| within(*at)).map(|at| (at.log10(), round(at))).collect(),
    }
}

/// `20 µs`, for a tick.
fn round(ns: f64) -> String {
    let (value, unit) = match ns {
        _ if ns < 999.5 => (ns, "ns"),
        _ if ns < 999.5e3 => (ns / 1e3, "µs"),
        _ if ns < 999.5e6 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    format!("{value:.0}\u{a0}{unit}")
}

fn row(name: &str, latency: &Latency) -> Vec<String> {
    let it = &latency.quantiles;
    let times = [it.p50_ns, it.p90_ns, it.p99_ns, it.p999_ns, it.max_ns];
    let times = times.into_iter().map(|ns| time(ns as f64));
    [name.to_owned(), count(it.count)].into_iter().chain(times).collect()
}

fn head(first: &str) -> Vec<String> {
    [first, "answers", "p50", "p90", "p99", "p99.9", "max"].map(str::to_owned).into()
}

/// One hill for each source of a mode, and one for queries without a cache.
pub(super) fn by_source(report: &Report, mode: &ModeReport) -> Option<Figure> {
    let without = report.mode(Mode::None).filter(|none| none.mode != mode.mode);
    let all = || mode.latency.iter().chain(without.into_iter().flat_map(|it| &it.latency));
    let sources: Vec<&Latency> = SOURCES
        .into_iter()
        .filter_map(|source| all().find(|it| it.source == source && it.quantiles.count > 0))
        .collect();
    let hills: Vec<&Latency> = sources
        .iter()
        .copied()
        .filter(|it| it.quantiles.count >= FEW && !it.bars.is_empty())
        .collect();
    let from = hills.iter().flat_map(|it| it.bars.first()).map(|it| it.from_ns).min()?;
    let to = hills.iter().flat_map(|it| it.bars.last()).map(|it| it.to_ns).max()?;
    let x = times(from as f64, to as f64);
    let mut shapes = vec![];
    let mut ticks = vec![];
    for (i, latency) in hills.iter().rev().enumerate() {
        let (ink, floor) = (source_ink(latency.source), i as f64);
        let top = latency.bars.iter().map(|it| it.count).max().unwrap_or(1).max(1) as f64;
        let place = |ns: f64| ns.max(1.0).log10().clamp(x.from, x.to);
        let high = |count: u64| floor + 0.82 * count as f64 / top;
        let mut hill = vec![];
        if let (Some(first), Some(last)) = (latency.bars.first(), latency.bars.last()) {
            hill.push((place(first.from_ns as f64), floor));
            hill.extend(latency.bars.iter().map(|bar| {
                let middle = (bar.from_ns.max(1) as f64 * bar.to_ns.max(1) as f64).sqrt();
                (place(middle), high(bar.count))
            }));
            hill.push((place(last.to_ns as f64), floor));
        }
        shapes.push(Shape::Area(ink, hill.iter().map(|(x, y)| (*x, floor, *y)).collect()));
        shapes.push(Shape::Line(ink, hill));
        for (ns, tall) in [(latency.quantiles.p50_ns, 0.82), (latency.quantiles.p99_ns, 0.35)] {
            let at = place(ns as f64);
            shapes.push(Shape::Mark(ink, [(at, floor), (at, floor + tall)]));
        }
        ticks.push((floor, source_name(latency.source).to_owned()));
    }
    let found = hills
        .iter()
        .map(|it| format!("{} {}", source_name(it.source), time(it.quantiles.p50_ns as f64)));
    Some(Figure {
        id: "latency",
        title: "Latency by source",
        found: format!(
            "Half of the answers took at most: {}.",
            found.collect::<Vec<_>>().join("; ")
        ),
        axes: (
            "how many answers, each source for itself".to_owned(),
            "latency, from the call to the answer; each grid line is a multiple of the one before"
                .to_owned(),
        ),
        legend: vec![],
        plot: Plot { x, y: Axis { from: 0.0, to: hills.len() as f64, ticks }, shapes },
        caption: "The higher a hill, the more answers took so long. The tall mark in each is its \
                  median, the short one its 99th percentile. Sources with fewer than 20 answers are in \
                  the table alone.",
        table: Table {
            caption: format!(
                "Latency by source, with {}{}",
                mode_name(mode.mode),
                if without.is_some() { "; the last row is the mode without a cache" } else { "" }
            ),
            head: head("source"),
            rows: sources.iter().map(|it| row(source_name(it.source), it)).collect(),
        },
    })
}

/// What readers waited, whatever the answer's source.
pub(super) fn by_mode(report: &Report) -> Option<Figure> {
    let all = report.modes.iter().filter_map(|mode| {
        let latency = mode.latency.iter().find(|it| it.source == Source::All)?;
        (latency.quantiles.count > 0 && !latency.curve.is_empty()).then_some((mode.mode, latency))
    });
    let all: Vec<(Mode, &Latency)> = all.collect();
    let curves: Vec<(Mode, Vec<(f64, f64)>)> = all
        .iter()
        .map(|(mode, latency)| {
            // The slowest of n answers is at 1 - 1/n; a quantile of 1 would be infinitely far away.
            let last = (latency.quantiles.count as f64).log10();
            let curve = latency.curve.iter().map(|point| {
                let nines = -(1.0 - point.quantile.clamp(0.0, 1.0)).log10();
                (nines.clamp(0.0, last.max(0.01)), (point.ns.max(1) as f64).log10())
            });
            (*mode, curve.collect())
        })
        .collect();
    let points = || curves.iter().flat_map(|(_, curve)| curve);
    let right = points().map(|(x, _)| *x).fold(0.0, f64::max).max(1.0);
    let low = points().map(|(_, y)| *y).fold(f64::INFINITY, f64::min);
    let high = points().map(|(_, y)| *y).fold(f64::NEG_INFINITY, f64::max);
    if !low.is_finite() || !high.is_finite() {
        return None;
    }
    let y = times(10_f64.powf(low), 10_f64.powf(high));
    let found = all.iter().map(|(mode, latency)| {
        format!("{} {}", mode_name(*mode), time(latency.quantiles.p99_ns as f64))
    });
    Some(Figure {
        id: "percentiles",
        title: "Latency by percentile",
        found: format!("99 of 100 took at most: {}.", found.collect::<Vec<_>>().join("; ")),
        axes: (
            "latency of this share of the answers".to_owned(),
            "share of the answers".to_owned(),
        ),
        legend: all
            .iter()
            .map(|(mode, _)| (mode_ink(*mode), Sample::Line, mode_name(*mode).to_owned()))
            .collect(),
        plot: Plot {
            x: quantiles(right),
            y,
            shapes: uncovered(curves.into_iter().map(|(mode, curve)| match curve.len() {
                1 => Shape::Dots(mode_ink(mode), curve),
                _ => Shape::Line(mode_ink(mode), curve),
            })),
        },
        caption: "Read it from below: this share of all answers took no longer than the line shows. \
                  Each step to the right leaves out a tenth of the answers that the one before it \
                  left out.",
        table: Table {
            caption: "Latency of all answers, by mode".to_owned(),
            head: head("mode"),
            rows: all.iter().map(|(mode, it)| row(mode_name(*mode), it)).collect(),
        },
    })
}

fn quantiles(right: f64) -> Axis {
    let named = [(0.0, 0), (0.5, 0), (0.9, 0), (0.99, 0), (0.999, 1), (0.9999, 2), (0.99999, 3)];
    let further = [(0.999_999, 4), (0.999_999_9, 5), (0.999_999_99, 6)];
    let ticks = named.into_iter().chain(further).map(|(quantile, digits)| {
        let percent = quantile * 100.0;
        (-(1.0_f64 - quantile).log10(), format!("{percent:.digits$}\u{a0}%"))
    });
    Axis { from: 0.0, to: right, ticks: ticks.filter(|(at, _)| *at <= right + 1e-9).collect() }
}

/// Of all answers of a mode together, if there are any.
pub(super) fn of_all(mode: &ModeReport) -> Option<&Latency> {
    mode.latency.iter().find(|it| it.source == Source::All && it.quantiles.count > 0)
}
