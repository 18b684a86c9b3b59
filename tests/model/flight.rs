//! [`Flights`]: the readers of one key in one process, which share its loads.
//!
//! Checked: a reader receives no result that was loaded before an invalidation which this process
//! had requested when the read began, or which was acknowledged to any process `max_staleness`
//! before that. Readers that joined the same flight earlier may receive it.
//!
//! The model assumes only that the front of memory has an entry which memory once had, however old.
//! (`tests/loom` shows that the front follows memory.)

use crate::explore::{Model, State, Steps};
use crate::mutation::Mutation;
use crate::process::{Announcement, Beat, Call};
use crate::redis::{Page, Redis};
use crate::table::{Found, Heard, Table};

#[derive(Clone, Copy)]
pub struct Flights {
    pub max_staleness: u8,
    /// How many of the three readers there are.
    pub readers: usize,
    /// Invalidations of this process.
    pub invalidations: u8,
    /// Invalidations of another process.
    pub others: u8,
    pub losses: u8,
    pub mutation: Option<Mutation>,
}

const READERS: [&str; 3] = ["reader 1", "reader 2", "reader 3"];
const PROCESS: &str = "the process";
const TICKS: usize = 2;
/// So long a read is looked at. What is longer ago is taken for so long ago.
const LONGEST: u8 = 1;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    NotBegun,
    /// It waits for the flight.
    Aboard,
    /// It has what the flight brought, and has not looked at it.
    Landed,
    Done,
}

#[derive(Clone, Copy, Default)]
struct Reader {
    stage: Stage,
    /// What it must have seen of the database.
    need: u8,
    brought: Found,
    /// The load of the flight under way began after the read.
    ahead: bool,
    /// The same of the flight that brought something.
    later: bool,
    /// Ticks since it began.
    since: u8,
    /// The table is confirmed for the time when it began.
    confirmed: bool,
}

