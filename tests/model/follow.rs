//! [`Follow`]: a follower of the database announces what is committed, and its rounds gate what a
//! process serves.
//!
//! Commits of one tracked table are logged, flushed, and become visible, each at some time; with
//! asynchronous commit before they are flushed. Followers read what is flushed, in order. One process
//! reads: it hears by beats alone (pushes are hints, which the model of the whole protocol has), loads
//! from the primary or from a replica, and serves from memory. Nothing is served that lacks a commit
//! which was visible `max_blind` ticks ago.

use crate::explore::{Model, State, Steps};
use crate::follower::{Directory, Follower, below};
use crate::mutation::Mutation;

/// The longest `max_blind`.
const TICKS: usize = 2;

/// What can happen, and how often.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Commits may become visible before they are flushed.
    pub asynchronous: bool,
    pub replica: bool,
    pub followers: usize,
    /// How often the first follower dies and comes back.
    pub deaths: u8,
    pub loads: u8,
    /// Rounds of a term.
    pub numbers: u8,
    /// Terms of an epoch.
    pub terms: u8,
    pub commits: u8,
    /// In ticks.
    pub max_blind: u8,
    /// Calls may be given up, and be carried out late.
    pub gives_up: bool,
    pub second_dies: bool,
    /// How often the directory is lost.
    pub losses: u8,
}

#[derive(Clone, Copy)]
pub struct Follow {
    pub bounds: Bounds,
    pub mutation: Option<Mutation>,
}

/// A beat that was answered and that nothing is proven about yet.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Waiting {
    is_used: bool,
    /// Since it was sent.
    age: u8,
    term: u8,
    number: u8,
}

/// A result.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Found {
    is_used: bool,
    epoch: u8,
    seq: u8,
    /// The commits that it shows.
    shows: u8,
    /// For how many ticks it needs no proof.
    young: u8,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Process {
    epoch: u8,
    applied: u8,
    cell: u8,
    all: u8,
    /// Nothing from this position on was announced.
    high: u8,
    /// For how many ticks what is followed is served.
    followed: u8,
    waiting: [Waiting; 2],
    /// 0 none, 1 sent, 2 answered.
    beat: u8,
    beat_age: u8,
    answer: Directory,
    memory: Found,
    /// 0 none, 1 stamped, 2 loaded.
    load: u8,
    loading: Found,
    /// A load from the replica needs everything that was announced by then.
    need: u8,
}

#[derive(Clone, Copy)]
pub struct World {
    pub logged: u8,
    pub flushed: u8,
    /// A bit for each commit.
    pub visible: u8,
    replayed: u8,
    /// What was visible so many ticks ago.
    ago: [u8; TICKS + 1],
    pub followers: [Follower; 2],
    pub directory: Directory,
    process: Process,
    loads: u8,
    losses: u8,
}

impl State for World {
    type Words = [u64; 20];

    fn words(&self) -> [u64; 20] {
        let mut bytes = Vec::with_capacity(160);
        bytes.extend([self.logged, self.flushed, self.visible, self.replayed, self.loads]);
        bytes.push(self.losses);
        bytes.extend(self.ago);
        self.followers.iter().for_each(|follower| follower.word(&mut bytes));
        bytes.extend(self.directory.word());
        let p = &self.process;
        bytes.extend([p.epoch, p.applied, p.cell, p.all, p.followed, p.beat, p.beat_age, p.load]);
        bytes.extend([p.need, p.high]);
        bytes.extend(p.answer.word());
        for it in &p.waiting {
            bytes.extend([u8::from(it.is_used), it.age, it.term, it.number]);
        }
        for it in [&p.memory, &p.loading] {
            bytes.extend([u8::from(it.is_used), it.epoch, it.seq, it.shows, it.young]);
        }
        assert!(bytes.len() <= 160);
        bytes.resize(160, 0);
        let (words, _) = bytes.as_chunks::<8>();
        std::array::from_fn(|at| u64::from_le_bytes(words[at]))
    }
}

