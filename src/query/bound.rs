//! [`Bound`]: a query with its parameters.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Query, of_user};
use crate::cache::inner::LoadFn;
use crate::cache::read::{Loader, Read};
use crate::postgres::{self, Source};
use crate::rows::{Image, Rows};
use crate::value::Value;
use crate::value::param::{Bind, Param, Params, SqlParams};
use crate::value::tag::Tagged;

/// A [`Query`] with its parameters.
#[derive(Clone, Copy)]
#[must_use = "a bound query does nothing until it is fetched or loaded"]
pub struct Bound<'q, P> {
    pub(super) query: &'q Query,
    pub(super) params: P,
}

impl<'q, P: Params> Bound<'q, P> {
    /// Binds the next parameter.
    pub fn bind<V: Param>(self, value: V) -> Bound<'q, Bind<P, V>> {
        Bound { query: self.query, params: Bind(self.params, value) }
    }

    /// The rows of the query: from memory, from Redis, or from PostgreSQL through `source`.
    ///
    /// `source` is a [`deadpool_postgres::Pool`] or an `Arc` of a [`tokio_postgres::Client`]; see
    /// [`Source`]. A transaction is neither, and must not be: it may see what others do not see,
    /// and would fill the cache with it. Run its queries on itself, past the cache.
    ///
    /// # Errors
    ///
    /// PostgreSQL's own error, as [`ErrorKind::Query`](crate::ErrorKind::Query);
    /// [`Connect`](crate::ErrorKind::Connect) if the pool gives no connection, and
    /// [`Deadline`](crate::ErrorKind::Deadline). Nothing is cached then.
    pub fn fetch<S: Source>(self, source: &S) -> Read<'q, Rows, impl Loader<Rows>>
    where
        P: SqlParams,
    {
        let query = self.query;
        let call = query.call(Rows::shape(), &self.params);
        Read::new(query.inner(), call, move || -> LoadFn<Image> {
            let (source, sql) = (source.clone(), query.sql().clone());
            let (params, sets) = (self.params.into_owned(), query.inner().columns.clone());
            Box::new(move || {
                let rows = postgres::rows(source, sql, params, sets);
                async move { rows.await.map(|rows| (rows, vec![])) }.boxed()
            })
        })
    }

    /// The value that `load` makes: from memory, from Redis, or by running it.
    ///
    /// `load` gets no arguments: what it needs, it captures. The parameters only name its result.
    ///
    /// # Errors
    ///
    /// What `load` returned, as the source of an [`ErrorKind::Query`](crate::ErrorKind::Query);
    /// [`Panicked`](crate::ErrorKind::Panicked) and [`Deadline`](crate::ErrorKind::Deadline).
    /// Nothing is cached then.
    pub fn load<T, E, F, Fut>(self, load: F) -> Read<'q, Arc<T>, impl Loader<Arc<T>>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.load_tagged(move || async move { load().await.map(Tagged::new) })
    }

    /// The same with a `load` that reports what its result depends on; see [`Tagged`].
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
        let call = self.query.call(<Arc<T>>::shape(), &self.params);
        Read::new(self.query.inner(), call, move || -> LoadFn<T> {
            Box::new(move || {
                async move { load().await.map(Tagged::into_parts).map_err(of_user) }.boxed()
            })
        })
    }
}

impl<P> fmt::Debug for Bound<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the parameters: they are the user's data.
        f.debug_struct("Bound").field("sql", &self.query.sql).finish_non_exhaustive()
    }
}
