//! [`Currency`]: which results are still current.
//!
//! The cache does not prevent stale fills; it never serves their results. One number per namespace,
//! *seq*, counts invalidations. A result carries a [`Stamp`], the seq at which its load began. This
//! table holds, for each slot, the seq at which a tag of that slot was last invalidated. A result
//! is current while none of its slots has a number above its stamp.
//!
//! The numbers belong to a lineage of the directory in Redis, its *epoch*. A directory that was
//! lost, or replaced by an older one, begins a new and larger epoch, which makes every older result
//! stale.
//!
//! An invalidation by this process takes effect here before Redis has received it: its slots are
//! *pending*. While a slot is pending, a result is current only if its load began after the
//! invalidation, by this process's own count of events (their *order*).
//!
//! # Memory order
//!
//! Readers take no lock. They read the epoch, then slots, then the epoch again (a seqlock whose
//! version is the epoch, which never returns to an old value). Writers hold the ledger's lock. A
//! writer that replaces the table closes the epoch first. Slots are stored before `applied`, and
//! both before `confirmed_until` and `followed_until`, so that a thread that sees one of these values
//! also sees the slots it covers.

use std::collections::{BTreeMap, BTreeSet};

use super::gate::{Gate, Round};
use crate::clock::Instant;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, fence};
use crate::value::tag::TagSlot;

/// The state that a result was loaded at. Taken before its load begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Stamp {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    /// The load's place in this process's count of loads and invalidations; 0 for a result of
    /// another process.
    pub(crate) order: u64,
}

impl Stamp {
    /// Whether this process ran the load.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.order != 0
    }

    /// The part that is stored in an entry.
    pub(crate) fn position(&self) -> Position {
        Position { epoch: self.epoch, seq: self.seq }
    }
}

/// A position in the directory's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
}

/// No epoch is known yet. Results stamped with it are current until the first epoch is known.
const UNKNOWN: u64 = 0;
/// The table is being replaced.
const CLOSED: u64 = u64::MAX;
/// Stands in place of a slot's number: the reader must consult the ledger.
const PENDING: u64 = u64::MAX;

/// The table, shared by all threads that read, write and confirm it.
pub(crate) struct Currency {
    epoch: AtomicU64,
    /// The instant at which the last accepted confirmation ends.
    confirmed_until: AtomicU64,
    slots: Box<[AtomicU64]>,
    /// All slots whose number is at most this are as the directory has them.
    applied: AtomicU64,
    /// Counts the loads and invalidations of this process, in the order in which they began.
    orders: AtomicU64,
    /// Until when results that are followed are served, in this epoch: every change of the database
    /// that was visible so much earlier as a change may take to be noticed is in the slots.
    followed_until: AtomicU64,
    ledger: Mutex<Ledger>,
}

/// State for writers, and for readers of pending slots.
#[derive(Default)]
struct Ledger {
    /// Invalidations by this process that Redis has not acknowledged.
    pending: BTreeMap<TagSlot, Pending>,
    /// The slots of those that Redis has acknowledged a short time ago, the older ones second.
    recent: [BTreeSet<TagSlot>; 2],
    /// The connection on which the last accepted beat was answered.
    beat_on: Option<u64>,
    /// All invalidations up to this one are in the slots. Behind `applied` between the pages of a
    /// beat's reply: of a slot that was invalidated twice the directory has the second number only,
    /// which may be in a later page, and then the first one is in none.
    whole: u64,
    /// The beats that the rounds of a follower may yet prove something about, in this epoch.
    gate: Gate,
}

struct Pending {
    /// The slot's number without the pending invalidation.
    known: u64,
    /// The order of the invalidation; of several, the last.
    order: u64,
}

/// The invalidations to send to Redis: all that were pending when this was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) slots: Vec<TagSlot>,
    /// It includes every invalidation up to this order.
    pub(crate) upto: u64,
}

