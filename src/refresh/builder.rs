//! [`RefresherBuilder`]: settings of a refresher, and its start.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, RwLock, Semaphore, watch};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

use super::events;
use super::follow::{self, Followed};
use super::hook::{Hooks, RefreshHook};
use super::notes::Notes;
use super::plan::Order;
use super::refresher::Refresher;
use super::shared::{Closing, Shared, View};
use super::start_error::StartError;
use super::ticks;
use super::view::MaterializedView;
use crate::cache::QueryCache;
use crate::clock::Clock;
use crate::error::WrongSetting;
use crate::postgres::TlsPool;
use crate::refresh::postgres::listen::{self, Listen};
use crate::refresh::postgres::session::{Session, Source};
use crate::refresh::postgres::{RefreshError, state};
use crate::telemetry::metrics;
use crate::telemetry::trace;

/// Settings of a [`Refresher`]. Nothing happens before [`start`](RefresherBuilder::start).
#[derive(Clone)]
#[must_use = "nothing is refreshed until the refresher is started"]
pub struct RefresherBuilder {
    pool: TlsPool,
    views: Vec<MaterializedView>,
    caches: Vec<QueryCache>,
    before: Vec<RefreshHook>,
    after: Vec<RefreshHook>,
    on_error: Vec<RefreshHook>,
    at_a_time: usize,
    poll: Duration,
    listen: Option<Listen>,
    shutdown_deadline: Duration,
    clock: Clock,
}

impl Refresher {
    /// Settings for a refresher on this pool; a [`TlsPool`] where connections must be encrypted.
    ///
    /// The role of its connections must own the views, or have `MAINTAIN` on them from PostgreSQL 17
    /// on. A refresh takes a connection for as long as it lasts; looking for refreshes by others, and
    /// cancelling a refresh, takes one for a moment.
    pub fn builder(pool: impl Into<TlsPool>) -> RefresherBuilder {
        RefresherBuilder::new(pool.into())
    }
}

impl RefresherBuilder {
    pub(super) fn new(pool: TlsPool) -> RefresherBuilder {
        RefresherBuilder {
            pool,
            views: vec![],
            caches: vec![],
            before: vec![],
            after: vec![],
            on_error: vec![],
            at_a_time: 2,
            poll: Duration::from_secs(1),
            listen: None,
            shutdown_deadline: Duration::from_secs(30),
            clock: Clock::system(),
        }
    }

    /// A view to be refreshed. May be called several times; the order does not matter.
    pub fn view(mut self, view: MaterializedView) -> Self {
        self.views.push(view);
        self
    }

    /// A cache whose results are made stale when a view changes: those that are tagged with it. May
    /// be called several times.
    ///
    /// Through a cache that is shared over Redis the processes of a service also agree on who has
    /// refreshed what. Without one, a process tells from PostgreSQL's catalog alone that another has
    /// refreshed a view for the tick that has come: when it was refreshed since 10 seconds before the
    /// tick, or half the interval if that is less, by whomever. And `skip_unchanged` knows of this
    /// process's own refreshes only.
    ///
    /// The refresher keeps the cache from ending with its last handle.
    ///
    /// # Default
    ///
    /// None: views are refreshed, and that is all.
    pub fn cache(mut self, cache: &QueryCache) -> Self {
        self.caches.push(cache.clone());
        self
    }

    /// How many views may be refreshed at a time. Each takes a connection of the pool for as long.
    ///
    /// # Default
    ///
    /// 2
    pub fn concurrent_refreshes(mut self, refreshes: usize) -> Self {
        self.at_a_time = refreshes;
        self
    }

    /// How often to look whether somebody else has refreshed a view: one query for all of them,
    /// which reads their rows in `pg_class`. It is the longest delay with which results become stale
    /// after a refresh that was not made by a refresher. From 10 milliseconds to 1 hour.
    ///
    /// # Default
    ///
    /// 1 second
    pub fn poll(mut self, interval: Duration) -> Self {
        self.poll = interval;
        self
    }

