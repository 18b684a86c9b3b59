mod by_hand;
mod cached;
mod floor;
mod hitbox;
mod larder;
mod multi_tier;

use std::fmt;
use std::sync::Arc;

pub use self::by_hand::ByHand;
pub use self::cached::{Cached, CachedByKey};
pub use self::floor::Floor;
pub use self::hitbox::Hitbox;
pub use self::larder::{LarderRows, LarderTyped};
pub use self::multi_tier::MultiTier;
use crate::work::{Line, SQL_DIGEST};

/// A key of those who make it themselves. In memory it is these fields, in Redis its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    query: u64,
    id: i64,
    region: &'static str,
}

impl Key {
    fn new(id: i64, region: &'static str) -> Key {
        Key { query: *SQL_DIGEST, id, region }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}:{}:{}", self.query, self.id, self.region)
    }
}

type Lines = Arc<Vec<Line>>;

fn seen(lines: &[Line]) -> (usize, i64) {
    (lines.len(), lines.first().map_or(0, |line| line.orders))
}
