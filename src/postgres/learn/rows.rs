//! Rows of texts, from a driver's rows whose columns are texts.

use tokio_postgres::Row;

use crate::error::Error;
use crate::learn::TextRow;
use crate::postgres::outdated::of_postgres;

pub(super) fn text_rows(rows: Vec<Row>) -> Result<Vec<TextRow>, Error> {
    let texts = |row: &Row| (0..row.len()).map(|at| row.try_get(at)).collect();
    rows.iter().map(texts).collect::<Result<_, _>>().map_err(of_postgres)
}
