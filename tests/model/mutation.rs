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
    /// A follower announces what it has decoded, though it is not visible yet.
    AnnounceAtDecode,
    /// A follower thinks nothing of commits that were logged before its slot and are not visible yet.
    NoUnknowns,
    /// A round samples the position up to which the log is flushed, not inserted.
    SampleFlushed,
    /// One round after a beat proves something about it.
    OneRound,
    /// A new term proves something, though no round of it has ended.
    TermAlone,
    /// A follower begins without making stale what it cannot have read.
    NoBump,
    /// What a round proves counts from the receipt of the beat, not from its sending.
    ProvenFromReceipt,
    /// What is followed is served without proof.
    NoGate,
    /// A round is taken whatever term stands.
    NoTerm,
    /// A round is taken of a term of another epoch.
    TermOfAnyEpoch,
    /// A follower that has had no answer counts on in its term.
    RetryCountsOn,
    /// A load from a replica is stored, whether or not it has replayed what was announced.
    UngatedReplicaLoad,
    /// A follower goes on wherever the last leader ended.
    BlindTakeover,
    /// A follower begins before it has a slot.
    BumpBeforeSlot,
    /// A round does not wait until the stream has passed the sampled position.
    NotWaitedFor,
    /// A load takes its stamp when it has read.
    StampAfterLoad,
    /// A result is young from the end of its load on.
    YoungFromEnd,
    /// A round's number is written before its cells.
    NumberBeforeCells,
    /// A round says that everything decoded is announced, though something is held.
    HeldBelowLow,
    /// A follower says where it begins, though something from before is unknown.
    LowWithUnknowns,
}

impl Mutation {
    /// Those that take millions of states. They are looked for with `LARDER_MODEL=large` only.
    pub const SLOW: [Mutation; 7] = [
        Mutation::AnnounceAtDecode,
        Mutation::RetryCountsOn,
        Mutation::BlindTakeover,
        Mutation::LowWithUnknowns,
        Mutation::NoTerm,
        Mutation::TermOfAnyEpoch,
        Mutation::HeldBelowLow,
    ];

    pub const ALL: [Mutation; 42] = {
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
            AnnounceAtDecode,
            NoUnknowns,
            SampleFlushed,
            OneRound,
            TermAlone,
            NoBump,
            ProvenFromReceipt,
            NoGate,
            NoTerm,
            TermOfAnyEpoch,
            RetryCountsOn,
            UngatedReplicaLoad,
            BlindTakeover,
            BumpBeforeSlot,
            NotWaitedFor,
            StampAfterLoad,
            YoungFromEnd,
            NumberBeforeCells,
            HeldBelowLow,
            LowWithUnknowns,
        ]
    };
}
