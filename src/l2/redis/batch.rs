//! [`ReadBatcher`]: lookups in Redis. Concurrent lookups share a pipeline.
//!
//! A lookup that finds no other lookup running is sent alone, at once, in its caller's own task.
//! While others are running, lookups gather. The first of them spawns a task, which sends all
//! lookups that have gathered by the time it runs in one pipeline, without waiting for the replies
//! to earlier pipelines. Under load a batch has as many lookups as the runtime found ready at once.
//! Measured without the rest of a read, one of 32 lookups in a pipeline costs a third of a lookup
//! in a pipeline of its own.
//!
//! # One directory read for all
//!
//! A lookup is judged by the directory's position. The position must be read *after* the lookup
//! began: only then does it include every invalidation acknowledged by that time. A lookup begins
//! before it is added to the waiting list, and a batch is built from that list before it is sent.
//! So every lookup of a batch began before Redis executes any command of the batch, and every
//! invalidation acknowledged before one of them began precedes the batch's single `ZMSCORE`. An
//! invalidation acknowledged between two lookups of a batch applies to both, which is stricter than
//! necessary for the first.
//!
//! The position is the last command of the pipeline. It would be just as correct before the
//! entries. But if an epoch began between the two, the table would not learn of it from the
//! position, and would judge an entry of the new epoch as stale.
//!
//! Entries, time and position come from one connection, whose number is part of the reply. Nothing
//! outlives the batch: a lookup that needs newer data is sent again, in another batch.
//!
//! # Isolation between callers
//!
//! No caller waits for another caller. Callers wait only for tasks on the link's own runtime, where
//! the connection itself also runs. A caller that leaves is skipped, or its reply is discarded.
//! Each caller has its own time limit, which counts towards giving up the connection like that of a
//! single lookup. If a task ends early because its runtime ends, its waiting lookups are dropped,
//! which fails them.
//!
//! A caller that looks many keys up at once ([`ReadBatcher::look_many`]) has pipelines of its own,
//! one after the other, which are larger.
//!
//! The replies of a batch arrive together, so a long entry delays the others of its batch, as it
//! delays everything behind it on the connection anyway. The recent sizes of entries limit how many
//! lookups share a batch. Of a large entry only the head is here; see
//! [`transfers`](super::transfers).

