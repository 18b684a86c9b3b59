//! [`LeaderWatch`]: the follower that leads, as the beats of this process show it.

use crate::clock::Instant;
use crate::l2::follow::Leader;
use crate::sync::Mutex;

/// The follower that leads, and since when nothing was heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) epoch: u64,
    pub(crate) leader: Leader,
    /// When this process heard of its last round, or of the beginning of its term.
    pub(crate) moved: Instant,
}

#[derive(Default)]
pub(super) struct LeaderWatch(Mutex<(u64, Option<Standing>)>);

impl LeaderWatch {
    /// Takes what a beat has shown at a time.
    pub(super) fn saw(&self, epoch: u64, leader: Option<Leader>, now: Instant) {
        let mut state = self.0.lock();
        let (last_epoch, last) = &mut *state;
        let seen = leader.map(|leader| Standing { epoch, leader, moved: now });
        let round = |standing: &Option<Standing>| standing.map(|it| it.leader.round);
        // The beat of another task may have been answered first.
        if epoch > *last_epoch || epoch == *last_epoch && round(&seen) > round(last) {
            (*last_epoch, *last) = (epoch, seen);
        }
    }

    pub(super) fn standing(&self) -> Option<Standing> {
        self.0.lock().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::currency::Round;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    fn leader(term: u64, number: u64) -> Option<Leader> {
        Some(Leader { round: Round { term, number }, ..Leader::default() })
    }

    #[test]
    fn a_leader_has_moved_when_its_round_has() {
        let watch = LeaderWatch::default();
        let moved = || watch.standing().map(|standing| standing.moved);
        watch.saw(5, None, at(10));
        assert_eq!(moved(), None);
        watch.saw(5, leader(1, 0), at(20));
        watch.saw(5, leader(1, 0), at(30));
        assert_eq!(moved(), Some(at(20)), "it stands still");
        watch.saw(5, leader(1, 1), at(40));
        assert_eq!(moved(), Some(at(40)));
        watch.saw(5, leader(2, 0), at(50));
        watch.saw(5, leader(1, 9), at(60));
        assert_eq!(moved(), Some(at(50)), "a late reply");
        watch.saw(6, None, at(70));
        assert_eq!(watch.standing(), None, "the directory was lost");
        watch.saw(5, leader(2, 3), at(80));
        assert_eq!(watch.standing(), None);
    }
}
