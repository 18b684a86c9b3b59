//! [`Status`]: what a follower does now, and what it has done.

use std::sync::Arc;
use std::time::Duration;

use super::failure::{Failure, FailureKind};
use super::round::{Found, Wholesale};
use crate::sync::Mutex;
use crate::telemetry::counters::{Counters, count, count_bytes, set};
use crate::telemetry::stats::{FollowRole, FollowStats};
use crate::telemetry::trace;
use crate::value::relation::RelationName;

/// Shared by the task of a follower and those who ask.
pub(crate) struct Status {
    state: Mutex<State>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct State {
    stats: FollowStats,
    kind: Option<FailureKind>,
    /// How many transactions of the present slot are counted.
    counted: u64,
}

impl Status {
    pub(super) fn new(counters: Arc<Counters>) -> Status {
        Status { state: Mutex::default(), counters }
    }

    /// It does not lead now.
    fn leads_not(&self) {
        set(&self.counters.follow_leads, 0);
        set(&self.counters.follow_lag_us, 0);
    }

    pub(crate) fn stats(&self) -> FollowStats {
        self.state.lock().stats.clone()
    }

    /// It does not follow now.
    pub(super) fn off(&self, why: &Failure) {
        let (text, word) = (why.to_string(), why.kind.word());
        self.leads_not();
        let mut state = self.state.lock();
        state.stats.role = FollowRole::Off;
        state.stats.is_ready = false;
        state.stats.reason = Some(text.clone());
        state.counted = 0;
        // The same failure is told once, however often it is met.
        let is_new = state.kind.replace(why.kind) != Some(why.kind);
        if !matches!(why.kind, FailureKind::Taken | FailureKind::Waits) {
            state.stats.failures += 1;
            count(&self.counters.follow_failures);
        }
        drop(state);
        if is_new && why.kind != FailureKind::Taken {
            trace::not_followed(word, &text);
        }
    }

    pub(super) fn stands_by(&self) {
        self.leads_not();
        let mut state = self.state.lock();
        state.stats.role = FollowRole::StandsBy;
        (state.stats.reason, state.stats.is_ready) = (None, false);
    }

    /// Whether it would go on without a gap if the leader ended now.
    pub(super) fn is_ready(&self, is_ready: bool) {
        self.state.lock().stats.is_ready = is_ready;
    }

    pub(super) fn leads(&self, term: u64) {
        let mut state = self.state.lock();
        state.stats.role = FollowRole::Leads;
        state.stats.is_ready = false;
        (state.stats.term, state.stats.round) = (term, 0);
        state.kind = None;
        drop(state);
        set(&self.counters.follow_leads, 1);
        trace::leads(term);
    }

    /// A round stands.
    pub(super) fn round(&self, number: u64, found: &Found, took: Duration, transactions: u64) {
        let mut state = self.state.lock();
        state.stats.round = number;
        state.stats.rounds += 1;
        state.stats.lag = took;
        state.stats.held = found.held() as u64;
        state.stats.transactions += transactions.saturating_sub(state.counted);
        state.stats.announced += found.relations.len() as u64;
        state.counted = transactions;
        drop(state);
        let lag = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        set(&self.counters.follow_lag_us, lag);
        count_bytes(&self.counters.followed_relations, found.relations.len());
        if !found.relations.is_empty() {
            trace::followed(
                || {
                    found
                        .relations
                        .iter()
                        .map(RelationName::canonical)
                        .collect::<Vec<_>>()
                        .join(", ")
                },
                number,
            );
        }
        if !found.wholesale.is_empty() {
            self.wholesale(found.wholesale.iter().copied());
        }
    }

    pub(super) fn wholesale(&self, reasons: impl IntoIterator<Item = Wholesale>) {
        for reason in reasons {
            let mut state = self.state.lock();
            let (stats, counters) = (&mut state.stats, &self.counters);
            let (here, counter) = match reason {
                Wholesale::Gap => (&mut stats.wholesale_gaps, &counters.followed_gaps),
                Wholesale::Unseen => (&mut stats.wholesale_unseen, &counters.followed_unseen),
                Wholesale::Unnamed => (&mut stats.wholesale_unnamed, &counters.followed_unnamed),
                Wholesale::Unreadable => {
                    (&mut stats.wholesale_unreadable, &counters.followed_unreadable)
                }
                Wholesale::Definition => {
                    (&mut stats.wholesale_definitions, &counters.followed_definitions)
                }
            };
            *here += 1;
            count(counter);
            drop(state);
            trace::followed_wholesale(reason.word());
        }
    }
}