use crate::sync::{Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::{Cmd, Pipeline, Value};
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::connection::Connection;
use super::names::Names;
use super::{mark, number};
use crate::currency::Position;
use crate::l2::{Found, ReadReply, StoreError};
use crate::patience::within;
use crate::value::key::CacheKey;

/// The maximum number of lookups in a batch: enough to share the cost of the batch, and few enough
/// that Redis works on one batch while the replies to another are read.
const MOST: usize = 32;
/// The maximum size of the entries expected in a batch, in bytes: a fraction of a millisecond.
const BYTES: usize = 256 << 10;
/// The same limits where one caller looks many keys up: it wants all of them, and the fewer round
/// trips the better.
const MOST_OF_ONE: usize = 512;
const BYTES_OF_ONE: usize = 1 << 20;

#[derive(Clone)]
pub(super) struct ReadBatcher(Arc<Shared>);

struct Shared {
    link: Arc<Connection>,
    names: Arc<Names>,
    /// The recent average size of an entry in a batch, in bytes.
    size: AtomicUsize,
    /// Never held across an await, nor while other code is called.
    gathered: Mutex<Gathered>,
}

#[derive(Default)]
struct Gathered {
    /// The number of pipelines that await their reply.
    under_way: usize,
    waiting: Vec<Waiting>,
    /// Whether a task is about to send the waiting lookups.
    called: bool,
}

struct Waiting {
    key: CacheKey,
    answer: oneshot::Sender<Result<ReadReply, StoreError>>,
}

impl ReadBatcher {
    pub(super) fn new(link: Arc<Connection>, names: Arc<Names>) -> ReadBatcher {
        let (size, gathered) = (AtomicUsize::new(0), Mutex::default());
        ReadBatcher(Arc::new(Shared { link, names, size, gathered }))
    }

    /// The commands of a lookup for some keys.
    pub(super) fn commands(names: &Names, keys: &[CacheKey]) -> Pipeline {
        // Allocated to size: every hit in Redis takes this path.
        let length = names.entry_length();
        let mut entries = Cmd::with_capacity(1 + keys.len(), 4 + keys.len() * length);
        entries.arg(if keys.len() == 1 { "GET" } else { "MGET" });
        for key in keys {
            entries.arg(names.entry(key));
        }
        let mut time = Cmd::with_capacity(1, 4);
        time.arg("TIME");
        let mut marks = Cmd::with_capacity(4, 15 + names.directory().len());
        marks.arg("ZMSCORE").arg(names.directory()).arg("epoch").arg("seq");
        let mut all = Pipeline::with_capacity(3);
        all.add_command(entries).add_command(time).add_command(marks);
        all
    }

    pub(super) async fn look(&self, key: &CacheKey) -> Result<ReadReply, StoreError> {
        let shared = &self.0;
        let answer = {
            let mut gathered = shared.lock();
            if gathered.under_way == 0 && !gathered.called {
                gathered.under_way = 1;
                None
            } else {
                Some(gathered.add(*key))
            }
        };
        let Some((answer, first)) = answer else {
            let _under_way = InFlightGuard(shared);
            let mut glances = shared.ask(&[*key]).await?;
            return glances.next().ok_or(StoreError::Unavailable);
        };
        if first {
            shared.call();
        }
        let sent = shared.link.sent();
        match within(shared.link.limit(), answer).await {
            Some(answer) => answer.unwrap_or(Err(StoreError::Unavailable)),
            None => {
                shared.link.timed_out(sent);
                Err(StoreError::Unavailable)
            }
        }
    }
}

impl ReadBatcher {
    /// Looks up the first of some keys, as many as suit a pipeline, for one caller and in its own
    /// task.
    pub(super) async fn look_many(&self, keys: &[CacheKey]) -> Result<Vec<ReadReply>, StoreError> {
        let shared = &self.0;
        let size = shared.size.load(Ordering::Relaxed).max(1);
        let most = (BYTES_OF_ONE / size).clamp(MOST, MOST_OF_ONE).min(keys.len());
        shared.lock().under_way += 1;
        let _under_way = InFlightGuard(shared);
        let replies: Vec<_> = shared.ask(&keys[..most]).await?.collect();
        shared.learn(replies.iter().map(ReadReply::bytes).sum::<usize>() / most);
        Ok(replies)
    }
}

impl ReadReply {
    /// The size of the entry that it holds.
    fn bytes(&self) -> usize {
        match &self.found {
            Found::Entry { bytes, .. } => bytes.len(),
            Found::Nothing => 0,
        }
    }
}

impl Gathered {
    /// Adds a lookup. Returns whether it is the first.
    fn add(&mut self, key: CacheKey) -> (oneshot::Receiver<Result<ReadReply, StoreError>>, bool) {
        let (answer, receiver) = oneshot::channel();
        self.waiting.push(Waiting { key, answer });
        (receiver, !std::mem::replace(&mut self.called, true))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock()
    }

    /// Spawns the task that sends the waiting lookups.
    fn call(self: &Arc<Self>) {
        let called = FlushGuard(Some(self.clone()));
        self.link.background().spawn(async move {
            // Runs after all tasks that are ready now, so that their lookups join the batch.
            yield_now().await;
            called.send().await;
        });
    }

    /// Reads the content under each of the keys.
    async fn ask(
        &self,
        keys: &[CacheKey],
    ) -> Result<impl Iterator<Item = ReadReply> + use<>, StoreError> {
        let commands = ReadBatcher::commands(&self.names, keys);
        let (replies, connection) = self.link.pipeline(&commands).await?;
        let [entries, time, marks] =
            <[Value; 3]>::try_from(replies).map_err(|_| StoreError::Unavailable)?;
        let now = milliseconds(&time).ok_or(StoreError::Unavailable)?;
        let directory = position(&marks);
        let entries = match entries {
            Value::Array(entries) if keys.len() > 1 && entries.len() == keys.len() => entries,
            // For `GET`, a value of another type is an error; `MGET` returns nil for it.
            entry if keys.len() == 1 => vec![entry],
            _ => return Err(StoreError::Unavailable),
        };
        Ok(entries.into_iter().map(move |entry| {
            let found = match entry {
                Value::BulkString(bytes) => Found::Entry { bytes: bytes.into(), now },
                _ => Found::Nothing,
            };
            ReadReply { found, directory, connection }
        }))
    }

    /// The maximum number of lookups in the next batch.
    fn most(&self) -> usize {
        (BYTES / self.size.load(Ordering::Relaxed).max(1)).clamp(1, MOST)
    }

    fn learn(&self, size: usize) {
        // Grows at once and shrinks slowly.
        let before = self.size.load(Ordering::Relaxed);
        let after = if size > before { size } else { before - (before - size) / 8 };
        self.size.store(after, Ordering::Relaxed);
    }
}

/// A running pipeline of lookups. It ends when this is dropped.
struct InFlightGuard<'a>(&'a Shared);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
    }
}