    /// Listens to the event trigger that
    /// [`install_event_trigger`](Refresher::install_event_trigger) has put into the database: then a
    /// refresh by somebody else is noticed within milliseconds. It takes a connection of its own,
    /// straight to PostgreSQL: through PgBouncer in transaction mode nothing is heard. While there is
    /// none, and without the trigger, [polling](RefresherBuilder::poll) goes on.
    ///
    /// # Default
    ///
    /// Polling alone.
    pub fn listen<C>(mut self, config: Config, tls: C) -> Self
    where
        C: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        C::Stream: Send,
        C::TlsConnect: Send,
        <C::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        self.listen = Some(listen::over(config, tls));
        self
    }

    /// A hook to be asked before a refresh, by the one process that is about to make it, while it has
    /// the right to. It may [veto](crate::refresh::Veto) it. One that fails in another way, panics or does not
    /// answer in time is reported, and the refresh goes on. Hooks are asked in the order in which they
    /// were given.
    pub fn before_refresh(mut self, hook: impl Into<RefreshHook>) -> Self {
        self.before.push(hook.into());
        self
    }

    /// A hook to be told of each refresh that this process has made, after it was committed and
    /// dependent results were made stale.
    ///
    /// The hooks of one view run one after the other, in the order given, and no refresh waits for
    /// them, not even of the same view. If 16 events of a view wait for a slow hook, further ones
    /// are left out and counted in its [status](crate::refresh::ViewStatus::hook_failures).
    pub fn after_refresh(mut self, hook: impl Into<RefreshHook>) -> Self {
        self.after.push(hook.into());
        self
    }

    /// A hook to be told of each refresh that failed: once for each tick, not of each new try.
    pub fn on_error(mut self, hook: impl Into<RefreshHook>) -> Self {
        self.on_error.push(hook.into());
        self
    }

    /// How long [`shutdown`](Refresher::shutdown) lets running refreshes and waiting hooks go on
    /// before it cancels them.
    ///
    /// # Default
    ///
    /// 30 seconds
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.shutdown_deadline = deadline;
        self
    }

    /// The clock that schedules go by: a [`ManualClock`](crate::testing::ManualClock) in tests. Waiting for
    /// PostgreSQL, for hooks and between tries goes by Tokio's.
    ///
    /// # Default
    ///
    /// The system's
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// Checks the settings and the names, and begins.
    ///
    /// What [`check`](Refresher::check) finds at this moment is told as events of the feature
    /// `tracing`; a view that is missing or has no usable index does not keep others from being
    /// refreshed.
    ///
    /// # Errors
    ///
    /// A setting out of range, a name that cannot be read, a relation that is no materialized view,
    /// a PostgreSQL that does not answer, no Tokio runtime around. Nothing was executed then.
    pub async fn start(self) -> Result<Refresher, StartError> {
        let runtime = Handle::try_current().map_err(|_| StartError::no_runtime())?;
        self.check_settings()?;
        let source = Source::new(self.pool.clone());
        let database = self.check_names(&source).await?;
        let mut views = vec![];
        for view in &self.views {
            let schedule = view.checked();
            let schedule = schedule.map_err(|wrong| StartError::of_view(&view.name, wrong))?;
            views.push(self.line_up(view, schedule, &runtime));
        }
        let shared = Arc::new(Shared {
            notes: Notes::new(self.caches.iter().map(QueryCache::shared_tier).collect()),
            source,
            caches: self.caches,
            views,
            clock: self.clock,
            permits: Semaphore::new(self.at_a_time),
            permits_at_all: self.at_a_time as u32,
            order: RwLock::new(Arc::new(Order::default())),
            database,
            closing: watch::Sender::new(Closing::Open),
            look: Arc::new(Notify::new()),
            poll: self.poll,
            shutdown_deadline: self.shutdown_deadline,
        });
        metrics::describe();
        for cache in &shared.caches {
            let views = Arc::downgrade(&shared);
            cache.inner.collector.add(Box::new(move || Some(views.upgrade()?.published())));
        }
        let mut followed = Followed::new(&shared);
        let looked = followed.look(&shared).await;
        looked.map_err(|error| RefreshError::connect(&shared.views[0].view.name, error))?;
        // After the look: a tick that comes between the two would find what another has made of it,
        // and nothing from before to tell it by.
        let from = shared.clock.wall();
        for view in &shared.views {
            view.done_before(view.schedule.as_ref().and_then(|schedule| schedule.next(from)));
        }
        let mut tasks = vec![runtime.spawn(follow::run(shared.clone(), followed))];
        if let Some(listen) = self.listen {
            tasks.push(runtime.spawn(follow::listen(shared.clone(), listen)));
        }
        for (at, view) in shared.views.iter().enumerate() {
            if let Some(schedule) = view.schedule.clone() {
                tasks.push(runtime.spawn(ticks::run(shared.clone(), at, schedule, from)));
            }
        }
        let refresher = Refresher::new(shared, tasks);
        if trace::warns()
            && let Ok(report) = refresher.check().await
        {
            events::found(&report);
        }
        Ok(refresher)
    }

    fn check_settings(&self) -> Result<(), StartError> {
        let wrong = |setting, given: String, allowed: &str| {
            StartError::from(WrongSetting { setting, given, allowed: allowed.to_owned() })
        };
        if self.views.is_empty() {
            return Err(wrong("view", "not set".to_owned(), "at least one materialized view"));
        }
        if self.at_a_time == 0 || self.at_a_time > 10_000 {
            let given = self.at_a_time.to_string();
            return Err(wrong("concurrent_refreshes", given, "from 1 to 10,000 refreshes"));
        }
        const POLL: std::ops::RangeInclusive<Duration> =
            Duration::from_millis(10)..=Duration::from_secs(60 * 60);
        if !POLL.contains(&self.poll) {
            let given = format!("{:?}", self.poll);
            return Err(wrong("poll", given, "from 10 milliseconds to 1 hour"));
        }
        for view in &self.views {
            view.checked().map_err(|wrong| StartError::of_view(&view.name, wrong))?;
        }
        Ok(())
    }

    /// Whether all names are of materialized views, or of nothing yet; the name of the database.
    async fn check_names(&self, source: &Source) -> Result<String, StartError> {
        let first = &self.views[0].name;
        let session = Session::open(source).await;
        let mut session = session.map_err(|error| RefreshError::connect(first, error))?;
        let mut oids = vec![];
        for view in &self.views {
            match state::find(&mut session, &view.name).await {
                Ok(found) => {
                    let found = found.materialized(&view.name)?;
                    if oids.contains(&found.oid) {
                        return Err(StartError::of_view(
                            &view.name,
                            WrongSetting {
                                setting: "view",
                                given: format!("{}, which was given before", found.quoted),
                                allowed: "each materialized view once".to_owned(),
                            },
                        ));
                    }
                    oids.push(found.oid);
                }
                // A migration may be about to make it. A name that is none never will be.
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let rows = session.query("SELECT current_database()::text", &[]).await;
        let rows = rows.map_err(|error| RefreshError::of_postgres(first, error))?;
        Ok(rows[0].get(0))
    }

    fn line_up(
        &self,
        view: &MaterializedView,
        schedule: Option<super::schedule::Schedule>,
        runtime: &Handle,
    ) -> Arc<View> {
        let warm = view.warm.iter().map(|warm| {
            let (warm, pool) = (warm.clone(), self.pool.clone());
            RefreshHook::new("warm", move |event| {
                let warmed = event.changed().then(|| warm(pool.clone()));
                async move {
                    match warmed {
                        Some(warmed) => warmed.await,
                        None => Ok(()),
                    }
                }
            })
            .timeout(WARM)
        });
        let hooks = Arc::new(Hooks {
            before: self.before.clone(),
            after: warm.chain(self.after.iter().cloned()).collect(),
            error: self.on_error.clone(),
        });
        View::new(view.clone(), schedule, hooks, runtime)
    }
}

/// How long a query may take that warms the cache: as long as a load may by default.
const WARM: Duration = Duration::from_secs(300);

impl fmt::Debug for RefresherBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefresherBuilder")
            .field("views", &self.views)
            .field("concurrent_refreshes", &self.at_a_time)
            .field("poll", &self.poll)
            .finish_non_exhaustive()
    }
}
