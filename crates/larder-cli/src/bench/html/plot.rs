//! [`Plot`]: lines and areas between two axes, as SVG. The home of plotters.
//!
//! Colours, strokes and dashes are the page's CSS, so that they follow light, dark and paper:
//! plotters draws with a stand-in for each, which then becomes a class. Axes are linear here;
//! logarithms are in the points and in the places of the ticks.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::super::super::failure::Failure;

/// Plotters rounds to whole numbers, so a picture is drawn ten times as large as it is shown.
const SCALE: f64 = 10.0;
/// Of the labels, as shown.
const FONT: f64 = 13.0;
/// How wide a character of them is at most, on average.
const CHARACTER: f64 = 7.6;
/// Plotters divides by this what it writes as the size of a font.
const FONT_QUIRK: f64 = 1.24;

/// Width and height for a screen or a sheet of paper, and for a phone.
const SIZES: [(&str, f64, f64); 2] = [("wide", 880.0, 320.0), ("narrow", 420.0, 300.0)];

/// What a line or an area stands for. Its name is its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    Without,
    L1,
    L2,
    Both,
    Loaded,
    Coalesced,
    Stale,
    Moka,
    Lru,
    Opt,
}

const INKS: [Ink; 10] = [
    Ink::Without,
    Ink::L1,
    Ink::L2,
    Ink::Both,
    Ink::Loaded,
    Ink::Coalesced,
    Ink::Stale,
    Ink::Moka,
    Ink::Lru,
    Ink::Opt,
];

impl Ink {
    pub(super) fn class(self) -> &'static str {
        match self {
            Ink::Without => "without",
            Ink::L1 => "l1",
            Ink::L2 => "l2",
            Ink::Both => "both",
            Ink::Loaded => "loaded",
            Ink::Coalesced => "coalesced",
            Ink::Stale => "stale",
            Ink::Moka => "moka",
            Ink::Lru => "lru",
            Ink::Opt => "opt",
        }
    }
}

/// One side of a plot.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) from: f64,
    pub(super) to: f64,
    /// Where lines of the grid are, and what is written beside them.
    pub(super) ticks: Vec<(f64, String)>,
}

/// What is drawn, in this order.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    Line(Ink, Vec<(f64, f64)>),
    /// For each x the lower and the upper y.
    Area(Ink, Vec<(f64, f64, f64)>),
    Dots(Ink, Vec<(f64, f64)>),
    /// A mark across an area.
    Mark(Ink, [(f64, f64); 2]),
}

#[derive(Debug, Clone)]
pub(super) struct Plot {
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) shapes: Vec<Shape>,
}

/// Where lines lie upon each other all of them are seen: the one without gaps is drawn first.
pub(super) fn uncovered(lines: impl IntoIterator<Item = Shape>) -> Vec<Shape> {
    let mut lines: Vec<Shape> = lines.into_iter().collect();
    lines.sort_by_key(|shape| !matches!(shape, Shape::Line(Ink::Both, _)));
    lines
}

/// What a colour stands for, and the class that it becomes.
#[derive(Clone, Copy)]
enum Role {
    Line,
    Area,
    Dot,
    Mark,
    Grid,
    Axis,
    Label,
}

const ROLES: [(Role, &str); 7] = [
    (Role::Line, "line"),
    (Role::Area, "area"),
    (Role::Dot, "dot"),
    (Role::Mark, "mark"),
    (Role::Grid, "grid"),
    (Role::Axis, "axis"),
    (Role::Label, "label"),
];

fn stand_in(role: Role, ink: Ink) -> RGBColor {
    RGBColor(1, role as u8, ink as u8)
}

impl Axis {
    /// From 0 to a round number that is at least `to`, with ticks at round numbers.
    pub(super) fn from_zero(to: f64, label: impl Fn(f64) -> String) -> Axis {
        let to = if to.is_finite() && to > 0.0 { to } else { 1.0 };
        let step = round_step(to / 5.0);
        let count = (to / step - 1e-9).ceil().max(1.0);
        let ticks = (0..=count as u32).map(|i| f64::from(i) * step);
        Axis { from: 0.0, to: count * step, ticks: ticks.map(|at| (at, label(at))).collect() }
    }

