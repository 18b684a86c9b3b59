//! [`Figure`]: a picture with its words and its numbers.

use maud::{Markup, PreEscaped, html};

use super::super::super::failure::Failure;
use super::super::report::{Mode, Source};
use super::plot::{Ink, Plot};

pub(super) struct Figure {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What it came to, in a sentence. Those who do not see the picture are told this as well.
    pub(super) found: String,
    /// What the vertical axis is, and the horizontal one.
    pub(super) axes: (String, String),
    pub(super) legend: Vec<(Ink, Sample, String)>,
    pub(super) plot: Plot,
    /// How to read it.
    pub(super) caption: &'static str,
    pub(super) table: Table,
}

/// What a legend shows of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sample {
    Line,
    Dots,
    Area,
}

/// The first cell of each row is its head.
pub(super) struct Table {
    pub(super) caption: String,
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Figure {
    pub(super) fn draw(&self) -> Result<Markup, Failure> {
        let Figure { id, title, found, axes: (y, x), legend, plot, caption, table } = self;
        let [wide, narrow] = plot.svg(&format!("{title}. {found}"))?;
        Ok(html! {
            section id=(id) {
                div.picture {
                    h2 { (title) }
                    p { (found) }
                    figure {
                        @if !legend.is_empty() {
                            ul.legend {
                                @for (ink, sample, name) in legend {
                                    li { (sample.draw(*ink)) (name) }
                                }
                            }
                        }
                        p.axis-y { (y) }
                        (PreEscaped(wide))
                        (PreEscaped(narrow))
                        p.axis-x { (x) }
                        figcaption { (caption) }
                    }
                }
                (table.draw())
            }
        })
    }
}

impl Sample {
    fn draw(self, ink: Ink) -> Markup {
        let ink = ink.class();
        html! {
            svg.sample viewBox="0 0 300 140" aria-hidden="true" {
                @if self == Sample::Area {
                    rect class={ "area " (ink) } x="20" y="10" width="260" height="120" {}
                } @else {
                    polyline class={ "line " (ink) } points="0,70 300,70" {}
                }
                @if self == Sample::Dots {
                    circle class={ "dot " (ink) } cx="150" cy="70" r="35" {}
                }
            }
        }
    }
}

impl Table {
    pub(super) fn draw(&self) -> Markup {
        html! {
            @if !self.rows.is_empty() {
                // Wider than a phone, it is moved there by itself, and by the keyboard.
                div.table tabindex="0" role="region" aria-label=(self.caption) {
                    table {
                        caption { (self.caption) }
                        thead { tr { @for name in &self.head { th scope="col" { (name) } } } }
                        tbody {
                            @for row in &self.rows {
                                tr {
                                    @for (i, cell) in row.iter().enumerate() {
                                        @if i == 0 { th scope="row" { (cell) } }
                                        @else { td { (cell) } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::None => "no cache",
        Mode::L1 => "memory alone",
        Mode::L2 => "Redis alone",
        Mode::Both => "memory over Redis",
    }
}

pub(super) fn mode_ink(mode: Mode) -> Ink {
    match mode {
        Mode::None => Ink::Without,
        Mode::L1 => Ink::L1,
        Mode::L2 => Ink::L2,
        Mode::Both => Ink::Both,
    }
}

pub(super) fn source_name(source: Source) -> &'static str {
    match source {
        Source::All => "all answers",
        Source::L1 => "memory (L1)",
        Source::L2 => "Redis (L2)",
        Source::Loaded => "loaded",
        Source::Coalesced => "coalesced",
        Source::Stale => "stale, allowed",
        Source::Postgres => "no cache",
    }
}

pub(super) fn source_ink(source: Source) -> Ink {
    match source {
        Source::All => Ink::Both,
        Source::L1 => Ink::L1,
        Source::L2 => Ink::L2,
        Source::Loaded => Ink::Loaded,
        Source::Coalesced => Ink::Coalesced,
        Source::Stale => Ink::Stale,
        Source::Postgres => Ink::Without,
    }
}
