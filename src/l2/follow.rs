//! What a follower of the database leaves in the directory: terms, rounds and positions.
//!
//! A follower reads what is committed, and announces it in *rounds*. A follower that begins to lead
//! begins a *term*, in which rounds are numbered. `docs/protocol.md` has the rules.

use crate::currency::{Position, Round};
use crate::value::lsn::{History, Lsn};

/// What the directory knows of the follower that leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Leader {
    /// The last round that it has announced; 0 is the beginning of its term.
    pub(crate) round: Round,
    /// Everything before this position has been announced, in this epoch or before it began.
    pub(crate) low: Lsn,
    /// Nothing from this position on has been announced.
    pub(crate) high: Lsn,
    /// The history that the positions are of.
    pub(crate) history: History,
}

/// A follower that wants to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TermStart {
    pub(crate) history: History,
    /// Where its slot begins: it has read, or will read, everything that is committed from here on.
    pub(crate) start: Lsn,
    /// Everything before this has been decoded by it or was visible when its slot began; zero while
    /// something may have been committed before the slot began and become visible after that.
    pub(crate) low: Lsn,
    /// A position that was sampled after the slot was made.
    pub(crate) high: Lsn,
}

/// The reply to a [`TermStart`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TermReply {
    /// The directory's position after it.
    pub(crate) at: Position,
    /// The number of the term that has begun.
    pub(crate) term: u64,
    /// The last leader had announced everything before this, and the new one has to announce the
    /// rest. Without it, all results that are followed were invalidated: there is a gap between the
    /// two.
    pub(crate) goes_on_from: Option<Lsn>,
}

/// The end of a round. The slots of what it announces are sent with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoundEnd {
    /// The epoch in which the term began.
    pub(crate) epoch: u64,
    pub(crate) round: Round,
    pub(crate) low: Lsn,
    pub(crate) high: Lsn,
}

/// The reply to a [`RoundEnd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoundReply {
    /// The directory's position after it.
    pub(crate) at: Position,
    /// Whether the round stands. Otherwise another term or another epoch has begun, or a later round
    /// stands already, and nothing was changed.
    pub(crate) is_accepted: bool,
    /// Whether a process that is in use has sent a beat since the last round.
    pub(crate) is_used: bool,
}

/// The marks of a directory, in the store in memory and in a cache without a shared tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) leader: Leader,
    /// A process in use has sent a beat since the last round.
    pub(crate) is_used: bool,
}

impl Marks {
    /// Begins a term. Returns where it goes on from; see [`TermReply::goes_on_from`].
    pub(crate) fn begin(&mut self, by: &TermStart) -> Option<Lsn> {
        let Leader { round, low, high, history } = &mut self.leader;
        let is_same = *history == by.history;
        let goes_on = round.term > 0 && is_same && *low >= by.start;
        *round = Round { term: round.term + 1, number: 0 };
        if goes_on {
            return Some(*low);
        }
        // Positions of another history are compared with none of this one.
        *low = if is_same { (*low).max(by.low) } else { by.low };
        *high = if is_same { (*high).max(by.high) } else { by.high };
        *history = by.history;
        None
    }

    /// Whether the round stands that ends now, in this epoch.
    pub(crate) fn accepts(&self, end: &RoundEnd, epoch: u64) -> bool {
        let last = self.leader.round;
        end.epoch == epoch && end.round.term == last.term && end.round.number > last.number
    }

    /// Takes the number of a round that is accepted, after its slots.
    pub(crate) fn end(&mut self, end: &RoundEnd) {
        let Leader { round, low, high, .. } = &mut self.leader;
        *round = end.round;
        *low = (*low).max(end.low);
        *high = (*high).max(end.high);
        self.is_used = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(number: u64) -> Lsn {
        Lsn::of(number)
    }

    fn by(history: u64, start: u64) -> TermStart {
        let history = History::numbered(history);
        TermStart { history, start: lsn(start), low: lsn(start), high: lsn(start + 5) }
    }

    #[test]
    fn who_has_read_from_before_the_end_of_the_last_leader_goes_on() {
        let mut marks = Marks::default();
        assert_eq!(marks.begin(&by(7, 10)), None, "nobody led before");
        assert_eq!((marks.leader.low, marks.leader.high), (lsn(10), lsn(15)));
        let term = marks.leader.round.term;
        let round = Round { term, number: 3 };
        let end = RoundEnd { epoch: 1, round, low: lsn(40), high: lsn(50) };
        assert!(marks.accepts(&end, 1) && !marks.accepts(&end, 2));
        marks.end(&end);
        assert!(!marks.accepts(&end, 1), "it stands already");
        assert_eq!(marks.begin(&by(7, 40)), Some(lsn(40)));
        assert!(
            !marks.accepts(&RoundEnd { round: Round { term, number: 4 }, ..end }, 1),
            "deposed"
        );
        assert_eq!(marks.begin(&by(7, 41)), None, "a gap");
        assert_eq!((marks.leader.low, marks.leader.high), (lsn(41), lsn(50)));
    }

    #[test]
    fn nobody_goes_on_in_another_history() {
        let mut marks = Marks::default();
        let _ = marks.begin(&by(7, 100));
        // A standby was promoted that lacked the last commits: its log goes on from before.
        assert_eq!(marks.begin(&by(8, 90)), None);
        assert_eq!(
            (marks.leader.low, marks.leader.high),
            (lsn(90), lsn(95)),
            "nothing of the other"
        );
        assert_eq!(marks.begin(&TermStart { low: Lsn::ZERO, ..by(8, 91) }), None);
        assert_eq!((marks.leader.low, marks.leader.high), (lsn(90), lsn(96)));
    }
}
