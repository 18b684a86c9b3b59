//! The judgement of an entry from Redis. Lookups serve by it, and the inspector of `admin` reports it.

use std::time::Duration;

use crate::clock::{self, Instant};
use crate::currency::{Currency, Stamp};
use crate::l1::entry::Lifetime;
use crate::l2::entry::Header;
use crate::policy::Policy;
use crate::value::tag::TagSlot;

/// What an intact entry is worth at one moment.
pub(crate) struct Judgement {
    /// As of when the load of the entry began.
    pub(crate) stamp: Stamp,
    /// Whether nothing that the entry depends on has been invalidated since.
    pub(crate) is_current: bool,
    /// Whether the slots show all that they must: if the entry is followed, the rounds of the follower
    /// have to prove that. When its load began is not known by this process's clock alone, so it is
    /// never served for being young.
    pub(crate) is_proven: bool,
    /// The times of the entry by this process's clock. `None` if its age is unknown: the writer gave
    /// it at most `life`, and more than that remains, so the clock of Redis has been set back.
    pub(crate) lifetime: Option<Lifetime>,
}

impl Judgement {
    /// Judges an entry that was requested at `asked` by this process's clock and read at `store_now`
    /// by the clock of Redis, in milliseconds.
    pub(crate) fn new(
        header: &Header,
        slots: impl Iterator<Item = TagSlot> + Clone,
        is_followed: bool,
        currency: &Currency,
        policy: &Policy,
        store_now: u64,
        asked: Instant,
    ) -> Judgement {
        let stamp = Stamp { epoch: header.at.epoch, seq: header.at.seq, order: 0 };
        let remaining = remaining(header, store_now);
        // First what the slots show, then the slots.
        let is_proven = !is_followed || currency.is_followed(&stamp, asked);
        Judgement {
            stamp,
            is_proven,
            is_current: currency.is_current(&stamp, slots),
            lifetime: stored_for(header, store_now)
                .map(|stored_for| lifetime(header, policy, asked, stored_for, remaining)),
        }
    }

    /// Whether a query with this policy is answered with it.
    pub(crate) fn is_served(&self, policy: &Policy, now: Instant) -> bool {
        self.is_current
            && self.is_proven
            && self.lifetime.is_some_and(|lifetime| lifetime.is_fresh(policy, now))
    }
}

/// How much of its life remains.
pub(crate) fn remaining(header: &Header, store_now: u64) -> Duration {
    Duration::from_millis(header.ends.saturating_sub(store_now))
}

/// How long ago it was stored; `None` if that is unknown.
pub(crate) fn stored_for(header: &Header, store_now: u64) -> Option<Duration> {
    header.life.checked_sub(remaining(header, store_now))
}

fn lifetime(
    header: &Header,
    policy: &Policy,
    asked: Instant,
    stored_for: Duration,
    remaining: Duration,
) -> Lifetime {
    let loaded = clock::before(asked, stored_for);
    let dies = clock::after(asked, remaining);
    Lifetime {
        load_began: clock::before(loaded, header.load),
        loaded,
        cached: asked,
        expires: clock::after(loaded, header.ttl).min(dies),
        evict_at: policy.kept(asked, dies),
    }
}
