//! [`MaterializedView`]: which view to refresh, when, and how.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::hook::HookError;
use super::schedule::Schedule;
use crate::error::WrongSetting;
use crate::postgres::{TlsPool, TransactionPooling};
use crate::query::Query;
use crate::refresh::postgres::check::Wanted;
use crate::refresh::postgres::transaction::Limits;
use crate::value::param::SqlParams;
use crate::value::relation;
use crate::value::tag::Tag;

/// A materialized view to refresh: its name, when to refresh it, and how.
///
/// Give it to a [`Refresher`](crate::refresh::Refresher). Tag the queries that read it, with
/// [`Query::reads`](crate::Query::reads) or with its name.
///
/// ```
/// use larder::refresh::MaterializedView;
/// use std::time::Duration;
///
/// let daily_revenue = MaterializedView::new("reports.daily_revenue")
///     .every(Duration::from_secs(300))
///     .jitter(Duration::from_secs(10))
///     .lock_timeout(Duration::from_secs(2))
///     .skip_unchanged();
/// assert_eq!(daily_revenue.name(), "reports.daily_revenue");
/// ```
///
/// Settings are checked when the refresher is [started](crate::refresh::RefresherBuilder::start).
#[derive(Clone)]
#[must_use = "a view is refreshed by the refresher that it is given to"]
pub struct MaterializedView {
    pub(super) name: Arc<str>,
    when: When,
    #[cfg(feature = "cron")]
    time_zone: Option<String>,
    pub(super) jitter: Duration,
    pub(super) mode: Mode,
    lock_timeout: Duration,
    statement_timeout: Option<Duration>,
    pub(super) analyze: bool,
    pub(super) skip_unchanged: bool,
    pub(super) created_later: bool,
    pub(super) warm: Vec<Warm>,
}

#[derive(Debug, Clone)]
enum When {
    OnDemand,
    Every(Duration),
    #[cfg(feature = "cron")]
    Cron(String),
}

/// Whether to refresh with `CONCURRENTLY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Concurrently,
    ConcurrentlyOrPlain,
    Plain,
}

/// Runs a query through the cache.
pub(super) type Warm =
    Arc<dyn Fn(TlsPool) -> BoxFuture<'static, Result<(), HookError>> + Send + Sync>;

impl MaterializedView {
    /// The view of this name, written as in SQL: `daily_revenue`, `reports.daily_revenue`,
    /// `"Daily Revenue"`. PostgreSQL resolves the name, by the `search_path` of the refresher's
    /// connections, and quotes it.
    pub fn new(name: impl Into<Arc<str>>) -> MaterializedView {
        MaterializedView {
            name: name.into(),
            when: When::OnDemand,
            #[cfg(feature = "cron")]
            time_zone: None,
            jitter: Duration::ZERO,
            mode: Mode::Concurrently,
            lock_timeout: Duration::from_secs(5),
            statement_timeout: None,
            analyze: false,
            skip_unchanged: false,
            created_later: false,
            warm: vec![],
        }
    }

    /// The view may not exist yet when the refresher is started, because a migration is about to create
    /// it. Until then its refreshes fail with [`Missing`](crate::refresh::RefreshErrorKind::Missing), which
    /// hooks, [`status`](crate::refresh::Refresher::status) and metrics show, and it is followed from the
    /// moment it exists.
    ///
    /// # Default
    ///
    /// The view must exist: [`start`](crate::refresh::RefresherBuilder::start) fails if it does not. A name
    /// that is misspelt would otherwise be seen only by whoever looks at the status. A view that is dropped
    /// and created again while the refresher runs is no error either way.
    pub fn created_later(mut self) -> Self {
        self.created_later = true;
        self
    }

    /// Refreshes the view once in each interval: at the multiples of the interval since 1970-01-01
    /// 00:00 UTC, so that all processes of a service agree on the ticks. From 1 millisecond to 10
    /// years.
    ///
    /// If a refresh takes longer than the interval, the ticks that pass meanwhile are skipped.
    /// After a pause of the process or the machine, the view is refreshed once, however many ticks
    /// have passed.
    ///
    /// # Default
    ///
    /// No schedule, neither this nor a cron expression: the view is refreshed [on
    /// demand](crate::refresh::Refresher::refresh_now).
    pub fn every(mut self, interval: Duration) -> Self {
        self.when = When::Every(interval);
        self
    }

    /// Refreshes the view by a cron expression of five fields, or of six with the seconds first:
    /// `"0 */5 * * * *"` is every five minutes, `"30 2 * * mon-fri"` half past two on working days.
    /// The times are those of the [`time_zone`](MaterializedView::time_zone).
    ///
    /// When clocks change for daylight saving, a time of day that is skipped is due right after the
    /// gap, and one that comes twice is due once. Intervals (`*/5`) go on regularly.
    #[cfg(feature = "cron")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cron")))]
    pub fn cron(mut self, expression: impl Into<String>) -> Self {
        self.when = When::Cron(expression.into());
        self
    }

