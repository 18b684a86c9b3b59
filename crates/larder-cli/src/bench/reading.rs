//! [`Reading`]: the readers and the writers of one process at work.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::super::failure::with_sources;
use super::judge::{Ack, Shown};
use super::measure::{Parts, Times, count, record, times};
use super::opened::{Opened, tag};
use super::report::{Mode, Source};
use super::source::{BenchError, Queries, Timed};
use super::workload::{self, Random};
use larder::{Origin, Rows};

use super::clock::{self, Instant};

/// What readers find is kept in so many places, so that they rarely wait for each other.
const SHARDS: usize = 8;

/// How many reads a reader makes before it lets others have its thread. A service comes to such a
/// point with every request; a hit in memory by itself never does.
const TURN: u32 = 8;

/// How long a reader rests after an error: a server that is gone is not asked a million times.
const REST: Duration = Duration::from_millis(10);

/// A part of what readers found.
pub(super) struct Shard {
    pub(super) parts: Parts,
    pub(super) times: HashMap<Source, Times>,
    /// Answers that have not been judged yet.
    pub(super) shown: Vec<Shown>,
    pub(super) reads: u64,
    pub(super) hits: u64,
    pub(super) first_error: Option<String>,
}

/// What writes came to.
pub(super) struct Written {
    pub(super) parts: Parts,
    pub(super) total_ns: u64,
    pub(super) unacknowledged: u64,
}

pub(super) struct Reading {
    pub(super) opened: Opened,
    pub(super) source: Timed,
    sql: Arc<str>,
    update: String,
    /// For queries without a cache.
    begun: Instant,
    until: Instant,
    part: Duration,
    /// Reads begun.
    taken: AtomicU64,
    stopped: AtomicBool,
    stop: watch::Sender<bool>,
    pub(super) shards: Vec<Mutex<Shard>>,
    pub(super) written: Mutex<Written>,
    acks: Mutex<Vec<Ack>>,
    /// Where writes are told that other processes must hear of, and who waits for that.
    told: UnboundedSender<(u64, u32)>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    writes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reading {
    pub(super) fn new(
        opened: Opened,
        begun: Instant,
        until: Option<Instant>,
        told: UnboundedSender<(u64, u32)>,
    ) -> Reading {
        let task = &opened.task;
        let part = Duration::from_nanos(task.part_ns);
        let parts = || Parts::new(begun, part);
        let shard = || {
            Mutex::new(Shard {
                parts: parts(),
                times: HashMap::new(),
                shown: vec![],
                reads: 0,
                hits: 0,
                first_error: None,
            })
        };
        let source = Timed {
            pool: opened.pool.clone(),
            turns: Arc::new(Semaphore::new(task.connections as usize)),
            queries: Arc::new(Mutex::new(Queries::new(parts()))),
        };
        Reading {
            source,
            sql: task.query.as_str().into(),
            update: format!(
                "UPDATE {}.keys SET version = version + 1 WHERE key = $1 RETURNING version",
                task.schema
            ),
            begun,
            until: until.unwrap_or(Instant::MAX),
            part,
            taken: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            stop: watch::Sender::new(false),
            shards: (0..SHARDS).map(|_| shard()).collect(),
            written: Mutex::new(Written { parts: parts(), total_ns: 0, unacknowledged: 0 }),
            acks: Mutex::default(),
            told,
            waiting: Mutex::default(),
            writes: AtomicU64::new(0),
            opened,
        }
    }

    /// Empty parts of the run.
    pub(super) fn parts(&self) -> Parts {
        Parts::new(self.begun, self.part)
    }

    /// No more reads and writes are begun.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
    }

    /// Writes acknowledged since this was last asked, and the time up to which there are no others.
    pub(super) fn acks(&self) -> (Vec<Ack>, Instant) {
        let mut acks = lock(&self.acks);
        // Under the lock: whoever comes later takes a later time.
        (std::mem::take(&mut *acks), clock::now())
    }

    /// All other processes know of that write.
    pub(super) fn heard(&self, number: u64) {
        if let Some(writer) = lock(&self.waiting).remove(&number) {
            let _ = writer.send(());
        }
    }

    /// One reader, which asks again as soon as it is answered. Returns whether time was what ended
    /// it.
    pub(super) async fn read(self: Arc<Self>, number: u32) -> bool {
        let task = &self.opened.task;
        let mut random = workload::random(task.seed, task.process, number);
        let mut turn = number;
        while !self.stopped.load(Ordering::Relaxed) {
            let now = clock::now();
            if now >= self.until {
                return true;
            }
            if task.write_share > 0.0 && random.random_bool(task.write_share) {
                let key = self.opened.workload.any(&mut random);
                self.write(key, number).await;
                continue;
            }
            let Some(key) = self.next(&mut random) else { return false };
            self.read_one(key, number).await;
            turn += 1;
            if turn.is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
        }
        false
    }

    /// The next key to read, if there is one more.
    fn next(&self, random: &mut Random) -> Option<u32> {
        if let Some(reads) = self.opened.task.reads
            && self.taken.fetch_add(1, Ordering::Relaxed) >= reads
        {
            return None;
        }
        self.opened.workload.next(random)
    }

