//! The checker: was any answer older than an acknowledged invalidation allows?
//!
//! Records come from several processes, each in its own order, and some arrive late. A read is
//! judged only when every process has reported all acknowledgements from before the read began.
//! Until then it is held.

use std::collections::{BTreeMap, VecDeque};

use larder::Origin;

use crate::record::{Read, Time};

/// Acknowledgements are forgotten so long before the last judged read, but for
/// the newest of them: no answer that is allowed lags behind so far.
const KEPT: Time = 60_000_000_000;

/// So many reads of each key are remembered to be told with a violation.
const REMEMBERED: usize = 16;

/// All that was acknowledged lately, and the reads that cannot be judged yet.
pub struct History {
    max_staleness: Time,
    /// Commits are noticed and not acknowledged: also what asked Redis may lack the last ones.
    is_followed: bool,
    keys: Vec<Key>,
    /// By when they began, and a number for those that began at the same time.
    held: BTreeMap<(Time, u64), (usize, Read)>,
    /// How many reads there were.
    reads: u64,
}

#[derive(Default)]
struct Key {
    /// The versions that were the highest when they were acknowledged, by time: both rise.
    acknowledged: BTreeMap<Time, u64>,
    judged: VecDeque<(Read, usize)>,
}

/// A read, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    pub process: usize,
    pub read: Read,
    pub verdict: Verdict,
}

/// Whether an answer was as new as promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing newer had been acknowledged when the read began.
    Current,
    /// It was behind, as it may be: so long before the read began, something newer had been
    /// acknowledged for the first time.
    Behind(Time),
    /// This version had been acknowledged, at this time, so early that the read had to know it.
    Violation(u64, Time),
}

impl History {
    /// Of keys numbered from zero.
    pub fn new(keys: usize, max_staleness: Time) -> Self {
        let keys = std::iter::repeat_with(Key::default).take(keys).collect();
        Self { max_staleness, is_followed: false, keys, held: BTreeMap::new(), reads: 0 }
    }

    /// Of keys in a database that is followed. What is acknowledged are commits.
    pub fn of_followed(keys: usize, max_blind: Time) -> Self {
        Self { is_followed: true, ..Self::new(keys, max_blind) }
    }

    /// `invalidate` has returned `Ok`, in whatever process.
    pub fn acknowledge(&mut self, key: usize, version: u64, at: Time) {
        let known = &mut self.keys[key].acknowledged;
        // One that comes when a higher one is known already says nothing new.
        if known.range(..=at).next_back().is_some_and(|(_, before)| *before >= version) {
            return;
        }
        let outdone: Vec<_> = known.range(at..).take_while(|(_, it)| **it <= version).collect();
        let outdone: Vec<_> = outdone.into_iter().map(|(time, _)| *time).collect();
        known.retain(|time, _| !outdone.contains(time));
        known.insert(at, version);
    }

    /// A read was answered, in this process.
    pub fn hold(&mut self, process: usize, read: Read) {
        self.reads += 1;
        self.held.insert((read.start, self.reads), (process, read));
    }

    /// Judges the reads that began at `upto` or before, where all has been told
    /// that was acknowledged by then.
    pub fn judge(&mut self, upto: Time, mut judged: impl FnMut(&Self, Judged)) {
        while let Some(next) = self.held.first_entry().filter(|next| next.key().0 <= upto) {
            let (process, read) = next.remove();
            let verdict = self.verdict(&read);
            judged(self, Judged { process, read, verdict });
            let remembered = &mut self.keys[read.key].judged;
            remembered.push_back((read, process));
            if remembered.len() > REMEMBERED {
                remembered.pop_front();
            }
        }
        let forgotten = upto.saturating_sub(KEPT);
        for Key { acknowledged, .. } in &mut self.keys {
            let Some((&last, _)) = acknowledged.range(..forgotten).next_back() else { continue };
            *acknowledged = acknowledged.split_off(&last);
        }
    }

    fn verdict(&self, read: &Read) -> Verdict {
        let known = &self.keys[read.key].acknowledged;
        let must_know = match read.origin {
            // It asked Redis, or PostgreSQL, after it had begun.
            Origin::L2 | Origin::Loaded if !self.is_followed => read.start,
            _ => read.start.saturating_sub(self.max_staleness),
        };
        if let Some((&at, &version)) = known.range(..must_know).next_back()
            && version > read.version
        {
            return Verdict::Violation(version, at);
        }
        let newer = known.iter().find(|(_, version)| **version > read.version);
        match newer {
            Some((&at, _)) if at < read.start => Verdict::Behind(read.start - at),
            _ => Verdict::Current,
        }
    }

    /// The highest version of each key that was acknowledged.
    pub fn newest(&self) -> Vec<u64> {
        let newest = |key: &Key| key.acknowledged.values().next_back().copied().unwrap_or(0);
        self.keys.iter().map(newest).collect()
    }

