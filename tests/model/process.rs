//! [`Process`]: one process of the fleet, and its messages on their way.

use crate::table::{Found, Position, Table};

/// A call that was sent and may have been answered.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Call {
    /// There is none.
    #[default]
    None,
    Sent,
    Answered,
}

#[derive(Clone, Copy, Default)]
pub struct Beat {
    pub call: Call,
    pub connection: u8,
    /// Ticks since it was sent.
    pub age: u8,
    /// What it was sent with, then what it was answered with.
    pub at: Position,
    pub cell: u8,
    /// The answer is a page, and others follow.
    pub more: bool,
}

#[derive(Clone, Copy, Default)]
pub struct Announcement {
    pub call: Call,
    pub connection: u8,
    pub at: Position,
    /// The version that the database had, at least, when it was asked for.
    pub version: u8,
    /// Nothing was asked for since.
    pub all: bool,
}

/// An answer of the second tier that is not judged yet.
#[derive(Clone, Copy, Default)]
pub struct Glance {
    pub found: Found,
    pub connection: u8,
    pub asked: Position,
    pub directory: Position,
    /// What it must have seen of the database to be served.
    pub need: u8,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Load {
    #[default]
    None,
    Stamped,
    Loaded,
}

#[derive(Clone, Copy, Default)]
pub struct Process {
    pub table: Table,
    /// The version of the last invalidation that was asked for here.
    pub asked: u8,
    /// Counts connections, from 1.
    pub connection: u8,
    /// The server of each connection, a bit for each.
    pub servers: u8,
    /// The server of the present connection has been the master since that was made.
    pub met_master: bool,
    pub memory: Found,
    pub load: Load,
    pub loading: Found,
    pub fill: Found,
    /// What the fill was sent on.
    pub fill_on: u8,
    pub beats: [Beat; 2],
    pub announcements: [Announcement; 2],
    pub glance: Glance,
}

impl Process {
    pub fn new(epoch: u8) -> Process {
        let table = Table { epoch, ..Table::default() };
        Process { table, connection: 1, met_master: true, ..Process::default() }
    }

    pub fn server(&self, connection: u8) -> u8 {
        self.servers >> connection & 1
    }

    /// No result in this process was loaded after what is now asked for.
    pub fn invalidate(&mut self, version: u8) {
        self.table.pending = true;
        self.asked = version;
        self.forget_moments();
        self.announcements.iter_mut().for_each(|announcement| announcement.all = false);
    }

    /// What began after what is pending no longer matters once nothing is: states that differ in
    /// nothing else are one.
    pub fn forget_moments(&mut self) {
        self.memory.after = false;
        self.loading.after = false;
    }

    pub fn tick(&mut self, max_staleness: u8) {
        self.table.confirmed = self.table.confirmed.saturating_sub(1);
        self.memory.young = self.memory.young.saturating_sub(1);
        self.loading.young = self.loading.young.saturating_sub(1);
        for beat in self.beats.iter_mut().filter(|beat| beat.call != Call::None) {
            beat.age = max_staleness.min(beat.age + 1);
        }
    }

    pub fn words(&self) -> [u64; 11] {
        let [beat, other_beat] = self.beats.map(|beat| {
            let Beat { call, connection, age, at, cell, more } = beat;
            let more = u8::from(more);
            u64::from_le_bytes([call as u8, connection, age, at.epoch, at.seq, cell, more, 0])
        });
        let [announcement, other_announcement] = self.announcements.map(|announcement| {
            let Announcement { call, connection, at, version, all } = announcement;
            u64::from_le_bytes([
                call as u8,
                connection,
                at.epoch,
                at.seq,
                version,
                u8::from(all),
                0,
                0,
            ])
        });
        let Glance { found, connection, asked, directory, need } = self.glance;
        [
            self.table.word(),
            u64::from_le_bytes([
                self.asked,
                self.connection,
                self.servers,
                self.load as u8,
                self.fill_on,
                u8::from(self.met_master),
                0,
                0,
            ]),
            self.memory.word(),
            self.loading.word(),
            self.fill.word(),
            beat,
            other_beat,
            announcement,
            other_announcement,
            found.word(),
            u64::from_le_bytes([
                connection,
                asked.epoch,
                asked.seq,
                directory.epoch,
                directory.seq,
                need,
                0,
                0,
            ]),
        ]
    }
}
