//! [`FoundKeys`]: the keys that begin with some digits.

use super::Error;
use super::key::ResultKey;
use super::redis::{Redis, command};

/// What [`Redis::find_keys`] found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FoundKeys {
    /// The keys, in ascending order.
    pub keys: Vec<ResultKey>,
    /// Whether all names in Redis were looked at.
    pub complete: bool,
}

impl Redis {
    /// The keys of entries and leases that begin with these digits, among the first `limit` names
    /// in Redis.
    ///
    /// It uses `SCAN`, 1,000 names at a time.
    ///
    /// # Errors
    ///
    /// Those of Redis to `SCAN`.
    pub async fn find_keys(&self, prefix: &str, limit: usize) -> Result<FoundKeys, Error> {
        let pattern = format!("{}{prefix}*", self.names().entry_prefix());
        let (names, complete) = self.scan(&pattern, limit).await?;
        let mut keys: Vec<_> = names.iter().filter_map(|name| self.key_of_name(name)).collect();
        keys.sort();
        keys.dedup();
        Ok(FoundKeys { keys, complete })
    }

    /// The names that match, among the first `limit` names in Redis, and whether these were all.
    pub(super) async fn scan(
        &self,
        pattern: &str,
        limit: usize,
    ) -> Result<(Vec<String>, bool), Error> {
        let (mut cursor, mut seen, mut found) = ("0".to_owned(), 0, vec![]);
        loop {
            let scan = command(&["SCAN", &cursor, "MATCH", pattern, "COUNT", "1000"]);
            let reply = self.ask(&scan).await?;
            let (next, names): (String, Vec<String>) = redis::from_redis_value(reply)
                .map_err(|_| Error::unexpected("SCAN is not answered by names"))?;
            found.extend(names);
            seen += 1000;
            cursor = next;
            if cursor == "0" || seen >= limit {
                return Ok((found, cursor == "0"));
            }
        }
    }

    /// The key of an entry's or a lease's name in Redis, if the name is of this namespace and of the
    /// format of this build.
    pub fn key_of_name(&self, name: &str) -> Option<ResultKey> {
        let digits = name.strip_prefix(self.names().entry_prefix())?.split_once('}')?.0;
        ResultKey::of_hex(digits)
    }

    /// The name of an entry in Redis.
    pub fn name_of_key(&self, key: &ResultKey) -> String {
        self.names().entry(&key.0)
    }
}
