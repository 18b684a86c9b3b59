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
    /// `larder:<namespace>:*`
    pattern: String,
}

impl Names {
    /// Channels are common to all databases of a server, unlike keys. So the number of the database
    /// is part of the channel's name, unless it is 0.
    pub(crate) fn new(namespace: &str, database: i64) -> Names {
        let channel = match database {
            0 => format!("larder:{namespace}:notices"),
            database => format!("larder:{namespace}:notices:{database}"),
        };
        Names {
            entries: format!("larder:{namespace}:{FORMAT}:{{"),
            directory: format!("larder:{namespace}:directory"),
            channel,
            notes: format!("larder:{namespace}:note:"),
            stats: format!("larder:{namespace}:stats"),
            pattern: format!("larder:{namespace}:*"),
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

    /// The pattern of all keys and channels, as ACL rules have it.
    pub(super) fn pattern(&self) -> &str {
        &self.pattern
    }

    /// A channel of the pattern that nobody subscribes to.
    pub(super) fn unheard_channel(&self) -> String {
        format!("{}check", self.pattern.trim_end_matches('*'))
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
        let names = Names::new("shop", 0);
        let key = CacheKey::of_bytes([7; 32]);
        let hex = "07".repeat(32);
        assert_eq!(names.entry(&key), format!("larder:shop:3:{{{hex}}}"));
        assert_eq!(names.lease(&key), format!("larder:shop:3:{{{hex}}}:lease"));
    }

    #[test]
    fn each_database_has_a_channel_of_its_own_within_the_pattern_of_the_namespace() {
        assert_eq!(Names::new("shop", 0).channel(), "larder:shop:notices");
        assert_eq!(Names::new("shop", 3).channel(), "larder:shop:notices:3");
        assert_eq!(Names::new("shop", 3).directory(), Names::new("shop", 0).directory());
    }
}
