//! [`Verdict`]: whether what is under a key would be served, and why not.

use std::time::Duration;

use bytes::Bytes;

use crate::codec::Codec;
use crate::command::text::{duration, thousands};
use crate::entry::{self, Claim, FORMAT, Header, Refusal};
use crate::key::{CacheKey, MacKey};
use crate::redis::console::Directory;
use crate::redis::console::look::Looked;
use crate::tag::Cell;

/// All that was seen, and what it means.
pub(super) struct Sight {
    pub(super) key: CacheKey,
    pub(super) size: usize,
    pub(super) claim: Option<Claim>,
    pub(super) looked: Looked,
    pub(super) directory: Directory,
    pub(super) seal: Seal,
    pub(super) verdict: Verdict,
    named: Vec<(Cell, String)>,
}

/// Whether the bytes are as they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    Holds,
    /// It has a MAC, and there is no secret to check it by.
    Unchecked,
    Broken(Refusal),
    /// There is nothing to be checked.
    Nothing,
}

/// Whether it would be served by a process that asked Redis at this moment, for a query of its own
/// `ttl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) served: bool,
    /// A word for machines.
    pub(super) reason: &'static str,
    pub(super) why: String,
}

impl Sight {
    pub(super) fn new(
        key: CacheKey,
        bytes: Option<Bytes>,
        claim: Option<Claim>,
        looked: Looked,
        directory: Directory,
        secret: Option<MacKey>,
        named: Vec<(Cell, String)>,
    ) -> Sight {
        let signed = claim.as_ref().is_some_and(|claim| claim.signed);
        let seal = match &bytes {
            None => Seal::Nothing,
            Some(bytes) => match entry::open(&key, bytes, secret.as_ref()) {
                Ok(_) => Seal::Holds,
                Err(Refusal::Unauthentic) if signed && secret.is_none() => Seal::Unchecked,
                Err(refusal) => Seal::Broken(refusal),
            },
        };
        let nothing = Verdict { served: false, reason: "", why: String::new() };
        let size = bytes.as_ref().map_or(0, Bytes::len);
        let mut sight =
            Sight { key, size, claim, looked, directory, seal, verdict: nothing, named };
        sight.verdict = sight.judge().unwrap_or_else(|no| no);
        sight
    }

    pub(super) fn header(&self) -> Option<&Header> {
        self.claim.as_ref()?.header.as_ref()
    }

