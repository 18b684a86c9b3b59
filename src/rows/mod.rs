//! [`Rows`]: a query result in the form that PostgreSQL sent it.

mod cell;
mod column;
mod cursor;
mod de;
mod external;
mod image;
mod index;
mod owned;
mod refused;
mod row;
mod search;
mod ser;
mod split;
mod text;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use tokio_postgres::types::FromSql;

pub use self::column::Column;
pub(crate) use self::column::ColumnSets;
#[cfg(feature = "sqlx")]
pub(crate) use self::column::Described;
#[cfg(test)]
pub(crate) use self::image::tests::image as image_of;
pub(crate) use self::image::{Image, ImageWriter};
pub use self::owned::{IntoIter, OwnedRow};
pub use self::row::{Row, RowIndex};
use crate::error::Error;

/// The rows of a result.
///
/// The cells stay in PostgreSQL's binary form, in one buffer with the names and types of the
/// columns. [`Row::get`] decodes a cell with the same [`FromSql`] as `tokio_postgres::Row::get`, so
/// every type that works there works here, including NULLs, enums, arrays, composites and ranges.
///
/// A clone costs one reference count. All readers of a cached result share one buffer.
///
/// # JSON
///
/// Rows are serialized as an array of objects, with the values as PostgreSQL's `row_to_json` writes
/// them, so that a handler of a web service returns `Json(rows)`. Numbers keep all their digits, `json`
/// is embedded as it is, arrays become arrays and composites objects; dates and times are ISO 8601, with
/// `timestamptz` in UTC; `NaN`, ranges and all else become text. Types without a text form here are
/// errors, as with [`Row::deserialize`]. This is made for `serde_json`: a number is handed over as a
/// [`RawValue`](serde_json::value::RawValue), which other text formats do not know. In a binary format a
/// `numeric` is text. A handler that sends the same rows again and again uses
/// [`fetch_json`](crate::Bound::fetch_json).
///
/// ```no_run
/// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
/// let orders = cache.query("SELECT day, sum(amount)::float8 AS total FROM orders GROUP BY day");
/// let rows = orders.fetch(&pool).await?;
/// for row in &rows {
///     let total: f64 = row.get("total");
///     println!("{total:.2}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Rows(Arc<Image>);

impl Rows {
    pub(crate) fn new(image: Arc<Image>) -> Rows {
        Rows(image)
    }

    /// The image, which shares its bytes with other copies.
    pub(crate) fn into_image(self) -> Image {
        Arc::unwrap_or_clone(self.0)
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.0.rows()
    }

    /// Whether the result has no rows. It still has its columns.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The columns, in order.
    pub fn columns(&self) -> &[Column] {
        self.0.columns().columns()
    }

    /// The size of the result in bytes, columns included: in memory, and as the payload of an entry
    /// in Redis.
    pub fn byte_len(&self) -> usize {
        self.0.bytes().len()
    }

