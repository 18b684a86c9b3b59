//! The hits of a cache that throws out what was not used for longest, at all capacities at once.
//!
//! Such a cache of n entries holds the n keys that were used last (Mattson and others, Evaluation
//! techniques for storage hierarchies, 1970). So an access is a hit if fewer than n other keys were
//! used since the last one to its key: one pass counts for each such distance how often it occurs.

/// How many accesses hit, by capacity.
pub(super) struct Lru {
    /// How many accesses have so many other keys since the last one to theirs.
    distances: Vec<u64>,
}

impl Lru {
    /// Of keys below `keys`.
    pub(super) fn new(accesses: &[u32], keys: u32) -> Lru {
        let mut distances = vec![0; keys as usize];
        // A one at the last access to each key; so the ones after an access are the other keys used
        // since.
        let mut marks = Sums::new(accesses.len());
        let mut last = vec![usize::MAX; keys as usize];
        for (now, key) in accesses.iter().enumerate() {
            let key = *key as usize;
            let before = std::mem::replace(&mut last[key], now);
            if before != usize::MAX {
                distances[(marks.total - marks.up_to(before)) as usize] += 1;
                marks.take(before);
            }
            marks.put(now);
        }
        Lru { distances }
    }

    pub(super) fn hits(&self, capacity: u64) -> u64 {
        let near = usize::try_from(capacity).unwrap_or(usize::MAX).min(self.distances.len());
        self.distances[..near].iter().sum()
    }
}

/// Ones and zeros, with the number of ones up to any place in logarithmic time (a Fenwick tree).
struct Sums {
    tree: Vec<u32>,
    total: u32,
}

impl Sums {
    fn new(length: usize) -> Sums {
        Sums { tree: vec![0; length + 1], total: 0 }
    }

    fn put(&mut self, place: usize) {
        self.total += 1;
        self.change(place, 1);
    }

    fn take(&mut self, place: usize) {
        self.total -= 1;
        self.change(place, u32::MAX);
    }

    fn change(&mut self, place: usize, by: u32) {
        let mut node = place + 1;
        while node < self.tree.len() {
            self.tree[node] = self.tree[node].wrapping_add(by);
            node += node & node.wrapping_neg();
        }
    }

    /// Ones up to this place, with it.
    fn up_to(&self, place: usize) -> u32 {
        let (mut node, mut sum) = (place + 1, 0_u32);
        while node > 0 {
            sum = sum.wrapping_add(self.tree[node]);
            node &= node - 1;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// A list, the key used last at its end.
    fn played(accesses: &[u32], capacity: usize) -> u64 {
        let (mut list, mut hits) = (Vec::new(), 0);
        for key in accesses {
            match list.iter().position(|it| it == key) {
                Some(place) => {
                    hits += 1;
                    list.remove(place);
                }
                None if list.len() == capacity => {
                    list.remove(0);
                }
                None => {}
            }
            list.push(*key);
        }
        hits
    }

    #[test]
    fn a_loop_larger_than_the_cache_never_hits() {
        let accesses: Vec<u32> = (0..40).map(|number| number % 4).collect();
        let lru = Lru::new(&accesses, 4);
        assert_eq!((lru.hits(3), lru.hits(4), lru.hits(100)), (0, 36, 36));
    }

    proptest! {
        #[test]
        fn it_counts_what_a_list_counts(accesses in prop::collection::vec(0_u32..12, 0..200)) {
            let lru = Lru::new(&accesses, 12);
            for capacity in 1..=13 {
                prop_assert_eq!(lru.hits(capacity as u64), played(&accesses, capacity));
            }
        }
    }
}
