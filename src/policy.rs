//! [`Policy`]: how long a result lives and how long its load may take. It is set on the cache and
//! overridden per query.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::error::WrongSetting;

/// The longest lifetime that is allowed. A longer one is taken for a mistake in the unit.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Redis keeps time in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

/// How long a result that is followed is served without proof that nothing it depends on has changed,
/// unless something else is set.
pub(crate) const MAX_BLIND: Duration = Duration::from_secs(2);

/// The `l1_ttl` of a cache whose memory tier is off, and of all its queries. Nobody can set it.
pub(crate) const MEMORY_OFF: Duration = Duration::ZERO;

/// What was set, on the cache or on a query; what was not set falls back to the next wider one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) ttl: Option<Duration>,
    pub(crate) l1_ttl: Option<Duration>,
    pub(crate) jitter: Option<f64>,
    pub(crate) load_deadline: Option<Duration>,
    pub(crate) max_value_bytes: Option<usize>,
    pub(crate) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
    pub(crate) allow_invalidated: Option<bool>,
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) negative_sqlstates: Option<Negative>,
    pub(crate) early_refresh: Option<f64>,
}

/// Which errors of PostgreSQL are cached as answers, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Negative {
    pub(crate) sqlstates: Arc<[Box<str>]>,
    pub(crate) ttl: Duration,
}

/// The settings in force for one query.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    pub(crate) ttl: Duration,
    pub(crate) l1_ttl: Duration,
    pub(crate) jitter: f64,
    pub(crate) load_deadline: Duration,
    pub(crate) max_value_bytes: usize,
    /// How long after its `ttl` a result may be served while a new one is loaded.
    pub(crate) stale_while_revalidate: Duration,
    /// How long after its `ttl` a result may be served if the load fails.
    pub(crate) stale_if_error: Duration,
    /// Whether the two above may also serve invalidated results.
    pub(crate) allow_invalidated: bool,
    /// The lifetime of an empty result.
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) negative_sqlstates: Option<Negative>,
    /// XFetch's β; 0 disables early refreshes.
    pub(crate) early_refresh: f64,
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
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            allow_invalidated: false,
            negative_ttl: None,
            negative_sqlstates: None,
            early_refresh: 0.0,
        }
    }
}

impl Policy {
    /// Applies `settings` over the defaults in `self`.
    ///
    /// An `l1_ttl` above the `ttl` is refused if both were set together. If only a shorter `ttl`
    /// was set, the inherited `l1_ttl` is reduced to it.
    pub(crate) fn with(self, settings: &Settings) -> Result<Policy, WrongSetting> {
        let ttl = settings.ttl.unwrap_or(self.ttl);
        let mut policy = Policy {
            ttl,
            l1_ttl: settings.l1_ttl.unwrap_or_else(|| {
                // The default of `l1_ttl` is the `ttl`, whatever that was set to.
                let inherits = self.l1_ttl == self.ttl || self.l1_ttl == MEMORY_OFF;
                if inherits { ttl } else { self.l1_ttl.min(ttl) }
            }),
            jitter: settings.jitter.unwrap_or(self.jitter),
            load_deadline: settings.load_deadline.unwrap_or(self.load_deadline),
            max_value_bytes: settings.max_value_bytes.unwrap_or(self.max_value_bytes),
            stale_while_revalidate: settings
                .stale_while_revalidate
                .unwrap_or(self.stale_while_revalidate),
            stale_if_error: settings.stale_if_error.unwrap_or(self.stale_if_error),
            allow_invalidated: settings.allow_invalidated.unwrap_or(self.allow_invalidated),
            negative_ttl: settings.negative_ttl.or(self.negative_ttl),
            negative_sqlstates: settings.negative_sqlstates.clone().or(self.negative_sqlstates),
            early_refresh: settings.early_refresh.unwrap_or(self.early_refresh),
        };
        policy.check()?;
        if self.l1_ttl == MEMORY_OFF {
            policy.l1_ttl = MEMORY_OFF;
        }
        Ok(policy)
    }

