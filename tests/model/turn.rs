//! [`Turn`]: the next possible steps of one process and of its messages.

use crate::bounds::Bounds;
use crate::currency::Currency;
use crate::explore::Steps;
use crate::fleet::Fleet;
use crate::mutation::Mutation;
use crate::process::{Announcement, Beat, Call, Glance, Load, Process};
use crate::redis::{Page, Redis};
use crate::table::{Found, Heard};

const NAMES: [&str; 2] = ["process A", "process B"];

/// One process's part in what can happen next.
pub struct Turn<'a> {
    pub model: &'a Currency,
    pub fleet: &'a Fleet,
    pub index: usize,
    pub next: &'a mut Steps<Fleet>,
}

impl Turn<'_> {
    fn process(&self) -> &Process {
        &self.fleet.processes[self.index]
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.model.mutation == Some(mutation)
    }

    /// Adds what comes of a change of the process, and of Redis.
    fn step(&mut self, what: &'static str, redis: Redis, change: impl FnOnce(&mut Process)) {
        let mut fleet = Fleet { redis, ..*self.fleet };
        change(&mut fleet.processes[self.index]);
        self.next.add(NAMES[self.index], what, fleet);
    }

    fn own_step(&mut self, what: &'static str, change: impl FnOnce(&mut Process)) {
        self.step(what, self.fleet.redis, change);
    }

    fn on_master(&self, connection: u8) -> bool {
        self.process().server(connection) == self.fleet.redis.master
    }

    pub fn all(&mut self) {
        let does = self.model.bounds.does[self.index];
        if does.load {
            self.load(does.fill);
        }
        if does.look {
            self.look();
        }
        if does.invalidate {
            self.invalidate();
        }
        for slot in 0..does.beats {
            self.beat(slot);
        }
        if does.beats > 0 {
            self.listen();
        }
        self.reconnect(does.reconnects);
    }

    fn load(&mut self, fill: bool) {
        let version = self.fleet.version;
        let stamp = self.process().table.stamp(self.model.bounds.max_staleness);
        let late = self.is(Mutation::LateCapture);
        let label = self.is(Mutation::LabelAtFill);
        // How long ago the load began is known in any case.
        let labelled = |found| Found { epoch: stamp.epoch, asof: stamp.asof, ..found };
        let (captures, loads) = ("captures a stamp, to load", "loads from the database");
        let (first, second) = if late { (loads, captures) } else { (captures, loads) };
        match self.process().load {
            Load::None => self.own_step(first, |process| {
                process.load = Load::Stamped;
                process.loading = Found { version: if late { version } else { 0 }, ..stamp };
            }),
            Load::Stamped => self.own_step(second, |process| {
                process.load = Load::Loaded;
                process.loading = if late {
                    labelled(process.loading)
                } else {
                    Found { version, ..process.loading }
                };
            }),
            Load::Loaded => {
                self.own_step("has loaded: keeps the result and sends a fill", |process| {
                    let loaded = std::mem::take(&mut process.loading);
                    process.load = Load::None;
                    process.memory = if label { labelled(loaded) } else { loaded };
                    if fill {
                        process.fill = process.memory.abroad();
                        process.fill_on = process.connection;
                    }
                })
            }
        }
        let Process { fill, fill_on, .. } = *self.process();
        if fill.version > 0 && self.on_master(fill_on) {
            let mut redis = self.fleet.redis;
            redis.leader().entry = fill;
            self.step("has its fill carried out", redis, |process| {
                process.fill = Found::default();
                process.fill_on = 0;
            });
        }
    }

    fn look(&mut self) {
        let process = *self.process();
        let Redis { servers, master, .. } = self.fleet.redis;
        let connection = process.connection;
        let asked = process.server(connection);
        let server = &servers[usize::from(asked)];
        let glance = process.glance;
        if glance.found.version > 0 {
            let table = &process.table;
            let covers = table.covers(
                glance.directory,
                glance.connection,
                glance.asked,
                self.model.mutation,
            );
            let mut fleet = *self.fleet;
            fleet.processes[self.index].glance = Glance::default();
            if covers && table.serves(&glance.found, self.model.mutation) {
                fleet.fault = glance.found.version < glance.need;
                fleet.processes[self.index].memory = glance.found;
                self.next.add(NAMES[self.index], "serves what the second tier had", fleet);
            } else {
                self.next.add(NAMES[self.index], "does not serve what it was given", fleet);
            }
        } else if server.entry.version > 0 {
            let need = self.fleet.need(&process, self.model.bounds.max_staleness);
            let deposed = asked != master && process.met_master;
            let strict = if deposed { 0 } else { self.fleet.acknowledged[0] };
            let glance = Glance {
                found: server.entry,
                connection,
                asked: process.table.position(),
                directory: server.directory,
                need: need.max(strict),
            };
            self.own_step("is given an entry by the second tier", |process| {
                process.glance = glance
            });
        }
    }

    fn invalidate(&mut self) {
        let fleet = self.fleet;
        let Bounds { commits, invalidations, announcements, .. } = self.model.bounds;
        let early = self.is(Mutation::InvalidateBeforeCommit) && fleet.version <= commits;
        let version = fleet.version + u8::from(early);
        if fleet.invalidations < invalidations && version > 1 {
            let mut fleet = *fleet;
            fleet.invalidations += 1;
            fleet.processes[self.index].invalidate(version);
            self.next.add(NAMES[self.index], "begins an invalidation", fleet);
        }
        for slot in 0..announcements {
            self.announce(slot);
        }
    }

    fn announce(&mut self, slot: usize) {
        let mutation = self.model.mutation;
        let process = *self.process();
        let announcement = process.announcements[slot];
        if process.table.pending {
            let sent = Announcement {
                call: Call::Sent,
                connection: process.connection,
                at: process.table.position(),
                version: process.asked,
                all: true,
            };
            if self.model.bounds.prompt {
                self.carry_out_invalidation(slot, sent);
            } else {
                self.own_step("sends what is pending", |process| {
                    process.announcements[slot] = sent;
                });
            }
        }
        match announcement.call {
            Call::None => {}
            Call::Sent => self.carry_out_invalidation(slot, announcement),
            Call::Answered => {
                let mut fleet = *self.fleet;
                let process = &mut fleet.processes[self.index];
                let heard = process.table.acknowledged(announcement.at, announcement.all, mutation);
                if !process.table.pending {
                    process.forget_moments();
                }
                // If it has to catch up first, this is said to it again.
                if heard != Heard::Behind {
                    process.announcements[slot] = Announcement::default();
                }
                if heard != Heard::Outdated {
                    fleet.acknowledge(announcement.version);
                }
                self.next.add(NAMES[self.index], "hears that Redis has its invalidation", fleet);
            }
        }
    }

    fn carry_out_invalidation(&mut self, slot: usize, sent: Announcement) {
        if !self.on_master(sent.connection) || self.repeated_enough() {
            return;
        }
        for random in 0..self.model.bounds.randoms {
            let done = self.fleet.redis.invalidate(sent.at, true, random, self.model.mutation);
            let Some((redis, at)) = done else { continue };
            self.step("has its invalidation carried out", redis, |process| {
                process.announcements[slot] = Announcement { call: Call::Answered, at, ..sent };
            });
        }
    }

    fn repeated_enough(&self) -> bool {
        let Bounds { invalidations, repeats, strangers, .. } = self.model.bounds;
        self.fleet.redis.notices().len() >= usize::from(invalidations + repeats + strangers)
    }

    fn beat(&mut self, slot: usize) {
        let mutation = self.model.mutation;
        let process = self.process();
        let beat = process.beats[slot];
        let sent = Beat {
            call: Call::Sent,
            connection: process.connection,
            age: 0,
            at: process.table.position(),
            cell: 0,
            more: false,
        };
        if self.model.bounds.prompt {
            self.carry_out_beat(slot, sent);
        } else {
            self.own_step("sends a beat", |process| process.beats[slot] = sent);
        }
        match beat.call {
            Call::None => {}
            Call::Sent => self.carry_out_beat(slot, beat),
            Call::Answered => {
                let age = if self.is(Mutation::FreshFromReceipt) { 0 } else { beat.age };
                let early = self.is(Mutation::ConfirmedBeforeLastPage);
                let confirms = !beat.more || early;
                let confirmed = if confirms { self.model.bounds.max_staleness - age } else { 0 };
                self.own_step("hears the answer to its beat", |process| {
                    process.beats[slot] = Beat::default();
                    let _ = process.table.beat(
                        beat.at,
                        beat.cell,
                        beat.more,
                        beat.connection,
                        confirmed,
                        mutation,
                    );
                    if !process.table.pending {
                        process.forget_moments();
                    }
                });
            }
        }
    }

    fn carry_out_beat(&mut self, slot: usize, sent: Beat) {
        if !self.on_master(sent.connection) {
            return;
        }
        for random in 0..self.model.bounds.randoms {
            let done = self.fleet.redis.beat(sent.at, random, self.model.mutation);
            let Some((redis, pages)) = done else { continue };
            for Page { at, cell, more } in pages {
                self.step("has its beat carried out", redis, |process| {
                    process.beats[slot] = Beat { call: Call::Answered, at, cell, more, ..sent };
                });
            }
        }
    }

    fn listen(&mut self) {
        let mutation = self.model.mutation;
        let redis = self.fleet.redis;
        for notice in redis.notices() {
            let mut table = self.process().table;
            let _ = table.pushed(notice.at, notice.ours, mutation);
            if table.word() != self.process().table.word() {
                self.own_step("hears of an invalidation", |process| process.table = table);
            }
        }
        if self.process().table.late > 0 {
            self.own_step("stores the cell of which it heard", |process| {
                process.table.known = process.table.known.max(process.table.late);
                process.table.late = 0;
            });
        }
    }

    fn reconnect(&mut self, times: u8) {
        if self.process().connection > times {
            return;
        }
        let master = self.fleet.redis.master;
        for (server, what) in
            ["connects anew, to server 1", "connects anew, to server 2"].into_iter().enumerate()
        {
            self.own_step(what, |process| {
                process.connection += 1;
                process.met_master = server as u8 == master;
                process.servers |= (server as u8) << process.connection;
            });
        }
    }
}
