//! [`Grouped`], and [`Batch::load_many`]: batches whose missing results are loaded by one query.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_postgres::types::{Kind as TypeKind, ToSql, Type};

use super::batch::{Batch, Kind, ReadMany};
use super::of_user;
use crate::cache::gather::LoadMany;
use crate::cache::many::Loads;
use crate::error::{BoxError, Error};
use crate::postgres::{self, Source};
use crate::rows::{Image, Row, RowIndex, Rows};
use crate::value::key::{CacheKey, KeyHasher};
use crate::value::param::{
    List, OwnedParams, Param, Params, SqlParam, SqlParams, bytes_of, identity,
};

/// A [`Batch`] whose missing results are loaded by one query, which is given the values as a list; made
/// by [`Batch::by_column`] and [`Batch::by`].
#[must_use = "a batch does nothing until it is fetched"]
pub struct Grouped<'q, P, V> {
    batch: Batch<'q, P, V>,
    by: By,
}

/// What a row belongs to.
#[derive(Clone)]
enum By {
    Column(Arc<str>),
    Function(ValueOf),
}

/// The identity of the value that a row belongs to.
type ValueOf = Arc<dyn Fn(Row<'_>) -> CacheKey + Send + Sync>;

impl<'q, P, V> Batch<'q, P, V> {
    /// Assigns the rows of one query to the values by a column: the query has the value as a list
    /// (`= ANY($1)`), and each of its rows has in this column the value that it belongs to.
    ///
    /// The result of a value is that of the query with a list of this value alone, and has the same
    /// key: `bind([7_i64]).fetch(..)` and the value 7 of a batch share it. So the rows of a value must
    /// not depend on the other values: no `LIMIT` over all of them, no aggregate but one that is grouped
    /// by this column. Their order is that of the query. A value without rows has an empty result, which
    /// is cached, too; see [`negative_ttl`](crate::Query::negative_ttl).
    ///
    /// The column's value and the value that was bound must be the same to the byte. This is so for
    /// integers, `bool`, text, `bytea`, `uuid`, dates and times, enums, and domains over them. It is not
    /// for text under a collation that takes different texts for equal. A column of another type is an
    /// error, and so is a row that belongs to none of the values: see [`by`](Batch::by).
    pub fn by_column(self, column: impl Into<String>) -> Grouped<'q, P, V> {
        Grouped { batch: self, by: By::Column(column.into().into()) }
    }

    /// Assigns the rows of one query to the values by a function that returns the value that a row
    /// belongs to; otherwise like [`by_column`](Batch::by_column).
    ///
    /// What it returns is compared with the values as parameters are: types count, and `1.0` and `1.00`
    /// are different. If it panics, all keys that the query is run for fail.
    ///
    /// ```no_run
    /// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
    /// let accounts = cache.query("SELECT lower(email) AS email, id FROM accounts WHERE lower(email) = ANY($1)");
    /// let found = accounts
    ///     .bind_many(["ada@example.org", "bob@example.org"])
    ///     .by(|row| row.get::<_, String>("email").to_lowercase())
    ///     .fetch(&pool)
    ///     .await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn by<K: Param>(
        self,
        value_of: impl Fn(Row<'_>) -> K + Send + Sync + 'static,
    ) -> Grouped<'q, P, V> {
        let value_of: ValueOf = Arc::new(move |row| identity(&value_of(row)));
        Grouped { batch: self, by: By::Function(value_of) }
    }
}

