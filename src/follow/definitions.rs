//! [`Definitions`]: when the catalogs are compared, and which changes of definitions are still to be
//! announced.

use std::time::Duration;

use tokio::time::Instant;

use super::schema::{Extent, Redefined, Schema};
use super::server::Server;
use crate::postgres::replication::error::ReplicationError;

/// How often the catalogs are compared, whatever the stream shows.
const EVERY: Duration = Duration::from_secs(1);

/// Comparisons that a transaction without lines asks for take at most one part in so many of the time.
/// A temporary table makes such a transaction, and some applications make one for each request.
const SHARE: u32 = 10;

/// How much time they may take at once, after a while without any.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A leader compares the catalogs at least so often. If it has ended a round later than this after a
/// change, it has announced it.
pub(super) const NOTICED_WITHIN: Duration = Duration::from_secs(4);

pub(super) struct Definitions {
    /// As they were compared last.
    schema: Schema,
    /// When they were read first.
    since: Instant,
    /// What has changed since then and is to be announced, and when it was noticed.
    pending: Vec<(Instant, Redefined)>,
    compared: Instant,
    /// How many transactions had been read by then.
    transactions: u64,
    /// The time that comparisons may take, as of the last one.
    credit: Duration,
    is_owed: bool,
}

impl Definitions {
    pub(super) fn new(schema: Schema, since: Instant) -> Definitions {
        Definitions {
            schema,
            since,
            pending: vec![],
            compared: since,
            transactions: 0,
            credit: AT_ONCE,
            is_owed: false,
        }
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Something was read that may be a change of definitions.
    pub(super) fn owe(&mut self) {
        self.is_owed = true;
    }

    /// Compares the catalogs if it is time to. `transactions`: how many have been read.
    pub(super) async fn keep_up(
        &mut self,
        server: &Server,
        transactions: u64,
    ) -> Result<(), ReplicationError> {
        let elapsed = self.compared.elapsed();
        let credit = (self.credit + elapsed / SHARE).min(AT_ONCE);
        if elapsed < EVERY && !(self.is_owed && credit > Duration::ZERO) {
            return Ok(());
        }
        let began = Instant::now();
        // A change of this database's definitions is a transaction in the stream. What is visible
        // now and not read yet is compared when it has been read.
        let is_quiet = transactions == self.transactions && !self.is_owed;
        let extent = if is_quiet { Extent::Server } else { Extent::All };
        if let Some((schema, redefined)) = self.schema.compare(server, extent).await? {
            self.schema = schema;
            if !redefined.is_empty() {
                self.pending.push((began, redefined));
            }
        }
        if extent == Extent::All {
            (self.transactions, self.is_owed) = (transactions, false);
        }
        self.credit = credit.saturating_sub(began.elapsed());
        self.compared = began;
        Ok(())
    }

    /// What is to be announced.
    pub(super) fn pending(&self) -> Redefined {
        let mut all = Redefined::default();
        self.pending.iter().for_each(|(_, redefined)| all.add(redefined));
        all
    }

    /// A round has announced it.
    pub(super) fn announced(&mut self) {
        self.pending.clear();
    }

    /// Another leader has ended a round since `alive`.
    pub(super) fn another_leads(&mut self, alive: Instant) {
        self.pending.retain(|(noticed, _)| *noticed + NOTICED_WITHIN > alive);
    }

    /// How long ago the catalogs were compared.
    pub(super) fn age(&self) -> Duration {
        self.compared.elapsed()
    }

    /// Whether the leader that ended a round after `alive`, and none later that is known, may have
    /// left changes that were there when the definitions were read first.
    pub(super) fn may_lack(&self, alive: Option<Instant>) -> bool {
        alive.is_none_or(|alive| alive < self.since + NOTICED_WITHIN)
    }
}
