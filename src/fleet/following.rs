//! [`Following`]: how a follower of the database leads, and what it tells this process and all others.
//!
//! A follower reads what is committed in the database. One leads at a time. It begins a *term*, and
//! ends a *round* after the other: it samples the database's position, waits until it has read up to
//! there, and announces what is visible by then. [`docs/protocol.md`] has the rules, and what they
//! promise.
//!
//! [`docs/protocol.md`]: https://github.com/larder-rs/larder/blob/main/docs/protocol.md

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::clock::{self, Clock, Instant};
use crate::currency::{Applied, Currency, Position, Round};
use crate::fleet::Fleet;
use crate::fleet::leader::Standing;
use crate::l2::StoreError;
use crate::l2::follow::{Marks, RoundEnd, TermStart};
use crate::sync::Mutex;
use crate::telemetry::counters::Counters;
use crate::value::lsn::{History, Lsn};
use crate::value::tag::TagSlot;

/// The pause before it is looked again whether a round has been heard of.
const AGAIN: Duration = Duration::from_millis(10);

/// A follower's term, in the epoch in which it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term {
    epoch: u64,
    number: u64,
}

impl Term {
    /// For statistics and events.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

/// A term has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Began {
    pub(crate) term: Term,
    /// The last leader had announced everything before this. The new one announces the rest of what it
    /// has read, in its first round: also what it has announced itself in an earlier term.
    ///
    /// `None`: all results that are followed were invalidated, so nothing from before is owed.
    pub(crate) goes_on_from: Option<Lsn>,
}

/// What a round has found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Findings<'a> {
    /// When the round began, by the clock of the cache: before the database's position was sampled.
    pub(crate) began: Instant,
    /// What it announces: committed, read, visible in a snapshot taken after the stream had passed the
    /// sampled position, and not announced yet in this term.
    pub(crate) slots: &'a [TagSlot],
    /// Everything before this has been announced. Never beyond what is held back because it is not
    /// visible yet, and zero while something unknown may become visible.
    pub(crate) low: Lsn,
    /// Nothing from here on has been announced.
    pub(crate) high: Lsn,
}

/// How the announcement of a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoundEnded {
    /// It stands. What it announced need not be announced again in this term.
    Stands {
        /// Whether a process was in use since the last round, so that rounds are waited for.
        is_used: bool,
    },
    /// Another follower leads, or the directory was lost. Nothing was announced. Who goes on to follow
    /// begins a term of its own.
    Deposed,
}

/// Whom a follower in this process tells what has changed.
#[derive(Clone)]
pub(crate) enum Following {
    /// All processes of the fleet.
    Fleet(Arc<Fleet>),
    /// This process, which has no shared tier and follows for itself.
    Alone(Arc<Alone>),
}

impl Following {
    /// Begins a term. All methods may be dropped on the way: then it is not known whether they took
    /// effect.
    ///
    /// `start` is where the follower's slot begins. `low` is that as well, or zero while something may
    /// have been committed before `start` and become visible after it. `high` was sampled after the
    /// slot was made.
    ///
    /// # Errors
    ///
    /// There is no answer, within a second. The term may have begun, or may begin later, and depose a
    /// follower that leads by then. It is to be begun again.
    pub(crate) async fn begin_following(
        &self,
        history: History,
        start: Lsn,
        low: Lsn,
        high: Lsn,
    ) -> Result<Began, StoreError> {
        let (start, low, high) = (start.rounded_up(), low.rounded_down(), high.rounded_up());
        let beginning = TermStart { history, start, low, high };
        match self {
            Following::Fleet(fleet) => {
                let begun = fleet.store.begin_following(fleet.currency().position(), &beginning);
                let begun = begun.await?;
                if begun.goes_on_from.is_none() {
                    fleet.heard(begun.at, &[TagSlot::FOLLOWED]);
                }
                let term = Term { epoch: begun.at.epoch, number: begun.term };
                Ok(Began { term, goes_on_from: begun.goes_on_from })
            }
            Following::Alone(alone) => Ok(alone.begin(&beginning)),
        }
    }

