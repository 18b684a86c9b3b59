//! [`Run`]: the task of a follower: it makes a slot, stands by, leads, and begins anew when it cannot
//! go on.
//!
//! ```text
//!   off ── slot ──▶ stands by ── nobody leads for a second ──▶ leads
//!    ▲                 ▲  │                                     │  │
//!    │                 └──┼───── another leads, no answer ──────┘  │
//!    └────────────────────┴──────────── a failure ─────────────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::decoded::KEPT_ONE_BY_ONE;
use super::failure::{Failure, FailureKind};
use super::round::Wholesale;
use super::slot::{Slot, SlotNames};
use super::status::Status;
use super::verified::Verified;
use crate::backoff;
use crate::clock::{self, Clock};
use crate::fleet::following::{Began, Following, RoundEnded};
use crate::postgres::replication::dial::Endpoint;
use crate::postgres::replication::error::ReplicationError;
use crate::value::lsn::Lsn;

/// The pauses between attempts to make a slot.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A slot that was held for so long was a good one.
const STEADY: Duration = Duration::from_secs(10);

/// How often it is tried at most to get a slot that others have. Each attempt costs the server two
/// connections, and a fleet may have hundreds of processes that have none.
const TAKEN: Duration = Duration::from_secs(10);

/// A leader that has not ended a round for so long is replaced.
const SILENT: Duration = Duration::from_secs(1);

/// How often a follower that stands by looks after the leader.
const LOOK: Duration = Duration::from_millis(250);

const SHORTEST_LOOK: Duration = Duration::from_millis(10);

/// The rounds while somebody waits for them, and while nobody does.
const IN_USE: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_secs(1);

/// For how long after a sign of use rounds are frequent.
const LINGERS: Duration = Duration::from_secs(1);

/// From the beginning of a round to that of the next one, if something is to be announced.
const GAP: Duration = Duration::from_millis(5);

/// No round ends later than this after definitions were compared.
const COMPARED: Duration = Duration::from_secs(2);

/// What the task needs. It is made anew for each runtime that the cache moves to.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) endpoint: Endpoint,
    pub(super) names: SlotNames,
    pub(super) following: Following,
    pub(super) clock: Clock,
    pub(super) status: Arc<Status>,
    /// Somebody waits for a round.
    pub(super) wake: Arc<Notify>,
    /// Whether what is not visible yet is held back.
    pub(super) is_gated: bool,
}

/// How a time as leader has ended.
enum Ended {
    /// Another one leads, or the directory was lost.
    Deposed,
    /// Nobody knows whether the last round stands.
    Unanswered,
}

impl Run {
    /// Follows until it is dropped.
    pub(super) async fn run(self) {
        let mut failed = 0_u32;
        loop {
            let began = Instant::now();
            let why = self.follow().await;
            if began.elapsed() >= STEADY {
                failed = 0;
            }
            self.status.off(&why);
            if why.kind == FailureKind::Taken {
                self.while_others_lead().await;
            } else {
                sleep(backoff::pause(failed, FIRST_PAUSE, LONGEST_PAUSE)).await;
                failed = failed.saturating_add(1);
            }
        }
    }

    /// Waits before it is tried again to get a slot: shortly if nobody leads.
    async fn while_others_lead(&self) {
        let until = Instant::now() + backoff::pause(0, TAKEN, TAKEN);
        while Instant::now() < until {
            sleep(backoff::pause(0, SILENT, SILENT)).await;
            let standing = self.following.leader().await;
            let moved = standing.map(|standing| clock::since(self.clock.now(), standing.moved));
            if is_confirmed(&self.following) && moved.is_none_or(|moved| moved >= 2 * SILENT) {
                return;
            }
        }
    }

    async fn follow(&self) -> Failure {
        let connected = Instant::now();
        let waits = |why: &Failure| self.status.off(why);
        let slot = match Slot::make(&self.endpoint, &self.names, waits).await {
            Ok(slot) => slot,
            Err(failure) => return failure,
        };
        let identity = slot.server.identity.clone();
        let verified = Verified::start(self.endpoint.clone(), identity, connected);
        match self.with(slot, verified).await {
            Ok(never) => match never {},
            Err(failure) => failure,
        }
    }

    async fn with(
        &self,
        mut slot: Slot,
        mut verified: Verified,
    ) -> Result<std::convert::Infallible, Failure> {
        let mut at_once = false;
        loop {
            self.status.stands_by();
            let began = self.stand_by(&mut slot, &mut verified, at_once).await?;
            match self.lead(&mut slot, &mut verified, &began).await? {
                Ended::Deposed => at_once = false,
                // The last leader is this one.
                Ended::Unanswered => at_once = true,
            }
        }
    }

