//! The dashboard. What does not fit is left out from the bottom up, queries last.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table, Wrap};

use super::app::App;
use crate::failure::{counted, plural};
use crate::stats::print::{next, per_second, percent};
use crate::stats::{Sort, nobody, sort_flows};
use crate::text::{bytes, duration, thousands};
use larder::stats::Latency;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const HELP: &str = "q, Esc, Ctrl-C: end\ns, Left, Right: sort the queries by something else\n\
    Up, Down: scroll them\n?: this, and away again\n\nRates are per second, by what each process \
    published last and before.";

pub(super) fn draw(app: &App, frame: &mut Frame) {
    let area = frame.area();
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    frame.render_widget(title(app, head.width), head);
    let said = match () {
        () if app.help => Some(HELP.to_owned()),
        () if !app.asked => Some("asking Redis …".to_owned()),
        () if !app.answered && app.fleet.processes.is_empty() => {
            Some("Redis does not tell what is published; larder check may say why.".to_owned())
        }
        () if app.fleet.processes.is_empty() => Some(nobody(&app.namespace, app.fleet.skipped)),
        () => None,
    };
    if let Some(said) = said {
        frame.render_widget(Paragraph::new(said).wrap(Wrap { trim: false }), body);
        return;
    }
    // Each part as high as it would like to be, as long as there is room; the queries take the rest.
    let (views, processes) = (app.fleet.views().len(), app.fleet.processes.len());
    let wants = [
        (6, body.height >= 6),
        (4, body.height >= 30),
        (1 + views.min(5), views > 0 && body.height >= 16),
        (1 + processes.min(if body.height >= 30 { 6 } else { 3 }), body.height >= 20),
        (1, body.height >= 8),
    ];
    let height =
        |(lines, fits): (usize, bool)| Constraint::Length(if fits { lines as u16 } else { 0 });
    let [rates, curves, views, processes, hidden] = wants.map(height);
    let parts = Layout::vertical([rates, curves, Constraint::Min(2), views, processes, hidden]);
    let [rates, curves, queries, views, processes, hidden] = parts.areas(body);
    draw_rates(app, frame, rates);
    draw_curves(app, frame, curves);
    draw_queries(app, frame, queries);
    draw_views(app, frame, views);
    draw_processes(app, frame, processes);
    let shown = [queries, views, processes].map(|part| usize::from(part.height.saturating_sub(1)));
    frame.render_widget(Paragraph::new(Span::styled(left_out(app, shown), FAINT)), hidden);
}

/// Says what there was no room for: that there is nothing below a table is said by nothing else.
fn left_out(app: &App, shown: [usize; 3]) -> String {
    let queries = app.fleet.flow().1.len().saturating_sub(app.scroll);
    let all = [queries, app.fleet.views().len(), app.fleet.processes.len()];
    let names = ["query", "view", "process"];
    let parts: Vec<String> = all
        .into_iter()
        .zip(shown)
        .zip(names)
        .filter(|((all, shown), _)| all > shown)
        .map(|((all, shown), name)| counted(all - shown, name))
        .collect();
    if parts.is_empty() { String::new() } else { format!("not shown: {}", parts.join(", ")) }
}

fn title(app: &App, width: u16) -> Line<'static> {
    let processes = app.fleet.processes.len();
    let mut spans = vec![Span::styled(format!("larder {}  ", app.namespace), BOLD)];
    if app.asked && !app.answered {
        spans.push(Span::styled("no answer from Redis", Style::new().fg(Color::Red)))
    } else {
        spans.push(Span::raw(counted(processes, "process")))
    }
    if width >= 70 {
        spans.push(Span::styled("  q: end  s: sort  ?: help", FAINT));
    }
    Line::from(spans)
}

fn draw_rates(app: &App, frame: &mut Frame, area: Rect) {
    let (flow, _) = app.fleet.flow();
    let wide = area.width >= 70;
    let [left, right] = if wide {
        Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(area)
    } else {
        [area, Rect { width: 0, ..area }]
    };
    let line = |name: &'static str, rate: f64, colour: Color| {
        let share = percent((flow.reads() > 0.0).then(|| rate / flow.reads()));
        Row::new([
            Cell::from(Span::styled(name, Style::new().fg(colour))),
            Cell::from(Line::from(per_second(rate)).right_aligned()),
            Cell::from(Line::from(share).right_aligned()),
        ])
    };
    let rows = [
        line("memory", flow.l1_hits, Color::Green),
        line("Redis", flow.l2_hits, Color::Cyan),
        line("under way", flow.coalesced, Color::Blue),
        line("loaded", flow.loaded, Color::Yellow),
        line("stale, failed", flow.stale + flow.failed, Color::Red),
    ];
    let widths = [Constraint::Length(14), Constraint::Length(10), Constraint::Length(9)];
    let header = header(&["answered by", "reads/s", "share"]);
    frame.render_widget(Table::new(rows, widths).header(header), left);
    let quantiles = |latency: &Latency| {
        let of = |share| latency.quantile(share).map_or("-".to_owned(), duration);
        format!("p50 {}, p99 {}", of(0.5), of(0.99))
    };
    let total = app.fleet.total();
    let rest = app.fleet.rest();
    let lines = vec![
        Line::from(vec![
            Span::styled("hit ratio ", BOLD),
            Span::styled(percent(flow.hit_ratio()), BOLD.fg(Color::Green)),
            Span::raw(format!(" now, {} in all", percent(total.hit_ratio()))),
        ]),
        Line::from(format!("Redis     {}", quantiles(&flow.lookup_latency))),
        Line::from(format!("loads     {}", quantiles(&flow.load_latency))),
        Line::from(format!(
            "loads {}/s, failed {}/s",
            per_second(flow.loads),
            per_second(flow.load_errors)
        )),
        Line::from(format!(
            "invalidations {}/s, refreshes {}/s",
            per_second(flow.invalidations),
            per_second(flow.refreshes)
        )),
        Line::from(format!(
            "{} {}, {}",
            thousands(rest.entries),
            plural(rest.entries, "result"),
            bytes(rest.memory_bytes)
        )),
    ];
    if wide {
        frame.render_widget(Paragraph::new(lines), right);
    }
}

