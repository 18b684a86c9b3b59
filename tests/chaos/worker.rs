//! One process of the fleet: it reads and writes until it is stopped, and reports every operation.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Client, Manager, ManagerConfig, Pool, RecyclingMethod};
use fastrand::Rng;
use larder::{Error, Follow, Origin, Query, QueryCache};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_postgres::NoTls;

use crate::record::{Read, Record, Style, Time, now};
use crate::servers::worker;
use crate::{KEYS, MAX_STALENESS, follows, hung};

/// The name by which [`Worker::start`](crate::servers::Worker::start) finds [`entry`].
pub const ENTRY: &str = "worker::entry";

/// What the process is told in its environment.
pub const REDIS: &str = "LARDER_CHAOS_REDIS";
pub const POSTGRES: &str = "LARDER_CHAOS_POSTGRES";
pub const RANDOM: &str = "LARDER_CHAOS_RANDOM";
/// Set for a process that starts while Redis may be away.
pub const OPTIONAL: &str = "LARDER_CHAOS_OPTIONAL";

/// How many tags there are besides those of the rows; none if it is not set.
pub const TAGS: &str = "LARDER_CHAOS_TAGS";

pub const NAMESPACE: &str = "chaos";

/// Without optimization a process does less, so that what is tried is the cache and not the machine.
const SLOWED: u32 = if cfg!(debug_assertions) { 3 } else { 1 };

const READERS: usize = 12;
const WRITERS: usize = 1;
/// So many other tags are invalidated together with a row's.
const OTHERS: u64 = 8;
const SQL: &str = "SELECT version FROM items WHERE key = $1";

/// How often what was logged is told.
const TELL: Duration = Duration::from_millis(100);

type AnyError = Box<dyn StdError + Send + Sync>;

struct Process {
    cache: QueryCache,
    pool: Pool,
    /// The queries of each key, by [`Style`].
    queries: [Vec<Query>; 3],
    /// The highest version of each key for which an `invalidate` of this process has returned.
    invalidated: Vec<AtomicU64>,
    /// The number of other tags, which fill the directory.
    tags: u64,
    /// When each reader's read began that has no answer yet; 0 if there is none.
    open: Vec<AtomicU64>,
    /// One for each writer. Without a permit nobody writes.
    writes: Semaphore,
    log: Mutex<Vec<Record>>,
    mouth: Mouth,
}

/// Says lines from a thread of its own: when the parent is slow to hear, the runtime must not stand
/// still with it.
struct Mouth(Sender<Word>);

enum Word {
    Line(String),
    /// All before it has been said.
    Said(Sender<()>),
}

impl Mouth {
    fn new() -> Self {
        let (words, spoken) = channel();
        std::thread::spawn(move || {
            for word in spoken {
                match word {
                    Word::Line(line) => worker::say(&line),
                    Word::Said(tell) => drop(tell.send(())),
                }
            }
        });
        Self(words)
    }

    fn say(&self, line: impl Into<String>) {
        let _ = self.0.send(Word::Line(line.into()));
    }

    fn finish(&self) {
        let (tell, said) = channel();
        let _ = self.0.send(Word::Said(tell));
        let _ = said.recv();
    }
}

