//! [`Schedule`]: when a view is due.

use std::time::{Duration, SystemTime};

use crate::error::WrongSetting;

#[cfg(feature = "cron")]
mod cron;

/// The shortest interval: the unit of Redis's TTLs and of the lifetimes of entries.
const SHORTEST: Duration = Duration::from_millis(1);
/// The longest interval, 3660 days. Anything above is considered a mistake in the unit.
const LONGEST: Duration = Duration::from_secs(3660 * 24 * 60 * 60);

/// When a view is due: the ticks of a wall clock.
///
/// Ticks depend on the calendar and not on a process, so all processes of a fleet compute the same
/// ticks without communicating, whenever they were started. There are none at or before the
/// beginning of 1970, UTC: an earlier time counts as that one.
#[derive(Debug, Clone)]
pub(crate) enum Schedule {
    /// At every multiple of an interval, in whole milliseconds, since 1970-01-01 00:00 UTC.
    Every(Duration),
    /// At the times of a cron expression. Boxed: it holds a table of years.
    #[cfg(feature = "cron")]
    Cron(Box<cron::Cron>),
}

impl Schedule {
    /// At every multiple of `interval`. A fraction of a millisecond in `interval` is dropped.
    ///
    /// # Errors
    ///
    /// If it is below 1 millisecond or above 3660 days.
    pub(crate) fn every(interval: Duration) -> Result<Schedule, WrongSetting> {
        if !(SHORTEST..=LONGEST).contains(&interval) {
            return Err(WrongSetting {
                setting: "every",
                given: format!("{interval:?}"),
                allowed: "from 1 millisecond to 3660 days".into(),
            });
        }
        // Some systems store times less precisely than to the nanosecond. A tick that was rounded
        // down would lie before itself, and be due again and again.
        let fraction = u64::from(interval.subsec_nanos() % 1_000_000);
        Ok(Schedule::Every(interval - Duration::from_nanos(fraction)))
    }

    /// At the times of an `expression` of five fields, or of six that begin with the seconds, in
    /// the local time of an IANA time `zone`.
    ///
    /// Days of the week are 0 to 7 or SUN to SAT, where 1 is Monday, and both 0 and 7 are Sunday.
    /// If both the day of the month and the day of the week are restricted, one of them is enough.
    /// `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly` stand for their usual expressions.
    ///
    /// # Changes of the clocks
    ///
    /// An expression without a `*` in its seconds, minutes and hours names times of day, and each
    /// is due once a day:
    ///
    /// - On a day when clocks are put forward from 02:00 to 03:00, `0 30 2 * * *` is due at 03:00,
    ///   the end of the gap. Several times in the gap are due together.
    /// - When clocks are put back, it is due at the first 02:30 of two.
    ///
    /// Any other expression is due whenever the local time matches. `0 */15 * * * *` goes on every
    /// 15 minutes through both occurrences of a repeated hour, and does not make up for a skipped
    /// hour.
    ///
    /// The rules of a zone are those of the operating system, or built-in ones if it has none.
    /// Processes agree on ticks as far as their machines agree on these rules.
    ///
    /// # Errors
    ///
    /// If the expression cannot be parsed or never matches, such as the 30th of February, or if the
    /// zone is not known.
    #[cfg(feature = "cron")]
    pub(crate) fn cron(expression: &str, zone: &str) -> Result<Schedule, WrongSetting> {
        Ok(Schedule::Cron(Box::new(cron::Cron::new(expression, zone)?)))
    }

    /// The first tick strictly after `at`; `None` if the calendar ends before.
    pub(crate) fn next(&self, at: SystemTime) -> Option<SystemTime> {
        match self {
            Schedule::Every(interval) => {
                let at = since_epoch(at);
                from_epoch((at - past_tick(at, *interval)).checked_add(*interval)?)
            }
            #[cfg(feature = "cron")]
            Schedule::Cron(cron) => {
                from_epoch(Duration::from_secs(cron.next(since_epoch(at).as_secs())?))
            }
        }
    }

    /// The last tick after `after` and not after `until`. After a pause, this one tick is due,
    /// however many were missed. Computing it takes no longer for a pause of years.
    pub(crate) fn latest(&self, after: SystemTime, until: SystemTime) -> Option<SystemTime> {
        let (after, until) = (since_epoch(after), since_epoch(until));
        let tick = match self {
            Schedule::Every(interval) => until - past_tick(until, *interval),
            #[cfg(feature = "cron")]
            Schedule::Cron(cron) => {
                Duration::from_secs(cron.latest(after.as_secs(), until.as_secs())?)
            }
        };
        if tick > after { from_epoch(tick) } else { None }
    }

