//! Materialized views: how long after a refresh's commit other processes still answer with the old
//! rows, how refreshes affect readers, and what Larder's transaction adds to a bare `REFRESH`.
//!
//! Not measured by criterion, because the measurements are in other processes or take seconds.
//! Arguments name parts to run: `cargo bench --bench refresh -- overhead`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use futures_util::FutureExt;
use larder::refresh::{MaterializedView, Refresher};
use larder::{Origin, QueryCache, QueryCacheBuilder};
use rustix::time::{ClockId, clock_gettime};
use test_servers::{Database, Postgres, Redis, Worker, worker};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

const PATIENCE: Duration = Duration::from_secs(60);
const VIEW: &str = "totals";
const ONE_ROW: &str = "SELECT total FROM totals WHERE id = $1";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [watcher, database, redis] = arguments.as_slice()
        && watcher == "watch"
    {
        return watch(database, redis);
    }
    let wanted = |part: &str| {
        let mut named = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
        named.peek().is_none() || named.any(|name| name == part)
    };
    let runtime = Runtime::new().unwrap();
    let _inside = runtime.enter();
    if wanted("visible") {
        visible(&runtime);
    }
    if wanted("readers") {
        runtime.block_on(readers());
    }
    if wanted("overhead") {
        runtime.block_on(overhead());
    }
}

/// A PostgreSQL with a view of so many rows over a table of as many, and a Redis.
struct Setup {
    database: Database,
    client: Client,
    redis: Redis,
    _postgres: Postgres,
}

impl Setup {
    async fn new(rows: u32) -> Setup {
        // Vacuuming would fall on one turn and not on another.
        let settings = ["track_commit_timestamp=on", "autovacuum=off", "max_wal_size=4GB"];
        let postgres = Postgres::start_with(&settings).unwrap();
        let database = postgres.database().await.unwrap();
        let client = database.connect().await.unwrap();
        let sql = format!(
            "CREATE TABLE sales (id int8 PRIMARY KEY, amount int8 NOT NULL) WITH (fillfactor = 50);
             INSERT INTO sales SELECT n, n FROM generate_series(1, {rows}) AS n;
             CREATE MATERIALIZED VIEW totals AS SELECT id, amount AS total FROM sales;
             CREATE UNIQUE INDEX ON totals (id);"
        );
        client.batch_execute(&sql).await.unwrap();
        client.batch_execute("VACUUM ANALYZE").await.unwrap();
        Setup { database, client, redis: Redis::start_tcp().unwrap(), _postgres: postgres }
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    async fn cache(&self) -> QueryCache {
        builder(&self.redis.url()).build().await.unwrap()
    }

    fn refresher(&self, cache: &QueryCache) -> larder::refresh::RefresherBuilder {
        Refresher::builder(self.database.pool(4)).cache(cache).view(MaterializedView::new(VIEW))
    }
}

fn builder(url: &str) -> QueryCacheBuilder {
    QueryCache::builder().namespace("refresh").redis(url).redis_timeout(Duration::from_secs(5))
}

/// Microseconds of the clock that PostgreSQL stamps commits with.
fn now() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

/// The time that this share of them does not exceed.
fn at(times: &mut [f64], share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * share) as usize]
}

fn print(part: &str, what: &str, mut times: Vec<f64>) {
    let (count, times) = (times.len(), &mut times);
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| at(times, share));
    println!("refresh/{part}/{what}: p50 {p50:.3} ms, p99 {p99:.3} ms, max {max:.3} ms of {count}");
}

/// Another process: holds the old answer in memory, and tells when it no longer does, and when it has
/// had a new one.
fn watch(url: &str, redis: &str) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let pool = Pool::builder(Manager::from_config(url.parse().unwrap(), NoTls, recycling));
    let pool = pool.max_size(2).build().unwrap();
    let cache = runtime.block_on(builder(redis).build()).unwrap();
    let query = cache.query(ONE_ROW).reads(&MaterializedView::new(VIEW));
    let ask = || {
        let answer = runtime.block_on(query.bind(1_i64).fetch(&pool).answer().into_future());
        answer.unwrap().value().row(0).get::<_, i64>(0)
    };
    let in_memory = || {
        let answer = query.bind(1_i64).fetch(&pool).answer().now_or_never();
        answer.is_some_and(|answer| answer.unwrap().origin() == Origin::L1)
    };
    worker::say("ready");
    for _ in worker::parent_lines().expect("this is a worker") {
        let mut old = ask();
        while !in_memory() {
            old = ask();
        }
        worker::say("in memory");
        while in_memory() {
            std::thread::sleep(Duration::from_micros(20));
        }
        let noticed = now();
        while ask() == old {}
        worker::say(&format!("{noticed} {}", now()));
    }
}

