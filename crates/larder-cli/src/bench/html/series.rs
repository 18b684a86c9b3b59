//! The course of a mode, in as many parts as a picture or a table has room for.

use super::super::report::{ModeReport, Moment};
use super::number;
use super::plot::Axis;

/// The parts joined to at most `most`. A last one that was cut short goes with the one before it:
/// what it says about so few answers is noise.
pub(super) fn merged(moments: &[Moment], most: usize) -> Vec<Moment> {
    let mut parts: Vec<Moment> =
        moments.chunks(moments.len().div_ceil(most).max(1)).map(joined).collect();
    if let [.., before, last] = &mut parts[..]
        && last.seconds < before.seconds / 2.0
    {
        *before = joined(&[*before, *last]);
        parts.pop();
    }
    parts
}

fn joined(moments: &[Moment]) -> Moment {
    let mut all =
        Moment { at_seconds: moments.first().map_or(0.0, |it| it.at_seconds), ..Moment::default() };
    let mut query_seconds = 0.0;
    for moment in moments {
        let Moment {
            at_seconds: _,
            seconds,
            answers,
            hit_ratio: _,
            errors,
            queries,
            queries_running,
            writes,
        } = moment;
        all.seconds += seconds;
        all.answers.l1 += answers.l1;
        all.answers.l2 += answers.l2;
        all.answers.loaded += answers.loaded;
        all.answers.coalesced += answers.coalesced;
        all.answers.stale += answers.stale;
        all.answers.postgres += answers.postgres;
        all.errors += errors;
        all.queries += queries;
        all.writes += writes;
        query_seconds += queries_running * seconds;
    }
    all.hit_ratio = all.answers.hit_ratio();
    all.queries_running = if all.seconds > 0.0 { query_seconds / all.seconds } else { 0.0 };
    all
}

/// Seconds, or the share of the run if modes ran for different times: they then ended by their
/// reads, and a faster one would be a sliver beside a slow one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    longest: f64,
    by_share: bool,
}

