//! The records that the processes of a run report: text that one process writes and another reads.

use std::fmt;
use std::str::FromStr;

use larder::Origin;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds by a clock that all processes of this machine share, and that the
/// cache itself goes by.
pub type Time = u64;

/// The present.
pub fn now() -> Time {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: ClockId = ClockId::Monotonic;
    let now = clock_gettime(CLOCK);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// In which way a key is read. Ways that differ in more than their policy have
/// entries of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Rows, from memory if they are there.
    Rows,
    /// The same rows, but hardly ever from memory, so that Redis is asked.
    Strict,
    /// A typed value, by a query function.
    Typed,
}

impl Style {
    pub const ALL: [Self; 3] = [Self::Rows, Self::Strict, Self::Typed];

    /// Which of the entries of a key it shares.
    pub fn entry(self) -> usize {
        usize::from(self == Self::Typed)
    }
}

/// A read that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub key: usize,
    pub version: u64,
    pub start: Time,
    pub end: Time,
    pub origin: Origin,
    pub style: Style,
}

impl Read {
    pub fn took(&self) -> u64 {
        self.end - self.start
    }
}

/// One event in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Read(Read),
    /// A read that failed, and its error.
    Failed {
        start: Time,
        end: Time,
        error: String,
    },
    /// A read that has no answer for a long time already.
    Waiting {
        start: Time,
    },
    /// `invalidate` has returned `Ok` for this version of the key, or an error.
    Invalidated {
        key: usize,
        version: u64,
        at: Time,
        acknowledged: bool,
    },
    /// A write that PostgreSQL refused or whose fate is not known.
    WriteFailed,
    /// A read that was answered with an older version than this process itself
    /// had invalidated before it began.
    Disobeyed {
        read: Read,
        invalidated: u64,
    },
    /// How many loads this process has run so far.
    Loads(u64),
}

/// The origins, and the letters that stand for them.
const ORIGINS: [(Origin, &str); 5] = [
    (Origin::L1, "m"),
    (Origin::L2, "r"),
    (Origin::Loaded, "l"),
    (Origin::Coalesced, "c"),
    (Origin::Stale, "s"),
];

impl fmt::Display for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = ORIGINS.iter().find(|(origin, _)| *origin == self.origin);
        let origin = origin.map_or("?", |(_, letter)| *letter);
        let Self { key, version, start, end, style, .. } = self;
        let style = Style::ALL.iter().position(|each| each == style).unwrap_or_default();
        write!(f, "{key}:{version}:{start}:{end}:{origin}:{style}")
    }
}

/// A record is a word, without white space, so that a line can hold many.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(read) => write!(f, "r:{read}"),
            Self::Failed { start, end, error } => {
                let error: Vec<_> = error.split_whitespace().collect();
                write!(f, "f:{start}:{end}:{}", error.join("_"))
            }
            Self::Waiting { start } => write!(f, "w:{start}"),
            Self::Invalidated { key, version, at, acknowledged } => {
                write!(f, "i:{key}:{version}:{at}:{}", u8::from(*acknowledged))
            }
            Self::WriteFailed => f.write_str("x:"),
            Self::Disobeyed { read, invalidated } => write!(f, "d:{invalidated}:{read}"),
            Self::Loads(loads) => write!(f, "l:{loads}"),
        }
    }
}

impl FromStr for Read {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("no read: {text:?}");
        let fields: Vec<_> = text.split(':').collect();
        let &[key, version, start, end, origin, style] = fields.as_slice() else {
            return Err(wrong());
        };
        let style: usize = number(style)?;
        Ok(Self {
            key: number(key)?,
            version: number(version)?,
            start: number(start)?,
            end: number(end)?,
            origin: ORIGINS.iter().find(|(_, it)| *it == origin).ok_or_else(wrong)?.0,
            style: *Style::ALL.get(style).ok_or_else(wrong)?,
        })
    }
}

impl FromStr for Record {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let wrong = || format!("no record: {word:?}");
        let (kind, rest) = word.split_once(':').ok_or_else(wrong)?;
        match kind {
            "r" => rest.parse().map(Self::Read),
            "f" => match rest.splitn(3, ':').collect::<Vec<_>>().as_slice() {
                &[start, end, error] => {
                    let error = error.to_owned();
                    Ok(Self::Failed { start: number(start)?, end: number(end)?, error })
                }
                _ => Err(wrong()),
            },
            "w" => Ok(Self::Waiting { start: number(rest)? }),
            "i" => match rest.split(':').collect::<Vec<_>>().as_slice() {
                &[key, version, at, acknowledged] => Ok(Self::Invalidated {
                    key: number(key)?,
                    version: number(version)?,
                    at: number(at)?,
                    acknowledged: acknowledged == "1",
                }),
                _ => Err(wrong()),
            },
            "x" => Ok(Self::WriteFailed),
            "d" => {
                let (invalidated, read) = rest.split_once(':').ok_or_else(wrong)?;
                Ok(Self::Disobeyed { read: read.parse()?, invalidated: number(invalidated)? })
            }
            "l" => number(rest).map(Self::Loads),
            _ => Err(wrong()),
        }
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("no number: {text:?}"))
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let origin = Origin::Coalesced;
    let read = Read { key: 1, version: 2, start: 3, end: 4, origin, style: Style::Typed };
    let records = [
        Record::Read(read),
        Record::Failed { start: 1, end: 2, error: "Query:_a_word".into() },
        Record::Waiting { start: 1 },
        Record::Invalidated { key: 1, version: 2, at: 3, acknowledged: true },
        Record::Invalidated { key: 1, version: 2, at: 3, acknowledged: false },
        Record::WriteFailed,
        Record::Disobeyed { read, invalidated: 9 },
        Record::Loads(7),
    ];
    for record in records {
        let word = record.to_string();
        assert!(!word.contains(char::is_whitespace), "{word}");
        assert_eq!(word.parse(), Ok(record));
    }
}
