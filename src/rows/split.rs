//! [`Rows::split`]: one result as several.

use super::{Image, Row, Rows};
use crate::error::Error;

impl Rows {
    /// Distributes the rows among `parts` results with the same columns, in their order. `parts_of`
    /// says which of them a row belongs to.
    pub(crate) fn split<'p>(
        &self,
        parts: usize,
        mut parts_of: impl FnMut(Row<'_>) -> Result<&'p [usize], Error>,
    ) -> Result<Vec<Image>, Error> {
        let mut writers: Vec<_> = (0..parts).map(|_| self.0.writer()).collect();
        let width = self.columns().len();
        for row in self {
            for &part in parts_of(row)? {
                writers[part].push_cells((0..width).map(|column| row.raw(column)))?;
            }
        }
        let is_storable = self.0.is_storable();
        let images = writers.into_iter().map(|writer| writer.finish());
        let images = images.map(|it| if is_storable { it } else { it.not_to_be_stored() });
        Ok(images.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::rows::{ColumnSets, image_of};

    #[test]
    fn each_part_has_its_rows_in_their_order_and_all_columns() {
        let cell = |number: i32| Some(number.to_be_bytes().to_vec());
        let rows: Vec<_> = (0..7).map(|at| vec![cell(at % 3), cell(at), None]).collect();
        let rows = Rows::new(Arc::new(image_of(&ColumnSets::default(), 3, &rows)));
        let parts = [[0], [1], [2]];
        let images = rows.split(4, |row| Ok(&parts[row.get::<_, i32>(0) as usize])).unwrap();
        let of = |image: &Image| -> Vec<i32> {
            let rows = Rows::new(Arc::new(image.clone()));
            assert_eq!(rows.columns(), rows.columns());
            rows.iter().map(|row| row.get(1)).collect()
        };
        let parts: Vec<_> = images.iter().map(of).collect();
        assert_eq!(parts, [vec![0, 3, 6], vec![1, 4], vec![2, 5], vec![]]);
        let whole = rows.split(1, |_| Ok(&[0])).unwrap();
        assert_eq!(whole[0].bytes(), rows.into_image().bytes());
    }

    #[test]
    fn what_may_not_be_stored_may_not_be_stored_in_parts_either() {
        let image = image_of(&ColumnSets::default(), 1, &[vec![None]]).not_to_be_stored();
        let parts = Rows::new(Arc::new(image)).split(2, |_| Ok(&[1])).unwrap();
        assert!(parts.iter().all(|part| !part.is_storable()));
    }
}