impl<'q, P: Params + Send + 'q, V: Param + Send + 'q> Batch<'q, P, V> {
    /// Returns a result for each value: from memory, from Redis, or by running `load` once for all
    /// values that are missing.
    ///
    /// `load` receives these values, each once, and returns a result for each, with its value and in any
    /// order. A value without one has the default, such as an empty `Vec`, which is cached, too. The keys
    /// are those of [`load_each`](Batch::load_each).
    ///
    /// If `load` fails for a reason that may lie in one of the values, by its
    /// [SQLSTATE](crate::Error::sqlstate), it is run again for fewer values, so that one of them spoils no
    /// other.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = larder::QueryCache::builder().build().await?;
    /// let orders = cache.query("SELECT user_id, count(*) FROM orders WHERE user_id = ANY($1) GROUP BY 1");
    /// let counts = orders.bind_many([7_i64, 8, 7]).load_many(|users| async move {
    ///     // Here you run the query for `users`, with any driver.
    ///     assert_eq!(users, [7, 8]);
    ///     Ok::<_, std::io::Error>([(7_i64, 3_u32)])
    /// });
    /// let counts: Vec<u32> = counts.await.into_iter().map(|it| it.map(|it| *it)).collect::<Result<_, _>>()?;
    /// assert_eq!(counts, [3, 0, 3]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// For each value, those of [`Bound::load`](crate::Bound::load), and [`ErrorKind::Column`](crate::ErrorKind::Column) if
    /// `load` returns a value that it was not given, or one twice.
    pub fn load_many<T, K, R, E, F, Fut>(self, load: F) -> ReadMany<'q, Arc<T>>
    where
        V: Clone + Sync + 'static,
        K: Param,
        T: Default + Serialize + DeserializeOwned + Send + Sync + 'static,
        R: IntoIterator<Item = (K, T)>,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
        F: Fn(Vec<V>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.read::<Arc<T>>(Kind::FUNCTION, move |_, values| {
            Loads::Together(load_by_function(values, load))
        })
    }
}

impl<'q, P: Params + Send + 'q, V: Param + Send + 'q> Grouped<'q, P, V> {
    /// Returns the rows of each value: from memory, from Redis, or from PostgreSQL through `source`, by
    /// one query for all values that are missing.
    ///
    /// If the query fails for a reason that may lie in one of the values, by its
    /// [SQLSTATE](crate::Error::sqlstate), it is run again for fewer values, so that one of them spoils no
    /// other.
    ///
    /// # Errors
    ///
    /// For each value, those of [`Bound::fetch`](crate::Bound::fetch), and
    /// [`ErrorKind::Column`](crate::ErrorKind::Column) if a row cannot be assigned to a value.
    pub fn fetch<S: Source>(self, source: &S) -> ReadMany<'q, Rows>
    where
        P: SqlParams + Clone,
        V: SqlParam,
    {
        let Grouped { batch, by } = self;
        let source = source.clone();
        batch.read::<Rows>(Kind::FETCH_LIST, move |batch, values| {
            let before = Arc::new(batch.params().clone().into_owned());
            let call = batch.query().call_of_load(OwnedParams::none(), batch.setup());
            let identities: Arc<[CacheKey]> = match &by {
                By::Column(_) => Arc::default(),
                By::Function(_) => values.iter().map(identity).collect(),
            };
            let values: Arc<Vec<V::Owned>> =
                Arc::new(values.into_iter().map(V::into_owned).collect());
            Loads::Together(Arc::new(move |positions: Vec<usize>| {
                let params = before.and(List::new(values.clone(), positions.clone()));
                let call = postgres::Call { params: Arc::new(params), ..call.clone() };
                let rows = postgres::rows(source.clone(), call);
                let (by, values, identities) = (by.clone(), values.clone(), identities.clone());
                async move {
                    let rows = Rows::new(Arc::new(rows.await?));
                    match by {
                        By::Column(column) => by_column(&rows, &column, &values, &positions),
                        By::Function(value_of) => {
                            let of = positions.iter().map(|&at| identities[at]);
                            by_function(&rows, &*value_of, of)
                        }
                    }
                }
                .boxed()
            }))
        })
    }
}

impl<P, V> fmt::Debug for Grouped<'_, P, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grouped").field("batch", &self.batch).finish_non_exhaustive()
    }
}

