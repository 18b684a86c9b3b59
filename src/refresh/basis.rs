//! What a view's rows were made of, and whether any of that was written to since.

use std::time::Duration;

use tokio_postgres::Error;

use super::notes::Basis;
use super::shared::Shared;
use super::trigger::{Doubt, Trigger};
use crate::refresh::postgres::lineage::Lineage;
use crate::refresh::postgres::sight;
use crate::refresh::postgres::transaction::Turn;
use crate::refresh::postgres::writes::{self, COUNTED_SINCE, Owing, REPORTED_AFTER};

pub(super) enum Verdict {
    Changed,
    Unchanged,
    Unsettled(Doubt),
}

impl Shared {
    /// What the view's rows are about to be made of, and whether it is the same as last time.
    ///
    /// Doubts first, then the counters. The other way round, a session could report between the two:
    /// too late for the counters, and not in doubt any more.
    pub(super) async fn examine(
        &self,
        turn: &mut Turn,
        last: Option<&Basis>,
        trigger: &Trigger,
    ) -> Result<(Option<Basis>, Verdict), Error> {
        let verdict = match (last, trigger.patience()) {
            (Some(last), Some(doubt)) => doubts(turn, last, doubt).await?,
            _ => Verdict::Changed,
        };
        let basis = self.basis(turn).await?;
        let same = last
            .zip(basis.as_ref())
            .is_some_and(|(last, now)| turn.sight.populated && last.digest == now.digest);
        Ok((basis, if same { verdict } else { Verdict::Changed }))
    }

    /// `None` if writes to it cannot be seen.
    async fn basis(&self, turn: &mut Turn) -> Result<Option<Basis>, Error> {
        if turn.sight.version < COUNTED_SINCE || !turn.sight.counts {
            return Ok(None);
        }
        let lineage = Lineage::of(&mut turn.session, &[turn.view.oid]).await?;
        if !lineage.untraceable(turn.view.oid).is_empty() {
            return Ok(None);
        }
        let sources = lineage.sources(turn.view.oid);
        let Some(writes) = writes::read(&mut turn.session, &sources.tables).await? else {
            return Ok(None);
        };
        let mut digest = writes.0;
        for oid in sources.views {
            let (seen, _) = sight::look_again(&mut turn.session, oid).await?;
            // Its rows may be those of an earlier state.
            let note = self.notes.of(&self.note_name(oid), &seen.xmin).await;
            let content = note.map_or(seen.xmin, |note| note.content);
            digest.push_str(&format!(" {oid}={content}"));
        }
        Ok(Some(Basis { digest, read_at: turn.sight.now }))
    }
}

async fn doubts(turn: &mut Turn, last: &Basis, doubt: Option<Doubt>) -> Result<Verdict, Error> {
    let now = turn.sight.now;
    let (first, earlier) = doubt.map_or((now, None), |doubt| (doubt.first, doubt.owing));
    let ago = Duration::from_micros(u64::try_from(now - first).unwrap_or(0));
    let owing = writes::owing(&mut turn.session, last.read_at, ago).await?;
    if owing.is_empty() {
        return Ok(Verdict::Unchanged);
    }
    let owing = match earlier {
        // Each of them was idle in between, and reported.
        Some(earlier) if !Owing::persists(&earlier, &owing) => return Ok(Verdict::Unchanged),
        Some(earlier) => Some(earlier),
        None => (ago >= REPORTED_AFTER).then_some(owing),
    };
    Ok(Verdict::Unsettled(Doubt { first, owing }))
}
