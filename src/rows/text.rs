//! Converts PostgreSQL's binary values to text, for serde.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cursor::Cursor;

/// The reason for an error if a value's bytes do not match its type.
pub(super) const MALFORMED: &str = "its bytes are not of its type";

const DAY: i64 = 86_400_000_000;
/// 2000-01-01, PostgreSQL's day zero, in days since 1970-01-01.
const EPOCH: i64 = 10_957;

/// `numeric`: the number of digits, the weight of the first, the sign, the number of decimals to
/// show, and the base-10,000 digits (`numeric_send` in PostgreSQL's
/// `src/backend/utils/adt/numeric.c`).
pub(super) fn numeric(raw: &[u8]) -> Option<String> {
    let mut cursor = Cursor::new(raw);
    // Unsigned, up to 65,535, unlike the weight.
    let count = cursor.be_i16()? as u16;
    let weight = i32::from(cursor.be_i16()?);
    let sign = cursor.be_i16()? as u16;
    let decimals = usize::try_from(cursor.be_i16()?).ok()?;
    match sign {
        0xC000 => return Some("NaN".into()),
        0xD000 => return Some("Infinity".into()),
        0xF000 => return Some("-Infinity".into()),
        _ => {}
    }
    let mut digits = vec![];
    for _ in 0..count {
        digits.push(cursor.be_i16().filter(|digit| (0..10_000).contains(digit))?);
    }
    let digit = |place: i32| {
        // `place` 0 is the digit just before the point. Omitted digits are zeros.
        usize::try_from(weight - place).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0)
    };
    let mut out = String::new();
    if sign == 0x4000 {
        out.push('-');
    }
    write!(out, "{}", digit(weight.max(0))).ok()?;
    for place in (0..weight).rev() {
        write!(out, "{:04}", digit(place)).ok()?;
    }
    if decimals > 0 {
        out.push('.');
        let end = out.len() + decimals;
        let mut place = -1;
        while out.len() < end {
            write!(out, "{:04}", digit(place)).ok()?;
            place -= 1;
        }
        out.truncate(end);
    }
    Some(out)
}

/// `date`: days since 2000-01-01.
pub(super) fn date(raw: &[u8]) -> Option<String> {
    Some(match Cursor::new(raw).be_i32()? {
        i32::MAX => "infinity".into(),
        i32::MIN => "-infinity".into(),
        days => day(i64::from(days)),
    })
}

/// `time`: microseconds since midnight.
pub(super) fn time(raw: &[u8]) -> Option<String> {
    Cursor::new(raw).be_i64().map(clock)
}

/// `timestamp` and `timestamptz`: microseconds since 2000-01-01.
pub(super) fn timestamp(raw: &[u8], zone: &str) -> Option<String> {
    Some(match Cursor::new(raw).be_i64()? {
        i64::MAX => "infinity".into(),
        i64::MIN => "-infinity".into(),
        micros => {
            format!("{}T{}{zone}", day(micros.div_euclid(DAY)), clock(micros.rem_euclid(DAY)))
        }
    })
}

/// A number of days since 2000-01-01 as year, month and day.
///
/// The algorithm is `civil_from_days` in Howard Hinnant's "chrono-Compatible Low-Level Date
/// Algorithms". Its years begin in March, so that the leap day is the last day of its year, and its
/// calendar repeats every 400 years.
fn day(days: i64) -> String {
    let shifted = days + EPOCH + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    // ISO 8601: a year without exactly four digits has a sign.
    match year {
        0..=9999 => format!("{year:04}-{month:02}-{day:02}"),
        _ => format!("{year:+05}-{month:02}-{day:02}"),
    }
}

/// A time of day from microseconds since midnight. PostgreSQL allows 24:00:00.
fn clock(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    let mut out = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    fraction(&mut out, micros % 1_000_000);
    out
}

fn fraction(out: &mut String, micros: i64) {
    if micros != 0 {
        let digits = format!(".{:06}", micros.abs());
        out.push_str(digits.trim_end_matches('0'));
    }
}

/// `interval`: microseconds, days and months, each with its own sign, as an ISO 8601 duration.
pub(super) fn interval(raw: &[u8]) -> Option<String> {
    let mut cursor = Cursor::new(raw);
    let micros = cursor.be_i64()?;
    let days = cursor.be_i32()?;
    let months = cursor.be_i32()?;
    match (micros, days, months) {
        (i64::MAX, i32::MAX, i32::MAX) => return Some("infinity".into()),
        (i64::MIN, i32::MIN, i32::MIN) => return Some("-infinity".into()),
        (0, 0, 0) => return Some("PT0S".into()),
        _ => {}
    }
    let mut out = String::from("P");
    let part = |out: &mut String, number: i64, unit: char| {
        if number != 0 {
            let _ = write!(out, "{number}{unit}");
        }
    };
    part(&mut out, i64::from(months / 12), 'Y');
    part(&mut out, i64::from(months % 12), 'M');
    part(&mut out, i64::from(days), 'D');
    if micros != 0 {
        out.push('T');
        let seconds = micros / 1_000_000;
        part(&mut out, seconds / 3600, 'H');
        part(&mut out, seconds / 60 % 60, 'M');
        let rest = micros % 60_000_000;
        if rest != 0 {
            if rest < 0 {
                out.push('-');
            }
            let _ = write!(out, "{}", (rest / 1_000_000).abs());
            fraction(&mut out, rest % 1_000_000);
            out.push('S');
        }
    }
    Some(out)
}