fn by_column<T: ToSql + 'static>(
    rows: &Rows,
    column: &str,
    values: &[T],
    positions: &[usize],
) -> Result<Vec<Image>, Error> {
    let Some(at) = column.position(rows.columns()) else {
        return Err(Error::no_column_of_keys(column));
    };
    let type_ = rows.columns()[at].type_();
    let refused = |why: &str| Error::column_of_keys(column, type_.name(), why);
    if !has_one_form(type_) {
        return Err(refused("equal values of this type may have different bytes"));
    }
    // Several values may be one to PostgreSQL.
    let mut parts: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for (part, &position) in positions.iter().enumerate() {
        let bytes = bytes_of(&values[position], type_);
        let bytes = bytes.map_err(|error: BoxError| {
            if error.is::<tokio_postgres::types::WrongType>() {
                refused("the values are not of this type")
            } else {
                refused("a value cannot be written in this type")
            }
        })?;
        if let Some(bytes) = bytes {
            parts.entry(bytes.to_vec()).or_default().push(part);
        }
    }
    rows.split(positions.len(), |row| {
        let parts = row.raw(at).and_then(|bytes| parts.get(bytes));
        parts.map(|parts| &**parts).ok_or_else(|| Error::of_no_value("the query returned a row"))
    })
}

/// Whether two values of the type are equal only if their bytes are.
fn has_one_form(type_: &Type) -> bool {
    match type_.kind() {
        TypeKind::Domain(of) => has_one_form(of),
        TypeKind::Enum(_) => true,
        _ => [
            Type::BOOL,
            Type::CHAR,
            Type::INT2,
            Type::INT4,
            Type::INT8,
            Type::OID,
            Type::TEXT,
            Type::VARCHAR,
            Type::NAME,
            Type::BYTEA,
            Type::UUID,
            Type::DATE,
            Type::TIME,
            Type::TIMESTAMP,
            Type::TIMESTAMPTZ,
        ]
        .contains(type_),
    }
}

fn by_function(
    rows: &Rows,
    value_of: &(dyn Fn(Row<'_>) -> CacheKey + Send + Sync),
    values: impl ExactSizeIterator<Item = CacheKey>,
) -> Result<Vec<Image>, Error> {
    let count = values.len();
    let parts: HashMap<CacheKey, [usize; 1], KeyHasher> =
        values.enumerate().map(|(part, value)| (value, [part])).collect();
    rows.split(count, |row| {
        let part = parts.get(&value_of(row));
        part.map(|part| &part[..]).ok_or_else(|| Error::of_no_value("the query returned a row"))
    })
}

/// The loads of values by one call of a function.
fn load_by_function<V, K, T, R, E, F, Fut>(values: Vec<V>, function: F) -> LoadMany<T>
where
    V: Param + Clone + Send + Sync + 'static,
    K: Param,
    T: Default + Send + 'static,
    R: IntoIterator<Item = (K, T)>,
    E: Into<BoxError> + 'static,
    F: Fn(Vec<V>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, E>> + Send + 'static,
{
    let (values, function) = (Arc::new(values), Arc::new(function));
    Arc::new(move |positions: Vec<usize>| {
        let (values, function) = (values.clone(), function.clone());
        async move {
            let asked: Vec<V> = positions.iter().map(|&at| values[at].clone()).collect();
            let parts: HashMap<CacheKey, usize, KeyHasher> =
                asked.iter().enumerate().map(|(part, value)| (identity(value), part)).collect();
            let mut results: Vec<Option<T>> = asked.iter().map(|_| None).collect();
            let returned = function(asked);
            for (value, result) in returned.await.map_err(of_user)? {
                let Some(&part) = parts.get(&identity(&value)) else {
                    return Err(Error::of_no_value("the function returned a result"));
                };
                if results[part].replace(result).is_some() {
                    return Err(Error::repeated_value());
                }
            }
            Ok(results.into_iter().map(Option::unwrap_or_default).collect())
        }
        .boxed()
    })
}
