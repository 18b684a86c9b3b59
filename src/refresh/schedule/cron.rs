//! [`Cron`]: the ticks of a cron expression in a time zone.
//!
//! croner parses the expressions and finds the local times that match. This module decides which
//! instants have a local time.
//!
//! croner's own search by instants gives the same ticks for a single time of day, and for
//! expressions with a `*` in the time; a test checks this. It differs in three cases. It treats
//! more than one time of day as an interval: of `0 2,14 * * *` it leaves out the 02:00 that falls
//! in a gap, and finds two where clocks are put back. It loses a time in a gap that ends on the
//! next day, if the next day does not match. It stops at a gap of more than two hours. Local times
//! have no such cases, and are in the same order as their instants, so that the same ticks are
//! found forwards and backwards.

use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::error::WrongSetting;

/// The end of the calendar: the beginning of the year 4900, UTC, in seconds since 1970. croner's
/// own end is the beginning of the year 5000, in local time, and differs between the two
/// directions.
const END: u64 = 92_461_910_400;

/// More than the difference between any two local times of the world, in seconds.
const WIDEST: u64 = 2 * 24 * 60 * 60;

/// A cron expression in a time zone. Times are whole seconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone)]
pub(crate) struct Cron {
    pattern: croner::Cron,
    zone: TimeZone,
    /// Whether the expression names times of day, each of which is due once a day. As in Vixie
    /// cron, this is so if the fields for the time contain no `*`.
    names_times: bool,
}

impl Cron {
    pub(super) fn new(expression: &str, zone: &str) -> Result<Cron, WrongSetting> {
        let refused = |reason: String| WrongSetting {
            setting: "cron",
            given: format!("{expression:?} ({reason})"),
            allowed: "five fields, or six with the seconds first, such as \"0 30 2 * * *\" for \
                      half past two every day"
                .into(),
        };
        let pattern = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Disallowed)
            .alternative_weekdays(false)
            .build()
            .parse(expression)
            .map_err(|error| refused(reason(&error)))?;
        let zone = TimeZone::get(zone).map_err(|_| WrongSetting {
            setting: "time_zone",
            given: format!("{zone:?}"),
            allowed: "the name of a time zone, such as \"Europe/Berlin\" or \"UTC\"".into(),
        })?;
        let parts = &pattern.pattern;
        let of_day = [&parts.seconds, &parts.minutes, &parts.hours];
        let names_times = !of_day.iter().any(|field| field.from_wildcard);
        // A field of commas only. croner would search for it second by second.
        let empty = of_day.iter().any(|field| field.values().is_empty());
        let cron = Cron { pattern, zone, names_times };
        // The calendar repeats after 400 years: an expression that does not match before its end
        // never does.
        if empty || cron.next(0).is_none() {
            return Err(refused("no time ever matches".into()));
        }
        Ok(cron)
    }

    /// The first tick strictly after `at`.
    pub(super) fn next(&self, at: u64) -> Option<u64> {
        if at >= END {
            return None;
        }
        let tick = if self.names_times {
            self.instant(self.forwards(self.shown_up_to(at)?, false)?)?
        } else {
            self.next_shown(at + 1)?
        };
        (tick < END).then_some(tick)
    }

    /// The last tick up to and including `until`, if it lies after `after`.
    pub(super) fn latest(&self, after: u64, until: u64) -> Option<u64> {
        let until = until.min(END - 1);
        let tick = if self.names_times {
            self.instant(self.backwards(self.shown_up_to(until)?)?)?
        } else {
            self.last_shown(after, until)?
        };
        (tick > after).then_some(tick)
    }

    /// The latest local time that clocks have shown up to `at`. While they repeat an hour, this is
    /// not the local time of `at` itself. For all local times up to the result, the instant has
    /// passed. For those after it, it has not.
    fn shown_up_to(&self, at: u64) -> Option<DateTime> {
        let now = timestamp(at)?;
        let recent = timestamp(at.saturating_sub(WIDEST))?;
        // A change at this very second counts: the time before it was shown already.
        self.zone
            .preceding(timestamp(at + 1)?)
            .map(|change| change.timestamp())
            .take_while(|change| *change >= recent)
            .filter_map(|change| timestamp(seconds(change)?.checked_sub(1)?))
            .chain([now])
            .map(|shown| self.zone.to_datetime(shown))
            .max()
    }

    /// The one instant of a local time: the first of two, and in a gap the end of the gap.
    fn instant(&self, local: DateTime) -> Option<u64> {
        let found = match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok()?,
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok()?,
            // With the offset before the change, the time lies after the end of the gap; with the
            // offset after it, before the end.
            AmbiguousOffset::Gap { after, .. } => {
                self.zone.following(after.to_timestamp(local).ok()?).next()?.timestamp()
            }
        };
        seconds(found)
    }

    /// The first instant from `from` on whose local time matches.
    fn next_shown(&self, mut from: u64) -> Option<u64> {
        // Between two changes of the clocks, local times advance like instants.
        while from < END {
            let offset = self.zone.to_offset(timestamp(from)?);
            let local = self.forwards(offset.to_datetime(timestamp(from)?), true)?;
            let tick = seconds(offset.to_timestamp(local).ok()?)?;
            let change = self.zone.following(timestamp(from)?).next();
            match change.and_then(|change| seconds(change.timestamp())) {
                Some(change) if change <= tick => from = change,
                _ => return Some(tick),
            }
        }
        None
    }

    /// The last instant up to `until` whose local time matches, if there is one after `after`.
    fn last_shown(&self, after: u64, mut until: u64) -> Option<u64> {
        while until > after {
            let offset = self.zone.to_offset(timestamp(until)?);
            let local = self.backwards(offset.to_datetime(timestamp(until)?))?;
            let tick = offset.to_timestamp(local).ok()?;
            let change = self.zone.preceding(timestamp(until + 1)?).next();
            match change.map(|change| change.timestamp()) {
                Some(change) if change > tick => until = seconds(change)?.checked_sub(1)?,
                _ => return seconds(tick),
            }
        }
        None
    }

    fn forwards(&self, from: DateTime, inclusive: bool) -> Option<DateTime> {
        self.pattern.find_next_occurrence(&from, inclusive).ok()
    }

    fn backwards(&self, from: DateTime) -> Option<DateTime> {
        self.pattern.find_previous_occurrence(&from, true).ok()
    }
}