    fn check(&self) -> Result<(), WrongSetting> {
        const LIFE: &str = "from 1 millisecond to 366 days";
        const STALE: &str = "up to 366 days";
        let is_life = |given: Duration| (SHORTEST..=LONGEST).contains(&given);
        let negative = self.negative_sqlstates.as_ref().map(|negative| negative.ttl);
        let (stale, or_error) = (self.stale_while_revalidate, self.stale_if_error);
        let is_share = (0.0..=0.5).contains(&self.jitter);
        let is_beta = (0.0..=100.0).contains(&self.early_refresh);
        let beta = "from 0.0 (never) to 100.0; 1.0 is the usual";
        let rules: [(&'static str, bool, &dyn fmt::Debug, &dyn fmt::Display); 11] = [
            ("ttl", is_life(self.ttl), &self.ttl, &LIFE),
            ("l1_ttl", is_life(self.l1_ttl), &self.l1_ttl, &LIFE),
            ("l1_ttl", self.l1_ttl <= self.ttl, &self.l1_ttl, &AtMost(self.ttl)),
            ("jitter", is_share, &self.jitter, &"a share of the `ttl` from 0.0 to 0.5"),
            ("load_deadline", is_life(self.load_deadline), &self.load_deadline, &LIFE),
            (
                "max_value_bytes",
                self.max_value_bytes > 0,
                &self.max_value_bytes,
                &"at least 1 byte",
            ),
            ("stale_while_revalidate", stale <= LONGEST, &stale, &STALE),
            ("stale_if_error", or_error <= LONGEST, &or_error, &STALE),
            (
                "negative_ttl",
                self.negative_ttl.is_none_or(is_life),
                &Given(self.negative_ttl),
                &LIFE,
            ),
            ("negative_sqlstates", negative.is_none_or(is_life), &Given(negative), &LIFE),
            ("early_refresh", is_beta, &self.early_refresh, &beta),
        ];
        match rules.into_iter().find(|(_, holds, ..)| !holds) {
            Some((setting, _, given, allowed)) => Err(WrongSetting {
                setting,
                given: format!("{given:?}"),
                allowed: allowed.to_string(),
            }),
            None => self.negative_sqlstates.as_ref().map_or(Ok(()), Negative::check),
        }
    }

    /// The lifetime of one new entry: the `ttl`, or the `negative_ttl` of an empty result,
    /// shortened by a random part of the jitter. It is never longer than the `ttl`, which is a
    /// promise about staleness. It is in whole milliseconds, as an entry in Redis stores it; with a
    /// fraction, the result would live longer than its entry states.
    pub(crate) fn draw_ttl(&self, empty: bool) -> Duration {
        let ttl = match self.negative_ttl {
            Some(negative) if empty => negative.min(self.ttl),
            _ => self.ttl,
        };
        let drawn = match self.jitter {
            0.0 => ttl,
            jitter => ttl.mul_f64(1.0 - jitter * fastrand::f64()),
        };
        whole_millis(drawn).max(SHORTEST)
    }

    /// How long after its `ttl` a result is kept, for reads that may be served a stale one.
    pub(crate) fn longest_stale(&self) -> Duration {
        whole_millis(self.stale_while_revalidate.max(self.stale_if_error))
    }

    /// Until when memory keeps a copy that was made at `copied` of a result that expires at `dies`.
    pub(crate) fn kept(&self, copied: Instant, dies: Instant) -> Instant {
        if self.longest_stale().is_zero() {
            dies.min(clock::after(copied, self.l1_ttl))
        } else {
            dies
        }
    }

    /// The lifetime of a failed load as a cached answer, if its error is cached.
    pub(crate) fn negative_life(&self, sqlstate: &str) -> Option<Duration> {
        let negative = self.negative_sqlstates.as_ref()?;
        negative.sqlstates.iter().any(|named| **named == *sqlstate).then_some(negative.ttl)
    }

    /// Whether to load a result again although it has `remaining` to live, by the XFetch rule:
    /// `load × β × −ln(uniform) ≥ remaining`.
    ///
    /// The longer a load takes, the earlier it begins, and of many readers most likely only one
    /// begins it. Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede
    /// Prevention, PVLDB 8(8), 2015.
    #[inline]
    pub(crate) fn is_due_early(&self, load: Duration, remaining: Duration) -> bool {
        self.early_refresh > 0.0
            && load.as_secs_f64() * self.early_refresh * -(1.0 - fastrand::f64()).ln()
                >= remaining.as_secs_f64()
    }
}

impl Negative {
    pub(crate) fn new<S: AsRef<str>>(
        sqlstates: impl IntoIterator<Item = S>,
        ttl: Duration,
    ) -> Negative {
        let sqlstates = sqlstates.into_iter().map(|sqlstate| sqlstate.as_ref().into());
        Negative { sqlstates: sqlstates.collect(), ttl }
    }

