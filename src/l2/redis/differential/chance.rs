//! [`Chance`]: draws the next operation or event.

use std::collections::VecDeque;
use std::time::Duration;

use super::pair::Pair;
use super::{Answer, Event, Operation, STEP};
use crate::clock;
use crate::currency::{Position, Round};
use crate::l2::entry::{self, Header};
use crate::l2::follow::{RoundEnd, TermStart};
use crate::l2::{Fill, LeaseOutcome, LeaseRequest, ReadReply};
use crate::value::key::CacheKey;
use crate::value::lsn::{History, Lsn};
use crate::value::tag::{Dependencies, TagSlot};
use crate::value::token::Token;

/// Draws mostly operations that make sense by the state of the model, and often enough others.
pub(super) struct Chance {
    pub(super) chance: fastrand::Rng,
    keys: Vec<CacheKey>,
    tokens: Vec<Token>,
    /// The directory's last known position, and earlier epochs.
    pub(super) at: Position,
    epochs: VecDeque<u64>,
}

impl Chance {
    pub(super) fn new(seed: u64, keys: Vec<CacheKey>) -> Chance {
        Chance {
            chance: fastrand::Rng::with_seed(seed),
            keys,
            tokens: (0..6).map(|number| Token([number; 16])).collect(),
            at: Position { epoch: 0, seq: 0 },
            epochs: VecDeque::new(),
        }
    }

