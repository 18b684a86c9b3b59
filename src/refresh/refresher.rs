//! [`Refresher`]: the handle of a refresher.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::attempt::Attempt;
use super::check::{CheckReport, ViewCheck};
use super::plan::RefreshPlan;
use super::report::{RefreshOutcome, RefreshReport, SkipReason};
use super::shared::{Closing, Shared, View};
use super::status::ViewStatus;
use super::trigger::Trigger;
use crate::postgres::cancel::LIMIT;
use crate::refresh::postgres::lineage::Lineage;
use crate::refresh::postgres::session::Session;
use crate::refresh::postgres::{RefreshError, RefreshErrorKind, check, state, trigger};
use crate::value::relation;

/// Refreshes materialized views on schedule, and makes cached results that read them stale when
/// their rows have changed.
///
/// Start a refresher in each process of a service, with the same views. At each tick, one process
/// refreshes the view: the first that gets its lock. If that process dies during the refresh,
/// another one takes over.
///
/// `Refresher` is a handle. Clones share one refresher, which ends when the last clone is dropped.
///
/// ```no_run
/// use std::time::Duration;
///
/// use larder::QueryCache;
/// use larder::refresh::{MaterializedView, RefreshHook, Refresher};
///
/// # async fn run(pool: deadpool_postgres::Pool) -> Result<(), Box<dyn std::error::Error>> {
/// let cache =
///     QueryCache::builder().namespace("shop").redis("redis://127.0.0.1:6379").build().await?;
/// let daily_revenue = MaterializedView::new("daily_revenue").every(Duration::from_secs(300));
/// let revenue = cache
///     .query("SELECT day, total FROM daily_revenue WHERE region = $1 ORDER BY day")
///     .reads(&daily_revenue);
///
/// let refresher = Refresher::builder(pool.clone())
///     .cache(&cache)
///     .view(daily_revenue.warm(&revenue, ("eu",)))
///     .on_error(RefreshHook::new("log", async |event| {
///         eprintln!("{}", event.error().expect("it is told of errors"));
///         Ok(())
///     }))
///     .start()
///     .await?;
///
/// // From here on, at most five minutes old, and always what the view holds:
/// let rows = revenue.bind("eu").fetch(&pool).await?;
/// # let _ = rows;
/// refresher.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// # What a refresh is
///
/// A refresh is one transaction. It takes an advisory lock that ends with the transaction, sets its
/// timeouts, refreshes the view, and reads how many rows changed. After the commit, and only if
/// rows changed, the view's tag is invalidated in the caches. No session state outlives the
/// transaction, so a refresh works through PgBouncer in transaction mode. The lock is released
/// however the process ends.
///
/// # Consistency
///
/// A refresh that changes rows makes results stale after its commit, as
/// [`invalidate`](crate::QueryCache::invalidate) does. A refresh by a refresher that changes no row
/// makes nothing stale. A refresh by others does in any case: nobody sees afterwards whether rows have
/// changed. If the process is killed between the commit and the invalidation, the refresher of
/// another process detects the refresh at its next [poll](crate::refresh::RefresherBuilder::poll),
/// as it detects refreshes made by others.
#[derive(Clone)]
pub struct Refresher {
    shared: Arc<Shared>,
    /// Dropped with the last handle, which ends the background tasks.
    last: Arc<LastHandle>,
}

impl Refresher {
    pub(super) fn new(shared: Arc<Shared>, tasks: Vec<JoinHandle<()>>) -> Refresher {
        let last = LastHandle { shared: shared.clone(), tasks: Mutex::new(tasks) };
        Refresher { shared, last: Arc::new(last) }
    }

    /// Refreshes one of the refresher's views now, whether or not anything was written, and returns
    /// the report. The outcome is [`Skipped`](RefreshOutcome::Skipped) if the view is already being
    /// refreshed, or if a hook vetoes the refresh.
    ///
    /// # Errors
    ///
    /// What prevented the refresh, and what to do about it. [`Missing`](RefreshErrorKind::Missing)
    /// if the name is none of the refresher's views.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the refresh in PostgreSQL, unless it is being committed already.
    pub async fn refresh_now(&self, view: impl AsRef<str>) -> Result<RefreshReport, RefreshError> {
        let view = self.named(view.as_ref()).await?;
        self.refresh(view, Trigger::Asked).await
    }