    fn check(&self) -> Result<(), WrongSetting> {
        let legal = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
        match self.sqlstates.iter().find(|state| state.len() != 5 || !state.bytes().all(legal)) {
            None => Ok(()),
            Some(wrong) => Err(WrongSetting {
                setting: "negative_sqlstates",
                given: format!("{wrong:?}"),
                allowed: "codes of five digits and capital letters, such as \"42P01\"".into(),
            }),
        }
    }
}

fn whole_millis(duration: Duration) -> Duration {
    duration - Duration::from_nanos(u64::from(duration.subsec_nanos() % 1_000_000))
}

/// What is allowed of an `l1_ttl`.
struct AtMost(Duration);

impl fmt::Display for AtMost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most the `ttl`, which is {:?}", self.0)
    }
}

/// A setting as it was given, if it was.
struct Given(Option<Duration>);

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |given| given.fmt(f))
    }
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
    fn no_query_turns_the_memory_tier_on_again() {
        let off = Policy { l1_ttl: MEMORY_OFF, ..Policy::default() };
        for set in [settings(Some(MINUTE), None), settings(None, Some(MINUTE))] {
            assert_eq!(off.clone().with(&set).unwrap().l1_ttl, MEMORY_OFF);
        }
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
        let drawn: Vec<_> = (0..1000).map(|_| policy.draw_ttl(false)).collect();
        assert!(drawn.iter().all(|ttl| (MINUTE / 2..=MINUTE).contains(ttl)));
        assert!(drawn.iter().min() < drawn.iter().max());
        assert!(drawn.iter().all(|ttl| ttl.subsec_nanos() % 1_000_000 == 0));
    }

    #[test]
    fn an_empty_result_lives_for_its_own_time_and_never_longer_than_others() {
        let given =
            Settings { negative_ttl: Some(10 * MINUTE), ttl: Some(MINUTE), ..Settings::default() };
        let policy = Policy::default().with(&given).unwrap();
        assert_eq!((policy.draw_ttl(false), policy.draw_ttl(true)), (MINUTE, MINUTE));
        let given = Settings { negative_ttl: Some(MINUTE), ..Settings::default() };
        let policy = Policy::default().with(&given).unwrap();
        assert_eq!((policy.draw_ttl(false), policy.draw_ttl(true)), (5 * MINUTE, MINUTE));
    }

    #[test]
    fn a_code_that_is_no_sqlstate_is_refused() {
        let negative = |code: &str| {
            let negative = Negative { sqlstates: [code.into()].into(), ttl: MINUTE };
            Policy::default()
                .with(&Settings { negative_sqlstates: Some(negative), ..Settings::default() })
        };
        let policy = negative("42P01").unwrap();
        assert_eq!(policy.negative_life("42P01"), Some(MINUTE));
        assert_eq!(policy.negative_life("42P02"), None);
        for code in ["", "42p01", "42P011", "42P0"] {
            assert_eq!(negative(code).unwrap_err().setting, "negative_sqlstates");
        }
    }

    #[test]
    fn an_early_refresh_is_the_likelier_the_longer_a_load_takes_and_the_less_remains() {
        let policy = |beta| {
            Policy::default()
                .with(&Settings { early_refresh: Some(beta), ..Settings::default() })
                .unwrap()
        };
        let share = |beta, load, remaining| {
            let policy = policy(beta);
            let due = (0..10_000)
                .filter(|_| {
                    policy.is_due_early(Duration::from_secs(load), Duration::from_secs(remaining))
                })
                .count();
            due as f64 / 10_000.0
        };
        assert_eq!(share(0.0, 100, 1), 0.0);
        assert_eq!(share(1.0, 1, 1000), 0.0);
        // P(−ln u ≥ 1) = 1/e.
        assert!((share(1.0, 10, 10) - 0.3679).abs() < 0.03);
        assert!((share(2.0, 10, 10) - 0.6065).abs() < 0.03);
        assert_eq!(share(1.0, 10, 0), 1.0);
    }
}
