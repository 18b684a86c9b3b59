//! `--html`: the report as a page to look at.
//!
//! One file that needs nothing else: no network, no script, no fonts. `headline` is what comes
//! first, `course`, `latency` and `sweep` are the pictures, `facts` what was run and what the words
//! mean. `figure` puts a picture beside its numbers, `plot` draws it. All text passes through maud,
//! which escapes it.

mod course;
mod facts;
mod figure;
mod headline;
mod latency;
mod number;
mod plot;
mod series;
mod sweep;

use maud::{DOCTYPE, PreEscaped, html};

use super::super::failure::Failure;
use super::report::Report;

const STYLE: &str = include_str!("style.css");

/// Nothing is loaded and nothing is run, whatever the page may come to contain.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The whole page.
pub(in super::super) fn page(report: &Report) -> Result<String, Failure> {
    let lead = headline::lead(report);
    let figures = [
        course::hit_ratio(report),
        lead.and_then(|mode| course::sources(report, mode)),
        lead.or(report.modes.first()).and_then(|mode| latency::by_source(report, mode)),
        latency::by_mode(report),
        course::work(report),
        course::load(report),
        report.sweep.as_ref().and_then(sweep::figure),
    ];
    let figures =
        figures.iter().flatten().map(figure::Figure::draw).collect::<Result<Vec<_>, _>>()?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content={ "larder " (report.larder) };
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (headline::title(report)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "larder bench" }
                    p { (facts::subtitle(report)) }
                }
                main {
                    (headline::warnings(report))
                    (headline::tiles(report))
                    (headline::modes(report))
                    @for figure in &figures { (figure) }
                    @if figures.is_empty() {
                        p.nothing { "Nothing was measured that could be drawn." }
                    }
                    (headline::currency(report))
                    (facts::parameters(report))
                    (facts::words())
                }
                footer { p { "Made by larder " (report.larder) " · begun " (report.begun) } }
            }
        }
    };
    Ok(page.into_string())
}