impl Follow {
    pub fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Whether what an answer shows proves something about a beat.
    fn proves(&self, answer: &Directory, asked: &Waiting) -> bool {
        let rounds = if self.is(Mutation::OneRound) { 1 } else { 2 };
        if answer.term == asked.term {
            answer.number >= asked.number + rounds
        } else {
            let begun = u8::from(!self.is(Mutation::TermAlone));
            answer.term > asked.term && answer.number >= begun
        }
    }

    fn hears(&self, p: &mut Process) {
        let answer = std::mem::take(&mut p.answer);
        let age = p.beat_age;
        (p.beat, p.beat_age) = (0, 0);
        if answer.epoch < p.epoch {
            return;
        }
        if answer.epoch > p.epoch {
            (p.epoch, p.applied, p.cell, p.all, p.followed) = (answer.epoch, 0, 0, 0, 0);
            p.waiting = Default::default();
        }
        p.applied = p.applied.max(answer.seq);
        p.cell = p.cell.max(answer.cell);
        p.all = p.all.max(answer.all);
        p.high = p.high.max(answer.high);
        let max_blind = self.bounds.max_blind;
        for it in p.waiting {
            if it.is_used && self.proves(&answer, &it) {
                let late = if self.is(Mutation::ProvenFromReceipt) { 0 } else { it.age };
                p.followed = p.followed.max(max_blind.saturating_sub(late));
            }
        }
        if age < max_blind {
            let Directory { term, number, .. } = answer;
            let same = |it: &&mut Waiting| it.is_used && (it.term, it.number) == (term, number);
            if let Some(it) = p.waiting.iter_mut().find(same) {
                it.age = it.age.min(age);
            } else {
                p.waiting = [p.waiting[1], Waiting { is_used: true, age, term, number }];
            }
        }
    }

    fn process(&self, world: &World, next: &mut Steps<World>) {
        let p = world.process;
        let mut add = |what, change: &dyn Fn(&mut World)| {
            let mut changed = *world;
            change(&mut changed);
            next.add("the process", what, changed);
        };
        match p.beat {
            0 => add("sends a beat", &|world| world.process.beat = 1),
            1 => add("has its beat answered", &|world| {
                (world.process.beat, world.process.answer) = (2, world.directory);
            }),
            _ => add("hears the answer", &|world| self.hears(&mut world.process)),
        }
        let young = self.bounds.max_blind;
        if p.load == 0 && world.loads > 0 {
            add("takes a stamp", &|world| {
                world.loads -= 1;
                let shows = if self.is(Mutation::StampAfterLoad) { world.visible } else { 0 };
                let (epoch, seq) = (p.epoch, p.applied);
                world.process.loading = Found { is_used: true, epoch, seq, shows, young };
                (world.process.load, world.process.need) = (1, p.high);
            });
        }
        if p.load == 1 && self.is(Mutation::StampAfterLoad) {
            add("has loaded before, and takes a stamp now", &|world| {
                (world.process.load, world.process.loading.seq) = (2, p.applied);
            });
        } else if p.load == 1 {
            add("loads from the primary", &|world| {
                (world.process.load, world.process.loading.shows) = (2, world.visible);
            });
            let may = world.replayed >= p.need || self.is(Mutation::UngatedReplicaLoad);
            if self.bounds.replica && may {
                // What a replica lacks was visible at the primary: it is not young.
                add("loads from the replica", &|world| {
                    let loading = &mut world.process.loading;
                    (loading.shows, loading.young) = (below(world.replayed), 0);
                    world.process.load = 2;
                });
            }
        }
        if p.load == 2 {
            add("keeps what it loaded", &|world| {
                let p = &mut world.process;
                (p.load, p.need, p.memory) = (0, 0, std::mem::take(&mut p.loading));
                if self.is(Mutation::YoungFromEnd) {
                    p.memory.young = young;
                }
            });
        }
    }
}

impl Model for Follow {
    type State = World;

