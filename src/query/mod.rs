//! [`Query`]: SQL with its policy, and the ways to ask it.

mod bound;
pub(crate) mod wrapped;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::bound::Bound;

use crate::cache::QueryCache;
use crate::cache::config::QueryConfig;
use crate::cache::inner::Inner;
use crate::cache::read::{Loader, Read};
use crate::error::WrongSetting;
use crate::error::{BoxError, Error};
use crate::policy::{Negative, Settings};
use crate::postgres::Source;
use crate::rows::Rows;
use crate::telemetry::counters::{QueryCounters, check_name};
use crate::value::key::{CacheKey, Digest, KeyEncoder, Shape};
use crate::value::param::{Bind, Param, Params};
use crate::value::tag::{Dependencies, Tag, Tagged};

/// A query that is answered from the cache: its SQL, what else names its results, and how long they
/// live.
///
/// Make one per query and keep it. There are three ways to ask it:
///
/// - [`fetch`](Query::fetch) runs it on a pool and gives [`Rows`];
/// - [`wrap`](Query::wrap) puts it around a function that runs it and gives a value of one's own;
/// - [`load`](Query::load) does that for one call.
///
/// # Consistency
///
/// A result is answered from the cache for as long as its time to live, and until one of its
/// [tags](Query::tag) is invalidated. What the query reads must not depend on anything but its SQL,
/// its parameters and its [`scope`](Query::scope), and the load must not run inside an older
/// transaction: it would see the data as of that one's beginning.
#[derive(Clone)]
pub struct Query {
    cache: QueryCache,
    sql: Arc<str>,
    scope: Option<Arc<str>>,
    schema: u32,
    name: Option<Arc<str>>,
    tags: Vec<Tag>,
    settings: Settings,
    /// Made at the first use, when no setter can follow any more.
    prepared: OnceLock<Result<Prepared, Error>>,
}

#[derive(Clone)]
struct Prepared {
    digest: Digest,
    config: Arc<QueryConfig>,
}

impl QueryCache {
    /// A query to be answered from this cache. Nothing runs until a read of it is awaited.
    ///
    /// Make it once and use it many times: the SQL is hashed at its first use.
    pub fn query(&self, sql: impl Into<Arc<str>>) -> Query {
        Query::new(self.clone(), sql.into())
    }

    /// Makes all results of a query stale, whatever their parameters, in the
    /// [scope](Query::scope) and [schema version](Query::schema_version) that it has.
    ///
    /// Consistency, cancellation and cost are those of [`invalidate`](QueryCache::invalidate).
    ///
    /// # Errors
    ///
    /// Those of [`invalidate`](QueryCache::invalidate), and
    /// [`ErrorKind::Setting`](crate::ErrorKind::Setting) if the query has one out of range.
    pub async fn invalidate_query(&self, query: &Query) -> Result<(), Error> {
        let slot = query.prepared()?.digest.slot();
        self.invalidate_cell(slot).await
    }
}

impl Query {
    fn new(cache: QueryCache, sql: Arc<str>) -> Query {
        Query {
            cache,
            sql,
            scope: None,
            schema: 0,
            name: None,
            tags: vec![],
            settings: Settings::default(),
            prepared: OnceLock::new(),
        }
    }

    fn set(mut self, change: impl FnOnce(&mut Query)) -> Query {
        change(&mut self);
        self.prepared = OnceLock::new();
        self
    }

    /// What the query is called where its numbers are shown: in
    /// [`query_stats`](QueryCache::query_stats), metrics and spans. Queries of the same name are
    /// counted together. 1 to 64 bytes, without control characters, and nothing that must not be
    /// seen there: best a word of the program's own, such as `user stats`.
    ///
    /// It is no part of what names a result.
    ///
    /// # Default
    ///
    /// The first 16 digits of a hash of namespace and SQL, the same in all processes and whatever
    /// the [scope](Query::scope) and [schema version](Query::schema_version).
    #[must_use = "setters return the query they changed"]
    pub fn name(self, name: impl Into<Arc<str>>) -> Query {
        self.set(|query| query.name = Some(name.into()))
    }

