//! [`Looks`]: look-ups into Redis, those that come together in one pipeline.
//!
//! A look-up that finds no other under way goes by itself, at once, on its caller's own account.
//! While others are under way, look-ups gather: the first one calls a task, which sends all that have
//! come by the time it runs, in one pipeline, and does not wait for the answers to earlier ones.
//! Under load that is as many as the runtime found ready at a time; raw, one of 32 look-ups in a
//! pipeline costs a third of what it costs in one of its own.
//!
//! # One question to the directory for all
//!
//! Look-ups are judged by the directory's position, and it must have been read *after* the look-up
//! began: only then is every invalidation in it that had been acknowledged by then. A look-up is
//! added to those who wait when it has begun, and the batch is made, and only then sent, from what is
//! there; so all of a batch began before Redis carries out any of its commands, and whatever was
//! acknowledged before one of them began lies before the batch's one `ZMSCORE`. What was acknowledged
//! between two look-ups of a batch is known to both, which asks more of the first than it must.
//!
//! In the pipeline the position comes last. Before the entries it would be as true; but an entry of
//! an epoch that began between the two would be taken for stale, by a table that the position has
//! not told of it.
//!
//! Entries, time and position come on one connection, whose number is given with the answer. Nothing
//! of it outlives the batch: a look-up that is not content asks again, in another one.
//!
//! # Who is harmed by whom
//!
//! Nobody waits for another caller, only for tasks on the link's own runtime, as the connection
//! itself is one. A caller who leaves is passed over, or answered into the void. Each has its own time
//! limit, which counts towards giving the connection up as that of a look-up alone does. A task that
//! ends before its time, with its runtime, drops those who wait, and that answers them.
//!
//! The answers of a batch come together, so one entry of many megabytes delays the others of its
//! batch, as it delays all that come behind it on the connection anyway. How many look-ups go
//! together is bounded by the sizes that entries had lately.

use crate::sync::{Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::{Cmd, Pipeline, Value};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::link::Link;
use super::{Names, mark, number};
use crate::currency::Position;
use crate::l2::{Found, ReadReply, StoreError};
use crate::value::key::CacheKey;

/// No more than so many go together: enough that what a batch costs is divided, few enough that Redis
/// is at work on one while the answers to another are taken.
const MOST: usize = 32;
/// No more than so many bytes of entries are expected in a batch: a fraction of a millisecond.
const BYTES: usize = 256 << 10;

#[derive(Clone)]
pub(super) struct Looks(Arc<Shared>);

struct Shared {
    link: Arc<Link>,
    names: Arc<Names>,
    /// What the entries of a batch took lately, in bytes each.
    size: AtomicUsize,
    /// Never held across an await, nor while something else is called.
    gathered: Mutex<Gathered>,
}

#[derive(Default)]
struct Gathered {
    /// Pipelines of look-ups that have not been answered.
    under_way: usize,
    waiting: Vec<Waiting>,
    /// A task is about to send those who wait.
    called: bool,
}

struct Waiting {
    key: CacheKey,
    answer: oneshot::Sender<Result<ReadReply, StoreError>>,
}

impl Looks {
    pub(super) fn new(link: Arc<Link>, names: Arc<Names>) -> Looks {
        let (size, gathered) = (AtomicUsize::new(0), Mutex::default());
        Looks(Arc::new(Shared { link, names, size, gathered }))
    }

    /// The commands of a look for some keys.
    pub(super) fn commands(names: &Names, keys: &[CacheKey]) -> Pipeline {
        // Sized for what goes in: this is the way of every hit.
        let length = names.entry_length();
        let mut entries = Cmd::with_capacity(1 + keys.len(), 4 + keys.len() * length);
        entries.arg(if keys.len() == 1 { "GET" } else { "MGET" });
        for key in keys {
            entries.arg(names.entry(key));
        }
        let mut time = Cmd::with_capacity(1, 4);
        time.arg("TIME");
        let mut marks = Cmd::with_capacity(4, 15 + names.directory.len());
        marks.arg("ZMSCORE").arg(&names.directory).arg("epoch").arg("seq");
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
            let _under_way = UnderWay(shared);
            let mut glances = shared.ask(&[*key]).await?;
            return glances.next().ok_or(StoreError::Unavailable);
        };
        if first {
            shared.call();
        }
        let sent = shared.link.sent();
        match timeout(shared.link.limit(), answer).await {
            Ok(answer) => answer.unwrap_or(Err(StoreError::Unavailable)),
            Err(_) => {
                shared.link.timed_out(sent);
                Err(StoreError::Unavailable)
            }
        }
    }
}

impl Gathered {
    /// Whether it is the first.
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

    /// Has those sent who wait.
    fn call(self: &Arc<Self>) {
        let called = Called(Some(self.clone()));
        self.link.runtime().spawn(async move {
            // Behind all that is ready to run now: what of it looks as well joins.
            yield_now().await;
            called.send().await;
        });
    }

    /// What is under each of the keys.
    async fn ask(
        &self,
        keys: &[CacheKey],
    ) -> Result<impl Iterator<Item = ReadReply> + use<>, StoreError> {
        let commands = Looks::commands(&self.names, keys);
        let (replies, connection) = self.link.pipeline(&commands).await?;
        let [entries, time, marks] =
            <[Value; 3]>::try_from(replies).map_err(|_| StoreError::Unavailable)?;
        let now = milliseconds(&time).ok_or(StoreError::Unavailable)?;
        let directory = position(&marks);
        let entries = match entries {
            Value::Array(entries) if keys.len() > 1 && entries.len() == keys.len() => entries,
            // Of `GET`: something of another type is an error, and for `MGET` it is nothing.
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

    /// How many look-ups may go together.
    fn most(&self) -> usize {
        (BYTES / self.size.load(Ordering::Relaxed).max(1)).clamp(1, MOST)
    }

    fn learn(&self, size: usize) {
        // Quick to believe in large ones, slow to forget them.
        let before = self.size.load(Ordering::Relaxed);
        let after = if size > before { size } else { before - (before - size) / 8 };
        self.size.store(after, Ordering::Relaxed);
    }
}

/// A pipeline of look-ups that is under way, until this is dropped.
struct UnderWay<'a>(&'a Shared);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
    }
}

/// The duty to send those who wait. Dropped without that, it drops them all, which tells them.
struct Called(Option<Arc<Shared>>);

impl Called {
    async fn send(mut self) {
        let Some(shared) = self.0.take() else { return };
        let most = shared.most();
        let (batch, more) = {
            let mut gathered = shared.lock();
            // Who has left is not asked for.
            gathered.waiting.retain(|waiting| !waiting.answer.is_closed());
            let rest = gathered.waiting.len().min(most);
            let rest = gathered.waiting.split_off(rest);
            let batch = std::mem::replace(&mut gathered.waiting, rest);
            gathered.called = !gathered.waiting.is_empty();
            gathered.under_way += 1;
            (batch, gathered.called)
        };
        let _under_way = UnderWay(&shared);
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
                    if let Found::Entry { bytes, .. } = &glance.found {
                        size += bytes.len();
                    }
                    // Who has left meanwhile does not hear it.
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

impl Drop for Called {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        let mut gathered = shared.lock();
        gathered.called = false;
        let waiting = std::mem::take(&mut gathered.waiting);
        // Not under the lock: it wakes them.
        drop(gathered);
        drop(waiting);
    }
}

/// The answer to `TIME` in milliseconds. One that has begun counts.
pub(super) fn milliseconds(time: &Value) -> Option<u64> {
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
