//! [`Image`]: a result in one buffer, with the same layout in memory and in Redis.
//!
//! ```text
//! 0    4   length of the columns, in bytes      all numbers little-endian
//! 4    4   number of rows
//! 8    4   length of the cells, in bytes
//! 12   …   columns (column.rs)
//!      …   cells, as PostgreSQL sent them, one after the other
//!      …   ends: for each cell, row by row, 32 bits: where it ends, counted from the
//!          first cell; the highest bit is set if it is NULL
//! ```
//!
//! The ends come last so that a load can write the cells as they arrive. A cell begins where the
//! previous one ends, so reading two numbers locates any cell.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio_postgres::types::{FromSql, Type};

use super::column::{ColumnSet, ColumnSets};
use super::cursor::Cursor;
use crate::error::{BoxError, Error};

const PREFIX: usize = 12;
const NULL: u32 = 1 << 31;

/// Public only because public signatures contain it; users of the crate cannot name it.
#[derive(Clone)]
pub struct Image {
    bytes: Bytes,
    columns: Arc<ColumnSet>,
    rows: usize,
    cells: Range<usize>,
    is_storable: bool,
    /// The rows as JSON, once somebody has asked for them.
    json: OnceLock<Result<Bytes, Error>>,
}

impl Image {
    /// Marks rows that may be older than they seem, which no tier may keep.
    pub(crate) fn not_to_be_stored(mut self) -> Image {
        self.is_storable = false;
        self
    }

    pub(crate) fn is_storable(&self) -> bool {
        self.is_storable
    }

    pub(crate) fn columns(&self) -> &ColumnSet {
        &self.columns
    }

    /// A writer of rows with the same columns.
    pub(super) fn writer(&self) -> ImageWriter {
        ImageWriter::new(self.columns.clone())
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What `make` returned when it was first called. Others who ask meanwhile wait for it.
    pub(super) fn json_or_make(
        &self,
        make: impl FnOnce() -> Result<Bytes, Error>,
    ) -> Result<Bytes, Error> {
        self.json.get_or_init(make).clone()
    }

    /// The bytes of a cell, or `None` if it is NULL.
    ///
    /// # Panics
    ///
    /// If there is no such row or column.
    pub(crate) fn cell(&self, row: usize, column: usize) -> Option<&[u8]> {
        let width = self.columns.columns().len();
        assert!(row < self.rows && column < width, "no such cell");
        let ends = &self.bytes[self.cells.end..];
        let index = row * width + column;
        let end_of = |index: usize| {
            let end: [u8; 4] = ends[4 * index..4 * index + 4].try_into().expect("four bytes");
            u32::from_le_bytes(end)
        };
        let end = end_of(index);
        if end & NULL != 0 {
            return None;
        }
        let start = if index == 0 { 0 } else { end_of(index - 1) & !NULL };
        Some(&self.bytes[self.cells.start..self.cells.end][start as usize..end as usize])
    }

    /// Decodes bytes that come from outside.
    ///
    /// Returns `None` unless all cells lie within the bytes. Reading a cell of a decoded image
    /// therefore never panics.
    pub(crate) fn decode(bytes: Bytes, sets: &ColumnSets) -> Option<Image> {
        let mut cursor = Cursor::new(&bytes);
        let columns = cursor.u32()? as usize;
        let rows = cursor.u32()? as usize;
        let cells = cursor.u32()? as usize;
        let columns = cursor.take(columns)?;
        let start = PREFIX + columns.len();
        cursor.take(cells)?;
        let columns = sets.decode(columns)?;
        let ends = rows.checked_mul(columns.columns().len())?;
        let ends = cursor.take(ends.checked_mul(4)?)?;
        if !cursor.is_empty() {
            return None;
        }
        let mut last = 0;
        let mut ascending = true;
        for end in ends.chunks_exact(4) {
            let end = u32::from_le_bytes(end.try_into().expect("four bytes")) & !NULL;
            // No early return: without one, the loop has no branch and runs at memory speed.
            ascending &= last <= end;
            last = end;
        }
        (ascending && last as usize == cells).then_some(Image {
            rows,
            cells: start..start + cells,
            columns,
            bytes,
            is_storable: true,
            json: OnceLock::new(),
        })
    }
}

/// Builds an image from rows as they arrive.
pub(crate) struct ImageWriter {
    bytes: Vec<u8>,
    ends: Vec<u8>,
    rows: usize,
    columns: Arc<ColumnSet>,
    start: usize,
}

impl ImageWriter {
    pub(crate) fn new(columns: Arc<ColumnSet>) -> ImageWriter {
        let mut bytes = vec![0; PREFIX];
        bytes.extend_from_slice(columns.encoded());
        ImageWriter { start: bytes.len(), bytes, ends: vec![], rows: 0, columns }
    }

