//! [`ReadSet`]: what a load has read, and what its result depends on by that.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use super::keys::Keyed;
use crate::currency::{Currency, Stamp};
use crate::value::param::OwnedParams;
use crate::value::relation::RelationName;
use crate::value::tag::{LoadReport, Tag, TagSlot};

/// What a load has read.
pub(crate) struct ReadSet {
    /// Taken before the load began.
    stamp: Stamp,
    slots: Vec<TagSlot>,
    relations: BTreeSet<RelationName>,
    /// The keys by which the verdict says that it has read them, and the types of the parameters. Empty if
    /// nobody says which rows are changed.
    keys: BTreeMap<RelationName, BTreeSet<Keyed>>,
    parameters: Vec<String>,
    /// The cache follows the database.
    follows: bool,
}

impl ReadSet {
    /// `verdict`: the one that the load was judged by.
    pub(super) fn new(
        stamp: Stamp,
        relations: BTreeSet<RelationName>,
        verdict: &Verdict,
        follows: bool,
    ) -> ReadSet {
        let tags: Vec<Tag> = if follows {
            // Not those of rows.
            relations.iter().flat_map(RelationName::tags_of_read_by_key).collect()
        } else {
            relations.iter().flat_map(RelationName::tags_of_read).collect()
        };
        // A follower invalidates all that is followed where a function, an operator or a type was defined
        // anew: what was learned before that may read something else now.
        let slots = tags.iter().map(Tag::slot).chain([TagSlot::FOLLOWED]).collect();
        let keys = if follows { verdict.keys.clone() } else { BTreeMap::new() };
        let parameters = verdict.parameters.clone();
        ReadSet { stamp, slots, relations, keys, parameters, follows }
    }

    /// Whether nothing that was read may have been defined anew since. A view, a policy or a partition is
    /// defined anew by an invalidation of its relation.
    pub(super) fn is_current(&self, currency: &Currency) -> bool {
        currency.is_current(&self.stamp, self.slots.iter().copied())
    }

    /// The tags of all that was read, whatever rows.
    pub(super) fn tags(&self) -> Vec<Tag> {
        self.relations.iter().flat_map(RelationName::tags_of_read).collect()
    }

    pub(crate) fn relations(&self) -> impl Iterator<Item = String> + '_ {
        self.relations.iter().map(RelationName::canonical)
    }

    /// What a result with these parameters depends on.
    pub(crate) fn report(&self, params: &OwnedParams) -> LoadReport {
        let (mut tags, mut keys) = (vec![], vec![]);
        for relation in &self.relations {
            match self.keys_of(relation, params) {
                Some(slots) => keys.extend(slots),
                None => tags.extend(relation.tags_of_read()),
            }
            // What a plan shows of one relation may rely on what is defined for another.
            if !self.keys.is_empty() {
                tags.extend(relation.tags_of_read_by_key());
            }
        }
        LoadReport { tags, keys, is_followed: self.follows }
    }

    /// `None` if all rows count.
    fn keys_of(&self, relation: &RelationName, params: &OwnedParams) -> Option<Vec<TagSlot>> {
        let keys = self.keys.get(relation)?.iter();
        let slots = keys.map(|keyed| keyed.slot(relation, params, &self.parameters));
        Some(slots.collect::<Result<Vec<_>, _>>().ok()?.into_iter().flatten().collect())
    }
}
