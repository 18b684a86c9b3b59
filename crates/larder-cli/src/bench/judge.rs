//! [`Judge`]: every answer held against the writes that had been acknowledged before its read began.
//!
//! An answer shows the version of its key. It is behind if a later version had been acknowledged
//! before the read began, by the time from that acknowledgement to the beginning. All processes of a
//! machine read one clock, so their times compare.
//!
//! What is a violation follows from what the cache promises, and there is no allowance for slow
//! scheduling, as none is needed: an answer from memory is given only if Redis has confirmed, with a
//! question sent less than `max_staleness` before the cache looked at its clock, that nothing newer was
//! acknowledged. The beginning of a read is taken before that look, and the time of an
//! acknowledgement after it came, so that being suspended in between only makes an answer look less
//! behind than it is.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Instant;
use super::report::{Mode, Source, Violation};

/// A write that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ack {
    pub(super) key: u32,
    pub(super) version: u64,
    pub(super) at: Instant,
}

/// An answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) key: u32,
    pub(super) version: u64,
    /// When its read began.
    pub(super) begun: Instant,
    pub(super) source: Source,
}

#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Current,
    /// By less than is promised.
    Behind(Duration),
    Violation(Violation),
}

/// When the versions of one key were acknowledged.
#[derive(Default)]
struct History {
    versions: Vec<u64>,
    /// When that version or a later one was acknowledged first.
    earliest: Vec<Instant>,
}

impl History {
    fn add(&mut self, ack: Ack) {
        // Acknowledgements come nearly in the order of versions.
        let place = self.versions.partition_point(|version| *version < ack.version);
        let later = self.earliest.get(place).copied().unwrap_or(Instant::MAX);
        self.versions.insert(place, ack.version);
        self.earliest.insert(place, later.min(ack.at));
        for earlier in self.earliest[..place].iter_mut().rev() {
            if *earlier <= ack.at {
                break;
            }
            *earlier = ack.at;
        }
    }

    /// How long before `begun` a version after `shown` was acknowledged first, if one was.
    fn behind(&self, shown: u64, begun: Instant) -> Option<Duration> {
        let place = self.versions.partition_point(|version| *version <= shown);
        let at = *self.earliest.get(place)?;
        // What happened at the same time did not happen before.
        (at < begun).then(|| Duration::from_nanos(begun - at))
    }

    /// The latest version that was acknowledged before.
    fn latest(&self, before: Instant) -> u64 {
        // `earliest` grows with the versions: the last that is before is of a version whose own
        // acknowledgement, or that of a later one, was before.
        let place = self.earliest.partition_point(|at| *at < before);
        place.checked_sub(1).map_or(0, |last| self.versions[last])
    }
}

/// Knows all acknowledged writes up to some time.
pub(super) struct Judge {
    mode: Mode,
    max_staleness: Duration,
    /// The caches follow the database, and are told by nobody else.
    follows: bool,
    all: HashMap<u32, History>,
    /// Those of this process.
    own: HashMap<u32, History>,
}

impl Judge {
    pub(super) fn new(mode: Mode, max_staleness: Duration) -> Judge {
        Judge { mode, max_staleness, follows: false, all: HashMap::new(), own: HashMap::new() }
    }

    /// Of caches that follow the database: an answer may be behind a commit by no more than
    /// `max_staleness`, whoever has made it and wherever it comes from.
    pub(super) fn following(self, follows: bool) -> Judge {
        Judge { follows, ..self }
    }

    pub(super) fn add(&mut self, ack: Ack, own: bool) {
        self.all.entry(ack.key).or_default().add(ack);
        if own {
            self.own.entry(ack.key).or_default().add(ack);
        }
    }

