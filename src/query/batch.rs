//! [`Batch`]: a query with many values for its last parameter.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Bound, BoundWith, Query, of_user};
use crate::cache::config::QueryConfig;
use crate::cache::inner::{LoadFn, LoadResult};
use crate::cache::many::{Keys, Loads};
use crate::error::Error;
use crate::postgres::Source;
use crate::rows::Rows;
use crate::value::Value;
use crate::value::answer::Answer;
use crate::value::key::{CacheKey, Shape};
use crate::value::param::{Bind, Param, Params, SqlParam, SqlParams, WithListOfOne, WithOne};
use crate::value::setup::Setup;
use crate::value::tag::{LoadReport, Tag};

/// A [`Query`] with many values for its last parameter: a batch, made by
/// [`bind_many`](Query::bind_many).
///
/// Each value is a read of its own, by the rules of a single read: it has its own result, its own
/// key and its own error. What they share is the way. Memory is asked first; what it does not have is
/// asked of Redis in one round trip (one for each 512 keys or 1 MiB); and what Redis does not have is
/// loaded:
///
/// - by one query for all of it, with [`by_column`](Batch::by_column), [`by`](Batch::by) or
///   [`load_many`](Batch::load_many): one for each 1,000 keys;
/// - or each by itself, with [`fetch`](Batch::fetch) or [`load_each`](Batch::load_each), no more of
///   them at a time than [`concurrent_loads`](crate::QueryCacheBuilder::concurrent_loads) allows.
///
/// A key that another read, of this process or of another one, is loading already is waited for and is
/// not loaded again.
///
/// A query that [learns](Query::auto) cannot be read in a batch: each result is an error that says so.
/// Declare what it reads with [`table`](Query::table) instead.
///
/// The results are in the order of the values. A value that occurs twice is read once. No values are
/// no results, and nothing is asked.
#[must_use = "a batch does nothing until it is fetched or loaded"]
pub struct Batch<'q, P, V> {
    query: &'q Query,
    params: P,
    setup: Option<Setup<'q>>,
    tags: Vec<Tag>,
    tag_each: Option<TagOf<'q, V>>,
    values: Vec<V>,
    /// The call is to learn what it depends on, which a batch cannot.
    learns: bool,
}

type TagOf<'q, V> = Box<dyn Fn(&V) -> Tag + Send + 'q>;

impl Query {
    /// Binds each of these values to `$1`: many reads in one call.
    ///
    /// ```no_run
    /// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool, ids: Vec<i64>) -> Result<(), larder::Error> {
    /// let users = cache.query("SELECT id, name FROM users WHERE id = ANY($1)").tag("users");
    /// // One round trip to Redis for what memory does not have, one query for the rest.
    /// let found = users.bind_many(ids).by_column("id").fetch(&pool).await;
    /// for rows in found {
    ///     let rows = rows?;
    ///     println!("{:?}", rows.first().map(|row| row.get::<_, String>("name")));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// `collect::<Result<Vec<_>, _>>()` gives all results, or the first error.
    pub fn bind_many<V: Param>(&self, values: impl IntoIterator<Item = V>) -> Batch<'_, (), V> {
        self.params(()).bind_many(values)
    }
}

impl<'q, P: Params> Bound<'q, P> {
    /// Binds each of these values to the next parameter: many reads in one call; see
    /// [`Query::bind_many`]. The parameters before it are the same for all.
    pub fn bind_many<V: Param>(self, values: impl IntoIterator<Item = V>) -> Batch<'q, P, V> {
        let Bound { query, params, tags } = self;
        let values = values.into_iter().collect();
        let learns = query.learns;
        Batch { query, params, setup: None, tags, tag_each: None, values, learns }
    }
}

impl<'q, P: Params> BoundWith<'q, P> {
    /// Binds each of these values to the next parameter, under this role and these settings; see
    /// [`Query::bind_many`].
    pub fn bind_many<V: Param>(self, values: impl IntoIterator<Item = V>) -> Batch<'q, P, V> {
        let learns = self.learns;
        Batch { setup: Some(self.setup), learns, ..self.bound.bind_many(values) }
    }
}

