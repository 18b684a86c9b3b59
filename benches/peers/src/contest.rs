//! One contestant, whatever its type.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::faults::{self, Asked, Fault};
use crate::peer::Peer;
use test_servers::Redis;
use crate::work::{Database, Failed, SMALL};

/// Results that are held in memory, and read one after the other.
const HELD: i64 = 1_000;

/// How long hits in memory are counted for.
const SPELL: Duration = Duration::from_millis(25);

/// Reads of what is in Redis, and in nobody's memory.
#[derive(Clone, Copy)]
pub struct Shared {
    pub name: &'static str,
    pub region: &'static str,
    pub first: i64,
    pub tasks: i64,
    /// Reads by each task, each of a key of its own.
    pub each: i64,
}

impl Shared {
    fn reads(&self) -> i64 {
        self.tasks * self.each
    }
}

/// Keys of each case that are read before the clock starts.
const BEFORE: i64 = 16;

/// What a turn of [`Shared`] took, for each read.
#[derive(Clone, Copy)]
pub struct Took {
    pub seconds: f64,
    /// From Redis.
    pub bytes: f64,
}

pub trait Contestant: Send {
    fn name(&self) -> &'static str;
    fn remark(&self) -> &'static str;
    /// Hits in memory, of all threads together: so many in a second.
    fn hits(&mut self, threads: usize) -> f64;
    fn fill(&mut self, case: &Shared);
    fn shared(&mut self, case: &Shared) -> Took;
    /// How often the database was asked for what 64 tasks wanted at once, through one cache or
    /// through two on one Redis.
    fn stampede(&mut self, caches: usize) -> Option<i64>;
    /// Whether a value stays that was invalidated while it was being loaded.
    fn keeps_overtaken(&mut self) -> bool;
    fn under(&mut self, fault: Fault) -> [Asked; faults::READS];
}

pub struct Entry<P> {
    runtime: Arc<Runtime>,
    redis: Arc<Redis>,
    database: Database,
    /// With results in its memory.
    held: Option<P>,
    /// A number that no result has had.
    next: i64,
}

impl<P: Peer> Entry<P> {
    pub fn boxed(runtime: &Arc<Runtime>, redis: &Arc<Redis>) -> Box<dyn Contestant> {
        let database = runtime.block_on(Database::new());
        let (runtime, redis) = (runtime.clone(), redis.clone());
        Box::new(Entry::<P> { runtime, redis, database, held: None, next: 1 << 32 })
    }

    fn open(&self) -> P {
        self.runtime.block_on(P::open(&self.redis.url(), &self.database))
    }

    fn asked(&self) -> i64 {
        self.runtime.block_on(self.database.asked())
    }

    /// Does it again if it failed: on a busy machine Redis may not answer in time.
    fn patiently<T>(&mut self, mut what: impl FnMut(&mut Self) -> Result<T, Failed>) -> T {
        let mut last = Failed("never tried".into());
        for _ in 0..TRIES {
            match what(self) {
                Ok(done) => return done,
                Err(error) => last = error,
            }
        }
        panic!("{}: failed {TRIES} times, at last with: {last}", P::NAME)
    }

    /// A turn during which nothing was loaded: otherwise they were no hits.
    fn without_loads<T>(&mut self, mut turn: impl FnMut(&mut Self) -> Result<T, Failed>) -> T {
        self.patiently(|entry| {
            let before = entry.asked();
            let took = turn(entry)?;
            match entry.asked() - before {
                0 => Ok(took),
                loads => Err(Failed(format!("{loads} of the hits were none"))),
            }
        })
    }

    /// Reads in so many tasks, of which each knows what to read.
    fn in_tasks(
        &self,
        region: &'static str,
        tasks: impl Iterator<Item = (Arc<P>, Vec<i64>)>,
    ) -> Result<Duration, Failed> {
        self.runtime.block_on(async {
            let begin = Instant::now();
            let tasks: Vec<_> = tasks
                .map(|(peer, ids)| tokio::spawn(async move { read_all(&*peer, ids, region).await }))
                .collect();
            for task in tasks {
                task.await.map_err(Failed::of)??;
            }
            Ok(begin.elapsed())
        })
    }
}

/// How often what a busy machine spoilt is done again.
const TRIES: usize = 30;