impl Reader {
    fn waits(&self) -> bool {
        matches!(self.stage, Stage::Aboard | Stage::Landed)
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Flight {
    #[default]
    None,
    Started,
    Stamped,
    Loaded,
}

#[derive(Clone, Copy)]
pub struct Hall {
    table: Table,
    redis: Redis,
    version: u8,
    acknowledged: [u8; TICKS + 1],
    /// The version of the last invalidation that this process asked for.
    asked: u8,
    announcement: Announcement,
    beat: Beat,
    memory: Found,
    front: Found,
    flight: Flight,
    loading: Found,
    readers: [Reader; 3],
    invalidations: u8,
    others: u8,
    losses: u8,
    fault: bool,
}

impl State for Hall {
    type Words = [u64; 19];

    fn words(&self) -> [u64; 19] {
        let mut words = [0; 19];
        let Announcement { call, at, version, all, .. } = self.announcement;
        let Beat { call: beat, age, at: beat_at, cell, .. } = self.beat;
        let [now, one, two] = self.acknowledged;
        words[..5].copy_from_slice(&self.redis.words());
        words[5] = self.table.word();
        words[6] = self.memory.word();
        words[7] = self.loading.word();
        words[8] = u64::from_le_bytes([
            call as u8,
            at.epoch,
            at.seq,
            version,
            all.into(),
            self.flight as u8,
            self.fault.into(),
            0,
        ]);
        words[9] = u64::from_le_bytes([beat as u8, age, beat_at.epoch, beat_at.seq, cell, 0, 0, 0]);
        words[10] = u64::from_le_bytes([self.version, now, one, two, self.asked, 0, 0, 0]);
        words[11] =
            u64::from_le_bytes([self.invalidations, self.others, self.losses, 0, 0, 0, 0, 0]);
        let mut readers = self.readers.map(|reader| {
            let Reader { stage, need, ahead, later, since, confirmed, brought } = reader;
            let rest =
                [stage as u8, need, later.into(), since, confirmed.into(), ahead.into(), 0, 0];
            [brought.word(), u64::from_le_bytes(rest)]
        });
        // Who is who makes no difference.
        readers.sort_unstable();
        words[12..18].copy_from_slice(readers.as_flattened());
        words[18] = self.front.word();
        words
    }
}

impl Hall {
    fn need(&self, max_staleness: u8) -> u8 {
        self.asked.max(self.acknowledged[usize::from(max_staleness)])
    }

    fn acknowledge(&mut self, version: u8) {
        self.acknowledged[0] = self.acknowledged[0].max(version);
    }

    /// All results that this process has, wherever they are.
    fn results(&mut self) -> impl Iterator<Item = &mut Found> {
        let brought = self.readers.iter_mut().map(|reader| &mut reader.brought);
        [&mut self.memory, &mut self.front, &mut self.loading].into_iter().chain(brought)
    }

    fn forget_moments(&mut self) {
        self.results().for_each(|found| found.after = false);
    }

    fn tick(&mut self, max_staleness: u8) {
        for age in (1..=usize::from(max_staleness)).rev() {
            self.acknowledged[age] = self.acknowledged[age - 1];
        }
        self.table.confirmed = self.table.confirmed.saturating_sub(1);
        self.results().for_each(|found| found.young = found.young.saturating_sub(1));
        for reader in self.readers.iter_mut().filter(|reader| reader.waits()) {
            reader.since = LONGEST.min(reader.since + 1);
        }
        if self.beat.call != Call::None {
            self.beat.age = (max_staleness + LONGEST).min(self.beat.age + 1);
        }
    }

    /// Whether a result may be given to a reader. It is judged as of when the read began: what was
    /// acknowledged `max_staleness` before that, a table that was confirmed for then has.
    fn serves(&self, reader: &Reader, found: &Found, mutation: Option<Mutation>) -> bool {
        found.version > 0
            && (reader.confirmed
                || found.young > LONGEST - reader.since
                || mutation == Some(Mutation::NoFreshnessGate))
            && self.table.is_current(found, mutation)
    }

    /// The front, memory, or a flight: one that is under way, or a new one.
    fn join(&mut self, index: usize, mutation: Option<Mutation>) {
        let reader = &self.readers[index];
        let unjudged = self.front.version > 0 && mutation == Some(Mutation::FrontDoesNotJudge);
        if unjudged || self.serves(reader, &self.front, mutation) {
            return self.take(index, self.front);
        }
        if self.serves(reader, &self.memory, mutation) {
            return self.take(index, self.memory);
        }
        if self.flight == Flight::None {
            self.flight = Flight::Started;
        }
        self.readers[index].stage = Stage::Aboard;
    }

    fn take(&mut self, reader: usize, found: Found) {
        let reader = &mut self.readers[reader];
        self.fault |= found.version < reader.need;
        *reader = Reader { stage: Stage::Done, ..Reader::default() };
    }

    fn land(&mut self) {
        let brought = std::mem::take(&mut self.loading);
        self.memory = brought;
        self.flight = Flight::None;
        for reader in self.readers.iter_mut().filter(|reader| reader.stage == Stage::Aboard) {
            *reader = Reader { stage: Stage::Landed, brought, later: reader.ahead, ..*reader };
        }
        self.readers.iter_mut().for_each(|reader| reader.ahead = false);
    }
}

impl Flights {
    fn readers(&self, hall: &Hall, next: &mut Steps<Hall>) {
        for (index, who) in READERS.into_iter().enumerate().take(self.readers) {
            let mut changed = *hall;
            match hall.readers[index].stage {
                Stage::NotBegun => {
                    let reader = &mut changed.readers[index];
                    reader.need = hall.need(self.max_staleness);
                    reader.confirmed = hall.table.confirmed > 0;
                    changed.join(index, self.mutation);
                    next.add(who, "begins", changed);
                }
                Stage::Landed => {
                    let reader = &hall.readers[index];
                    let brought = reader.brought;
                    let unjudged =
                        reader.later || self.mutation == Some(Mutation::JoinerDoesNotJudge);
                    if unjudged || hall.serves(reader, &brought, self.mutation) {
                        changed.take(index, brought);
                        next.add(who, "takes what the flight brought", changed);
                    } else {
                        let reader = &mut changed.readers[index];
                        (reader.brought, reader.later) = (Found::default(), false);
                        changed.join(index, self.mutation);
                        next.add(who, "begins anew, for what the flight brought is dead", changed);
                    }
                }
                Stage::Aboard | Stage::Done => {}
            }
        }
        if hall.memory.version > 0 && hall.front.word() != hall.memory.word() {
            let front = hall.memory;
            next.add("a reader", "brings what memory has to the front", Hall { front, ..*hall });
        }
        let mut changed = *hall;
        let what = match hall.flight {
            Flight::None => return,
            Flight::Started => {
                changed.flight = Flight::Stamped;
                changed.loading = hall.table.stamp(self.max_staleness + LONGEST);
                for reader in &mut changed.readers {
                    reader.ahead = reader.waits();
                }
                "captures its stamp"
            }
            Flight::Stamped => {
                changed.flight = Flight::Loaded;
                changed.loading.version = hall.version;
                "loads from the database"
            }
            Flight::Loaded => {
                changed.land();
                "lands"
            }
        };
        next.add("the flight", what, changed);
    }

    fn invalidations(&self, hall: &Hall, next: &mut Steps<Hall>) {
        if hall.invalidations < self.invalidations {
            let mut changed = *hall;
            changed.invalidations += 1;
            changed.version += 1;
            changed.asked = changed.version;
            changed.table.pending = true;
            changed.announcement.all = false;
            changed.forget_moments();
            next.add(PROCESS, "commits a change and begins an invalidation", changed);
        }
        let known = hall.table.position();
        let Announcement { call, at, all, version, .. } = hall.announcement;
        if hall.table.pending
            && call == Call::None
            && let Some((redis, at)) = hall.redis.invalidate(known, true, 0, self.mutation)
        {
            let call = Call::Answered;
            let announcement =
                Announcement { call, connection: 1, at, version: hall.asked, all: true };
            next.add(PROCESS, "has it carried out", Hall { redis, announcement, ..*hall });
        }
        if call == Call::Answered {
            let mut changed = *hall;
            let heard = changed.table.acknowledged(at, all, self.mutation);
            if heard != Heard::Behind {
                changed.announcement = Announcement::default();
            }
            if heard != Heard::Outdated {
                changed.acknowledge(version);
            }
            if !changed.table.pending {
                changed.forget_moments();
            }
            next.add(PROCESS, "hears that Redis has it", changed);
        }
        if hall.others < self.others
            && let Some((redis, _)) =
                hall.redis.invalidate(hall.redis.position(), true, 0, self.mutation)
        {
            let mut changed = Hall { redis, ..*hall };
            changed.others += 1;
            changed.version += 1;
            changed.acknowledge(changed.version);
            next.add("another process", "commits a change and invalidates", changed);
        }
    }

    fn news(&self, hall: &Hall, next: &mut Steps<Hall>) {
        for notice in hall.redis.notices() {
            let mut changed = *hall;
            let _ = changed.table.pushed(notice.at, notice.ours, self.mutation);
            next.add(PROCESS, "hears of an invalidation", changed);
        }
        let known = hall.table.position();
        if let Some((redis, pages)) = hall.redis.beat(known, 0, self.mutation) {
            for Page { at, cell, more } in pages {
                let beat = Beat { call: Call::Answered, connection: 1, age: 0, at, cell, more };
                next.add(PROCESS, "has its beat carried out", Hall { redis, beat, ..*hall });
            }
        }
        if hall.beat.call == Call::Answered {
            let mut changed = *hall;
            let Beat { age, at, cell, connection, more, .. } = std::mem::take(&mut changed.beat);
            let confirmed = if more { 0 } else { self.max_staleness.saturating_sub(age) };
            let _ = changed.table.beat(at, cell, more, connection, confirmed, self.mutation);
            for reader in changed.readers.iter_mut().filter(|reader| reader.waits()) {
                reader.confirmed |= !more && age < self.max_staleness + reader.since;
            }
            next.add(PROCESS, "hears the answer to its beat", changed);
        }
    }
}

impl Model for Flights {
    type State = Hall;

    fn start(&self) -> Hall {
        Hall {
            table: Table { epoch: 2, ..Table::default() },
            redis: Redis::new(2),
            version: 1,
            acknowledged: [1; TICKS + 1],
            asked: 1,
            announcement: Announcement::default(),
            beat: Beat::default(),
            memory: Found::default(),
            front: Found::default(),
            flight: Flight::None,
            loading: Found::default(),
            readers: Default::default(),
            invalidations: 0,
            others: 0,
            losses: 0,
            fault: false,
        }
    }

    fn steps(&self, hall: &Hall, next: &mut Steps<Hall>) {
        self.readers(hall, next);
        self.invalidations(hall, next);
        self.news(hall, next);
        let mut later = *hall;
        later.tick(self.max_staleness);
        next.add("time", "passes", later);
        if hall.losses < self.losses {
            let mut changed = *hall;
            changed.losses += 1;
            changed.redis.lose_directory();
            next.add("the master", "loses the directory", changed);
        }
    }

    fn fault(&self, hall: &Hall) -> Option<&'static str> {
        hall.fault.then_some("a reader took what it must not")
    }

    fn describe(&self, hall: &Hall) -> String {
        let Hall { table, version, acknowledged, memory, front, loading, .. } = hall;
        let readers = hall.readers.map(|reader| reader.need);
        format!(
            "database v{version}, acknowledged {acknowledged:?} | table {}.{} cell {}{} confirmed {} | \
             memory v{} | front v{} | flight v{} | readers need {readers:?}",
            table.epoch,
            table.applied,
            table.known,
            if table.pending { "+pending" } else { "" },
            table.confirmed,
            memory.version,
            front.version,
            loading.version
        )
    }
}
