//! Numbers with their units, for people.

pub(super) use crate::text::thousands as count;

/// Before a unit: no line ends there.
const SPACE: char = '\u{a0}';

/// Whole if it is large, and with three digits otherwise: `31,400`, `2.25`.
pub(super) fn number(number: f64) -> String {
    if !number.is_finite() {
        return "–".to_owned();
    }
    match number.abs() {
        0.0 => "0".to_owned(),
        at_least if at_least >= 999.5 => count(number.round().max(0.0) as u64),
        at_least if at_least >= 99.95 => format!("{number:.0}"),
        at_least if at_least >= 9.995 => format!("{number:.1}"),
        at_least if at_least >= 0.01 => format!("{number:.2}"),
        _ => "< 0.01".replace(' ', "\u{a0}"),
    }
}

/// `97.3 %`. What is not quite all, or not quite nothing, does not look like it.
pub(super) fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    let text = match ratio {
        _ if !ratio.is_finite() => return "–".to_owned(),
        _ if ratio <= 0.0 => "0".to_owned(),
        _ if ratio == 1.0 => "100".to_owned(),
        _ if percent < 0.05 => format!("<{SPACE}0.1"),
        _ if percent > 99.995 && ratio < 1.0 => format!(">{SPACE}99.99"),
        _ if percent > 99.0 => format!("{percent:.2}"),
        _ => format!("{percent:.1}"),
    };
    format!("{text}{SPACE}%")
}

/// `850 ns`, `12.3 µs`, `4.56 ms`, `1.20 s`
pub(super) fn time(ns: f64) -> String {
    if !ns.is_finite() {
        return "–".to_owned();
    }
    let (value, unit) = match ns {
        0.0 => return format!("0{SPACE}s"),
        _ if ns < 999.5 => return format!("{ns:.0}{SPACE}ns"),
        _ if ns < 999.5e3 => (ns / 1e3, "µs"),
        _ if ns < 999.5e6 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    format!("{}{SPACE}{unit}", number(value))
}

/// `60 s`, `5 ms`, `1 %`: as short as it can be, for what was chosen and is not measured.
pub(super) fn short(text: &str) -> String {
    let (digits, unit) = text.split_once(SPACE).unwrap_or((text, ""));
    let digits = if digits.contains('.') {
        digits.trim_end_matches('0').trim_end_matches('.')
    } else {
        digits
    };
    if unit.is_empty() { digits.to_owned() } else { format!("{digits}{SPACE}{unit}") }
}

pub(super) fn seconds(seconds: f64) -> String {
    time(seconds * 1e9)
}

/// `64 MiB`
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match (unit, value.fract() < 0.05 || value >= 99.95) {
        (0, _) | (_, true) => count(value.round() as u64),
        _ => format!("{value:.1}"),
    };
    format!("{digits}{SPACE}{}", UNITS[unit])
}

/// `42 ×`
pub(super) fn times(by: f64) -> String {
    let digits = if by >= 9.95 { count(by.round() as u64) } else { format!("{by:.1}") };
    format!("{digits}{SPACE}×")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: String) -> String {
        text.replace(SPACE, " ")
    }

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([2.254, 31.42, 314.2, 31_416.0].map(number), ["2.25", "31.4", "314", "31,416"]);
        let times_of = [0.0, 850.0, 12_340.0, 999_600.0, 4_560_000.0, 1.2e9, f64::NAN];
        assert_eq!(
            times_of.map(|ns| plain(time(ns))),
            ["0 s", "850 ns", "12.3 µs", "1.00 ms", "4.56 ms", "1.20 s", "–"]
        );
        let sizes = [100, 1024, 1536, 64 << 20, 5 << 40];
        assert_eq!(
            sizes.map(|it| plain(bytes(it))),
            ["100 bytes", "1 KiB", "1.5 KiB", "64 MiB", "5 TiB"]
        );
        assert_eq!([1.84, 9.96, 42.3].map(|by| plain(times(by))), ["1.8 ×", "10 ×", "42 ×"]);
    }

    #[test]
    fn what_was_chosen_has_no_digits_for_nothing() {
        let texts = [seconds(60.0), seconds(0.0), time(2.5e6), percent(0.01), number(150.0)];
        assert_eq!(texts.map(|it| plain(short(&it))), ["60 s", "0 s", "2.5 ms", "1 %", "150"]);
    }

    #[test]
    fn a_share_that_is_not_all_does_not_look_like_it() {
        let shares = [0.0, 0.0001, 0.5, 0.973, 0.9951, 0.999_99, 1.0, f64::NAN];
        assert_eq!(
            shares.map(|it| plain(percent(it))),
            ["0 %", "< 0.1 %", "50.0 %", "97.3 %", "99.51 %", "> 99.99 %", "100 %", "–"]
        );
    }
}
