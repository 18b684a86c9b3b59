//! The parts of the crate's tags that [`currency`](crate::currency) needs, with two slots instead
//! of 65,537: every access is a step that loom tries in all orders.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TagSlot(u32);

impl TagSlot {
    pub(crate) const COUNT: usize = 2;
    /// The slot of the only tag.
    pub(crate) const TAG: TagSlot = TagSlot(0);
    pub(crate) const EVERYTHING: TagSlot = TagSlot(1);

    pub(crate) fn numbered(number: u64) -> Option<TagSlot> {
        (number < TagSlot::COUNT as u64).then_some(TagSlot(number as u32))
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}