/// The same as PostgreSQL writes it, with `intervalstyle` at its default.
pub(super) fn interval_of_postgres(raw: &[u8]) -> Option<String> {
    let mut cursor = Cursor::new(raw);
    let (micros, days, months) = (cursor.be_i64()?, cursor.be_i32()?, cursor.be_i32()?);
    match (micros, days, months) {
        (i64::MAX, i32::MAX, i32::MAX) => return Some("infinity".into()),
        (i64::MIN, i32::MIN, i32::MIN) => return Some("-infinity".into()),
        _ => {}
    }
    let mut parts = vec![];
    // After a negative part, a positive one shows its sign.
    let mut negative = false;
    for (number, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if number != 0 {
            let sign = if negative && number > 0 { "+" } else { "" };
            let plural = if number == 1 { "" } else { "s" };
            parts.push(format!("{sign}{number} {unit}{plural}"));
            negative = number < 0;
        }
    }
    if micros != 0 || parts.is_empty() {
        let sign = match micros {
            ..0 => "-",
            _ if negative => "+",
            _ => "",
        };
        let seconds = micros.unsigned_abs() / 1_000_000;
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        let mut time = format!("{sign}{hours:02}:{minutes:02}:{:02}", seconds % 60);
        fraction(&mut time, micros % 1_000_000);
        parts.push(time);
    }
    Some(parts.join(" "))
}

/// `uuid`: 16 bytes.
pub(super) fn uuid(raw: &[u8]) -> Option<String> {
    let bytes: [u8; 16] = raw.try_into().ok()?;
    let mut out = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        write!(out, "{byte:02x}").ok()?;
    }
    Some(out)
}

/// `inet` and `cidr`: the family, the prefix length, whether it is a `cidr`, the number of bytes,
/// and the bytes.
pub(super) fn inet(raw: &[u8]) -> Option<String> {
    let &[_, prefix, cidr, _, ref address @ ..] = raw else { return None };
    let (address, full) = match *address {
        [a, b, c, d] => (IpAddr::V4(Ipv4Addr::new(a, b, c, d)), 32),
        _ => (IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?)), 128),
    };
    if cidr == 0 && prefix == full {
        return Some(address.to_string());
    }
    Some(format!("{address}/{prefix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric_of(weight: i16, sign: u16, decimals: i16, digits: &[i16]) -> String {
        let mut raw = vec![];
        for number in [digits.len() as i16, weight, sign as i16, decimals] {
            raw.extend_from_slice(&number.to_be_bytes());
        }
        digits.iter().for_each(|digit| raw.extend_from_slice(&digit.to_be_bytes()));
        numeric(&raw).unwrap()
    }

    #[test]
    fn numerics_read_as_postgresql_prints_them() {
        assert_eq!(numeric_of(0, 0, 0, &[]), "0");
        assert_eq!(numeric_of(0, 0, 2, &[]), "0.00");
        assert_eq!(numeric_of(0, 0, 0, &[7]), "7");
        assert_eq!(numeric_of(1, 0x4000, 2, &[1, 2345, 6700]), "-12345.67");
        assert_eq!(numeric_of(-1, 0, 4, &[5]), "0.0005");
        assert_eq!(numeric_of(-2, 0, 8, &[5]), "0.00000005");
        assert_eq!(numeric_of(2, 0, 0, &[1]), "100000000");
        assert_eq!(numeric_of(0, 0xC000, 0, &[]), "NaN");
        assert_eq!(numeric_of(0, 0xF000, 0, &[]), "-Infinity");
    }

    #[test]
    fn dates_and_times_read_as_iso_8601() {
        let at = |days: i32| date(&days.to_be_bytes()).unwrap();
        assert_eq!(at(0), "2000-01-01");
        assert_eq!(at(59), "2000-02-29");
        assert_eq!(at(60), "2000-03-01");
        assert_eq!(at(-1), "1999-12-31");
        assert_eq!(at(8766), "2024-01-01");
        assert_eq!(at(-730_485), "0000-01-01");
        assert_eq!(at(-730_486), "-0001-12-31");
        assert_eq!(at(i32::MAX), "infinity");
        let instant = |micros: i64| timestamp(&micros.to_be_bytes(), "Z").unwrap();
        assert_eq!(instant(0), "2000-01-01T00:00:00Z");
        assert_eq!(instant(-1), "1999-12-31T23:59:59.999999Z");
        assert_eq!(instant(1_500_000), "2000-01-01T00:00:01.5Z");
        assert_eq!(instant(i64::MIN), "-infinity");
        assert_eq!(time(&DAY.to_be_bytes()).unwrap(), "24:00:00");
    }

    #[test]
    fn intervals_keep_the_sign_of_each_part() {
        let of = |micros: i64, days: i32, months: i32| {
            let mut raw = micros.to_be_bytes().to_vec();
            raw.extend_from_slice(&days.to_be_bytes());
            raw.extend_from_slice(&months.to_be_bytes());
            interval(&raw).unwrap()
        };
        assert_eq!(of(0, 0, 0), "PT0S");
        assert_eq!(of(3_661_500_000, -2, 14), "P1Y2M-2DT1H1M1.5S");
        assert_eq!(of(-500_000, 0, 0), "PT-0.5S");
    }

    #[test]
    fn short_bytes_are_no_value() {
        assert_eq!(numeric(&[0, 1, 0, 0]), None);
        assert_eq!(date(&[0]), None);
        assert_eq!(uuid(&[0; 15]), None);
        assert_eq!(inet(&[2, 32, 0, 4, 1]), None);
    }
}