    /// The time zone of the cron expression, by its IANA name, such as `Europe/Berlin`.
    ///
    /// # Default
    ///
    /// UTC
    #[cfg(feature = "cron")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cron")))]
    pub fn time_zone(mut self, zone: impl Into<String>) -> Self {
        self.time_zone = Some(zone.into());
        self
    }

    /// Delays each scheduled refresh by a random time up to this, so that not all views and all
    /// processes use PostgreSQL at the same time. Must be less than the interval.
    ///
    /// # Default
    ///
    /// Zero
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Refreshes the view `CONCURRENTLY`: meanwhile, readers go on reading the old rows. This is
    /// the default.
    ///
    /// It needs a unique index on plain columns. Without one the refresh fails, and the error says
    /// what to create. A view that was never populated is first populated by a plain refresh, which
    /// blocks no reader, since such a view cannot be read.
    pub fn concurrently(mut self) -> Self {
        self.mode = Mode::Concurrently;
        self
    }

    /// Refreshes the view `CONCURRENTLY` if it has the index for that, and otherwise plainly.
    /// Readers wait while a plain refresh runs.
    pub fn or_plain(mut self) -> Self {
        self.mode = Mode::ConcurrentlyOrPlain;
        self
    }

    /// Always refreshes the view plainly. Readers wait while it runs, and each refresh makes all
    /// dependent results stale. Where most rows change, it costs less than a concurrent refresh.
    pub fn plain(mut self) -> Self {
        self.mode = Mode::Plain;
        self
    }

