//! [`Query::auto`]: reads that learn what their results depend on.
//!
//! The key of such a read contains the session of its source, so that is learned first, together with
//! the verdict: once for each query and source, before the first read. From then on a hit is as any
//! other. A load asks PostgreSQL besides its rows what they depend on, and is judged by the replies.

use std::sync::Arc;

use arc_swap::Guard;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::learning_load::{Lead, Seen, learn};
use super::{Prepared, Query};
use crate::cache::config::QueryConfig;
use crate::error::Error;
use crate::learn::known::Subject;
use crate::postgres::{self, Source};
use crate::rows::Rows;
use crate::telemetry::counters::count;
use crate::value::Value;
use crate::value::answer::Answer;
use crate::value::key::{CacheKey, KeyEncoder};
use crate::value::param::{Params, SqlParams};
use crate::value::setup::{Over, Setup};
use crate::value::tag::Tag;

/// The key of a call, if all is known that it consists of.
pub(super) enum CallOn<'q> {
    Key(Result<(CacheKey, &'q Arc<QueryConfig>), Error>, SeenRef<'q>),
    Unknown,
}

/// What is known of a call that learns. A hit counts no reference for it.
pub(super) enum SeenRef<'q> {
    /// The call does not learn.
    None,
    First(&'q Arc<Seen>),
    Later(Guard<Option<Arc<Seen>>>),
}

impl SeenRef<'_> {
    #[inline]
    fn get(&self) -> Option<&Arc<Seen>> {
        match self {
            SeenRef::None => None,
            SeenRef::First(seen) => Some(seen),
            SeenRef::Later(seen) => seen.as_ref(),
        }
    }
}

impl From<SeenRef<'_>> for Option<Arc<Seen>> {
    fn from(seen: SeenRef<'_>) -> Option<Arc<Seen>> {
        seen.get().cloned()
    }
}

impl Query {
    /// Learns from PostgreSQL what the results depend on, so that no tag has to be declared.
    ///
    /// Each result depends on the tables, views and materialized views that its load has read, whether
    /// the query names them or not: through views, policies, functions, partitions. They are its tags:
    /// [`QueryCache::write`](crate::QueryCache::write) makes it stale when it has written to one of
    /// them, [`invalidate_table`](crate::QueryCache::invalidate_table) when it is called with its name,
    /// and a [`Refresher`](crate::refresh::Refresher) when it has refreshed a view. Tags that are
    /// [declared](Query::tag) count as well.
    ///
    /// ```no_run
    /// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
    /// // `recent_orders` is a view over `orders` and `customers`.
    /// let recent = cache.query("SELECT * FROM recent_orders WHERE region = $1").auto();
    /// recent.bind("eu").fetch(&pool).await?;
    ///
    /// cache
    ///     .write(&pool, async |tx| {
    ///         tx.execute("UPDATE customers SET name = 'Ada' WHERE id = 7", &[]).await?;
    ///         Ok::<_, larder::Error>(())
    ///     })
    ///     .await?;
    /// // Loaded anew.
    /// recent.bind("eu").fetch(&pool).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Consistency
    ///
    /// What is promised is what is promised for tags: it holds for writes by `write` and for names
    /// given to `invalidate_table`. If the cache [follows](crate::QueryCacheBuilder::follow) the database,
    /// it holds for what anybody commits and defines, within milliseconds, and within
    /// [`max_blind`](crate::Follow::max_blind) whatever fails. **Without that, a write that the cache is not
    /// told of, by another program or on another connection, changes no result**, until its
    /// [`ttl`](Query::ttl) ends. So follow, or choose a `ttl`.
    ///
    /// The user, the `search_path`, `TimeZone` and the other settings that rows depend on are part of
    /// the key, with the values that the connections of the source have. A load on a connection that
    /// has other values, since somebody's `SET` was left on it, is answered and not stored.
    ///
    /// Not every query can be followed. A result is not stored, but answered, if it depends on the time
    /// or on chance (`now()`, `random()`), on what nobody is told of (foreign tables, sequences,
    /// catalogs, unlogged and temporary tables), or on a function that cannot be looked into (dynamic
    /// SQL, languages other than SQL and PL/pgSQL). If the query has a [`ttl`](Query::ttl) of its own, the
    /// result is stored for that time. [`dependencies`](Query::dependencies) reports why, and
    /// [`QueryStats::unfollowed`](crate::stats::QueryStats::unfollowed) counts. Results of queries that
    /// write or lock rows are never stored.
    ///
    /// # Cost
    ///
    /// A hit costs the same. Before its first load, a query is parsed by PostgreSQL and what it names
    /// is looked up: some milliseconds, once for each process and pool, and over a connection of the
    /// source also if Redis has the result. A query without functions of one's own then costs
    /// nothing more. One with such functions is loaded in a transaction, in the same number of round
    /// trips, and PostgreSQL is kept busy for about 0.1 ms more. With sqlx it is as many round trips as
    /// without.
    ///
    /// The connection's user needs the right `TEMPORARY` on the database, which users have unless it was
    /// revoked.
    ///
    /// # Where it works
    ///
    /// With `fetch` and its relatives, from each [`Source`] but an `Arc` of a client, whose other
    /// statements would run inside the transaction. That is an error of
    /// [`ErrorKind::Setting`](crate::ErrorKind::Setting), and so are the query functions
    /// [`load`](Query::load), [`load_rows`](Query::load_rows) and [`wrap`](Query::wrap).
    /// [`negative_sqlstates`](Query::negative_sqlstates) has no effect: what an error depends on cannot
    /// be learned.
    ///
    /// # Default
    ///
    /// Off: results depend on the tags that are declared.
    #[must_use = "setters return the query they changed"]
    pub fn auto(self) -> Query {
        self.set(|query| query.learns = true)
    }