/// What to do after a message from Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Applied {
    /// Nothing: the table is as new as the message.
    Ok,
    /// A message was missed: request a beat.
    Gap,
    /// The message is of a lineage that has ended.
    OldEpoch,
}

impl Currency {
    /// A table that a directory in Redis keeps current.
    pub(crate) fn shared() -> Currency {
        Currency::new(UNKNOWN, Instant::from_nanos(0))
    }

    /// The table of a cache without a shared tier: always confirmed.
    pub(crate) fn alone() -> Currency {
        Currency::new(1, Instant::NEVER)
    }

    fn new(epoch: u64, confirmed_until: Instant) -> Currency {
        Currency {
            epoch: AtomicU64::new(epoch),
            confirmed_until: AtomicU64::new(confirmed_until.nanos()),
            slots: (0..TagSlot::COUNT).map(|_| AtomicU64::new(0)).collect(),
            applied: AtomicU64::new(0),
            orders: AtomicU64::new(0),
            followed_until: AtomicU64::new(0),
            ledger: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }

    /// Until when the table is confirmed: it has all invalidations that Redis had acknowledged
    /// `max_staleness` before that.
    ///
    /// Read it before [`is_current`](Currency::is_current), whose reads are then at least as new.
    #[inline]
    pub(crate) fn confirmed_until(&self) -> Instant {
        Instant::from_nanos(self.confirmed_until.load(Ordering::Acquire))
    }

    /// Whether nothing that a result depends on has been invalidated since its load began.
    #[inline]
    pub(crate) fn is_current(
        &self,
        stamp: &Stamp,
        slots: impl Iterator<Item = TagSlot> + Clone,
    ) -> bool {
        let epoch = self.epoch.load(Ordering::Acquire);
        let mut newest = self.slots[TagSlot::EVERYTHING.index()].load(Ordering::Relaxed);
        for slot in slots.clone() {
            newest = newest.max(self.slots[slot.index()].load(Ordering::Relaxed));
        }
        // If one of these slots was written by a thread that replaces the table, the epoch read
        // next differs from the one read before.
        fence(Ordering::Acquire);
        if self.epoch.load(Ordering::Relaxed) != epoch || epoch != stamp.epoch {
            return false;
        }
        newest <= stamp.seq || newest == PENDING && self.is_current_by_ledger(stamp, slots)
    }

    /// Whether the rounds of a follower prove that a result of this epoch may be served at a time, if
    /// it [`is_current`](Currency::is_current) then.
    ///
    /// Ask this first: the slots read then are at least as new as the proof, and of the epoch that
    /// it belongs to, which is the result's and never returns.
    #[inline]
    pub(crate) fn is_followed(&self, stamp: &Stamp, at: Instant) -> bool {
        self.epoch.load(Ordering::Acquire) == stamp.epoch
            && at.nanos() < self.followed_until.load(Ordering::Acquire)
    }

    /// Until when results that are followed may be served.
    pub(crate) fn followed_until(&self) -> Instant {
        Instant::from_nanos(self.followed_until.load(Ordering::Acquire))
    }

    /// Takes the round that the last page of a beat's reply has shown, after the reply was applied.
    /// `until` is when that page was requested, and as much later as a change may take to be noticed.
    pub(crate) fn heard_of(&self, epoch: u64, round: Round, until: Instant) {
        let mut ledger = self.lock();
        // Another thread has replaced the table since: this one is not what the round is about.
        if self.epoch.load(Ordering::Relaxed) == epoch
            && let Some(until) = ledger.gate.heard(round, until)
        {
            self.raise_followed(until);
        }
    }

    /// A round has ended in a cache without a shared tier.
    pub(crate) fn followed_alone(&self, until: Instant) {
        let _ledger = self.lock();
        self.raise_followed(until);
    }

    fn raise_followed(&self, until: Instant) {
        if until.nanos() > self.followed_until.load(Ordering::Relaxed) {
            self.followed_until.store(until.nanos(), Ordering::Release);
        }
    }

    #[cold]
    fn is_current_by_ledger(&self, stamp: &Stamp, slots: impl Iterator<Item = TagSlot>) -> bool {
        let ledger = self.lock();
        self.epoch.load(Ordering::Relaxed) == stamp.epoch
            && slots.chain([TagSlot::EVERYTHING]).all(|slot| match ledger.pending.get(&slot) {
                Some(pending) => pending.known <= stamp.seq && stamp.order > pending.order,
                None => self.slots[slot.index()].load(Ordering::Relaxed) <= stamp.seq,
            })
    }

    /// The number of the last invalidation that a result of these slots must include.
    pub(crate) fn newest(&self, slots: impl Iterator<Item = TagSlot>) -> u64 {
        let ledger = self.lock();
        let known = |slot: TagSlot| match ledger.pending.get(&slot) {
            Some(pending) => pending.known,
            None => self.slots[slot.index()].load(Ordering::Relaxed),
        };
        slots.chain([TagSlot::EVERYTHING]).map(known).max().unwrap_or(0)
    }

    /// Returns the slot that made a result stale, and its number. The slot is `None` if a new epoch
    /// made it stale.
    #[cfg(feature = "tracing")]
    pub(crate) fn killer(
        &self,
        stamp: &Stamp,
        slots: impl Iterator<Item = TagSlot>,
    ) -> Option<(Option<TagSlot>, u64)> {
        let ledger = self.lock();
        let epoch = self.epoch.load(Ordering::Relaxed);
        if epoch != stamp.epoch {
            return Some((None, epoch));
        }
        slots.chain([TagSlot::EVERYTHING]).find_map(|slot| {
            let pending = ledger.pending.get(&slot);
            let number = match pending {
                Some(pending) => pending.known,
                None => self.slots[slot.index()].load(Ordering::Relaxed),
            };
            let pends = pending.is_some_and(|pending| stamp.order <= pending.order);
            (pends || number > stamp.seq).then_some((Some(slot), number))
        })
    }

    /// The stamp of a load that begins now.
    pub(crate) fn stamp(&self) -> Stamp {
        let order = self.orders.fetch_add(1, Ordering::SeqCst) + 1;
        let epoch = self.epoch.load(Ordering::Acquire);
        let seq = self.applied.load(Ordering::Acquire);
        fence(Ordering::Acquire);
        if epoch != CLOSED && self.epoch.load(Ordering::Relaxed) == epoch {
            return Stamp { epoch, seq, order };
        }
        // A thread that replaces the table holds the lock.
        let _ledger = self.lock();
        let (epoch, seq) = (self.epoch.load(Ordering::Relaxed), &self.applied);
        Stamp { epoch, seq: seq.load(Ordering::Relaxed), order }
    }

    /// The current order: later loads get a higher one.
    pub(crate) fn order(&self) -> u64 {
        self.orders.load(Ordering::SeqCst)
    }

    /// The position of the table; sent with every request that depends on it.
    pub(crate) fn position(&self) -> Position {
        let _ledger = self.lock();
        self.position_under_lock()
    }

    fn position_under_lock(&self) -> Position {
        Position {
            epoch: self.epoch.load(Ordering::Relaxed),
            seq: self.applied.load(Ordering::Relaxed),
        }
    }

    /// Whether the table includes everything that the directory knew when it answered on this
    /// connection. `asked` is the position of the table when the request was sent.
    pub(crate) fn covers(&self, directory: Position, connection: u64, asked: Position) -> bool {
        let ledger = self.lock();
        let mine = self.position_under_lock();
        // The directory is behind the position that we sent: it has lost data, and a beat finds out
        // what.
        let went_back = directory.epoch == asked.epoch && directory.seq < asked.seq;
        ledger.beat_on == Some(connection)
            && directory.epoch == mine.epoch
            && directory.seq <= ledger.whole
            && !went_back
    }

    /// Begins invalidations: from here on, no result whose load began earlier is current in this
    /// process. Returns their order.
    pub(crate) fn invalidate(&self, slots: &[TagSlot]) -> u64 {
        let mut ledger = self.lock();
        let order = self.orders.fetch_add(1, Ordering::SeqCst) + 1;
        for &slot in slots {
            let at = &self.slots[slot.index()];
            match ledger.pending.get_mut(&slot) {
                Some(pending) => pending.order = order,
                None => {
                    let known = at.load(Ordering::Relaxed);
                    ledger.pending.insert(slot, Pending { known, order });
                    at.store(PENDING, Ordering::Release);
                }
            }
        }
        order
    }

    /// Invalidates in the table of a cache without a shared tier.
    pub(crate) fn invalidate_alone(&self, slots: &[TagSlot]) {
        let _ledger = self.lock();
        let seq = self.applied.load(Ordering::Relaxed) + 1;
        for slot in slots {
            self.slots[slot.index()].store(seq, Ordering::Release);
        }
        self.applied.store(seq, Ordering::Release);
    }

    /// All invalidations that Redis has not acknowledged, if there are any.
    pub(crate) fn unannounced(&self) -> Option<Announcement> {
        let ledger = self.lock();
        let upto = ledger.pending.values().map(|pending| pending.order).max()?;
        Some(Announcement { slots: ledger.pending.keys().copied().collect(), upto })
    }

    /// Records that Redis has acknowledged an announcement, at this position.
    ///
    /// [`Applied::Gap`]: the table has to catch up first; then this call must be repeated.
    /// [`Applied::OldEpoch`]: the acknowledgement is of a lineage that has ended; the announcement
    /// must be sent again.
    pub(crate) fn acknowledged(&self, announcement: &Announcement, at: Position) -> Applied {
        let mut ledger = self.lock();
        let mine = self.position_under_lock();
        if at.epoch > mine.epoch {
            return Applied::Gap;
        }
        if at.epoch < mine.epoch {
            return Applied::OldEpoch;
        }
        let ledger = &mut *ledger;
        for slot in &announcement.slots {
            self.raise(ledger, *slot, at.seq);
            // Not pending any more if Redis has executed the announcement twice.
            let Some(pending) = ledger.pending.get(slot) else { continue };
            // A slot that was invalidated again meanwhile remains to be announced.
            if pending.order <= announcement.upto {
                let known = pending.known;
                ledger.pending.remove(slot);
                ledger.recent[0].insert(*slot);
                self.slots[slot.index()].store(known, Ordering::Release);
            }
        }
        if at.seq == mine.seq + 1 {
            self.advance(ledger, at.seq);
        }
        Applied::Ok
    }

    /// The slots have the next number.
    fn advance(&self, ledger: &mut Ledger, seq: u64) {
        if ledger.whole == self.applied.load(Ordering::Relaxed) {
            ledger.whole = seq;
        }
        self.applied.store(seq, Ordering::Release);
    }

    /// Whether an invalidation is pending.
    pub(crate) fn has_pending(&self) -> bool {
        !self.lock().pending.is_empty()
    }

    /// Whether an invalidation would be pending if another epoch began.
    pub(crate) fn has_acknowledged(&self) -> bool {
        self.lock().recent.iter().any(|recent| !recent.is_empty())
    }

    /// Forgets what was acknowledged before the last call of this. What is not forgotten is pending
    /// again as soon as another epoch begins; see [`beat`](Currency::beat).
    pub(crate) fn forget_acknowledged(&self) {
        let mut ledger = self.lock();
        ledger.recent[1] = std::mem::take(&mut ledger.recent[0]);
    }

    /// Applies an invalidation by another process, or the echo of one of ours.
    pub(crate) fn pushed(&self, at: Position, slots: &[TagSlot]) -> Applied {
        let mut ledger = self.lock();
        let mine = self.position_under_lock();
        if at.epoch != mine.epoch {
            return if at.epoch > mine.epoch { Applied::Gap } else { Applied::OldEpoch };
        }
        for &slot in slots {
            self.raise(&mut ledger, slot, at.seq);
        }
        if at.seq > mine.seq + 1 {
            return Applied::Gap;
        }
        if at.seq == mine.seq + 1 {
            self.advance(&mut ledger, at.seq);
        }
        Applied::Ok
    }

    /// Applies the reply to a beat that was sent on this connection, or a page of it: the slots
    /// above the position that was sent, which are complete up to `at`.
    ///
    /// The last page confirms the table until `until`. An earlier one, without `until`, confirms
    /// nothing and covers nothing: the directory knows invalidations that the table does not have
    /// yet, acknowledged before the beat was sent, and some of them have a number below `at`.
    pub(crate) fn beat(
        &self,
        at: Position,
        slots: &[(TagSlot, u64)],
        connection: u64,
        until: Option<Instant>,
    ) -> Applied {
        let mut ledger = self.lock();
        let mine = self.position_under_lock();
        if at.epoch < mine.epoch {
            return Applied::OldEpoch;
        }
        if at.epoch > mine.epoch {
            self.epoch.store(CLOSED, Ordering::Relaxed);
            fence(Ordering::Release);
            // A pending slot stays pending: it is not known yet whether loads of the new epoch
            // began after the invalidation.
            for (index, slot) in self.slots.iter().enumerate() {
                if TagSlot::numbered(index as u64)
                    .is_some_and(|it| !ledger.pending.contains_key(&it))
                {
                    slot.store(0, Ordering::Relaxed);
                }
            }
            ledger.pending.values_mut().for_each(|pending| pending.known = 0);
            self.renew(&mut ledger);
            ledger.whole = 0;
            // What a follower has proven of the old epoch says nothing about results of the new one.
            ledger.gate = Gate::default();
            self.followed_until.store(0, Ordering::Relaxed);
            self.applied.store(0, Ordering::Relaxed);
        }
        for &(slot, seq) in slots {
            self.raise(&mut ledger, slot, seq);
        }
        if at.seq > self.applied.load(Ordering::Relaxed) {
            self.applied.store(at.seq, Ordering::Release);
        }
        self.epoch.store(at.epoch, Ordering::Release);
        ledger.beat_on = Some(connection);
        if until.is_some() {
            ledger.whole = ledger.whole.max(at.seq);
        }
        if let Some(until) = until
            && until.nanos() > self.confirmed_until.load(Ordering::Relaxed)
        {
            self.confirmed_until.store(until.nanos(), Ordering::Release);
        }
        Applied::Ok
    }

    /// Makes the invalidations pending that were acknowledged a short time ago.
    ///
    /// They may have been acknowledged by a master that was deposed already and did not know it. Its
    /// successor began this epoch without them, and another process may have loaded a result in it
    /// before the change was committed.
    fn renew(&self, ledger: &mut Ledger) {
        if ledger.recent.iter().all(BTreeSet::is_empty) {
            return;
        }
        let order = self.orders.fetch_add(1, Ordering::SeqCst) + 1;
        for slot in ledger.recent.each_mut().into_iter().flat_map(std::mem::take) {
            ledger.pending.entry(slot).or_insert(Pending { known: 0, order });
            self.slots[slot.index()].store(PENDING, Ordering::Relaxed);
        }
    }

    fn raise(&self, ledger: &mut Ledger, slot: TagSlot, seq: u64) {
        match ledger.pending.get_mut(&slot) {
            Some(pending) => pending.known = pending.known.max(seq),
            None => {
                let slot = &self.slots[slot.index()];
                if slot.load(Ordering::Relaxed) < seq {
                    slot.store(seq, Ordering::Release);
                }
            }
        }
    }
}