    /// How long it has to live, by its own account and Redis's clock.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let ends = self.header()?.ends;
        Some(Duration::from_millis(ends.saturating_sub(self.looked.now?)))
    }

    /// How long ago it was stored, by the life that it was stored with.
    pub(super) fn stored_for(&self) -> Option<Duration> {
        self.header()?.life.checked_sub(self.remaining()?)
    }

    /// The cells it depends on, each with its name and the number of its last invalidation.
    pub(super) fn cells(&self) -> Vec<(Cell, String, Option<u64>)> {
        let cells = self.claim.iter().flat_map(|claim| &claim.cells);
        let cells = cells.filter_map(|&cell| Cell::numbered(u64::from(cell)));
        let all = cells.chain([Cell::EVERYTHING]);
        all.map(|cell| (cell, self.name(cell), self.directory.cells.get(&cell).copied())).collect()
    }

    fn name(&self, cell: Cell) -> String {
        let names = self.named.iter().filter(|(named, _)| *named == cell);
        let names: Vec<&str> = names.map(|(_, name)| name.as_str()).collect();
        match names.as_slice() {
            _ if cell == Cell::EVERYTHING => "everything".to_owned(),
            [] => String::new(),
            names => names.join(" or "),
        }
    }

    /// In the order in which a read of the cache judges. Either is a verdict.
    fn judge(&self) -> Result<Verdict, Verdict> {
        let no = |reason: &'static str, why: String| Verdict { served: false, reason, why };
        let bytes_are = match (&self.looked.entry, &self.claim) {
            (Err(said), _) => {
                return Err(no("foreign", format!("what is there is no string: {said}")));
            }
            (Ok(None), _) => return Err(no("absent", self.absent())),
            (Ok(Some(_)), None) => {
                return Err(no("foreign", "what is there was not written by larder".to_owned()));
            }
            (Ok(Some(_)), Some(claim)) => claim,
        };
        let Some(header) = &bytes_are.header else {
            let why = format!(
                "it is an entry of format {}, and this build reads format {FORMAT}",
                bytes_are.format
            );
            return Err(no("format", why));
        };
        self.whole().map_err(|(reason, why)| no(reason, why))?;
        self.current(header).map_err(|(reason, why)| no(reason, why))?;
        let Some(remaining) = self.remaining() else {
            let why = "Redis does not tell the time (a user without the right to TIME?), and so its \
                       age cannot be told";
            return Err(no("expiry", why.to_owned()));
        };
        let Some(stored_for) = self.stored_for() else {
            let why = format!(
                "it has {} to live, longer than the {} it was stored with: Redis's clock has been \
                 put back, and its age cannot be told",
                duration(remaining),
                duration(header.life)
            );
            return Err(no("expiry", why));
        };
        if stored_for >= header.ttl {
            let why = format!(
                "its time to live ended {} ago; only stale_while_revalidate and stale_if_error \
                 may serve it",
                duration(stored_for - header.ttl)
            );
            return Err(no("expired", why));
        }
        if header.codec != 0 && Codec::of_id(header.codec).is_none() {
            let why = "its codec is one that this build does not have (msgpack?); a process that \
                       has it would serve it";
            return Err(no("codec", why.to_owned()));
        }
        let sealed = match self.seal {
            Seal::Unchecked => "; if its MAC holds, for which the secret is needed",
            _ => "",
        };
        let why = format!(
            "current as of invalidation {}, and fresh for {} more{sealed}",
            thousands(self.directory.at.map_or(0, |at| at.seq)),
            duration(header.ttl - stored_for)
        );
        Ok(Verdict { served: true, reason: "current", why })
    }

    fn absent(&self) -> String {
        match &self.looked.lease {
            None => "there is nothing under this key, and nobody loads it".to_owned(),
            Some(lease) => format!(
                "there is nothing yet: a process is loading it; its lease lasts {}, unless it is \
                 renewed",
                duration(lease.remaining.unwrap_or_default())
            ),
        }
    }

    fn whole(&self) -> Result<(), (&'static str, String)> {
        let Seal::Broken(refusal) = self.seal else { return Ok(()) };
        let signed = self.claim.as_ref().is_some_and(|claim| claim.signed);
        Err(match refusal {
            Refusal::Foreign => ("foreign", "it is no entry".to_owned()),
            Refusal::WrongKey => {
                ("wrong-key", "it is the entry of another key, put under this one".to_owned())
            }
            Refusal::Damaged => {
                ("damaged", "it is damaged: its checksum or its length does not hold".to_owned())
            }
            Refusal::Unauthentic if signed => {
                ("unauthentic", "it was not written with this secret, or changed since".to_owned())
            }
            Refusal::Unauthentic => {
                let why = "it is not signed; processes that have this secret do not take it";
                ("unauthentic", why.to_owned())
            }
        })
    }

    fn current(&self, header: &Header) -> Result<(), (&'static str, String)> {
        let Some(at) = self.directory.at else {
            let why = "the directory is gone (evicted, flushed, or never there): the next beat \
                       begins a new epoch, in which this is dead";
            return Err(("epoch", why.to_owned()));
        };
        if self.directory.is_of_this_server == Some(false) {
            let why = "the directory is of another server (a restart, or a failover): the next beat \
                       begins a new epoch, in which this is dead";
            return Err(("epoch", why.to_owned()));
        }
        if header.at.epoch != at.epoch {
            let why = format!(
                "it is of epoch {}, and the directory is in {}: Redis had lost what it knew \
                 meanwhile",
                header.at.epoch, at.epoch
            );
            return Err(("epoch", why));
        }
        let by = self.cells().into_iter().find(|(_, _, number)| *number > Some(header.at.seq));
        match by {
            None => Ok(()),
            Some((cell, name, number)) => {
                let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
                let why = format!(
                    "invalidated: its load began as of invalidation {}, and cell {}{name} was \
                     invalidated at {}",
                    thousands(header.at.seq),
                    cell.index(),
                    thousands(number.unwrap_or_default())
                );
                Err(("invalidated", why))
            }
        }
    }
}
