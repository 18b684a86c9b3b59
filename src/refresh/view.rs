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
use crate::refresh::postgres::transaction::Limits;
use crate::value::param::SqlParams;
use crate::value::tag::Tag;

/// A materialized view to be refreshed: its name, when, and how.
///
/// Give it to a [`Refresher`](crate::refresh::Refresher), and tag the queries that read it with
/// [`Query::reads`](crate::Query::reads) or by its name.
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
    pub(super) warm: Vec<Warm>,
}

#[derive(Debug, Clone)]
enum When {
    OnDemand,
    Every(Duration),
    #[cfg(feature = "cron")]
    Cron(String),
}

/// Whether `CONCURRENTLY`.
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
    /// The view of this name, as one writes it in SQL: `daily_revenue`, `reports.daily_revenue`,
    /// `"Daily Revenue"`. PostgreSQL resolves it, by the `search_path` of the refresher's
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
            warm: vec![],
        }
    }

    /// Refreshes it once in each interval: at the multiples of it since 1970-01-01 00:00 UTC, so
    /// that all processes of a service agree on when that is. From 1 millisecond to 10 years.
    ///
    /// A refresh that takes longer than the interval is followed by the next tick that is still to
    /// come; those that passed meanwhile are left out. After a pause of the process or the machine,
    /// it is refreshed once, however many ticks have passed.
    ///
    /// # Default
    ///
    /// Neither this nor a cron expression: it is refreshed when
    /// [asked for](crate::refresh::Refresher::refresh_now).
    pub fn every(mut self, interval: Duration) -> Self {
        self.when = When::Every(interval);
        self
    }

    /// Refreshes it by a cron expression, of five fields or of six with the seconds first:
    /// `"0 */5 * * * *"` is every five minutes, `"30 2 * * mon-fri"` half past two on working days.
    /// See [`time_zone`](MaterializedView::time_zone) for whose half past two.
    ///
    /// Where clocks change for daylight saving, a time of day that the change leaves out comes right
    /// after it, and one that comes twice is taken once; intervals (`*/5`) go on regularly.
    #[cfg(feature = "cron")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cron")))]
    pub fn cron(mut self, expression: impl Into<String>) -> Self {
        self.when = When::Cron(expression.into());
        self
    }

    /// The time zone of the cron expression, by its IANA name: `Europe/Berlin`.
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

    /// Waits for a random time up to this after each tick, so that not all views and all processes
    /// come to PostgreSQL at once. Less than the interval.
    ///
    /// # Default
    ///
    /// Zero
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Refreshes it `CONCURRENTLY`: readers go on reading the old rows meanwhile. It needs a unique
    /// index on plain columns; without one the refresh fails and says what to create. A view that was
    /// never populated is populated by a plain refresh first, which nobody can be reading.
    ///
    /// This is the default.
    pub fn concurrently(mut self) -> Self {
        self.mode = Mode::Concurrently;
        self
    }

    /// Refreshes it `CONCURRENTLY` if it has the index for that, and otherwise plainly: readers wait
    /// then until it is done.
    pub fn or_plain(mut self) -> Self {
        self.mode = Mode::ConcurrentlyOrPlain;
        self
    }

    /// Always refreshes it plainly: readers wait until it is done. It costs less than a concurrent
    /// one where most rows change, and makes all dependent results stale each time.
    pub fn plain(mut self) -> Self {
        self.mode = Mode::Plain;
        self
    }

    /// How long a refresh waits for the locks it needs. While a plain one waits, all new readers
    /// wait behind it.
    ///
    /// # Default
    ///
    /// 5 seconds
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// How long the refresh itself may take. The old rows stay if it is cancelled.
    ///
    /// # Default
    ///
    /// What the connection's role, database or server has set: usually no limit.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = Some(timeout);
        self
    }

    /// Runs `ANALYZE` after each refresh that changed rows, so that PostgreSQL plans with the new
    /// numbers at once. One that fails is a warning of the report.
    ///
    /// # Default
    ///
    /// Autovacuum sees to it in its own time.
    pub fn analyze(mut self) -> Self {
        self.analyze = true;
        self
    }

    /// Leaves out scheduled refreshes while nothing was written to what the view reads: tables, their
    /// partitions, and rows of materialized views below.
    ///
    /// PostgreSQL's counters of writes tell, and they are late: a session may report a write 10
    /// seconds after it, or after the next statement it is busy with. So an equal count is believed
    /// only once no session can owe a report from before the tick; a tick's verdict may take 12
    /// seconds for that. If after some further seconds a session still may, the view is refreshed.
    ///
    /// A view is refreshed at each tick as if this was not set, and
    /// [`check`](crate::refresh::Refresher::check) says so, where writes cannot be seen: it calls functions
    /// whose result may change by itself (`now()`, or STABLE and VOLATILE functions of one's own), it
    /// reads foreign tables or system catalogs, `track_counts` is off, the role lacks
    /// `pg_read_all_stats`, or the server is older than PostgreSQL 15. What an `IMMUTABLE` function
    /// reads, against its promise, is not seen; nor are writes of a superuser's session that has
    /// turned `track_counts` off, nor for up to a minute what a session could not report because
    /// another was reporting about the same table at that moment.
    ///
    /// # Default
    ///
    /// Each tick refreshes it.
    pub fn skip_unchanged(mut self) -> Self {
        self.skip_unchanged = true;
        self
    }

    /// Runs a query after each refresh that changed rows, so that its result is in the cache before
    /// anybody asks. May be called several times; they run in this order.
    ///
    /// `query` should be tagged with this view: the refresh has just made its results stale. It runs
    /// on the refresher's pool, as a hook named `warm`; what goes wrong is reported like a hook's.
    pub fn warm<P>(mut self, query: &Query, params: P) -> Self
    where
        P: SqlParams + Clone + Send + Sync + 'static,
    {
        let query = query.clone();
        self.warm.push(Arc::new(move |source| {
            let (query, params) = (query.clone(), params.clone());
            Box::pin(async move {
                // Its message alone: PostgreSQL's own, behind it, may quote values.
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

    /// The tag that a refresh invalidates: the name, as it was given.
    pub fn tag(&self) -> Tag {
        Tag::from(&*self.name)
    }

    pub(super) fn limits(&self) -> Limits {
        Limits { lock: self.lock_timeout, statement: self.statement_timeout }
    }

    /// Its schedule, with all settings checked.
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
    /// Names a materialized view that the query reads: the same as its [tag](MaterializedView::tag).
    /// A refresh that changes the view makes the results stale, and no earlier.
    #[must_use = "setters return the query they changed"]
    pub fn reads(self, view: &MaterializedView) -> Query {
        self.tag(view.tag())
    }
}
