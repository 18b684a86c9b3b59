//! [`Row`]: a row of [`Rows`](super::Rows), and [`RowIndex`], the names of its columns.

use std::fmt;

use serde::Deserialize;
use tokio_postgres::types::{FromSql, WrongType};

use super::column::Column;
use super::de;
use super::image::Image;
use crate::error::{BoxError, Error};

/// A row of [`Rows`](super::Rows).
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub(super) image: &'a Image,
    pub(super) index: usize,
}

impl<'a> Row<'a> {
    /// The columns, in order.
    pub fn columns(&self) -> &'a [Column] {
        self.image.columns().columns()
    }

    /// The number of columns.
    pub fn len(&self) -> usize {
        self.columns().len()
    }

    /// Whether the row has no columns.
    pub fn is_empty(&self) -> bool {
        self.columns().is_empty()
    }

    /// The value of a column, by its number or its name.
    ///
    /// # Panics
    ///
    /// If there is no such column, or if its value cannot be read as a `T`, as with
    /// `tokio_postgres::Row::get`. [`try_get`](Row::try_get) does not panic.
    #[track_caller]
    pub fn get<I: RowIndex, T: FromSql<'a>>(&self, index: I) -> T {
        match self.try_get(index) {
            Ok(value) => value,
            Err(error) => panic!("{error}"),
        }
    }

    /// The value of a column, by its number or its name.
    ///
    /// A name matches exactly or, failing that, regardless of ASCII case, as in `tokio_postgres`.
    /// If several columns have the name, the first is read.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Column`](crate::ErrorKind::Column) if there is no such column, if `T` does not
    /// accept the column's type, or if `T` rejects the value. NULL is rejected unless `T` is an
    /// `Option`.
    pub fn try_get<I: RowIndex, T: FromSql<'a>>(&self, index: I) -> Result<T, Error> {
        let Some(at) = index.position(self.columns()) else {
            return Err(Error::column(format!("there is no column {index:?} in the result"), None));
        };
        let column = &self.columns()[at];
        let refused = |source: BoxError| {
            let attempt = format!(
                "column {:?} of type {} cannot be read as {}",
                column.name(),
                column.type_().name(),
                std::any::type_name::<T>()
            );
            Error::column(attempt, Some(source))
        };
        if !T::accepts(column.type_()) {
            let wrong = WrongType::new::<T>(column.type_().clone());
            return Err(refused(wrong.into()));
        }
        T::from_sql_nullable(column.type_(), self.image.cell(self.index, at)).map_err(refused)
    }

    /// The bytes of a column as PostgreSQL sent them; `None` for NULL.
    ///
    /// # Panics
    ///
    /// If there is no such column.
    #[track_caller]
    pub fn raw(&self, column: usize) -> Option<&'a [u8]> {
        self.image.cell(self.index, column)
    }

    /// Deserializes the row into a `T` with serde: into a struct or a map by column name, into a
    /// tuple by column order, or, if there is only one column, into the value itself.
    ///
    /// PostgreSQL's types take the forms that serde formats usually have for them:
    ///
    /// - Numbers, strings and bytes keep their type. Arrays become sequences, and composites become
    ///   maps.
    /// - `json` and `jsonb` become the value that they contain; `null` becomes `None`.
    /// - `numeric` becomes a string, or a number if `T` has a number there.
    /// - `uuid`, dates and times become strings as in RFC 4122 and RFC 3339, intervals as in ISO
    ///   8601. The least and the greatest interval become `-infinity` and `infinity`, as PostgreSQL
    ///   reads their bytes since version 17; to an older server they are finite, some 178 million
    ///   years.
    /// - An enum becomes its label.
    /// - Other types become the string that `::text` gives with the default settings and the time zone
    ///   UTC, such as `[1,5)` for a range and `(1,2)` for a `point`: ranges and multiranges, geometry,
    ///   text search, bits, `timetz`, `macaddr`, `pg_lsn`, `hstore`, `ltree`, and anonymous records of
    ///   PostgreSQL's own types.
    ///
    /// If two columns have the same name, the first is used. A column that the struct does not have
    /// is ignored.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Deserialize`](crate::ErrorKind::Deserialize) if the row does not fit `T`; the
    /// error names the column. Types that have none of these forms (`money`, `regclass`, those of
    /// extensions) are rejected as well: read them with [`get`](Row::get), or cast them to `text`.
    pub fn deserialize<T: Deserialize<'a>>(self) -> Result<T, Error> {
        de::from_row(self)
    }
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("columns", &self.columns()).finish_non_exhaustive()
    }
}

/// An index of a column for [`Row::get`]: a number or a name.
pub trait RowIndex: sealed::Sealed + fmt::Debug {
    #[doc(hidden)]
    fn position(&self, columns: &[Column]) -> Option<usize>;
}

impl RowIndex for usize {
    fn position(&self, columns: &[Column]) -> Option<usize> {
        (*self < columns.len()).then_some(*self)
    }
}

impl RowIndex for str {
    fn position(&self, columns: &[Column]) -> Option<usize> {
        columns
            .iter()
            .position(|column| column.name() == self)
            .or_else(|| columns.iter().position(|column| column.name().eq_ignore_ascii_case(self)))
    }
}

impl RowIndex for String {
    fn position(&self, columns: &[Column]) -> Option<usize> {
        self.as_str().position(columns)
    }
}

impl<I: RowIndex + ?Sized> RowIndex for &I {
    fn position(&self, columns: &[Column]) -> Option<usize> {
        I::position(self, columns)
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for usize {}
    impl Sealed for str {}
    impl Sealed for String {}
    impl<S: Sealed + ?Sized> Sealed for &S {}
}
