//! [`Namespace`]: the data that Redis holds for a namespace, and the operations of the scripts in
//! `redis/lua`.
//!
//! There is one method for each script, line by line. A test sends the same requests to both.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::{Fill, Found, LEASE, LeaseOutcome, LeaseReply, LeaseRequest, Notice};
use crate::clock::{self, Instant};
use crate::currency::Position;
use crate::l2::entry;
use crate::l2::follow::{Leader, Marks};
use crate::value::key::{CacheKey, KeyHasher};
use crate::value::tag::TagSlot;
use crate::value::token::Token;

/// In nanoseconds, the unit of the model's clock.
pub(super) const MILLISECOND: u64 = 1_000_000;

/// Everything stored for one namespace.
#[derive(Default)]
pub(crate) struct Namespace {
    pub(crate) directory: Option<Directory>,
    pub(crate) entries: HashMap<CacheKey, Kept, KeyHasher>,
    pub(crate) leases: HashMap<CacheKey, Lease, KeyHasher>,
    pub(crate) notes: HashMap<String, Bytes>,
    /// The snapshot of each process, with its expiry.
    pub(crate) published: HashMap<String, (Instant, Bytes)>,
}

#[cfg_attr(test, derive(Clone))]
pub(crate) struct Directory {
    pub(crate) at: Position,
    /// The number of the last invalidation of each slot.
    pub(crate) slots: BTreeMap<TagSlot, u64>,
    /// The number of the last invalidation of [`TagSlot::FOLLOWED`]; 0 if there was none.
    pub(crate) followed: u64,
    /// What followers have left.
    pub(crate) marks: Marks,
    /// The server that the directory belongs to.
    pub(crate) server: u64,
}

impl Directory {
    /// Invalidates slots, with a number and a notice for every so many of them.
    pub(crate) fn invalidate(&mut self, slots: &[TagSlot], most: usize) -> Vec<Notice> {
        let numbered = slots.chunks(most).map(|slots| {
            self.at.seq += 1;
            for &slot in slots {
                if slot == TagSlot::FOLLOWED {
                    self.followed = self.at.seq;
                } else {
                    self.slots.insert(slot, self.at.seq);
                }
            }
            Notice::Invalidated { at: self.at, slots: slots.to_vec() }
        });
        numbered.collect()
    }

    /// The number of [`TagSlot::FOLLOWED`] in the reply to a beat, if it has one.
    pub(super) fn followed(&self) -> Option<(TagSlot, u64)> {
        (self.followed > 0).then_some((TagSlot::FOLLOWED, self.followed))
    }

    pub(super) fn leader(&self) -> Option<Leader> {
        let leader = self.marks.leader;
        (leader.round.term > 0).then_some(leader)
    }

    /// The slots above what the caller has applied, and the number up to which they are complete:
    /// the highest number up to which there are at most `most` slots, or the next one if that has
    /// more.
    pub(crate) fn page(&self, known: Position, most: usize) -> (Vec<(TagSlot, u64)>, u64) {
        let above = if known.epoch == self.at.epoch { known.seq } else { 0 };
        let slots = self.slots.iter().map(|(&slot, &seq)| (slot, seq));
        let mut slots: Vec<_> = slots.filter(|&(_, seq)| seq > above).collect();
        slots.sort_by_key(|&(_, seq)| seq);
        let Some(&(_, next)) = slots.get(most) else { return (slots, self.at.seq) };
        let before = slots[..most].iter().rev().map(|&(_, seq)| seq).find(|&seq| seq < next);
        let upto = before.unwrap_or(next);
        slots.retain(|&(_, seq)| seq <= upto);
        (slots, upto)
    }
}

/// The value stored under the name of an entry.
pub(crate) struct Kept {
    /// `None`: a value that is not a string.
    pub(crate) bytes: Option<Bytes>,
    /// `None`: it never expires.
    pub(crate) ends: Option<Instant>,
}

pub(crate) struct Lease {
    pub(crate) token: Token,
    pub(crate) at: Position,
    /// Whether a process waits for its end.
    pub(crate) awaited: bool,
    pub(crate) ends: Instant,
}

impl Namespace {
    /// Removes the key's entry and lease if they have expired.
    pub(crate) fn expire(&mut self, key: &CacheKey, now: Instant) {
        if self.entries.get(key).and_then(|kept| kept.ends).is_some_and(|ends| ends <= now) {
            self.entries.remove(key);
        }
        if self.leases.get(key).is_some_and(|lease| lease.ends <= now) {
            self.leases.remove(key);
        }
    }

    /// The stored entry's stamp and token, if the value is an entry.
    fn stored(&self, key: &CacheKey) -> Option<(Position, Token)> {
        entry::origin(self.entries.get(key)?.bytes.as_ref()?)
    }

