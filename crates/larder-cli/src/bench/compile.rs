//! From what reader processes have found to the report of one mode.

use std::collections::BTreeMap;

use super::engine::Run;
use super::measure::{Parts, Times, latency, quantiles, times, unpack};
use super::report::{
    CurrencyReport, Ended, Mode, ModeReport, PostgresLoad, RedisLoad, Source, Versus,
};

/// So many violations are shown.
const EXAMPLES: usize = 10;

/// The sources in the order in which they are shown.
const SOURCES: [Source; 6] =
    [Source::L1, Source::L2, Source::Stale, Source::Coalesced, Source::Loaded, Source::Postgres];

pub(super) fn mode(
    mode: Mode,
    run: Run,
    redis: Option<RedisLoad>,
    none: Option<&ModeReport>,
) -> Option<ModeReport> {
    let Run { begun, interrupted, outcomes } = run;
    let ended_at = outcomes.iter().map(|it| it.ended).max()?;
    let out_of_time = outcomes.iter().any(|it| it.out_of_time);
    let (mut parts, mut by_source): (Option<Parts>, BTreeMap<usize, Times>) = Default::default();
    let (mut query, mut behind) = (times(), times());
    let (mut query_ns, mut write_ns, mut first_error) = (0, 0, None);
    let mut currency = CurrencyReport::default();
    for outcome in outcomes {
        match &mut parts {
            Some(parts) => parts.merge(&outcome.parts),
            None => parts = Some(outcome.parts),
        }
        for (source, packed) in &outcome.latency {
            let place = SOURCES.iter().position(|it| it == source)?;
            unpack(by_source.entry(place).or_insert_with(times), packed);
        }
        unpack(&mut query, &outcome.queries);
        unpack(&mut behind, &outcome.behind);
        query_ns += outcome.query_ns;
        write_ns += outcome.write_ns;
        first_error = first_error.or(outcome.first_error);
        currency.checked += outcome.checked;
        currency.acknowledged += outcome.acknowledged;
        currency.unacknowledged += outcome.unacknowledged;
        currency.violations += outcome.violations;
        currency.examples.extend(outcome.examples);
    }
    currency.examples.truncate(EXAMPLES);
    currency.behind = behind.len();
    currency.behind_by = quantiles(&behind);
    let (parts, mut all) = (parts?, times());
    by_source.values().for_each(|it| all.add(it).unwrap_or_default());
    let total = parts.total();
    let seconds = (ended_at.saturating_sub(begun) as f64 / 1e9).max(1e-9);
    let postgres = PostgresLoad {
        queries: total.queries,
        query_seconds: query_ns as f64 / 1e9,
        queries_running: query_ns as f64 / 1e9 / seconds,
        query: quantiles(&query),
        writes: total.writes,
        write_seconds: write_ns as f64 / 1e9,
    };
    let reads = total.answers.total();
    let mut latencies = vec![latency(Source::All, &all)];
    latencies.extend(by_source.iter().map(|(place, it)| latency(SOURCES[*place], it)));
    let mut report = ModeReport {
        mode,
        ended: match (interrupted, out_of_time) {
            (true, _) => Ended::Interrupted,
            (false, true) => Ended::Duration,
            (false, false) => Ended::Reads,
        },
        seconds,
        reads,
        reads_per_second: reads as f64 / seconds,
        answers: total.answers,
        hit_ratio: total.answers.hit_ratio(),
        errors: total.errors,
        first_error,
        series: parts.moments(ended_at),
        latency: latencies,
        postgres,
        redis,
        currency,
        versus_none: None,
    };
    report.versus_none = none.and_then(|none| versus(&report, none));
    Some(report)
}

fn versus(mode: &ModeReport, none: &ModeReport) -> Option<Versus> {
    if mode.reads == 0 || none.reads == 0 {
        return None;
    }
    let per_read = |it: &ModeReport, what: f64| what / it.reads as f64;
    let ratio = |of: fn(&PostgresLoad) -> f64| {
        let (with, without) =
            (per_read(mode, of(&mode.postgres)), per_read(none, of(&none.postgres)));
        (with > 0.0).then(|| without / with)
    };
    Some(Versus {
        fewer_queries: ratio(|it| it.queries as f64),
        less_query_time: ratio(|it| it.query_seconds),
        throughput: mode.reads_per_second / none.reads_per_second,
    })
}
