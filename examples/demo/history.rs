//! What a view held and when, and what readers were told: the proof that nothing stale was read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use anyhow::{Result, ensure};
use larder::Origin;

use crate::cells::Cells;

/// One answer to a reader.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    pub(crate) origin: Origin,
    pub(crate) cells: Arc<Cells>,
}

/// The view from one refresh to the next.
#[derive(Debug)]
struct Version {
    /// Of the refresh, by which it is known again.
    started: SystemTime,
    /// Nobody can have read it before.
    begun: Instant,
    /// From then on, nobody may be told anything older. Nothing while it is being refreshed.
    done: Option<Instant>,
    /// What PostgreSQL itself says that it holds. Nothing while no other refresh has come: it is
    /// asked when the next one is about to begin, which waits for the answer.
    cells: Option<Arc<Cells>>,
}

/// All versions of a view, the first of them from before any refresh.
#[derive(Debug, Clone)]
pub(crate) struct History(Arc<Mutex<Vec<Version>>>);

/// What came of holding all reads against the history.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Reads by where they were answered from.
    pub(crate) origins: BTreeMap<&'static str, u64>,
    pub(crate) reads: u64,
    /// Answers from before a refresh that was done when they were asked for.
    pub(crate) stale: u64,
    /// Answers that the view never held, or did not hold yet.
    pub(crate) wrong: u64,
    /// Answers while a refresh was going on.
    pub(crate) during: u64,
}

impl History {
    pub(crate) fn new() -> Self {
        let (started, begun) = (SystemTime::now(), Instant::now());
        let first = Version { started, begun, done: Some(begun), cells: None };
        Self(Arc::new(Mutex::new(vec![first])))
    }

    fn versions(&self) -> MutexGuard<'_, Vec<Version>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A refresh is about to begin, and until now the view held this.
    pub(crate) fn refreshing(&self, started: SystemTime, held: Cells) {
        self.holds(held);
        let begun = Instant::now();
        self.versions().push(Version { started, begun, done: None, cells: None });
    }

    /// The refresh is committed and announced.
    pub(crate) fn refreshed(&self, started: SystemTime) {
        let done = Some(Instant::now());
        self.versions().iter_mut().filter(|it| it.started == started).for_each(|it| it.done = done);
    }

    /// The view holds this since the last refresh.
    pub(crate) fn holds(&self, cells: Cells) {
        if let Some(last) = self.versions().last_mut() {
            last.cells = Some(Arc::new(cells));
        }
    }

    /// Holds every read against what the view held.
    ///
    /// # Errors
    ///
    /// If the history has gaps, so that nothing could be said.
    pub(crate) fn judge(&self, reads: &[Read]) -> Result<Verdict> {
        let versions = self.versions();
        ensure!(versions.iter().all(|it| it.cells.is_some()), "a version of the view is unknown");
        let (mut stale, mut wrong, mut during) = (0, 0, 0);
        let mut origins = BTreeMap::new();
        for read in reads {
            *origins.entry(name(read.origin)).or_default() += 1;
            let last_done = |at: Instant| {
                versions.iter().rposition(|it| it.done.is_some_and(|done| done <= at))
            };
            let last_begun = versions.iter().rposition(|it| it.begun <= read.ended);
            let (oldest, newest) = (last_done(read.begun).unwrap_or(0), last_begun.unwrap_or(0));
            during += u64::from(oldest < newest);
            let equal = |at: &usize| versions[*at].cells.as_ref() == Some(&read.cells);
            if !(oldest..=newest).any(|at| equal(&at)) {
                if (0..oldest).any(|at| equal(&at)) { stale += 1 } else { wrong += 1 }
            }
        }
        let reads = reads.len() as u64;
        Ok(Verdict { origins, reads, stale, wrong, during })
    }
}

/// Where an answer came from, as the table of times calls it.
pub(crate) fn name(origin: Origin) -> &'static str {
    match origin {
        Origin::L1 => "memory",
        Origin::L2 => "Redis",
        Origin::Loaded => "PostgreSQL",
        Origin::Coalesced => "a read under way",
        Origin::Stale => "stale",
        _ => "elsewhere",
    }
}
