//! `rows[0]`, which cannot be, and whose error says what to write.

use std::ops::Index;

use super::{OwnedRow, Rows};

/// What rows could be indexed with: nothing.
#[diagnostic::on_unimplemented(
    message = "rows are not indexed",
    label = "an index would have to be a reference to a row, and rows are cells in one buffer",
    note = "write `rows.row(0)`, which panics like an index, or `rows.get(0)`, which returns an `Option`"
)]
pub trait RowsAreNotIndexed {
    #[doc(hidden)]
    fn row_of(self, rows: &Rows) -> &OwnedRow;
}

#[doc(hidden)]
impl<I: RowsAreNotIndexed> Index<I> for Rows {
    type Output = OwnedRow;

    fn index(&self, index: I) -> &OwnedRow {
        index.row_of(self)
    }
}