    /// How many reads could not be judged yet.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// What happened to a key around some time, as lines.
    pub fn around(&self, key: usize, start: Time, seconds: impl Fn(Time) -> String) -> Vec<String> {
        let Key { acknowledged, judged } = &self.keys[key];
        let recent = acknowledged.range(start.saturating_sub(3_000_000_000)..);
        let acknowledged = recent
            .map(|(&at, version)| (at, format!("{} version {version} acknowledged", seconds(at))));
        let reads = judged.iter().map(|(read, process)| {
            let Read { version, start, end, origin, style, .. } = read;
            let took = (end - start) as f64 / 1e6;
            let line = format!(
                "{} process {process} read {version} from {origin:?} ({style:?}, {took:.3} ms)",
                seconds(*start)
            );
            (*start, line)
        });
        let mut lines: Vec<_> = acknowledged.chain(reads).collect();
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Style;

    const MAX_STALENESS: Time = 1000;

    fn read(version: u64, start: Time, origin: Origin) -> Read {
        Read { key: 0, version, start, end: start + 1, origin, style: Style::Rows }
    }

    fn verdict(acknowledged: &[(u64, Time)], read: Read) -> Verdict {
        let mut history = History::new(1, MAX_STALENESS);
        for &(version, at) in acknowledged {
            history.acknowledge(0, version, at);
        }
        history.hold(0, read);
        let mut verdicts = Vec::new();
        history.judge(Time::MAX, |_, judged| verdicts.push(judged.verdict));
        assert_eq!(verdicts.len(), 1);
        verdicts[0]
    }

    #[test]
    fn an_answer_from_memory_may_lag_for_as_long_as_it_may_be_blind() {
        let acknowledged = [(1, 5000), (2, 6000)];
        for origin in [Origin::L1, Origin::Coalesced, Origin::Stale] {
            assert_eq!(verdict(&acknowledged, read(2, 6001, origin)), Verdict::Current);
            assert_eq!(verdict(&acknowledged, read(1, 6000, origin)), Verdict::Current);
            assert_eq!(verdict(&acknowledged, read(1, 6001, origin)), Verdict::Behind(1));
            assert_eq!(verdict(&acknowledged, read(1, 7000, origin)), Verdict::Behind(1000));
            assert_eq!(verdict(&acknowledged, read(1, 7001, origin)), Verdict::Violation(2, 6000));
            assert_eq!(verdict(&acknowledged, read(0, 6500, origin)), Verdict::Violation(1, 5000));
        }
    }

    #[test]
    fn an_answer_that_asked_may_not_lag_at_all() {
        let acknowledged = [(1, 5000), (2, 6000)];
        for origin in [Origin::L2, Origin::Loaded] {
            assert_eq!(verdict(&acknowledged, read(1, 6000, origin)), Verdict::Current);
            assert_eq!(verdict(&acknowledged, read(1, 6001, origin)), Verdict::Violation(2, 6000));
            assert_eq!(verdict(&acknowledged, read(9, 6001, origin)), Verdict::Current);
        }
    }

    #[test]
    fn where_commits_are_followed_any_answer_may_lag_for_as_long_as_it_may_be_blind() {
        for origin in [Origin::L1, Origin::L2, Origin::Loaded] {
            let verdict = |start| {
                let mut history = History::of_followed(1, MAX_STALENESS);
                history.acknowledge(0, 2, 6000);
                history.hold(0, read(1, start, origin));
                let mut verdicts = Vec::new();
                history.judge(Time::MAX, |_, judged| verdicts.push(judged.verdict));
                verdicts[0]
            };
            assert_eq!(verdict(7000), Verdict::Behind(1000));
            assert_eq!(verdict(7001), Verdict::Violation(2, 6000));
        }
    }

    #[test]
    fn the_order_in_which_versions_are_told_does_not_matter() {
        let mut told = [(1, 5000), (3, 6000), (2, 6500), (4, 6600)];
        for _ in 0..told.len() {
            told.rotate_left(1);
            assert_eq!(verdict(&told, read(2, 6599, Origin::L1)), Verdict::Behind(599));
            assert_eq!(verdict(&told, read(2, 6599, Origin::L2)), Verdict::Violation(3, 6000));
            assert_eq!(verdict(&told, read(3, 6700, Origin::L1)), Verdict::Behind(100));
        }
    }

    #[test]
    fn a_read_is_held_until_all_has_been_told() {
        let mut history = History::new(1, MAX_STALENESS);
        let mut verdicts = Vec::new();
        history.hold(0, read(1, 6000, Origin::L2));
        history.hold(0, read(2, 5000, Origin::L2));
        history.judge(5999, |_, judged| verdicts.push(judged.verdict));
        assert_eq!((verdicts.as_slice(), history.held()), ([Verdict::Current].as_slice(), 1));
        // Told late, by a process that was slower than the reader's.
        history.acknowledge(0, 2, 5500);
        history.judge(6000, |_, judged| verdicts.push(judged.verdict));
        assert_eq!((verdicts[1], history.held()), (Verdict::Violation(2, 5500), 0));
    }

    #[test]
    fn what_is_forgotten_is_never_the_newest() {
        let mut history = History::new(1, MAX_STALENESS);
        for version in 1..100 {
            history.acknowledge(0, version, version);
        }
        history.judge(10 * KEPT, |_, _| {});
        assert_eq!(history.keys[0].acknowledged.len(), 1);
        history.hold(0, read(98, 11 * KEPT, Origin::L1));
        let mut verdicts = Vec::new();
        history.judge(Time::MAX, |_, judged| verdicts.push(judged.verdict));
        assert_eq!(verdicts, [Verdict::Violation(99, 99)]);
        assert_eq!(history.newest(), [99]);
    }
}
