//! [`Scenario`]: the explorations. Each bounds the steps in a different way, so that all of them
//! are small and each can be explored completely.

use crate::bounds::{Bounds, Does};
use crate::currency::Currency;
use crate::explore::{Explored, explore};
use crate::flight::Flights;
use crate::follow::{self, Follow};
use crate::lease::Leases;
use crate::mutation::Mutation;

#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    of: Of,
}

#[derive(Clone, Copy)]
enum Of {
    Currency(Bounds),
    Flights(Flights),
    Leases(Leases),
    Follow(follow::Bounds),
}

impl Scenario {
    pub fn explore(&self, mutation: Option<Mutation>) -> Explored {
        match self.of {
            Of::Currency(bounds) => explore(&Currency { bounds, mutation }),
            Of::Flights(flights) => explore(&Flights { mutation, ..flights }),
            Of::Leases(leases) => explore(&Leases { mutation, ..leases }),
            Of::Follow(bounds) => explore(&Follow { bounds, mutation }),
        }
    }

    /// The one that has what it takes to notice a mutant.
    pub fn that_kills(mutation: Mutation) -> Scenario {
        match mutation {
            Mutation::LateCapture
            | Mutation::LabelAtFill
            | Mutation::FreshFromReceipt
            | Mutation::ConfirmedBeforeLastPage
            | Mutation::NoFreshnessGate
            | Mutation::AdvanceOverGap => PUSHES,
            Mutation::AppliedBeforeCells | Mutation::AnyPosition => LOOKS,
            Mutation::PageTakenForAll => PAGES,
            Mutation::PageCovers => MOVED,
            Mutation::NoEpochInEntry
            | Mutation::NoLocalApply
            | Mutation::InvalidateBeforeCommit => LOSS,
            Mutation::NoServerId | Mutation::UngatedReplicaRead => FAILOVER,
            Mutation::PendingForgotten => NEWCOMER,
            Mutation::EpochBackwards => LATE_ANSWERS,
            Mutation::JoinerDoesNotJudge | Mutation::FrontDoesNotJudge => FLIGHTS,
            Mutation::FillIgnoresLease | Mutation::LossNotFenced => LEASES,
            Mutation::WaitersForgotten => WAITING,
            Mutation::NoUnknowns
            | Mutation::OneRound
            | Mutation::NoBump
            | Mutation::NoGate
            | Mutation::BumpBeforeSlot
            | Mutation::NotWaitedFor
            | Mutation::StampAfterLoad
            | Mutation::YoungFromEnd
            | Mutation::NumberBeforeCells => FOLLOWER,
            Mutation::SampleFlushed => ASYNCHRONOUS,
            Mutation::TermAlone | Mutation::UngatedReplicaLoad => REPLICA,
            Mutation::ProvenFromReceipt => FINER_TIME,
            Mutation::AnnounceAtDecode | Mutation::NoTerm => DIRECTORY_LOST,
            Mutation::RetryCountsOn | Mutation::BlindTakeover | Mutation::LowWithUnknowns => {
                CALLS_GIVEN_UP
            }
            Mutation::TermOfAnyEpoch => LOST_WITH_LATE_CALLS,
            Mutation::HeldBelowLow => SECOND_TERM,
        }
    }
}

/// A few seconds without optimisation.
pub const QUICK: [Scenario; 18] = [
    PUSHES,
    LOOKS,
    PAGES,
    MOVED,
    FILLS,
    LOSS,
    FAILOVER,
    LATE_ANSWERS,
    COLD_START,
    NEWCOMER,
    FLIGHTS,
    FLIGHTS_OF_A_FLEET,
    LEASES,
    LEASES_OF_ONE_LINEAGE,
    FOLLOWER,
    ASYNCHRONOUS,
    REPLICA,
    FINER_TIME,
];

/// Process A does something, process B invalidates: one change, announced once.
const ONE_CHANGE: Bounds = Bounds {
    epoch: 2,
    stored: false,
    max_staleness: 1,
    randoms: 1,
    commits: 1,
    invalidations: 1,
    repeats: 0,
    strangers: 0,
    losses: 0,
    failovers: 0,
    announcements: 1,
    prompt: true,
    does: [Does::NOTHING, Does::INVALIDATE],
};

const fn currency(name: &'static str, does: [Does; 2], bounds: Bounds) -> Scenario {
    Scenario { name, of: Of::Currency(Bounds { does, ..bounds }) }
}

const PUSHES: Scenario = currency(
    "memory, with pushes lost and out of order",
    [Does::LOAD, Does::INVALIDATE],
    Bounds { strangers: 1, ..ONE_CHANGE },
);

