//! The hits of a cache that knows the future: it throws out what is used again last, or does not
//! take it in at all. No cache of its capacity has more (Belady, A study of replacement algorithms
//! for a virtual-storage computer, 1966).

use std::collections::BinaryHeap;

/// When each access's key is accessed next.
pub(super) struct Opt {
    next: Vec<u32>,
    keys: u32,
}

/// Not again.
const NEVER: u32 = u32::MAX;

impl Opt {
    /// Of keys below `keys`, and of fewer than 2^32 accesses.
    pub(super) fn new(accesses: &[u32], keys: u32) -> Opt {
        let mut coming = vec![NEVER; keys as usize];
        let mut next = vec![NEVER; accesses.len()];
        for (now, key) in accesses.iter().enumerate().rev() {
            next[now] = std::mem::replace(&mut coming[*key as usize], now as u32);
        }
        Opt { next, keys }
    }

    /// `accesses` are those that it was made of.
    pub(super) fn hits(&self, accesses: &[u32], capacity: u64) -> u64 {
        // When each key that is held is used next.
        let mut held = vec![None; self.keys as usize];
        let (mut count, mut hits) = (0_u64, 0);
        // The one that is used last on top. An entry stays behind when its key is used; what it says
        // is not what `held` says then.
        let mut heap: BinaryHeap<(u32, u32)> = BinaryHeap::new();
        for (key, next) in accesses.iter().zip(&self.next) {
            let before = &mut held[*key as usize];
            match before {
                Some(_) => hits += 1,
                None => count += 1,
            }
            *before = Some(*next);
            heap.push((*next, *key));
            while count > capacity {
                let Some((next, key)) = heap.pop() else { break };
                let held = &mut held[key as usize];
                if *held == Some(next) {
                    *held = None;
                    count -= 1;
                }
            }
        }
        hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    /// The best of all that could be done.
    fn best(accesses: &[u32], capacity: usize) -> u64 {
        let mut states: HashMap<BTreeSet<u32>, u64> = HashMap::from([(BTreeSet::new(), 0)]);
        for key in accesses {
            let mut after: HashMap<BTreeSet<u32>, u64> = HashMap::new();
            let mut reach = |held: BTreeSet<u32>, hits: u64| {
                let most = after.entry(held).or_default();
                *most = hits.max(*most);
            };
            for (held, hits) in states {
                if held.contains(key) {
                    reach(held, hits + 1);
                    continue;
                }
                let mut with = held.clone();
                with.insert(*key);
                if with.len() <= capacity {
                    reach(with.clone(), hits);
                }
                for out in &held {
                    let mut other = with.clone();
                    other.remove(out);
                    reach(other, hits);
                }
                reach(held, hits);
            }
            states = after;
        }
        states.into_values().max().unwrap_or(0)
    }

    #[test]
    fn a_known_sequence_hits_as_often_as_it_can() {
        // Of the textbooks, with three frames: nine faults if everything must be taken in. Not
        // taking in the 4 saves one.
        let accesses = [7, 0, 1, 2, 0, 3, 0, 4, 2, 3, 0, 3, 2, 1, 2, 0, 1, 7, 0, 1];
        let opt = Opt::new(&accesses, 8);
        assert_eq!(opt.hits(&accesses, 3), 12);
        let around: Vec<u32> = (0..40).map(|number| number % 4).collect();
        // All but one of four are kept for good.
        assert_eq!(Opt::new(&around, 4).hits(&around, 3), 27);
    }

    proptest! {
        #[test]
        fn nothing_is_better(accesses in prop::collection::vec(0_u32..6, 0..24)) {
            let opt = Opt::new(&accesses, 6);
            for capacity in 1..=4 {
                let hits = opt.hits(&accesses, capacity as u64);
                prop_assert_eq!(hits, best(&accesses, capacity));
            }
        }
    }
}