    /// How long a refresh waits for the locks it needs. While a plain refresh waits, all new
    /// readers queue behind it.
    ///
    /// # Default
    ///
    /// 5 seconds
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// How long the refresh itself may take. If it is cancelled, the old rows stay.
    ///
    /// # Default
    ///
    /// The setting of the connection's role, database or server: usually no limit.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = Some(timeout);
        self
    }

    /// Runs `ANALYZE` after each refresh that changed rows, so that PostgreSQL plans with new
    /// statistics at once. If it fails, the report contains a warning.
    ///
    /// # Default
    ///
    /// Off: autovacuum analyzes the view some time later.
    pub fn analyze(mut self) -> Self {
        self.analyze = true;
        self
    }

    /// Skips scheduled refreshes while nothing was written to what the view reads (tables, their
    /// partitions, the tables that row-level policies read, and rows of the materialized views
    /// below), and while nothing was defined anew that its rows depend on.
    ///
    /// # Writes
    ///
    /// The check compares PostgreSQL's write counters, and these are late: a session may report a
    /// write 10 seconds after it, or only after the next statement that keeps it busy. So equal
    /// counters are trusted only when no session can have unreported writes from before the tick.
    /// This may take 12 seconds after a tick. If some seconds later a session still may have
    /// unreported writes, the view is refreshed.
    ///
    /// # Definitions
    ///
    /// These count for the relations that the view reads: the queries of plain views, row-level
    /// policies and whom they apply to, owners and the roles they are members of, partitions and
    /// children, names and types of columns. These count in the whole database, since PostgreSQL
    /// does not record what a function calls whose body is text: functions, aggregates, operators
    /// and their classes, casts, types, domains, enums, collations, text search configurations and
    /// dictionaries, extensions. So a new function causes one refresh, whether or not the view
    /// calls it. Settings such as the time zone count as they are in the connection that refreshes:
    /// `ALTER ROLE … SET` applies to connections that are made later.
    ///
    /// # What is always refreshed
    ///
    /// Where changes cannot be detected, the view is refreshed at each tick as if this was not set,
    /// and [`check`](crate::refresh::Refresher::check) reports it. This is the case if the view, or
    /// a row-level policy that applies to it, calls functions whose result may change by itself
    /// (`now()`, or STABLE and VOLATILE functions of one's own), if it reads foreign tables or
    /// system catalogs, if `track_counts` is off, if the role lacks `pg_read_all_stats`, or if the
    /// server is older than PostgreSQL 15.
    ///
    /// # What is not detected
    ///
    /// - what an `IMMUTABLE` function reads, contrary to its declaration: rows of tables, settings
    ///   of one's own
    /// - what lies outside of the database: libraries of functions in C, the files of dictionaries
    ///   and time zones. A restart of the server counts as a change.
    /// - writes of a superuser's session that has turned `track_counts` off, and changes that a
    ///   superuser makes to catalogs by `UPDATE`
    /// - for up to a minute, writes that a session could not report because another one was
    ///   reporting about the same table at that moment
    ///
    /// # Default
    ///
    /// Off: each tick refreshes the view.
    pub fn skip_unchanged(mut self) -> Self {
        self.skip_unchanged = true;
        self
    }

    /// Runs a query after each refresh that changed rows, so that its result is in the cache before
    /// the first read. May be called several times; the queries run in this order.
    ///
    /// `query` should be tagged with this view, since the refresh has just made its results stale.
    /// It runs on the refresher's pool, as a hook named `warm`. Its failures are reported like
    /// those of a hook.
    pub fn warm<P>(mut self, query: &Query, params: P) -> Self
    where
        P: SqlParams + Clone + Send + Sync + 'static,
    {
        let query = query.clone();
        self.warm.push(Arc::new(move |source| {
            let (query, params) = (query.clone(), params.clone());
            Box::pin(async move {
                // Only the message of the error itself: PostgreSQL's error, its source, may quote
                // values.
                let source = TransactionPooling::new(source);
                let warmed = query.params(params).fetch(&source).await;
                warmed.map(drop).map_err(|error| error.to_string().into())
            })
        }));
        self
    }

    /// The name, as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag of the view: its name in one spelling for all that mean the same. `DAILY` and
    /// `"daily"` have the tag `daily`, and `Public.daily` has the tag `public.daily`.
    ///
    /// A refresh makes stale what has this tag, and also what is tagged with another spelling of
    /// the relation: with its schema or without, in double quotes, in upper case. To do the same by
    /// hand, invalidate this tag; it reaches all queries that [read](Query::reads) the view, under
    /// whatever spelling, but not every text that a query was [tagged](Query::tag) with.
    ///
    /// PostgreSQL is not asked. So a name without a schema is taken for one in `public` as well,
    /// and not for one in another schema of a `search_path`; a refresher knows which it is.
    pub fn tag(&self) -> Tag {
        Tag::from(relation::canonical(&self.name))
    }

    pub(super) fn limits(&self) -> Limits {
        Limits { lock: self.lock_timeout, statement: self.statement_timeout }
    }

    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            concurrently: self.mode == Mode::Concurrently,
            plain: self.mode == Mode::Plain,
            limits: self.limits(),
            skip_unchanged: self.skip_unchanged,
        }
    }

    /// Checks all settings, and returns the schedule.
    pub(super) fn checked(&self) -> Result<Option<Schedule>, WrongSetting> {
        let wrong = |setting, given: String, allowed: &str| WrongSetting {
            setting,
            given,
            allowed: allowed.to_owned(),
        };
        const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);
        if self.name.trim().is_empty() {
            let allowed = "the name of a materialized view";
            return Err(wrong("name", format!("{:?}", self.name), allowed));
        }
        let timeouts = [
            ("lock_timeout", Some(self.lock_timeout)),
            ("statement_timeout", self.statement_timeout),
        ];
        for (setting, timeout) in timeouts {
            let allowed = "from 1 millisecond to 24 days";
            if timeout.is_some_and(|it| it < Duration::from_millis(1) || it > LONGEST) {
                return Err(wrong(setting, format!("{:?}", timeout.unwrap_or_default()), allowed));
            }
        }
        let schedule = match &self.when {
            When::OnDemand => None,
            When::Every(interval) => Some(Schedule::every(*interval)?),
            #[cfg(feature = "cron")]
            When::Cron(expression) => {
                let zone = self.time_zone.as_deref().unwrap_or("UTC");
                Some(Schedule::cron(expression, zone)?)
            }
        };
        #[cfg(feature = "cron")]
        if self.time_zone.is_some() && !matches!(self.when, When::Cron(_)) {
            let given = format!("{:?}", self.time_zone.as_deref().unwrap_or_default());
            return Err(wrong("time_zone", given, "for a view with a `cron` expression"));
        }
        if self.jitter > Duration::ZERO {
            let now = std::time::SystemTime::now();
            let interval = schedule.as_ref().map(|schedule| schedule.interval(now));
            if interval.is_none_or(|interval| self.jitter >= interval) {
                let allowed = "less than the interval of a schedule";
                return Err(wrong("jitter", format!("{:?}", self.jitter), allowed));
            }
        }
        Ok(schedule)
    }
}

impl AsRef<str> for MaterializedView {
    fn as_ref(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for MaterializedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaterializedView")
            .field("name", &self.name)
            .field("when", &self.when)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Query {
    /// Declares that the query reads a materialized view, by adding the view's
    /// [tag](MaterializedView::tag), and the name as it was given. For a view in the schema
    /// `public`, or without a schema, it adds both spellings. A refresh makes the query's results
    /// stale if it changes the view, however the refresher's name of the view is written, and only
    /// then.
    #[must_use = "setters return the query they changed"]
    pub fn reads(self, view: &MaterializedView) -> Query {
        relation::tags_of_query(&view.name).into_iter().fold(self, Query::tag)
    }
}
