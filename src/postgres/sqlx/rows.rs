//! Rows of texts.

use ::sqlx::Row;
use ::sqlx::postgres::PgRow;

use super::of_sqlx;
use crate::error::Error;
use crate::learn::TextRow;

/// Rows whose columns are texts.
pub(super) fn text_rows(rows: &[PgRow]) -> Result<Vec<TextRow>, Error> {
    let texts = |row: &PgRow| (0..row.len()).map(|at| row.try_get(at)).collect();
    rows.iter().map(texts).collect::<Result<_, _>>().map_err(of_sqlx)
}