    /// Reads and remembers, until nobody leads. Then it begins a term.
    async fn stand_by(
        &self,
        slot: &mut Slot,
        verified: &mut Verified,
        at_once: bool,
    ) -> Result<Began, Failure> {
        let failed = |error: ReplicationError| Failure::of("reading the stream of changes", error);
        let mut at_once = at_once;
        // The round that was known at the last look, and when that look began: whatever is newer
        // has ended since then.
        let (mut seen, mut looked) = (None, None);
        let mut alive = None;
        loop {
            let look = Instant::now();
            let standing = self.following.leader().await;
            let is_known = is_confirmed(&self.following);
            let mut pause = LOOK;
            let mut is_led = false;
            if is_known && let Some(standing) = standing.filter(|it| it.leader.round.term > 0) {
                if seen.is_some_and(|seen| seen < standing.leader.round) {
                    alive = looked.or(alive);
                }
                (seen, looked) = (Some(standing.leader.round), Some(look));
                let silent = clock::since(self.clock.now(), standing.moved);
                if standing.leader.history == slot.history {
                    slot.stream.decoded.forget(standing.leader.low);
                }
                if let Some(alive) = alive {
                    slot.definitions.another_leads(alive);
                }
                let goes_on = standing.leader.history == slot.history
                    && standing.leader.low >= slot.start
                    && !slot.definitions.may_lack(alive);
                let mut patience = SILENT;
                // One that would leave a gap lets another one go first.
                if !goes_on && silent >= SILENT {
                    let others = slot.has_companion(&self.names).await.map_err(failed)?;
                    patience *= 1 + u32::from(others);
                }
                is_led = silent < patience && !at_once;
                pause = patience.saturating_sub(silent).clamp(SHORTEST_LOOK, LOOK);
                self.status.is_ready(is_led && goes_on);
            }
            if is_known && !is_led {
                verified.is_valid().await?;
                match self.begin(slot, alive, at_once).await {
                    Some(began) => return Ok(began),
                    // Redis does not answer. Whoever leads then has to be known first.
                    None => at_once = false,
                }
            }
            let until = look + pause;
            loop {
                tokio::select! {
                    biased;
                    () = sleep_until(until) => break,
                    read = slot.stream.read() => read.map_err(failed)?,
                }
                slot.stream.reply().await.map_err(failed)?;
            }
            slot.stream.reply().await.map_err(failed)?;
            slot.definitions
                .keep_up(&slot.server, slot.stream.transactions)
                .await
                .map_err(failed)?;
            if slot.stream.decoded.len() > KEPT_ONE_BY_ONE {
                let snapshot = slot.snapshot().await.map_err(failed)?;
                slot.stream.decoded.bound(&snapshot);
            }
        }
    }

    /// Begins a term. `None` if Redis does not answer. `alive`: the leader has ended a round since
    /// then. `is_ours`: the leader was this one.
    async fn begin(&self, slot: &mut Slot, alive: Option<Instant>, is_ours: bool) -> Option<Began> {
        let low = if slot.unknown.is_empty() { slot.start } else { Lsn::ZERO };
        let began =
            self.following.begin_following(slot.history, slot.start, low, slot.high).await.ok()?;
        slot.stream.decoded.announce_again();
        if let Some(low) = began.goes_on_from {
            slot.stream.decoded.forget(low);
            // The last leader had announced what was committed before this slot.
            slot.unknown.clear();
            // But not what was redefined just before it ended.
            slot.redefined_unseen |= !is_ours && slot.definitions.may_lack(alive);
        }
        self.status.began(&began);
        Some(began)
    }

    async fn lead(
        &self,
        slot: &mut Slot,
        verified: &mut Verified,
        began: &Began,
    ) -> Result<Ended, Failure> {
        let mut used_until = Instant::now();
        let mut hold = GAP;
        for number in 1.. {
            verified.is_valid().await?;
            let start = Instant::now();
            let mut found = slot.find(&self.clock, self.is_gated).await?;
            // A round says of definitions, too, that what was changed before is announced.
            while slot.definitions.age() > COMPARED {
                found = slot.find(&self.clock, self.is_gated).await?;
            }
            let ended = self.following.follow(&began.term, number, &found.findings()).await;
            let is_used = match ended {
                Ok(RoundEnded::Stands { is_used }) => is_used,
                Ok(RoundEnded::Deposed) => return Ok(Ended::Deposed),
                Err(_) => return Ok(Ended::Unanswered),
            };
            slot.announced(&found);
            let took = clock::since(self.clock.now(), found.began());
            self.status.round(number, &found, took, slot.stream.transactions);
            if is_used {
                used_until = Instant::now() + LINGERS;
            }
            // What is held is looked at again, less and less often.
            hold = if found.held() > 0 && found.is_empty() { (2 * hold).min(IN_USE) } else { GAP };
            let held = (found.held() > 0).then_some(start + hold);
            self.wait(slot, start, held, &mut used_until).await?;
        }
        unreachable!("a number of 64 bits does not end")
    }

    /// Waits for the next round: until something was read, or until it is time.
    async fn wait(
        &self,
        slot: &mut Slot,
        start: Instant,
        held: Option<Instant>,
        used_until: &mut Instant,
    ) -> Result<(), Failure> {
        let failed = |error: ReplicationError| Failure::of("reading the stream of changes", error);
        let read_before = slot.stream.transactions;
        loop {
            let is_used = Instant::now() < *used_until;
            let mut until = start + if is_used { IN_USE } else { IDLE };
            until = held.map_or(until, |held| until.min(held));
            if slot.stream.transactions > read_before && slot.stream.decoded.is_pending() {
                until = until.min(start + GAP);
            }
            tokio::select! {
                biased;
                () = sleep_until(until) => break,
                () = self.wake.notified() => *used_until = Instant::now() + LINGERS,
                read = slot.stream.read() => read.map_err(failed)?,
            }
            slot.stream.reply().await.map_err(failed)?;
        }
        slot.stream.reply().await.map_err(failed)
    }
}

/// Whether this process knows who leads.
fn is_confirmed(following: &Following) -> bool {
    match following {
        Following::Fleet(fleet) => fleet.is_confirmed(),
        Following::Alone(_) => true,
    }
}

impl Status {
    fn began(&self, began: &Began) {
        self.leads(began.term.number());
        if began.goes_on_from.is_none() {
            self.wholesale([Wholesale::Gap]);
        }
    }
}