    /// Refreshes all of the refresher's views now, in the order of the [plan](Refresher::plan), and
    /// returns the result of each. Views with
    /// [`skip_unchanged`](crate::refresh::MaterializedView::skip_unchanged) are skipped if it is
    /// certain that nothing was written.
    pub async fn refresh_all(&self) -> Vec<Result<RefreshReport, RefreshError>> {
        let layers = match self.order().await {
            Ok(order) => order.layers(),
            // Each attempt below reports the error itself.
            Err(_) => vec![(0..self.shared.views.len()).collect()],
        };
        let mut all = vec![];
        for layer in layers {
            let refreshes = layer.into_iter().map(|at| async move {
                self.refresh(&self.shared.views[at], Trigger::Round).await
            });
            all.extend(join_all(refreshes).await);
        }
        all
    }

    async fn refresh(
        &self,
        view: &Arc<View>,
        trigger: Trigger,
    ) -> Result<RefreshReport, RefreshError> {
        if self.shared.closing() >= Closing::Finishing {
            return Err(RefreshError::closed(view.name()));
        }
        let (started, clock) = (self.shared.clock.wall(), Instant::now());
        match self.shared.attempt(view, trigger, true).await? {
            Attempt::Done(report) => Ok(Arc::unwrap_or_clone(report)),
            Attempt::Busy { holder, .. } => Ok(RefreshReport {
                view: view.name().clone(),
                started,
                duration: clock.elapsed(),
                outcome: RefreshOutcome::Skipped(SkipReason::Busy { holder }),
                warnings: vec![],
            }),
            // A refresh on demand does not wait until it is certain.
            Attempt::Unsettled(_) => Box::pin(self.refresh(view, Trigger::Asked)).await,
        }
    }

    /// Checks for what would prevent a view from being refreshed, or from being refreshed well: a
    /// missing view, a view that was never populated, no usable unique index and why each existing
    /// index is not usable, missing privileges, locks held by other sessions. Findings contain the
    /// SQL that fixes them.
    ///
    /// # Errors
    ///
    /// [`Connection`](RefreshErrorKind::Connection) if PostgreSQL does not answer.
    pub async fn check(&self) -> Result<CheckReport, RefreshError> {
        let mut session = self.session().await?;
        let managed = self.oids(&mut session).await?;
        let managed: Vec<u32> = managed.into_iter().flatten().collect();
        let mut views = vec![];
        for view in &self.shared.views {
            let wanted = view.view.wanted();
            let findings = check::check(&mut session, view.name(), wanted, &managed).await;
            let mut findings =
                findings.map_err(|error| RefreshError::of_postgres(view.name(), error))?;
            findings.extend(self.shared.not_listening());
            views.push(ViewCheck { view: view.name().clone(), findings });
        }
        Ok(CheckReport { views })
    }

    /// The order in which views that are due at the same time are refreshed. It follows the
    /// dependencies that PostgreSQL records: also through plain views, but not through functions.
    ///
    /// # Errors
    ///
    /// [`Connection`](RefreshErrorKind::Connection) if PostgreSQL does not answer.
    pub async fn plan(&self) -> Result<RefreshPlan, RefreshError> {
        let names: Vec<_> = self.shared.views.iter().map(|view| view.name().clone()).collect();
        Ok(RefreshPlan::new(&self.order().await?, &names))
    }

    /// The status of each view, in the order in which the views were added.
    pub fn status(&self) -> Vec<ViewStatus> {
        let not_listening = self.shared.not_listening();
        let status = |view: &Arc<View>| view.status().clone().with(not_listening.clone());
        self.shared.views.iter().map(status).collect()
    }

    /// Installs an event trigger in the database that sends a notification for every refresh, also
    /// for those made by others. [`listen`](crate::refresh::RefresherBuilder::listen) receives
    /// these notifications. A notification that cannot be sent does not fail the refresh.
    /// Installing the trigger again is harmless.
    ///
    /// It creates the event trigger `larder_refresh`, and a function in the schema `larder`. This
    /// needs a superuser, who owns the trigger from then on.
    ///
    /// # Errors
    ///
    /// [`Forbidden`](RefreshErrorKind::Forbidden) if the role is not a superuser. Nothing is
    /// installed then.
    pub async fn install_event_trigger(&self) -> Result<(), RefreshError> {
        trigger::run(&mut self.session().await?, trigger::INSTALL).await
    }

