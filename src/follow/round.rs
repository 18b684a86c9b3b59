//! A round: samples the database's position, reads up to there, and finds what is to be announced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::changes::ChangedRows;
use super::decoded::Visible;
use super::failure::Failure;
use super::schema::{Schema, families};
use super::slot::Slot;
use super::snapshot::Snapshot;
use crate::clock::{Clock, Instant};
use crate::fleet::following::Findings;
use crate::postgres::replication::error::ReplicationError;
use crate::value::lsn::Lsn;
use crate::value::relation::RelationName;
use crate::value::tag::{Tag, TagSlot};

/// How long the log may stay unflushed before a follower has it flushed. Commits that wait for no
/// flush (`synchronous_commit = off`) are visible before they can be streamed.
const UNFLUSHED: Duration = Duration::from_millis(20);

/// Why everything that is followed is invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wholesale {
    /// Nobody has followed for a while.
    Gap,
    /// A transaction became visible that was committed before the slot was made.
    Unseen,
    /// The relation of a change is not there any more under its name.
    Unnamed,
    /// The plugin has written what cannot be read, or too much in one transaction.
    Unreadable,
    /// A function, an operator, a type, a role or a setting was changed.
    Definition,
}

impl Wholesale {
    /// A word for metrics and events.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Wholesale::Gap => "gap",
            Wholesale::Unseen => "unseen",
            Wholesale::Unnamed => "unnamed",
            Wholesale::Unreadable => "unreadable",
            Wholesale::Definition => "definition",
        }
    }
}

/// What a round has found.
pub(super) struct Found {
    began: Instant,
    slots: Vec<TagSlot>,
    low: Lsn,
    high: Lsn,
    snapshot: Snapshot,
    visible: Visible,
    /// Of the unknown transactions, those that have ended.
    settled: Vec<u64>,
    /// The relations that are announced.
    pub(super) relations: BTreeSet<RelationName>,
    pub(super) wholesale: BTreeSet<Wholesale>,
}

