//! A follower of the database: its slot, its rounds, and its calls.

use crate::explore::Steps;
use crate::follow::{Follow, World};
use crate::mutation::Mutation;

/// What a follower sends to Redis. It is carried out at any later time, or never.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Call {
    /// 0 none, 1 sent, 2 carried out and answered, 3 a stray: nobody waits for its answer.
    pub state: u8,
    pub begins: bool,
    pub epoch: u8,
    pub term: u8,
    pub number: u8,
    /// The tag's cell is to be raised.
    pub cell: bool,
    /// The cell of all that is followed is to be raised.
    pub all: bool,
    pub low: u8,
    pub high: u8,
    /// Of a beginning: where the slot began.
    pub start: u8,
    /// The answer: the term, 0 if the call was refused, and its epoch.
    pub got: u8,
    pub got_epoch: u8,
    /// Whether it goes on where the last leader ended, and where that was.
    pub goes_on: bool,
    pub got_low: u8,
}

impl Call {
    fn word(&self) -> [u8; 14] {
        let flags = [self.begins, self.cell, self.all, self.goes_on].map(u8::from);
        let [begins, cell, all, goes_on] = flags;
        let Call { state, epoch, term, number, low, start, got, got_epoch, got_low, high, .. } =
            *self;
        [
            state, begins, epoch, term, number, cell, all, low, start, got, got_epoch, goes_on,
            got_low, high,
        ]
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Follower {
    /// 0 no slot, 1 a slot, 2 leads.
    pub state: u8,
    pub start: u8,
    pub decoded: u8,
    /// Commits that were logged before the slot began and not visible when it had.
    pub unknown: u8,
    /// Decoded and not announced by this one.
    pub held: u8,
    pub epoch: u8,
    pub term: u8,
    pub number: u8,
    /// 0: no round is under way; otherwise the position to be reached, plus one.
    pub target: u8,
    pub call: Call,
    pub stray: Call,
    /// What the call announces if it is carried out.
    pub announcing: u8,
    /// Nobody knows which number stands: it begins another term.
    pub settling: bool,
    pub lives: u8,
}

impl Follower {
    pub fn word(&self, bytes: &mut Vec<u8>) {
        let Follower { state, start, decoded, unknown, held, epoch, term, number, .. } = *self;
        bytes.extend([state, start, decoded, unknown, held, epoch, term, number]);
        bytes.extend([self.target, self.announcing, u8::from(self.settling), self.lives]);
        bytes.extend(self.call.word());
        bytes.extend(self.stray.word());
    }

    fn with_slot(self, world: &World) -> Follower {
        let (start, unknown) = (world.flushed, below(world.flushed) & !world.visible);
        let (stray, lives) = (self.stray, self.lives);
        Follower { state: 1, start, decoded: start, unknown, stray, lives, ..Follower::default() }
    }
}

/// The directory's marks, and the cells of the tag and of all that is followed.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Directory {
    pub epoch: u8,
    pub seq: u8,
    pub cell: u8,
    pub all: u8,
    pub term: u8,
    pub number: u8,
    pub low: u8,
    pub high: u8,
}

impl Directory {
    pub fn word(&self) -> [u8; 8] {
        let Directory { epoch, seq, cell, all, term, number, low, high } = *self;
        [epoch, seq, cell, all, term, number, low, high]
    }

    fn raise(&mut self, call: &Call) {
        self.seq += u8::from(call.cell || call.all);
        if call.cell {
            self.cell = self.seq;
        }
        if call.all {
            self.all = self.seq;
        }
    }
}

/// All positions before this one.
pub fn below(position: u8) -> u8 {
    (1_u8 << position) - 1
}

/// Adds a step, by what it changes.
type Add<'a> = dyn FnMut(&'static str, &dyn Fn(&mut World, &mut Follower)) + 'a;

const NAMES: [&str; 2] = ["follower A", "follower B"];

