//! What [`currency`](crate::currency) needs of the crate's tags, with two cells instead of 65,537:
//! every access is a step of which loom tries all orders.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell(u32);

impl Cell {
    pub(crate) const COUNT: usize = 2;
    /// The cell of the only tag.
    pub(crate) const TAG: Cell = Cell(0);
    pub(crate) const EVERYTHING: Cell = Cell(1);

    pub(crate) fn numbered(number: u64) -> Option<Cell> {
        (number < Cell::COUNT as u64).then_some(Cell(number as u32))
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}