const LOOKS: Scenario = currency(
    "the second tier, with requests delayed",
    [Does::LOOK, Does::INVALIDATE],
    Bounds { stored: true, prompt: false, ..ONE_CHANGE },
);

const PAGES: Scenario = currency(
    "the second tier, with beats answered in pages",
    [Does::LOOK, Does::INVALIDATE],
    Bounds { stored: true, strangers: 1, ..ONE_CHANGE },
);

const MOVED: Scenario = currency(
    "the second tier, with pages between two invalidations of one tag",
    [Does::LOOK, Does::INVALIDATE],
    Bounds { stored: true, invalidations: 2, ..ONE_CHANGE },
);

const REPEATS: Scenario = currency(
    "an announcement is carried out twice, and beats are answered in pages",
    [Does { invalidate: true, ..Does::LOOK }, Does::INVALIDATE],
    Bounds {
        stored: true,
        commits: 2,
        invalidations: 2,
        repeats: 1,
        announcements: 2,
        ..ONE_CHANGE
    },
);

const FILLS: Scenario = currency(
    "both tiers, with fills delayed",
    [Does { look: true, ..Does::FILL }, Does::INVALIDATE],
    Bounds { stored: true, ..ONE_CHANGE },
);

const LOSS: Scenario = currency(
    "the directory is lost",
    [Does { invalidate: true, ..Does::LOAD }, Does::INVALIDATE],
    Bounds { losses: 1, ..ONE_CHANGE },
);

const FAILOVER: Scenario = currency(
    "a replica that lags becomes the master",
    [Does { reconnects: 1, ..Does::LOOK }, Does::INVALIDATE],
    Bounds { failovers: 1, stored: true, ..ONE_CHANGE },
);

const LATE_ANSWERS: Scenario = currency(
    "answers of a lineage that has ended",
    [Does { beats: 2, ..Does::LOOK }, Does::INVALIDATE],
    Bounds { losses: 1, stored: true, ..ONE_CHANGE },
);

const COLD_START: Scenario = currency(
    "nobody knows of an epoch",
    [Does { epoch: 0, ..Does::LOAD }, Does { epoch: 0, ..Does::INVALIDATE }],
    Bounds { epoch: 0, ..ONE_CHANGE },
);

const NEWCOMER: Scenario = currency(
    "a process invalidates before it has heard of an epoch",
    [Does { epoch: 0, invalidate: true, ..Does::LOOK }, Does::NOTHING],
    Bounds { stored: true, ..ONE_CHANGE },
);

const TWO_READERS: Flights = Flights {
    max_staleness: 1,
    readers: 2,
    invalidations: 1,
    others: 0,
    losses: 0,
    mutation: None,
};

const FLIGHTS: Scenario = Scenario {
    name: "flights, and an invalidation of their own process",
    of: Of::Flights(TWO_READERS),
};

const FLIGHTS_OF_A_FLEET: Scenario = Scenario {
    name: "flights, and an invalidation of another process",
    of: Of::Flights(Flights { invalidations: 0, others: 1, ..TWO_READERS }),
};

const TWO_LOADS: Leases = Leases { loads: 2, invalidations: 1, losses: 1, mutation: None };

const LEASES: Scenario = Scenario { name: "leases, and a new lineage", of: Of::Leases(TWO_LOADS) };

const LEASES_OF_ONE_LINEAGE: Scenario = Scenario {
    name: "leases, and invalidations",
    of: Of::Leases(Leases { invalidations: 2, losses: 0, ..TWO_LOADS }),
};

const WAITING: Scenario = Scenario {
    name: "leases of three loads",
    of: Of::Leases(Leases { loads: 3, losses: 0, ..TWO_LOADS }),
};

/// One follower, one commit, one load, and no call is given up.
const ONE_COMMIT: follow::Bounds = follow::Bounds {
    asynchronous: false,
    replica: false,
    followers: 1,
    deaths: 0,
    loads: 1,
    numbers: 2,
    terms: 1,
    commits: 1,
    max_blind: 1,
    gives_up: false,
    second_dies: true,
    losses: 0,
};

const fn follow(name: &'static str, bounds: follow::Bounds) -> Scenario {
    Scenario { name, of: Of::Follow(bounds) }
}

const FOLLOWER: Scenario = follow("a follower", ONE_COMMIT);

const ASYNCHRONOUS: Scenario = follow(
    "a follower, and asynchronous commits",
    follow::Bounds { asynchronous: true, ..ONE_COMMIT },
);

const REPLICA: Scenario =
    follow("a follower, and loads from a replica", follow::Bounds { replica: true, ..ONE_COMMIT });

const FINER_TIME: Scenario =
    follow("a follower, in finer time", follow::Bounds { max_blind: 2, ..ONE_COMMIT });

