//! [`Tag`]: the name of something that results depend on.

use std::fmt;
use std::sync::Arc;

use crate::value::checksum;

/// The name of something that results depend on: a table, a view, one product, or a word of one's
/// own.
///
/// Queries declare their tags with [`Query::tag`](crate::Query::tag); a loader reports those it only
/// learns of while it runs with [`Tagged`](crate::Tagged).
/// [`QueryCache::invalidate`](crate::QueryCache::invalidate) makes everything stale that depends on
/// one. The number of tags is not limited.
///
/// Any text is a tag; two are the same if their bytes are. `From` makes one of `&str`, `String` and
/// `Arc<str>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the table of what is current has its number. Tags that share a cell are invalidated
    /// together: that costs a load, never a wrong answer.
    pub(crate) fn cell(&self) -> Cell {
        Cell::of(checksum::of_name(&self.0))
    }
}

impl<T: Into<Arc<str>>> From<T> for Tag {
    fn from(text: T) -> Tag {
        Tag(text.into())
    }
}

impl From<&Tag> for Tag {
    fn from(tag: &Tag) -> Tag {
        tag.clone()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({:?})", self.as_str())
    }
}

/// A result with the tags that its loader found it to depend on; what
/// [`load_tagged`](crate::Query::load_tagged) and [`wrap_tagged`](crate::Query::wrap_tagged) take.
///
/// ```
/// # use larder::{Origin, QueryCache, Tagged};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let cache = QueryCache::builder().build().await?;
/// let basket = cache.query("SELECT * FROM basket_lines WHERE basket = $1").tag("baskets");
/// let load = || {
///     basket.params((1,)).load_tagged(|| async {
///         let products = vec![7, 12];
///         let tags = products.iter().map(|product| format!("product:{product}"));
///         Ok::<_, std::io::Error>(Tagged::new(products.clone()).tags(tags))
///     })
/// };
/// load().await?;
/// cache.invalidate(["product:12"]).await?;
/// assert_eq!(load().answer().await?.origin(), Origin::Loaded);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Tagged<T> {
    value: T,
    tags: Vec<Tag>,
}

impl<T> Tagged<T> {
    /// A result without tags of its own; those declared on the query apply.
    pub fn new(value: T) -> Tagged<T> {
        Tagged { value, tags: vec![] }
    }

    /// Adds a tag.
    #[must_use = "this returns the tagged value"]
    pub fn tag(mut self, tag: impl Into<Tag>) -> Tagged<T> {
        self.tags.push(tag.into());
        self
    }

    /// Adds tags.
    #[must_use = "this returns the tagged value"]
    pub fn tags<G: Into<Tag>>(mut self, tags: impl IntoIterator<Item = G>) -> Tagged<T> {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    pub(crate) fn into_parts(self) -> (T, Vec<Tag>) {
        (self.value, self.tags)
    }
}

/// One of the 65,536 cells that tags are hashed to, or the one on which everything depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Cell(u32);

impl Cell {
    /// How many there are, the last included.
    pub(crate) const COUNT: usize = (1 << 16) + 1;
    /// Every result depends on it, and no tag is hashed to it.
    pub(crate) const EVERYTHING: Cell = Cell(1 << 16);

    /// The cell of a hash.
    pub(crate) fn of(hash: u64) -> Cell {
        Cell((hash & 0xFFFF) as u32)
    }

    /// The cell of a number that came from elsewhere.
    pub(crate) fn numbered(number: u64) -> Option<Cell> {
        (number < Cell::COUNT as u64).then_some(Cell(number as u32))
    }

    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a result depends on: the cells of its tags and of its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Depends {
    /// Sorted, each once; never [`Cell::EVERYTHING`], which is understood.
    cells: Box<[u16]>,
    /// The tags that are known by name, to say in the end which of them was invalidated.
    tags: Box<[Tag]>,
}

impl Depends {
    pub(crate) fn new(tags: impl IntoIterator<Item = Tag>, query: Cell) -> Depends {
        let mut tags: Vec<Tag> = tags.into_iter().collect();
        tags.sort();
        tags.dedup();
        let cells = tags.iter().map(Tag::cell).chain([query]).map(|cell| cell.0 as u16);
        Depends { cells: sorted(cells), tags: tags.into() }
    }

    /// These, and what an entry in Redis tells: the numbers alone.
    pub(crate) fn with_cells(&self, cells: &[u16]) -> Depends {
        let cells = self.cells.iter().chain(cells).copied();
        Depends { cells: sorted(cells), tags: self.tags.clone() }
    }

    /// These and more.
    pub(crate) fn and(&self, more: impl IntoIterator<Item = Tag>) -> Depends {
        let mut tags = self.tags.to_vec();
        tags.extend(more);
        tags.sort();
        tags.dedup();
        let cells = tags.iter().map(|tag| tag.cell().0 as u16).chain(self.cells.iter().copied());
        Depends { cells: sorted(cells), tags: tags.into() }
    }

    #[inline]
    pub(crate) fn cells(&self) -> impl ExactSizeIterator<Item = Cell> + Clone + '_ {
        self.cells.iter().map(|&cell| Cell(u32::from(cell)))
    }

    /// The cells as an entry carries them.
    pub(crate) fn numbers(&self) -> &[u16] {
        &self.cells
    }

    /// The tags of a cell.
    #[cfg(any(test, feature = "tracing"))]
    pub(crate) fn named(&self, cell: Cell) -> impl Iterator<Item = &Tag> {
        self.tags.iter().filter(move |tag| tag.cell() == cell)
    }
}

fn sorted(cells: impl Iterator<Item = u16>) -> Box<[u16]> {
    let mut cells: Vec<u16> = cells.collect();
    cells.sort_unstable();
    cells.dedup();
    cells.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_the_same_cell_in_every_build() {
        // Other processes of the fleet, perhaps of another version, hash it too.
        assert_eq!(Tag::from("orders").cell().index(), 29_947);
        assert_eq!(Tag::from("").cell().index(), 38_082);
    }

    #[test]
    fn what_a_result_depends_on_is_sorted_and_each_once() {
        let query = Cell::of(7);
        let depends = Depends::new(["b", "a", "b"].map(Tag::from), query);
        assert_eq!(depends.cells().len(), 3);
        assert!(depends.cells().is_sorted());
        assert!(depends.cells().any(|cell| cell == query));
        assert_eq!(depends.and([Tag::from("a")]), depends);
        let more = depends.and([Tag::from("c")]);
        assert_eq!(more.cells().len(), 4);
        assert_eq!(more.named(Tag::from("c").cell()).next(), Some(&Tag::from("c")));
        assert_eq!(depends.with_cells(more.numbers()).cells, more.cells);
    }

    #[test]
    fn a_number_that_is_no_cell_is_refused() {
        assert_eq!(Cell::numbered(65_536), Some(Cell::EVERYTHING));
        assert_eq!(Cell::numbered(65_537), None);
        assert_eq!(Cell::numbered(u64::MAX), None);
    }
}
