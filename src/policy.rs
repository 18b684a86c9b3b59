//! How long a result lives and how long its load may take: set on the cache, overridden per query.

use std::fmt;
use std::time::Duration;

/// The longest life that may be asked for. Anything above is taken for a slip of the unit.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Redis keeps time in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

/// What was set, on the cache or on a query; what was not set falls back to the next wider one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) ttl: Option<Duration>,
    pub(crate) l1_ttl: Option<Duration>,
    pub(crate) jitter: Option<f64>,
    pub(crate) load_deadline: Option<Duration>,
    pub(crate) max_value_bytes: Option<usize>,
}

/// The settings in force for one query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Policy {
    pub(crate) ttl: Duration,
    pub(crate) l1_ttl: Duration,
    pub(crate) jitter: f64,
    pub(crate) load_deadline: Duration,
    pub(crate) max_value_bytes: usize,
}

/// A setting that cannot be: which one, what was given, what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrongSetting {
    pub(crate) setting: &'static str,
    pub(crate) given: String,
    pub(crate) allowed: String,
}

impl fmt::Display for WrongSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is {}; allowed: {}", self.setting, self.given, self.allowed)
    }
}

impl Default for Policy {
    fn default() -> Policy {
        let ttl = Duration::from_secs(300);
        Policy {
            ttl,
            l1_ttl: ttl,
            jitter: 0.0,
            load_deadline: Duration::from_secs(300),
            max_value_bytes: 16 << 20,
        }
    }
}

impl Policy {
    /// `settings` over the defaults in `self`.
    ///
    /// An `l1_ttl` above the `ttl` is refused where both were set together. Where only the `ttl` was
    /// overridden to something shorter, the inherited `l1_ttl` gives way.
    pub(crate) fn with(self, settings: &Settings) -> Result<Policy, WrongSetting> {
        let ttl = settings.ttl.unwrap_or(self.ttl);
        lifetime("ttl", ttl)?;
        let l1_ttl = match settings.l1_ttl {
            Some(l1_ttl) => {
                lifetime("l1_ttl", l1_ttl)?;
                if l1_ttl > ttl {
                    return Err(WrongSetting {
                        setting: "l1_ttl",
                        given: format!("{l1_ttl:?}"),
                        allowed: format!("at most the `ttl`, which is {ttl:?}"),
                    });
                }
                l1_ttl
            }
            // The default of `l1_ttl` is the `ttl`, whatever that was set to.
            None if self.l1_ttl == self.ttl => ttl,
            None => self.l1_ttl.min(ttl),
        };
        let jitter = settings.jitter.unwrap_or(self.jitter);
        if !(0.0..=0.5).contains(&jitter) {
            return Err(WrongSetting {
                setting: "jitter",
                given: jitter.to_string(),
                allowed: "a share of the `ttl` from 0.0 to 0.5".into(),
            });
        }
        let load_deadline = settings.load_deadline.unwrap_or(self.load_deadline);
        lifetime("load_deadline", load_deadline)?;
        let max_value_bytes = settings.max_value_bytes.unwrap_or(self.max_value_bytes);
        if max_value_bytes == 0 {
            return Err(WrongSetting {
                setting: "max_value_bytes",
                given: "0".into(),
                allowed: "at least 1 byte".into(),
            });
        }
        Ok(Policy { ttl, l1_ttl, jitter, load_deadline, max_value_bytes })
    }

    /// The life of one new entry: the `ttl`, shortened by a random part of the jitter. It is never
    /// longer than the `ttl`, because the `ttl` is a promise about staleness. In whole milliseconds,
    /// as an entry in Redis carries it: with a fraction more it would outlive its own words.
    pub(crate) fn draw_ttl(&self) -> Duration {
        let drawn = match self.jitter {
            0.0 => self.ttl,
            jitter => self.ttl.mul_f64(1.0 - jitter * fastrand::f64()),
        };
        (drawn - Duration::from_nanos(u64::from(drawn.subsec_nanos() % 1_000_000))).max(SHORTEST)
    }
}

fn lifetime(setting: &'static str, given: Duration) -> Result<(), WrongSetting> {
    if (SHORTEST..=LONGEST).contains(&given) {
        return Ok(());
    }
    Err(WrongSetting {
        setting,
        given: format!("{given:?}"),
        allowed: "from 1 millisecond to 366 days".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn settings(ttl: Option<Duration>, l1_ttl: Option<Duration>) -> Settings {
        Settings { ttl, l1_ttl, ..Settings::default() }
    }

    #[test]
    fn l1_ttl_follows_the_ttl_until_it_is_set() {
        let policy = Policy::default().with(&settings(Some(MINUTE), None)).unwrap();
        assert_eq!(policy.l1_ttl, MINUTE);
        let longer = policy.with(&settings(Some(10 * MINUTE), None)).unwrap();
        assert_eq!(longer.l1_ttl, 10 * MINUTE);
    }

    #[test]
    fn an_inherited_l1_ttl_gives_way_to_a_shorter_ttl() {
        let cache = Policy::default().with(&settings(Some(10 * MINUTE), Some(2 * MINUTE))).unwrap();
        let query = cache.with(&settings(Some(MINUTE), None)).unwrap();
        assert_eq!((query.ttl, query.l1_ttl), (MINUTE, MINUTE));
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_value_and_what_is_allowed() {
        let wrong = Policy::default().with(&settings(Some(MINUTE), Some(2 * MINUTE))).unwrap_err();
        assert_eq!(wrong.to_string(), "`l1_ttl` is 120s; allowed: at most the `ttl`, which is 60s");
        let wrong = Policy::default().with(&settings(Some(Duration::ZERO), None)).unwrap_err();
        assert_eq!(wrong.to_string(), "`ttl` is 0ns; allowed: from 1 millisecond to 366 days");
        for jitter in [-0.1, 0.6, f64::NAN] {
            let given = Settings { jitter: Some(jitter), ..Settings::default() };
            assert_eq!(Policy::default().with(&given).unwrap_err().setting, "jitter");
        }
    }

    #[test]
    fn jitter_shortens_and_never_lengthens() {
        let given = Settings { jitter: Some(0.5), ttl: Some(MINUTE), ..Settings::default() };
        let policy = Policy::default().with(&given).unwrap();
        let drawn: Vec<_> = (0..1000).map(|_| policy.draw_ttl()).collect();
        assert!(drawn.iter().all(|ttl| (MINUTE / 2..=MINUTE).contains(ttl)));
        assert!(drawn.iter().min() < drawn.iter().max());
        assert!(drawn.iter().all(|ttl| ttl.subsec_nanos() % 1_000_000 == 0));
    }
}
