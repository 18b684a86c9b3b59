//! [`Mutation`]: deliberate errors in the protocol.

/// One rule of the protocol broken. The model must notice each of them, or it proves nothing about
/// the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The stamp is captured after the load's snapshot.
    LateCapture,
    /// The stamp is captured when the load has ended.
    LabelAtFill,
    /// A beat confirms from the receipt of its answer, not from its sending.
    FreshFromReceipt,
    /// A page of a beat's answer confirms, though others follow.
    ConfirmedBeforeLastPage,
    /// A page of a beat's answer is taken for all that the directory knew.
    PageTakenForAll,
    /// A table covers what it knows by pages, though a cell that has moved to a later page is in none
    /// of them.
    PageCovers,
    /// A table serves however long ago it was confirmed.
    NoFreshnessGate,
    /// A directory is continued by a server that it does not belong to.
    NoServerId,
    /// Entries are judged by their number alone.
    NoEpochInEntry,
    /// A push is taken for all that came before it.
    AdvanceOverGap,
    /// An invalidation reaches the process that asked for it as it reaches all others.
    NoLocalApply,
    /// The second tier is believed on a connection that no beat was answered on.
    UngatedReplicaRead,
    /// The invalidation is announced first and the transaction committed then.
    InvalidateBeforeCommit,
    /// A beat's answer of a lineage that has ended is taken for news.
    EpochBackwards,
    /// A push says that it is applied before it is. (Nobody holds a lock in this one.)
    AppliedBeforeCells,
    /// A new lineage makes a process forget what it has not announced yet.
    PendingForgotten,
    /// A second tier that has gone back is believed as long as its epoch is the same, and so is one
    /// that is ahead.
    AnyPosition,
    /// A joiner takes a flight's result without judging it.
    JoinerDoesNotJudge,
    /// What is in front of memory is served without judging it.
    FrontDoesNotJudge,
    /// A fill takes the lease that stands for its own.
    FillIgnoresLease,
    /// A fill whose lease is gone does not look at what is there by now.
    LossNotFenced,
    /// Who takes a lease over forgets those who wait.
    WaitersForgotten,
}

impl Mutation {
    pub const ALL: [Mutation; 22] = {
        use Mutation::*;
        [
            LateCapture,
            LabelAtFill,
            FreshFromReceipt,
            ConfirmedBeforeLastPage,
            PageTakenForAll,
            PageCovers,
            NoFreshnessGate,
            NoServerId,
            NoEpochInEntry,
            AdvanceOverGap,
            NoLocalApply,
            UngatedReplicaRead,
            InvalidateBeforeCommit,
            EpochBackwards,
            AppliedBeforeCells,
            PendingForgotten,
            AnyPosition,
            JoinerDoesNotJudge,
            FrontDoesNotJudge,
            FillIgnoresLease,
            LossNotFenced,
            WaitersForgotten,
        ]
    };
}
