//! What readers count and time while they read, and how it is put together.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::clock::Instant;
use super::report::{Answers, Bar, Latency, Moment, Point, Quantiles, Source};

/// Of latencies in nanoseconds, exact to 0.1 %; it grows as longer ones come.
pub(super) type Times = Histogram<u64>;

pub(super) fn times() -> Times {
    Histogram::new(3).expect("3 digits are a precision that histograms have")
}

/// Records one more. Longer than a histogram can hold, which is centuries, nothing takes.
pub(super) fn record(times: &mut Times, nanos: u64) {
    times.record(nanos).unwrap_or_default();
}

/// A histogram as it goes from process to process: values and how often each came.
pub(super) type Packed = Vec<(u64, u64)>;

pub(super) fn pack(times: &Times) -> Packed {
    times.iter_recorded().map(|it| (it.value_iterated_to(), it.count_at_value())).collect()
}

pub(super) fn unpack(into: &mut Times, packed: &[(u64, u64)]) {
    for (value, count) in packed {
        into.record_n(*value, *count).unwrap_or_default();
    }
}

/// What happened within one part of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) answers: Answers,
    pub(super) errors: u64,
    pub(super) queries: u64,
    /// Time that queries took within this part.
    pub(super) query_ns: u64,
    pub(super) writes: u64,
}

impl Part {
    fn add(&mut self, other: &Part) {
        let Part { answers, errors, queries, query_ns, writes } = other;
        add(&mut self.answers, answers);
        self.errors += errors;
        self.queries += queries;
        self.query_ns += query_ns;
        self.writes += writes;
    }
}

fn add(to: &mut Answers, other: &Answers) {
    let Answers { l1, l2, loaded, coalesced, stale, postgres } = other;
    to.l1 += l1;
    to.l2 += l2;
    to.loaded += loaded;
    to.coalesced += coalesced;
    to.stale += stale;
    to.postgres += postgres;
}

/// A run in parts of equal length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Parts {
    begun: Instant,
    width_ns: u64,
    parts: Vec<Part>,
}

impl Parts {
    pub(super) fn new(begun: Instant, width: Duration) -> Parts {
        Parts { begun, width_ns: (width.as_nanos() as u64).max(1), parts: vec![] }
    }

    fn number(&self, at: Instant) -> usize {
        usize::try_from(at.saturating_sub(self.begun) / self.width_ns).unwrap_or(usize::MAX)
    }

    /// The part of that time.
    pub(super) fn at(&mut self, at: Instant) -> &mut Part {
        let number = self.number(at);
        if self.parts.len() <= number {
            self.parts.resize(number + 1, Part::default());
        }
        &mut self.parts[number]
    }

    /// A query that ran from one time to another; its time goes to all parts that it touches.
    pub(super) fn query(&mut self, begun: Instant, ended: Instant) {
        self.at(ended).queries += 1;
        let mut from = begun.max(self.begun);
        while from < ended {
            let next = self.begun + (self.number(from) as u64 + 1) * self.width_ns;
            let to = ended.min(next);
            self.at(from).query_ns += to - from;
            from = to;
        }
    }

    pub(super) fn merge(&mut self, other: &Parts) {
        debug_assert_eq!((self.begun, self.width_ns), (other.begun, other.width_ns));
        if self.parts.len() < other.parts.len() {
            self.parts.resize(other.parts.len(), Part::default());
        }
        for (part, other) in self.parts.iter_mut().zip(&other.parts) {
            part.add(other);
        }
    }

    pub(super) fn total(&self) -> Part {
        let mut total = Part::default();
        self.parts.iter().for_each(|part| total.add(part));
        total
    }

    /// Halves their number until there are no more than that.
    fn coarser(mut self, most: usize) -> Parts {
        while self.parts.len() > most {
            self.width_ns *= 2;
            let pairs = self.parts.chunks(2).map(|pair| {
                let mut part = pair[0];
                pair[1..].iter().for_each(|other| part.add(other));
                part
            });
            self.parts = pairs.collect();
        }
        self
    }

    /// As they are reported; the run ended at `ended`.
    pub(super) fn moments(self, ended: Instant) -> Vec<Moment> {
        const MOST: usize = 120;
        let Parts { begun, width_ns, mut parts } = self.coarser(MOST);
        let whole = ended.saturating_sub(begun);
        // What is left at the end, of the last few answers, is no part of its own.
        while parts.len() > 1 && (parts.len() as u64 - 1) * width_ns + width_ns / 2 > whole {
            let rest = parts.pop().unwrap_or_default();
            parts.last_mut().into_iter().for_each(|last| last.add(&rest));
        }
        let last = parts.len().saturating_sub(1);
        let moments = parts.iter().enumerate().map(|(number, part)| {
            let at = number as u64 * width_ns;
            let rest = whole.saturating_sub(at).max(1);
            let length = if number == last { rest } else { width_ns };
            Moment {
                at_seconds: at as f64 / 1e9,
                seconds: length as f64 / 1e9,
                answers: part.answers,
                hit_ratio: part.answers.hit_ratio(),
                errors: part.errors,
                queries: part.queries,
                queries_running: part.query_ns as f64 / length as f64,
                writes: part.writes,
            }
        });
        moments.collect()
    }
}

pub(super) fn count(answers: &mut Answers, source: Source) {
    match source {
        Source::L1 => answers.l1 += 1,
        Source::L2 => answers.l2 += 1,
        Source::Loaded => answers.loaded += 1,
        Source::Coalesced => answers.coalesced += 1,
        Source::Stale => answers.stale += 1,
        Source::Postgres | Source::All => answers.postgres += 1,
    }
}