    /// From 0 to exactly `to`.
    pub(super) fn up_to(to: f64, label: impl Fn(f64) -> String) -> Axis {
        let mut axis = Axis::from_zero(to, label);
        if to.is_finite() && to > 0.0 {
            axis.to = to;
            axis.ticks.retain(|(at, _)| *at <= to * (1.0 + 1e-9));
        }
        axis
    }

    /// With so few labels that none touches the next.
    fn thinned(&self, pixels: f64, room: impl Fn(&str) -> f64) -> Axis {
        let span = (self.to - self.from).abs().max(f64::MIN_POSITIVE);
        let place = |at: f64| (at - self.from) / span * pixels;
        let fits = |stride: usize| {
            let kept: Vec<_> = self.ticks.iter().step_by(stride).collect();
            kept.windows(2).all(|pair| {
                let [(a, left), (b, right)] = pair else { return true };
                place(*b) - place(*a) >= (room(left) + room(right)) / 2.0
            })
        };
        let all = self.ticks.len().max(1);
        let stride = (1..all).find(|stride| fits(*stride)).unwrap_or(all);
        let mut axis = self.clone();
        for (i, (_, label)) in axis.ticks.iter_mut().enumerate() {
            if i % stride != 0 {
                label.clear();
            }
        }
        axis
    }
}

/// 1, 2 or 5 times a power of ten, and at least `least`.
pub(super) fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().map(|by| by * power).find(|step| *step >= least * 0.999);
    step.unwrap_or(10.0 * power)
}

impl Plot {
    /// One picture for wide pages and one for narrow ones; `said` is for those who do not see them.
    pub(super) fn svg(&self, said: &str) -> Result<[String; 2], Failure> {
        let draw = |(class, width, height): (&str, f64, f64)| {
            let drawn = self.draw(width, height).map_err(|error| {
                Failure::other(format!("cannot draw a picture of the report: {error}"))
            })?;
            Ok(finish(&drawn, class, width, height, said))
        };
        let [wide, narrow] = SIZES;
        Ok([draw(wide)?, draw(narrow)?])
    }

    fn draw(&self, width: f64, height: f64) -> Result<String, Box<dyn std::error::Error>> {
        let width_of = |label: &str| label.chars().count() as f64 * CHARACTER;
        let widest = self.y.ticks.iter().map(|(_, label)| width_of(label)).fold(0.0, f64::max);
        let (left, right, top, bottom) = (widest + 14.0, 30.0, 10.0, 30.0);
        let x = self.x.thinned(width - left - right, |label| width_of(label) + 12.0);
        let y = self.y.thinned(height - top - bottom, |_| FONT * 1.4);

        let mut svg = String::new();
        {
            let pixels = |it: f64| (it * SCALE).round() as u32;
            let root = SVGBackend::with_string(&mut svg, (pixels(width), pixels(height)))
                .into_drawing_area();
            let mut chart = ChartBuilder::on(&root)
                .margin_top(pixels(top))
                .margin_right(pixels(right))
                .x_label_area_size(pixels(bottom))
                .y_label_area_size(pixels(left))
                .build_cartesian_2d(x, y)?;
            let font = ("sans-serif", FONT * SCALE * FONT_QUIRK).into_font();
            chart
                .configure_mesh()
                .bold_line_style(stand_in(Role::Grid, Ink::Without))
                .light_line_style(TRANSPARENT)
                .axis_style(stand_in(Role::Axis, Ink::Without))
                .label_style(font.color(&stand_in(Role::Label, Ink::Without)))
                .set_all_tick_mark_size(pixels(4.0))
                .draw()?;
            for shape in &self.shapes {
                match shape {
                    Shape::Line(ink, points) => {
                        let style = stand_in(Role::Line, *ink).stroke_width(20);
                        chart.draw_series([PathElement::new(points.clone(), style)])?;
                    }
                    Shape::Mark(ink, ends) => {
                        let style = stand_in(Role::Mark, *ink).stroke_width(20);
                        chart.draw_series([PathElement::new(ends.to_vec(), style)])?;
                    }
                    Shape::Area(ink, points) => {
                        let there = points.iter().map(|(x, low, _)| (*x, *low));
                        let back = points.iter().rev().map(|(x, _, high)| (*x, *high));
                        let style = stand_in(Role::Area, *ink).filled();
                        let around: Vec<_> = there.chain(back).collect();
                        chart.draw_series([Polygon::new(around, style)])?;
                    }
                    Shape::Dots(ink, points) => {
                        let style = stand_in(Role::Dot, *ink).filled();
                        let size = pixels(3.5);
                        chart.draw_series(points.iter().map(|at| Circle::new(*at, size, style)))?;
                    }
                }
            }
            root.present()?;
        }
        Ok(svg)
    }
}

