//! [`OwnedRow`]: a row that keeps its result alive.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use tokio_postgres::types::FromSql;

use super::{Column, Row, RowIndex, Rows};
use crate::error::Error;

/// A row that keeps its [`Rows`] alive, as the iterator of owned rows yields it.
///
/// It shares the buffer of the result; a clone costs one reference count.
#[derive(Clone)]
pub struct OwnedRow {
    rows: Rows,
    index: usize,
}

impl OwnedRow {
    /// The row, borrowed, with all of its methods.
    pub fn as_row(&self) -> Row<'_> {
        self.rows.row(self.index)
    }

    /// The columns, in order.
    pub fn columns(&self) -> &[Column] {
        self.rows.columns()
    }

    /// The value of a column, by its number or its name; see [`Row::get`].
    ///
    /// # Panics
    ///
    /// Where [`Row::get`] does.
    #[track_caller]
    pub fn get<'a, I: RowIndex, T: FromSql<'a>>(&'a self, index: I) -> T {
        self.as_row().get(index)
    }

    /// The value of a column, by its number or its name; see [`Row::try_get`].
    ///
    /// # Errors
    ///
    /// Those of [`Row::try_get`].
    pub fn try_get<'a, I: RowIndex, T: FromSql<'a>>(&'a self, index: I) -> Result<T, Error> {
        self.as_row().try_get(index)
    }

    /// Deserializes the row into a `T`; see [`Row::deserialize`].
    ///
    /// # Errors
    ///
    /// Those of [`Row::deserialize`].
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.as_row().deserialize()
    }
}

impl fmt::Debug for OwnedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedRow").field("columns", &self.columns()).finish_non_exhaustive()
    }
}

impl Serialize for OwnedRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_row().serialize(serializer)
    }
}

impl IntoIterator for Rows {
    type Item = OwnedRow;
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter { end: self.len(), rows: self, next: 0 }
    }
}

/// An iterator over the rows of [`Rows`] that it owns, in order.
#[derive(Debug, Clone)]
pub struct IntoIter {
    rows: Rows,
    next: usize,
    end: usize,
}

impl Iterator for IntoIter {
    type Item = OwnedRow;

    fn next(&mut self) -> Option<OwnedRow> {
        if self.next == self.end {
            return None;
        }
        self.next += 1;
        Some(OwnedRow { rows: self.rows.clone(), index: self.next - 1 })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.next, Some(self.end - self.next))
    }
}

impl DoubleEndedIterator for IntoIter {
    fn next_back(&mut self) -> Option<OwnedRow> {
        if self.next == self.end {
            return None;
        }
        self.end -= 1;
        Some(OwnedRow { rows: self.rows.clone(), index: self.end })
    }
}

impl ExactSizeIterator for IntoIter {}
