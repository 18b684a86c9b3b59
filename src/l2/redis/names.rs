//! [`Names`]: what everything is called in Redis.

use crate::l2::entry::FORMAT;
use crate::value::key::CacheKey;
use crate::value::token::Token;

/// The names of keys and channels in Redis. After its prefix, the name of an entry has only the
/// hash, so that a name reveals neither SQL nor parameters. The braces keep an entry, its parts and
/// its lease on one node of a cluster.
pub(crate) struct Names {
    /// `larder:<namespace>:<entry format>:{`
    entries: String,
    directory: String,
    channel: String,
    /// `larder:<namespace>:note:`
    notes: String,
    stats: String,
}

impl Names {
    pub(crate) fn new(namespace: &str) -> Names {
        Names {
            entries: format!("larder:{namespace}:{FORMAT}:{{"),
            directory: format!("larder:{namespace}:directory"),
            channel: format!("larder:{namespace}:notices"),
            notes: format!("larder:{namespace}:note:"),
            stats: format!("larder:{namespace}:stats"),
        }
    }

    pub(crate) fn entry(&self, key: &CacheKey) -> String {
        self.of(key, "}")
    }

    pub(super) fn note(&self, name: &str) -> String {
        format!("{}{name}", self.notes)
    }

    pub(crate) fn lease(&self, key: &CacheKey) -> String {
        self.of(key, "}:lease")
    }

    /// A part of the large entry that this token's load made.
    pub(crate) fn part(&self, key: &CacheKey, token: Token, index: u8) -> String {
        self.of(key, &format!("}}:{:032x}:{index}", u128::from_be_bytes(token.0)))
    }

    /// What all entries' names begin with.
    #[cfg(feature = "admin")]
    pub(crate) fn entry_prefix(&self) -> &str {
        &self.entries
    }

    pub(crate) fn directory(&self) -> &str {
        &self.directory
    }

    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    pub(crate) fn stats(&self) -> &str {
        &self.stats
    }

    /// The length of every entry's name.
    pub(super) fn entry_length(&self) -> usize {
        self.entries.len() + 2 * size_of::<CacheKey>() + 1
    }

    fn of(&self, key: &CacheKey, end: &str) -> String {
        let hex = key.to_hex();
        let mut name = String::with_capacity(self.entries.len() + hex.len() + end.len());
        name.push_str(&self.entries);
        name.push_str(&hex);
        name.push_str(end);
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_an_entry_and_its_lease_together() {
        let names = Names::new("shop");
        let key = CacheKey::of_bytes([7; 32]);
        let hex = "07".repeat(32);
        assert_eq!(names.entry(&key), format!("larder:shop:3:{{{hex}}}"));
        assert_eq!(names.lease(&key), format!("larder:shop:3:{{{hex}}}:lease"));
    }
}
