//! One refresh: whether it is due, the transaction, and what follows from it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::basis::Verdict;
use super::event::RefreshEvent;
use super::notes::{Note, SourceSnapshot};
use super::report::{RefreshOutcome, RefreshReport, RowChanges, SkipReason};
use super::shared::{Closing, Shared, View, content_of};
use super::trigger::{PendingReports, Trigger};
use super::view::Mode;
use crate::refresh::postgres::state::ViewVersion;
use crate::refresh::postgres::transaction::{self, LockAttempt, RefreshMode, RefreshTx, Refreshed};
use crate::refresh::postgres::{RefreshError, RefreshErrorKind, check};
use crate::telemetry::trace::Span;

/// What came of an attempt.
pub(super) enum Attempt {
    LeaseOutcome(Arc<RefreshReport>),
    /// Another process is at it.
    Busy {
        holder: Option<String>,
        version: ViewVersion,
    },
    /// Nothing seems to have been written; ask again.
    Unsettled(PendingReports),
}

impl Shared {
    /// An attempt, which ends when it is done or the refresher is to cancel what runs. What came of it
    /// is in the view's status then, and on its way to the hooks. `tell`: whether they are told of a
    /// failure.
    pub(super) async fn attempt(
        self: &Arc<Self>,
        view: &Arc<View>,
        trigger: Trigger,
        tell: bool,
    ) -> Result<Attempt, RefreshError> {
        let name = view.name();
        let permit = tokio::select! {
            biased;
            // Who still waits here has not begun.
            () = self.closes(Closing::Finishing) => return Err(RefreshError::closed(name)),
            permit = self.permits.acquire() => permit,
        };
        // Given back when the hooks' line has the event: the end waits for all permits, and then for
        // the lines.
        let _permit = permit.map_err(|_| RefreshError::closed(name))?;
        let _shown = view.shown_as_refreshing();
        let (started, clock) = (self.clock.wall(), Instant::now());
        let span = Span::refresh(name);
        let attempt = tokio::select! {
            biased;
            attempt = span.around(self.try_once(view, &trigger, started, clock)) => attempt,
            // The attempt is dropped, and with it the session, which cancels what it runs.
            () = self.closes(Closing::Cancelling) => Err(RefreshError::closed(name)),
        };
        let outcome = match &attempt {
            Ok(Attempt::LeaseOutcome(report)) if report.rows().is_some() => Ok("refreshed"),
            Ok(Attempt::LeaseOutcome(_)) => Ok("skipped"),
            Ok(Attempt::Busy { .. }) => Ok("busy"),
            Ok(Attempt::Unsettled(_)) => Ok("unsettled"),
            Err(error) => Err(error.kind()),
        };
        match outcome {
            Ok(outcome) => span.ends(outcome, clock.elapsed(), None),
            Err(kind) => span.failed(&kind, clock.elapsed()),
        }
        match &attempt {
            Ok(Attempt::LeaseOutcome(report)) => view.succeeded(report.clone()),
            Ok(Attempt::Busy { .. } | Attempt::Unsettled(_)) => {}
            Err(error) => {
                // Of its end nobody is told: there is no time for it.
                let tell = tell && error.kind() != RefreshErrorKind::Closed;
                view.failed(started, clock.elapsed(), error, tell);
            }
        }
        attempt
    }

