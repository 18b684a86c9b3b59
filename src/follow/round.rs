//! A round: samples the database's position, reads up to there, and finds what is to be announced.

use std::collections::BTreeSet;
use std::time::Duration;

use super::decoded::Visible;
use super::failure::Failure;
use super::schema::families;
use super::slot::Slot;
use super::snapshot::Snapshot;
use crate::clock::{Clock, Instant};
use crate::fleet::following::Findings;
use crate::postgres::replication::error::ReplicationError;
use crate::value::lsn::Lsn;
use crate::value::relation::RelationName;
use crate::value::tag::TagSlot;

/// How long the log may stay unflushed before a follower has it flushed. Commits that wait for no
/// flush (`synchronous_commit = off`) are visible before they can be streamed.
const UNFLUSHED: Duration = Duration::from_millis(20);

/// Why everything that is followed is invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wholesale {
    /// Nobody has followed for a while.
    Gap,
    /// A transaction became visible that was committed before the slot was made.
    Unseen,
    /// The relation of a change is not there any more under its name.
    Unnamed,
    /// The plugin has written what cannot be read, or too much in one transaction.
    Unreadable,
    /// A function, an operator, a type, a role or a setting was changed.
    Definition,
}

impl Wholesale {
    /// A word for metrics and events.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Wholesale::Gap => "gap",
            Wholesale::Unseen => "unseen",
            Wholesale::Unnamed => "unnamed",
            Wholesale::Unreadable => "unreadable",
            Wholesale::Definition => "definition",
        }
    }
}

/// What a round has found.
pub(super) struct Found {
    began: Instant,
    slots: Vec<TagSlot>,
    low: Lsn,
    high: Lsn,
    snapshot: Snapshot,
    visible: Visible,
    /// Of the unknown transactions, those that have ended.
    settled: Vec<u64>,
    /// The relations that are announced.
    pub(super) relations: BTreeSet<RelationName>,
    pub(super) wholesale: BTreeSet<Wholesale>,
}

impl Found {
    pub(super) fn findings(&self) -> Findings<'_> {
        Findings { began: self.began, slots: &self.slots, low: self.low, high: self.high }
    }

    /// When the round began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// How many transactions are not visible yet.
    pub(super) fn held(&self) -> usize {
        self.visible.held_count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

impl Slot {
    /// Finds what is visible now and not announced yet. Changes nothing that a second round could not
    /// find again.
    pub(super) async fn find(&mut self, clock: &Clock, is_gated: bool) -> Result<Found, Failure> {
        self.find_all(clock, is_gated).await.map_err(|error| {
            Failure::of(format!("following the database at {}", self.server.address), error)
        })
    }

    async fn find_all(&mut self, clock: &Clock, is_gated: bool) -> Result<Found, ReplicationError> {
        let began = clock.now();
        let sample = self.sample().await?;
        let target = self.server.reachable(sample.insert);
        let patience = (sample.flushed < target).then_some(UNFLUSHED);
        let server = &self.server;
        self.stream.pass(target, patience, async || server.flush().await).await?;
        // Everything that was visible when the round began has been read, and is visible in this.
        let mut snapshot = self.snapshot().await?;
        if !is_gated {
            snapshot.show_all();
        }
        self.stream.decoded.bound(&snapshot);
        let visible = self.stream.decoded.visible(&snapshot);
        let mut wholesale = BTreeSet::new();
        if visible.changes.anything {
            wholesale.insert(Wholesale::Unreadable);
        }
        let settled = self.settled(&sample.snapshot).await?;
        for &xid in &settled {
            if !self.was_aborted(xid).await? {
                wholesale.insert(Wholesale::Unseen);
            }
        }
        let schema = self.definitions.schema();
        let is_younger = |name| schema.family_of(name).is_none();
        if visible.changes.definitions
            || visible.changes.anything
            || visible.changes.relations.iter().any(is_younger)
        {
            self.definitions.owe();
        }
        // After the snapshot: it sees what is visible in that.
        self.definitions.keep_up(&self.server, self.stream.transactions).await?;
        let mut relations = self.named(&visible, &mut wholesale).await?;
        let redefined = self.definitions.pending();
        if redefined.anything || self.redefined_unseen {
            wholesale.insert(Wholesale::Definition);
        }
        let mut high = visible.end;
        if !redefined.is_empty() || !wholesale.is_empty() {
            // What is announced by this was committed before now, and it is not known where.
            let now = self.sample().await?.insert;
            high = high.max(self.server.reachable(now));
        }
        relations.extend(redefined.relations);
        let mut slots: Vec<TagSlot> =
            relations.iter().flat_map(RelationName::tags).map(|tag| tag.slot()).collect();
        if !wholesale.is_empty() {
            slots.push(TagSlot::FOLLOWED);
        }
        slots.sort_unstable();
        slots.dedup();
        let low = if self.unknown.len() > settled.len() {
            // A transaction from before the slot may yet become visible.
            Lsn::ZERO
        } else {
            // Positions of commits are their ends: a held one is not before its own.
            let held = visible.held.map(|end| Lsn::of(end.number() - 1));
            held.unwrap_or(self.stream.passed())
        };
        Ok(Found { began, slots, low, high, snapshot, visible, settled, relations, wholesale })
    }

    /// A round that has announced this stands.
    pub(super) fn announced(&mut self, found: &Found) {
        self.stream.decoded.announced(&found.visible, &found.snapshot, found.low);
        self.unknown.retain(|xid| !found.settled.contains(xid));
        self.definitions.announced();
        self.redefined_unseen = false;
    }

    /// The unknown transactions that had ended when the round began. If their commits were after the
    /// beginning of the slot, they have been read by now.
    async fn settled(&mut self, first: &Snapshot) -> Result<Vec<u64>, ReplicationError> {
        for read in self.stream.decoded.take_ended() {
            self.unknown.retain(|&xid| xid as u32 != read);
        }
        Ok(self.unknown.iter().copied().filter(|&xid| first.has_ended(xid)).collect())
    }

    /// The relations that were changed, with all that they are partitions or children of.
    async fn named(
        &mut self,
        visible: &Visible,
        wholesale: &mut BTreeSet<Wholesale>,
    ) -> Result<BTreeSet<RelationName>, ReplicationError> {
        let redefined = self.definitions.pending();
        let (mut all, mut younger) = (BTreeSet::new(), vec![]);
        for name in &visible.changes.relations {
            // Under whatever name it is read: also if its definition is another one by now.
            all.insert(name.clone());
            match self.definitions.schema().family_of(name) {
                Some(family) => all.extend(family.cloned()),
                // It was dropped or renamed, and its family is known to have changed.
                None if redefined.relations.contains(name) => {}
                None => younger.push(name),
            }
        }
        if younger.is_empty() {
            return Ok(all);
        }
        let mut found = families(&self.server, &younger).await?;
        for name in younger {
            match found.remove(name) {
                Some(family) => all.extend(family),
                None => {
                    wholesale.insert(Wholesale::Unnamed);
                }
            }
        }
        self.definitions.owe();
        Ok(all)
    }
}
