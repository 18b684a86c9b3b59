//! [`Loading`]: which loads of this process wait for which flights, so that a load that waits for
//! itself ends with an error at once.
//!
//! A load waits for a flight when it reads another result. If that flight, over any number of
//! loads, waits for the first load, none of them can end before its deadline. Each wait of a load
//! is recorded before it begins, under one lock. The wait that would close a cycle is refused.
//!
//! The record belongs to the process and not to one cache, since a cycle can pass through several
//! caches. Only a read inside a load takes the lock. A task that a load spawns is not part of the
//! load: the load can end before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::telemetry::counters::QueryCounters;

/// The waits of all loads of this process: the flights that each load waits for, by its own flight.
static WAITS: Mutex<BTreeMap<FlightNumber, Vec<Awaited>>> = Mutex::new(BTreeMap::new());

/// Identifies a flight among all flights of this process.
pub(crate) type FlightNumber = u64;

pub(super) fn next_number() -> FlightNumber {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

struct Awaited {
    flight: FlightNumber,
    query: Arc<QueryCounters>,
}

/// A load under way, as the reads inside it see it.
#[derive(Clone)]
pub(crate) struct Loading {
    pub(crate) flight: FlightNumber,
    pub(crate) query: Arc<QueryCounters>,
}

/// The names of the queries whose loads would wait for each other, from the first to the first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cycle(pub(crate) Vec<String>);

impl Loading {
    /// Records that this load waits for a flight, until the returned value is dropped. Returns the
    /// cycle instead if that flight waits for this load.
    pub(crate) fn wait_for(
        &self,
        flight: FlightNumber,
        query: &Arc<QueryCounters>,
    ) -> Result<Wait, Cycle> {
        let mut waits = WAITS.lock();
        let mut path = vec![self.query.name().to_owned(), query.name().to_owned()];
        if flight == self.flight
            || leads_to(&waits, flight, self.flight, &mut path, &mut BTreeSet::new())
        {
            return Err(Cycle(path));
        }
        waits.entry(self.flight).or_default().push(Awaited { flight, query: query.clone() });
        Ok(Wait { from: self.flight, to: flight })
    }
}

/// Whether `from` waits for `target`, over any number of loads. The names of the queries on the way
/// are added to `path`.
fn leads_to(
    waits: &BTreeMap<FlightNumber, Vec<Awaited>>,
    from: FlightNumber,
    target: FlightNumber,
    path: &mut Vec<String>,
    seen: &mut BTreeSet<FlightNumber>,
) -> bool {
    if !seen.insert(from) {
        return false;
    }
    waits.get(&from).into_iter().flatten().any(|awaited| {
        path.push(awaited.query.name().to_owned());
        let found = awaited.flight == target || leads_to(waits, awaited.flight, target, path, seen);
        if !found {
            path.pop();
        }
        found
    })
}

/// A recorded wait. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Wait {
    from: FlightNumber,
    to: FlightNumber,
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waits = WAITS.lock();
        let Some(awaited) = waits.get_mut(&self.from) else { return };
        if let Some(at) = awaited.iter().position(|awaited| awaited.flight == self.to) {
            awaited.swap_remove(at);
        }
        if awaited.is_empty() {
            waits.remove(&self.from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::counters::Counters;

    /// Loads of queries named `a`, `b` and so on.
    fn loads<const N: usize>() -> [Loading; N] {
        let counters = Counters::new("n");
        std::array::from_fn(|at| {
            let name: Arc<str> = char::from(b'a' + at as u8).to_string().into();
            Loading { flight: next_number(), query: counters.queries.of(&name) }
        })
    }

    fn wait(from: &Loading, to: &Loading) -> Result<Wait, Vec<String>> {
        from.wait_for(to.flight, &to.query).map_err(|Cycle(names)| names)
    }

    #[test]
    fn the_wait_that_closes_a_cycle_is_refused_whatever_its_length() {
        let [a, b, c] = loads();
        assert_eq!(wait(&a, &a).unwrap_err(), ["a", "a"]);
        let _one = wait(&a, &b).unwrap();
        assert_eq!(wait(&b, &a).unwrap_err(), ["b", "a", "b"]);
        let _two = wait(&b, &c).unwrap();
        assert_eq!(wait(&c, &a).unwrap_err(), ["c", "a", "b", "c"]);
    }

    #[test]
    fn several_ways_to_one_flight_are_no_cycle() {
        let [a, b, c, d] = loads();
        let waits = [(&a, &b), (&a, &c), (&b, &d), (&c, &d), (&a, &d), (&a, &d)];
        let _waits = waits.map(|(from, to)| wait(from, to).unwrap());
        assert_eq!(wait(&d, &a).unwrap_err().len(), 4);
    }

    #[test]
    fn a_wait_that_ended_counts_no_more_and_leaves_nothing_behind() {
        let [a, b] = loads();
        let (one, two) = (wait(&a, &b).unwrap(), wait(&a, &b).unwrap());
        drop(one);
        assert!(wait(&b, &a).is_err(), "another read of the load still waits");
        drop(two);
        drop(wait(&b, &a).unwrap());
        let waits = WAITS.lock();
        assert!(!waits.contains_key(&a.flight) && !waits.contains_key(&b.flight));
    }
}
