//! What a view's rows are computed from, and whether any of it was written to or defined anew since.

use std::time::Duration;

use tokio_postgres::Error;

use super::notes::SourceSnapshot;
use super::shared::Shared;
use super::trigger::{PendingReports, Trigger};
use crate::refresh::postgres::lineage::Lineage;
use crate::refresh::postgres::transaction::RefreshTx;
use crate::refresh::postgres::writes::{self, COUNTED_SINCE, REPORTED_AFTER, UnreportedSession};
use crate::refresh::postgres::{definitions, state};

pub(super) enum Verdict {
    Changed,
    Unchanged,
    Unsettled(PendingReports),
}

impl Shared {
    /// Reads what the view's rows will be computed from, and decides whether it is the same as last
    /// time.
    ///
    /// Pending reports are read first, then the counters. In the other order, a session could
    /// report between the two: too late for the counters, and no longer pending.
    pub(super) async fn examine(
        &self,
        tx: &mut RefreshTx,
        last: Option<&SourceSnapshot>,
        trigger: &Trigger,
    ) -> Result<(Option<SourceSnapshot>, Verdict), Error> {
        let verdict = match (last, trigger.patience()) {
            (Some(last), Some(pending)) => pending_reports(tx, last, pending).await?,
            _ => Verdict::Changed,
        };
        let basis = self.basis(tx).await?;
        let same = last
            .zip(basis.as_ref())
            .is_some_and(|(last, now)| tx.state.populated && last.digest == now.digest);
        Ok((basis, if same { verdict } else { Verdict::Changed }))
    }

    /// What the view's rows are computed from; `None` if changes of it cannot be detected.
    async fn basis(&self, tx: &mut RefreshTx) -> Result<Option<SourceSnapshot>, Error> {
        if tx.state.server_version < COUNTED_SINCE || !tx.state.counts {
            return Ok(None);
        }
        let lineage = Lineage::of(&mut tx.session, &[tx.view.oid]).await?;
        if !lineage.untraceable(tx.view.oid).is_empty() {
            return Ok(None);
        }
        let scanned = lineage.scanned(tx.view.oid);
        let definitions = definitions::read(&mut tx.session, tx.view.oid, scanned).await?;
        let Some(definitions) = definitions else { return Ok(None) };
        let sources = lineage.sources(tx.view.oid);
        let Some(writes) = writes::read(&mut tx.session, &sources.tables).await? else {
            return Ok(None);
        };
        // All of it is read before the refresh reads the rows. What is changed in between makes the
        // digest of the next tick another one. So does a definition that names other tables than
        // those in `lineage`: the digest contains which tables were looked at.
        let mut digest = format!("{} {definitions}", writes.0);
        for oid in sources.views {
            let (version, _) = state::look_again(&mut tx.session, oid).await?;
            // Its rows may be those of an earlier version.
            let note = self.notes.of(&self.note_name(oid), &version.xmin).await;
            let content = note.map_or(version.xmin, |note| note.content);
            digest.push_str(&format!(" {oid}={content}"));
        }
        Ok(Some(SourceSnapshot { digest, read_at: tx.state.now }))
    }
}

async fn pending_reports(
    tx: &mut RefreshTx,
    last: &SourceSnapshot,
    pending: Option<PendingReports>,
) -> Result<Verdict, Error> {
    let now = tx.state.now;
    let (first, earlier) =
        pending.map_or((now, None), |pending| (pending.first, pending.unreported));
    let ago = Duration::from_micros(u64::try_from(now - first).unwrap_or(0));
    let unreported = writes::unreported(&mut tx.session, last.read_at, ago).await?;
    if unreported.is_empty() {
        return Ok(Verdict::Unchanged);
    }
    let unreported = match earlier {
        // Each of them was idle in between, and reported then.
        Some(earlier) if !UnreportedSession::persists(&earlier, &unreported) => {
            return Ok(Verdict::Unchanged);
        }
        Some(earlier) => Some(earlier),
        None => (ago >= REPORTED_AFTER).then_some(unreported),
    };
    Ok(Verdict::Unsettled(PendingReports { first, unreported }))
}