impl Found {
    pub(super) fn findings(&self) -> Findings<'_> {
        Findings { began: self.began, slots: &self.slots, low: self.low, high: self.high }
    }

    /// When the round began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// How many transactions are not visible yet.
    pub(super) fn held(&self) -> usize {
        self.visible.held_count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

impl Slot {
    /// Finds what is visible now and not announced yet. Changes nothing that a second round could not
    /// find again.
    pub(super) async fn find(&mut self, clock: &Clock, is_gated: bool) -> Result<Found, Failure> {
        self.find_all(clock, is_gated).await.map_err(|error| {
            Failure::of(format!("following the database at {}", self.server.address), error)
        })
    }

    async fn find_all(&mut self, clock: &Clock, is_gated: bool) -> Result<Found, ReplicationError> {
        let began = clock.now();
        let sample = self.sample().await?;
        let target = self.server.reachable(sample.insert);
        let patience = (sample.flushed < target).then_some(UNFLUSHED);
        let server = &self.server;
        self.stream.pass(target, patience, async || server.flush().await).await?;
        // Everything that was visible when the round began has been read, and is visible in this.
        let mut snapshot = self.snapshot().await?;
        if !is_gated {
            snapshot.show_all();
        }
        self.stream.decoded.bound(&snapshot);
        let visible = self.stream.decoded.visible(&snapshot);
        let mut wholesale = BTreeSet::new();
        if visible.changes.anything {
            wholesale.insert(Wholesale::Unreadable);
        }
        let settled = self.settled(&sample.snapshot).await?;
        for &xid in &settled {
            if !self.was_aborted(xid).await? {
                wholesale.insert(Wholesale::Unseen);
            }
        }
        let schema = self.definitions.schema();
        let is_younger = |name| schema.family_of(name).is_none();
        if visible.changes.definitions
            || visible.changes.anything
            || visible.changes.relations.keys().any(is_younger)
        {
            self.definitions.owe();
        }
        // After the snapshot: it sees what is visible in that.
        self.keep_up().await?;
        let mut announced = self.announced_by(&visible, &mut wholesale).await?;
        let redefined = self.definitions.pending();
        if redefined.anything || self.redefined_unseen {
            wholesale.insert(Wholesale::Definition);
        }
        let mut high = visible.end;
        if !redefined.is_empty() || !wholesale.is_empty() {
            // What is announced by this was committed before now, and it is not known where.
            let now = self.sample().await?.insert;
            high = high.max(self.server.reachable(now));
        }
        redefined.relations.into_iter().for_each(|name| announced.any_row(name));
        let mut slots = announced.slots();
        let unproven = redefined.proofs.iter().flat_map(RelationName::tags_of_any_rows);
        slots.extend(unproven.map(|tag| tag.slot()));
        if !wholesale.is_empty() {
            slots.push(TagSlot::FOLLOWED);
        }
        slots.sort_unstable();
        slots.dedup();
        let low = if self.unknown.len() > settled.len() {
            // A transaction from before the slot may yet become visible.
            Lsn::ZERO
        } else {
            // Positions of commits are their ends: a held one is not before its own.
            let held = visible.held.map(|end| Lsn::of(end.number() - 1));
            held.unwrap_or(self.stream.passed())
        };
        let relations = announced.into_names();
        Ok(Found { began, slots, low, high, snapshot, visible, settled, relations, wholesale })
    }

    /// A round that has announced this stands.
    pub(super) fn announced(&mut self, found: &Found) {
        self.stream.decoded.announced(&found.visible, &found.snapshot, found.low);
        self.unknown.retain(|xid| !found.settled.contains(xid));
        self.definitions.announced();
        self.redefined_unseen = false;
    }

    /// The unknown transactions that had ended when the round began. If their commits were after the
    /// beginning of the slot, they have been read by now.
    async fn settled(&mut self, first: &Snapshot) -> Result<Vec<u64>, ReplicationError> {
        for read in self.stream.decoded.take_ended() {
            self.unknown.retain(|&xid| xid as u32 != read);
        }
        Ok(self.unknown.iter().copied().filter(|&xid| first.has_ended(xid)).collect())
    }

    /// Compares the definitions if it is time to, and reads the keys of the present ones from now on.
    pub(super) async fn keep_up(&mut self) -> Result<(), ReplicationError> {
        self.definitions.keep_up(&self.server, self.stream.transactions).await?;
        self.stream.decoded.read_keys(self.definitions.schema().key_columns());
        Ok(())
    }

    /// The relations that were changed, with all that they are partitions or children of.
    async fn announced_by(
        &mut self,
        visible: &Visible,
        wholesale: &mut BTreeSet<Wholesale>,
    ) -> Result<Announced, ReplicationError> {
        let redefined = self.definitions.pending();
        let schema = self.definitions.schema();
        let (mut all, mut younger) = (Announced::default(), vec![]);
        for (name, rows) in &visible.changes.relations {
            match schema.family_of(name) {
                Some(family) => family.for_each(|reader| all.rows(reader, rows, name, schema)),
                None => {
                    // Under whatever name it is read: also if its definition is another one by now.
                    all.any_row(name.clone());
                    // It was dropped or renamed, and its family is known to have changed.
                    if !redefined.relations.contains(name) {
                        younger.push(name);
                    }
                }
            }
        }
        if younger.is_empty() {
            return Ok(all);
        }
        let mut found = families(&self.server, &younger).await?;
        for name in younger {
            match found.remove(name) {
                Some(family) => family.into_iter().for_each(|name| all.any_row(name)),
                None => {
                    wholesale.insert(Wholesale::Unnamed);
                }
            }
        }
        self.definitions.owe();
        Ok(all)
    }
}

/// The relations that a round announces, and which rows of them: the tags of keys, or `None` for any.
#[derive(Default)]
struct Announced(BTreeMap<RelationName, Option<BTreeSet<Tag>>>);

impl Announced {
    fn any_row(&mut self, name: RelationName) {
        self.0.insert(name, None);
    }

    /// Rows of `table`, which `reader` is, or has among its partitions or children.
    fn rows(
        &mut self,
        reader: &RelationName,
        rows: &ChangedRows,
        table: &RelationName,
        schema: &Schema,
    ) {
        let Some(tags) = keys(reader, rows, table, schema) else {
            return self.any_row(reader.clone());
        };
        let known = self.0.entry(reader.clone()).or_insert_with(|| Some(BTreeSet::new()));
        known.iter_mut().for_each(|known| known.extend(tags.iter().cloned()));
    }

    fn slots(&self) -> Vec<TagSlot> {
        let mut slots = vec![];
        for (name, keys) in &self.0 {
            match keys {
                None => slots.extend(name.tags().map(|tag| tag.slot())),
                Some(keys) => {
                    slots.extend(name.tags_of_some_rows().map(|tag| tag.slot()));
                    slots.extend(keys.iter().map(Tag::slot));
                }
            }
        }
        slots
    }

    fn into_names(self) -> BTreeSet<RelationName> {
        self.0.into_keys().collect()
    }
}

/// The tags of the rows, by all keys that a result may have read them by. `None` if that is not known.
fn keys(
    reader: &RelationName,
    rows: &ChangedRows,
    table: &RelationName,
    schema: &Schema,
) -> Option<BTreeSet<Tag>> {
    let ChangedRows::Some { columns, values } = rows else { return None };
    // It was read when the table had other keys: a result may have been loaded meanwhile that depends on
    // one of the present ones.
    let present = schema.key_columns().get(table)?;
    let common = schema.common_keys(reader)?;
    if present != columns || !common.iter().all(|column| columns.contains(column)) {
        return None;
    }
    let of_reader = values.iter().filter(|(at, _)| common.contains(&columns[*at]));
    Some(of_reader.map(|(at, value)| reader.tag_of_key(&columns[*at], value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_were_read_by_the_keys_of_before_may_be_any_by_those_of_now() {
        let name = RelationName::of("public", "t");
        let of = |columns: &[&str]| columns.iter().map(|&it| it.to_owned()).collect();
        let rows =
            |columns: &[&str]| ChangedRows::of(&of(columns), Some(vec![(0, "7".to_owned())]));
        let schema = Schema::of_tables(&[("t", &["id", "org"]), ("u", &[])]);
        let tags = keys(&name, &rows(&["id", "org"]), &name, &schema).unwrap();
        assert_eq!(tags, BTreeSet::from([Tag::from("public.t[id=7]")]));
        for before in [&["id"][..], &["org", "id"], &["id", "org", "v"]] {
            assert_eq!(keys(&name, &rows(before), &name, &schema), None, "{before:?}");
        }
        assert_eq!(keys(&name, &ChangedRows::Any, &name, &schema), None);
        let without = RelationName::of("public", "u");
        assert_eq!(keys(&without, &rows(&[]), &without, &schema), None);
    }

    #[test]
    fn a_relation_of_which_any_row_has_changed_has_no_keys_whatever_comes_later() {
        let name = RelationName::of("public", "t");
        let schema = Schema::of_tables(&[("t", &["id"])]);
        let columns: std::sync::Arc<[String]> = ["id".to_owned()].into();
        let rows = ChangedRows::of(&columns, Some(vec![(0, "7".to_owned())]));
        let whole: Vec<TagSlot> = name.tags().map(|tag| tag.slot()).collect();
        let mut announced = Announced::default();
        announced.rows(&name, &rows, &name, &schema);
        let slots = announced.slots();
        assert!(slots.contains(&name.tag_of_key("id", "7").slot()));
        assert!(!whole.iter().all(|slot| slots.contains(slot)));
        announced.any_row(name.clone());
        announced.rows(&name, &rows, &name, &schema);
        assert_eq!(announced.slots(), whole);
    }
}