    /// The key of a call. `setup`: that of the call, over the query's own.
    #[inline]
    pub(super) fn call_on<S: Source, P: Params>(
        &self,
        source: &S,
        params: &P,
        setup: Option<&Setup<'_>>,
        learns: bool,
    ) -> CallOn<'_> {
        if learns {
            let setup = setup.filter(|setup| !setup.is_empty());
            return self
                .learned_call(source, params, setup)
                .unwrap_or_else(|error| CallOn::Key(Err(self.named(error)), SeenRef::None));
        }
        let call = match setup {
            None => self.call(Rows::shape(), params),
            Some(setup) => self.call_with(Rows::shape(), params, setup),
        };
        CallOn::Key(call, SeenRef::None)
    }

    fn learned_call<S: Source, P: Params>(
        &self,
        source: &S,
        params: &P,
        setup: Option<&Setup<'_>>,
    ) -> Result<CallOn<'_>, Error> {
        let prepared = self.prepared()?;
        let over = match (setup, self.setup.as_deref()) {
            (Some(setup), base) => Some(Over { setup, base }),
            (None, Some(setup)) => Some(Over { setup, base: None }),
            (None, None) => None,
        };
        if let Some(over) = over {
            over.check().map_err(Error::setting)?;
        }
        let address = postgres::address(source).ok_or_else(Error::auto_of_shared_client)?;
        let found = self.seen(prepared, source, address, over);
        let Some(seen) = found.get() else { return Ok(CallOn::Unknown) };
        let digest = match (setup, over) {
            (Some(_), Some(over)) => over.digest(prepared.query).of_session(&seen.learned.digest),
            _ => seen.digest,
        };
        let mut encoder = KeyEncoder::new(digest, Rows::shape());
        params.encode(&mut encoder);
        let call = Ok((encoder.finish(), prepared.learning()));
        Ok(CallOn::Key(call, found))
    }

    /// What is known of a call; without a lock if it is of the same source and schemas as the first or
    /// the last one.
    #[inline]
    fn seen<'q, S: Source>(
        &self,
        prepared: &'q Prepared,
        source: &S,
        address: usize,
        over: Option<Over<'_>>,
    ) -> SeenRef<'q> {
        let is_it = |seen: &Arc<Seen>| {
            seen.source.address == address
                && !seen.learned.is_outdated()
                && seen.subject.is_of(over)
        };
        // Nearly always: it costs a hit no more than this.
        if let Some(first) = prepared.first.get().filter(|first| is_it(first)) {
            return SeenRef::First(first);
        }
        let last = prepared.last.load();
        if last.as_ref().is_some_and(is_it) {
            return SeenRef::Later(last);
        }
        // Another query object may have learned it.
        let Some(source) = postgres::id(source) else { return SeenRef::None };
        let subject = Subject::new(&self.sql, over);
        let learner = self.inner().learning.learner(&source, &subject);
        let Some(learned) = learner.learned() else { return SeenRef::None };
        let seen = self.saw(prepared, Lead { source, subject, learned });
        SeenRef::Later(Guard::from_inner(Some(seen)))
    }

    fn saw(&self, prepared: &Prepared, lead: Lead) -> Arc<Seen> {
        let Lead { source, subject, learned } = lead;
        let digest = prepared.digest.of_session(&learned.digest);
        let seen = Arc::new(Seen { source, subject, learned, digest });
        let _ = prepared.first.set(seen.clone());
        prepared.last.store(Some(seen.clone()));
        seen
    }

    /// A read whose key is not known yet: it learns first. `setup`: all that is set for it.
    pub(super) fn learn_and_read<S: Source, P: SqlParams>(
        &self,
        source: &S,
        params: P,
        setup: Option<Arc<Setup<'static>>>,
        tags: Vec<Tag>,
    ) -> BoxFuture<'static, Result<Answer<Rows>, Error>> {
        let mut encoder = KeyEncoder::recording(Rows::shape());
        params.encode(&mut encoder);
        let (bytes, params) = (encoder.recorded(), params.into_owned());
        let (query, source) = (self.clone(), source.clone());
        async move {
            let prepared = query.prepared()?;
            let (inner, config) = (query.inner(), prepared.learning());
            let seen = match query.learn(prepared, &source, setup.as_ref()).await {
                Ok(seen) => seen,
                Err(error) => {
                    count(&inner.counters.misses);
                    let outcome = Err(error.of_query(config.counters.name()));
                    config.counters.answered(&outcome);
                    return outcome;
                }
            };
            let digest = match &setup {
                None => prepared.query,
                Some(setup) => Over { setup, base: None }.digest(prepared.query),
            };
            let key = digest.of_session(&seen.learned.digest).key_of(&bytes);
            if let Some(hit) = inner.hit::<Rows>(&key, config) {
                return Ok(hit.answer);
            }
            let load = query.load_of(source, params, setup, Some(seen));
            inner.clone().miss::<Rows>(key, config.tagged(&tags), load).await
        }
        .boxed()
    }

    /// Learns what a load that runs under `setup` depends on, within the load's deadline.
    pub(super) async fn learn<S: Source>(
        &self,
        prepared: &Prepared,
        source: &S,
        setup: Option<&Arc<Setup<'static>>>,
    ) -> Result<Arc<Seen>, Error> {
        let inner = self.inner();
        inner.settle().await;
        let deadline = prepared.config.policy.load_deadline;
        let lead = learn(inner, &self.sql, source, setup, &[]);
        let lead = inner.with_timers(async { timeout(deadline, lead).await });
        let lead = lead.await.map_err(|_| Error::deadline(deadline))??;
        Ok(self.saw(prepared, lead))
    }
}