const DIRECTORY_LOST: Scenario =
    follow("a follower, and the directory is lost", follow::Bounds { losses: 1, ..ONE_COMMIT });

const CALLS_GIVEN_UP: Scenario = follow(
    "a follower that gives calls up",
    follow::Bounds { numbers: 3, gives_up: true, ..ONE_COMMIT },
);

const LOST_WITH_LATE_CALLS: Scenario = follow(
    "a follower that gives calls up, and the directory is lost",
    follow::Bounds { losses: 1, gives_up: true, ..ONE_COMMIT },
);

const SECOND_TERM: Scenario = follow(
    "a follower that gives calls up, in two terms",
    follow::Bounds { terms: 2, gives_up: true, ..ONE_COMMIT },
);

/// Minutes, with optimisation.
pub const LARGE: [Scenario; 24] = [
    DIRECTORY_LOST,
    CALLS_GIVEN_UP,
    LOST_WITH_LATE_CALLS,
    SECOND_TERM,
    follow(
        "a follower dies and comes back",
        follow::Bounds { deaths: 1, terms: 2, gives_up: true, ..ONE_COMMIT },
    ),
    follow(
        "a follower, and two commits",
        follow::Bounds { commits: 2, numbers: 3, gives_up: true, ..ONE_COMMIT },
    ),
    follow(
        "two followers",
        follow::Bounds { followers: 2, terms: 2, second_dies: false, ..ONE_COMMIT },
    ),
    WAITING,
    REPEATS,
    Scenario {
        name: "leases of three loads, and a new lineage",
        of: Of::Leases(Leases { loads: 3, ..TWO_LOADS }),
    },
    Scenario {
        name: "flights, and invalidations of both processes",
        of: Of::Flights(Flights { others: 1, ..TWO_READERS }),
    },
    Scenario {
        name: "flights of three readers",
        of: Of::Flights(Flights { readers: 3, ..TWO_READERS }),
    },
    Scenario {
        name: "flights, and the directory is lost",
        of: Of::Flights(Flights { losses: 1, ..TWO_READERS }),
    },
    currency(
        "one process invalidates and fills, the other looks",
        [Does::LOOK, Does { invalidate: true, ..Does::FILL }],
        ONE_CHANGE,
    ),
    currency(
        "both processes listen, one has both tiers",
        [Does { look: true, ..Does::FILL }, Does { beats: 1, ..Does::INVALIDATE }],
        Bounds { stored: true, ..ONE_CHANGE },
    ),
    currency(
        "two changes, announced twice at a time",
        [Does::LOAD, Does::INVALIDATE],
        Bounds { commits: 2, invalidations: 2, announcements: 2, ..ONE_CHANGE },
    ),
    currency(
        "an announcement is sent again",
        [Does { invalidate: true, ..Does::LOAD }, Does::INVALIDATE],
        Bounds { losses: 1, repeats: 1, ..ONE_CHANGE },
    ),
    currency(
        "a failover with epochs in any order",
        [Does { beats: 2, reconnects: 1, ..Does::LOAD }, Does::INVALIDATE],
        Bounds { failovers: 1, randoms: 2, ..ONE_CHANGE },
    ),
    currency(
        "a failover and a directory lost",
        [Does { reconnects: 1, ..Does::LOAD }, Does::INVALIDATE],
        Bounds { failovers: 1, losses: 1, randoms: 2, ..ONE_CHANGE },
    ),
    currency(
        "a failover with requests delayed and epochs in any order",
        [Does { beats: 2, reconnects: 1, ..Does::LOOK }, Does::INVALIDATE],
        Bounds { failovers: 1, stored: true, prompt: false, randoms: 2, ..ONE_CHANGE },
    ),
    currency(
        "a failover in finer time",
        [Does { reconnects: 1, ..Does::LOOK }, Does::INVALIDATE],
        Bounds { failovers: 1, stored: true, max_staleness: 2, ..ONE_CHANGE },
    ),
    currency(
        "the directory is lost in finer time",
        [Does { invalidate: true, ..Does::LOAD }, Does::INVALIDATE],
        Bounds { losses: 1, max_staleness: 2, ..ONE_CHANGE },
    ),
    currency(
        "a failover while fills are delayed",
        [Does { reconnects: 1, ..Does::LOOK }, Does { beats: 0, invalidate: true, ..Does::FILL }],
        Bounds { failovers: 1, ..ONE_CHANGE },
    ),
    currency(
        "two changes and a directory lost, with two beats at a time",
        [Does { beats: 2, ..Does::LOAD }, Does::INVALIDATE],
        Bounds { commits: 2, invalidations: 2, losses: 1, ..ONE_CHANGE },
    ),
];