impl Clock {
    pub(super) fn of<'m>(modes: impl Iterator<Item = &'m ModeReport> + Clone) -> Clock {
        let longest = modes.clone().map(|mode| mode.seconds).fold(0.0, f64::max);
        let shortest = modes.map(|mode| mode.seconds).fold(f64::INFINITY, f64::min);
        Clock { longest, by_share: longest > shortest * 1.5 }
    }

    pub(super) fn axis(self) -> Axis {
        if self.by_share {
            Axis::up_to(1.0, |at| format!("{:.0}\u{a0}%", at * 100.0))
        } else {
            Axis::up_to(self.longest, |at| match at {
                _ if self.longest < 3.0 => format!("{:.0}\u{a0}ms", at * 1e3),
                _ if self.longest < 10.0 => format!("{at:.1}\u{a0}s"),
                _ => format!("{at:.0}\u{a0}s"),
            })
        }
    }

    pub(super) fn title(self) -> &'static str {
        if self.by_share { "share of the mode’s run" } else { "time since the mode began" }
    }

    /// Where on the axis a time of a mode is.
    pub(super) fn place(self, mode: &ModeReport, seconds: f64) -> f64 {
        let whole = if self.by_share { mode.seconds } else { self.longest };
        let share = if whole > 0.0 { (seconds / whole).clamp(0.0, 1.0) } else { 0.0 };
        if self.by_share { share } else { share * self.longest }
    }

    /// The course as a line, with gaps where `value` has nothing to say.
    pub(super) fn lines(
        self,
        mode: &ModeReport,
        value: impl Fn(&Moment) -> Option<f64>,
    ) -> Vec<Vec<(f64, f64)>> {
        let mut lines = vec![vec![]];
        for part in merged(&mode.series, 60) {
            let at = self.place(mode, part.at_seconds + part.seconds / 2.0);
            match (value(&part), lines.last_mut()) {
                (Some(value), Some(line)) => line.push((at, value)),
                _ => lines.push(vec![]),
            }
        }
        lines.retain(|line| !line.is_empty());
        lines
    }

    /// Up to ten equal parts of the time for a table: what to call each, and the values of each mode.
    pub(super) fn table<T>(
        self,
        modes: &[&ModeReport],
        value: impl Fn(&Moment) -> T,
    ) -> Vec<(String, Vec<Option<T>>)> {
        const PARTS: usize = 10;
        let end = if self.by_share { 1.0 } else { self.longest };
        let edge = |part: usize| end * part as f64 / PARTS as f64;
        let called = |part: usize| {
            if self.by_share {
                format!("{}–{}\u{a0}%", part * 10, (part + 1) * 10)
            } else {
                let edges =
                    [edge(part), edge(part + 1)].map(|at| number::short(&number::seconds(at)));
                edges.join(" – ")
            }
        };
        (0..PARTS)
            .map(|part| {
                let values = modes.iter().map(|mode| {
                    let mut within: Vec<Moment> = vec![];
                    for it in &mode.series {
                        let at = self.place(mode, it.at_seconds + it.seconds / 2.0);
                        if at >= edge(part) && (at < edge(part + 1) || part + 1 == PARTS) {
                            within.push(*it);
                        }
                    }
                    if within.is_empty() {
                        // A short run has fewer parts: the one that goes on here speaks for it.
                        let middle = (edge(part) + edge(part + 1)) / 2.0;
                        within.extend(mode.series.iter().find(|it| {
                            let place = |seconds| self.place(mode, seconds);
                            (place(it.at_seconds)..place(it.at_seconds + it.seconds))
                                .contains(&middle)
                        }));
                    }
                    (!within.is_empty()).then(|| value(&joined(&within)))
                });
                (called(part), values.collect::<Vec<_>>())
            })
            .filter(|(_, values)| values.iter().any(Option::is_some))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::report::{Answers, CurrencyReport, Ended, Mode, PostgresLoad};
    use super::*;

    fn moment(at: u32, seconds: f64, l1: u64, loaded: u64) -> Moment {
        let answers = Answers { l1, loaded, ..Answers::default() };
        Moment {
            at_seconds: f64::from(at),
            seconds,
            answers,
            hit_ratio: answers.hit_ratio(),
            queries: loaded,
            queries_running: loaded as f64,
            ..Moment::default()
        }
    }

    #[test]
    fn joined_parts_say_what_all_of_them_said() {
        let parts: Vec<Moment> = (0..100).map(|at| moment(at, 1.0, u64::from(at), 10)).collect();
        let few = merged(&parts, 30);
        assert_eq!(few.len(), 25);
        assert_eq!(few.iter().map(|it| it.answers.total()).sum::<u64>(), 4950 + 1000);
        assert_eq!((few[1].at_seconds, few[1].seconds, few[1].queries_running), (4.0, 4.0, 10.0));
        assert_eq!(few[1].hit_ratio, 22.0 / 62.0);
    }

    #[test]
    fn a_run_of_few_parts_has_no_holes_and_one_that_ended_has_no_more() {
        let of = |series: Vec<Moment>| -> ModeReport {
            let seconds = series.iter().map(|it| it.seconds).sum();
            ModeReport {
                mode: Mode::L1,
                ended: Ended::Interrupted,
                seconds,
                reads: 0,
                reads_per_second: 0.0,
                answers: Answers::default(),
                hit_ratio: 0.0,
                errors: 0,
                first_error: None,
                series,
                latency: vec![],
                postgres: PostgresLoad::default(),
                redis: None,
                currency: CurrencyReport::default(),
                versus_none: None,
            }
        };
        let long = of((0..20).map(|at| moment(at, 1.0, 1, 0)).collect());
        let short = of(vec![moment(0, 6.0, 1, 0), moment(6, 6.0, 2, 0)]);
        let clock = Clock { longest: 20.0, by_share: false };
        let rows = clock.table(&[&long, &short], |it| it.answers.total());
        let column = |i: usize| rows.iter().map(|(_, values)| values[i]).collect::<Vec<_>>();
        assert_eq!(column(0), [Some(2); 10]);
        assert_eq!(column(1)[..6], [1, 1, 1, 2, 2, 2].map(Some));
        assert_eq!(column(1)[6..], [None; 4]);
    }

    #[test]
    fn a_last_part_cut_short_is_no_part_of_its_own() {
        let parts = [moment(0, 1.0, 5, 5), moment(1, 1.0, 9, 1), moment(2, 0.1, 0, 1)];
        let merged = merged(&parts, 60);
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[1].answers.total(), 11);
        assert!(super::merged(&[], 60).is_empty());
    }
}