/// The duty to send the waiting lookups. If it is dropped before that, they are dropped and fail.
struct FlushGuard(Option<Arc<Shared>>);

impl FlushGuard {
    async fn send(mut self) {
        let Some(shared) = self.0.take() else { return };
        let most = shared.most();
        let (batch, more) = {
            let mut gathered = shared.lock();
            // Callers that have left are skipped.
            gathered.waiting.retain(|waiting| !waiting.answer.is_closed());
            let rest = gathered.waiting.len().min(most);
            let rest = gathered.waiting.split_off(rest);
            let batch = std::mem::replace(&mut gathered.waiting, rest);
            gathered.called = !gathered.waiting.is_empty();
            gathered.under_way += 1;
            (batch, gathered.called)
        };
        let _under_way = InFlightGuard(&shared);
        if more {
            shared.call();
        }
        if batch.is_empty() {
            return;
        }
        let keys: Vec<_> = batch.iter().map(|waiting| waiting.key).collect();
        let mut size = 0;
        match shared.ask(&keys).await {
            Ok(glances) => {
                for (waiting, glance) in batch.into_iter().zip(glances) {
                    size += glance.bytes();
                    // A caller that has left meanwhile does not receive it.
                    let _ = waiting.answer.send(Ok(glance));
                }
                shared.learn(size / keys.len());
            }
            Err(error) => batch.into_iter().for_each(|waiting| {
                let _ = waiting.answer.send(Err(error));
            }),
        }
    }
}

impl Drop for FlushGuard {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        let mut gathered = shared.lock();
        gathered.called = false;
        let waiting = std::mem::take(&mut gathered.waiting);
        // Dropped outside the lock: this wakes the callers.
        drop(gathered);
        drop(waiting);
    }
}

/// The reply to `TIME` in milliseconds, rounded up.
pub(crate) fn milliseconds(time: &Value) -> Option<u64> {
    let Value::Array(time) = time else { return None };
    let [seconds, micros] = time.as_slice() else { return None };
    number(seconds)?.checked_mul(1_000)?.checked_add(number(micros)?.div_ceil(1_000))
}

fn position(marks: &Value) -> Option<Position> {
    let Value::Array(marks) = marks else { return None };
    let [epoch, seq] = marks.as_slice() else { return None };
    mark(epoch).zip(mark(seq)).map(|(epoch, seq)| Position { epoch, seq })
}

#[cfg(test)]
mod tests;