impl Follow {
    /// The scripts: carry a call out.
    fn carry_out(&self, directory: &mut Directory, call: &mut Call) {
        call.got_epoch = directory.epoch;
        if call.begins {
            let reaches = directory.low >= call.start || self.is(Mutation::BlindTakeover);
            call.goes_on = directory.term > 0 && reaches;
            call.got_low = directory.low;
            directory.term += 1;
            directory.number = 0;
            if !call.goes_on && !self.is(Mutation::NoBump) {
                directory.seq += 1;
                directory.all = directory.seq;
                directory.low = directory.low.max(call.low);
                directory.high = directory.high.max(call.high);
            }
            call.got = directory.term;
            return;
        }
        let is_of_the_epoch = call.epoch == directory.epoch || self.is(Mutation::TermOfAnyEpoch);
        let is_of_the_term = call.term == directory.term && call.number > directory.number;
        if is_of_the_epoch && is_of_the_term || self.is(Mutation::NoTerm) {
            directory.raise(call);
            directory.term = call.term;
            directory.number = call.number;
            directory.low = directory.low.max(call.low);
            directory.high = directory.high.max(call.high);
            call.got = call.term;
        }
    }

    pub fn follower(&self, world: &World, at: usize, next: &mut Steps<World>) {
        let follower = world.followers[at];
        let mut add = |what, change: &dyn Fn(&mut World, &mut Follower)| {
            let (mut changed, mut follower) = (*world, follower);
            change(&mut changed, &mut follower);
            changed.followers[at] = follower;
            next.add(NAMES[at], what, changed);
        };
        let call = follower.call;
        let may_begin = world.directory.term < self.bounds.terms;
        if follower.state == 0 && follower.lives > 0 {
            if !self.is(Mutation::BumpBeforeSlot) {
                // Commits on their way may be logged and not visible yet.
                add("makes a slot", &|world, f| *f = f.with_slot(world));
            } else if call.state == 0 && may_begin {
                add("sends a beginning, before it has a slot", &|world, f| {
                    let (start, high) = (world.logged, world.logged);
                    f.call = Call { state: 1, begins: true, start, high, ..Call::default() };
                });
            } else if call.state == 2 {
                add("is told that it leads, and makes a slot", &|world, f| {
                    let (term, epoch) = (call.got, call.got_epoch);
                    *f = Follower { state: 2, term, epoch, ..f.with_slot(world) };
                });
            }
        }
        if follower.state > 0 {
            if follower.decoded < world.flushed {
                add("decodes a commit", &|_, f| {
                    f.held |= 1 << f.decoded;
                    f.decoded += 1;
                });
            }
            if follower.lives > 0 && (at == 0 || self.bounds.second_dies) {
                add("dies", &|_, f| {
                    let stray = if call.state == 1 { Call { state: 3, ..call } } else { f.stray };
                    *f = Follower { lives: f.lives - 1, stray, ..Follower::default() };
                });
            }
            self.leading(world, &follower, may_begin, &mut add);
        }
        self.network(world, &follower, &mut add);
    }

