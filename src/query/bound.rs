//! [`Bound`]: a query with its parameters.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::auto::{CallOn, Seen};
use super::{Query, of_tagged, of_user};
use crate::cache::inner::{LoadFn, LoadResult};
use crate::cache::read::{Loader, Read};
use crate::postgres::{self, Call, Source};
use crate::rows::{Image, Rows};
use crate::value::Value;
use crate::value::param::{Bind, OwnedParams, Param, Params, SqlParams};
use crate::value::setup::Setup;
use crate::value::tag::{LoadReport, Tag, Tagged};

/// A [`Query`] with its parameters.
#[derive(Clone)]
#[must_use = "a bound query does nothing until it is fetched or loaded"]
pub struct Bound<'q, P> {
    pub(super) query: &'q Query,
    pub(super) params: P,
    pub(super) tags: Vec<Tag>,
}

impl<P> Bound<'_, P> {
    /// Adds a tag for this call: something that the result depends on because of its parameters.
    ///
    /// May be called several times. The tags of the [query](Query::tag) apply as well. A tag does not
    /// identify the result, so calls with the same parameters must have the same tags: a result in
    /// memory has those of the call that loaded it.
    ///
    /// ```
    /// # use larder::{Origin, QueryCache};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = QueryCache::builder().build().await?;
    /// let orders = cache.query("SELECT count(*) FROM orders WHERE region = $1");
    /// let count = async |region: &str| {
    ///     let bound = orders.bind(region).tag(format!("orders:{region}"));
    ///     bound.load(|| async { Ok::<_, std::io::Error>(7_i64) }).answer().await
    /// };
    /// count("eu").await?;
    /// count("us").await?;
    /// cache.invalidate(["orders:eu"]).await;
    /// assert_eq!(count("eu").await?.origin(), Origin::Loaded);
    /// assert_eq!(count("us").await?.origin(), Origin::L1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn tag(mut self, tag: impl Into<Tag>) -> Self {
        self.tags.push(tag.into());
        self
    }
}

