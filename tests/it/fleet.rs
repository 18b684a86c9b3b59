//! How often does a fleet of processes load one result?

use std::sync::mpsc;
use std::time::{Duration, Instant};

use larder::testing::ManualClock;
use larder::{Origin, QueryCache};
use tokio::task::JoinHandle;

use crate::servers::{Proxy, Redis, Worker, worker};
use crate::support::{database, namespace, over_redis, until_async, written};

const PATIENCE: Duration = Duration::from_secs(60);
const PROCESSES: usize = 8;
const TASKS: usize = 200;
/// Counts its runs and takes 200 ms.
const SLOW: &str = "SELECT nextval('runs') AS run, pg_sleep(0.2)::text";

#[test]
fn worker_entry() {
    let Some(mut lines) = worker::parent_lines() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let [redis, postgres] = ["REDIS", "POSTGRES"].map(|it| std::env::var(it).unwrap());
        let cache = QueryCache::builder().namespace("fleet").redis(redis);
        let cache = cache.redis_timeout(Duration::from_secs(5)).build().await.unwrap();
        let manager =
            deadpool_postgres::Manager::new(postgres.parse().unwrap(), tokio_postgres::NoTls);
        let pool = deadpool_postgres::Pool::builder(manager).max_size(2).build().unwrap();
        drop(pool.get().await.unwrap());
        worker::say("ready");
        for line in lines.by_ref() {
            let query = cache.query(SLOW).scope(line);
            let tasks = (0..TASKS).map(|_| {
                let (query, pool) = (query.clone(), pool.clone());
                tokio::spawn(async move {
                    let begin = Instant::now();
                    let rows = query.fetch(&pool).await.unwrap();
                    (rows.row(0).get::<_, i64>("run"), begin.elapsed())
                })
            });
            let tasks: Vec<_> = tasks.collect();
            let (mut runs, mut longest) = (vec![], Duration::ZERO);
            for task in tasks {
                let (run, took) = task.await.unwrap();
                runs.push(run);
                longest = longest.max(took);
            }
            runs.dedup();
            worker::say(&format!("{runs:?} {}", longest.as_millis()));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_of_two_hundred_tasks_load_a_cold_key_once() {
    let (redis, database) = (Redis::start().unwrap(), database().await);
    let admin = database.connect().await.unwrap();
    admin.batch_execute("CREATE SEQUENCE runs").await.unwrap();
    let (redis, postgres) = (redis.url(), database.url());
    let env = [("REDIS", &*redis), ("POSTGRES", &*postgres)];
    let mut workers: Vec<_> =
        (0..PROCESSES).map(|_| Worker::start("fleet::worker_entry", &env).unwrap()).collect();
    for worker in &mut workers {
        assert_eq!(worker.next_line(PATIENCE).unwrap(), "ready");
    }
    let mut longest = vec![];
    for round in 1..=5 {
        for worker in &mut workers {
            worker.send(&format!("round:{round}")).unwrap();
        }
        for worker in &mut workers {
            let said = worker.next_line(PATIENCE).unwrap();
            let (runs, took) = said.rsplit_once(' ').unwrap();
            // All of them have the result of one run of the query, the round's.
            assert_eq!(runs, format!("[{round}]"));
            longest.push(took.parse::<u64>().unwrap());
        }
    }
    let runs: i64 = admin.query_one("SELECT last_value FROM runs", &[]).await.unwrap().get(0);
    assert_eq!(runs, 5);
    println!("longest wait for a query of 200 ms: {} ms", longest.iter().max().unwrap());
}

/// Begins a load that never ends.
#[test]
fn stuck_worker_entry() {
    let Some(_lines) = worker::parent_lines() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let url = std::env::var("REDIS").unwrap();
        let cache = QueryCache::builder().namespace("stuck").redis(url).build().await.unwrap();
        let query = cache.query("q");
        let load = || async {
            worker::say("loading");
            std::future::pending::<Result<i64, std::io::Error>>().await
        };
        // Until it is killed.
        let _ = query.load(load).await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_loader_costs_one_more_load_after_its_lease() {
    let redis = Redis::start().unwrap();
    let url = redis.url();
    let mut holder = Worker::start("fleet::stuck_worker_entry", &[("REDIS", &url)]).unwrap();
    assert_eq!(holder.next_line(PATIENCE).unwrap(), "loading");
    let cache = QueryCache::builder().namespace("stuck").redis(&url).build().await.unwrap();
    let waiting = {
        let query = cache.query("q");
        tokio::spawn(async move {
            let load = || async { Ok::<_, std::io::Error>(7_i64) };
            query.load(load).answer().await.unwrap()
        })
    };
    until_async("it waits", async || cache.stats().lease_waits > 0).await;
    // Renewed as long as its holder lives.
    let lease = redis.command(&["KEYS", "*:lease"]).unwrap();
    let remaining = || redis.command(&["PTTL", &lease]).unwrap().parse::<i64>().unwrap();
    let (mut last, mut renewals) = (remaining(), 0);
    until_async("the lease was renewed several times", async || {
        let now = remaining();
        renewals += u32::from(now > last);
        last = now;
        renewals == 4
    })
    .await;
    assert!(!waiting.is_finished());
    holder.kill().unwrap();
    let killed = Instant::now();
    let answer = waiting.await.unwrap();
    assert_eq!((**answer.value(), answer.origin()), (7, Origin::Loaded));
    assert_eq!(cache.stats().loads, 1);
    println!("loaded {:?} after the loader was killed", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_whose_handle_was_dropped_gives_its_lease_back_at_once() {
    let redis = Redis::start().unwrap();
    let url = redis.url();
    let build =
        async || QueryCache::builder().namespace("dropped").redis(&url).build().await.unwrap();
    let (here, there) = (build().await, build().await);
    let loading = {
        let query = here.query("q");
        drop(here);
        tokio::spawn(async move {
            query.load(std::future::pending::<Result<i64, std::io::Error>>).await
        })
    };
    until_async("the lease is taken", async || {
        !redis.command(&["KEYS", "*:lease"]).unwrap().is_empty()
    })
    .await;
    loading.abort();
    let begin = Instant::now();
    let load = || async { Ok::<_, std::io::Error>(7_i64) };
    assert_eq!(*there.query("q").load(load).await.unwrap(), 7);
    println!("loaded {:?} after the last handle was dropped", begin.elapsed());
    // And nothing of it is connected any more.
    drop(there);
    until_async("all connections are closed", async || {
        let clients = redis.command(&["CLIENT", "LIST"]).unwrap();
        clients.lines().count() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_closes_connections_and_gives_leases_back_and_reads_go_on() {
    let redis = Redis::start().unwrap();
    let cache = QueryCache::builder().namespace("end").redis(redis.url()).build().await.unwrap();
    let (go_on, gone_on) = tokio::sync::oneshot::channel::<i64>();
    let waiting = {
        let query = cache.query("slow");
        tokio::spawn(async move { query.load(|| gone_on).await })
    };
    until_async("the lease is taken", async || {
        !redis.command(&["KEYS", "*:lease"]).unwrap().is_empty()
    })
    .await;
    cache.shutdown().await;
    assert_eq!(redis.command(&["KEYS", "*:lease"]).unwrap(), "");
    until_async("all connections are closed", async || {
        redis.command(&["CLIENT", "LIST"]).unwrap().lines().count() == 1
    })
    .await;
    go_on.send(7).unwrap();
    assert_eq!(*waiting.await.unwrap().unwrap(), 7);
    let load = || async { Ok::<_, std::io::Error>(8_i64) };
    assert_eq!(*cache.query("later").load(load).await.unwrap(), 8);
    cache.shutdown().await;
}

/// A cache over a proxy that holds the answer to a request for a lease, which Redis has granted. The
/// answer arrives when what is returned is dropped.
async fn asking(proxy: &Proxy) -> (QueryCache, JoinHandle<()>, mpsc::Sender<()>) {
    let builder = QueryCache::builder().namespace("end").redis(proxy.url());
    let cache = builder.redis_timeout(Duration::from_secs(10)).build().await.unwrap();
    let (hold, held) = mpsc::channel();
    let (grant, mut granted) = tokio::sync::mpsc::channel(1);
    proxy.rewrite(move |chunk| {
        if chunk.windows(7).any(|word| word == b"granted") && grant.try_send(()).is_ok() {
            let _ = held.recv();
        }
        chunk.to_vec()
    });
    let query = cache.query("slow");
    let load = std::future::pending::<Result<i64, std::io::Error>>;
    let waiting = tokio::spawn(async move { drop(query.load(load).await) });
    tokio::time::timeout(PATIENCE, granted.recv()).await.expect("it is granted");
    (cache, waiting, hold)
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_gives_back_a_lease_whose_grant_is_still_under_way() {
    let redis = Redis::start_tcp().unwrap();
    let proxy = Proxy::to_redis(&redis).unwrap();
    let (cache, waiting, hold) = asking(&proxy).await;
    let mut shutdown = std::pin::pin!(cache.shutdown());
    assert!(futures_util::poll!(&mut shutdown).is_pending());
    drop(hold);
    shutdown.await;
    assert_eq!(redis.command(&["KEYS", "*:lease"]).unwrap(), "");
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_abandoned_before_its_lease_was_granted_gives_it_back() {
    let redis = Redis::start_tcp().unwrap();
    let proxy = Proxy::to_redis(&redis).unwrap();
    let (cache, waiting, hold) = asking(&proxy).await;
    assert_ne!(redis.command(&["KEYS", "*:lease"]).unwrap(), "");
    // A lease ends by itself. This one must not have to.
    for lease in redis.command(&["KEYS", "*:lease"]).unwrap().lines() {
        redis.command(&["PERSIST", lease]).unwrap();
    }
    drop(cache);
    waiting.abort();
    until_async("the lease is given back", async || {
        redis.command(&["KEYS", "*:lease"]).unwrap().is_empty()
    })
    .await;
    drop(hold);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_wait_for_a_process_that_shuts_down_one_loads() {
    const WAITING: usize = 5;
    let namespace = namespace();
    let build = async || over_redis(&namespace).build().await.unwrap();
    let ending = build().await;
    let query = ending.query("q");
    let first = tokio::spawn(async move {
        query.load(std::future::pending::<Result<i64, std::io::Error>>).await
    });
    until_async("it loads", async || ending.stats().loads == 1).await;
    let mut others = vec![];
    for number in 0..WAITING as i64 {
        let cache = build().await;
        let query = cache.query("q");
        let load = move || async move { Ok::<_, std::io::Error>(number) };
        let answer = tokio::spawn(async move { *query.load(load).await.unwrap() });
        until_async("it waits", async || cache.stats().lease_waits > 0).await;
        others.push((cache, answer));
    }
    ending.shutdown().await;
    let (mut answers, mut loads) = (vec![], 0);
    for (cache, answer) in others {
        answers.push(answer.await.unwrap());
        loads += cache.stats().loads;
    }
    assert_eq!(loads, 1);
    answers.dedup();
    assert_eq!(answers.len(), 1);
    first.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_costs_postgresql_one_load_per_key_and_blind_ttl() {
    let mut redis = Redis::start().unwrap();
    let (clock, disconnected_ttl) = (ManualClock::new(), Duration::from_secs(2));
    let builder = QueryCache::builder().namespace("outage").redis(redis.url());
    let builder = builder.disconnected_ttl(disconnected_ttl).clock(clock.clone());
    let cache = builder.build().await.unwrap();
    let read_all = async || {
        for _ in 0..20 {
            for key in 0..50 {
                let query = cache.query("q");
                let read =
                    query.params((key,)).load(move || async move { Ok::<_, std::io::Error>(key) });
                assert_eq!(*read.await.unwrap(), key);
            }
        }
        cache.stats().loads
    };
    assert_eq!(read_all().await, 50);
    redis.kill().unwrap();
    assert_eq!(read_all().await, 50, "confirmed for a second yet");
    // Not confirmed any more; what was loaded is young enough for another second.
    clock.advance(Duration::from_secs(1));
    assert_eq!(read_all().await, 50);
    clock.advance(Duration::from_secs(1));
    assert_eq!(read_all().await, 100);
    clock.advance(disconnected_ttl - Duration::from_nanos(1));
    assert_eq!(read_all().await, 100);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(read_all().await, 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_in_one_process_is_tried_once_in_each_other() {
    let namespace = namespace();
    let failing = over_redis(&namespace).build().await.unwrap();
    let waiting = over_redis(&namespace).build().await.unwrap();
    let (fail, failed) = tokio::sync::oneshot::channel::<i64>();
    let first = {
        let query = failing.query("q");
        tokio::spawn(async move { query.load(|| failed).await })
    };
    until_async("it loads", async || failing.stats().loads == 1).await;
    let second = {
        let query = waiting.query("q");
        let load = || async { Ok::<_, std::io::Error>(7_i64) };
        tokio::spawn(async move { query.load(load).answer().await.unwrap() })
    };
    until_async("the other waits", async || waiting.stats().lease_waits > 0).await;
    drop(fail);
    assert!(first.await.unwrap().is_err());
    assert_eq!(second.await.unwrap().origin(), Origin::Loaded);
    written(&waiting, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_that_need_each_others_turns_across_processes_end() {
    // Each process has one turn. Each loads something for which it needs what the other loads, and
    // what that needs a turn for.
    let namespace = namespace();
    let build = async || over_redis(&namespace).concurrent_loads(1).build().await.unwrap();
    let (here, there) = (build().await, build().await);
    let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(2));
    let outer = |own: &QueryCache, name: &str, needs: &str, offers: &str| {
        let (cache, barrier) = (own.clone(), barrier.clone());
        let (needs, offers) = (needs.to_owned(), offers.to_owned());
        let query = own.query(name.to_owned());
        tokio::spawn(async move {
            let load = || async move {
                // Both hold their turn now. What is offered to the other asks for the lease, and
                // then for a turn that it cannot have.
                let offered = cache.query(offers);
                let offer = tokio::spawn(async move {
                    offered.load(|| async { Ok::<_, std::io::Error>(1_i32) }).await
                });
                barrier.wait().await;
                let needed = cache.query(needs);
                let value = needed.load(|| async { Ok::<_, std::io::Error>(1_i32) }).await?;
                drop(offer);
                Ok::<_, larder::Error>(*value)
            };
            *query.load(load).await.unwrap()
        })
    };
    let one = outer(&here, "outer here", "inner there", "inner here");
    let other = outer(&there, "outer there", "inner here", "inner there");
    let both = tokio::time::timeout(PATIENCE, async { (one.await.unwrap(), other.await.unwrap()) });
    assert_eq!(both.await.expect("they wait for each other"), (1, 1));
}
