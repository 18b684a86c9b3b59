//! [`Leases`]: the loads of one key in all processes, and the scripts on its entry and its lease.
//!
//! The process of a load may be behind, and may be of a lineage that has ended. Its request for a
//! lease may be executed after it has begun to load without one. A lease may end at any time.
//!
//! Checked:
//!
//! - Whatever happens to the leases, an entry includes everything that its stamp says.
//! - A fill whose lease has been lost is refused while another load holds the lease. With or
//!   without a lease, no fill replaces an entry by an older one.
//! - Every waiter waits for a lease that records it, so that it will be notified of the end.

use crate::explore::{Model, State, Steps};
use crate::mutation::Mutation;
use crate::table::{Found, Position};

#[derive(Clone, Copy)]
pub struct Leases {
    /// How many loads there are.
    pub loads: usize,
    pub invalidations: u8,
    /// How often the directory is lost.
    pub losses: u8,
    pub mutation: Option<Mutation>,
}

const LOADS: usize = 4;
const NAMES: [&str; LOADS] = ["load 1", "load 2", "load 3", "load 4"];
const EPOCHS: usize = 3;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    NotBegun,
    Asking,
    Waiting,
    Loading,
    Loaded,
    Done,
}

/// One load, with a token of its own: its number.
#[derive(Clone, Copy, Default)]
struct Load {
    stage: Stage,
    /// The position as of which it begins.
    at: Position,
    version: u8,
    /// A request for the lease is on its way to Redis, or still lies there after the load gave up.
    request: Option<Request>,
}

#[derive(Clone, Copy)]
struct Request {
    at: Position,
    need: u8,
    /// The load whose entry is not wanted; 0 for none.
    seen: u8,
}

#[derive(Clone, Copy)]
struct Lease {
    /// The load's number.
    token: u8,
    at: Position,
    waiting: bool,
}

#[derive(Clone, Copy, Default)]
struct Epoch {
    /// What the database had when it began.
    from: u8,
    /// Its last invalidation.
    last: u8,
}

#[derive(Clone, Copy, Default)]
pub struct Key {
    entry: Found,
    /// The load that the entry is of.
    entry_of: u8,
    lease: Option<Lease>,
    loads: [Load; LOADS],
    directory: Position,
    epochs: [Epoch; EPOCHS],
    version: u8,
    invalidations: u8,
    fault: Option<&'static str>,
}

impl State for Key {
    type Words = [u64; 11];

    fn words(&self) -> [u64; 11] {
        let mut words = [0; 11];
        words[0] = self.entry.word();
        let lease = self.lease.map_or([0; 4], |lease| {
            [lease.token, lease.at.epoch, lease.at.seq, lease.waiting.into()]
        });
        let [token, epoch, seq, waiting] = lease;
        words[1] = u64::from_le_bytes([
            token,
            epoch,
            seq,
            waiting,
            self.entry_of,
            self.version,
            self.invalidations,
            self.fault.is_some().into(),
        ]);
        let [_, one, two] = self.epochs;
        let Position { epoch, seq } = self.directory;
        words[2] = u64::from_le_bytes([epoch, seq, one.from, one.last, two.from, two.last, 0, 0]);
        for (index, load) in self.loads.iter().enumerate() {
            let Load { stage, at, version, request } = *load;
            words[3 + 2 * index] =
                u64::from_le_bytes([stage as u8, at.epoch, at.seq, version, 0, 0, 0, 0]);
            words[4 + 2 * index] = request.map_or(0, |Request { at, need, seen }| {
                u64::from_le_bytes([1, at.epoch, at.seq, need, seen, 0, 0, 0])
            });
        }
        words
    }
}

impl Key {
    fn stamp(&self) -> Position {
        Position { epoch: self.entry.epoch, seq: self.entry.asof }
    }

    /// All positions that a process may be at.
    fn positions(&self, each: &mut dyn FnMut(Position)) {
        for epoch in 1..=self.directory.epoch {
            for seq in 0..=self.epochs[usize::from(epoch)].last {
                each(Position { epoch, seq });
            }
        }
    }

    /// `lease.lua`.
    fn ask(&mut self, index: usize, request: Request, mutation: Option<Mutation>) -> &'static str {
        let Request { at, need, seen } = request;
        let token = index as u8 + 1;
        let stored = self.entry.version > 0;
        let load = &mut self.loads[index];
        load.request = None;
        let asking = load.stage == Stage::Asking;
        let mut outcome = |stage| {
            if asking {
                load.stage = stage;
            }
        };
        let current = self.entry.epoch == at.epoch && self.entry.asof >= need;
        if stored && current && self.entry_of != seen {
            outcome(Stage::Done);
            return "is told that there is an entry";
        }
        if stored && self.entry.epoch > at.epoch {
            outcome(Stage::Done);
            return "is told that there is an entry of a later epoch";
        }
        let mut waiting = false;
        match &mut self.lease {
            Some(lease) if lease.token == token => {}
            Some(lease)
                if lease.at.epoch > at.epoch
                    || lease.at.epoch == at.epoch && lease.at.seq >= need =>
            {
                lease.waiting = true;
                outcome(Stage::Waiting);
                return "is told to wait";
            }
            lease => {
                if let Some(superseded) = lease {
                    waiting = superseded.waiting && mutation != Some(Mutation::WaitersForgotten);
                }
                *lease = Some(Lease { token, at, waiting });
            }
        }
        outcome(Stage::Loading);
        "is granted the lease"
    }

    /// `fill.lua`.
    fn fill(&mut self, index: usize, mutation: Option<Mutation>) -> &'static str {
        let token = index as u8 + 1;
        let Load { at, version, .. } = self.loads[index];
        let holder = self.lease.map(|lease| lease.token);
        self.loads[index].stage = Stage::Done;
        let ours = match holder {
            Some(other) if other != token => {
                if mutation != Some(Mutation::FillIgnoresLease) {
                    return "is refused, for another has the lease";
                }
                true
            }
            Some(_) => true,
            None => false,
        };
        let stored = self.entry.version > 0;
        let older = stored && (at.epoch, at.seq) < (self.entry.epoch, self.entry.asof);
        if older && mutation != Some(Mutation::LossNotFenced) {
            if ours {
                self.give_back();
            }
            return "is refused, for what is there is newer";
        }
        if holder.is_some_and(|other| other != token) {
            self.fault = Some("a fill was accepted though another has the lease");
        } else if older {
            self.fault = Some("a fill replaced a newer entry");
        }
        self.entry = Found { epoch: at.epoch, asof: at.seq, version, ..Found::default() };
        self.entry_of = token;
        if ours {
            self.give_back();
        } else {
            // The lost lease took with it the record of whether anybody waits.
            self.wake();
        }
        "stores its result"
    }

    /// The lease is deleted, and those who wait are told if it knows of any.
    fn give_back(&mut self) {
        if self.lease.take().is_some_and(|lease| lease.waiting) {
            self.wake();
        }
    }

    fn wake(&mut self) {
        for load in self.loads.iter_mut().filter(|load| load.stage == Stage::Waiting) {
            *load = Load::default();
        }
    }
}

