//! [`Query`]: SQL with its policy, and the ways to run it.

mod auto;
mod batch;
mod bound;
pub(crate) mod dependencies;
mod fetched;
#[cfg(test)]
mod followed_tests;
mod grouped;
mod learning_load;
mod reads;
mod setup;
mod table;
pub(crate) mod wrapped;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;

pub use self::batch::{Batch, ReadMany};
pub use self::bound::Bound;
pub use self::grouped::Grouped;
use self::learning_load::Seen;
pub use self::setup::BoundWith;

use crate::cache::QueryCache;
use crate::cache::config::QueryConfig;
use crate::cache::inner::{Inner, LoadResult};
use crate::cache::invalidation::Invalidated;
use crate::error::{BoxError, Error, WrongSetting};
use crate::policy::{Negative, Settings};
use crate::telemetry::counters::{QueryCounters, check_name};
use crate::value::key::{CacheKey, Digest, KeyEncoder, Shape};
use crate::value::param::Params;
use crate::value::setup::{Over, Setup};
use crate::value::tag::{Dependencies, Tag, Tagged};

/// A query whose results are cached: its SQL, what identifies its results, and how long they live.
///
/// Make one per query and keep it. There are three ways to run it:
///
/// - [`fetch`](Query::fetch) runs it on a pool and returns [`Rows`](crate::Rows);
/// - [`wrap`](Query::wrap) puts it in front of a function that runs it and returns a type of your
///   own;
/// - [`load`](Query::load) does the same for a single call.
///
/// # Consistency
///
/// A result is served from the cache until its time to live has passed, or until one of its
/// [tags](Query::tag) is invalidated. There are two conditions. The result must depend only on the
/// data, the SQL, the parameters, the [role](Query::as_role), the [settings](Query::with_setting) and
/// the [`scope`](Query::scope). And the load must not run inside an older transaction, which would
/// show the data as of the beginning of that transaction.
#[derive(Clone)]
pub struct Query {
    cache: QueryCache,
    sql: Arc<str>,
    scope: Option<Arc<str>>,
    schema: u32,
    name: Option<Arc<str>>,
    tags: Vec<Tag>,
    /// It has declared tables that it reads.
    reads_tables: bool,
    settings: Settings,
    setup: Option<Arc<Setup<'static>>>,
    /// It learns what it depends on.
    learns: bool,
    /// Computed at the first use. A setter resets it.
    prepared: OnceLock<Result<Prepared, Error>>,
}

#[derive(Clone)]
struct Prepared {
    /// Without role and settings.
    query: Digest,
    /// With those of the query. Most queries have none, and the two are the same.
    digest: Digest,
    config: Arc<QueryConfig>,
    /// For reads that learn; made by the first of them.
    learning: OnceLock<Arc<QueryConfig>>,
    /// What was first and last seen to be learned, so that a hit need not look it up.
    first: OnceLock<Arc<Seen>>,
    last: Arc<ArcSwapOption<Seen>>,
}

impl Prepared {
    #[inline]
    fn learning(&self) -> &Arc<QueryConfig> {
        self.learning.get_or_init(|| self.config.learning())
    }
}

impl QueryCache {
    /// Makes a query whose results this cache holds. Nothing runs until a read of it is awaited.
    ///
    /// Make it once and use it many times: the SQL is hashed at its first use only.
    pub fn query(&self, sql: impl Into<Arc<str>>) -> Query {
        Query::new(self.clone(), sql.into())
    }

