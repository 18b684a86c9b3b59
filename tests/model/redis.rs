//! [`Redis`]: a master and another server, and the scripts that run on them.

use crate::mutation::Mutation;
use crate::table::{Found, Position};

/// So many invalidations can be published in a run.
const NOTICES: usize = 5;
/// Epochs are below this: a count of up to seven and one random bit.
const EPOCHS: u8 = 16;

#[derive(Clone, Copy, Default)]
pub struct Server {
    /// Of epoch 0 if there is no directory.
    pub directory: Position,
    /// The cell of the one tag that results depend on.
    pub cell: u8,
    /// The one key's entry.
    pub entry: Found,
}

/// A published invalidation. It may reach a process at any time from then on, more than once,
/// before or after others, or never: so all are kept, and none is ever delivered for good.
#[derive(Clone, Copy, Default)]
pub struct Notice {
    pub at: Position,
    /// Whether it names the tag that results depend on.
    pub ours: bool,
}

/// What a beat is answered with.
#[derive(Clone, Copy)]
pub struct Page {
    /// The cell is known up to here.
    pub at: Position,
    /// 0 if it is not in the page.
    pub cell: u8,
    /// Others follow.
    pub more: bool,
}

#[derive(Clone, Copy, Default)]
pub struct Redis {
    pub servers: [Server; 2],
    pub master: u8,
    /// The master's replication id is the one in the directory.
    pub recognised: bool,
    /// The epochs that there have been, a bit for each. Random bits are taken to differ.
    used: u16,
    notices: [Notice; NOTICES],
    published: u8,
}

impl Redis {
    /// A directory in its first epoch, or none.
    pub fn new(epoch: u8) -> Redis {
        let mut redis = Redis { recognised: true, used: 1 | 1 << epoch, ..Redis::default() };
        redis.servers[0].directory.epoch = epoch;
        redis
    }

    pub fn words(&self) -> [u64; 5] {
        let server = |server: &Server| {
            let Server { directory, cell, entry } = server;
            u64::from_le_bytes([
                directory.epoch,
                directory.seq,
                *cell,
                entry.epoch,
                entry.asof,
                entry.version,
                0,
                0,
            ])
        };
        let [one, two, three, four, five] = self
            .notices
            .map(|notice| notice.at.epoch | notice.at.seq << 4 | u8::from(notice.ours) << 7);
        let [low, high] = self.used.to_le_bytes();
        [
            server(&self.servers[0]),
            server(&self.servers[1]),
            u64::from_le_bytes([one, two, three, four, five, self.published, low, high]),
            u64::from(self.master),
            u64::from(self.recognised),
        ]
    }

    /// The directory's position, as somebody knows it who has just been told.
    pub fn position(&self) -> Position {
        self.servers[usize::from(self.master)].directory
    }

    pub fn notices(&self) -> &[Notice] {
        &self.notices[..usize::from(self.published)]
    }

    pub fn leader(&mut self) -> &mut Server {
        &mut self.servers[usize::from(self.master)]
    }

    /// `directory.lua`. `random` is one bit, drawn if a new lineage begins.
    fn head(&self, known: Position, random: u8, mutation: Option<Mutation>) -> Option<Redis> {
        let mut redis = *self;
        let recognised = redis.recognised || mutation == Some(Mutation::NoServerId);
        let Position { epoch, seq } = redis.leader().directory;
        let lost = epoch == 0
            || !recognised
            || known.epoch > epoch
            || known.epoch == epoch && known.seq > seq;
        if !lost {
            return (random == 0).then_some(redis);
        }
        let epoch = (known.epoch.max(epoch) / 2 + 1) * 2 + random;
        if epoch >= EPOCHS || redis.used & 1 << epoch != 0 {
            return None;
        }
        redis.used |= 1 << epoch;
        redis.recognised = true;
        redis.leader().directory = Position { epoch, seq: 0 };
        redis.leader().cell = 0;
        Some(redis)
    }

    /// `beat.lua`, and all that it may reply: the whole answer, or a first page of it that ends
    /// anywhere.
    pub fn beat(
        &self,
        known: Position,
        random: u8,
        mutation: Option<Mutation>,
    ) -> Option<(Redis, impl Iterator<Item = Page> + use<>)> {
        let mut redis = self.head(known, random, mutation)?;
        let Server { directory, cell, .. } = *redis.leader();
        let above = if known.epoch == directory.epoch { known.seq } else { 0 };
        let first = directory.seq.min(above + 1);
        let pages = (first..=directory.seq).map(move |upto| {
            let more = upto < directory.seq;
            let all = mutation == Some(Mutation::PageTakenForAll);
            let at = if all { directory } else { Position { seq: upto, ..directory } };
            Page { at, cell: if above < cell && cell <= upto { cell } else { 0 }, more }
        });
        Some((redis, pages))
    }

    /// `invalidate.lua`, for the tag that results depend on or for another one.
    pub fn invalidate(
        &self,
        known: Position,
        ours: bool,
        random: u8,
        mutation: Option<Mutation>,
    ) -> Option<(Redis, Position)> {
        let mut redis = self.head(known, random, mutation)?;
        let number = usize::from(redis.published);
        let leader = redis.leader();
        leader.directory.seq += 1;
        let at = leader.directory;
        if ours {
            leader.cell = at.seq;
        }
        *redis.notices.get_mut(number)? = Notice { at, ours };
        redis.published += 1;
        Some((redis, at))
    }

    /// The directory is evicted, or all is flushed. That entries outlive it is the worse case.
    pub fn lose_directory(&mut self) {
        let leader = self.leader();
        leader.directory = Position::default();
        leader.cell = 0;
    }

    /// The other server gets all that the master has.
    pub fn replicate(&mut self) {
        self.servers[usize::from(1 - self.master)] = *self.leader();
    }

    /// The other server becomes the master. The old one still answers reads on the connections that
    /// it has, but a write finds out. The same is a restart from an old snapshot.
    pub fn fail_over(&mut self) {
        self.master = 1 - self.master;
        self.recognised = false;
    }
}
