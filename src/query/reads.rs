//! The ways to run a [`Query`]. Those without parameters are short forms of the ways to run a
//! [`Bound`].

use std::future::Future;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Bound, Query};
use crate::cache::read::{Loader, Read};
use crate::postgres::Source;
use crate::rows::Rows;
use crate::value::param::{Bind, OwnedParams, Param, Params};
use crate::value::tag::Tagged;

impl Query {
    /// Binds `$1`. Bind further parameters with [`Bound::bind`].
    pub fn bind<V: Param>(&self, value: V) -> Bound<'_, Bind<(), V>> {
        self.params(()).bind(value)
    }

    /// Binds all parameters at once, as a tuple: `(42_i64, "eu")`.
    pub fn params<P: Params>(&self, params: P) -> Bound<'_, P> {
        Bound { query: self, params, tags: vec![] }
    }

    /// Returns the rows of a query without parameters; see [`Bound::fetch`].
    pub fn fetch<S: Source>(&self, source: &S) -> Read<'_, Rows, impl Loader<Rows>> {
        self.params(()).fetch(source)
    }

    /// Returns the value of `load`, for a query without parameters; see [`Bound::load`].
    pub fn load<T, E, F, Fut>(&self, load: F) -> Read<'_, Arc<T>, impl Loader<Arc<T>>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.params(()).load(load)
    }

    /// Returns the rows of `load`, for a query without parameters; see [`Bound::load_rows`].
    pub fn load_rows<E, F, Fut>(&self, load: F) -> Read<'_, Rows, impl Loader<Rows>>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: FnOnce(Arc<str>, OwnedParams) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Rows, E>> + Send + 'static,
    {
        self.params(()).load_rows(load)
    }

    /// Returns the value of `load`, which also reports the tags it depends on; see
    /// [`Bound::load_tagged`].
    pub fn load_tagged<T, E, F, Fut>(&self, load: F) -> Read<'_, Arc<T>, impl Loader<Arc<T>>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Tagged<T>, E>> + Send + 'static,
    {
        self.params(()).load_tagged(load)
    }
}