fn timestamp(seconds: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

/// `None` before 1970, where there are no ticks.
fn seconds(at: Timestamp) -> Option<u64> {
    u64::try_from(at.as_second()).ok()
}

/// croner's reason in the form of our own: lower case, no trailing stop, and without the name of
/// one of its types.
fn reason(error: &CronError) -> String {
    let whole = error.to_string();
    let reason = match error {
        CronError::InvalidPattern(reason)
        | CronError::IllegalCharacters(reason)
        | CronError::ComponentError(reason) => reason,
        _ => &whole,
    };
    let reason = reason.trim_start_matches("CronPattern ").trim_end_matches('.');
    let mut letters = reason.chars();
    letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use std::iter::successors;

    use jiff::civil::date;

    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    fn cron(expression: &str, zone: &str) -> Cron {
        Cron::new(expression, zone).unwrap()
    }

    /// The midnight that begins a day in `zone`.
    fn midnight(zone: &str, (year, month, day): (i16, i8, i8)) -> u64 {
        let local = date(year, month, day).at(0, 0, 0, 0);
        seconds(TimeZone::get(zone).unwrap().to_timestamp(local).unwrap()).unwrap()
    }

    /// The ticks of `days` days as local times with the offset from UTC, found forwards and also
    /// backwards.
    fn ticks(expression: &str, zone: &str, from: (i16, i8, i8), days: u64) -> Vec<String> {
        let cron = cron(expression, zone);
        let from = midnight(zone, from) - 1;
        let until = from + days * DAY;
        let forwards: Vec<_> = successors(cron.next(from), |tick| cron.next(*tick))
            .take_while(|tick| *tick <= until)
            .collect();
        let mut backwards: Vec<_> =
            successors(cron.latest(from, until), |tick| cron.latest(from, tick - 1)).collect();
        backwards.reverse();
        assert_eq!(forwards, backwards, "{expression} in {zone}");
        let shown = |tick| timestamp(tick).unwrap().to_zoned(cron.zone.clone());
        forwards.into_iter().map(|tick| shown(tick).strftime("%d %H:%M %:z").to_string()).collect()
    }

    #[test]
    fn a_day_of_ticks() {
        assert_eq!(
            ticks("0 0 */8 * * *", "Europe/Berlin", (2025, 6, 1), 1),
            ["01 00:00 +02:00", "01 08:00 +02:00", "01 16:00 +02:00"]
        );
        assert_eq!(ticks("*/10 * * * * *", "UTC", (2025, 6, 1), 1).len(), 6 * 60 * 24);
        assert_eq!(ticks("@hourly", "America/New_York", (2025, 6, 1), 1).len(), 24);
    }

    #[test]
    fn five_fields_begin_with_the_minutes_and_one_is_monday() {
        // The 2nd of June 2025 was a Monday.
        for expression in ["30 6 * * 1", "0 30 6 * * MON", "30 6 ? * 1"] {
            assert_eq!(ticks(expression, "UTC", (2025, 6, 1), 7), ["02 06:30 +00:00"]);
        }
        for expression in ["0 0 * * 0", "0 0 * * 7", "@weekly"] {
            assert_eq!(ticks(expression, "UTC", (2025, 6, 1), 7), ["01 00:00 +00:00"]);
        }
    }

    #[test]
    fn a_time_of_day_in_a_gap_is_due_once_at_its_end() {
        assert_eq!(
            ticks("0 30 2 * * *", "Europe/Berlin", (2025, 3, 29), 3),
            ["29 02:30 +01:00", "30 03:00 +02:00", "31 02:30 +02:00"]
        );
        assert_eq!(
            ticks("30 2 * * *", "America/New_York", (2025, 3, 8), 3),
            ["08 02:30 -05:00", "09 03:00 -04:00", "10 02:30 -04:00"]
        );
        assert_eq!(
            ticks("15 2 * * *", "Australia/Lord_Howe", (2025, 10, 4), 3),
            ["04 02:15 +10:30", "05 02:30 +11:00", "06 02:15 +11:00"]
        );
        // One of two times of day, two times in one gap, and a gap that ends at midnight.
        assert_eq!(
            ticks("0 2,14 * * *", "Europe/Berlin", (2025, 3, 30), 1),
            ["30 03:00 +02:00", "30 14:00 +02:00"]
        );
        assert_eq!(ticks("0,30 2 * * *", "Europe/Berlin", (2025, 3, 30), 1), ["30 03:00 +02:00"]);
        assert_eq!(
            ticks("30 23 * * SAT", "America/Nuuk", (2025, 3, 22), 15),
            ["22 23:30 -02:00", "30 00:00 -01:00", "05 23:30 -01:00"]
        );
        // A whole day was skipped when the date line was moved.
        assert_eq!(
            ticks("0 12 * * *", "Pacific/Apia", (2011, 12, 29), 2),
            ["29 12:00 -10:00", "31 00:00 +14:00", "31 12:00 +14:00"]
        );
    }

    #[test]
    fn a_time_of_day_that_comes_twice_is_due_the_first_time() {
        assert_eq!(
            ticks("0 30 2 * * *", "Europe/Berlin", (2025, 10, 25), 3),
            ["25 02:30 +02:00", "26 02:30 +02:00", "27 02:30 +01:00"]
        );
        assert_eq!(
            ticks("30 1 * * *", "America/New_York", (2025, 11, 1), 3),
            ["01 01:30 -04:00", "02 01:30 -04:00", "03 01:30 -05:00"]
        );
        assert_eq!(
            ticks("45 1 * * *", "Australia/Lord_Howe", (2025, 4, 5), 3),
            ["05 01:45 +11:00", "06 01:45 +11:00", "07 01:45 +10:30"]
        );
        assert_eq!(
            ticks("0 2,14 * * *", "Europe/Berlin", (2025, 10, 26), 1),
            ["26 02:00 +02:00", "26 14:00 +01:00"]
        );
    }

    #[test]
    fn an_interval_goes_on_through_a_change_of_the_clocks() {
        for (zone, day, hours) in [
            ("Europe/Berlin", (2025, 3, 30), 23),
            ("Europe/Berlin", (2025, 10, 26), 25),
            ("America/New_York", (2025, 3, 9), 23),
            ("America/New_York", (2025, 11, 2), 25),
        ] {
            let cron = cron("0 */15 * * * *", zone);
            let start = midnight(zone, day);
            let found: Vec<_> =
                successors(Some(start), |tick| cron.next(*tick)).take(4 * hours + 1).collect();
            let even: Vec<_> = (0..=4 * hours as u64).map(|n| start + n * 15 * 60).collect();
            assert_eq!(found, even, "{zone} {day:?}");
            let (_, month, of_month) = day;
            let next = (day.0, month, of_month + 1);
            assert_eq!(found.last(), Some(&midnight(zone, next)));
        }
        assert_eq!(
            ticks("*/30 1 * * *", "Australia/Lord_Howe", (2025, 4, 6), 1),
            ["06 01:00 +11:00", "06 01:30 +11:00", "06 01:30 +10:30"]
        );
    }

    #[test]
    fn from_within_a_repeated_hour_no_time_of_day_is_due_again() {
        let cron = cron("0 30 2 * * *", "Europe/Berlin");
        let first = midnight("Europe/Berlin", (2025, 10, 26)) + 2 * 3600 + 1800;
        for at in (first..first + 2 * 3600).step_by(300) {
            assert_eq!(cron.next(at), Some(first + 25 * 3600), "{}", at - first);
            assert_eq!(cron.latest(first - 1, at), Some(first), "{}", at - first);
            assert_eq!(cron.latest(first, at), None, "{}", at - first);
        }
    }

    #[test]
    fn croner_itself_tells_the_same_of_single_times_of_day_and_of_intervals() {
        for (zone, day) in [
            ("Europe/Berlin", (2025, 3, 28)),
            ("Europe/Berlin", (2025, 10, 24)),
            ("America/New_York", (2025, 3, 7)),
            ("America/New_York", (2025, 10, 31)),
            ("Australia/Lord_Howe", (2025, 10, 3)),
            ("Australia/Lord_Howe", (2025, 4, 4)),
        ] {
            for expression in ["30 2 * * *", "45 1 * * *", "0 3 * * *", "*/15 * * * *"] {
                let cron = cron(expression, zone);
                let start = midnight(zone, day);
                let mut at = start;
                while at < start + 4 * DAY {
                    let zoned = timestamp(at).unwrap().to_zoned(cron.zone.clone());
                    let theirs = cron.pattern.find_next_occurrence(&zoned, false).unwrap();
                    assert_eq!(cron.next(at), seconds(theirs.timestamp()), "{expression} {zoned}");
                    at = cron.next(at).unwrap();
                }
            }
        }
    }

    #[test]
    fn years_by_the_second_are_looked_through_at_once() {
        let cron = cron("* * * * * *", "Europe/Berlin");
        let until = midnight("Europe/Berlin", (2025, 6, 1));
        for _ in 0..10_000 {
            assert_eq!(cron.latest(0, until), Some(until));
        }
        let rare = self::cron("* * 0 29 2 +MON", "Europe/Berlin");
        let leap = midnight("Europe/Berlin", (2044, 2, 29));
        assert_eq!(rare.next(until), Some(leap));
        assert_eq!(rare.latest(until, END), rare.latest(leap, u64::MAX));
        assert_eq!(rare.latest(until, leap + 40 * DAY), Some(leap + 3599));
    }

    #[test]
    fn nonsense_is_refused_with_the_reason_and_an_example() {
        let refusal = |expression: &str| Cron::new(expression, "UTC").unwrap_err().to_string();
        for (expression, reason) in [
            ("", "cannot be an empty string"),
            ("* * *", "pattern must have 5 or 6 fields when years are disallowed"),
            ("0 0 0 1 1 * 2030", "fields"),
            ("61 * * * *", "number out of bounds"),
            ("hello", "fields"),
            ("@reboot", "fields"),
            ("0 0 0 0 0", "out of bounds"),
            ("0 0 x * *", "contains illegal character 'X'"),
            ("0 0 30 2 *", "no time ever matches"),
            (", * * * *", "no time ever matches"),
            ("0 0 , * *", "no time ever matches"),
        ] {
            let message = refusal(expression);
            assert!(message.starts_with(&format!("`cron` is {expression:?} (")), "{message}");
            assert!(message.contains(reason), "{message}");
            assert!(message.ends_with("such as \"0 30 2 * * *\" for half past two every day"));
        }
    }

    #[test]
    fn an_unknown_zone_is_refused_with_an_example() {
        for zone in ["", "Mars/Olympus", "Europe/Berlin ", "+02:00"] {
            assert_eq!(
                Cron::new("@daily", zone).unwrap_err().to_string(),
                format!(
                    "`time_zone` is {zone:?}; allowed: the name of a time zone, such as \
                     \"Europe/Berlin\" or \"UTC\""
                )
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_a_panic(
            text in "[*0-9,/#?LWSUNMONJAN+@a-z -]{0,30}",
            fields in proptest::collection::vec("[*0-9,/#?LW+-]{1,5}", 5..=6),
        ) {
            for expression in [text, fields.join(" ")] {
                if let Ok(cron) = Cron::new(&expression, "Europe/Berlin") {
                    cron.latest(0, cron.next(1_700_000_000).unwrap_or(END));
                }
            }
        }
    }
}
