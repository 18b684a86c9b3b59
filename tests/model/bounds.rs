//! [`Bounds`]: the events that a model of the whole protocol allows, and how often each may occur.

/// What can happen, and how often.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// The directory's first epoch; 0 if there is none.
    pub epoch: u8,
    /// The second tier has an entry at the start.
    pub stored: bool,
    /// In ticks.
    pub max_staleness: u8,
    /// How many values the random bit of a new epoch has.
    pub randoms: u8,
    pub commits: u8,
    pub invalidations: u8,
    /// How many of these can be carried out once more, because the answer was lost.
    pub repeats: u8,
    /// Invalidations of the other tag, by a client that knows of no epoch.
    pub strangers: u8,
    /// How often the directory is lost.
    pub losses: u8,
    pub failovers: u8,
    /// Each process's announcements that may be on their way at a time.
    pub announcements: usize,
    /// Beats and announcements are carried out when they are sent, and only answers are delayed.
    pub prompt: bool,
    pub does: [Does; 2],
}

impl Bounds {
    pub fn has_replica(&self) -> bool {
        self.failovers > 0 || self.does.iter().any(|does| does.reconnects > 0)
    }
}

/// What a process does.
#[derive(Clone, Copy)]
pub struct Does {
    /// The epoch that it knows at the start.
    pub epoch: u8,
    /// How many beats it may have on their way at a time. One that has none hears nothing either.
    pub beats: usize,
    /// How often it connects anew, to either server.
    pub reconnects: u8,
    pub invalidate: bool,
    pub load: bool,
    /// Stores what it loads in the second tier.
    pub fill: bool,
    /// Reads from the second tier.
    pub look: bool,
}

impl Does {
    pub const NOTHING: Does = Does {
        epoch: 2,
        beats: 0,
        reconnects: 0,
        invalidate: false,
        load: false,
        fill: false,
        look: false,
    };
    pub const INVALIDATE: Does = Does { invalidate: true, ..Does::NOTHING };
    pub const LOAD: Does = Does { beats: 1, load: true, ..Does::NOTHING };
    pub const LOOK: Does = Does { beats: 1, look: true, ..Does::NOTHING };
    pub const FILL: Does = Does { fill: true, ..Does::LOAD };
}
