//! [`Tag`]: the name of something that results depend on.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::value::checksum;

/// The name of something that results depend on: a table, a view, one product, or any name of your
/// own.
///
/// Queries declare their tags with [`Query::tag`](crate::Query::tag). A loader that learns its tags
/// only while it runs returns them in a [`Tagged`](crate::Tagged).
/// [`QueryCache::invalidate`](crate::QueryCache::invalidate) invalidates every result that depends
/// on a tag. The number of tags is not limited.
///
/// Any text can be a tag. Two tags are equal if their bytes are equal. `From` converts a `&str`, a
/// `String`, references to them, a `Cow`, a `Box<str>` and an `Arc<str>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    /// The text of the tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag's slot in the currency table. Tags that share a slot are invalidated together: this
    /// costs a load, never a wrong answer.
    pub(crate) fn slot(&self) -> TagSlot {
        TagSlot::of(checksum::of_name(&self.0))
    }
}

macro_rules! texts {
    ($($text:ty)*) => {$(
        impl From<$text> for Tag {
            fn from(text: $text) -> Tag {
                Tag(text.into())
            }
        }
    )*};
}

texts! { &str String Arc<str> Box<str> Cow<'_, str> }

// What iterators over names yield.
impl From<&&str> for Tag {
    fn from(text: &&str) -> Tag {
        Tag::from(*text)
    }
}

impl From<&String> for Tag {
    fn from(text: &String) -> Tag {
        Tag::from(text.as_str())
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

/// The tags of one call, as a list: an array, a slice, a `Vec` or an iterator of text or [`Tag`]s.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a list of tags",
    label = "expected a list of tags",
    note = "a single tag is a list of one: `[\"orders\"]`; a tag is text"
)]
pub trait Tags {
    /// The tags.
    fn into_tags(self) -> impl Iterator<Item = Tag>;
}

// Whoever gives a single text is told of lists, and not that it is no iterator.
#[diagnostic::do_not_recommend]
impl<T: Into<Tag>, I: IntoIterator<Item = T>> Tags for I {
    fn into_tags(self) -> impl Iterator<Item = Tag> {
        self.into_iter().map(Into::into)
    }
}

/// A result with the tags that its loader found it to depend on, for
/// [`load_tagged`](crate::Query::load_tagged) and [`wrap_tagged`](crate::Query::wrap_tagged).
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
/// cache.invalidate(["product:12"]).await;
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
    /// A result without tags of its own; the tags declared on the query apply.
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
    pub fn tags(mut self, tags: impl Tags) -> Tagged<T> {
        self.tags.extend(tags.into_tags());
        self
    }

    pub(crate) fn into_parts(self) -> (T, LoadReport) {
        (self.value, LoadReport::of(self.tags))
    }
}

/// What a load reports of its result, besides the result.
#[derive(Debug, Default)]
pub(crate) struct LoadReport {
    /// What it depends on, in addition to what the query declares.
    pub(crate) tags: Vec<Tag>,
    /// The slots of the rows that it has read, if it depends on some rows only. Their tags would show
    /// parameters, and tags are told: in statistics, and in events.
    pub(crate) keys: Vec<TagSlot>,
    /// All that it has read is followed in the database. So its changes are announced by the follower,
    /// and it is served only while the follower's rounds prove that they are.
    pub(crate) is_followed: bool,
}

impl LoadReport {
    /// It depends on this, and nobody follows it.
    pub(crate) fn of(tags: Vec<Tag>) -> LoadReport {
        LoadReport { tags, ..LoadReport::default() }
    }
}

/// One of the 65,536 slots that tags are hashed to, or one of the two that no tag is hashed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TagSlot(u32);