impl<'q, P, V> Batch<'q, P, V> {
    /// Adds a tag for all results of this call; see [`Bound::tag`].
    pub fn tag(mut self, tag: impl Into<Tag>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Adds a tag for each result, by its value: what [`Bound::tag`] is to a single read.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = larder::QueryCache::builder().build().await?;
    /// let orders = cache.query("SELECT count(*) FROM orders WHERE region = $1");
    /// let counts = orders
    ///     .bind_many(["eu", "us"])
    ///     .tag_each(|region| format!("orders:{region}"))
    ///     .load_each(|_region| async { Ok::<_, std::io::Error>(7_i64) });
    /// assert_eq!(counts.await.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The last function given is used.
    pub fn tag_each<T: Into<Tag>>(mut self, tag: impl Fn(&V) -> T + Send + 'q) -> Self {
        self.tag_each = Some(Box::new(move |value| tag(value).into()));
        self
    }
}

impl<'q, P: Params + Send + 'q, V: Param + Send + 'q> Batch<'q, P, V> {
    /// Returns the rows of the query for each value: from memory, from Redis, or from PostgreSQL
    /// through `source`, by a query for each value that is missing.
    ///
    /// The results have the same keys as those of single [fetches](Bound::fetch). To load what is missing
    /// by one query, see [`by_column`](Batch::by_column).
    ///
    /// # Errors
    ///
    /// For each value, those of [`Bound::fetch`].
    pub fn fetch<S: Source>(self, source: &S) -> ReadMany<'q, Rows>
    where
        P: SqlParams + Clone,
        V: SqlParam,
    {
        let source = source.clone();
        self.read::<Rows>(Kind::FETCH, move |batch, values| {
            let (query, setup) = (batch.query, batch.setup());
            let load = |value| {
                let params = Bind(batch.params.clone(), value).into_owned();
                query.load_of(source.clone(), params, setup.clone(), None)
            };
            Loads::Each(values.into_iter().map(load).collect())
        })
    }

    /// Returns the value of `load` for each of the batch's values: from memory, from Redis, or by
    /// running `load` for each value that is missing.
    ///
    /// The results have the same keys as those of single [loads](Bound::load), and as those of a
    /// [wrapped](Query::wrap) function with the same parameters.
    ///
    /// # Errors
    ///
    /// For each value, those of [`Bound::load`].
    pub fn load_each<T, E, F, Fut>(self, load: F) -> ReadMany<'q, Arc<T>>
    where
        V: 'static,
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: Fn(V) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.read::<Arc<T>>(Kind::FUNCTION, move |_, values| {
            let function = Arc::new(load);
            let load = |value| -> LoadFn<T> {
                let function = function.clone();
                Box::new(move || {
                    let load = async move { function(value).await };
                    let load = async move { load.await.map_err(of_user) };
                    async move { Ok(LoadResult::new(load.await?, LoadReport::default())) }.boxed()
                })
            };
            Loads::Each(values.into_iter().map(load).collect())
        })
    }

    /// Reads: `loads` makes the loads of the values that are missing.
    pub(super) fn read<R: Value + Clone + Sync>(
        self,
        kind: Kind,
        loads: impl FnOnce(&Batch<'q, P, V>, Vec<V>) -> Loads<R::Stored> + Send + 'q,
    ) -> ReadMany<'q, R> {
        ReadMany(Box::pin(async move {
            let mut batch = self;
            let values = std::mem::take(&mut batch.values);
            let keys: Result<Vec<_>, Error> =
                values.iter().map(|value| batch.key(kind, R::shape(), value)).collect();
            let (keys, config) = match keys.map(|keys| (keys, batch.query.prepared())) {
                Ok((keys, Ok(prepared))) => (Keys::new(keys.into_iter()), prepared.config.clone()),
                Err(error) | Ok((_, Err(error))) => {
                    return values.iter().map(|_| Err(error.clone())).collect();
                }
            };
            let inner = batch.query.inner();
            let memory = inner.hit_many::<R>(keys, &config);
            let mut values: Vec<_> = values.into_iter().map(Some).collect();
            let wanted = memory.wanted().filter_map(|at| values[at].take()).collect::<Vec<_>>();
            let tags = match &batch.tag_each {
                Some(tag) => wanted.iter().map(|value| vec![tag(value)]).collect(),
                None => vec![],
            };
            let config = config.tagged(&batch.tags);
            let loads = loads(&batch, wanted);
            let query = batch.query;
            // Not kept while it is waited for.
            drop((batch, values));
            let inner = query.inner();
            inner.with_timers(inner.clone().miss_many(memory, config, tags, loads)).await
        }))
    }