    fn start(&self) -> World {
        let mut followers = [Follower::default(); 2];
        for follower in followers.iter_mut().take(self.bounds.followers) {
            follower.lives = 1;
        }
        followers[0].lives += self.bounds.deaths;
        World {
            logged: 0,
            flushed: 0,
            visible: 0,
            replayed: 0,
            ago: [0; TICKS + 1],
            followers,
            directory: Directory { epoch: 1, ..Directory::default() },
            process: Process { epoch: 1, ..Process::default() },
            loads: self.bounds.loads,
            losses: self.bounds.losses,
        }
    }

    fn steps(&self, world: &World, next: &mut Steps<World>) {
        let mut add = |who, what, change: &dyn Fn(&mut World)| {
            let mut changed = *world;
            change(&mut changed);
            next.add(who, what, changed);
        };
        let max_blind = self.bounds.max_blind;
        add("time", "passes", &|world| {
            world.ago.rotate_right(1);
            world.ago[0] = world.visible;
            let p = &mut world.process;
            for left in [&mut p.followed, &mut p.memory.young, &mut p.loading.young] {
                *left = left.saturating_sub(1);
            }
            if p.beat > 0 {
                p.beat_age = (p.beat_age + 1).min(max_blind);
            }
            for it in p.waiting.iter_mut().filter(|it| it.is_used) {
                it.age += 1;
                if it.age >= max_blind {
                    *it = Waiting::default();
                }
            }
        });
        if world.logged < self.bounds.commits {
            add("the database", "logs a commit", &|world| world.logged += 1);
        }
        if world.flushed < world.logged {
            add("the database", "flushes a commit", &|world| world.flushed += 1);
        }
        for at in 0..world.logged {
            let may = at < world.flushed || self.bounds.asynchronous;
            if may && world.visible & 1 << at == 0 {
                let what = ["makes the first commit visible", "makes the second one visible"];
                add("the database", what[usize::from(at)], &|world| {
                    world.visible |= 1 << at;
                    world.ago[0] |= 1 << at;
                });
            }
        }
        if self.bounds.replica && world.replayed < world.flushed {
            add("the replica", "replays a commit", &|world| world.replayed += 1);
        }
        if world.losses > 0 {
            add("the directory", "is lost", &|world| {
                let epoch = world.directory.epoch + 1;
                world.directory = Directory { epoch, ..Directory::default() };
                world.losses -= 1;
            });
        }
        for at in 0..self.bounds.followers {
            self.follower(world, at, next);
        }
        self.process(world, next);
    }

    fn fault(&self, world: &World) -> Option<&'static str> {
        let (p, memory) = (&world.process, &world.process.memory);
        let is_proven = p.followed > 0 || memory.young > 0 || self.is(Mutation::NoGate);
        let is_current = memory.is_used
            && memory.epoch == p.epoch
            && memory.seq >= p.cell
            && memory.seq >= p.all;
        let needed = world.ago[usize::from(self.bounds.max_blind)];
        (is_current && is_proven && memory.shows & needed != needed)
            .then_some("memory serves what lacks a commit that was visible `max_blind` ago")
    }

    fn describe(&self, world: &World) -> String {
        let follower = |f: &Follower| {
            format!(
                "[{} start {} decoded {} held {:b} unknown {:b} term {}.{} target {}]",
                ["off", "warm", "leads"][usize::from(f.state)],
                f.start,
                f.decoded,
                f.held,
                f.unknown,
                f.term,
                f.number,
                f.target
            )
        };
        let (d, p) = (&world.directory, &world.process);
        let [a, b] = world.followers.each_ref().map(follower);
        format!(
            "logged {} flushed {} visible {:b} ago {:?} | A {a} | B {b} | directory {:?} | process \
             {:?} followed {} memory {:?}",
            world.logged,
            world.flushed,
            world.visible,
            world.ago,
            d.word(),
            [p.epoch, p.applied, p.cell, p.all],
            p.followed,
            [p.memory.epoch, p.memory.seq, p.memory.shows, p.memory.young]
        )
    }
}