    /// The interval around a time: the distance between the next two ticks after `at`.
    /// `Duration::MAX` if the calendar ends before.
    #[cfg_attr(not(feature = "cron"), allow(unused_variables))]
    pub(crate) fn interval(&self, at: SystemTime) -> Duration {
        match self {
            Schedule::Every(interval) => *interval,
            #[cfg(feature = "cron")]
            Schedule::Cron(_) => self
                .next(at)
                .and_then(|tick| self.next(tick)?.duration_since(tick).ok())
                .unwrap_or(Duration::MAX),
        }
    }
}

/// The time between the last multiple of `interval` and `at`.
fn past_tick(at: Duration, interval: Duration) -> Duration {
    // It is less than the interval, which is at most ten years, so it fits.
    Duration::from_nanos((at.as_nanos() % interval.as_nanos()) as u64)
}

fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

fn from_epoch(at: Duration) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;
    const SECOND: Duration = Duration::from_secs(1);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn seconds(at: u64) -> SystemTime {
        EPOCH + Duration::from_secs(at)
    }

    #[test]
    fn every_ticks_at_the_multiples_of_its_interval() {
        let schedule = Schedule::every(15 * SECOND).unwrap();
        assert_eq!(schedule.next(seconds(60)), Some(seconds(75)));
        assert_eq!(schedule.next(seconds(74) + SECOND / 2), Some(seconds(75)));
        assert_eq!(schedule.latest(seconds(60), seconds(74)), None);
        assert_eq!(schedule.latest(seconds(60), seconds(75)), Some(seconds(75)));
        assert_eq!(schedule.latest(seconds(60), seconds(1_000_001)), Some(seconds(999_990)));
        assert_eq!(schedule.interval(seconds(61)), 15 * SECOND);
    }

    #[test]
    fn every_tick_of_a_day_is_found_in_order() {
        let schedule = Schedule::every(8 * 60 * 60 * SECOND).unwrap();
        let ticks: Vec<_> =
            std::iter::successors(schedule.next(EPOCH + 100 * DAY), |tick| schedule.next(*tick))
                .take(3)
                .map(|tick| tick.duration_since(EPOCH + 100 * DAY).unwrap().as_secs() / 3600)
                .collect();
        assert_eq!(ticks, [8, 16, 24]);
    }

    #[test]
    fn an_interval_out_of_bounds_is_refused_with_what_was_given() {
        let refusal = |interval| Schedule::every(interval).unwrap_err().to_string();
        let allowed = "allowed: from 1 millisecond to 3660 days";
        assert_eq!(refusal(Duration::ZERO), format!("`every` is 0ns; {allowed}"));
        assert_eq!(refusal(Duration::from_micros(999)), format!("`every` is 999µs; {allowed}"));
        assert_eq!(refusal(3660 * DAY + SECOND), format!("`every` is 316224001s; {allowed}"));
        assert!(Schedule::every(3660 * DAY).is_ok());
    }

    #[test]
    fn a_fraction_of_a_millisecond_is_dropped() {
        let schedule = Schedule::every(Duration::from_nanos(1_999_999)).unwrap();
        assert_eq!(schedule.interval(EPOCH), Duration::from_millis(1));
        assert_eq!(schedule.next(EPOCH), Some(EPOCH + Duration::from_millis(1)));
    }

    #[test]
    fn times_before_the_epoch_are_taken_for_it_and_the_end_of_time_is_met_calmly() {
        #[cfg_attr(not(feature = "cron"), expect(unused_mut))]
        let mut schedules = vec![Schedule::every(DAY).unwrap()];
        #[cfg(feature = "cron")]
        schedules.push(Schedule::cron("@daily", "UTC").unwrap());
        let long_ago = EPOCH - 40 * 366 * DAY;
        // The last second of a `SystemTime`.
        let end = (0..64)
            .rev()
            .fold(EPOCH, |at, bit| at.checked_add(Duration::from_secs(1 << bit)).unwrap_or(at));
        for schedule in schedules {
            assert_eq!(schedule.next(long_ago), Some(EPOCH + DAY));
            assert_eq!(schedule.latest(long_ago, EPOCH), None);
            assert_eq!(schedule.latest(long_ago, EPOCH - DAY), None);
            assert_eq!(schedule.latest(long_ago, EPOCH + DAY), Some(EPOCH + DAY));
            assert_eq!(schedule.latest(EPOCH + DAY, long_ago), None);
            assert_eq!(schedule.next(end), None);
            assert!(schedule.latest(EPOCH, end).is_some());
        }
    }

    #[cfg(feature = "cron")]
    #[test]
    fn the_interval_of_an_expression_is_that_of_its_next_two_ticks() {
        let schedule = Schedule::cron("0 9,17 * * *", "UTC").unwrap();
        assert_eq!(schedule.interval(EPOCH), 8 * 60 * 60 * SECOND);
        assert_eq!(schedule.interval(EPOCH + DAY / 2), 16 * 60 * 60 * SECOND);
        // The calendar ends before the next one.
        let far = EPOCH + 2930 * 366 * DAY;
        assert_eq!(schedule.interval(far), Duration::MAX);
    }

    /// Checks that `next` and `latest` agree, from `after` on for `span`.
    fn consistent(schedule: &Schedule, after: SystemTime, span: Duration) -> Result<(), String> {
        let until = after + span;
        let mut last = None;
        let mut at = after;
        // More ticks than any schedule of the tests has. A schedule that reaches this is stuck.
        for _ in 0..200_000 {
            let Some(tick) = schedule.next(at).filter(|tick| *tick <= until) else {
                let latest = schedule.latest(after, until);
                return if latest == last {
                    Ok(())
                } else {
                    Err(format!("latest is {latest:?}, the last of next is {last:?}"))
                };
            };
            if tick <= at {
                return Err(format!("after {at:?} came {tick:?}"));
            }
            let latest = schedule.latest(at, tick);
            if latest != Some(tick) {
                return Err(format!("next is {tick:?}, latest up to it is {latest:?}"));
            }
            if let Some(between) = schedule.latest(at, tick - Duration::from_nanos(1)) {
                return Err(format!("next is {tick:?}, before it is due {between:?}"));
            }
            (at, last) = (tick, Some(tick));
        }
        Err(format!("stuck at {at:?}"))
    }

    proptest! {
        #[test]
        fn next_and_latest_of_every_tell_the_same_ticks(
            interval in 1_000_u64..100_000_000,
            after in 0_u64..4_000_000_000_000_000,
            span in 0_u64..200_000_000,
        ) {
            let schedule = Schedule::every(Duration::from_micros(interval)).unwrap();
            // At most some thousand ticks.
            let span = span.min(interval * 2_000);
            let after = EPOCH + Duration::from_micros(after);
            prop_assert_eq!(consistent(&schedule, after, Duration::from_micros(span)), Ok(()));
        }
    }

    #[cfg(feature = "cron")]
    proptest! {
        #[test]
        fn next_and_latest_of_cron_tell_the_same_ticks(
            expression in prop::sample::select(&[
                "0 30 2 * * *", "0 0 2 * * *", "0 0 3 * * *", "0 15 1,2,14 * * *", "0 0-59 2 * * *",
                "0 */15 * * * *", "0 45 * * * *", "*/7 59 * * * *", "* * 1-3 * * *",
                "0 0 0 * * *", "30 23 * * SAT", "0 30 2 * * SUN", "0 0 1 L * *", "@weekly",
            ][..]),
            (zone, changes) in prop::sample::select(&[
                // Each with the seconds of two changes, to and from daylight saving time, in 2025.
                ("Europe/Berlin", [1_743_296_400, 1_761_440_400]),
                ("America/New_York", [1_741_503_600, 1_762_063_200]),
                ("Australia/Lord_Howe", [1_759_591_800, 1_743_865_200]),
                // Its clocks skip the last hour of a Saturday.
                ("America/Nuuk", [1_743_296_400, 1_761_440_400]),
                ("UTC", [1_743_296_400, 1_761_440_400]),
            ][..]),
            autumn in 0..2_usize,
            before in 0_u64..200_000_000,
            span in 0_u64..400_000_000,
        ) {
            let schedule = Schedule::cron(expression, zone).unwrap();
            // Expressions by the second have thousands of ticks within a few hours.
            let scale = if expression.starts_with('*') { 30 } else { 1 };
            let after = seconds(changes[autumn]) - Duration::from_millis(before / scale);
            let span = Duration::from_millis(span / scale);
            prop_assert_eq!(consistent(&schedule, after, span), Ok(()));
        }
    }
}
