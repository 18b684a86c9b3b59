//! [`Wrapped`]: a query function that answers from the cache.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::answer::{OnMiss, Read};
use crate::cache::Load;
use crate::error::Error;
use crate::key::Shape;
use crate::param::Params;
use crate::query::{Query, of_user};
use crate::value::Value;

/// A query function behind the cache; what [`Query::wrap`] makes.
///
/// `A` are its parameters, a tuple, and `T` its result. The function's own type does not show, so
/// it can be a field of a struct: `Wrapped<(i64,), UserStats>`. A clone costs a few reference
/// counts; calls from many tasks at once are what it is for.
pub struct Wrapped<A, T> {
    query: Query,
    /// Of `T`; computed once.
    shape: Shape,
    function: Arc<Function<A, T>>,
}

type Function<A, T> = dyn Fn(Arc<str>, A) -> BoxFuture<'static, Result<T, Error>> + Send + Sync;

impl<A, T> Wrapped<A, T>
where
    A: Params + Send + 'static,
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    pub(crate) fn new<E, F, Fut>(query: Query, function: F) -> Wrapped<A, T>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: Fn(Arc<str>, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let function = move |sql, args| {
            let running = function(sql, args);
            async move { running.await.map_err(of_user) }.boxed()
        };
        Wrapped { query, shape: <Arc<T>>::shape(), function: Arc::new(function) }
    }

    /// The function's result for these parameters: from memory, from Redis, or by calling it.
    ///
    /// # Errors
    ///
    /// What the function returned, as the source of an
    /// [`ErrorKind::Query`](crate::ErrorKind::Query); [`Panicked`](crate::ErrorKind::Panicked) and
    /// [`Deadline`](crate::ErrorKind::Deadline). Nothing is cached then.
    pub fn call(&self, args: A) -> Read<'_, Arc<T>, impl OnMiss<Arc<T>>> {
        let key = self.query.key(self.shape, &args);
        Read::new(&self.query, key, move || -> Load<T> {
            let (function, sql) = (self.function.clone(), self.query.sql().clone());
            // Called within the load, so that a panic before the function's first await is caught
            // as well.
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
