//! [`Table`]: the knowledge of one process about the one tag that results depend on, as in
//! `src/currency/table.rs`.

use crate::mutation::Mutation;

/// A result, where it is stored or on its way.
#[derive(Clone, Copy, Default)]
pub struct Found {
    pub epoch: u8,
    pub asof: u8,
    /// What its load saw of the database; 0 if there is no result.
    pub version: u8,
    /// Whether its load began after the invalidation that is pending in this process. Stands for
    /// the comparison of moments, and is false while nothing is pending.
    pub after: bool,
    /// For how many ticks more its load counts as begun just now, for a process cut off from Redis.
    pub young: u8,
}

impl Found {
    pub fn word(&self) -> u64 {
        u64::from_le_bytes([
            self.epoch,
            self.asof,
            self.version,
            self.after.into(),
            self.young,
            0,
            0,
            0,
        ])
    }

    /// What other processes get of it.
    pub fn abroad(self) -> Found {
        Found { after: false, young: 0, ..self }
    }
}

/// The directory's position as somebody was told it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    pub epoch: u8,
    pub seq: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    Applied,
    Behind,
    Outdated,
}

#[derive(Clone, Copy, Default)]
pub struct Table {
    pub epoch: u8,
    pub applied: u8,
    /// All invalidations up to this one are in the cell.
    pub whole: u8,
    /// The cell's number, but for what is pending.
    pub known: u8,
    pub pending: bool,
    /// The connection of the last accepted beat; 0 for none.
    pub beat_on: u8,
    /// For how many ticks it is confirmed.
    pub confirmed: u8,
    /// A number that the cell is about to get; see [`Mutation::AppliedBeforeCells`].
    pub late: u8,
}

impl Table {
    pub fn word(&self) -> u64 {
        u64::from_le_bytes([
            self.epoch,
            self.applied,
            self.known,
            self.pending.into(),
            self.beat_on,
            self.confirmed,
            self.late,
            self.whole,
        ])
    }

    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, seq: self.applied }
    }

    pub fn is_current(&self, found: &Found, mutation: Option<Mutation>) -> bool {
        let epoch = found.epoch == self.epoch || mutation == Some(Mutation::NoEpochInEntry);
        let pending = self.pending && mutation != Some(Mutation::NoLocalApply);
        epoch && self.known <= found.asof && (!pending || found.after)
    }

    /// The rule for what is read now: the table is confirmed, or the load began so short a time ago
    /// that its result is no older than a confirmed table could be.
    pub fn serves(&self, found: &Found, mutation: Option<Mutation>) -> bool {
        let confirmed = self.confirmed > 0 || found.young > 0;
        found.version > 0
            && (confirmed || mutation == Some(Mutation::NoFreshnessGate))
            && self.is_current(found, mutation)
    }

    pub fn covers(
        &self,
        directory: Position,
        connection: u8,
        asked: Position,
        mutation: Option<Mutation>,
    ) -> bool {
        let went_back = directory.epoch == asked.epoch && directory.seq < asked.seq;
        let early = mutation == Some(Mutation::PageCovers);
        let upto = if early { self.applied } else { self.whole };
        let position = directory.seq <= upto && !went_back;
        (self.beat_on == connection || mutation == Some(Mutation::UngatedReplicaRead))
            && directory.epoch == self.epoch
            && (position || mutation == Some(Mutation::AnyPosition))
    }

    /// The stamp of a load that begins now.
    pub fn stamp(&self, young: u8) -> Found {
        Found { epoch: self.epoch, asof: self.applied, version: 0, after: self.pending, young }
    }

    pub fn pushed(&mut self, at: Position, ours: bool, mutation: Option<Mutation>) -> Heard {
        if at.epoch != self.epoch {
            return if at.epoch > self.epoch { Heard::Behind } else { Heard::Outdated };
        }
        if ours && mutation == Some(Mutation::AppliedBeforeCells) {
            self.late = self.late.max(at.seq);
        } else if ours {
            self.known = self.known.max(at.seq);
        }
        let over = at.seq > self.applied && mutation == Some(Mutation::AdvanceOverGap);
        if at.seq > self.applied + 1 && !over {
            return Heard::Behind;
        }
        if over {
            self.applied = at.seq;
            self.whole = at.seq;
        } else {
            self.advance(at.seq);
        }
        Heard::Applied
    }

    /// To the next number, if it is that.
    fn advance(&mut self, seq: u8) {
        if seq == self.applied + 1 {
            if self.whole == self.applied {
                self.whole = seq;
            }
            self.applied = seq;
        }
    }

    /// `all`: nothing was asked for again since the announcement was made.
    pub fn acknowledged(&mut self, at: Position, all: bool, mutation: Option<Mutation>) -> Heard {
        if at.epoch != self.epoch {
            return if at.epoch > self.epoch { Heard::Behind } else { Heard::Outdated };
        }
        if mutation == Some(Mutation::NoLocalApply) {
            self.pending &= !all;
            return Heard::Applied;
        }
        // Not pending any more if the announcement was carried out twice.
        self.known = self.known.max(at.seq);
        self.pending &= !all;
        self.advance(at.seq);
        Heard::Applied
    }

    /// `cell` is 0 if the answer does not name it. `more`: other pages follow.
    pub fn beat(
        &mut self,
        at: Position,
        cell: u8,
        more: bool,
        connection: u8,
        confirmed: u8,
        mutation: Option<Mutation>,
    ) -> Heard {
        if at.epoch < self.epoch && mutation != Some(Mutation::EpochBackwards) {
            return Heard::Outdated;
        }
        if at.epoch != self.epoch {
            self.known = 0;
            self.applied = 0;
            self.whole = 0;
            self.late = 0;
            self.epoch = at.epoch;
            self.pending &= mutation != Some(Mutation::PendingForgotten);
        }
        self.known = self.known.max(cell);
        self.applied = self.applied.max(at.seq);
        if !more {
            self.whole = self.whole.max(at.seq);
        }
        self.beat_on = connection;
        self.confirmed = self.confirmed.max(confirmed);
        Heard::Applied
    }
}