    fn key(&self, kind: Kind, shape: Shape, value: &V) -> Result<CacheKey, Error> {
        let query = self.query;
        if self.learns {
            return Err(query.named(Error::auto_of_batch()));
        }
        if kind.is_function && (self.setup.is_some() || query.setup.is_some()) {
            return Err(query.named(Error::setup_of_function()));
        }
        let called = if kind.is_list {
            self.called(shape, &WithListOfOne(&self.params, value))
        } else {
            self.called(shape, &WithOne(&self.params, value))
        };
        called.map(|(key, _)| key)
    }

    fn called(
        &self,
        shape: Shape,
        params: &impl Params,
    ) -> Result<(CacheKey, &Arc<QueryConfig>), Error> {
        match &self.setup {
            None => self.query.call(shape, params),
            Some(setup) => self.query.call_with(shape, params, setup),
        }
    }
}

impl<P, V> Batch<'_, P, V> {
    /// What is set for the loads.
    pub(super) fn setup(&self) -> Option<Arc<Setup<'static>>> {
        match &self.setup {
            None => self.query.setup.clone(),
            Some(setup) => Some(Arc::new(self.query.over(setup).into_owned())),
        }
    }

    pub(super) fn query(&self) -> &Query {
        self.query
    }

    pub(super) fn params(&self) -> &P {
        &self.params
    }
}

/// What the calls of a batch are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// Whether the query is given a list.
    is_list: bool,
    /// Whether a function of the user runs it, for which nothing can be set.
    is_function: bool,
}

impl Kind {
    const FETCH: Kind = Kind { is_list: false, is_function: false };
    pub(super) const FETCH_LIST: Kind = Kind { is_list: true, is_function: false };
    pub(super) const FUNCTION: Kind = Kind { is_list: false, is_function: true };
}

impl<P, V> fmt::Debug for Batch<'_, P, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values are the user's data and are not shown.
        let mut all = f.debug_struct("Batch");
        all.field("sql", &self.query.sql).field("values", &self.values.len());
        all.finish_non_exhaustive()
    }
}

/// Many reads: await it for their results in the order of the values, or await its
/// [`answers`](ReadMany::answers) for the results with their origins and ages.
///
/// Nothing happens before the first poll.
///
/// # Cancellation
///
/// It may be dropped at any time. Loads that it started continue as tasks of their own, for other reads
/// that wait for them and for the cache.
#[must_use = "a read does nothing unless it is awaited"]
pub struct ReadMany<'q, V>(BoxFuture<'q, Vec<Result<Answer<V>, Error>>>);

impl<'q, V> ReadMany<'q, V> {
    /// Returns each result with its origin and age, instead of the result alone.
    pub fn answers(self) -> impl Future<Output = Vec<Result<Answer<V>, Error>>> + Send + 'q
    where
        V: 'q,
    {
        self.0
    }
}

impl<V> Future for ReadMany<'_, V> {
    type Output = Vec<Result<V, Error>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(|answers| {
            answers.into_iter().map(|answer| answer.map(Answer::into_value)).collect()
        })
    }
}

impl<V> fmt::Debug for ReadMany<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadMany").finish_non_exhaustive()
    }
}