    /// Ends a round: what it announces is invalidated and its number taken, at once. Rounds of a term
    /// are numbered from 1 and end one after the other. The next one begins, and samples its position,
    /// after this has returned.
    ///
    /// # Errors
    ///
    /// There is no answer, within a second. Nobody knows whether the round stands or will stand, so
    /// this term is over: who goes on to follow begins another one, and keeps what this round announced
    /// as not announced.
    pub(crate) async fn follow(
        &self,
        term: &Term,
        number: u64,
        found: &Findings<'_>,
    ) -> Result<RoundEnded, StoreError> {
        let end = RoundEnd {
            epoch: term.epoch,
            round: Round { term: term.number, number },
            low: found.low.rounded_down(),
            high: found.high.rounded_up(),
        };
        match self {
            Following::Fleet(fleet) => {
                let position = fleet.currency().position();
                let reply = fleet.store.follow(position, &end, found.slots).await?;
                if !reply.is_accepted {
                    return Ok(RoundEnded::Deposed);
                }
                if !found.slots.is_empty() {
                    fleet.heard(reply.at, found.slots);
                }
                Ok(RoundEnded::Stands { is_used: reply.is_used })
            }
            Following::Alone(alone) => Ok(alone.follow(&end, found)),
        }
    }

    /// Requests a beat and waits for it. Returns the follower that leads, if one has in this epoch. A
    /// standby begins a term if it has not moved for a second.
    pub(crate) async fn leader(&self) -> Option<Standing> {
        match self {
            Following::Fleet(fleet) => {
                fleet.confirm().await;
                fleet.heartbeat.leader()
            }
            // Nobody else can lead.
            Following::Alone(_) => None,
        }
    }

    /// Waits until a round that began after this call is applied in this process: what was visible in
    /// the database when it was called is in the table. Returns whether that happened in time.
    pub(crate) async fn caught_up(&self, limit: Duration) -> bool {
        let (currency, max_blind, now) = match self {
            Following::Fleet(fleet) => {
                (fleet.currency(), fleet.heartbeat.max_blind(), fleet.clock.now())
            }
            Following::Alone(alone) => (&*alone.currency, alone.max_blind, alone.clock.now()),
        };
        // Served until then is what was proven by a beat that was sent from now on.
        let until = clock::after(now, max_blind);
        let waiting = async {
            loop {
                if let Following::Fleet(fleet) = self {
                    fleet.heartbeat.beaten().await;
                }
                if currency.followed_until() >= until {
                    return;
                }
                sleep(AGAIN).await;
            }
        };
        timeout(limit, waiting).await.is_ok()
    }
}

impl Fleet {
    /// Applies an announcement of this process's own follower, as its notice will.
    fn heard(&self, at: Position, slots: &[TagSlot]) {
        if self.currency().pushed(at, slots) == Applied::Gap {
            self.notices.beat.notify_one();
        }
    }
}

/// The follower's part of a cache without a shared tier.
pub(crate) struct Alone {
    currency: Arc<Currency>,
    counters: Arc<Counters>,
    clock: Clock,
    max_blind: Duration,
    marks: Mutex<Marks>,
    /// The number of reads when the last round ended.
    reads: AtomicU64,
}

impl Alone {
    pub(crate) fn new(
        currency: Arc<Currency>,
        counters: Arc<Counters>,
        clock: Clock,
        max_blind: Duration,
    ) -> Alone {
        let (marks, reads) = (Mutex::default(), AtomicU64::new(0));
        Alone { currency, counters, clock, max_blind, marks, reads }
    }

    fn epoch(&self) -> u64 {
        self.currency.position().epoch
    }

    fn begin(&self, beginning: &TermStart) -> Began {
        let mut marks = self.marks.lock();
        let goes_on_from = marks.begin(beginning);
        if goes_on_from.is_none() {
            self.currency.invalidate_alone(&[TagSlot::FOLLOWED]);
        }
        let number = marks.leader.round.term;
        Began { term: Term { epoch: self.epoch(), number }, goes_on_from }
    }

    fn follow(&self, end: &RoundEnd, found: &Findings<'_>) -> RoundEnded {
        let mut marks = self.marks.lock();
        if !marks.accepts(end, self.epoch()) {
            return RoundEnded::Deposed;
        }
        if !found.slots.is_empty() {
            self.currency.invalidate_alone(found.slots);
        }
        marks.end(end);
        // No beat is needed: the round that has ended here is known to have begun then.
        self.currency.followed_alone(clock::after(found.began, self.max_blind));
        let reads = self.counters.reads();
        RoundEnded::Stands { is_used: self.reads.swap(reads, Ordering::Relaxed) != reads }
    }
}