/// Not a test: what the processes run that the test starts.
#[test]
fn entry() -> Result<(), AnyError> {
    let Some(lines) = worker::parent_lines() else { return Ok(()) };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut random = Rng::with_seed(std::env::var(RANDOM)?.parse()?);
    let process = Arc::new(runtime.block_on(Process::start())?);
    let mut work = work(&runtime, &process, &mut random);
    for line in lines {
        let (order, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match order {
            "rest" => {
                let permits = WRITERS as u32;
                runtime.block_on(process.writes.acquire_many(permits))?.forget();
                process.tell();
                process.mouth.say("resting");
            }
            "settle" => {
                let least: Result<Vec<u64>, _> = rest.split_whitespace().map(str::parse).collect();
                runtime.block_on(process.settle(&least?));
                process.tell();
                process.mouth.say("settled");
            }
            other => panic!("told to {other:?}"),
        }
    }
    // The end of the runtime would be a failure for reads that are under way.
    runtime.block_on(work.shutdown());
    process.tell();
    process.mouth.finish();
    runtime.block_on(process.cache.shutdown());
    Ok(())
}

fn work(runtime: &Runtime, process: &Arc<Process>, random: &mut Rng) -> JoinSet<()> {
    let (mut work, handle) = (JoinSet::new(), runtime.handle());
    for reader in 0..READERS {
        work.spawn_on(process.clone().read_on(reader, random.fork()), handle);
    }
    for _ in 0..WRITERS {
        work.spawn_on(process.clone().write_on(random.fork()), handle);
    }
    work.spawn_on(process.clone().tell_on(), handle);
    work
}

/// The pace of the load, which does not catch up after a pause.
fn paced(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Some keys are asked for much more often than others.
fn draw(random: &mut Rng) -> usize {
    let at = random.f64();
    ((at * at * KEYS as f64) as usize).min(KEYS - 1)
}

fn tag(key: usize) -> String {
    format!("item:{key}")
}

fn other(number: u64) -> String {
    format!("other:{number}")
}

impl Process {
    async fn start() -> Result<Self, AnyError> {
        let mut settings = QueryCache::builder()
            .namespace(NAMESPACE)
            .redis(std::env::var(REDIS)?)
            .max_staleness(MAX_STALENESS)
            .ttl(Duration::from_secs(60))
            .l1_ttl(Duration::from_secs(10));
        if std::env::var_os(OPTIONAL).is_some() {
            settings = settings.redis_optional();
        }
        if follows() {
            settings = settings.follow(Follow::new(std::env::var(POSTGRES)?.parse()?, NoTls));
        }
        let cache = settings.build().await?;
        let tags: u64 = std::env::var(TAGS).map_or(Ok(0), |tags| tags.parse())?;
        // All in one call, as a deployment might. Redis may be away.
        let _ = cache.invalidate((0..tags).map(other)).await;
        let manager = Manager::from_config(
            std::env::var(POSTGRES)?.parse()?,
            NoTls,
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager).max_size(4).build()?;
        let queries = Style::ALL.map(|style| {
            let query = |key| {
                let query = match (follows(), style) {
                    (false, _) => cache.query(SQL).tag(tag(key)),
                    (true, Style::Typed) => cache.query(sql(key)).table(&format!("item_{key}")),
                    // They name no table.
                    (true, _) => cache.query(sql(key)).auto(),
                };
                match style {
                    Style::Strict => query.l1_ttl(Duration::from_millis(1)),
                    Style::Rows | Style::Typed => query,
                }
            };
            (0..KEYS).map(query).collect()
        });
        Ok(Self {
            cache,
            pool,
            queries,
            tags,
            invalidated: std::iter::repeat_with(AtomicU64::default).take(KEYS).collect(),
            open: std::iter::repeat_with(AtomicU64::default).take(READERS).collect(),
            writes: Semaphore::new(WRITERS),
            log: Mutex::default(),
            mouth: Mouth::new(),
        })
    }

    async fn read_on(self: Arc<Self>, reader: usize, mut random: Rng) {
        let mut pace = paced(SLOWED * Duration::from_millis(random.u64(12..36)));
        loop {
            pace.tick().await;
            let style = match random.u32(..20) {
                0..12 => Style::Rows,
                12..17 => Style::Strict,
                _ => Style::Typed,
            };
            let (key, start) = (draw(&mut random), now());
            self.open[reader].store(start, Ordering::Relaxed);
            self.read(key, style).await;
            self.open[reader].store(0, Ordering::Relaxed);
        }
    }

    /// Reads, and logs what came of it.
    async fn read(&self, key: usize, style: Style) -> Option<(u64, Origin)> {
        let invalidated = self.invalidated[key].load(Ordering::SeqCst);
        let start = now();
        let outcome = self.ask(key, style).await;
        let end = now();
        match outcome {
            Ok((version, origin)) => {
                let read = Read { key, version, start, end, origin, style };
                if version < invalidated {
                    self.log().push(Record::Disobeyed { read, invalidated });
                }
                self.log().push(Record::Read(read));
                Some((version, origin))
            }
            Err(error) => {
                let error = format!("{:?}: {}", error.kind(), chain(&error));
                self.log().push(Record::Failed { start, end, error });
                None
            }
        }
    }

    async fn ask(&self, key: usize, style: Style) -> Result<(u64, Origin), Error> {
        let number = key as i32;
        let bound = self.queries[style as usize][key].bind(number);
        if style != Style::Typed {
            let answer = bound.fetch(&self.pool).answer().await?;
            let row = answer.value().first().expect("every key has its row");
            return Ok((row.get::<_, i64>("version") as u64, answer.origin()));
        }
        let (pool, sql) = (self.pool.clone(), sql(key));
        let load = move || async move {
            let client = pool.get().await?;
            let row = client.query_one(&sql, &[&number]).await?;
            Ok::<i64, AnyError>(row.get(0))
        };
        let answer = bound.load(load).answer().await?;
        Ok((**answer.value() as u64, answer.origin()))
    }

    async fn write_on(self: Arc<Self>, mut random: Rng) {
        let mut pace = paced(SLOWED * Duration::from_millis(10));
        loop {
            pace.tick().await;
            // At random moments, but as often as every third time.
            if random.u32(..3) != 0 {
                continue;
            }
            let Ok(_permit) = self.writes.acquire().await else { return };
            let key = draw(&mut random);
            match self.update(key).await {
                Ok(version) => {
                    let others = if self.tags > 0 { OTHERS } else { 0 };
                    let others: Vec<_> = (0..others).map(|_| random.u64(..self.tags)).collect();
                    self.invalidate(key, version, others).await;
                }
                Err(_) => self.log().push(Record::WriteFailed),
            }
        }
    }

    async fn update(&self, key: usize) -> Result<u64, AnyError> {
        let mut client = self.pool.get().await?;
        if follows() {
            return write_as_others_do(&mut client, key).await;
        }
        let sql = "UPDATE items SET version = version + 1 WHERE key = $1 RETURNING version";
        let row = client.query_one(sql, &[&(key as i32)]).await?;
        Ok(row.get::<_, i64>(0) as u64)
    }

    async fn invalidate(&self, key: usize, version: u64, others: Vec<u64>) {
        if follows() {
            // Nobody tells the cache. The commit has returned.
            let mut log = self.log();
            log.push(Record::Invalidated { key, version, at: now(), acknowledged: true });
            return;
        }
        let tags = others.into_iter().map(other).chain([tag(key)]);
        let acknowledged = self.cache.invalidate(tags).await.is_acknowledged();
        self.invalidated[key].fetch_max(version, Ordering::SeqCst);
        let mut log = self.log();
        // Under the lock: whoever tells the log later knows a later time.
        log.push(Record::Invalidated { key, version, at: now(), acknowledged });
    }

    /// Reads every key in every way, and says which answers are older than they must be.
    async fn settle(&self, least: &[u64]) {
        for (key, &least) in least.iter().enumerate() {
            for style in Style::ALL {
                let answer = self.read(key, style).await;
                if answer.is_none_or(|(version, _)| version < least) {
                    self.mouth.say(format!("behind {key} {style:?} {answer:?}"));
                }
            }
        }
    }

    async fn tell_on(self: Arc<Self>) {
        let mut ticks = paced(TELL);
        let mut told = vec![0; READERS];
        loop {
            ticks.tick().await;
            for (open, told) in self.open.iter().zip(&mut told) {
                let start = open.load(Ordering::Relaxed);
                let overdue = Time::try_from(hung().as_nanos()).unwrap_or(Time::MAX);
                if start != 0 && start != *told && now().saturating_sub(start) > overdue {
                    *told = start;
                    self.log().push(Record::Waiting { start });
                }
            }
            self.tell();
        }
    }

    /// Tells what has been logged, and until when that is all of it.
    fn tell(&self) {
        let loads = Record::Loads(self.cache.stats().loads);
        // The line goes off under the lock as well: lines are in the order of their times.
        let mut log = self.log();
        let upto = now();
        let words: Vec<_> = log.drain(..).chain([loads]).map(|each| each.to_string()).collect();
        self.mouth.say(format!("log {upto} {}", words.join(" ")));
    }

    fn log(&self) -> MutexGuard<'_, Vec<Record>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The query of a row. Every third one reads through a function and a view, where the database is
/// followed.
fn sql(key: usize) -> String {
    if !follows() {
        SQL.to_owned()
    } else if key.is_multiple_of(3) {
        format!("SELECT version_{key}() AS version WHERE $1 >= 0")
    } else {
        format!("SELECT version FROM seen_{key} WHERE key = $1")
    }
}

/// A write by a connection that knows of no cache: an update through the parent or of the partition
/// itself, or all of the table in one transaction.
async fn write_as_others_do(client: &mut Client, key: usize) -> Result<u64, AnyError> {
    let part = if key.is_multiple_of(2) { "_part" } else { "" };
    let way = fastrand::u32(..8);
    let table = if way < 4 { format!("item_{key}{part}") } else { format!("item_{key}") };
    let tx = client.transaction().await?;
    let sql = format!("UPDATE {table} SET version = version + 1 RETURNING version");
    let version: i64 = tx.query_one(&sql, &[]).await?.get(0);
    if way == 7 {
        // Not TRUNCATE: a query whose snapshot is older finds an empty table after that.
        let rows = format!("INSERT INTO item_{key} VALUES ({key}, {version})");
        tx.batch_execute(&format!("DELETE FROM item_{key}; {rows}")).await?;
    }
    tx.commit().await?;
    Ok(version as u64)
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