impl TagSlot {
    /// The number of slots, [`EVERYTHING`](TagSlot::EVERYTHING) and
    /// [`FOLLOWED`](TagSlot::FOLLOWED) included.
    pub(crate) const COUNT: usize = (1 << 16) + 2;
    /// Every result depends on this slot, and no tag is hashed to it.
    pub(crate) const EVERYTHING: TagSlot = TagSlot(1 << 16);
    /// Every result whose changes are learned by following the database depends on this slot, and no
    /// tag is hashed to it. Who follows invalidates it where it cannot name what has changed.
    ///
    /// It is no number of a slot to processes of earlier versions. So the directory has it as a mark
    /// (see `marks.lua`), which they pass over, and an entry as its [format](crate::l2::entry).
    pub(crate) const FOLLOWED: TagSlot = TagSlot((1 << 16) + 1);

    /// The slot of a hash.
    pub(crate) fn of(hash: u64) -> TagSlot {
        TagSlot((hash & 0xFFFF) as u32)
    }

    /// The slot with this number; `None` if there is no such slot.
    pub(crate) fn numbered(number: u64) -> Option<TagSlot> {
        (number < TagSlot::COUNT as u64).then_some(TagSlot(number as u32))
    }

    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a result depends on: the slots of its tags and of its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependencies {
    /// Sorted and unique. [`TagSlot::EVERYTHING`] is implied and never listed.
    /// [`TagSlot::FOLLOWED`] is the last one, if it is there.
    slots: Box<[TagSlot]>,
    /// The tags that are known by name, to report which of them was invalidated.
    tags: Box<[Tag]>,
}

impl Dependencies {
    pub(crate) fn new(tags: impl IntoIterator<Item = Tag>, query: TagSlot) -> Dependencies {
        let mut tags: Vec<Tag> = tags.into_iter().collect();
        tags.sort();
        tags.dedup();
        let slots = tags.iter().map(Tag::slot).chain([query]);
        Dependencies { slots: sorted(slots), tags: tags.into() }
    }

    /// These dependencies and the slots of an entry in Redis, which has only their numbers.
    pub(crate) fn with_slots(&self, slots: &[u16], is_followed: bool) -> Dependencies {
        let followed = is_followed.then_some(TagSlot::FOLLOWED);
        let slots = slots.iter().map(|&slot| TagSlot(slot.into())).chain(followed);
        Dependencies {
            slots: sorted(self.slots.iter().copied().chain(slots)),
            tags: self.tags.clone(),
        }
    }

    /// These dependencies, and what a load has reported.
    pub(crate) fn with(&self, LoadReport { tags, keys, is_followed }: LoadReport) -> Dependencies {
        let Dependencies { slots, tags } = self.and(tags);
        let followed = is_followed.then_some(TagSlot::FOLLOWED);
        let slots = slots.iter().copied().chain(keys).chain(followed);
        Dependencies { slots: sorted(slots), tags }
    }

    /// These dependencies of a result whose changes are learned by following the database.
    pub(crate) fn followed(&self) -> Dependencies {
        self.with_slots(&[], true)
    }

    /// Whether [`TagSlot::FOLLOWED`] is one of them. Such a result needs the word of a follower.
    #[inline]
    pub(crate) fn is_followed(&self) -> bool {
        self.slots.last() == Some(&TagSlot::FOLLOWED)
    }

    /// These dependencies and more tags.
    pub(crate) fn and(&self, more: impl IntoIterator<Item = Tag>) -> Dependencies {
        let mut tags = self.tags.to_vec();
        tags.extend(more);
        tags.sort();
        tags.dedup();
        let slots = tags.iter().map(Tag::slot).chain(self.slots.iter().copied());
        Dependencies { slots: sorted(slots), tags: tags.into() }
    }

    #[inline]
    pub(crate) fn slots(&self) -> impl ExactSizeIterator<Item = TagSlot> + Clone + '_ {
        self.slots.iter().copied()
    }

    /// The numbers of the slots, as an entry stores them, which says by its format whether it is
    /// followed.
    pub(crate) fn numbers(&self) -> impl ExactSizeIterator<Item = u16> + '_ {
        let listed = self.slots.len() - usize::from(self.is_followed());
        self.slots[..listed].iter().map(|slot| slot.0 as u16)
    }

    /// The tags that are known by name.
    pub(crate) fn tags(&self) -> &[Tag] {
        &self.tags
    }

    /// The known tags with this slot.
    #[cfg(any(test, feature = "tracing"))]
    pub(crate) fn named(&self, slot: TagSlot) -> impl Iterator<Item = &Tag> {
        self.tags.iter().filter(move |tag| tag.slot() == slot)
    }
}