fn draw_curves(app: &App, frame: &mut Frame, area: Rect) {
    if area.height < 3 {
        return;
    }
    let width = usize::from(area.width) / 2;
    let newest = |value: &dyn Fn(&crate::fleet::Flow) -> u64| -> Vec<u64> {
        let skip = app.past.len().saturating_sub(width.saturating_sub(2));
        app.past.iter().skip(skip).map(value).collect()
    };
    let ratio = newest(&|flow| (1000.0 * flow.hit_ratio().unwrap_or(0.0)) as u64);
    let loads = newest(&|flow| (100.0 * flow.loads) as u64);
    let halves = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]);
    let [left, right] = halves.areas(area);
    let block = |title: &'static str| Block::new().borders(Borders::TOP).title(title);
    let curve = Sparkline::default().block(block("hit ratio")).max(1000).data(&ratio);
    frame.render_widget(curve.style(Style::new().fg(Color::Green)), left);
    let curve = Sparkline::default().block(block("loads/s")).data(&loads);
    frame.render_widget(curve.style(Style::new().fg(Color::Yellow)), right);
}

fn header(names: &[&'static str]) -> Row<'static> {
    let cell = |(at, name): (usize, &&'static str)| match at {
        0 => Cell::from(*name),
        _ => Cell::from(Line::from(*name).right_aligned()),
    };
    Row::new(names.iter().enumerate().map(cell).collect::<Vec<_>>()).style(BOLD)
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

/// All of it is what happens in a second: a total beside a rate would be taken for one.
fn draw_queries(app: &App, frame: &mut Frame, area: Rect) {
    let (_, flows) = app.fleet.flow();
    let wide = area.width >= 70;
    let rows = sort_flows(&flows, app.sort).into_iter().skip(app.scroll).map(|(name, flow)| {
        let mut cells = vec![
            Cell::from(name.clone()),
            right(per_second(flow.reads())),
            right(percent(flow.hit_ratio())),
        ];
        if wide {
            cells.push(right(per_second(flow.loads)));
            cells.push(right(per_second(flow.failed + flow.load_errors)));
            cells.push(right(duration(Duration::from_secs_f64(flow.postgres.max(0.0)))));
            let p99 = flow.load_latency.quantile(0.99);
            cells.push(right(p99.map_or("-".to_owned(), duration)));
        }
        Row::new(cells)
    });
    let by = match app.sort {
        Sort::Reads => "query, by reads",
        Sort::Postgres => "query, by PostgreSQL",
        Sort::Loads => "query, by loads",
        Sort::Errors => "query, by errors",
        Sort::Hits => "query, by hits",
        Sort::Name => "query, by name",
    };
    let names = [by, "reads/s", "hits", "loads/s", "errors/s", "PostgreSQL/s", "load p99"];
    let count = if wide { names.len() } else { 3 };
    let mut widths = vec![Constraint::Min(12)];
    let others = [9, 8, 9, 8, 13, 10].map(Constraint::Length);
    widths.extend(&others[..count - 1]);
    frame.render_widget(Table::new(rows, widths).header(header(&names[..count])), area);
}

fn draw_views(app: &App, frame: &mut Frame, area: Rect) {
    let rows = app.fleet.views().into_iter().map(|view| {
        let state = match view.failures_in_a_row {
            0 => view.last.clone().unwrap_or_else(|| "-".to_owned()),
            failures => format!("failed {failures} times in a row"),
        };
        Row::new([view.view.clone(), next(&view), state])
    });
    let widths = [Constraint::Min(14), Constraint::Length(14), Constraint::Min(10)];
    let header = Row::new(["view", "next", "last"]).style(BOLD);
    frame.render_widget(Table::new(rows, widths).header(header), area);
}

fn draw_processes(app: &App, frame: &mut Frame, area: Rect) {
    let rows = app.fleet.processes.iter().map(|process| {
        Row::new([
            Cell::from(format!("{} {}", process.host, process.pid)),
            right(thousands(process.cache.entries)),
            right(bytes(process.cache.memory_bytes)),
            right(format!("{} ago", duration(process.age))),
        ])
    });
    let widths = [
        Constraint::Min(14),
        Constraint::Length(9),
        Constraint::Length(11),
        Constraint::Length(13),
    ];
    let header = header(&["process", "entries", "memory", "heard"]);
    frame.render_widget(Table::new(rows, widths).header(header), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder::stats::{FleetStats, ProcessStats};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyCode;

    fn process(uptime_ms: u64, times: u64) -> ProcessStats {
        let query = |name: &str, hits: u64, loaded: u64| {
            serde_json::json!({ "name": name, "l1_hits": times * hits, "loaded": times * loaded,
                "loads": times * loaded })
        };
        let published = serde_json::json!({
            "version": 1, "id": "a", "host": "shop-1", "pid": 4711, "larder": "0.1.0",
            "uptime_ms": uptime_ms, "interval_ms": 1000,
            "cache": { "entries": 1234, "memory_bytes": 1_048_576, "invalidations": times },
            "queries": [query("revenue by region", 90, 10), query("stock", 300, 0)],
            "views": [{ "view": "daily_revenue", "activity": "idle", "refreshes": times,
                "last": "refreshed, 2 rows inserted, 2 deleted" }],
        });
        serde_json::from_value(published).unwrap()
    }

    fn watched() -> App {
        let mut app = App::new("shop".to_owned());
        for times in 1..5 {
            let processes = vec![process(1000 * times, times)];
            let mut stats = FleetStats::default();
            stats.processes = processes;
            app.observe(Some(stats));
        }
        app
    }

    fn drawn(app: &App, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(app, frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_large_terminal_shows_all_parts() {
        let screen = drawn(&watched(), 120, 40);
        for words in [
            "larder shop",
            "1 process",
            "memory",
            "390",
            "97.5 %",
            "hit ratio",
            "loads/s",
            "revenue by region",
            "stock",
            "daily_revenue",
            "when asked",
            "shop-1 4711",
            "1,234",
        ] {
            assert!(screen.contains(words), "{words}:\n{screen}");
        }
    }

    #[test]
    fn smaller_ones_show_what_matters_most_and_the_smallest_do_no_harm() {
        let screen = drawn(&watched(), 80, 24);
        for words in ["97.5 %", "p99", "stock", "daily_revenue", "invalidations 1.00/s"] {
            assert!(screen.contains(words), "{words}:\n{screen}");
        }
        let screen = drawn(&watched(), 40, 15);
        for words in ["larder shop", "memory", "390", "stock"] {
            assert!(screen.contains(words), "{words}:\n{screen}");
        }
        assert!(!screen.contains("4711"), "{screen}");
        for (width, height) in [(40, 5), (20, 3), (3, 2), (1, 1)] {
            drawn(&watched(), width, height);
        }
    }

    #[test]
    fn what_has_no_room_is_said() {
        let mut app = watched();
        let many = |times: u64| {
            let mut stats = FleetStats::default();
            stats.processes = (0..9_u32)
                .map(|number| {
                    let mut process = process(1000 * times, times);
                    process.id = format!("p{number}");
                    process.pid = number;
                    process
                })
                .collect();
            stats
        };
        app.observe(Some(many(10)));
        app.observe(Some(many(11)));
        let screen = drawn(&app, 80, 24);
        for words in ["reads/s", "loads/s", "daily_revenue", "shop-1 0", "not shown: 6 processes"] {
            assert!(screen.contains(words), "{words}:\n{screen}");
        }
        let screen = drawn(&app, 40, 10);
        assert!(screen.contains("not shown: 1 query, 1 view, 9 processes"), "{screen}");
        assert!(!drawn(&watched(), 120, 40).contains("not shown"));
    }

    #[test]
    fn keys_sort_scroll_and_explain() {
        let mut app = watched();
        let first = |app: &App| {
            let screen = drawn(app, 120, 40);
            screen.find("stock").unwrap() < screen.find("revenue by region").unwrap()
        };
        assert!(first(&app));
        app.press(KeyCode::Right);
        app.press(KeyCode::Char('s'));
        assert!(!first(&app), "by loads");
        app.press(KeyCode::Down);
        app.press(KeyCode::Down);
        assert!(!drawn(&app, 120, 40).contains("revenue by region"));
        app.press(KeyCode::Char('?'));
        assert!(drawn(&app, 40, 15).contains("scroll them"));
    }

    #[test]
    fn who_publishes_nothing_is_told_how() {
        let mut app = App::new("shop".to_owned());
        assert!(drawn(&app, 40, 15).contains("asking Redis"));
        app.observe(None);
        assert!(drawn(&app, 40, 15).contains("no answer from Redis"));
        app.observe(Some(FleetStats::default()));
        let screen = drawn(&app, 80, 24);
        assert!(screen.contains(".publish_stats(Duration::from_secs("), "{screen}");
    }
}