/// What makes the refreshes, and how others learn of them.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Refresher,
    Polling,
    Trigger,
}

fn visible(runtime: &Runtime) {
    let setup = runtime.block_on(Setup::new(1000));
    for (processes, by, name, rounds) in [
        (1, By::Refresher, "refresh_now, 1 process", 300),
        (8, By::Refresher, "refresh_now, 8 processes", 300),
        (1, By::Trigger, "foreign, by the event trigger", 300),
        (1, By::Polling, "foreign, by polling each second", 60),
    ] {
        let (noticed, fresh) = rounds_of(runtime, &setup, processes, by, rounds);
        print("visible", &format!("{name}, left memory"), noticed);
        print("visible", &format!("{name}, fresh answer"), fresh);
    }
}

/// How long after each commit the old answer left memory, and a new one was there.
fn rounds_of(
    runtime: &Runtime,
    setup: &Setup,
    processes: usize,
    by: By,
    rounds: u32,
) -> (Vec<f64>, Vec<f64>) {
    let cache = runtime.block_on(setup.cache());
    let mut refresher = setup.refresher(&cache);
    if by == By::Trigger {
        // What is heard by the trigger is not to be found by a poll.
        refresher = refresher.listen(setup.database.config(), NoTls).poll(PATIENCE * 10);
    }
    let refresher = runtime.block_on(refresher.start()).unwrap();
    if by == By::Trigger {
        runtime.block_on(refresher.install_event_trigger()).unwrap();
    }
    let program = std::env::current_exe().unwrap();
    let arguments = ["watch", &setup.database.url(), &setup.redis.url()];
    let mut watchers: Vec<Worker> =
        (0..processes).map(|_| Worker::run(Path::new(&program), &arguments).unwrap()).collect();
    let expect = |watcher: &mut Worker, what: &str| {
        assert_eq!(watcher.next_line(PATIENCE).unwrap(), what);
    };
    watchers.iter_mut().for_each(|watcher| expect(watcher, "ready"));
    let (mut noticed, mut fresh) = (vec![], vec![]);
    for _ in 0..rounds {
        runtime.block_on(setup.run("UPDATE sales SET amount = amount + 1 WHERE id <= 10"));
        watchers.iter_mut().for_each(|watcher| watcher.send("again").unwrap());
        watchers.iter_mut().for_each(|watcher| expect(watcher, "in memory"));
        let committed = runtime.block_on(async {
            match by {
                By::Refresher => {
                    let report = refresher.refresh_now(VIEW).await.unwrap();
                    assert!(report.changed() && report.warnings().is_empty());
                }
                By::Trigger | By::Polling => {
                    if by == By::Polling {
                        // At any moment between two polls.
                        sleep(Duration::from_secs(1).mul_f64(fastrand::f64())).await;
                    }
                    setup.run("REFRESH MATERIALIZED VIEW CONCURRENTLY totals").await;
                }
            }
            // Of the transaction that last refreshed the view.
            let sql = "SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::int8
                       FROM pg_class WHERE oid = 'totals'::regclass";
            setup.client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
        });
        for watcher in &mut watchers {
            let line = watcher.next_line(PATIENCE).unwrap();
            let (left, new) = line.split_once(' ').unwrap();
            let since = |time: &str| (time.parse::<i64>().unwrap() - committed) as f64 / 1e3;
            noticed.push(since(left));
            fresh.push(since(new));
        }
    }
    if by == By::Trigger {
        runtime.block_on(refresher.remove_event_trigger()).unwrap();
    }
    runtime.block_on(refresher.shutdown());
    (noticed, fresh)
}

const ROWS: u32 = 20_000;
const PHASES: usize = 5;
const PHASE: Duration = Duration::from_secs(4);
const THINK: Duration = Duration::from_millis(1);
const KINDS: [&str; 3] = ["cache, one key", "cache, ever new keys", "postgresql, no cache"];

