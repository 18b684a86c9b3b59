//! What people write for sizes, times, shares and rates.

use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;

/// `30s`, `1m 30s`, `500ms`, `1.5h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || "a time is needed, such as 30s, 1m30s or 500ms".to_owned();
    let time: SignedDuration = text.trim().parse().map_err(|_| wanted())?;
    let time = Duration::try_from(time).map_err(|_| "a time cannot be negative".to_owned())?;
    match time {
        Duration::ZERO => Err("it must be more than nothing".to_owned()),
        time if time > Duration::from_secs(7 * 24 * 60 * 60) => {
            Err("a week is the longest".to_owned())
        }
        time => Ok(time),
    }
}

const UNITS: [(&str, u64); 9] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
];

/// `64MiB`, `500 kB`, `1.5G`, `4096`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wanted = || "a size is needed, such as 64MiB, 500kB or 4096".to_owned();
    let lower = text.trim().to_ascii_lowercase();
    let unit = UNITS.iter().find(|(name, _)| lower.ends_with(name));
    let (number, factor) = match unit {
        Some((name, factor)) => (&lower[..lower.len() - name.len()], *factor),
        None => (lower.strip_suffix('b').unwrap_or(&lower), 1),
    };
    let bytes = number.trim().parse::<f64>().map_err(|_| wanted())? * factor as f64;
    match bytes {
        bytes if !(0.0..=1e15).contains(&bytes) => Err(wanted()),
        bytes if bytes < 1.0 => Err("at least 1 byte is needed".to_owned()),
        bytes => Ok(bytes as u64),
    }
}

/// How much is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Writes {
    /// This share of what readers do, from 0 to 1.
    Share(f64),
    /// So many per second, all processes together.
    Rate(f64),
}

impl FromStr for Writes {
    type Err = String;

    /// `1%`, `0.01`, `50/s`, `0`.
    fn from_str(text: &str) -> Result<Writes, String> {
        let wanted = || "a share or a rate is needed, such as 1%, 50/s or 0".to_owned();
        let text = text.trim();
        if let Some(rate) = text.strip_suffix("/s") {
            let rate: f64 = rate.trim().parse().map_err(|_| wanted())?;
            return match rate {
                rate if (0.0..=1e6).contains(&rate) => Ok(Writes::Rate(rate)),
                _ => Err("a rate is from 0/s to 1000000/s".to_owned()),
            };
        }
        match share(text) {
            Some(share) if (0.0..=1.0).contains(&share) => Ok(Writes::Share(share)),
            Some(_) => Err("a share is from 0% to 100%; a rate ends in /s".to_owned()),
            None => Err(wanted()),
        }
    }
}

fn share(text: &str) -> Option<f64> {
    match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().ok().map(|percent| percent / 100.0),
        None => text.parse().ok(),
    }
}

/// A capacity of the memory tier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Capacity {
    /// This share of all different keys, above 0 and up to 1.
    Share(f64),
    /// So many keys.
    Keys(u64),
}

impl FromStr for Capacity {
    type Err = String;

    /// `5%`, `2000`.
    fn from_str(text: &str) -> Result<Capacity, String> {
        let text = text.trim();
        if text.ends_with('%') {
            return match share(text) {
                Some(share) if share > 0.0 && share <= 1.0 => Ok(Capacity::Share(share)),
                _ => Err(format!("{text} is no capacity: above 0% and up to 100% is needed")),
            };
        }
        match text.parse() {
            Ok(keys) if keys > 0 => Ok(Capacity::Keys(keys)),
            _ => {
                Err(format!("{text:?} is no capacity: a percentage or a number of keys is needed"))
            }
        }
    }
}

impl Capacity {
    pub(super) fn of(self, keys: u64) -> u64 {
        match self {
            Capacity::Share(share) => ((keys as f64 * share).round() as u64).max(1),
            Capacity::Keys(keys) => keys,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_nonsense_is_told() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "30", "-3s", "0s", "fast", "9w"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_with_either_kind_of_unit() {
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("64 mb"), Ok(64_000_000));
        assert_eq!(bytes("1.5K"), Ok(1536));
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("12B"), Ok(12));
        for wrong in ["", "MiB", "-1k", "0", "12 apples", "nan"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn writes_are_a_share_or_a_rate() {
        assert_eq!("1%".parse(), Ok(Writes::Share(0.01)));
        assert_eq!("0.01".parse(), Ok(Writes::Share(0.01)));
        assert_eq!("50/s".parse(), Ok(Writes::Rate(50.0)));
        for wrong in ["", "50", "101%", "-1%", "-1/s", "nan", "x/s"] {
            assert!(wrong.parse::<Writes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_capacity_is_a_share_or_a_number_of_keys() {
        let of = |text: &str| text.parse::<Capacity>().map(|capacity| capacity.of(1000));
        assert_eq!((of("5%"), of("70"), of("0.01%")), (Ok(50), Ok(70), Ok(1)));
        for wrong in ["0%", "101%", "0", "-1", "x"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
