//! [`next`]: what a reader does when its wait for a flight has ended.

/// How a reader's wait for a flight ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The flight took longer than the load deadline and its grace.
    TimedOut,
    Result {
        /// Whether this reader may be served the result.
        serves: bool,
        /// Whether it has the type that this reader expects. Two types of one name share keys.
        readable: bool,
    },
    Error {
        /// Whether the load ran into its deadline.
        deadline: bool,
        /// Whether the load began before this read and was invalidated since.
        invalidated: bool,
    },
    /// The flight was dropped without a result.
    Vanished {
        /// Whether a task has taken this reader's load.
        taken: bool,
        /// Whether this reader has changed the runtime of its load before.
        moved: bool,
    },
    /// The leader's lookup has taken longer than the time limits of Redis allow: the leader is not
    /// polled.
    Stuck,
}

/// In what role a reader waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waited {
    /// It waited for its own load, not for another reader's.
    pub(super) own: bool,
    /// It is part of another load.
    pub(super) nested: bool,
    /// Its own deadline has not passed.
    pub(super) in_time: bool,
}

/// What a reader does when its wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Answer,
    /// Answer with a stale result if the policy allows one, otherwise with the error.
    Fail,
    /// The flight does not end: remove it, and fail.
    Forget,
    JoinAgain,
    /// Start a flight that no other reader can join.
    LoadAlone,
    TakeOver,
    /// The runtime dropped the task: start the load on the caller's runtime.
    OtherRuntime,
    Closed,
}

pub(super) fn next(ended: Ended, waited: Waited) -> Next {
    match ended {
        Ended::TimedOut => Next::Forget,
        Ended::Result { serves: false, .. } => Next::JoinAgain,
        Ended::Result { readable: false, .. } => Next::LoadAlone,
        Ended::Result { .. } => Next::Answer,
        // The deadline was that of another query, or of a load that began before this read, so this
        // reader tries again. A nested reader does not: two loads that wait for each other would
        // otherwise try again for ever.
        Ended::Error { deadline: true, .. } if !waited.own && !waited.nested && waited.in_time => {
            Next::JoinAgain
        }
        Ended::Error { invalidated: true, .. } => Next::JoinAgain,
        Ended::Error { .. } => Next::Fail,
        Ended::Vanished { taken: true, .. } => Next::Closed,
        Ended::Vanished { moved: true, .. } if waited.own => Next::Closed,
        Ended::Vanished { .. } if waited.own => Next::OtherRuntime,
        Ended::Vanished { .. } => Next::JoinAgain,
        Ended::Stuck => Next::TakeOver,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All roles of a reader: waiting for its own load or another's, nested or not, in time or not.
    fn readers() -> impl Iterator<Item = Waited> {
        (0..8).map(|bits| Waited { own: bits & 1 > 0, nested: bits & 2 > 0, in_time: bits & 4 > 0 })
    }

    const BOTH: [bool; 2] = [false, true];

    #[test]
    fn a_result_is_answered_if_it_serves_the_reader_and_is_of_its_type() {
        for waited in readers() {
            for readable in BOTH {
                let outdated = Ended::Result { serves: false, readable };
                assert_eq!(next(outdated, waited), Next::JoinAgain);
            }
            let other = Ended::Result { serves: true, readable: false };
            assert_eq!(next(other, waited), Next::LoadAlone);
            let result = Ended::Result { serves: true, readable: true };
            assert_eq!(next(result, waited), Next::Answer);
        }
    }

    #[test]
    fn an_error_is_the_reader_s_own_unless_it_was_invalidated_before_the_read() {
        for waited in readers() {
            let error = Ended::Error { deadline: false, invalidated: false };
            assert_eq!(next(error, waited), Next::Fail);
            let invalidated = Ended::Error { deadline: false, invalidated: true };
            assert_eq!(next(invalidated, waited), Next::JoinAgain);
        }
    }

    #[test]
    fn another_reader_s_deadline_is_not_this_one_s() {
        for waited in readers() {
            let patient = !waited.own && !waited.nested && waited.in_time;
            for invalidated in BOTH {
                let again = patient || invalidated;
                let expected = if again { Next::JoinAgain } else { Next::Fail };
                assert_eq!(next(Ended::Error { deadline: true, invalidated }, waited), expected);
            }
        }
    }

    #[test]
    fn a_flight_that_vanished_is_flown_again_as_long_as_there_is_a_load_and_a_runtime() {
        for waited in readers() {
            for moved in BOTH {
                let taken = Ended::Vanished { taken: true, moved };
                assert_eq!(next(taken, waited), Next::Closed);
                let expected = match (waited.own, moved) {
                    (false, _) => Next::JoinAgain,
                    (true, false) => Next::OtherRuntime,
                    (true, true) => Next::Closed,
                };
                assert_eq!(next(Ended::Vanished { taken: false, moved }, waited), expected);
            }
        }
    }

    #[test]
    fn a_flight_that_does_not_end_is_taken_over_or_forgotten() {
        for waited in readers() {
            assert_eq!(next(Ended::Stuck, waited), Next::TakeOver);
            assert_eq!(next(Ended::TimedOut, waited), Next::Forget);
        }
    }
}
