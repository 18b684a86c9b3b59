//! Numbers for people.

use std::time::Duration;

use rust_decimal::Decimal;

/// Three significant digits and the unit that suits: `2.41 s`, `87.3 ms`, `9.05 µs`, `64.0 ns`.
pub(crate) fn time(time: Duration) -> String {
    let nanos = time.as_nanos() as f64;
    let (value, unit) = match nanos {
        n if n < 999.5 => (n, "ns"),
        n if n < 999.5e3 => (n / 1e3, "µs"),
        n if n < 999.5e6 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// Seconds with one decimal, for what takes long.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Bytes in units of 1024.
pub(crate) fn bytes(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b < 1024.0 => format!("{b} B"),
        b if b < 1024.0 * 1024.0 => format!("{} KiB", three_digits(b / 1024.0)),
        b if b < 1024.0 * 1024.0 * 1024.0 => {
            format!("{} MiB", three_digits(b / 1024.0 / 1024.0))
        }
        b => format!("{} GiB", three_digits(b / 1024.0 / 1024.0 / 1024.0)),
    }
}

/// `1,234,567`
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1,234,567.89`
pub(crate) fn money(amount: Decimal) -> String {
    let cents = (amount.abs() * Decimal::ONE_HUNDRED).round();
    let cents = u64::try_from(cents).unwrap_or(u64::MAX);
    let sign = if amount.is_sign_negative() { "-" } else { "" };
    format!("{sign}{}.{:02}", count(cents / 100), cents % 100)
}

/// How many times `fast` goes into `slow`, such as `3.4x` or `1,250x`.
pub(crate) fn times(slow: Duration, fast: Duration) -> String {
    let ratio = slow.as_secs_f64() / fast.as_secs_f64();
    if ratio < 10.0 {
        return format!("{ratio:.1}x");
    }
    format!("{}x", count(ratio.round() as u64))
}

fn three_digits(value: f64) -> String {
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}