    /// Makes all results of a query stale, whatever their parameters. It cannot fail.
    ///
    /// This concerns the [scope](Query::scope) and the [schema version](Query::schema_version) of
    /// `query`, and all [roles](Query::as_role) and [settings](Query::with_setting). Consistency, cancellation and cost are those of
    /// [`invalidate`](QueryCache::invalidate).
    pub async fn invalidate_query(&self, query: &Query) -> Invalidated {
        self.invalidate_slot(query.digest().slot()).await
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
            reads_tables: false,
            settings: Settings::default(),
            setup: None,
            learns: false,
            prepared: OnceLock::new(),
        }
    }

    fn set(mut self, change: impl FnOnce(&mut Query)) -> Query {
        change(&mut self);
        self.prepared = OnceLock::new();
        self
    }

    /// Sets the name of the query in [`query_stats`](QueryCache::query_stats), metrics and spans.
    ///
    /// Queries of the same name are counted together. The name does not identify results: queries
    /// of different names can share them.
    ///
    /// 1 to 64 bytes, without control characters. The name is visible in monitoring, so it must
    /// contain nothing secret. Choose a term of the program's own, such as `user stats`.
    ///
    /// # Default
    ///
    /// The first 16 digits of a hash of the namespace and the SQL. They are the same in all
    /// processes, and do not depend on the [scope](Query::scope), the
    /// [schema version](Query::schema_version), the role or the settings.
    #[must_use = "setters return the query they changed"]
    pub fn name(self, name: impl Into<Arc<str>>) -> Query {
        self.set(|query| query.name = Some(name.into()))
    }

    /// Adds a tag: something that the results depend on, such as a table, a view, or a name of your
    /// own.
    ///
    /// May be called several times. [`QueryCache::invalidate`] of any of the tags makes the results
    /// stale. A tag that follows from the parameters, such as `orders:eu`, is given to the call:
    /// [`Bound::tag`].
    ///
    /// # Default
    ///
    /// None. Then a result ends by [`invalidate_query`](QueryCache::invalidate_query),
    /// [`clear`](QueryCache::clear) or its `ttl` only.
    #[must_use = "setters return the query they changed"]
    pub fn tag(self, tag: impl Into<Tag>) -> Query {
        self.set(|query| query.tags.push(tag.into()))
    }

    /// Sets how long a result lives in both tiers, counted from the end of its load.
    ///
    /// # Default
    ///
    /// The cache's [`ttl`](crate::QueryCacheBuilder::ttl).
    #[must_use = "setters return the query they changed"]
    pub fn ttl(self, ttl: Duration) -> Query {
        self.set(|query| query.settings.ttl = Some(ttl))
    }

    /// Sets how long a copy in the memory of this process lives.
    ///
    /// At most the `ttl`. A copy never outlives the entry in Redis that it was read from.
    ///
    /// # Default
    ///
    /// The cache's [`l1_ttl`](crate::QueryCacheBuilder::l1_ttl), or the `ttl` if that is shorter.
    #[must_use = "setters return the query they changed"]
    pub fn l1_ttl(self, l1_ttl: Duration) -> Query {
        self.set(|query| query.settings.l1_ttl = Some(l1_ttl))
    }

    /// Shortens each lifetime at random, by up to this share of the `ttl`, from 0.0 to 0.5.
    ///
    /// Results that were loaded together then do not all expire together.
    ///
    /// # Default
    ///
    /// The cache's [`jitter`](crate::QueryCacheBuilder::jitter).
    #[must_use = "setters return the query they changed"]
    pub fn jitter(self, jitter: f64) -> Query {
        self.set(|query| query.settings.jitter = Some(jitter))
    }

    /// Sets how long a load may take, including the wait for its permit and for other processes.
    ///
    /// At the deadline the load ends with [`ErrorKind::Deadline`](crate::ErrorKind::Deadline). If
    /// it was a [`fetch`](Query::fetch) on a pool, PostgreSQL receives a cancel request for the
    /// query. A caller that joined a load already under way runs the query again, if the caller's
    /// own deadline has not passed.
    ///
    /// # Default
    ///
    /// The cache's [`load_deadline`](crate::QueryCacheBuilder::load_deadline).
    #[must_use = "setters return the query they changed"]
    pub fn load_deadline(self, deadline: Duration) -> Query {
        self.set(|query| query.settings.load_deadline = Some(deadline))
    }

    /// Sets the size of the largest result that is stored, in encoded bytes.
    ///
    /// A larger result is returned and is stored in neither tier.
    ///
    /// # Default
    ///
    /// The cache's [`max_value_bytes`](crate::QueryCacheBuilder::max_value_bytes).
    #[must_use = "setters return the query they changed"]
    pub fn max_value_bytes(self, bytes: usize) -> Query {
        self.set(|query| query.settings.max_value_bytes = Some(bytes))
    }

    /// Serves an expired result for this long after its `ttl`, while a new one is loaded in the
    /// background.
    ///
    /// The answer is marked as [stale](crate::Answer::staleness). An invalidated result is not
    /// served this way, unless [`allow_invalidated`](Query::allow_invalidated) permits it.
    ///
    /// # Default
    ///
    /// The cache's [`stale_while_revalidate`](crate::QueryCacheBuilder::stale_while_revalidate).
    #[must_use = "setters return the query they changed"]
    pub fn stale_while_revalidate(self, beyond: Duration) -> Query {
        self.set(|query| query.settings.stale_while_revalidate = Some(beyond))
    }

    /// Serves an expired result for this long after its `ttl`, if the load of a new one fails for
    /// any reason.
    ///
    /// The answer is marked as [stale](crate::Answer::staleness). An invalidated result is not
    /// served this way, unless [`allow_invalidated`](Query::allow_invalidated) permits it.
    ///
    /// # Default
    ///
    /// The cache's [`stale_if_error`](crate::QueryCacheBuilder::stale_if_error).
    #[must_use = "setters return the query they changed"]
    pub fn stale_if_error(self, beyond: Duration) -> Query {
        self.set(|query| query.settings.stale_if_error = Some(beyond))
    }

    /// Lets [`stale_while_revalidate`](Query::stale_while_revalidate) and
    /// [`stale_if_error`](Query::stale_if_error) serve invalidated results, too.
    ///
    /// This includes results of which the cache cannot show that they are current. Use it where an
    /// old answer is better than a late one or none. Each such answer has
    /// [`Staleness::Invalidated`](crate::Staleness::Invalidated).
    ///
    /// # Default
    ///
    /// The cache's [`allow_invalidated`](crate::QueryCacheBuilder::allow_invalidated). If that is
    /// not set either, invalidated results are never served.
    #[must_use = "setters return the query they changed"]
    pub fn allow_invalidated(self) -> Query {
        self.set(|query| query.settings.allow_invalidated = Some(true))
    }

    /// Sets how long an empty result lives; never longer than the `ttl`.
    ///
    /// Rows are empty if there are none. A typed value is empty if serde writes it as null, or as
    /// an empty sequence, map or text.
    ///
    /// # Default
    ///
    /// The cache's [`negative_ttl`](crate::QueryCacheBuilder::negative_ttl).
    #[must_use = "setters return the query they changed"]
    pub fn negative_ttl(self, ttl: Duration) -> Query {
        self.set(|query| query.settings.negative_ttl = Some(ttl))
    }

    /// Caches errors with these SQLSTATEs for this long, in the memory of this process.
    ///
    /// A query that is certain to fail is then not run for each read. A cached error is invalidated
    /// by the tags of its query, like a result.
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

    /// Loads a result again in the background before it expires, so that hardly any read of a
    /// popular result waits for a load.
    ///
    /// Each read may start that load. The probability grows as the remaining lifetime gets shorter,
    /// and with the time that a load takes. A `beta` above 1 loads earlier, below 1 later; 0 never
    /// loads before the end.
    ///
    /// This is the XFetch rule of Vattani, Chierichetti and Lowenstein, Optimal Probabilistic Cache
    /// Stampede Prevention, PVLDB 8(8), 2015.
    ///
    /// # Default
    ///
    /// The cache's [`early_refresh`](crate::QueryCacheBuilder::early_refresh).
    #[must_use = "setters return the query they changed"]
    pub fn early_refresh(self, beta: f64) -> Query {
        self.set(|query| query.settings.early_refresh = Some(beta))
    }

    /// Separates results that depend on something that the cache does not know.
    ///
    /// It is needed when the same SQL with the same parameters can have different results: on
    /// another database or shard, or because a query function ([`load`](Query::load),
    /// [`wrap`](Query::wrap)) sets something for its query.
    ///
    /// A scope is a name, and **sets nothing**. A [`fetch`](Query::fetch) runs under whatever role
    /// and settings its connection has. If somebody's `SET` was left on a connection of the pool,
    /// its rows are stored under the wrong scope. Where the rows depend on a role, a setting or
    /// row-level security, use [`as_role`](Query::as_role) and
    /// [`with_setting`](Query::with_setting) instead, which set them for the load.
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
    /// None: all callers share the results.
    #[must_use = "setters return the query they changed"]
    pub fn scope(self, scope: impl Into<Arc<str>>) -> Query {
        self.set(|query| query.scope = Some(scope.into()))
    }

    /// Sets the schema version of the results. Increment it when the tables or the Rust type of the
    /// result change their meaning.
    ///
    /// A new deployment then neither reads nor overwrites the results of the previous one, which
    /// may still be running.
    ///
    /// # Default
    ///
    /// 0
    #[must_use = "setters return the query they changed"]
    pub fn schema_version(self, version: u32) -> Query {
        self.set(|query| query.schema = version)
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
            let query = self.digest();
            let digest = match &self.setup {
                None => query,
                Some(setup) => {
                    setup.check().map_err(Error::setting)?;
                    Over { setup, base: None }.digest(query)
                }
            };
            let mut depends = Dependencies::new(self.tags.iter().cloned(), query.slot());
            if self.reads_tables && inner.follower.is_some() {
                depends = depends.followed();
            }
            let depends = Arc::new(depends);
            let counters = self.counters(&query).map_err(|wrong| Error::setting(&wrong))?;
            let l1_hits = counters.l1_hits.clone();
            let (declared, slot) = (depends.clone(), query.slot());
            let config =
                QueryConfig { policy, l1_hits, counters, depends, declared, slot, learns: false };
            let (config, learning) = (Arc::new(config), OnceLock::new());
            let (first, last) = (OnceLock::new(), Arc::default());
            Ok(Prepared { query, digest, config, learning, first, last })
        });
        prepared.as_ref().map_err(|error| self.named(error.clone()))
    }

    /// Names this query in an error that concerns no single load.
    #[cold]
    fn named(&self, error: Error) -> Error {
        match self.counters(&self.digest()) {
            Ok(counters) => error.of_query(counters.name()),
            // Its name is what is wrong.
            Err(_) => error,
        }
    }

    /// Identifies the query. No setting can make it fail.
    fn digest(&self) -> Digest {
        let namespace = &self.inner().namespace;
        Digest::new(namespace, &self.sql, self.scope.as_deref(), self.schema)
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
        // Without scope and schema version: there may be as many scopes as tenants, and one name
        // for each would be too many.
        let name = if self.scope.is_none() && self.schema == 0 {
            digest.name()
        } else {
            Digest::new(&inner.namespace, &self.sql, None, 0).name()
        };
        Ok(queries.of(&name))
    }

    /// The key of a call, and the configuration of its query.
    #[inline]
    pub(crate) fn call<P: Params>(
        &self,
        shape: Shape,
        params: &P,
    ) -> Result<(CacheKey, &Arc<QueryConfig>), Error> {
        let Prepared { digest, config, .. } = self.prepared()?;
        let mut encoder = KeyEncoder::new(*digest, shape);
        params.encode(&mut encoder);
        Ok((encoder.finish(), config))
    }

    /// The same for a query function, for which nothing can be set.
    #[inline]
    pub(crate) fn call_of_function<P: Params>(
        &self,
        shape: Shape,
        params: &P,
    ) -> Result<(CacheKey, &Arc<QueryConfig>), Error> {
        if self.setup.is_some() {
            return Err(self.named(Error::setup_of_function()));
        }
        if self.learns {
            return Err(self.named(Error::auto_of_function()));
        }
        self.call(shape, params)
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
        if let Some(setup) = &self.setup {
            all.field("setup", setup);
        }
        all.finish_non_exhaustive()
    }
}

/// What a user's own function has returned.
pub(crate) fn of_tagged<T>(tagged: Tagged<T>) -> LoadResult<T> {
    let (value, report) = tagged.into_parts();
    LoadResult::new(value, report)
}

/// Wraps an error of the user's own function.
pub(crate) fn of_user<E: Into<BoxError>>(error: E) -> Error {
    match error.into().downcast::<Error>() {
        Ok(ours) => *ours,
        Err(error) => Error::query(error),
    }
}