    /// The row with this number, counted from zero; `None` if there is no such row.
    pub fn get(&self, index: usize) -> Option<Row<'_>> {
        (index < self.len()).then_some(Row { image: &self.0, index })
    }

    /// The row with this number, counted from zero.
    ///
    /// # Panics
    ///
    /// If the result has no such row, as when indexing a slice. [`get`](Rows::get) does not panic.
    #[track_caller]
    pub fn row(&self, index: usize) -> Row<'_> {
        match self.get(index) {
            Some(row) => row,
            None => panic!("there is no row {index} in a result of {} rows", self.len()),
        }
    }

    /// The first row, if there is one.
    pub fn first(&self) -> Option<Row<'_>> {
        self.get(0)
    }

    /// The rows, in order.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rows: self, front: 0, back: self.len() }
    }

    /// Deserializes the only row into a `T`; see [`Row::deserialize`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::RowCount`](crate::ErrorKind::RowCount) if there is not exactly one row, or
    /// [`Deserialize`](crate::ErrorKind::Deserialize) if it does not fit `T`.
    pub fn one<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        self.only_row()?.deserialize()
    }

    /// Deserializes the only row into a `T`; `None` if there is no row.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::RowCount`](crate::ErrorKind::RowCount) if there are several rows, or
    /// [`Deserialize`](crate::ErrorKind::Deserialize) if the row does not fit `T`.
    pub fn optional<'a, T: Deserialize<'a>>(&'a self) -> Result<Option<T>, Error> {
        match self.len() {
            0 => Ok(None),
            1 => self.row(0).deserialize().map(Some),
            rows => Err(Error::row_count(rows, "at most one")),
        }
    }

    /// The only value: of the only column of the only row. It is read as by [`Row::get`], so it may
    /// be of every type that `tokio_postgres` reads.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::RowCount`](crate::ErrorKind::RowCount) if there is not exactly one row, or
    /// [`Column`](crate::ErrorKind::Column) if there is not exactly one column or it cannot be read
    /// as a `T`.
    pub fn scalar<'a, T: FromSql<'a>>(&'a self) -> Result<T, Error> {
        match self.columns().len() {
            1 => self.only_row()?.try_get(0),
            columns => Err(Error::column_count(columns)),
        }
    }

    fn only_row(&self) -> Result<Row<'_>, Error> {
        match self.len() {
            1 => Ok(self.row(0)),
            rows => Err(Error::row_count(rows, "exactly one")),
        }
    }

    /// The rows as JSON. It is made once and kept with the image, for all who share it. Also returns
    /// whether it was made now.
    pub(crate) fn json(&self) -> (Result<Bytes, Error>, bool) {
        let mut is_new = false;
        let json = self.0.json_or_make(|| {
            is_new = true;
            serde_json::to_vec(self).map(Bytes::from).map_err(|it| Error::json(&it.to_string()))
        });
        (json, is_new)
    }

    pub(crate) fn is_of(&self, image: &Arc<Image>) -> bool {
        Arc::ptr_eq(&self.0, image)
    }

    /// Deserializes every row into a `T`; see [`Row::deserialize`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Deserialize`](crate::ErrorKind::Deserialize) for the first row that does not
    /// fit `T`.
    pub fn deserialize<'a, T: Deserialize<'a>>(&'a self) -> Result<Vec<T>, Error> {
        self.iter().map(Row::deserialize).collect()
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows")
            .field("rows", &self.len())
            .field("columns", &self.columns())
            .finish_non_exhaustive()
    }
}

/// Two results are equal if their columns and the bytes of all their cells are equal.
impl PartialEq for Rows {
    fn eq(&self, other: &Rows) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.bytes() == other.0.bytes()
    }
}

impl Eq for Rows {}

impl<'a> IntoIterator for &'a Rows {
    type Item = Row<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// An iterator over the rows of [`Rows`], in order.
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    rows: &'a Rows,
    front: usize,
    back: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Row<'a>;

    fn next(&mut self) -> Option<Row<'a>> {
        if self.front == self.back {
            return None;
        }
        self.front += 1;
        self.rows.get(self.front - 1)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.back - self.front, Some(self.back - self.front))
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front == self.back {
            return None;
        }
        self.back -= 1;
        self.rows.get(self.back)
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        let sets = ColumnSets::default();
        let cell = |number: i32| Some(number.to_be_bytes().to_vec());
        let image = image::tests::image(&sets, 2, &[vec![cell(1), None], vec![cell(2), cell(3)]]);
        Rows::new(Arc::new(image))
    }

    #[test]
    fn columns_are_found_by_number_by_name_and_by_name_in_another_case() {
        let rows = rows();
        assert_eq!(rows.row(0).get::<_, i32>(0), 1);
        assert_eq!(rows.row(1).get::<_, i32>("c1"), 3);
        assert_eq!(rows.row(1).get::<_, i32>("C1"), 3);
        assert_eq!(rows.row(1).get::<_, i32>(String::from("c0")), 2);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let rows = rows();
        let row = rows.row(0);
        let message = |error: Error| error.to_string();
        assert_eq!(
            message(row.try_get::<_, i32>("total").unwrap_err()),
            "there is no column \"total\" in the result"
        );
        assert_eq!(
            message(row.try_get::<_, String>(0).unwrap_err()),
            "column \"c0\" of type int4 cannot be read as alloc::string::String"
        );
        assert_eq!(
            message(row.try_get::<_, i32>(1).unwrap_err()),
            "column \"c1\" of type int4 cannot be read as i32: a Postgres value was `NULL`"
        );
        assert_eq!(row.try_get::<_, Option<i32>>(1).unwrap(), None);
        assert!(row.try_get::<_, i32>(2).is_err());
    }

    #[test]
    fn rows_are_iterated_from_both_ends() {
        let rows = rows();
        let firsts: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
        let backwards: Vec<i32> = rows.iter().rev().map(|row| row.get(0)).collect();
        assert_eq!((firsts, backwards), (vec![1, 2], vec![2, 1]));
        assert_eq!(rows.iter().len(), 2);
        assert!(rows.get(2).is_none());
    }

    #[test]
    #[should_panic(expected = "there is no row 2 in a result of 2 rows")]
    fn a_row_beyond_the_end_panics_with_the_numbers() {
        rows().row(2);
    }
}