    /// Removes what [`install_event_trigger`](Refresher::install_event_trigger) has installed.
    ///
    /// # Errors
    ///
    /// [`Forbidden`](RefreshErrorKind::Forbidden) if the role is not a superuser. Nothing is
    /// removed then.
    pub async fn remove_event_trigger(&self) -> Result<(), RefreshError> {
        trigger::run(&mut self.session().await?, trigger::REMOVE).await
    }

    /// Ends the refresher, and returns when all of it has ended. No refresh begins any more.
    /// Running refreshes and queued hooks may finish until the
    /// [deadline](crate::refresh::RefresherBuilder::shutdown_deadline); then they are cancelled, in
    /// PostgreSQL too. The pool and the caches stay open.
    ///
    /// Dropping the last handle cancels everything at once, without waiting for its end.
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        let deadline = tokio::time::Instant::now() + shared.shutdown_deadline;
        shared.closing.send_if_modified(|closing| {
            let first = *closing == Closing::Open;
            *closing = (*closing).max(Closing::Finishing);
            first
        });
        let mut tasks = self.last.tasks.lock().await;
        let finished = async {
            over(&mut tasks).await;
            // All tasks have ended, so the remaining permits are held by refreshes on demand.
            let _all = shared.permits.acquire_many(shared.permits_at_all).await;
            for view in &shared.views {
                if let Some(line) = view.line() {
                    line.drain(deadline).await;
                }
            }
        };
        let _ = tokio::time::timeout_at(deadline, finished).await;
        shared.closing.send_replace(Closing::Cancelling);
        shared.views.iter().for_each(|view| view.end_hooks());
        over(&mut tasks).await;
        // Sessions that were dropped while they ran a statement are cancelling it in PostgreSQL.
        let _ = timeout(LIMIT, shared.source.gone()).await;
    }

    /// The view of this name, however it is written. PostgreSQL is asked only for a spelling that
    /// does not show which view it is.
    async fn named(&self, name: &str) -> Result<&Arc<View>, RefreshError> {
        let views = &self.shared.views;
        if let Some(view) = views.iter().find(|view| &**view.name() == name) {
            return Ok(view);
        }
        let canonical = relation::canonical(name);
        if let Some(view) = views.iter().find(|it| relation::canonical(it.name()) == canonical) {
            return Ok(view);
        }
        let mut session = self.session().await?;
        if let Ok(found) = state::find(&mut session, name).await {
            let oids = self.oids(&mut session).await?;
            if let Some(at) = oids.iter().position(|oid| *oid == Some(found.oid)) {
                return Ok(&views[at]);
            }
        }
        let known: Vec<&str> = views.iter().map(|view| &**view.name()).collect();
        let why = format!("it is none of this refresher's views: {}", known.join(", "));
        Err(RefreshError::new(RefreshErrorKind::Missing, name, why))
    }

    async fn session(&self) -> Result<Session, RefreshError> {
        let session = Session::open(&self.shared.source).await;
        session.map_err(|error| RefreshError::connect(self.shared.views[0].name(), error))
    }

    async fn oids(&self, session: &mut Session) -> Result<Vec<Option<u32>>, RefreshError> {
        let names: Vec<_> = self.shared.views.iter().map(|view| view.name().to_string()).collect();
        let version = state::glance(session, &names).await;
        let version = version.map_err(|error| RefreshError::of_postgres(&names[0], error))?;
        Ok(version.into_iter().map(|found| Some(found?.oid)).collect())
    }

    async fn order(&self) -> Result<super::plan::Order, RefreshError> {
        let mut session = self.session().await?;
        let oids = self.oids(&mut session).await?;
        let known: Vec<u32> = oids.iter().copied().flatten().collect();
        let lineage = Lineage::of(&mut session, &known).await;
        let name = self.shared.views[0].name();
        let lineage = lineage.map_err(|error| RefreshError::of_postgres(name, error))?;
        Ok(super::plan::Order::new(oids, &lineage))
    }
}

impl fmt::Debug for Refresher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresher").field("status", &self.status()).finish_non_exhaustive()
    }
}

struct LastHandle {
    shared: Arc<Shared>,
    /// The background tasks that have not been joined yet.
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Joins all tasks. If the future is dropped, tasks that have not ended stay in `tasks`.
async fn over(tasks: &mut Vec<JoinHandle<()>>) {
    while let Some(task) = tasks.last_mut() {
        let _ = task.await;
        tasks.pop();
    }
}

impl Drop for LastHandle {
    fn drop(&mut self) {
        // Background tasks observe this and drop their sessions, which cancels their statements.
        self.shared.closing.send_replace(Closing::Cancelling);
    }
}