/// Grid and labels where the ticks are, and nowhere else.
impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        let share = (value - self.from) / (self.to - self.from);
        low + (f64::from(high - low) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            vec![]
        } else {
            self.ticks.iter().map(|(at, _)| *at).collect()
        }
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, at: &f64) -> String {
        let tick = self.ticks.iter().find(|(tick, _)| tick == at);
        tick.map(|(_, label)| label.clone()).unwrap_or_default()
    }
}

/// Classes in the place of colours, and the beginning as a page needs it.
fn finish(drawn: &str, class: &str, width: f64, height: f64, said: &str) -> String {
    let (_, body) = drawn.split_once('>').unwrap_or_default();
    let mut body = body
        .replace(" opacity=\"1\"", "")
        .replace(" font-family=\"sans-serif\"", "")
        .replace(" stroke-width=\"20\"", "")
        .replace(" stroke-width=\"1\"", "");
    for (role, name) in ROLES {
        for ink in INKS {
            let RGBColor(r, g, b) = stand_in(role, ink);
            let becomes = format!("class=\"{name} {}\"", ink.class());
            for attribute in ["stroke", "fill"] {
                body = body.replace(&format!("{attribute}=\"#{r:02X}{g:02X}{b:02X}\""), &becomes);
            }
        }
    }
    let said = maud::html! { (said) }.into_string();
    format!(
        "<svg class=\"plot {class}\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{said}\">{body}",
        width * SCALE,
        height * SCALE,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot() -> Plot {
        Plot {
            x: Axis::up_to(60.0, |at| format!("{at} s")),
            y: Axis::from_zero(0.93, |at| format!("{:.0} %", at * 100.0)),
            shapes: vec![
                Shape::Area(Ink::L1, vec![(0.0, 0.0, 0.5), (60.0, 0.0, 0.9)]),
                Shape::Line(Ink::Both, vec![(0.0, 0.5), (60.0, 0.9)]),
                Shape::Dots(Ink::Opt, vec![(30.0, 0.7)]),
            ],
        }
    }

    #[test]
    fn no_colour_is_left_and_every_shape_has_its_class() {
        for svg in plot().svg("<what> is \"seen\"").unwrap_or_else(|_| panic!()) {
            assert!(!svg.contains('#'), "{svg}");
            for class in ["line both", "area l1", "dot opt", "grid ", "axis ", "label "] {
                assert!(svg.contains(&format!("class=\"{class}")), "{class}: {svg}");
            }
            assert!(svg.contains("aria-label=\"&lt;what&gt; is &quot;seen&quot;\""), "{svg}");
            assert!(svg.contains("60 s") && svg.contains("100 %"), "{svg}");
            assert!(svg.trim_end().ends_with("</svg>"), "{svg}");
        }
    }

    #[test]
    fn ticks_are_round_and_labels_do_not_touch() {
        let axis = Axis::from_zero(0.93, |at| format!("{at:.1}"));
        assert_eq!(axis.to, 1.0);
        assert_eq!(axis.ticks.len(), 6);
        let kept = |pixels| {
            let ticks = axis.thinned(pixels, |_| 30.0).ticks;
            ticks.into_iter().filter(|(_, label)| !label.is_empty()).count()
        };
        assert_eq!((kept(500.0), kept(100.0), kept(20.0)), (6, 3, 1));
        assert_eq!(round_step(0.03), 0.05);
        assert_eq!(round_step(7.0), 10.0);
        // Nothing to measure gives an axis all the same.
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Axis::from_zero(odd, |_| String::new()).to, 1.0);
        }
    }
}