    fn leading(&self, world: &World, follower: &Follower, may_begin: bool, add: &mut Add<'_>) {
        let call = follower.call;
        if call.state == 0 && (follower.state == 1 || follower.settling) && may_begin {
            add("sends a beginning", &|world, f| {
                let is_known = f.unknown == 0 || self.is(Mutation::LowWithUnknowns);
                let low = if is_known { f.start } else { 0 };
                let (start, high) = (f.start, world.logged);
                f.call = Call { state: 1, begins: true, start, low, high, ..Call::default() };
            });
        }
        if self.bounds.gives_up && call.state == 1 && call.begins && follower.stray.state == 0 {
            add("gives up waiting for its beginning", &|_, f| {
                f.stray = Call { state: 3, ..call };
                f.call = Call::default();
            });
        }
        if call.state == 2 && call.begins {
            add("is told that it leads", &|_, f| {
                (f.state, f.settling, f.number) = (2, false, 0);
                (f.term, f.epoch) = (call.got, call.got_epoch);
                if call.goes_on {
                    f.unknown = 0;
                    f.held &= !below(call.got_low);
                }
                f.call = Call::default();
            });
        }
        if follower.state != 2 || follower.settling {
            return;
        }
        let is_idle = follower.target == 0 && call.state == 0;
        if is_idle && follower.number < self.bounds.numbers {
            let flushed = self.is(Mutation::SampleFlushed);
            let sampled = if flushed { world.flushed } else { world.logged };
            add("samples the position", &|_, f| f.target = sampled + 1);
        }
        let has_passed = follower.decoded + 1 >= follower.target || self.is(Mutation::NotWaitedFor);
        if follower.target > 0 && call.state == 0 && has_passed {
            add("has passed it, takes a snapshot, and sends what is visible", &|world, f| {
                self.announce(world, f);
            });
        }
        if call.state == 2 && !call.begins {
            add("hears how its round ended", &|_, f| {
                if call.got > 0 {
                    f.held &= !f.announcing;
                } else {
                    // Nothing was announced: it still has to be.
                    f.state = 1;
                    if call.all {
                        f.unknown |= below(f.start);
                    }
                }
                (f.announcing, f.target, f.call) = (0, 0, Call::default());
            });
        }
        if self.bounds.gives_up && call.state == 1 && !call.begins && follower.stray.state == 0 {
            add("gives up waiting", &|_, f| {
                f.stray = Call { state: 3, ..call };
                if call.all {
                    f.unknown |= below(f.start);
                }
                (f.announcing, f.call) = (0, Call::default());
                f.settling = !self.is(Mutation::RetryCountsOn);
            });
        }
    }

    fn announce(&self, world: &World, f: &mut Follower) {
        let decoded = self.is(Mutation::AnnounceAtDecode);
        let now = f.held & if decoded { u8::MAX } else { world.visible };
        let settled = f.unknown & world.visible;
        let all = settled != 0 && !self.is(Mutation::NoUnknowns);
        f.unknown &= !settled;
        let left = f.held & !now;
        let low = match left {
            _ if f.unknown != 0 => 0,
            0 => f.decoded,
            _ if self.is(Mutation::HeldBelowLow) => f.decoded,
            left => left.trailing_zeros() as u8,
        };
        (f.announcing, f.target) = (now, 0);
        f.number += 1;
        let (epoch, term, number) = (f.epoch, f.term, f.number);
        let (cell, high) = (now != 0, (u8::BITS - now.leading_zeros()) as u8);
        f.call = Call { state: 1, epoch, term, number, cell, all, low, high, ..Call::default() };
    }

    /// What was sent arrives, whether the follower still lives or not.
    fn network(&self, world: &World, follower: &Follower, add: &mut Add<'_>) {
        let (mut directory, mut call) = (world.directory, follower.call);
        if call.state == 1 {
            let cells = !call.begins && (call.cell || call.all);
            if self.is(Mutation::NumberBeforeCells) && cells {
                // Two calls instead of one.
                let late = Call { state: 3, ..call };
                (call.cell, call.all) = (false, false);
                self.carry_out(&mut directory, &mut call);
                if follower.stray.state == 0 {
                    add("has its number carried out before its cells", &|world, f| {
                        world.directory = directory;
                        (f.stray, f.call) = (late, Call { state: 2, ..call });
                    });
                }
            } else {
                self.carry_out(&mut directory, &mut call);
                add("has a call carried out", &|world, f| {
                    world.directory = directory;
                    f.call = Call { state: 2, ..call };
                });
            }
        }
        let (mut directory, mut stray) = (world.directory, follower.stray);
        if stray.state == 3 {
            if self.is(Mutation::NumberBeforeCells) && !stray.begins {
                directory.raise(&stray);
                add("has its cells carried out", &|world, f| {
                    (world.directory, f.stray) = (directory, Call::default());
                });
            } else if !stray.begins || directory.term < self.bounds.terms {
                self.carry_out(&mut directory, &mut stray);
                add("has a call carried out that it no longer waits for", &|world, f| {
                    (world.directory, f.stray) = (directory, Call::default());
                });
            }
            add("loses a call that it no longer waits for", &|_, f| f.stray = Call::default());
        }
    }
}
