//! The parts of the crate's keys and results that the [`front`](crate::front) needs.

/// A point in time, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(u64);

impl Instant {
    pub(crate) const NEVER: Instant = Instant(u64::MAX);

    pub(crate) const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    pub(crate) const fn nanos(self) -> u64 {
        self.0
    }
}

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
    pub(crate) fn new(key: CacheKey, kept: u64) -> Entry {
        Entry { key, lifetime: Lifetime { evict_at: Instant(kept) } }
    }

    pub(crate) fn is_of(&self, key: &CacheKey) -> bool {
        self.key == *key
    }

    pub(crate) fn weight(&self) -> u32 {
        1
    }
}