    /// Names something that the results depend on: a table, a view, or a word of one's own. May be
    /// called several times. [`QueryCache::invalidate`] of any of them makes the results stale.
    ///
    /// # Default
    ///
    /// None: [`invalidate_query`](QueryCache::invalidate_query), [`clear`](QueryCache::clear) and
    /// the `ttl` end a result.
    #[must_use = "setters return the query they changed"]
    pub fn tag(self, tag: impl Into<Tag>) -> Query {
        self.set(|query| query.tags.push(tag.into()))
    }

    /// How long a result lives, from the end of its load, in both tiers.
    ///
    /// # Default
    ///
    /// The cache's [`ttl`](crate::QueryCacheBuilder::ttl).
    #[must_use = "setters return the query they changed"]
    pub fn ttl(self, ttl: Duration) -> Query {
        self.set(|query| query.settings.ttl = Some(ttl))
    }

    /// How long a copy in this process's memory lives: at most the `ttl`, and never longer than
    /// the entry in Redis that it was read from.
    ///
    /// # Default
    ///
    /// The cache's [`l1_ttl`](crate::QueryCacheBuilder::l1_ttl), or the `ttl` if that is shorter.
    #[must_use = "setters return the query they changed"]
    pub fn l1_ttl(self, l1_ttl: Duration) -> Query {
        self.set(|query| query.settings.l1_ttl = Some(l1_ttl))
    }

    /// The share of the `ttl`, from 0.0 to 0.5, by which lives are shortened at random, so that
    /// results loaded together do not all expire together.
    ///
    /// # Default
    ///
    /// The cache's [`jitter`](crate::QueryCacheBuilder::jitter).
    #[must_use = "setters return the query they changed"]
    pub fn jitter(self, jitter: f64) -> Query {
        self.set(|query| query.settings.jitter = Some(jitter))
    }

    /// How long a load may take, waiting for its turn included. Then it ends with
    /// [`ErrorKind::Deadline`](crate::ErrorKind::Deadline), and for [`fetch`](Query::fetch) on a
    /// pool PostgreSQL is told to cancel it. A caller who joined a load that had begun before runs
    /// the query again, if its own deadline has not passed.
    ///
    /// # Default
    ///
    /// The cache's [`load_deadline`](crate::QueryCacheBuilder::load_deadline).
    #[must_use = "setters return the query they changed"]
    pub fn load_deadline(self, deadline: Duration) -> Query {
        self.set(|query| query.settings.load_deadline = Some(deadline))
    }

    /// The largest result that is stored, in encoded bytes. Larger ones are answered and not
    /// stored, in either tier.
    ///
    /// # Default
    ///
    /// The cache's [`max_value_bytes`](crate::QueryCacheBuilder::max_value_bytes).
    #[must_use = "setters return the query they changed"]
    pub fn max_value_bytes(self, bytes: usize) -> Query {
        self.set(|query| query.settings.max_value_bytes = Some(bytes))
    }

    /// For how long after its `ttl` a result is still served, while a new one is loaded in the
    /// background. The answer says that it is [stale](crate::Answer::staleness).
    ///
    /// What was invalidated is not served that way, unless
    /// [`allow_invalidated`](Query::allow_invalidated) says so.
    ///
    /// # Default
    ///
    /// The cache's [`stale_while_revalidate`](crate::QueryCacheBuilder::stale_while_revalidate).
    #[must_use = "setters return the query they changed"]
    pub fn stale_while_revalidate(self, beyond: Duration) -> Query {
        self.set(|query| query.settings.stale_while_revalidate = Some(beyond))
    }

    /// For how long after its `ttl` a result is still served if the load of a new one fails, in
    /// whatever way. The answer says that it is [stale](crate::Answer::staleness).
    ///
    /// What was invalidated is not served that way, unless
    /// [`allow_invalidated`](Query::allow_invalidated) says so.
    ///
    /// # Default
    ///
    /// The cache's [`stale_if_error`](crate::QueryCacheBuilder::stale_if_error).
    #[must_use = "setters return the query they changed"]
    pub fn stale_if_error(self, beyond: Duration) -> Query {
        self.set(|query| query.settings.stale_if_error = Some(beyond))
    }

