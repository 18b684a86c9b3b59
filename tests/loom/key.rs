//! What the [`front`](crate::front) needs of the crate's keys and results.

pub(crate) type Instant = u64;

/// A key by its number. All have the front's only set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheKey(pub(crate) u64);

impl CacheKey {
    pub(crate) fn first(&self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
pub(crate) struct Entry {
    key: CacheKey,
    pub(crate) lifetime: Lifetime,
}

#[derive(Debug)]
pub(crate) struct Lifetime {
    /// Which of the key's results it is: the later, the higher.
    pub(crate) evict_at: Instant,
}

impl Entry {
    pub(crate) fn new(key: CacheKey, kept: Instant) -> Entry {
        Entry { key, lifetime: Lifetime { evict_at: kept } }
    }

    pub(crate) fn is_of(&self, key: &CacheKey) -> bool {
        self.key == *key
    }

    pub(crate) fn weight(&self) -> u32 {
        1
    }
}