fn sorted(slots: impl Iterator<Item = TagSlot>) -> Box<[TagSlot]> {
    let mut slots: Vec<TagSlot> = slots.collect();
    slots.sort_unstable();
    slots.dedup();
    slots.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_its_text_whatever_its_type() {
        let text = String::from("orders");
        let tags = [
            Tag::from("orders"),
            Tag::from(&"orders"),
            Tag::from(&text),
            Tag::from(text.clone()),
            Tag::from(Cow::from("orders")),
            Tag::from(Box::<str>::from("orders")),
            Tag::from(Arc::<str>::from("orders")),
        ];
        assert!(tags.iter().all(|tag| tag.as_str() == "orders"));
        let listed: Vec<Tag> = [&text, &text].into_tags().collect();
        assert_eq!(listed, ["orders"; 2].map(Tag::from));
        assert_eq!(tags.into_tags().count(), 7);
    }

    #[test]
    fn a_tag_has_the_same_cell_in_every_build() {
        // Other processes of the fleet, perhaps of another version, must compute the same hash.
        assert_eq!(Tag::from("orders").slot().index(), 29_947);
        assert_eq!(Tag::from("").slot().index(), 38_082);
    }

    #[test]
    fn what_a_result_depends_on_is_sorted_and_each_once() {
        let query = TagSlot::of(7);
        let depends = Dependencies::new(["b", "a", "b"].map(Tag::from), query);
        assert_eq!(depends.slots().len(), 3);
        assert!(depends.slots().is_sorted());
        assert!(depends.slots().any(|slot| slot == query));
        assert_eq!(depends.and([Tag::from("a")]), depends);
        let more = depends.and([Tag::from("c")]);
        assert_eq!(more.slots().len(), 4);
        assert_eq!(more.named(Tag::from("c").slot()).next(), Some(&Tag::from("c")));
        let numbers: Vec<u16> = more.numbers().collect();
        assert_eq!(depends.with_slots(&numbers, false).slots, more.slots);
    }

    #[test]
    fn what_is_followed_depends_on_a_slot_that_no_entry_lists() {
        let depends = Dependencies::new(["a"].map(Tag::from), TagSlot::of(0xFFFF));
        let followed = depends.followed();
        assert!(followed.is_followed() && !depends.is_followed());
        assert!(followed.slots().eq(depends.slots().chain([TagSlot::FOLLOWED])));
        assert!(followed.numbers().eq(depends.numbers()));
        assert_eq!(followed.followed(), followed);
        assert!(followed.and([Tag::from("c")]).is_followed());
        assert_eq!(depends.with_slots(&[], true), followed);
        assert!(followed.with_slots(&[3], false).is_followed(), "the query says so");
    }

    #[test]
    fn rows_that_were_read_count_and_are_not_named() {
        let depends = Dependencies::new(["a"].map(Tag::from), TagSlot::of(7));
        let (row, tags) = (Tag::from("t[id=42]").slot(), vec![Tag::from("t[*]")]);
        let with = depends.with(LoadReport { tags, keys: vec![row], is_followed: true });
        assert!(with.slots().any(|slot| slot == row) && with.is_followed());
        assert_eq!(with.tags(), ["a", "t[*]"].map(Tag::from));
    }

    #[test]
    fn a_number_that_is_no_cell_is_refused() {
        assert_eq!(TagSlot::numbered(65_536), Some(TagSlot::EVERYTHING));
        assert_eq!(TagSlot::numbered(65_537), Some(TagSlot::FOLLOWED));
        assert_eq!(TagSlot::numbered(65_538), None);
        assert_eq!(TagSlot::numbered(u64::MAX), None);
    }
}
