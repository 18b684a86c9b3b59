//! Numbers for people.

pub(super) use crate::text::thousands as count;

/// Three significant digits and the unit that suits: `2.41 s`, `87.3 ms`, `9.05 µs`, `64 ns`.
pub(super) fn time(nanos: f64) -> String {
    let (value, unit) = match nanos {
        n if n < 999.5 => return format!("{n:.0} ns"),
        n if n < 999.5e3 => (n / 1e3, "µs"),
        n if n < 999.5e6 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// Bytes in units of 1024.
pub(super) fn bytes(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b < 1024.0 => format!("{b} B"),
        b if b < 1023.5 * 1024.0 => format!("{} KiB", three_digits(b / 1024.0)),
        b if b < 1023.5 * 1024.0 * 1024.0 => {
            format!("{} MiB", three_digits(b / 1024.0 / 1024.0))
        }
        b => format!("{} GiB", three_digits(b / 1024.0 / 1024.0 / 1024.0)),
    }
}

/// `97.31 %`
pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// `1.0 ×`, `42 ×`, `1,250 ×`
pub(super) fn times(ratio: f64) -> String {
    match ratio {
        r if !r.is_finite() => "–".to_owned(),
        r if r < 9.95 => format!("{r:.1} ×"),
        r => format!("{} ×", count(r.round() as u64)),
    }
}

pub(super) fn three_digits(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => count(v.round() as u64),
    }
}

/// A number as short as it can be said: `1`, `0.99`, `2.5`.
pub(super) fn plain(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units_and_few_digits() {
        let times_of = [0.0, 64.2, 9_050.0, 87_310_000.0, 2.41e9, 999_600.0];
        assert_eq!(
            times_of.map(time),
            ["0 ns", "64 ns", "9.05 µs", "87.3 ms", "2.41 s", "1.00 ms"]
        );
        assert_eq!(
            [12, 2048, 64 << 20, 5 << 30].map(bytes),
            ["12 B", "2.00 KiB", "64.0 MiB", "5.00 GiB"]
        );
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([1.0, 41.7, 1250.4].map(times), ["1.0 ×", "42 ×", "1,250 ×"]);
        assert_eq!([1.0, 0.99, 2.5, 100.0].map(plain), ["1", "0.99", "2.5", "100"]);
        assert_eq!(percent(0.97312), "97.31 %");
    }
}
