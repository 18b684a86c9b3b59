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

use super::dependencies::QueryDependencies;
use super::{Bound, Prepared, Query};
use crate::cache::config::QueryConfig;
use crate::cache::inner::{Inner, LoadResult};
use crate::error::Error;
use crate::learn::QueryClass;
use crate::learn::known::{Conclusion, Learned, Plan, SourceId, Subject};
use crate::postgres::learn::{Lesson, Questions, Replies};
use crate::postgres::{self, Call, Source};
use crate::rows::{Image, Rows};
use crate::telemetry::counters::{QueryCounters, count};
use crate::telemetry::trace;
use crate::value::Value;
use crate::value::answer::Answer;
use crate::value::key::{CacheKey, Digest, KeyEncoder};
use crate::value::param::{OwnedParams, Params, SqlParams};
use crate::value::setup::{Over, Setup};
use crate::value::tag::{LoadReport, Tag, TagSlot};

/// What was learned of a query over one source.
pub(crate) struct Seen {
    source: SourceId,
    subject: Subject,
    pub(super) learned: Arc<Learned>,
    /// The digest of a call under the query's own setup.
    digest: Digest,
}

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
    /// given to `invalidate_table`. **A write that the cache is not told of, by another program or on
    /// another connection, changes no result**, until its [`ttl`](Query::ttl) ends. So choose a `ttl`.
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
    async fn learn<S: Source>(
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

    pub(super) fn learning_load(&self, seen: Arc<Seen>) -> LearningLoad {
        let counters = self.prepared().ok().map(|prepared| prepared.config.counters.clone());
        LearningLoad {
            inner: self.inner().clone(),
            seen,
            has_ttl: self.settings.ttl.is_some(),
            slot: self.digest().slot(),
            counters,
        }
    }

    /// Reports what the results depend on, as far as it is known before the query is run.
    ///
    /// PostgreSQL parses the query, under its [role](Query::as_role) and
    /// [settings](Query::with_setting), in a transaction that is rolled back. It is not run. What the
    /// functions of a [dynamic](QueryClass::Dynamic) query read is not among the relations: that is
    /// found by each load, and by [`Bound::dependencies`]. The query need not be one that
    /// [learns](Query::auto).
    ///
    /// ```no_run
    /// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
    /// let query = cache.query("SELECT * FROM recent_orders WHERE at > now() - interval '1 day'");
    /// for reason in &query.dependencies(&pool).await?.unfollowed {
    ///     println!("{reason}");       // it calls now()
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Connect`](crate::ErrorKind::Connect), [`Query`](crate::ErrorKind::Query) if the
    /// connection is lost, and [`Setting`](crate::ErrorKind::Setting) for a source over which nothing can
    /// be learned. A query that PostgreSQL refuses is no error: the refusal is in
    /// [`unfollowed`](QueryDependencies::unfollowed).
    pub async fn dependencies<S: Source>(&self, source: &S) -> Result<QueryDependencies, Error> {
        let taught = self.learn(self.prepared()?, source, self.setup.as_ref()).await;
        let seen = taught.map_err(|error| self.named(error))?;
        Ok(QueryDependencies::of(&seen.learned.verdict))
    }

    pub(super) async fn dependencies_of<S: Source>(
        &self,
        source: &S,
        params: OwnedParams,
        setup: Option<Arc<Setup<'static>>>,
    ) -> Result<QueryDependencies, Error> {
        let found = async {
            let seen = self.learn(self.prepared()?, source, setup.as_ref()).await?;
            let mut found = QueryDependencies::of(&seen.learned.verdict);
            if found.class != QueryClass::Dynamic {
                return Ok(found);
            }
            let load = self.learning_load(seen);
            let call = self.call_of_load(params, setup);
            let deadline = self.prepared()?.config.policy.load_deadline;
            let load = timeout(deadline, load.conclude(source.clone(), call)).await;
            match load.map_err(|_| Error::deadline(deadline))??.1 {
                Conclusion::Depends(read) => found.relations = read.relations().collect(),
                Conclusion::Unfollowed(why) => found.unfollow(why),
                Conclusion::Redefined | Conclusion::Unjudged(_) => {
                    found.unfollow("it was defined anew meanwhile".to_owned());
                }
            }
            Ok(found)
        };
        self.inner().with_timers(found).await.map_err(|error| self.named(error))
    }
}

impl<P: SqlParams> Bound<'_, P> {
    /// Reports what the result of this call depends on.
    ///
    /// A [dynamic](QueryClass::Dynamic) query is run once with these parameters, and its rows are
    /// dropped. Another one is not run; see [`Query::dependencies`].
    ///
    /// # Errors
    ///
    /// Those of [`Query::dependencies`], and of [`fetch`](Bound::fetch) if the query is run.
    pub async fn dependencies<S: Source>(self, source: &S) -> Result<QueryDependencies, Error> {
        let Bound { query, params, .. } = self;
        query.dependencies_of(source, params.into_owned(), query.setup.clone()).await
    }
}

/// What was learned, and where it is kept.
struct Lead {
    source: SourceId,
    subject: Subject,
    learned: Arc<Learned>,
}

/// Learns what a query depends on, unless that is known. `further`: relations that must be judged.
async fn learn<S: Source>(
    inner: &Inner,
    sql: &Arc<str>,
    source: &S,
    setup: Option<&Arc<Setup<'static>>>,
    further: &[u32],
) -> Result<Lead, Error> {
    let id = postgres::id(source).ok_or_else(Error::auto_of_shared_client)?;
    let over = setup.map(|setup| Over { setup, base: None });
    let subject = Subject::new(sql, over);
    let learner = inner.learning.learner(&id, &subject);
    // One asks, the others wait for what it learns. If its caller leaves, the next one asks.
    let gate = learner.gate.lock().await;
    let known = learner.learned();
    let learned = match known {
        Some(known) if further.iter().all(|oid| known.verdict.judged.contains(oid)) => known,
        known => {
            let mut further = further.to_vec();
            further.extend(known.iter().flat_map(|known| &known.verdict.judged));
            let lesson = Lesson {
                sql: sql.clone(),
                setup: setup.cloned(),
                further,
                statements: inner.statements.clone(),
            };
            let stamp = inner.currency.stamp();
            let taught = postgres::learn(source.clone(), lesson).await?;
            let (verdict, session) = (taught.verdict, taught.session);
            let learned = Arc::new(Learned::new(verdict, session, stamp, inner.clock.now()));
            learner.keep(learned.clone());
            learned
        }
    };
    drop(gate);
    Ok(Lead { source: id, subject, learned })
}

/// A load that learns what its result depends on.
pub(super) struct LearningLoad {
    inner: Arc<Inner>,
    seen: Arc<Seen>,
    /// The query has a `ttl` of its own, for which an unfollowed result is stored.
    has_ttl: bool,
    /// That of the query.
    slot: TagSlot,
    counters: Option<Arc<QueryCounters>>,
}

impl LearningLoad {
    pub(super) async fn run<S: Source>(
        self,
        source: S,
        call: Call,
    ) -> Result<LoadResult<Image>, Error> {
        let (value, conclusion) = self.conclude(source, call).await?;
        let followed = self.inner.follower.as_ref().and_then(|follower| follower.database());
        let why = match conclusion {
            Conclusion::Depends(read) => match self.reads_another(followed) {
                Some(why) => why,
                None => {
                    let (tags, is_followed) = (read.tags().to_vec(), self.inner.follower.is_some());
                    return Ok(LoadResult::new(value, LoadReport { tags, is_followed }));
                }
            },
            Conclusion::Unfollowed(why) => why,
            Conclusion::Unjudged(_) => "it has read what could not be judged".to_owned(),
            Conclusion::Redefined => {
                // What other loads have stored may depend on the definition before.
                self.inner.invalidate(&[self.slot]).await;
                "something that it depends on was defined anew meanwhile".to_owned()
            }
        };
        if let Some(counters) = &self.counters {
            trace::unfollowed(counters.name(), &why);
            counters.unfollowed(&why);
        }
        let verdict = &self.seen.learned.verdict;
        let is_kept = self.has_ttl && !verdict.acts && verdict.class() == QueryClass::Unfollowed;
        let tags = if is_kept { self.seen.learned.tags_by_name() } else { vec![] };
        Ok(LoadResult { value, report: LoadReport::of(tags), is_kept })
    }

    /// Says so if the source reads another database than the one that is followed: its changes would
    /// never be announced.
    fn reads_another(&self, followed: Option<&str>) -> Option<String> {
        let (followed, read) = (followed?, self.seen.learned.session.database()?);
        (followed != read).then(|| {
            format!("it is loaded from the database {read:?}, and the cache follows {followed:?}")
        })
    }

    /// Runs the query, and judges its result.
    async fn conclude<S: Source>(
        &self,
        source: S,
        call: Call,
    ) -> Result<(Image, Conclusion), Error> {
        let (inner, learned) = (&self.inner, &self.seen.learned);
        // The stamp first, then the load: what is invalidated meanwhile may define anew what it reads.
        let stamp = inner.currency.stamp();
        let plan = learned.plan(&inner.currency, inner.clock.now());
        let questions = Arc::new(Questions::of(&plan, learned));
        let (sql, setup) = (call.sql.clone(), call.setup.clone());
        let asked = (!questions.questions.is_empty()).then(|| questions.clone());
        let image = postgres::rows(source.clone(), Call { questions: asked, ..call }).await?;
        let replies = match questions.take_replies() {
            Some(Replies::Skipped) => {
                if let Some(conclusion) = Learned::skipped(&plan) {
                    return Ok((image, conclusion));
                }
                None
            }
            Some(Replies::Rows(rows)) => Some(rows),
            None => None,
        };
        let judge = |learned: &Learned, plan: &Plan| {
            let now = inner.clock.now();
            learned.conclude(plan, replies.as_deref(), setup.as_deref(), stamp, now)
        };
        let conclusion = judge(learned, &plan);
        let Conclusion::Unjudged(unjudged) = &conclusion else { return Ok((image, conclusion)) };
        // A function has read something for the first time. It is judged, once.
        let unjudged: Vec<u32> = unjudged.iter().copied().collect();
        // If that fails, the next load tries it again.
        let Ok(lead) = learn(inner, &sql, &source, setup.as_ref(), &unjudged).await else {
            return Ok((image, conclusion));
        };
        // Another session would be another key.
        if lead.learned.digest != learned.digest {
            return Ok((image, conclusion));
        }
        // The definitions were compared with those of the verdict before.
        let plan = plan.without_definitions();
        Ok((image, judge(&lead.learned, &plan)))
    }
}