    /// Lets [`stale_while_revalidate`](Query::stale_while_revalidate) and
    /// [`stale_if_error`](Query::stale_if_error) serve results that were invalidated, too, or that
    /// cannot be shown not to be: for readers to whom an old answer is better than a late one or
    /// none. Each such answer says [`Staleness::Invalidated`](crate::Staleness::Invalidated).
    ///
    /// # Default
    ///
    /// What was set for the cache; without that, invalidated results are never served.
    #[must_use = "setters return the query they changed"]
    pub fn allow_invalidated(self) -> Query {
        self.set(|query| query.settings.allow_invalidated = Some(true))
    }

    /// How long an empty result lives: no rows; or, of a typed value, what serde writes as null, an
    /// empty sequence, map or text. Never longer than the `ttl`.
    ///
    /// # Default
    ///
    /// The cache's [`negative_ttl`](crate::QueryCacheBuilder::negative_ttl).
    #[must_use = "setters return the query they changed"]
    pub fn negative_ttl(self, ttl: Duration) -> Query {
        self.set(|query| query.settings.negative_ttl = Some(ttl))
    }

    /// Keeps errors of these SQLSTATEs as answers for so long, in this process, so that a query that
    /// is bound to fail is not run for everybody who asks. An invalidation of its tags ends that
    /// like any other answer.
    ///
    /// # Default
    ///
    /// The cache's [`negative_sqlstates`](crate::QueryCacheBuilder::negative_sqlstates).
    #[must_use = "setters return the query they changed"]
    pub fn negative_sqlstates<S: AsRef<str>>(
        self,
        sqlstates: impl IntoIterator<Item = S>,
        ttl: Duration,
    ) -> Query {
        let negative = Negative::new(sqlstates, ttl);
        self.set(|query| query.settings.negative_sqlstates = Some(negative))
    }

    /// Loads a result anew, in the background, before its life ends: the likelier, the less of it
    /// remains and the longer the load takes. Of a popular result hardly anybody waits for a load
    /// then. `beta` above 1 loads earlier, below 1 later; 0 not before the end.
    ///
    /// It is the XFetch rule of Vattani, Chierichetti and Lowenstein, Optimal Probabilistic Cache
    /// Stampede Prevention, PVLDB 8(8), 2015.
    ///
    /// # Default
    ///
    /// The cache's [`early_refresh`](crate::QueryCacheBuilder::early_refresh).
    #[must_use = "setters return the query they changed"]
    pub fn early_refresh(self, beta: f64) -> Query {
        self.set(|query| query.settings.early_refresh = Some(beta))
    }

    /// Separates results that depend on who asks.
    ///
    /// It is needed when the same SQL with the same parameters can have different results: under
    /// row-level security or another role, with another `search_path`, `TimeZone` or other setting
    /// of the session, on another database.
    ///
    /// ```
    /// # use larder::QueryCache;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = QueryCache::builder().build().await?;
    /// let invoices = cache.query("SELECT count(*) FROM invoices");     // row-level security
    /// let of = |tenant: &str| invoices.clone().scope(format!("tenant:{tenant}"));
    /// let seven = of("7").load(|| async { Ok::<_, std::io::Error>(7_i64) }).await?;
    /// let eight = of("8").load(|| async { Ok::<_, std::io::Error>(8_i64) }).await?;
    /// assert_eq!((*seven, *eight), (7, 8));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Default
    ///
    /// None: all who ask share the results.
    #[must_use = "setters return the query they changed"]
    pub fn scope(self, scope: impl Into<Arc<str>>) -> Query {
        self.set(|query| query.scope = Some(scope.into()))
    }

