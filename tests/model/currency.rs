//! [`Currency`]: the whole protocol, for two processes, one key and two tags. The key depends on
//! one of the tags.
//!
//! Time passes in ticks, at any point. A message may arrive at any later time, or never. A call may
//! be sent while the previous one is on its way; the previous one then counts as lost.
//!
//! Checked: a read returns at least the state that the database had when the last of these
//! invalidations was requested, those
//!
//! - acknowledged to any process `max_staleness` before the read began, or
//! - requested in the same process before the read began, or
//! - acknowledged to any process before the read began, if the second tier answered the read.
//!
//! The third does not hold for a server that is no longer the master: its replies on an old
//! connection must satisfy only the first.

use crate::bounds::Bounds;
use crate::explore::{Model, Steps};
use crate::fleet::{Fleet, TICKS};
use crate::mutation::Mutation;
use crate::process::Process;
use crate::redis::{Redis, Server};
use crate::table::{Found, Position};
use crate::turn::Turn;

pub struct Currency {
    pub bounds: Bounds,
    pub mutation: Option<Mutation>,
}

impl Currency {
    /// What happens outside of the two processes.
    fn elsewhere(&self, fleet: &Fleet, next: &mut Steps<Fleet>) {
        let Bounds { max_staleness, commits, strangers, losses, failovers, .. } = self.bounds;
        let mut add = |who, what, change: &dyn Fn(&mut Fleet)| {
            let mut changed = *fleet;
            change(&mut changed);
            next.add(who, what, changed);
        };
        add("time", "passes", &|fleet| fleet.tick(max_staleness));
        // Whoever announces first commits when that is done.
        let early = self.mutation == Some(Mutation::InvalidateBeforeCommit);
        if fleet.version <= commits && (!early || fleet.promised > fleet.version) {
            add("the database", "commits a change", &|fleet| fleet.commit());
        }
        if fleet.strangers < strangers {
            for random in 0..self.bounds.randoms {
                let known = Position::default();
                let done = fleet.redis.invalidate(known, false, random, self.mutation);
                let Some((redis, _)) = done else { continue };
                add("a stranger", "has another tag's invalidation carried out", &|fleet| {
                    fleet.strangers += 1;
                    fleet.redis = redis;
                });
            }
        }
        if fleet.losses < losses {
            add("the master", "loses the directory", &|fleet| {
                fleet.losses += 1;
                fleet.redis.lose_directory();
            });
        }
        if fleet.failovers < failovers {
            add("the replica", "becomes the master", &|fleet| {
                fleet.failovers += 1;
                fleet.redis.fail_over();
                for process in &mut fleet.processes {
                    process.met_master |= process.server(process.connection) == fleet.redis.master;
                }
            });
        }
        if self.bounds.has_replica() {
            add("the other server", "is sent all that the master has", &|fleet| {
                fleet.redis.replicate();
            });
        }
    }
}

impl Model for Currency {
    type State = Fleet;

    fn start(&self) -> Fleet {
        let Bounds { epoch, stored, does, .. } = self.bounds;
        let mut redis = Redis::new(epoch);
        if stored {
            redis.leader().entry = Found { epoch, version: 1, ..Found::default() };
        }
        if self.bounds.has_replica() {
            redis.replicate();
        }
        Fleet {
            processes: does.map(|does| Process::new(does.epoch)),
            redis,
            version: 1,
            acknowledged: [1; TICKS + 1],
            promised: 0,
            invalidations: 0,
            strangers: 0,
            losses: 0,
            failovers: 0,
            fault: false,
        }
    }

    fn steps(&self, fleet: &Fleet, next: &mut Steps<Fleet>) {
        for index in 0..fleet.processes.len() {
            Turn { model: self, fleet, index, next }.all();
        }
        self.elsewhere(fleet, next);
    }

    fn fault(&self, fleet: &Fleet) -> Option<&'static str> {
        if fleet.fault {
            return Some("the second tier served what it must not");
        }
        let stale = |process: &Process| {
            process.table.serves(&process.memory, self.mutation)
                && process.memory.version < fleet.need(process, self.bounds.max_staleness)
        };
        fleet.processes.iter().any(stale).then_some("memory serves what it must not")
    }

    fn describe(&self, fleet: &Fleet) -> String {
        let Fleet { redis, version, acknowledged, .. } = fleet;
        let server = |server: usize| {
            let role = if usize::from(redis.master) == server { "master" } else { "other" };
            let Server { directory, cell, entry } = redis.servers[server];
            let Position { epoch, seq } = directory;
            format!("{role} {epoch}.{seq} cell {cell} entry {}", result(&entry))
        };
        let process = |process: &Process| {
            let table = &process.table;
            let pending = if table.pending { "+pending" } else { "" };
            format!(
                "{}.{} cell {}{pending} confirmed {} holds {}",
                table.epoch,
                table.applied,
                table.known,
                table.confirmed,
                result(&process.memory)
            )
        };
        format!(
            "database v{version}, acknowledged {acknowledged:?} | {} | {} | A {} | B {}",
            server(0),
            server(1),
            process(&fleet.processes[0]),
            process(&fleet.processes[1])
        )
    }
}

fn result(found: &Found) -> String {
    match found {
        Found { version: 0, .. } => "none".to_owned(),
        Found { epoch, asof, version, .. } => format!("v{version}@{epoch}.{asof}"),
    }
}
