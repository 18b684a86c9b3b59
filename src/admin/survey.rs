//! [`FoundEntries`]: what Redis holds of a namespace, entry by entry.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use redis::{Pipeline, Value};

use super::Error;
use super::key::{KeyBuilder, ResultKey};
use super::redis::{Redis, command};
use crate::l2::entry::{self, Content};
use crate::value::relation;
use crate::value::tag::{Tag, TagSlot};

/// As many bytes of an entry are read: the header, and the slots of some four hundred tags.
const HEAD: usize = 1024;
/// As many entries are asked for in one round trip.
const BATCH: usize = 500;

/// What [`Redis::entries`] found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FoundEntries {
    /// The entries, in the order of their keys.
    pub entries: Vec<EntrySummary>,
    /// Whether all names in Redis were looked at.
    pub complete: bool,
}

/// An entry as its header describes it. Whether the header is true is not checked;
/// [`inspect`](Redis::inspect) does that.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EntrySummary {
    /// Its key.
    pub key: ResultKey,
    /// Its size in Redis, without the name; of a [large one](crate::admin::EntryDetails::parts), with its
    /// parts.
    pub bytes: u64,
    /// How long Redis keeps it; `None` if it has no end, so Larder has not written it.
    pub remaining: Option<Duration>,
    /// None if there are too many of them.
    slots: BTreeSet<TagSlot>,
}

impl EntrySummary {
    /// Whether it depends on a tag, or on one that shares its slot: one in 65,536 does. If the tag is the
    /// name of a table, also whether it depends on some of its rows.
    pub fn depends_on(&self, tag: impl Into<Tag>) -> bool {
        let tag = tag.into();
        self.has(tag.slot()) || relation::tags_of_rows_of(&tag).any(|rows| self.has(rows.slot()))
    }

    /// Whether it is a result of this query, whatever its parameters are, or of one that shares its slot.
    pub fn is_of(&self, query: &KeyBuilder) -> bool {
        self.has(query.query_slot())
    }

    /// Whether it depends on the slot with this number, such as one of
    /// [`QueryStats::slots`](crate::stats::QueryStats::slots).
    pub fn has_slot(&self, slot: u16) -> bool {
        TagSlot::numbered(u64::from(slot)).is_some_and(|slot| self.has(slot))
    }

    fn has(&self, slot: TagSlot) -> bool {
        // Each entry has that of its query. What is not known is assumed.
        self.slots.is_empty() || self.slots.contains(&slot)
    }
}

impl Redis {
    /// The entries of the namespace, among the first `limit` names in Redis.
    ///
    /// It uses `SCAN`, 1,000 names at a time, and reads a kilobyte of each entry at most.
    ///
    /// # Errors
    ///
    /// Those of Redis to `SCAN`, `GETRANGE`, `STRLEN` and `PTTL`.
    pub async fn entries(&self, limit: usize) -> Result<FoundEntries, Error> {
        let found = self.find_keys("", limit).await?;
        let mut entries = vec![];
        for keys in found.keys.chunks(BATCH) {
            entries.extend(self.summaries(keys).await?);
        }
        Ok(FoundEntries { entries, complete: found.complete })
    }

    /// The namespaces that have a directory in this database of Redis, among the first `limit` names.
    ///
    /// It uses `SCAN`, 1,000 names at a time. Whoever may not see the keys of other namespaces may see
    /// their names, for Redis does not check them.
    ///
    /// # Errors
    ///
    /// Those of Redis to `SCAN`.
    pub async fn namespaces(&self, limit: usize) -> Result<Vec<String>, Error> {
        let (names, _) = self.scan("larder:*:directory", limit).await?;
        let name = |name: &String| {
            Some(name.strip_prefix("larder:")?.strip_suffix(":directory")?.to_owned())
        };
        let all: BTreeSet<String> = names.iter().filter_map(name).collect();
        Ok(all.into_iter().collect())
    }

    async fn summaries(&self, keys: &[ResultKey]) -> Result<Vec<EntrySummary>, Error> {
        let mut all = Pipeline::with_capacity(3 * keys.len());
        for key in keys {
            let (name, last) = (self.name_of_key(key), (HEAD - 1).to_string());
            all.add_command(command(&["GETRANGE", &name, "0", &last]));
            all.add_command(command(&["STRLEN", &name]));
            all.add_command(command(&["PTTL", &name]));
        }
        let replies = self.ask_all(&all).await?;
        let summary = |(key, replies): (&ResultKey, &[Value])| {
            let [Value::BulkString(head), Value::Int(length), Value::Int(remaining)] = replies
            else {
                return None;
            };
            // Neither a lease without an entry, nor what is none.
            let claim = entry::claim(&Bytes::copy_from_slice(head))?;
            let elsewhere = match &claim.content {
                Some(Content::Elsewhere(body)) => body.length(),
                _ => 0,
            };
            let slots = claim.slots.iter().map(|slot| u64::from(*slot));
            Some(EntrySummary {
                key: *key,
                bytes: u64::try_from(*length).unwrap_or(0) + elsewhere,
                remaining: u64::try_from(*remaining).ok().map(Duration::from_millis),
                slots: slots.filter_map(TagSlot::numbered).collect(),
            })
        };
        Ok(keys.iter().zip(replies.chunks(3)).filter_map(summary).collect())
    }
}
