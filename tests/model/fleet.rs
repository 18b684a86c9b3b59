//! [`Fleet`]: the state of two processes, Redis and the database at one time.

use crate::explore::State;
use crate::process::Process;
use crate::redis::Redis;

/// The longest `max_staleness`.
pub const TICKS: usize = 2;

#[derive(Clone, Copy)]
pub struct Fleet {
    pub processes: [Process; 2],
    pub redis: Redis,
    /// What the database has. Versions count from 1.
    pub version: u8,
    /// The highest version whose invalidation was acknowledged so many ticks ago.
    pub acknowledged: [u8; TICKS + 1],
    /// The highest that was acknowledged before it was committed.
    pub promised: u8,
    pub invalidations: u8,
    pub strangers: u8,
    pub losses: u8,
    pub failovers: u8,
    /// Something stale was served by the second tier.
    pub fault: bool,
}

impl State for Fleet {
    type Words = [u64; 29];

    fn words(&self) -> [u64; 29] {
        let mut words = [0; 29];
        words[..11].copy_from_slice(&self.processes[0].words());
        words[11..22].copy_from_slice(&self.processes[1].words());
        words[22..27].copy_from_slice(&self.redis.words());
        let [now, one, two] = self.acknowledged;
        words[27] = u64::from_le_bytes([
            self.version,
            now,
            one,
            two,
            self.promised,
            self.fault.into(),
            0,
            0,
        ]);
        let Fleet { invalidations, strangers, losses, failovers, .. } = *self;
        words[28] = u64::from_le_bytes([invalidations, strangers, losses, failovers, 0, 0, 0, 0]);
        words
    }
}

impl Fleet {
    /// What everything that a read of this process returns must have seen of the database, wherever
    /// it comes from.
    pub fn need(&self, process: &Process, max_staleness: u8) -> u8 {
        // One that was asked for before its commit ends with the commit.
        process.asked.min(self.version).max(self.acknowledged[usize::from(max_staleness)])
    }

    pub fn acknowledge(&mut self, version: u8) {
        if version > self.version {
            self.promised = self.promised.max(version);
        } else {
            self.acknowledged[0] = self.acknowledged[0].max(version);
        }
    }

    pub fn commit(&mut self) {
        self.version += 1;
        if self.promised >= self.version {
            self.acknowledge(self.version);
        }
    }

    pub fn tick(&mut self, max_staleness: u8) {
        for age in (1..=usize::from(max_staleness)).rev() {
            self.acknowledged[age] = self.acknowledged[age - 1];
        }
        for process in &mut self.processes {
            process.tick(max_staleness);
        }
    }
}
