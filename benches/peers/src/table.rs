//! The table.

use std::time::Duration;

use crate::faults::{Asked, Outcome, PATIENCE, READS};

pub struct Table {
    header: String,
    lines: Vec<String>,
}

impl Table {
    pub fn new<'a>(columns: impl IntoIterator<Item = &'a str>) -> Table {
        let columns: Vec<_> = columns.into_iter().collect();
        let header =
            format!("| case | {} |\n|{}", columns.join(" | "), " --- |".repeat(columns.len() + 1));
        Table { header, lines: vec![] }
    }

    pub fn line(&mut self, case: &str, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<_> = cells.into_iter().collect();
        // Also at once: the whole takes minutes.
        eprintln!("{case}: {}", cells.join(" | "));
        self.lines.push(format!("| {case} | {} |", cells.join(" | ")));
    }

    pub fn print(&self) {
        println!("{}\n{}", self.header, self.lines.join("\n"));
    }
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn time(seconds: f64) -> String {
    match seconds {
        under if under < 1e-6 => format!("{:.0} ns", under * 1e9),
        under if under < 1e-4 => format!("{:.1} µs", under * 1e6),
        under if under < 1e-3 => format!("{:.0} µs", under * 1e6),
        under if under < 1e-2 => format!("{:.1} ms", under * 1e3),
        under if under < 1.0 => format!("{:.0} ms", under * 1e3),
        over => format!("{over:.1} s"),
    }
}

/// What became of the reads after a fault, in all rounds: of each read the outcome and the median
/// of the times.
pub fn outcomes(rounds: &[[Asked; READS]]) -> String {
    let mut said: Vec<(String, Vec<String>)> = vec![];
    for read in 0..READS {
        let of = |outcome| rounds.iter().filter(|round| round[read].outcome == outcome).count();
        let (errors, hung) = (of(Outcome::Error), of(Outcome::Hung));
        let what = match (errors, hung) {
            (0, 0) => "answers".to_owned(),
            (_, 0) if errors == rounds.len() => "error".to_owned(),
            (0, _) if hung == rounds.len() => "hangs".to_owned(),
            _ => format!("error in {} of {}", errors + hung, rounds.len()),
        };
        let after = median(rounds.iter().map(|round| round[read].after.as_secs_f64()));
        let after = match Duration::from_secs_f64(after) >= PATIENCE {
            true => format!("> {:.0} s", PATIENCE.as_secs_f64()),
            false => time(after),
        };
        match said.last_mut() {
            Some((last, times)) if *last == what => times.push(after),
            _ => said.push((what, vec![after])),
        }
    }
    let said: Vec<_> =
        said.into_iter().map(|(what, times)| format!("{what}: {}", times.join(", "))).collect();
    said.join("; ")
}