impl<'q, P: Params> Bound<'q, P> {
    /// Binds the next parameter.
    pub fn bind<V: Param>(self, value: V) -> Bound<'q, Bind<P, V>> {
        Bound { query: self.query, params: Bind(self.params, value), tags: self.tags }
    }

    /// Returns the rows of the query: from memory, from Redis, or from PostgreSQL through `source`.
    ///
    /// `source` is a [`deadpool_postgres::Pool`] or an `Arc` of a [`tokio_postgres::Client`]; see
    /// [`Source`]. A transaction is not a source. It may see rows that others do not see, and would
    /// put them into the cache. Run its queries on the transaction itself, without the cache.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Query`](crate::ErrorKind::Query): PostgreSQL returned an error, which is the
    ///   source;
    /// - [`Connect`](crate::ErrorKind::Connect): the pool gave no connection;
    /// - [`Setting`](crate::ErrorKind::Setting): a setting of the query is not allowed;
    /// - [`Deadline`](crate::ErrorKind::Deadline): the load exceeded its deadline.
    ///
    /// An error is not cached, unless [`negative_sqlstates`](Query::negative_sqlstates) names its
    /// SQLSTATE, and never if the query [learns](Query::auto).
    pub fn fetch<S: Source>(self, source: &S) -> Read<'q, Rows, impl Loader<Rows>>
    where
        P: SqlParams,
    {
        let Bound { query, params, tags } = self;
        match query.call_on(source, &params, None, query.learns) {
            CallOn::Key(call, seen) => {
                Read::new(query.inner(), call, tags, move || -> LoadFn<Image> {
                    let setup = query.setup.clone();
                    query.load_of(source.clone(), params.into_owned(), setup, seen.into())
                })
            }
            CallOn::Unknown => {
                let read = query.learn_and_read(source, params, query.setup.clone(), tags);
                Read::of_unknown_key(query.inner(), read)
            }
        }
    }

    /// Returns the value of `load`: from memory, from Redis, or by running `load`.
    ///
    /// `load` takes no arguments and captures what it needs. The bound parameters only identify its
    /// result.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Setting`](crate::ErrorKind::Setting): the query has a role or settings, which
    ///   only [`fetch`](Bound::fetch) can set;
    /// - [`ErrorKind::Query`](crate::ErrorKind::Query): `load` returned an error, which is the
    ///   source;
    /// - [`Panicked`](crate::ErrorKind::Panicked): `load` panicked;
    /// - [`Cycle`](crate::ErrorKind::Cycle): `load` reads a result whose load waits for this load;
    /// - [`Deadline`](crate::ErrorKind::Deadline): the load exceeded its deadline.
    ///
    /// An error is not cached, unless [`negative_sqlstates`](Query::negative_sqlstates) names its
    /// SQLSTATE.
    pub fn load<T, E, F, Fut>(self, load: F) -> Read<'q, Arc<T>, impl Loader<Arc<T>>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.load_tagged(move || async move { load().await.map(Tagged::new) })
    }

    /// Returns the rows of `load`: from memory, from Redis, or by running `load`.
    ///
    /// `load` receives the SQL and the parameters. Use it where the client is not a [`Source`], such as
    /// one of another pool, or a transaction that runs other statements before the query;
    /// [`Rows::query`] runs a query on any client. The result has the same key as one that was
    /// [fetched](Bound::fetch). To set a role or settings, see [`as_role`](Bound::as_role).
    ///
    /// ```no_run
    /// use larder::Rows;
    ///
    /// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
    /// // The result depends on what the transaction does first, so that is part of the key.
    /// let query = cache
    ///     .query("SELECT day, total FROM revenue WHERE region = $1")
    ///     .scope("as of the last close");
    /// let rows = query.bind("eu").load_rows(move |sql, params| async move {
    ///     let mut client = pool.get().await?;
    ///     let transaction = client.transaction().await?;
    ///     transaction.batch_execute("SELECT open_period('last close')").await?;
    ///     let rows = Rows::query(&*transaction, &sql, &params.as_refs()).await?;
    ///     transaction.commit().await?;
    ///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(rows)
    /// });
    /// for row in &rows.await? {
    ///     println!("{}", row.get::<_, f64>("total"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`load`](Bound::load). An error that is a [`larder::Error`](crate::Error) is passed
    /// on as it is.
    pub fn load_rows<E, F, Fut>(self, load: F) -> Read<'q, Rows, impl Loader<Rows>>
    where
        P: SqlParams,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: FnOnce(Arc<str>, OwnedParams) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Rows, E>> + Send + 'static,
    {
        let Bound { query, params, tags } = self;
        let call = query.call_of_function(Rows::shape(), &params);
        Read::new(query.inner(), call, tags, move || -> LoadFn<Image> {
            let (sql, params) = (query.sql().clone(), params.into_owned());
            Box::new(move || {
                async move {
                    let rows = load(sql, params).await.map_err(of_user)?;
                    Ok(LoadResult::new(rows.into_image(), LoadReport::default()))
                }
                .boxed()
            })
        })
    }

    /// Like [`load`](Bound::load), with a `load` that also reports the tags its result depends on;
    /// see [`Tagged`].
    ///
    /// # Errors
    ///
    /// Those of [`load`](Bound::load).
    pub fn load_tagged<T, E, F, Fut>(self, load: F) -> Read<'q, Arc<T>, impl Loader<Arc<T>>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Tagged<T>, E>> + Send + 'static,
    {
        let call = self.query.call_of_function(<Arc<T>>::shape(), &self.params);
        Read::new(self.query.inner(), call, self.tags, move || -> LoadFn<T> {
            Box::new(move || async move { load().await.map(of_tagged).map_err(of_user) }.boxed())
        })
    }
}

impl Query {
    /// The load of a call that is fetched. `seen`: what is known of it, if it learns.
    pub(super) fn load_of<S: Source>(
        &self,
        source: S,
        params: OwnedParams,
        setup: Option<Arc<Setup<'static>>>,
        seen: Option<Arc<Seen>>,
    ) -> LoadFn<Image> {
        let call = self.call_of_load(params, setup);
        let learns = seen.map(|seen| self.learning_load(seen));
        Box::new(move || match learns {
            None => {
                let rows = postgres::rows(source, call);
                async move { rows.await.map(|rows| LoadResult::new(rows, LoadReport::default())) }
                    .boxed()
            }
            Some(learns) => learns.run(source, call).boxed(),
        })
    }

    pub(super) fn call_of_load(
        &self,
        params: OwnedParams,
        setup: Option<Arc<Setup<'static>>>,
    ) -> Call {
        Call {
            sql: self.sql().clone(),
            params: Arc::new(params),
            setup,
            sets: self.inner().columns.clone(),
            statements: self.inner().statements.clone(),
            questions: None,
        }
    }
}

impl<P> fmt::Debug for Bound<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The parameters are the user's data and are not shown.
        f.debug_struct("Bound").field("sql", &self.query.sql).finish_non_exhaustive()
    }
}
