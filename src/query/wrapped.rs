//! [`Wrapped`]: a query function that answers from the cache.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cache::inner::{LoadFn, LoadResult};
use crate::cache::read::{Loader, Read};
use crate::error::Error;
use crate::query::{Query, of_tagged, of_user};
use crate::value::Value;
use crate::value::key::Shape;
use crate::value::param::Params;
use crate::value::tag::Tagged;

/// A query function behind the cache, made by [`Query::wrap`].
///
/// `A` is the tuple of its parameters and `T` is its result. The type of the function does not
/// appear, so a `Wrapped<(i64,), UserStats>` can be a field of a struct. It is made to be called
/// from many tasks at once. A clone costs a few reference counts.
pub struct Wrapped<A, T> {
    query: Query,
    /// The shape of `T`, computed once.
    shape: Shape,
    function: Arc<Function<A, T>>,
}

type Function<A, T> =
    dyn Fn(Arc<str>, A) -> BoxFuture<'static, Result<LoadResult<T>, Error>> + Send + Sync;

impl Query {
    /// Puts the cache in front of a function that runs the query, with any driver and any mapping.
    ///
    /// The function receives the SQL and the tuple of parameters, and returns a future of its
    /// result. The result may be any value that serde can write and read back.
    ///
    /// The cache cannot distinguish functions. Two functions with the same SQL and the same result
    /// type share their results. Give one of them a [`scope`](Query::scope) if they compute
    /// different things.
    ///
    /// The function may read other results from the cache. If it reads its own result, with the
    /// same parameters, it waits for itself until the [deadline](Query::load_deadline).
    ///
    /// ```
    /// # use larder::QueryCache;
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct UserStats { orders: i64 }
    /// # #[derive(Clone)] struct Db;
    /// # impl Db { async fn stats(&self, _: &str, _: i64) -> Result<UserStats, std::io::Error> { Ok(UserStats { orders: 3 }) } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = QueryCache::builder().build().await?;
    /// # let db = Db;
    /// let user_stats = cache
    ///     .query("SELECT count(*) FROM orders WHERE user_id = $1")
    ///     .wrap(move |sql, (user_id,): (i64,)| {
    ///         let db = db.clone();
    ///         async move { db.stats(&sql, user_id).await }
    ///     });
    /// let stats = user_stats.call((42,)).await?;
    /// assert_eq!(stats.orders, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn wrap<A, T, E, F, Fut>(self, function: F) -> Wrapped<A, T>
    where
        A: Params + Send + 'static,
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: Fn(Arc<str>, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        Wrapped::new(self, move |sql, args| {
            let running = function(sql, args);
            async move { running.await.map(Tagged::new) }
        })
    }

    /// Like [`wrap`](Query::wrap), with a state that each call of the function gets a clone of, such as
    /// a pool.
    ///
    /// A hit clones nothing.
    ///
    /// ```
    /// # use larder::QueryCache;
    /// # #[derive(Clone)] struct Pool;
    /// # impl Pool { async fn count(&self, _: &str, _: i64) -> Result<i64, std::io::Error> { Ok(3) } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = QueryCache::builder().build().await?;
    /// # let pool = Pool;
    /// let orders = cache
    ///     .query("SELECT count(*) FROM orders WHERE user_id = $1")
    ///     .wrap_with(pool, |pool, sql, (user_id,): (i64,)| async move { pool.count(&sql, user_id).await });
    /// assert_eq!(*orders.call((42,)).await?, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn wrap_with<S, A, T, E, F, Fut>(self, state: S, function: F) -> Wrapped<A, T>
    where
        S: Clone + Send + Sync + 'static,
        A: Params + Send + 'static,
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: Fn(S, Arc<str>, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.wrap(move |sql, args| function(state.clone(), sql, args))
    }

    /// Like [`wrap`](Query::wrap), with a function that also reports the tags its result depends
    /// on; see [`Tagged`].
    pub fn wrap_tagged<A, T, E, F, Fut>(self, function: F) -> Wrapped<A, T>
    where
        A: Params + Send + 'static,
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: Fn(Arc<str>, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Tagged<T>, E>> + Send + 'static,
    {
        Wrapped::new(self, function)
    }
}

impl<A, T> Wrapped<A, T>
where
    A: Params + Send + 'static,
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn new<E, F, Fut>(query: Query, function: F) -> Wrapped<A, T>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: Fn(Arc<str>, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Tagged<T>, E>> + Send + 'static,
    {
        let function = move |sql, args| {
            let running = function(sql, args);
            async move { running.await.map(of_tagged).map_err(of_user) }.boxed()
        };
        Wrapped { query, shape: <Arc<T>>::shape(), function: Arc::new(function) }
    }

    /// Returns the function's result for these parameters: from memory, from Redis, or by calling
    /// it.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Setting`](crate::ErrorKind::Setting): the query has a role or settings, which
    ///   only [`fetch`](Query::fetch) can set;
    /// - [`ErrorKind::Query`](crate::ErrorKind::Query): the function returned an error, which is
    ///   the source;
    /// - [`Panicked`](crate::ErrorKind::Panicked): the function panicked;
    /// - [`Deadline`](crate::ErrorKind::Deadline): the load exceeded its deadline.
    ///
    /// An error is not cached, unless [`negative_sqlstates`](Query::negative_sqlstates) names its
    /// SQLSTATE.
    pub fn call(&self, args: A) -> Read<'_, Arc<T>, impl Loader<Arc<T>>> {
        let call = self.query.call_of_function(self.shape, &args);
        Read::new(self.query.inner(), call, vec![], move || -> LoadFn<T> {
            let (function, sql) = (self.function.clone(), self.query.sql().clone());
            // Called inside the load, so that a panic before the first await of the function is
            // caught as well.
            Box::new(move || async move { function(sql, args).await }.boxed())
        })
    }
}

impl<A, T> Clone for Wrapped<A, T> {
    fn clone(&self) -> Wrapped<A, T> {
        Wrapped { query: self.query.clone(), shape: self.shape, function: self.function.clone() }
    }
}

impl<A, T> fmt::Debug for Wrapped<A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrapped").field("query", &self.query).finish_non_exhaustive()
    }
}