    pub(crate) fn push(&mut self, row: &tokio_postgres::Row) -> Result<(), Error> {
        for index in 0..self.columns.columns().len() {
            let cell: Option<RawCell<'_>> =
                row.try_get(index).map_err(|error| Error::query(error.into()))?;
            self.push_cell(cell.map(|cell| cell.0))?;
        }
        self.end_row()
    }

    pub(crate) fn push_cells<'c>(
        &mut self,
        cells: impl Iterator<Item = Option<&'c [u8]>>,
    ) -> Result<(), Error> {
        for cell in cells {
            self.push_cell(cell)?;
        }
        self.end_row()
    }

    fn push_cell(&mut self, cell: Option<&[u8]>) -> Result<(), Error> {
        self.bytes.extend_from_slice(cell.unwrap_or_default());
        let end = u32::try_from(self.bytes.len() - self.start).map_err(|_| Error::too_large())?;
        if end >= NULL {
            return Err(Error::too_large());
        }
        let null = if cell.is_none() { NULL } else { 0 };
        self.ends.extend_from_slice(&(end | null).to_le_bytes());
        Ok(())
    }

    fn end_row(&mut self) -> Result<(), Error> {
        self.rows += 1;
        if u32::try_from(self.rows).is_err() { Err(Error::too_large()) } else { Ok(()) }
    }

    pub(crate) fn finish(self) -> Image {
        let ImageWriter { mut bytes, ends, rows, columns, start } = self;
        let cells = start..bytes.len();
        for (at, number) in [(0, start - PREFIX), (4, rows), (8, cells.len())] {
            let number = u32::try_from(number).expect("checked while writing");
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        bytes.reserve_exact(ends.len());
        bytes.extend_from_slice(&ends);
        bytes.shrink_to_fit();
        let json = OnceLock::new();
        Image { bytes: bytes.into(), columns, rows, cells, is_storable: true, json }
    }
}

/// The bytes of a cell of any type.
struct RawCell<'a>(&'a [u8]);

impl<'a> FromSql<'a> for RawCell<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, BoxError> {
        Ok(RawCell(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An image of `int4` columns named `c0`, `c1`, … whose cells have any bytes.
    pub(crate) fn image(sets: &ColumnSets, width: u32, rows: &[Vec<Option<Vec<u8>>>]) -> Image {
        let mut columns = vec![];
        columns.extend_from_slice(&width.to_le_bytes());
        for index in 0..width {
            let name = format!("c{index}");
            columns.extend_from_slice(&(name.len() as u32).to_le_bytes());
            columns.extend_from_slice(name.as_bytes());
            columns.extend_from_slice(&[0; 6]);
            columns.extend_from_slice(&(-1_i32).to_le_bytes());
            columns.push(0);
            columns.extend_from_slice(&Type::INT4.oid().to_le_bytes());
        }
        let mut writer = ImageWriter::new(sets.decode(&columns).unwrap());
        for row in rows {
            row.iter().for_each(|cell| writer.push_cell(cell.as_deref()).unwrap());
            writer.end_row().unwrap();
        }
        writer.finish()
    }

    fn rows(width: usize) -> impl Strategy<Value = Vec<Vec<Option<Vec<u8>>>>> {
        let cell = prop::option::of(prop::collection::vec(any::<u8>(), 0..9));
        prop::collection::vec(prop::collection::vec(cell, width), 0..6)
    }

    fn table() -> impl Strategy<Value = (usize, Vec<Vec<Option<Vec<u8>>>>)> {
        (0..5_usize).prop_flat_map(|width| (Just(width), rows(width)))
    }

    proptest! {
        #[test]
        fn every_cell_comes_back_byte_for_byte((width, rows) in table()) {
            let sets = ColumnSets::default();
            let written = image(&sets, width as u32, &rows);
            let read = Image::decode(written.bytes().clone(), &sets).unwrap();
            for image in [&written, &read] {
                prop_assert_eq!(image.rows(), rows.len());
                for (row, cells) in rows.iter().enumerate() {
                    for (column, cell) in cells.iter().enumerate() {
                        prop_assert_eq!(image.cell(row, column), cell.as_deref());
                    }
                }
            }
        }

        #[test]
        fn damaged_bytes_are_refused_or_read_without_a_panic(
            (width, rows) in table(),
            cut in any::<prop::sample::Index>(),
            (at, to) in (any::<prop::sample::Index>(), any::<u8>()),
        ) {
            let sets = ColumnSets::default();
            let mut bytes = image(&sets, width as u32, &rows).bytes().to_vec();
            prop_assert!(Image::decode(bytes[..cut.index(bytes.len())].to_vec().into(), &sets).is_none());
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Some(image) = Image::decode(bytes.into(), &sets) {
                for row in 0..image.rows().min(100) {
                    for column in 0..image.columns().columns().len() {
                        image.cell(row, column);
                    }
                }
            }
        }

        #[test]
        fn garbage_is_no_image(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Image::decode(bytes.into(), &ColumnSets::default());
        }
    }
}
