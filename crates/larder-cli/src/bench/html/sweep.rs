//! The picture of a sweep: hit ratios by the capacity of the memory tier.

use super::super::report::{Sweep, SweepPoint};
use super::figure::{Figure, Sample, Table};
use super::number::{bytes, count, percent};
use super::plot::{Axis, Ink, Plot, Shape, uncovered};

type HitRatio = fn(&SweepPoint) -> f64;

/// What was measured or computed at each capacity, the best first.
const CACHES: [(&str, Ink, HitRatio); 4] = [
    ("no cache can exceed (OPT)", Ink::Opt, |it| it.opt),
    ("larder", Ink::Both, |it| it.larder),
    ("plain moka", Ink::Moka, |it| it.moka),
    ("LRU", Ink::Lru, |it| it.lru),
];

pub(super) fn figure(sweep: &Sweep) -> Option<Figure> {
    let points: Vec<&SweepPoint> = sweep.points.iter().filter(|it| it.share > 0.0).collect();
    let (first, last) = (points.first()?, points.last()?);
    let place = |it: &SweepPoint| it.share.log10();
    let values = || points.iter().flat_map(|it| CACHES.map(|(_, _, value)| value(it)));
    let lowest = values().fold(1.0, f64::min);
    // Lines that lie close together are the point of it: no room is given to what has no points.
    let from = (lowest * 10.0).floor().clamp(0.0, 9.0) / 10.0;
    let to = (values().fold(0.0, f64::max) * 10.0).ceil().clamp(from * 10.0 + 1.0, 10.0) / 10.0;
    let step = if to - from > 0.5 { 2 } else { 1 };
    let top = (to * 10.0).round() as u32;
    let ticks =
        ((from * 10.0).round() as u32..=top).filter(|tenth| (top - tenth).is_multiple_of(step));
    let (mut left, mut right) = (place(first), place(last));
    if right - left < 0.1 {
        (left, right) = (left - 0.5, right + 0.5);
    }
    let curve = |value: HitRatio| points.iter().map(|it| (place(it), value(it))).collect();
    let lines = CACHES.map(|(_, ink, value)| Shape::Line(ink, curve(value)));
    let dots = CACHES.into_iter().rev().map(|(_, ink, value)| Shape::Dots(ink, curve(value)));
    let shapes = uncovered(lines).into_iter().chain(dots);
    let rows = points.iter().map(|it| {
        let values = CACHES.map(|(_, _, value)| percent(value(it)));
        let room = [short(it.share), count(it.capacity_keys), bytes(it.capacity_bytes)];
        room.into_iter().chain(values).collect()
    });
    let middle = points[points.len() / 2];
    Some(Figure {
        id: "sweep",
        title: "Hit ratio by the size of the memory tier",
        found: format!(
            "With room for {} of the {} keys, of {} accesses: larder {}, plain moka {}, LRU {}; no \
             cache can exceed {}.",
            short(middle.share),
            count(sweep.keys),
            count(sweep.accesses),
            percent(middle.larder),
            percent(middle.moka),
            percent(middle.lru),
            percent(middle.opt)
        ),
        axes: (
            "accesses that were hits".to_owned(),
            "room, as a share of all keys; each step is a multiple of the one before".to_owned(),
        ),
        legend: CACHES.map(|(name, ink, _)| (ink, Sample::Dots, name.to_owned())).into(),
        plot: Plot {
            x: Axis {
                from: left,
                to: right,
                ticks: points.iter().map(|it| (place(it), short(it.share))).collect(),
            },
            y: Axis {
                from,
                to,
                ticks: ticks
                    .map(|tenth| (f64::from(tenth) / 10.0, format!("{}\u{a0}%", tenth * 10)))
                    .collect(),
            },
            shapes: shapes.collect(),
        },
        caption: "The same accesses, one after the other, with room for so many results; the first \
                  access to a key is a miss for all. OPT is Belady’s algorithm, which knows the \
                  future, with room for 64 results more, for larder and moka throw out in batches of as \
                  many. The vertical axis need not begin at 0.",
        table: Table {
            caption: if sweep.interrupted {
                "Hit ratio by room; ended early, so that some sizes are missing".to_owned()
            } else {
                "Hit ratio by room".to_owned()
            },
            head: ["share of the keys", "results", "bytes", "OPT", "larder", "moka", "LRU"]
                .map(str::to_owned)
                .into(),
            rows: rows.collect(),
        },
    })
}

/// `5 %`, `2.5 %`
fn short(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent {
        _ if (percent - percent.round()).abs() < 0.005 => 0,
        _ if percent >= 10.0 => 0,
        _ if percent >= 0.1 => 1,
        _ => 3,
    };
    format!("{percent:.digits$}\u{a0}%")
}
