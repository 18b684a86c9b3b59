//! Compares several ways to do the same work, in turns.
//!
//! A machine's speed drifts. Measurements that criterion takes one after the other differ by that
//! drift; measurements within one turn hardly do. So every turn runs each way once, and the result
//! is the median of the turns' ratios.

use std::time::{Duration, Instant};

/// The duration of each of `N` ways in each turn, in seconds per unit of work.
pub struct Turns<const N: usize>(Vec<[f64; N]>);

/// Runs `count` turns. Each way receives the amount of work and returns how long it took; the first
/// way is the floor.
pub fn turns<const N: usize>(
    count: usize,
    work: u64,
    ways: [&mut dyn FnMut(u64) -> Duration; N],
) -> Turns<N> {
    let mut turns = vec![];
    for turn in 0..count {
        let mut took = [0.0; N];
        for place in 0..N {
            // The first way of a turn has cold caches, so the order shifts from turn to turn.
            let way = (place + turn) % N;
            took[way] = ways[way](work).as_secs_f64() / work as f64;
        }
        turns.push(took);
    }
    Turns(turns)
}

impl<const N: usize> Turns<N> {
    pub fn seconds(&self, way: usize) -> f64 {
        median(self.0.iter().map(|turn| turn[way]))
    }

    pub fn ratio(&self, way: usize, over: usize) -> f64 {
        median(self.0.iter().map(|turn| turn[way] / turn[over]))
    }

    /// Prints a line of the table in `README.md`: one way compared with another.
    pub fn print(&self, case: &str, way: usize, over: usize) {
        println!(
            "| {case} | {} | {} | {:.2} of {} turns |",
            time(self.seconds(over)),
            time(self.seconds(way)),
            self.ratio(way, over),
            self.0.len()
        );
    }
}

/// Prints the head of that table.
pub fn print_head(floor: &str, other: &str) {
    println!("\n| case | {floor} | {other} | ratio |\n| --- | --- | --- | --- |");
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
        under if under < 1.0 => format!("{:.1} ms", under * 1e3),
        over => format!("{over:.1} s"),
    }
}

/// The time it takes to run `what` `count` times.
pub fn repeat<T>(count: u64, mut what: impl FnMut() -> T) -> Duration {
    let begin = Instant::now();
    for _ in 0..count {
        std::hint::black_box(what());
    }
    begin.elapsed()
}