impl Leases {
    fn load(&self, key: &Key, index: usize, next: &mut Steps<Key>) {
        let who = NAMES[index];
        let Load { stage, request, .. } = key.loads[index];
        let mut add = |what, change: &dyn Fn(&mut Key, &mut Load)| {
            let mut changed = *key;
            let mut load = key.loads[index];
            change(&mut changed, &mut load);
            changed.loads[index] = load;
            next.add(who, what, changed);
        };
        match stage {
            Stage::NotBegun => key.positions(&mut |at| {
                // The process may not know of what the entry depends on.
                for (need, seen) in [(at.seq, 0), (at.seq, key.entry_of), (0, 0)] {
                    add("asks for the lease", &|_, load| {
                        let request = Some(Request { at, need, seen });
                        *load = Load { stage: Stage::Asking, at, version: 0, request };
                    });
                }
            }),
            Stage::Asking => add("gets no answer and loads without", &|_, load| {
                load.stage = Stage::Loading;
            }),
            Stage::Waiting => add("has waited for long enough", &|_, load| *load = Load::default()),
            Stage::Loading => add("loads from the database", &|key, load| {
                load.stage = Stage::Loaded;
                load.version = key.version;
            }),
            Stage::Loaded => {
                let mut changed = *key;
                let what = changed.fill(index, self.mutation);
                next.add(who, what, changed);
                let mut changed = *key;
                changed.loads[index].stage = Stage::Done;
                if key.lease.is_some_and(|lease| usize::from(lease.token) == index + 1) {
                    changed.give_back();
                }
                next.add(who, "has nothing to store", changed);
            }
            Stage::Done => {}
        }
        if let Some(request) = request {
            let mut changed = *key;
            let what = changed.ask(index, request, self.mutation);
            next.add(who, what, changed);
        }
    }
}

impl Model for Leases {
    type State = Key;

    fn start(&self) -> Key {
        let mut key =
            Key { version: 1, directory: Position { epoch: 1, seq: 0 }, ..Key::default() };
        key.epochs[1].from = 1;
        key
    }

    fn steps(&self, key: &Key, next: &mut Steps<Key>) {
        for index in 0..self.loads {
            self.load(key, index, next);
        }
        if key.lease.is_some() {
            let mut changed = *key;
            changed.lease = None;
            // They know when it ends.
            changed.wake();
            next.add("the lease", "ends", changed);
        }
        if key.invalidations < self.invalidations {
            let mut changed = *key;
            changed.invalidations += 1;
            changed.version += 1;
            changed.directory.seq += 1;
            changed.epochs[usize::from(key.directory.epoch)].last += 1;
            next.add("somebody", "commits a change and invalidates", changed);
        }
        if key.directory.epoch <= self.losses {
            let mut changed = *key;
            let epoch = key.directory.epoch + 1;
            changed.directory = Position { epoch, seq: 0 };
            changed.epochs[usize::from(epoch)] = Epoch { from: key.version, last: 0 };
            next.add("the directory", "is lost and begins anew", changed);
        }
    }

    fn fault(&self, key: &Key) -> Option<&'static str> {
        let waits = key.loads.iter().any(|load| load.stage == Stage::Waiting);
        let known = key.lease.is_some_and(|lease| lease.waiting);
        let Position { epoch, seq } = key.stamp();
        let promised = key.epochs[usize::from(epoch)].from + seq;
        if key.entry.version > 0 && key.entry.version < promised {
            return Some("an entry has not seen what its stamp says");
        }
        if waits && !known {
            return Some("a load waits for a lease that does not know of it");
        }
        key.fault
    }

    fn describe(&self, key: &Key) -> String {
        let Position { epoch, seq } = key.directory;
        let lease = key.lease.map_or("none".to_owned(), |Lease { token, at, waiting }| {
            format!(
                "load {token} at {}.{}{}",
                at.epoch,
                at.seq,
                if waiting { ", awaited" } else { "" }
            )
        });
        let Found { version, .. } = key.entry;
        let stamp = key.stamp();
        format!(
            "database v{} at {epoch}.{seq} | lease {lease} | entry v{version}@{}.{} of load {}",
            key.version, stamp.epoch, stamp.seq, key.entry_of
        )
    }
}