    async fn read_one(&self, key: u32, number: u32) {
        let begun = clock::now();
        let outcome = self.ask(key).await;
        let ended = clock::now();
        let shown = outcome.and_then(|(rows, source)| Ok((version(&rows)?, source)));
        let mut shard = lock(&self.shards[number as usize % SHARDS]);
        match shown {
            Ok((version, source)) => {
                count(&mut shard.parts.at(ended).answers, source);
                shard.reads += 1;
                shard.hits += u64::from(matches!(source, Source::L1 | Source::L2 | Source::Stale));
                let times = shard.times.entry(source).or_insert_with(times);
                record(times, ended.saturating_sub(begun));
                shard.shown.push(Shown { key, version, begun, source });
            }
            Err(error) => {
                drop(shard);
                self.failed(number, &error).await;
            }
        }
    }

    async fn ask(&self, key: u32) -> Result<(Rows, Source), BenchError> {
        // Key numbers are below 2^31.
        let parameter = key as i32;
        let (source, sql) = (self.source.clone(), self.sql.clone());
        let Some(cache) = &self.opened.cache else {
            return Ok((source.rows(sql, parameter).await?, Source::Postgres));
        };
        let query = self.opened.query(cache, key).bind(parameter);
        let answer = match self.opened.task.follow {
            None => query.load_rows(move |sql, _| source.rows(sql, parameter)).answer().await?,
            Some(_) => {
                let begun = clock::now();
                let answer = query.fetch(&self.opened.pool).answer().await?;
                if answer.origin() == Origin::Loaded {
                    source.took(begun, clock::now());
                }
                answer
            }
        };
        let source = match answer.origin() {
            Origin::L1 => Source::L1,
            Origin::L2 => Source::L2,
            Origin::Loaded => Source::Loaded,
            Origin::Coalesced => Source::Coalesced,
            Origin::Stale => Source::Stale,
            other => {
                return Err(format!("an answer of an origin that is unknown: {other:?}").into());
            }
        };
        Ok((answer.into_value(), source))
    }

    /// Writes as often as a rate says, until nobody reads any more.
    pub(super) async fn write_at_rate(self: Arc<Self>) {
        let mut stop = self.stop.subscribe();
        let task = &self.opened.task;
        let mut random = workload::random(task.seed, task.process, u32::MAX);
        if task.write_rate > 0.0 {
            let mut ticks = interval(Duration::from_secs_f64(1.0 / task.write_rate));
            // What could not be written in time is not made up for in one go.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !*stop.borrow() {
                tokio::select! {
                    _ = stop.changed() => {}
                    _ = ticks.tick() => {
                        let key = self.opened.workload.any(&mut random);
                        self.write(key, 0).await;
                    }
                }
            }
        }
    }

    /// A new version of a key, committed and announced.
    async fn write(&self, key: u32, number: u32) {
        let version = match self.commit(key).await {
            Ok(version) => version,
            Err(error) => return self.failed(number, &error).await,
        };
        let announced = match (&self.opened.cache, self.opened.task.mode) {
            // Whoever follows the database finds out.
            (Some(_), _) if self.opened.task.follow.is_some() => true,
            (Some(cache), mode) => {
                let done = cache.invalidate([tag(key)]).await.is_acknowledged();
                if mode == Mode::L1 && self.opened.task.processes > 1 {
                    self.tell(key).await;
                }
                done
            }
            (None, _) => true,
        };
        if announced {
            let mut acks = lock(&self.acks);
            let at = clock::now();
            acks.push(Ack { key, version, at });
        } else {
            lock(&self.written).unacknowledged += 1;
        }
    }

    async fn commit(&self, key: u32) -> Result<u64, BenchError> {
        let _turn = self.source.turns.acquire().await;
        let client = self.opened.pool.get().await?;
        let update = client.prepare_cached(&self.update).await?;
        let begun = clock::now();
        let row = client.query_one(&update, &[&(key as i32)]).await?;
        let ended = clock::now();
        let mut written = lock(&self.written);
        written.parts.at(ended).writes += 1;
        written.total_ns += ended - begun;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    /// Has all other processes told of a write, which nobody else does without Redis.
    async fn tell(&self, key: u32) {
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let (heard, wait) = oneshot::channel();
        lock(&self.waiting).insert(number, heard);
        if self.told.send((number, key)).is_ok() {
            let _ = wait.await;
        }
    }

    async fn failed(&self, number: u32, error: &BenchError) {
        let now = clock::now();
        {
            let mut shard = lock(&self.shards[number as usize % SHARDS]);
            shard.parts.at(now).errors += 1;
            shard.first_error.get_or_insert_with(|| with_sources(&**error));
        }
        sleep(REST).await;
    }
}

/// The version that an answer shows.
fn version(rows: &Rows) -> Result<u64, BenchError> {
    let row = rows.iter().next();
    let version: Option<i64> = row.and_then(|row| row.try_get(0).ok());
    version
        .map(i64::unsigned_abs)
        .ok_or_else(|| "the answer does not show a version: were the tables changed?".into())
}