/// Two readers of each kind, each of which asks a millisecond after it was answered, while 1 % of the
/// rows is written again and again, with refreshes one after the other and without any, by turns.
async fn readers() {
    let setup = Setup::new(ROWS).await;
    let cache = setup.cache().await;
    let refresher = setup.refresher(&cache).start().await.unwrap();
    let mut times = [const { [vec![], vec![], vec![]] }; 2];
    let (mut failures, mut refreshes, mut left) = (0, 0, 0);
    for phase in 0..PHASES * 2 {
        let refreshing = phase % 2 == 1;
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for task in 0..KINDS.len() * 2 {
            let (kind, first) = (task % KINDS.len(), (phase * 10 + task) as i64 * 1_000_000);
            let (pool, stop) = (setup.database.pool(1), stop.clone());
            let query = cache.query(ONE_ROW).reads(&MaterializedView::new(VIEW));
            tasks.spawn(read(kind, query, pool, stop, first));
        }
        let begin = Instant::now();
        while begin.elapsed() < PHASE {
            setup.run("UPDATE sales SET amount = amount + 1 WHERE id % 100 = 1").await;
            if refreshing {
                assert!(refresher.refresh_now(VIEW).await.unwrap().changed());
                refreshes += 1;
            } else {
                sleep(Duration::from_millis(200)).await
            }
        }
        stop.store(true, Ordering::Relaxed);
        while let Some(done) = tasks.join_next().await {
            let done = done.unwrap();
            failures += done.failures;
            left += if refreshing && done.kind == 0 { done.not_from_memory } else { 0 };
            times[usize::from(refreshing)][done.kind].extend(done.times);
        }
        setup.run("VACUUM totals").await;
        setup.run("VACUUM sales").await;
    }
    println!(
        "refresh/readers: {refreshes} refreshes, {failures} failed reads; answers of the one key \
         that were not from memory: {left}"
    );
    for (which, of_kind) in ["without refreshes", "during refreshes"].iter().zip(times) {
        for (kind, times) in KINDS.iter().zip(of_kind) {
            print("readers", &format!("{kind}, {which}"), times);
        }
    }
    refresher.shutdown().await;
}

#[derive(Default)]
struct Done {
    kind: usize,
    times: Vec<f64>,
    failures: u64,
    not_from_memory: u64,
}

async fn read(
    kind: usize,
    query: larder::Query,
    pool: Pool,
    stop: Arc<AtomicBool>,
    mut key: i64,
) -> Done {
    let raw = match kind {
        2 => {
            let client = pool.get().await.unwrap();
            let statement = client.prepare(ONE_ROW).await.unwrap();
            Some((client, statement))
        }
        _ => None,
    };
    let mut done = Done { kind, ..Done::default() };
    while !stop.load(Ordering::Relaxed) {
        key += 1;
        let begin = Instant::now();
        let read = match &raw {
            Some((client, statement)) => {
                client.query_opt(statement, &[&1_i64]).await.map(|_| Origin::Loaded).ok()
            }
            None => {
                let id = if kind == 0 { 1 } else { key };
                let answer = query.bind(id).fetch(&pool).answer().await;
                answer.map(|answer| answer.origin()).ok()
            }
        };
        done.times.push(begin.elapsed().as_secs_f64() * 1e3);
        done.failures += u64::from(read.is_none());
        done.not_from_memory += u64::from(read != Some(Origin::L1));
        sleep(THINK).await;
    }
    done
}

const TENTH: &str = "UPDATE sales SET amount = amount + 1 WHERE id % 10 = 1";

/// `refresh_now`, with its look at what changed, its note and its invalidation, over the bare command
/// on a connection of the same kind.
async fn overhead() {
    for (rows, what, change, turns) in [
        (200_000, "nothing changed", None, 15),
        (200_000, "10 % changed", Some(TENTH), 15),
        (1000, "nothing changed", None, 201),
        (1000, "10 % changed", Some(TENTH), 201),
    ] {
        let setup = Setup::new(rows).await;
        let cache = setup.cache().await;
        let refresher = setup.refresher(&cache).start().await.unwrap();
        let bare = setup.database.connect().await.unwrap();
        let (mut theirs, mut ours, mut ratios) = (vec![], vec![], vec![]);
        for turn in 0..=turns {
            let mut took = [0.0; 2];
            // By turns, and by turns first.
            for which in [turn % 2, 1 - turn % 2] {
                if let Some(change) = change {
                    setup.run(change).await;
                }
                for sql in ["VACUUM sales", "VACUUM totals", "CHECKPOINT"] {
                    setup.run(sql).await;
                }
                let begin = Instant::now();
                if which == 0 {
                    let sql = "REFRESH MATERIALIZED VIEW CONCURRENTLY totals";
                    bare.batch_execute(sql).await.unwrap();
                } else {
                    let report = refresher.refresh_now(VIEW).await.unwrap();
                    assert_eq!(report.changed(), change.is_some());
                }
                took[which] = begin.elapsed().as_secs_f64() * 1e3;
            }
            // The first turn warms up both.
            if turn > 0 {
                theirs.push(took[0]);
                ours.push(took[1]);
                ratios.push(took[1] / took[0]);
            }
        }
        let [theirs, ours, ratio] = [theirs, ours, ratios].map(|mut times| at(&mut times, 0.5));
        println!(
            "refresh/overhead/{rows} rows, {what}: bare {theirs:.1} ms, larder {ours:.1} ms, ratio \
             {ratio:.3}; medians of {turns} turns"
        );
        refresher.shutdown().await;
    }
}
