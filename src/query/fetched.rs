//! What is made of fetched rows in the same call: one row, one value, JSON.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio_postgres::types::FromSqlOwned;

use super::{Bound, BoundWith, Query};
use crate::cache::read::{Loader, Read};
use crate::error::Error;
use crate::l1::entry::Entry;
use crate::postgres::Source;
use crate::rows::{Image, Rows};
use crate::value::param::SqlParams;

impl<P: SqlParams> Bound<'_, P> {
    /// [Fetches](Bound::fetch) the rows and deserializes the only one into a `T`; see
    /// [`Rows::one`].
    ///
    /// ```no_run
    /// #[derive(serde::Deserialize)]
    /// struct Totals { orders: i64, cents: Option<i64> }
    ///
    /// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
    /// let query = cache.query("SELECT count(*) AS orders, sum(cents)::int8 AS cents FROM orders WHERE region = $1");
    /// let totals: Totals = query.bind("eu").fetch_one(&pool).await?;
    /// # let _ = (totals.orders, totals.cents);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The row is deserialized at each call. For a value that memory holds as it is, see
    /// [`wrap`](Query::wrap).
    ///
    /// # Errors
    ///
    /// Those of [`fetch`](Bound::fetch) and of [`Rows::one`]: it is an error if there is not exactly
    /// one row.
    pub async fn fetch_one<T: DeserializeOwned>(self, source: &impl Source) -> Result<T, Error> {
        let query = self.query;
        query.made_of(self.fetch(source).await?, |rows| rows.one())
    }

    /// [Fetches](Bound::fetch) the rows and deserializes the only one into a `T`; `None` if there is
    /// no row. See [`Rows::optional`].
    ///
    /// # Errors
    ///
    /// Those of [`fetch`](Bound::fetch) and of [`Rows::optional`]: it is an error if there are several
    /// rows.
    pub async fn fetch_optional<T: DeserializeOwned>(
        self,
        source: &impl Source,
    ) -> Result<Option<T>, Error> {
        let query = self.query;
        query.made_of(self.fetch(source).await?, |rows| rows.optional())
    }

    /// [Fetches](Bound::fetch) the rows and returns their only value, such as a count; see
    /// [`Rows::scalar`].
    ///
    /// ```no_run
    /// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
    /// let count: i64 = cache.query("SELECT count(*) FROM orders").fetch_scalar(&pool).await?;
    /// # let _ = count;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`fetch`](Bound::fetch) and of [`Rows::scalar`]: it is an error if there is not exactly
    /// one row with one column.
    pub async fn fetch_scalar<T: FromSqlOwned>(self, source: &impl Source) -> Result<T, Error> {
        let query = self.query;
        query.made_of(self.fetch(source).await?, |rows| rows.scalar())
    }

    /// [Fetches](Bound::fetch) the rows as JSON, for a handler that sends them as they are: an array
    /// of objects, with the values as PostgreSQL's `row_to_json` writes them; see
    /// [`Rows`](Rows#json).
    ///
    /// The JSON is made once and kept with the result in the memory of this process, where it counts
    /// towards [`max_bytes`](crate::QueryCacheBuilder::max_bytes). From then on a hit copies nothing,
    /// however large it is.
    ///
    /// # Errors
    ///
    /// Those of [`fetch`](Bound::fetch), and [`ErrorKind::Json`](crate::ErrorKind::Json) if a value has
    /// no form in JSON.
    pub async fn fetch_json(self, source: &impl Source) -> Result<Bytes, Error> {
        let query = self.query;
        query.json_of(self.fetch(source)).await
    }
}

impl<P: SqlParams> BoundWith<'_, P> {
    /// See [`Bound::fetch_one`].
    ///
    /// # Errors
    ///
    /// Those of [`fetch`](BoundWith::fetch) and of [`Rows::one`].
    pub async fn fetch_one<T: DeserializeOwned>(self, source: &impl Source) -> Result<T, Error> {
        let query = self.bound.query;
        query.made_of(self.fetch(source).await?, |rows| rows.one())
    }

    /// See [`Bound::fetch_optional`].
    ///
    /// # Errors
    ///
    /// Those of [`fetch`](BoundWith::fetch) and of [`Rows::optional`].
    pub async fn fetch_optional<T: DeserializeOwned>(
        self,
        source: &impl Source,
    ) -> Result<Option<T>, Error> {
        let query = self.bound.query;
        query.made_of(self.fetch(source).await?, |rows| rows.optional())
    }

    /// See [`Bound::fetch_scalar`].
    ///
    /// # Errors
    ///
    /// Those of [`fetch`](BoundWith::fetch) and of [`Rows::scalar`].
    pub async fn fetch_scalar<T: FromSqlOwned>(self, source: &impl Source) -> Result<T, Error> {
        let query = self.bound.query;
        query.made_of(self.fetch(source).await?, |rows| rows.scalar())
    }

    /// See [`Bound::fetch_json`].
    ///
    /// # Errors
    ///
    /// Those of [`fetch`](BoundWith::fetch), and [`ErrorKind::Json`](crate::ErrorKind::Json).
    pub async fn fetch_json(self, source: &impl Source) -> Result<Bytes, Error> {
        let query = self.bound.query;
        query.json_of(self.fetch(source)).await
    }
}

impl Query {
    /// For a query without parameters; see [`Bound::fetch_one`].
    ///
    /// # Errors
    ///
    /// Those of [`Bound::fetch_one`].
    pub async fn fetch_one<T: DeserializeOwned>(&self, source: &impl Source) -> Result<T, Error> {
        self.params(()).fetch_one(source).await
    }

    /// For a query without parameters; see [`Bound::fetch_optional`].
    ///
    /// # Errors
    ///
    /// Those of [`Bound::fetch_optional`].
    pub async fn fetch_optional<T: DeserializeOwned>(
        &self,
        source: &impl Source,
    ) -> Result<Option<T>, Error> {
        self.params(()).fetch_optional(source).await
    }

    /// For a query without parameters; see [`Bound::fetch_scalar`].
    ///
    /// # Errors
    ///
    /// Those of [`Bound::fetch_scalar`].
    pub async fn fetch_scalar<T: FromSqlOwned>(&self, source: &impl Source) -> Result<T, Error> {
        self.params(()).fetch_scalar(source).await
    }

    /// For a query without parameters; see [`Bound::fetch_json`].
    ///
    /// # Errors
    ///
    /// Those of [`Bound::fetch_json`].
    pub async fn fetch_json(&self, source: &impl Source) -> Result<Bytes, Error> {
        self.params(()).fetch_json(source).await
    }

    fn made_of<T>(
        &self,
        rows: Rows,
        make: impl FnOnce(&Rows) -> Result<T, Error>,
    ) -> Result<T, Error> {
        make(&rows).map_err(|error| self.named(error))
    }

    async fn json_of(&self, read: Read<'_, Rows, impl Loader<Rows>>) -> Result<Bytes, Error> {
        let key = read.key();
        let rows = read.await?;
        let (json, is_new) = rows.json();
        if is_new && let (Ok(json), Some(key)) = (&json, key) {
            let is_it =
                |entry: &Entry| entry.value::<Image>().is_some_and(|image| rows.is_of(&image));
            self.inner().l1.grow(&key, json.len(), is_it);
        }
        // The result may have been loaded by a query of another name.
        json.map_err(|error| self.named(error))
    }
}
