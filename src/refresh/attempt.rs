//! One attempt to refresh a view: decides whether a refresh is due, runs the transaction, and
//! invalidates dependent results.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::basis::Verdict;
use super::event::RefreshEvent;
use super::notes::{Note, SourceSnapshot};
use super::report::{RefreshOutcome, RefreshReport, RowChanges, SkipReason};
use super::shared::{Closing, Shared, View, content_of};
use super::trigger::{PendingReports, Trigger};
use super::watch::Watched;
use crate::refresh::postgres::blocker::RefreshMode;
use crate::refresh::postgres::state::ViewVersion;
use crate::refresh::postgres::transaction::{self, LockAttempt, RefreshTx, Refreshed};
use crate::refresh::postgres::{RefreshError, RefreshErrorKind, check};
use crate::telemetry::trace::Span;
use crate::value::relation::{self, RelationName};

/// The outcome of an attempt.
pub(super) enum Attempt {
    Done(Arc<RefreshReport>),
    /// Another process is refreshing the view.
    Busy {
        holder: Option<String>,
        version: ViewVersion,
    },
    /// The sources seem unchanged, but some sessions may not have reported their writes yet.
    /// Examine them again later.
    Unsettled(PendingReports),
}

impl Shared {
    /// Makes one attempt to refresh the view. It runs until it is complete or the refresher's
    /// shutdown reaches `Closing::Cancelling`. On return, the view's status holds the outcome, and
    /// the event is queued for the hooks. `tell`: whether hooks are notified of a failure.
    pub(super) async fn attempt(
        self: &Arc<Self>,
        view: &Arc<View>,
        trigger: Trigger,
        tell: bool,
    ) -> Result<Attempt, RefreshError> {
        let name = view.name();
        let permit = tokio::select! {
            biased;
            // An attempt that still waits for a permit has not begun, so it ends here.
            () = self.closes(Closing::Finishing) => return Err(RefreshError::closed(name)),
            permit = self.permits.acquire() => permit,
        };
        // Released after the event is in the hooks' queue: `shutdown` waits for all permits first,
        // and then for the queues.
        let _permit = permit.map_err(|_| RefreshError::closed(name))?;
        let _shown = view.shown_as_refreshing();
        let (started, clock) = (self.clock.wall(), Instant::now());
        let span = Span::refresh(name);
        let attempt = tokio::select! {
            biased;
            attempt = span.around(self.try_once(view, &trigger, started, clock)) => attempt,
            // Dropping the attempt drops its session, which cancels the running statement.
            () = self.closes(Closing::Cancelling) => Err(RefreshError::closed(name)),
        };
        let outcome = match &attempt {
            Ok(Attempt::Done(report)) if report.rows().is_some() => Ok("refreshed"),
            Ok(Attempt::Done(_)) => Ok("skipped"),
            Ok(Attempt::Busy { .. }) => Ok("busy"),
            Ok(Attempt::Unsettled(_)) => Ok("unsettled"),
            Err(error) => Err(error.kind()),
        };
        match outcome {
            Ok(outcome) => span.ends(outcome, clock.elapsed(), None),
            Err(kind) => span.failed(&kind, clock.elapsed()),
        }
        match &attempt {
            Ok(Attempt::Done(report)) => view.succeeded(report.clone()),
            Ok(Attempt::Busy { .. } | Attempt::Unsettled(_)) => {}
            Err(error) => {
                // Hooks are not notified of a shutdown: there is no time left to run them.
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
            Attempt::Done(Arc::new(RefreshReport {
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

        // The hooks run while the lock is held, so that in the whole fleet only the process that is
        // about to refresh runs them. Between statements the transaction has no snapshot, so it
        // does not delay vacuum.
        if let Some(reason) = veto(view, started).await {
            tx.give_up().await?;
            return Ok(skipped(SkipReason::Vetoed(reason)));
        }

        let how = view.view.wanted().how(tx.state.populated, tx.state.has_usable_index);
        let (pid, limits) = (tx.state.backend.pid, view.view.limits());
        let statement = tx.state.statement_timeout;
        let shortest = statement.map_or(limits.lock, |statement| statement.min(limits.lock));
        let (refreshed, watched) = self.watch(view, pid, shortest, tx.refresh(how)).await;
        let refreshed = match refreshed {
            Ok(refreshed) => refreshed,
            Err(error) => return Err(explained(tx, view, how, error, watched).await),
        };
        let rows = rows(how, &tx, &refreshed);
        let note = note(trigger, &tx, last, basis, rows, &refreshed);
        // Written before the commit, so that the next holder of the lock finds it. If the commit
        // fails, the note is about a version of the view that never exists.
        self.notes.write(&note_name, &note).await;

        let (quoted, oid) = (tx.view.quoted.clone(), tx.view.oid);
        let relation = RelationName::of(&tx.view.schema, &tx.view.name);
        // A task of its own. If this future were dropped between commit and invalidation, everybody
        // could read the new rows, and this process would not invalidate the caches.
        let (shared, this) = (self.clone(), view.clone());
        let committed = tokio::spawn(async move {
            let session = tx.commit().await?;
            this.saw(shared.clock.wall(), &refreshed.version);
            let announced = if rows.any() {
                shared.announce(&this, &relation, &content_of(oid, &note.xmin)).await
            } else {
                vec![]
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
            let why = check::explain_analyze(&mut session, oid, why).await;
            warnings.push(format!("it was refreshed, and then ANALYZE failed: {why}"));
        }
        Ok(done(RefreshOutcome::Refreshed(rows), warnings))
    }

    /// Makes results that read the view stale, in all caches. Returns a warning for each cache
    /// whose invalidation failed.
    async fn announce(&self, view: &View, relation: &RelationName, content: &str) -> Vec<String> {
        let (names, mut warnings) = (self.names_of(relation), vec![]);
        let tags = relation::tags_of_refresh(view.name(), relation);
        for (at, cache) in self.caches.iter().enumerate() {
            match cache.invalidate(&tags).await.acknowledged() {
                Ok(()) => self.notes.announced(at, &names, content).await,
                Err(error) => warnings.push(error.to_string()),
            }
        }
        warnings
    }
}

/// The reason, if a hook vetoes the refresh. A hook that fails in another way does not prevent it.
async fn veto(view: &View, started: SystemTime) -> Option<String> {
    let event = RefreshEvent::before(view.name().clone(), started);
    view.hooks.ask(&event, &view.on_failure).await.err()
}

/// Whether another process has refreshed the view for this tick, according to its note. If there is
/// no note about the current version, that version is compared with the one from well before the
/// tick.
fn is_done(trigger: &Trigger, last: Option<&Note>, now: &ViewVersion) -> bool {
    let Trigger::Tick { tick, before, .. } = trigger else { return false };
    match last {
        Some(last) => last.tick.is_some_and(|done| done >= *tick),
        None => before.as_ref().is_some_and(|before| now.shows_refresh_since(before)),
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
    let content = if rows.any() {
        xmin.clone()
    } else {
        // The rows are those of the previous version, which may itself have kept the rows of an
        // earlier one.
        last.map_or_else(|| tx.state.version.xmin.clone(), |last| last.content)
    };
    let tick = match trigger {
        Trigger::Tick { tick, .. } => Some(*tick),
        Trigger::Round | Trigger::Asked => None,
    };
    Note { xmin, tick, changed: rows.any(), content, basis }
}

/// Adds to the error what can be found out about its cause.
async fn explained(
    mut tx: Box<RefreshTx>,
    view: &View,
    how: RefreshMode,
    error: RefreshError,
    watched: Watched,
) -> RefreshError {
    let limit = tx.state.statement_timeout;
    let error = match &watched.wait {
        Some(wait) => {
            let by_limit = limit.is_some_and(|limit| watched.took >= limit);
            error.during(&wait.to_string(), wait.findings(), by_limit)
        }
        None => error,
    };
    if tx.session.roll_back().await.is_err() || !error.findings().is_empty() {
        return error;
    }
    let wanted = view.view.wanted();
    let findings = check::explain(&mut tx.session, &tx.view, wanted, how, &error).await;
    error.with(findings)
}