async fn read_all<P: Peer>(
    peer: &P,
    ids: impl IntoIterator<Item = i64>,
    region: &'static str,
) -> Result<(), Failed> {
    for id in ids {
        black_box(peer.read(id, region).await?);
    }
    Ok(())
}

/// Reads until the time is up; how many.
async fn spell<P: Peer>(peer: &P, until: Instant) -> Result<i64, Failed> {
    let mut reads = 0;
    loop {
        for begin in (0..HELD).step_by(100) {
            read_all(peer, begin..begin + 100, SMALL).await?;
            reads += 100;
            if Instant::now() >= until {
                return Ok(reads);
            }
        }
    }
}

impl<P: Peer> Contestant for Entry<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn remark(&self) -> &'static str {
        P::REMARK
    }

    fn hits(&mut self, threads: usize) -> f64 {
        let peer = self.held.take().unwrap_or_else(|| self.open());
        // What memory has lost meanwhile is there again after this.
        self.without_loads(|entry| entry.runtime.block_on(read_all(&peer, 0..HELD, SMALL)));
        let rate = self.without_loads(|entry| {
            let runtime = &entry.runtime;
            let begin = Instant::now();
            let counted = || runtime.block_on(spell(&peer, begin + SPELL));
            let hits: Result<Vec<i64>, Failed> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..threads).map(|_| scope.spawn(counted)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            Ok(hits?.iter().sum::<i64>() as f64 / begin.elapsed().as_secs_f64())
        });
        self.held = Some(peer);
        rate
    }

    fn fill(&mut self, case: &Shared) {
        let ids = case.first - BEFORE..case.first + case.reads();
        // Some write after they have answered, so this is done until nothing is missing.
        self.without_loads(|entry| {
            let peer = Arc::new(entry.open());
            let share = |task| ids.clone().skip(task).step_by(16).collect();
            entry.in_tasks(case.region, (0..16).map(|task| (peer.clone(), share(task))))
        });
    }

    fn shared(&mut self, case: &Shared) -> Took {
        self.without_loads(|entry| {
            let peer = Arc::new(entry.open());
            // So that connections are open when the clock starts.
            let before = case.first - BEFORE..case.first;
            entry.runtime.block_on(read_all(&*peer, before, case.region))?;
            let sent = sent(&entry.redis);
            let keys = |task| {
                let first = case.first + task * case.each;
                (first..first + case.each).collect()
            };
            let tasks = (0..case.tasks).map(|task| (peer.clone(), keys(task)));
            let elapsed = entry.in_tasks(case.region, tasks)?;
            let bytes = self::sent(&entry.redis) - sent;
            let reads = case.reads() as f64;
            Ok(Took { seconds: elapsed.as_secs_f64() / reads, bytes: bytes / reads })
        })
    }

    fn stampede(&mut self, caches: usize) -> Option<i64> {
        if caches > 1 && !P::TWICE {
            return None;
        }
        Some(self.patiently(|entry| {
            entry.next += 1;
            let id = entry.next;
            let peers: Vec<_> = (0..caches).map(|_| Arc::new(entry.open())).collect();
            let (runtime, database) = (entry.runtime.clone(), entry.database.clone());
            for (number, peer) in peers.iter().enumerate() {
                runtime.block_on(read_all(&**peer, [-1 - number as i64], SMALL))?;
            }
            runtime.block_on(database.set_pause(Duration::from_millis(50)));
            let before = entry.asked();
            let tasks = (0..64).map(|task| (peers[task % caches].clone(), vec![id]));
            let read = entry.in_tasks(SMALL, tasks);
            runtime.block_on(database.set_pause(Duration::ZERO));
            read.map(|_| entry.asked() - before)
        }))
    }

    fn keeps_overtaken(&mut self) -> bool {
        self.patiently(|entry| {
            let redis = Redis::start_tcp().unwrap();
            let (runtime, database) = (&entry.runtime, &entry.database);
            let kept = runtime.block_on(faults::keeps_overtaken::<P>(&redis.url(), database));
            runtime.block_on(database.set_pause(Duration::ZERO));
            kept
        })
    }

    fn under(&mut self, fault: Fault) -> [Asked; faults::READS] {
        self.patiently(|entry| faults::under::<P>(&entry.runtime, &entry.database, fault))
    }
}

/// The bytes that Redis has sent to anybody.
fn sent(redis: &Redis) -> f64 {
    let info = redis.command(&["INFO", "stats"]).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).expect("Redis counts what it sends")
}
