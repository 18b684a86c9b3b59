//! [`Gate`]: what the rounds of a follower prove to this process, as beats show them.

use crate::clock::Instant;

/// A round of a follower: the numbers of its term and of the round in it, within one epoch.
///
/// A follower's round has begun after its last one was in the directory, and the first one of a term
/// after the term was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Round {
    pub(crate) term: u64,
    /// 0: the term has begun, and no round has ended yet.
    pub(crate) number: u64,
}

impl Round {
    /// Whether a round up to this one has begun after the directory was at `other`.
    ///
    /// The round after `other` may have been under way, its position sampled already. The one after
    /// that began when that was in the directory. A new term begins with a round of which the same is
    /// true: it began when the term was there, and whatever the last leader had not announced it
    /// announces, or everything has been invalidated.
    pub(super) fn is_proof_of(self, other: Round) -> bool {
        if self.term == other.term {
            self.number >= other.number.saturating_add(2)
        } else {
            self.term > other.term && self.number >= 1
        }
    }
}

/// How many beats are remembered, at most. If their replies come in order, these are all that a later
/// reply can prove something about: the latest at each of the last two rounds, and the latest before
/// the term.
const REMEMBERED: usize = 3;

/// The beats of one epoch about which nothing is proven yet.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// The latest round that a reply has shown which is applied as a whole.
    heard: Round,
    /// Until when each of them lets results be served if it is proven, by the round that its reply
    /// showed; one at most for each round.
    waiting: Vec<(Round, Instant)>,
}

impl Gate {
    /// Takes the round that the reply to a beat has shown, after everything that the reply told has
    /// been applied. `until` is when the beat was sent, and as much later as a change may take to be
    /// noticed.
    ///
    /// Returns until when results may be served by what is known now, if something was proven:
    /// everything that was visible in the database when a beat was sent is in the table.
    pub(crate) fn heard(&mut self, round: Round, until: Instant) -> Option<Instant> {
        self.heard = self.heard.max(round);
        match self.waiting.iter_mut().find(|(asked, _)| *asked == round) {
            Some((_, latest)) => *latest = until.max(*latest),
            None => self.waiting.push((round, until)),
        }
        let mut proven = None;
        let heard = self.heard;
        self.waiting.retain(|&(asked, until)| {
            let is_proven = heard.is_proof_of(asked);
            if is_proven {
                proven = proven.max(Some(until));
            }
            !is_proven
        });
        if self.waiting.len() > REMEMBERED {
            self.waiting.sort_unstable();
            self.waiting.remove(0);
        }
        proven
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    fn round(term: u64, number: u64) -> Round {
        Round { term, number }
    }

    #[test]
    fn two_rounds_later_a_round_has_begun_after_the_beat() {
        let mut gate = Gate::default();
        assert_eq!(gate.heard(round(1, 4), at(10)), None);
        assert_eq!(gate.heard(round(1, 5), at(20)), None, "it may have been under way");
        assert_eq!(gate.heard(round(1, 6), at(30)), Some(at(10)));
        assert_eq!(gate.heard(round(1, 6), at(40)), None);
        assert_eq!(gate.heard(round(1, 7), at(50)), Some(at(20)));
        assert_eq!(gate.heard(round(1, 60), at(60)), Some(at(50)));
    }

    #[test]
    fn the_first_round_of_a_later_term_has_begun_after_the_beat() {
        let mut gate = Gate::default();
        assert_eq!(gate.heard(round(0, 0), at(10)), None, "nobody leads");
        assert_eq!(gate.heard(round(1, 0), at(20)), None, "nothing is announced yet");
        assert_eq!(gate.heard(round(1, 1), at(30)), Some(at(10)));
        assert_eq!(gate.heard(round(3, 0), at(40)), None);
        assert_eq!(gate.heard(round(4, 1), at(50)), Some(at(40)));
        assert_eq!(gate.heard(round(3, 9), at(60)), Some(at(60)), "a late reply");
    }

    /// All beats, and all that a reply may prove.
    #[derive(Default)]
    struct Oracle(Vec<(Round, Instant)>);

    impl Oracle {
        fn heard(&mut self, shown: Round, until: Instant) -> Option<Instant> {
            self.0.push((shown, until));
            let all = &self.0;
            let is_proven = |asked: Round| all.iter().any(|&(later, _)| later.is_proof_of(asked));
            all.iter().filter(|&&(asked, _)| is_proven(asked)).map(|&(_, until)| until).max()
        }
    }

    proptest! {
        /// Replies in the order of their beats: what is remembered proves as much as all beats would.
        #[test]
        fn three_beats_prove_as_much_as_all(steps in vec((0..6_u64, 0..4_u64), 0..60)) {
            let (mut gate, mut oracle) = (Gate::default(), Oracle::default());
            let (mut shown, mut until) = (Round::default(), None);
            for (number, (terms, rounds)) in steps.into_iter().enumerate() {
                // Most of the time the term goes on.
                shown = match terms {
                    0 => round(shown.term + 1, rounds / 2),
                    1 => round(shown.term + 2, 0),
                    _ if shown.term > 0 => round(shown.term, shown.number + rounds),
                    _ => shown,
                };
                let sent = at(10 * number as u64 + 10);
                until = until.max(gate.heard(shown, sent));
                prop_assert_eq!(until, oracle.heard(shown, sent));
                prop_assert!(gate.waiting.len() <= REMEMBERED);
            }
        }

        /// Replies in any order: never more.
        #[test]
        fn replies_out_of_order_prove_no_more(
            replies in vec((0..4_u64, 0..5_u64, 0..100_u64), 0..40),
        ) {
            let (mut gate, mut oracle) = (Gate::default(), Oracle::default());
            let mut until = None;
            for (term, number, sent) in replies {
                let shown = round(term, if term == 0 { 0 } else { number });
                until = until.max(gate.heard(shown, at(sent)));
                prop_assert!(until <= oracle.heard(shown, at(sent)));
                prop_assert!(gate.waiting.len() <= REMEMBERED);
            }
        }
    }
}