    /// All writes that were acknowledged before the read began must have been added.
    pub(super) fn judge(&self, shown: &Shown) -> Verdict {
        let Shown { key, version, begun, source } = *shown;
        let Some(history) = self.all.get(&key) else { return Verdict::Current };
        let Some(behind) = history.behind(version, begun) else { return Verdict::Current };
        let own = self.own.get(&key).and_then(|own| own.behind(version, begun)).is_some();
        // Who waited for another read is told what memory would tell.
        let of_memory = matches!(source, Source::L1 | Source::Coalesced | Source::Stale);
        let is_told = self.mode.needs_redis() && of_memory && !own;
        // What this read waited for may be what another process had loaded meanwhile.
        let may_be_behind = if self.follows { source != Source::Postgres } else { is_told };
        if may_be_behind && behind < self.max_staleness {
            return Verdict::Behind(behind);
        }
        Verdict::Violation(Violation {
            source,
            key,
            shown: version,
            acknowledged: history.latest(begun),
            behind_ns: behind.as_nanos() as u64,
            own,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const BLIND: Duration = Duration::from_nanos(100);

    fn judged(mode: Mode, source: Source, own: bool, begun: Instant) -> Verdict {
        let mut judge = Judge::new(mode, BLIND);
        judge.add(Ack { key: 1, version: 5, at: 1000 }, own);
        judge.judge(&Shown { key: 1, version: 4, begun, source })
    }

    fn is_violation(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Violation(_))
    }

    #[test]
    fn an_answer_is_current_until_a_later_version_was_acknowledged() {
        assert_eq!(judged(Mode::Both, Source::L2, false, 1000), Verdict::Current);
        assert!(is_violation(&judged(Mode::Both, Source::L2, false, 1001)));
        let judge = Judge::new(Mode::Both, BLIND);
        let shown = Shown { key: 2, version: 0, begun: 5, source: Source::L1 };
        assert_eq!(judge.judge(&shown), Verdict::Current);
    }

    #[test]
    fn memory_may_be_behind_others_for_max_staleness_and_its_own_process_never() {
        let behind = Verdict::Behind(Duration::from_nanos(99));
        for source in [Source::L1, Source::Coalesced, Source::Stale] {
            assert_eq!(judged(Mode::Both, source, false, 1099), behind);
            assert!(is_violation(&judged(Mode::Both, source, false, 1100)));
            assert!(is_violation(&judged(Mode::Both, source, true, 1001)));
        }
        for source in [Source::L2, Source::Loaded] {
            assert!(is_violation(&judged(Mode::Both, source, false, 1001)));
        }
        assert!(is_violation(&judged(Mode::L1, Source::L1, false, 1001)));
        assert!(is_violation(&judged(Mode::None, Source::Postgres, false, 1001)));
    }

    #[test]
    fn one_that_follows_may_be_behind_any_commit_for_as_long_as_is_promised() {
        let judged = |source, own, begun| {
            let mut judge = Judge::new(Mode::Both, BLIND).following(true);
            judge.add(Ack { key: 1, version: 5, at: 1000 }, own);
            judge.judge(&Shown { key: 1, version: 4, begun, source })
        };
        for (source, own) in [(Source::L1, true), (Source::L2, false), (Source::Loaded, true)] {
            assert_eq!(judged(source, own, 1099), Verdict::Behind(Duration::from_nanos(99)));
            assert!(is_violation(&judged(source, own, 1100)));
        }
        assert!(is_violation(&judged(Source::Postgres, false, 1001)));
    }

    #[test]
    fn a_violation_tells_what_should_have_been_shown() {
        let mut judge = Judge::new(Mode::Both, BLIND);
        for (version, at) in [(5, 1000), (6, 2000), (7, 3000)] {
            judge.add(Ack { key: 1, version, at }, false);
        }
        let shown = Shown { key: 1, version: 4, begun: 2500, source: Source::L2 };
        let Verdict::Violation(violation) = judge.judge(&shown) else { panic!("it is one") };
        assert_eq!((violation.acknowledged, violation.behind_ns), (6, 1500));
    }

    proptest! {
        #[test]
        fn it_judges_as_one_who_looks_at_every_write(
            writes in prop::collection::vec((0_u32..3, 0_u64..40), 0..60),
            reads in prop::collection::vec((0_u32..3, 0_u64..30, 0_u64..45), 0..60),
        ) {
            let mut judge = Judge::new(Mode::Both, Duration::ZERO);
            let mut versions = [0_u64; 3];
            let acks: Vec<Ack> = writes.iter().map(|(key, at)| {
                versions[*key as usize] += 1;
                Ack { key: *key, version: versions[*key as usize], at: *at }
            }).collect();
            // They come in the order of their times, not of their versions.
            let mut order = acks.clone();
            order.sort_by_key(|ack| ack.at);
            order.iter().for_each(|ack| judge.add(*ack, false));
            for (key, version, begun) in reads {
                let shown = Shown { key, version, begun, source: Source::L2 };
                let first = acks.iter()
                    .filter(|ack| ack.key == key && ack.version > version && ack.at < begun)
                    .map(|ack| ack.at)
                    .min();
                let latest = acks.iter()
                    .filter(|ack| ack.key == key && ack.at < begun)
                    .map(|ack| ack.version)
                    .max();
                match (judge.judge(&shown), first) {
                    (Verdict::Current, None) => {}
                    (Verdict::Violation(violation), Some(first)) => {
                        prop_assert_eq!(violation.behind_ns, begun - first);
                        prop_assert_eq!(Some(violation.acknowledged), latest);
                    }
                    (verdict, first) => prop_assert!(false, "{verdict:?}, {first:?}"),
                }
            }
        }
    }
}