    async fn try_once(
        self: &Arc<Self>,
        view: &Arc<View>,
        trigger: &Trigger,
        started: SystemTime,
        clock: Instant,
    ) -> Result<Attempt, RefreshError> {
        let name = view.name();
        let done = |outcome, warnings| {
            Attempt::LeaseOutcome(Arc::new(RefreshReport {
                view: name.clone(),
                started,
                duration: clock.elapsed(),
                outcome,
                warnings,
            }))
        };
        let skipped = |reason| done(RefreshOutcome::Skipped(reason), vec![]);

        let mut tx = match RefreshTx::take(&self.source, name, view.view.limits()).await? {
            LockAttempt::Ours(tx) => tx,
            LockAttempt::Busy { holder, version } => return Ok(Attempt::Busy { holder, version }),
        };
        view.saw(self.clock.wall(), &tx.state.version);
        let note_name = self.note_name(tx.view.oid);
        let last = self.notes.of(&note_name, &tx.state.version.xmin).await;
        if is_done(trigger, last.as_ref(), &tx.state.version) {
            tx.give_up().await?;
            return Ok(skipped(SkipReason::AlreadyDone));
        }

        let mut basis = None;
        if view.view.skip_unchanged {
            let before = last.as_ref().and_then(|last| last.basis.as_ref());
            let examined = self.examine(&mut tx, before, trigger).await;
            let (now, verdict) = examined.map_err(|error| tx.failed(error))?;
            basis = now;
            match verdict {
                Verdict::Changed => {}
                Verdict::Unchanged => {
                    tx.give_up().await?;
                    return Ok(skipped(SkipReason::Unchanged));
                }
                Verdict::Unsettled(pending) => {
                    tx.give_up().await?;
                    return Ok(Attempt::Unsettled(pending));
                }
            }
        }

        // With the lock held, so that in the whole fleet only one is asked, who then refreshes.
        // Between statements the transaction has no snapshot: it keeps nothing from being vacuumed.
        if let Some(reason) = veto(view, started).await {
            tx.give_up().await?;
            return Ok(skipped(SkipReason::Vetoed(reason)));
        }

        let how = how(view.view.mode, &tx);
        let refreshed = match tx.refresh(how).await {
            Ok(refreshed) => refreshed,
            Err(error) => return Err(explained(tx, error).await),
        };
        let rows = rows(how, &tx, &refreshed);
        let note = note(trigger, &tx, last, basis, rows, &refreshed);
        // Before the commit: whoever gets the lock after us finds it. If the commit fails, it is
        // about a state of the view that never comes to be.
        self.notes.write(&note_name, &note).await;

        let (quoted, oid) = (tx.view.quoted.clone(), tx.view.oid);
        // A task of its own: dropped between commit and announcement, nobody here would tell the
        // caches of rows that everybody can read.
        let (shared, this) = (self.clone(), view.clone());
        let committed = tokio::spawn(async move {
            let session = tx.commit().await?;
            this.saw(shared.clock.wall(), &refreshed.version);
            let announced = match rows.any() {
                true => shared.announce(&this, &content_of(oid, &note.xmin)).await,
                false => vec![],
            };
            Ok::<_, RefreshError>((session, announced))
        });
        let committed = committed.await.map_err(|_| RefreshError::closed(name))?;
        let (mut session, mut warnings) = committed?;
        if view.view.analyze
            && rows.any()
            && let Err(error) =
                transaction::analyze(&mut session, &quoted, view.view.limits()).await
        {
            let why = RefreshError::of_postgres(name, error);
            warnings.push(format!("it was refreshed, and then ANALYZE failed: {why}"));
        }
        Ok(done(RefreshOutcome::Refreshed(rows), warnings))
    }

    /// Makes results that read the view stale, in all caches; what could not be announced.
    async fn announce(&self, view: &View, content: &str) -> Vec<String> {
        let (tag, mut warnings) = (self.tag_name(view), vec![]);
        for (at, cache) in self.caches.iter().enumerate() {
            match cache.invalidate([view.view.tag()]).await {
                Ok(()) => self.notes.announced(at, &tag, content).await,
                Err(error) => warnings.push(error.to_string()),
            }
        }
        warnings
    }
}

/// Why a hook will not have it refreshed now. A hook that fails in another way has no say.
async fn veto(view: &View, started: SystemTime) -> Option<String> {
    let event = RefreshEvent::before(view.name().clone(), started);
    view.hooks.ask(&event, &view.on_failure).await.err()
}

/// Whether another process has refreshed the view for this tick: its note says so, or, if there is
/// none about this state of the view, that it is another than well before the tick.
fn is_done(trigger: &Trigger, last: Option<&Note>, now: &ViewVersion) -> bool {
    let Trigger::Tick { tick, before, .. } = trigger else { return false };
    match last {
        Some(last) => last.tick.is_some_and(|done| done >= *tick),
        None => before.as_ref().is_some_and(|before| now.shows_refresh_since(before)),
    }
}

fn how(mode: Mode, tx: &RefreshTx) -> RefreshMode {
    match mode {
        // Nobody can be reading it: that is an error.
        _ if !tx.state.populated => RefreshMode::Plainly,
        Mode::Plain => RefreshMode::Plainly,
        Mode::ConcurrentlyOrPlain if !tx.state.has_usable_index => RefreshMode::Plainly,
        Mode::Concurrently | Mode::ConcurrentlyOrPlain => RefreshMode::Concurrently,
    }
}

fn rows(how: RefreshMode, tx: &RefreshTx, refreshed: &Refreshed) -> RowChanges {
    let [inserted, updated, deleted] = refreshed.rows;
    let (plain, counted) = (how == RefreshMode::Plainly, tx.state.counts);
    RowChanges { inserted, updated, deleted, plain, counted }
}

fn note(
    trigger: &Trigger,
    tx: &RefreshTx,
    last: Option<Note>,
    basis: Option<SourceSnapshot>,
    rows: RowChanges,
    refreshed: &Refreshed,
) -> Note {
    let xmin = refreshed.version.xmin.clone();
    let content = match rows.any() {
        true => xmin.clone(),
        // The rows are those of the state before, which may have been those of an earlier one.
        false => last.map_or_else(|| tx.state.version.xmin.clone(), |last| last.content),
    };
    let tick = match trigger {
        Trigger::Tick { tick, .. } => Some(*tick),
        Trigger::Round | Trigger::Asked => None,
    };
    Note { xmin, tick, changed: rows.any(), content, basis }
}

/// The error with what can be found out about its cause.
async fn explained(mut tx: Box<RefreshTx>, error: RefreshError) -> RefreshError {
    if tx.session.roll_back().await.is_err() {
        return error;
    }
    let name = error.view().to_owned();
    let findings = check::explain(&mut tx.session, &name, error.kind()).await;
    error.with(findings)
}
