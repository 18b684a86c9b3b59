//! [`RefresherBuilder`]: the settings of a refresher, and its start.

use std::error::Error as StdError;
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
use crate::credentials::CredentialsProvider;
use crate::error::WrongSetting;
use crate::postgres::TlsPool;
use crate::refresh::postgres::credentials::PostgresCredentials;
use crate::refresh::postgres::listen::{self, Listen};
use crate::refresh::postgres::session::{Session, Source};
use crate::refresh::postgres::{RefreshError, state};
use crate::sync::Mutex;
use crate::telemetry::metrics::{self, Namespaces};
use crate::telemetry::trace;
use crate::value::relation;

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
    listen_credentials: Option<CredentialsProvider<PostgresCredentials>>,
    shutdown_deadline: Duration,
    clock: Clock,
}

impl Refresher {
    /// Settings for a refresher on this pool. Use a [`TlsPool`] where connections must be
    /// encrypted.
    ///
    /// The role of the pool's connections must own the views or, from PostgreSQL 17 on, have
    /// `MAINTAIN` on them. A refresh uses a connection for as long as it runs. Polling for
    /// refreshes made by others, and cancelling a refresh, use one briefly.
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
            listen_credentials: None,
            shutdown_deadline: Duration::from_secs(30),
            clock: Clock::system(),
        }
    }

    /// Adds a view to refresh. May be called several times; the order does not matter.
    pub fn view(mut self, view: MaterializedView) -> Self {
        self.views.push(view);
        self
    }

    /// Adds a cache. When a view changes, the results in the cache that are tagged with it become
    /// stale. May be called several times.
    ///
    /// Processes that share a cache over Redis also agree on who has refreshed which view. Without
    /// such a cache, a process has only PostgreSQL's catalog. It then considers a view refreshed
    /// for the current tick if anybody has refreshed it since 10 seconds before the tick, or since
    /// half the interval before it if that is less. And `skip_unchanged` knows only of the
    /// refreshes made by this process.
    ///
    /// The refresher keeps the cache running when all other handles to it are dropped.
    ///
    /// # Default
    ///
    /// None: views are refreshed, and nothing is invalidated.
    pub fn cache(mut self, cache: &QueryCache) -> Self {
        self.caches.push(cache.clone());
        self
    }

    /// How many views may be refreshed at the same time. Each refresh uses one connection of the
    /// pool.
    ///
    /// # Default
    ///
    /// 2
    pub fn concurrent_refreshes(mut self, refreshes: usize) -> Self {
        self.at_a_time = refreshes;
        self
    }

    /// How often to check whether a view was refreshed by others. One query checks all views, by
    /// reading their rows in `pg_class`. After a refresh that was not made by a refresher, results
    /// become stale with at most this delay. From 10 milliseconds to 1 hour.
    ///
    /// # Default
    ///
    /// 1 second
    pub fn poll(mut self, interval: Duration) -> Self {
        self.poll = interval;
        self
    }

    /// Listens to the event trigger that
    /// [`install_event_trigger`](Refresher::install_event_trigger) has installed in the database,
    /// so that refreshes made by others are detected within milliseconds. This uses a connection of
    /// its own, which must go directly to PostgreSQL: no notification arrives through PgBouncer in
    /// transaction mode. [Polling](RefresherBuilder::poll) goes on, also without the trigger and
    /// while there is no connection.
    ///
    /// If the connection is lost or refused, it is tried again after 0.2 to 10 seconds. An event of
    /// the feature `tracing`, [`ViewStatus::not_listening`](crate::refresh::ViewStatus::not_listening)
    /// and [`check`](Refresher::check) give the reason, such as a wrong password.
    /// [`listen_credentials`](RefresherBuilder::listen_credentials) supplies a password that changes.
    ///
    /// # Default
    ///
    /// Polling only.
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

    /// Sets a closure that is asked for the user and the password of the
    /// [`listen`](RefresherBuilder::listen) connection at every connect, for passwords that are
    /// rotated and for tokens that expire.
    ///
    /// It replaces those of the configuration. It may take up to 10 seconds. If it fails or panics, or
    /// if PostgreSQL refuses the credentials, it is asked again after 0.2 to 10 seconds. The closure's
    /// error is shown, so it must not contain a secret.
    ///
    /// The refreshes themselves use the pool, whose credentials are its own affair. Requests that
    /// cancel a query need none.
    ///
    /// # Default
    ///
    /// The user and the password of the configuration.
    ///
    /// ```no_run
    /// # use larder::refresh::{MaterializedView, PostgresCredentials, Refresher};
    /// # use tokio_postgres::NoTls;
    /// # async fn token() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(pool: deadpool_postgres::Pool) -> Result<(), Box<dyn std::error::Error>> {
    /// let refresher = Refresher::builder(pool)
    ///     .view(MaterializedView::new("daily_revenue"))
    ///     .listen("host=db.internal dbname=shop".parse()?, NoTls)
    ///     .listen_credentials(|| async { Ok(PostgresCredentials::new("shop", token().await?)) })
    ///     .start()
    ///     .await?;
    /// # let _ = refresher;
    /// # Ok(())
    /// # }
    /// ```
    pub fn listen_credentials<C>(
        mut self,
        credentials: impl Fn() -> C + Send + Sync + 'static,
    ) -> Self
    where
        C: Future<Output = Result<PostgresCredentials, Box<dyn StdError + Send + Sync>>>
            + Send
            + 'static,
    {
        self.listen_credentials = Some(CredentialsProvider::new(credentials));
        self
    }

    /// Adds a hook that runs before each refresh, in the one process that is about to make it,
    /// while that process holds the lock. Hooks run in the order in which they were added.
    ///
    /// A hook may [veto](crate::refresh::Veto) the refresh. If it fails in another way, panics or
    /// exceeds its timeout, this is reported and the refresh goes on.
    pub fn before_refresh(mut self, hook: impl Into<RefreshHook>) -> Self {
        self.before.push(hook.into());
        self
    }

    /// Adds a hook that runs after each refresh made by this process: the refresh has been
    /// committed, and dependent results are stale.
    ///
    /// The hooks of one view run one after the other, in the order in which they were added. No
    /// refresh waits for them, not even one of the same view. If 16 events of a view wait for a
    /// slow hook, further events are dropped and counted in the view's
    /// [status](crate::refresh::ViewStatus::hook_failures).
    pub fn after_refresh(mut self, hook: impl Into<RefreshHook>) -> Self {
        self.after.push(hook.into());
        self
    }

    /// Adds a hook that runs when a refresh has failed: once for each tick, not for each retry.
    pub fn on_error(mut self, hook: impl Into<RefreshHook>) -> Self {
        self.on_error.push(hook.into());
        self
    }

    /// How long [`shutdown`](Refresher::shutdown) lets running refreshes and queued hooks go on
    /// before it cancels them.
    ///
    /// # Default
    ///
    /// 30 seconds
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.shutdown_deadline = deadline;
        self
    }

    /// The clock that schedules follow, such as a [`ManualClock`](crate::testing::ManualClock) in
    /// tests. Timeouts for PostgreSQL and hooks, and pauses between retries, follow Tokio's clock.
    ///
    /// # Default
    ///
    /// The system's clock
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// Checks the settings and the names of the views, and starts the refresher.
    ///
    /// The findings of [`check`](Refresher::check) at this moment are emitted as events by the
    /// feature `tracing`. A view that has no usable index, or that is
    /// [created later](crate::refresh::MaterializedView::created_later), does not prevent others from being
    /// refreshed.
    ///
    /// # Errors
    ///
    /// If a setting is out of range, a name cannot be parsed, a relation does not exist or is not a
    /// materialized view, PostgreSQL does not answer, or there is no Tokio runtime. Nothing was executed then.
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
            not_listening: Mutex::default(),
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
        // Read after the look. A tick between the two would find the view as another process had
        // refreshed it for that tick, and no earlier version to compare it with.
        let from = shared.clock.wall();
        for view in &shared.views {
            view.done_before(view.schedule.as_ref().and_then(|schedule| schedule.next(from)));
        }
        let mut tasks = vec![runtime.spawn(follow::run(shared.clone(), followed))];
        if let Some(listen) = self.listen {
            let listening = follow::listen(shared.clone(), listen, self.listen_credentials);
            tasks.push(runtime.spawn(listening));
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

    /// Checks that each name is that of a materialized view, or of nothing yet. Returns the name of
    /// the database.
    async fn check_names(&self, source: &Source) -> Result<String, StartError> {
        let first = &self.views[0].name;
        let session = Session::open(source).await;
        let mut session = session.map_err(|error| RefreshError::connect(first, error))?;
        let (mut oids, mut names) = (vec![], vec![]);
        for view in &self.views {
            let name = relation::canonical(&view.name);
            if names.contains(&name) {
                return Err(given_before(&view.name, &name));
            }
            names.push(name);
            match state::find(&mut session, &view.name).await {
                Ok(found) => {
                    let found = found.materialized(&view.name)?;
                    if oids.contains(&found.oid) {
                        return Err(given_before(&view.name, &found.quoted));
                    }
                    oids.push(found.oid);
                }
                // A migration is about to create the view. A name that cannot be parsed never exists.
                Err(error) if error.is_absent() && view.created_later => {}
                Err(error) if error.is_absent() => return Err(StartError::missing(error)),
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
        let namespaces =
            Namespaces::of(self.caches.iter().map(|cache| cache.inner.namespace.as_str()));
        View::new(view.clone(), schedule, hooks, namespaces, runtime)
    }
}

fn given_before(view: &str, relation: &str) -> StartError {
    let wrong = WrongSetting {
        setting: "view",
        given: format!("{relation}, which was given before"),
        allowed: "each materialized view once".to_owned(),
    };
    StartError::of_view(view, wrong)
}

/// Time limit for a query that warms the cache: the default limit of a load.
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
