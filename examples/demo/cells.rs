//! Results taken apart, to compare what the tiers answer with what PostgreSQL does.

use std::error::Error;

use anyhow::{Result, ensure};
use larder::Rows;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::{FromSql, Type};

/// One value as PostgreSQL sent it; `None` is NULL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Cell(Option<Vec<u8>>);

impl<'a> FromSql<'a> for Cell {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Some(raw.to_vec())))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A whole result: its columns by name and type, and every cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cells {
    columns: Vec<(String, u32)>,
    rows: Vec<Vec<Cell>>,
}

impl Cells {
    /// What the driver returned.
    pub(crate) fn direct(rows: &[tokio_postgres::Row]) -> Self {
        let columns = rows.first().map_or(&[][..], |row| row.columns());
        Self {
            columns: columns.iter().map(|c| (c.name().to_owned(), c.type_().oid())).collect(),
            rows: rows
                .iter()
                .map(|row| (0..row.len()).map(|cell| row.get(cell)).collect())
                .collect(),
        }
    }

    /// What the cache answered.
    pub(crate) fn cached(rows: &Rows) -> Self {
        let columns = rows.columns();
        Self {
            columns: columns.iter().map(|c| (c.name().to_owned(), c.type_().oid())).collect(),
            rows: rows
                .iter()
                .map(|row| (0..row.len()).map(|cell| Cell(row.raw(cell).map(Vec::from))).collect())
                .collect(),
        }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    /// The bytes of all values, without any framing.
    pub(crate) fn bytes(&self) -> u64 {
        let cells = self.rows.iter().flatten();
        cells.map(|cell| cell.0.as_ref().map_or(0, Vec::len) as u64).sum()
    }

    /// Compares with what PostgreSQL itself answered, cell by cell.
    ///
    /// # Errors
    ///
    /// If anything differs, with the place where it does.
    pub(crate) fn ensure_equals(&self, postgres: &Self, tier: &str) -> Result<()> {
        ensure!(
            self.columns == postgres.columns,
            "{tier} answered other columns than PostgreSQL: {:?} instead of {:?}",
            self.columns,
            postgres.columns
        );
        ensure!(
            self.rows.len() == postgres.rows.len(),
            "{tier} answered {} rows, PostgreSQL {}",
            self.rows.len(),
            postgres.rows.len()
        );
        for (number, (row, expected)) in self.rows.iter().zip(&postgres.rows).enumerate() {
            for ((cell, expected), (column, _)) in row.iter().zip(expected).zip(&self.columns) {
                ensure!(
                    cell == expected,
                    "{tier} differs from PostgreSQL in row {number}, column {column}"
                );
            }
        }
        Ok(())
    }
}
