//! What the subcommands print: wrapped to the terminal, with colours that fall away without one.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;

use super::failure::Failure;

/// Nothing is wrapped narrower than this: words would be torn.
const NARROWEST: usize = 40;
/// Wider text is hard to read, whatever the terminal has.
const WIDEST: usize = 100;

pub(super) const RESET: &str = "\x1b[0m";
pub(super) const BOLD: &str = "\x1b[1m";

/// Writes to standard output. Whoever reads it may have had enough: `larder stats | head`.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::other(format!("cannot write: {error}")))
        }
        _ => Ok(()),
    }
}

/// A setting on the command line.
pub(super) fn name_and_value(given: &str) -> Result<(String, String), &'static str> {
    let (name, value) = given.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// One JSON document, and a line's end.
pub(super) fn as_json(value: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(value);
    let json = json.map_err(|error| Failure::other(format!("cannot write as JSON: {error}")))?;
    Ok(json + "\n")
}

/// Writes that to standard output.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&as_json(value)?)
}

/// How wide a line may be: what COLUMNS says, or the terminal; without either as wide as is still
/// easy to read.
pub(super) fn width() -> usize {
    columns().unwrap_or(WIDEST).clamp(NARROWEST, WIDEST)
}

/// The same for tables, which may have all of a wide terminal.
pub(super) fn table_width() -> usize {
    columns().unwrap_or(WIDEST).max(NARROWEST)
}

fn columns() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    said.or_else(|| {
        let terminal = io::stdout().is_terminal();
        let size = terminal.then(ratatui::crossterm::terminal::size)?;
        size.ok().map(|(columns, _)| usize::from(columns))
    })
    .filter(|&columns| columns > 0)
}

/// A paragraph behind `first`, its further lines behind as many blanks. `shown` is how wide `first`
/// is on the screen.
pub(super) fn paragraph(first: &str, shown: usize, text: &str, width: usize) -> String {
    let room = width.saturating_sub(shown).max(20);
    let blanks = " ".repeat(shown);
    let mut out = String::new();
    for (at, line) in text.lines().flat_map(|line| textwrap::wrap(line, room)).enumerate() {
        if at > 0 {
            out.push('\n');
        }
        out.push_str(if at == 0 { first } else { &blanks });
        out.push_str(&line);
    }
    out
}

/// A table without lines, as wide as `width` at most: what does not fit is wrapped in its cell. The
/// columns named in `right` are set to the right.
pub(super) fn table(
    header: &[&str],
    right: &[usize],
    rows: impl IntoIterator<Item = Vec<String>>,
    width: usize,
) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(u16::try_from(width).unwrap_or(u16::MAX))
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((u16::from(at > 0), 1));
        if right.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// `1.5 KiB`
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut size, mut unit) = (bytes as f64 / 1024.0, 0);
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// `12,345,678`
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1.3 ms`, `4 min 20 s`: three digits of it, as people say it.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |big: u64, unit: &str, small: u64, smaller: &str| match small {
        0 => format!("{big} {unit}"),
        small => format!("{big} {unit} {small} {smaller}"),
    };
    let short = |value: f64, unit: &str| match value {
        value if value >= 100.0 => format!("{value:.0} {unit}"),
        value if value >= 10.0 => format!("{value:.1} {unit}"),
        value => format!("{value:.2} {unit}"),
    };
    match duration.as_nanos() {
        0 => "0 s".to_owned(),
        nanos if nanos < 1_000 => format!("{nanos} ns"),
        nanos if nanos < 1_000_000 => short(nanos as f64 / 1e3, "µs"),
        nanos if nanos < 1_000_000_000 => short(nanos as f64 / 1e6, "ms"),
        nanos if seconds < 60 => short(nanos as f64 / 1e9, "s"),
        _ if seconds < 3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        _ if seconds < 86_400 => two(seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

/// Reads `500ms`, `2s`, `5m`, `1h` from the command line; a number alone is of seconds.
pub(super) fn read_duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err("it is a number with ms, s, m or h behind it: 500ms, 2s, 5m".to_owned()),
    };
    let seconds = number.trim().parse::<f64>().ok().map(|number| number * unit);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "it is a number with ms, s, m or h behind it: 500ms, 2s, 5m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_say_them() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(999), "999");
        let said = |nanos: u64| duration(Duration::from_nanos(nanos));
        assert_eq!(said(0), "0 s");
        assert_eq!(said(999), "999 ns");
        assert_eq!(said(1_300_000), "1.30 ms");
        assert_eq!(said(59_900_000_000), "59.9 s");
        assert_eq!(said(260_000_000_000), "4 min 20 s");
        assert_eq!(said(3_600_000_000_000), "1 h");
    }

    #[test]
    fn durations_are_read_with_their_unit() {
        let read = |text| read_duration(text).unwrap();
        assert_eq!(read("500ms"), Duration::from_millis(500));
        assert_eq!(read("2"), Duration::from_secs(2));
        assert_eq!(read("1.5s"), Duration::from_millis(1500));
        assert_eq!(read("5m"), Duration::from_secs(300));
        for wrong in ["", "s", "-1s", "2 weeks", "1e999s", "NaN"] {
            assert!(read_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_paragraph_hangs_behind_its_first_word_and_a_table_keeps_its_width() {
        let text = paragraph("ok  ", 4, "one two three four five six seven", 30);
        assert_eq!(text, "ok  one two three four five\n    six seven");
        let rows = [vec!["a long query with many words".to_owned(), "12".to_owned()]];
        let table = table(&["query", "reads"], &[1], rows, 20);
        assert!(table.lines().count() > 2, "{table}");
        assert!(table.lines().all(|line| line.chars().count() <= 20), "{table}");
    }
}