    pub(super) fn read(&mut self, key: &CacheKey, now: Instant) -> Found {
        self.expire(key, now);
        match self.entries.get(key) {
            None | Some(Kept { bytes: None, .. }) => Found::Nothing,
            // Rounded up: a millisecond that has begun does not count as remaining.
            Some(Kept { bytes: Some(bytes), .. }) => {
                Found::Entry { bytes: bytes.clone(), now: now.nanos().div_ceil(MILLISECOND) }
            }
        }
    }

    pub(super) fn lease(&mut self, key: &CacheKey, ask: LeaseRequest, now: Instant) -> LeaseReply {
        self.expire(key, now);
        if ask.refused && self.stored(key).is_some_and(|(_, token)| Some(token) == ask.seen) {
            self.entries.remove(key);
        }
        if self.stored(key).is_some_and(|(at, token)| {
            at.epoch == ask.at.epoch && at.seq >= ask.need && Some(token) != ask.seen
        }) {
            return LeaseReply::Entry;
        }
        // The requester does not know of the new epoch: the result of its load would be stale at
        // once.
        if self.stored(key).is_some_and(|(at, _)| at.epoch > ask.at.epoch) {
            return LeaseReply::Entry;
        }
        let mut awaited = false;
        if let Some(lease) = self.leases.get_mut(key) {
            if lease.token == ask.token {
                return LeaseReply::Granted;
            }
            // A load of an older epoch, or from before an invalidation, is useless to the
            // requester: it takes over the lease and its waiters.
            let of_use = lease.at.epoch == ask.at.epoch && lease.at.seq >= ask.need;
            if of_use || lease.at.epoch > ask.at.epoch {
                lease.awaited = true;
                return LeaseReply::Wait(clock::since(lease.ends, now));
            }
            awaited = lease.awaited;
        }
        let ends = clock::after(now, LEASE);
        self.leases.insert(*key, Lease { token: ask.token, at: ask.at, awaited, ends });
        LeaseReply::Granted
    }

    pub(super) fn renew(&mut self, key: &CacheKey, token: Token, now: Instant) -> bool {
        self.expire(key, now);
        let lease = self.leases.get_mut(key).filter(|lease| lease.token == token);
        lease.map(|lease| lease.ends = clock::after(now, LEASE)).is_some()
    }

    pub(super) fn fill(
        &mut self,
        key: &CacheKey,
        fill: &Fill,
        now: Instant,
    ) -> (bool, Option<Notice>) {
        self.expire(key, now);
        let ours = match self.leases.get(key) {
            Some(lease) if lease.token != fill.token => return (false, None),
            lease => lease.is_some(),
        };
        let ends = Instant::from_nanos(fill.ends.saturating_mul(MILLISECOND));
        let mut write = ends > now;
        if let Some((at, _)) = self.stored(key) {
            // The lease may have ended meanwhile, or may have been granted to a process that was
            // behind. A stored entry must not be replaced by an older one.
            let newer = (fill.at.epoch, fill.at.seq).cmp(&(at.epoch, at.seq));
            let lasts_longer = || self.entries[key].ends.is_none_or(|there| ends > there);
            write &= newer.is_gt() || newer.is_eq() && (ours || lasts_longer());
        }
        if write {
            let bytes = [&fill.header[..], &fill.payload].concat();
            let kept = Kept { bytes: Some(bytes.into()), ends: Some(ends) };
            self.entries.insert(*key, kept);
        }
        (write, self.give_back(key, fill.token, LeaseOutcome::Filled))
    }

    /// Ends a lease, unless another token holds it. Returns the notice for its waiters, if there
    /// may be any.
    pub(super) fn give_back(
        &mut self,
        key: &CacheKey,
        token: Token,
        done: LeaseOutcome,
    ) -> Option<Notice> {
        match self.leases.get(key) {
            Some(lease) if lease.token != token => return None,
            Some(lease) if !lease.awaited => {
                self.leases.remove(key);
                return None;
            }
            // A lost lease took with it the record of whether anybody waits.
            _ => drop(self.leases.remove(key)),
        }
        Some(Notice::LeaseEnded { key: *key, done })
    }

    /// The common beginning of all scripts on the directory: returns the directory, or starts a new
    /// lineage.
    pub(super) fn head(&mut self, server: u64, known: Position) -> &mut Directory {
        // Always drawn, as for Redis, where the caller does not know yet whether it is needed.
        let random = u64::from(fastrand::u32(..1 << 24));
        let epoch = self.directory.as_ref().map_or(0, |directory| directory.at.epoch);
        let serves = |directory: &Directory| {
            directory.server == server
                && known.epoch <= directory.at.epoch
                && !(known.epoch == directory.at.epoch && known.seq > directory.at.seq)
        };
        if !self.directory.as_ref().is_some_and(serves) {
            self.directory = None;
        }
        self.directory.get_or_insert_with(|| {
            let count = (known.epoch.max(epoch) >> 24) + 1;
            let at = Position { epoch: count << 24 | random, seq: 0 };
            let (slots, marks) = (BTreeMap::new(), Marks::default());
            Directory { at, slots, followed: 0, marks, server }
        })
    }
}