    /// The number of the schema that results are of. Count it up when the tables, or the Rust type
    /// of the result, change their meaning: a deployment then neither reads nor overwrites what its
    /// predecessor, perhaps still running, has stored.
    ///
    /// # Default
    ///
    /// 0
    #[must_use = "setters return the query they changed"]
    pub fn schema_version(self, version: u32) -> Query {
        self.set(|query| query.schema = version)
    }

    /// Binds `$1`; further parameters are bound to what this returns.
    pub fn bind<V: Param>(&self, value: V) -> Bound<'_, Bind<(), V>> {
        self.params(()).bind(value)
    }

    /// Binds all parameters at once, as a tuple: `(42_i64, "eu")`.
    pub fn params<P: Params>(&self, params: P) -> Bound<'_, P> {
        Bound { query: self, params }
    }

    /// The rows of the query, which has no parameters; see [`Bound::fetch`].
    pub fn fetch<S: Source>(&self, source: &S) -> Read<'_, Rows, impl Loader<Rows>> {
        self.params(()).fetch(source)
    }

    /// The value that `load` makes; see [`Bound::load`].
    pub fn load<T, E, F, Fut>(&self, load: F) -> Read<'_, Arc<T>, impl Loader<Arc<T>>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.params(()).load(load)
    }

    /// The value that `load` makes, with what it depends on; see [`Bound::load_tagged`].
    pub fn load_tagged<T, E, F, Fut>(&self, load: F) -> Read<'_, Arc<T>, impl Loader<Arc<T>>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Tagged<T>, E>> + Send + 'static,
    {
        self.params(()).load_tagged(load)
    }

    #[inline]
    fn prepared(&self) -> Result<&Prepared, Error> {
        let prepared = self.prepared.get_or_init(|| {
            let inner = self.inner();
            let policy = inner
                .policy
                .clone()
                .with(&self.settings)
                .map_err(|wrong| Error::setting(&wrong))?;
            let digest =
                Digest::new(&inner.namespace, &self.sql, self.scope.as_deref(), self.schema);
            let depends = Arc::new(Dependencies::new(self.tags.iter().cloned(), digest.slot()));
            let counters = self.counters(&digest).map_err(|wrong| Error::setting(&wrong))?;
            let l1_hits = counters.l1_hits.clone();
            let config = QueryConfig { policy, l1_hits, counters, depends };
            Ok(Prepared { digest, config: Arc::new(config) })
        });
        prepared.as_ref().map_err(Error::clone)
    }

    fn counters(&self, digest: &Digest) -> Result<Arc<QueryCounters>, WrongSetting> {
        let inner = self.inner();
        let queries = &inner.counters.queries;
        if let Some(name) = &self.name {
            let checked = check_name(name).map_err(|allowed| WrongSetting {
                setting: "name",
                given: format!("{name:?}"),
                allowed: allowed.to_owned(),
            });
            return checked.map(|()| queries.of(name));
        }
        // Scopes may be as many as there are tenants.
        let name = match self.scope.is_none() && self.schema == 0 {
            true => digest.name(),
            false => Digest::new(&inner.namespace, &self.sql, None, 0).name(),
        };
        Ok(queries.of(&name))
    }

    /// The key of a call, and the config for it.
    #[inline]
    pub(crate) fn call<P: Params>(
        &self,
        shape: Shape,
        params: &P,
    ) -> Result<(CacheKey, &Arc<QueryConfig>), Error> {
        let Prepared { digest, config } = self.prepared()?;
        let mut encoder = KeyEncoder::new(*digest, shape);
        params.encode(&mut encoder);
        Ok((encoder.finish(), config))
    }

    #[inline]
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.cache.inner
    }

    pub(crate) fn sql(&self) -> &Arc<str> {
        &self.sql
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("Query");
        all.field("sql", &self.sql);
        if let Ok(prepared) = self.prepared() {
            all.field("name", &prepared.config.counters.name());
        }
        all.finish_non_exhaustive()
    }
}

/// An error of the user's own function.
pub(crate) fn of_user<E: Into<BoxError>>(error: E) -> Error {
    Error::query(error.into())
}
