//! [`Lsn`]: a position in PostgreSQL's write-ahead log, and [`History`]: of which log it is one.

use std::fmt;

use crate::value::checksum;

/// A position in PostgreSQL's write-ahead log, as `pg_lsn` has it: `16/B374D848`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lsn(u64);

/// How many bits of a number a double holds.
const EXACT: u32 = 53;

impl Lsn {
    /// Before everything.
    pub(crate) const ZERO: Lsn = Lsn(0);

    pub(crate) const fn of(number: u64) -> Lsn {
        Lsn(number)
    }

    pub(crate) const fn number(self) -> u64 {
        self.0
    }

    /// The position of a text such as `16/B374D848`: two halves of 32 bits, in hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Lsn> {
        let half = |digits: &str| {
            let is_half = (1..=8).contains(&digits.len())
                && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            u64::from_str_radix(digits, 16).ok().filter(|_| is_half)
        };
        let (high, low) = text.split_once('/')?;
        Some(Lsn(half(high)? << 32 | half(low)?))
    }

    /// The highest position up to this one that a double holds exactly, as the scores of a sorted set
    /// are. It is this one up to 2^53, which is 8 PiB of log.
    pub(crate) fn rounded_down(self) -> Lsn {
        Lsn(self.0 >> self.beyond() << self.beyond())
    }

    /// The lowest such position from this one on.
    pub(crate) fn rounded_up(self) -> Lsn {
        // The very last positions have none. No server comes near to them.
        Lsn(self.0.saturating_add((1 << self.beyond()) - 1)).rounded_down()
    }

    /// How many of its bits a double does not hold.
    fn beyond(self) -> u32 {
        (u64::BITS - self.0.leading_zeros()).saturating_sub(EXACT)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

/// Names one course of a database's log. Positions are compared within it only.
///
/// A standby that is promoted, a backup that is restored and a server that has crashed go on with
/// another log from a position that may lie before what has been read already. So whoever reads the
/// log makes this of all that tells such courses apart: the system's identifier, the timeline, when
/// the server was started, and the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct History(u64);

impl History {
    /// The history that this text describes.
    pub(crate) fn of(described: &str) -> History {
        // A score of a sorted set holds 53 bits. Never 0, which stands for none.
        History(checksum::of_name(described) >> 12 | 1)
    }

    /// As the directory has it; 0 for none.
    pub(crate) const fn numbered(number: u64) -> History {
        History(number)
    }

    pub(crate) const fn number(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_position_has_the_text_that_postgresql_gives_it() {
        for (text, number) in [
            ("0/0", 0),
            ("16/B374D848", 0x16_B374_D848),
            ("1/AB", 0x1_0000_00AB),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(Lsn::parse(text), Some(Lsn::of(number)));
            assert_eq!(Lsn::of(number).to_string(), text);
        }
        assert_eq!(
            Lsn::parse("16/0374d848"),
            Some(Lsn::of(0x16_0374_D848)),
            "as version 19 has it"
        );
        for wrong in
            ["", "/", "1/", "/1", "1", "1/2/3", "x/1", "1/-2", "+1/2", "123456789/0", "1/ 2"]
        {
            assert_eq!(Lsn::parse(wrong), None, "{wrong}");
        }
        assert!(Lsn::parse("2/0") > Lsn::parse("1/FFFFFFFF"));
    }

    #[test]
    fn a_history_is_a_number_that_a_score_holds() {
        let of = |text: &str| History::of(text).number();
        assert_eq!(of("7 1 2026"), of("7 1 2026"));
        assert_ne!(of("7 1 2026"), of("7 2 2026"));
        for text in ["", "a", "b", "7 1 2026"] {
            assert!((1..1 << 52).contains(&of(text)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_rounded_position_is_exact_in_a_double_and_on_the_right_side(
            number in any::<u64>(), shift in 0..64_u32,
        ) {
            let lsn = Lsn::of(number >> shift);
            let (down, up) = (lsn.rounded_down(), lsn.rounded_up());
            prop_assert!(down <= lsn && (up >= lsn || lsn.number() > u64::MAX - 4096));
            for rounded in [down, up] {
                prop_assert_eq!(rounded.number() as f64 as u64, rounded.number());
            }
            if lsn.number() <= 1 << EXACT {
                prop_assert_eq!((down, up), (lsn, lsn));
            }
            prop_assert!(up.number() - down.number() <= 1 << 11);
        }
    }
}