    pub(super) fn percent(&mut self, percent: u32) -> bool {
        self.chance.u32(..100) < percent
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.chance.usize(..of.len())]
    }

    pub(super) fn key(&mut self) -> CacheKey {
        self.one(&self.keys.clone())
    }

    pub(super) fn any_token(&mut self) -> Token {
        self.one(&self.tokens.clone())
    }

    /// Mostly the token that holds the lease, if there is one.
    fn token(&mut self, pair: &Pair, key: &CacheKey) -> Token {
        let holder = pair.peek(|space, _| space.leases.get(key).map(|lease| lease.token));
        match holder {
            Some(token) if self.percent(60) => token,
            _ => self.any_token(),
        }
    }

    fn position(&mut self) -> Position {
        let Position { epoch, seq } = self.at;
        let known = if self.epochs.is_empty() {
            0
        } else {
            self.epochs[self.chance.usize(..self.epochs.len())]
        };
        match self.chance.u32(..1000) {
            0..700 => self.at,
            700..880 => Position { epoch, seq: seq.saturating_sub(self.chance.u64(1..10)) },
            880..890 => Position { epoch, seq: seq + self.chance.u64(1..4) },
            890..975 => Position { epoch: known, seq: self.chance.u64(..20) },
            975..980 => {
                Position { epoch: epoch + (self.chance.u64(1..4) << 24), seq: self.chance.u64(..9) }
            }
            // The highest epochs that a fleet can reach in its life, and higher ones.
            980 => Position { epoch: (1 << 50) + self.chance.u64(..1 << 25), seq: 1 << 40 },
            _ => Position { epoch: 0, seq: 0 },
        }
    }

    fn slots(&mut self) -> Vec<TagSlot> {
        let count = if self.chance.u32(..2_000) == 0 { 2_500 } else { self.chance.usize(1..5) };
        let range = if count > 5 { 1 << 16 } else { 40 };
        let slot = |chance: &mut fastrand::Rng| match chance.u64(..50) {
            0 => TagSlot::EVERYTHING,
            1 => TagSlot::FOLLOWED,
            _ => TagSlot::of(chance.u64(..range)),
        };
        (0..count).map(|_| slot(&mut self.chance)).collect()
    }

    /// A position. Often it is equal to another one, and sometimes no text of few digits has it.
    fn lsn(&mut self) -> Lsn {
        let small = self.chance.u64(..8);
        Lsn::of(if self.percent(90) { small } else { small << 60 }).rounded_down()
    }

    pub(super) fn term(&mut self, pair: &Pair) -> TermStart {
        let low = pair.peek(|space, _| space.directory.as_ref().map(|it| it.marks.leader.low));
        let start = match low {
            // Just in time, or just too late.
            Some(low) if self.percent(60) => Lsn::of(low.number() + self.chance.u64(..2)),
            _ => self.lsn(),
        };
        TermStart {
            history: History::numbered(self.chance.u64(1..3)),
            start: start.rounded_up(),
            low: self.lsn(),
            high: self.lsn(),
        }
    }

    /// Mostly the next round of the term that stands.
    pub(super) fn round(&mut self, pair: &Pair) -> RoundEnd {
        let (epoch, last) = pair.peek(|space, _| {
            let directory = space.directory.as_ref();
            directory.map_or((0, Round::default()), |it| (it.at.epoch, it.marks.leader.round))
        });
        let other = self.position().epoch;
        let epoch = if self.percent(5) { other } else { epoch };
        let round = match self.chance.u32(..10) {
            0 => Round { term: last.term + 1, number: 1 },
            1 => Round { term: last.term.saturating_sub(1), number: last.number + 9 },
            2 => last,
            _ => Round { number: last.number + self.chance.u64(1..3), ..last },
        };
        RoundEnd { epoch, round, low: self.lsn(), high: self.lsn() }
    }

    fn ask(&mut self, pair: &Pair, key: &CacheKey) -> LeaseRequest {
        let at = self.position();
        let need = match self.chance.u32(..10) {
            0..4 => 0,
            4..9 => at.seq.saturating_sub(self.chance.u64(..8)),
            _ => at.seq + 1,
        };
        let stored = pair.peek(|space, _| entry::token(space.entries.get(key)?.bytes.as_ref()?));
        let seen = match self.chance.u32(..10) {
            0..4 => stored,
            4 => Some(self.any_token()),
            _ => None,
        };
        LeaseRequest {
            token: self.token(pair, key),
            at,
            need,
            seen,
            refused: self.chance.u32(..10) < 2,
        }
    }

    pub(super) fn fill(&mut self, pair: &Pair, key: CacheKey) -> Operation {
        let (token, at) = (self.token(pair, &key), self.position());
        let payload = vec![self.chance.u8(..); self.chance.usize(..100)];
        let header = Header {
            codec: 1,
            at,
            token,
            life: 20 * STEP,
            ends: 0,
            ttl: 20 * STEP,
            load: Duration::from_millis(3),
        };
        let depends = Dependencies::new([], TagSlot::of(7));
        let head = entry::seal(&key, &header, &depends, &payload, None).unwrap();
        // Zero: it expires before it is written.
        let mut life = if self.percent(5) { 0 } else { self.chance.u32(1..20) };
        let ties = |life: u32| {
            pair.peek(|space, now| {
                let ends = clock::after(now, life * STEP);
                space.entries.get(&key).is_some_and(|kept| kept.ends == Some(ends))
            })
        };
        if life > 0 && ties(life) {
            life += 1;
        }
        // `ends` is set when the operation runs.
        let fill =
            Fill { token, at, ends: 0, header: head, payload: payload.into(), in_parts: None };
        Operation::Fill(key, fill, life)
    }

    pub(super) fn operation(&mut self, pair: &Pair) -> Operation {
        let key = self.key();
        match self.chance.u32(..100) {
            0..25 => Operation::Read(key),
            25..46 => Operation::Lease(key, self.ask(pair, &key)),
            46..53 => Operation::Renew(key, self.token(pair, &key)),
            53..71 => self.fill(pair, key),
            71..79 => {
                let done = self.one(&[
                    LeaseOutcome::Filled,
                    LeaseOutcome::NoResult,
                    LeaseOutcome::Superseded,
                ]);
                Operation::Release(key, self.token(pair, &key), done)
            }
            79..89 => {
                // Pages of one to five slots, since there are few slots.
                let most = if self.percent(50) { self.chance.usize(1..6) } else { 1000 };
                Operation::Beat(self.position(), most, self.percent(50))
            }
            89..91 => Operation::BeginFollowing(self.position(), self.term(pair)),
            91..94 => {
                let slots = if self.percent(50) { self.slots() } else { vec![] };
                Operation::Follow(self.position(), self.round(pair), slots)
            }
            _ => Operation::Invalidate(self.position(), self.slots()),
        }
    }

    /// Bytes that are not an entry, or only look like one.
    fn bytes(&mut self) -> Option<Vec<u8>> {
        let Position { epoch, seq } = self.position();
        let mut entry = [&b"LRDR\x03"[..], &[0; 19]].concat();
        entry.extend(epoch.to_be_bytes());
        entry.extend(seq.to_be_bytes());
        entry.extend(self.any_token().0);
        match self.chance.u32(..7) {
            0 => return None,
            1 => entry.truncate(self.chance.usize(..56)),
            2 => entry[4] = 1,
            // The head of a large entry whose parts are gone.
            4 => {
                (entry[4], entry[7]) = (4, 3);
                entry.extend([0; 9]);
            }
            3 => {
                entry = b"something else, of a length that an entry could well have, or more".into()
            }
            _ => entry.extend([0; 9]),
        }
        Some(entry)
    }

    pub(super) fn event(&mut self) -> Event {
        let key = self.key();
        match self.chance.u32(..100) {
            0..50 => Event::Jump(self.chance.u32(1..6)),
            50..52 => Event::Jump(1_000),
            52..54 => Event::Flush,
            54..56 => Event::DirectoryLost,
            56..57 => Event::EpochLost,
            57..59 => Event::OtherServer,
            59..67 => Event::EntryLost(key),
            67..75 => Event::LeaseLost(key),
            75..90 => {
                let life = self.percent(70).then(|| self.chance.u32(1..20));
                Event::Planted(key, self.bytes(), life)
            }
            _ => {
                let bytes = self.bytes().filter(|bytes| bytes.len() != 33);
                Event::LeasePlanted(key, bytes)
            }
        }
    }

    /// Records the directory's position from a reply.
    pub(super) fn learn(&mut self, answer: &Answer) {
        let at = match answer {
            Answer::Read(ReadReply { directory, .. }) => *directory,
            Answer::Beat(beat) => Some(beat.at),
            Answer::Invalidate(at) => Some(*at),
            Answer::BeginFollowing(begun) => Some(begun.at),
            Answer::Follow(ended) => Some(ended.at),
            _ => None,
        };
        let Some(at) = at else { return };
        if at.epoch != self.at.epoch {
            self.epochs.push_back(self.at.epoch);
            self.epochs.truncate(self.epochs.len().min(8));
            if self.epochs.len() == 8 {
                self.epochs.pop_front();
            }
        }
        self.at = at;
    }
}