pub(super) fn quantiles(times: &Times) -> Quantiles {
    let at = |quantile: f64| times.value_at_quantile(quantile);
    if times.is_empty() {
        Quantiles::default()
    } else {
        Quantiles {
            count: times.len(),
            mean_ns: times.mean(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: times.max(),
        }
    }
}

pub(super) fn latency(source: Source, times: &Times) -> Latency {
    Latency { source, quantiles: quantiles(times), bars: bars(times), curve: curve(times) }
}

/// How much longer each bar reaches than the one before it.
const STEP: f64 = 1.25;

fn bars(times: &Times) -> Vec<Bar> {
    let (mut bars, mut from) = (vec![], 0.0_f64);
    // Bars of any two distributions have the same edges: powers of the step.
    let first = (times.min().max(1) as f64).log(STEP).floor();
    let edge = |power: i32| STEP.powf(first + f64::from(power));
    let mut power = 0;
    for it in times.iter_recorded() {
        let value = it.value_iterated_to() as f64;
        while bars.is_empty() || value >= edge(power) {
            from = edge(power);
            power += 1;
            bars.push(Bar { from_ns: from as u64, to_ns: edge(power) as u64, count: 0 });
        }
        debug_assert!(value >= from);
        if let Some(bar) = bars.last_mut() {
            bar.count += it.count_at_value();
        }
    }
    bars
}

fn curve(times: &Times) -> Vec<Point> {
    if times.is_empty() {
        return vec![];
    }
    let steps = 20;
    // Twenty points for each ten times that the rest becomes smaller, to where one answer is left.
    let decades = (times.len() as f64).log10().ceil().clamp(1.0, 6.0) as i32;
    let points = (0..=decades * steps).map(|step| {
        let quantile = 1.0 - 10_f64.powf(-f64::from(step) / f64::from(steps));
        Point { quantile, ns: times.value_at_quantile(quantile) }
    });
    points.chain([Point { quantile: 1.0, ns: times.max() }]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Times {
        let mut times = times();
        values.into_iter().for_each(|value| record(&mut times, value));
        times
    }

    #[test]
    fn a_histogram_arrives_as_it_was_sent() {
        let sent = of((0..5000_u64).map(|n| n * n * 17));
        let mut arrived = times();
        unpack(&mut arrived, &pack(&sent));
        assert_eq!(quantiles(&arrived), quantiles(&sent));
        assert_eq!(pack(&arrived), pack(&sent));
    }

    #[test]
    fn bars_have_all_answers_each_in_its_range() {
        let times = of([1, 100, 101, 5_000_000, 5_000_000]);
        let bars = bars(&times);
        assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), 5);
        assert!(bars.windows(2).all(|pair| pair[0].to_ns == pair[1].from_ns), "{bars:?}");
        assert!(bars[0].count > 0 && bars[bars.len() - 1].count == 2, "{bars:?}");
        let hundred = bars.iter().find(|bar| bar.count == 2).unwrap();
        assert!(hundred.from_ns <= 100 && 101 < hundred.to_ns, "{hundred:?}");
        assert_eq!(super::bars(&super::times()), vec![]);
    }

    #[test]
    fn the_curve_goes_from_the_least_to_the_most() {
        let curve = curve(&of(1..=1000));
        assert_eq!((curve[0].quantile, curve[0].ns), (0.0, 1));
        assert!(curve.is_sorted_by(|a, b| a.quantile <= b.quantile && a.ns <= b.ns));
        assert_eq!(curve.last().unwrap(), &Point { quantile: 1.0, ns: 1000 });
    }

    #[test]
    fn a_query_loads_every_part_it_runs_in() {
        let mut parts = Parts::new(100, Duration::from_nanos(10));
        parts.query(105, 123);
        let found: Vec<(u64, u64)> = parts.parts.iter().map(|p| (p.queries, p.query_ns)).collect();
        assert_eq!(found, [(0, 5), (0, 10), (1, 3)]);
        parts.query(90, 101);
        assert_eq!(parts.total().query_ns, 19);
    }

    #[test]
    fn many_parts_become_few_and_nothing_is_lost() {
        let mut parts = Parts::new(0, Duration::from_nanos(10));
        for at in 0..5000 {
            count(&mut parts.at(at).answers, if at % 4 == 0 { Source::Loaded } else { Source::L1 });
        }
        let moments = parts.moments(5000);
        assert!((60..=120).contains(&moments.len()));
        assert_eq!(moments.iter().map(|it| it.answers.total()).sum::<u64>(), 5000);
        assert!(moments.iter().all(|it| (it.hit_ratio - 0.75).abs() < 0.01), "{moments:?}");
        let last = moments.last().unwrap();
        assert!((last.at_seconds + last.seconds - 5000e-9).abs() < 1e-12, "{last:?}");
    }

    #[test]
    fn the_rest_at_the_end_is_no_part_of_its_own() {
        let mut parts = Parts::new(0, Duration::from_nanos(10));
        for at in [5, 15, 21] {
            count(&mut parts.at(at).answers, Source::L1);
        }
        let moments = parts.moments(22);
        let found: Vec<(u64, f64)> =
            moments.iter().map(|it| (it.answers.l1, (it.seconds * 1e9).round())).collect();
        assert_eq!(found, [(1, 10.0), (2, 12.0)]);
    }
}
