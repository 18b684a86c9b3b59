//! Does a fleet of processes refresh a view once at each tick, even if one of them fails?

use std::time::{Duration, Instant, SystemTime};

use larder::QueryCache;
use larder::refresh::{Activity, MaterializedView, RefreshHook, Refresher, RefresherBuilder};
use larder::testing::ManualClock;
use tokio_postgres::Client;

use super::basics::shop;
use crate::servers::{Database, Postgres, Proxy, Redis, Way, Worker, worker};
use crate::support::{until, until_async};

const PATIENCE: Duration = Duration::from_secs(60);
const PROCESSES: usize = 10;
const TICKS: i64 = 20;
const EVERY: Duration = Duration::from_millis(500);
/// An interval of the clocks that tests advance.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Counts refreshes, whoever makes them, as far as they are committed.
const COUNTED: &str = "
    CREATE TABLE refreshes (pid int NOT NULL DEFAULT pg_backend_pid());
    CREATE FUNCTION count_refresh() RETURNS event_trigger LANGUAGE plpgsql AS
      'BEGIN INSERT INTO refreshes DEFAULT VALUES; END';
    CREATE EVENT TRIGGER count_refresh ON ddl_command_end
      WHEN TAG IN ('REFRESH MATERIALIZED VIEW') EXECUTE FUNCTION count_refresh();";

async fn counted_shop() -> (Database, Client) {
    let (database, client) = shop().await;
    client.batch_execute(COUNTED).await.unwrap();
    (database, client)
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn refreshes(client: &Client) -> i64 {
    number(client, "SELECT count(*) FROM refreshes").await
}

async fn advisory_locks(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    number(client, sql).await
}

async fn cache(redis: &str, redis_timeout: Duration) -> QueryCache {
    let builder = QueryCache::builder().namespace("fleet").redis(redis);
    builder.redis_timeout(redis_timeout).build().await.unwrap()
}

/// The view of all processes.
fn view(every: Duration) -> MaterializedView {
    MaterializedView::new("by_region").every(every).lock_timeout(PATIENCE)
}

/// Refreshes as its parent says: by the system's clock, or by one that the parent advances. It says
/// of each refresh when it begins, and of each that was committed when it began and how long it took,
/// in microseconds.
#[test]
fn worker_entry() {
    let Some(lines) = worker::parent_lines() else { return };
    let var = |name| std::env::var(name).ok();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = var("POSTGRES").unwrap().parse().unwrap();
        let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
        let pool = deadpool_postgres::Pool::builder(manager).max_size(3).build().unwrap();
        let (manual, clock) = (var("MANUAL").is_some(), ManualClock::new());
        let every = if manual { HOUR } else { EVERY };
        let mut builder = Refresher::builder(pool.clone()).view(view(every));
        if let Some(redis) = var("REDIS") {
            let timeout = var("TIMEOUT").map_or(10, |seconds| seconds.parse().unwrap());
            builder = builder.cache(&cache(&redis, Duration::from_secs(timeout)).await);
        }
        if manual {
            builder = builder.clock(clock.clone());
        }
        let builder = builder
            .before_refresh(RefreshHook::new("before", async |_| {
                worker::say("refreshing");
                Ok(())
            }))
            .after_refresh(RefreshHook::new("after", async |event| {
                let since = event.started().duration_since(SystemTime::UNIX_EPOCH).unwrap();
                let (at, took) = (since.as_micros(), event.duration().as_micros());
                worker::say(&format!("refreshed {at} {took}"));
                Ok(())
            }));
        drop(pool.get().await.unwrap());
        worker::say("ready");
        let mut refresher = None;
        for line in lines {
            match &*line {
                "start" => refresher = Some(builder.clone().start().await.unwrap()),
                "advance" => clock.advance(HOUR),
                "work" => {
                    let refresher: &Refresher = refresher.as_ref().unwrap();
                    clock.advance(HOUR);
                    let is_done = || refresher.status()[0].next() > Some(clock.wall());
                    until("the tick is done", is_done).await;
                }
                "stop" => refresher.as_ref().unwrap().shutdown().await,
                other => panic!("{other}"),
            }
            let refreshes = refresher.as_ref().map_or(0, |it| it.status()[0].refreshes());
            worker::say(&format!("{line} {refreshes}"));
        }
    });
}

fn start(database: &Database, env: &[(&str, &str)]) -> Worker {
    let postgres = database.url();
    let env: Vec<_> = env.iter().copied().chain([("POSTGRES", &*postgres)]).collect();
    let mut worker = Worker::start("refresh::fleet::worker_entry", &env).unwrap();
    assert_eq!(worker.next_line(PATIENCE).unwrap(), "ready");
    worker
}

/// What it says about itself next that begins like this, and the refreshes of which it tells before.
fn hear(worker: &mut Worker, begin: &str) -> (String, Vec<Refresh>) {
    let mut made = vec![];
    loop {
        let line = worker.next_line(PATIENCE).unwrap();
        if let Some(told) = line.strip_prefix(begin) {
            return (told.trim().to_owned(), made);
        }
        made.extend(line.strip_prefix("refreshed ").map(|told| {
            let (began, took) = told.split_once(' ').unwrap();
            Refresh { began: began.parse().unwrap(), took: took.parse().unwrap() }
        }));
    }
}

/// In microseconds.
#[derive(Debug, Clone, Copy)]
struct Refresh {
    began: u64,
    took: u64,
}

fn told(workers: &mut [Worker], what: &str) -> (i64, Vec<Refresh>) {
    workers.iter_mut().for_each(|worker| worker.send(what).unwrap());
    let (mut refreshes, mut all) = (0, vec![]);
    for worker in workers {
        let (said, made) = hear(worker, what);
        refreshes += said.parse::<i64>().unwrap();
        all.extend(made);
    }
    (refreshes, all)
}

async fn ten_processes_refresh_once_per_tick(env: &[(&str, &str)]) {
    // One fleet at a time: they are many for a machine of two cores.
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = TURN.lock().await;
    let (database, client) = counted_shop().await;
    let mut workers: Vec<_> = (0..PROCESSES).map(|_| start(&database, env)).collect();
    let begin = Instant::now();
    told(&mut workers, "start");
    let before = refreshes(&client).await;
    until_async("there were enough ticks", async || refreshes(&client).await >= before + TICKS)
        .await;
    let (said, mut made) = told(&mut workers, "stop");
    let (took, counted) = (begin.elapsed(), refreshes(&client).await);
    assert_eq!((said, made.len() as i64), (counted, counted));
    made.sort_by_key(|refresh| refresh.began);
    let every = EVERY.as_micros() as u64;
    let ticks: Vec<u64> = made.iter().map(|refresh| refresh.began / every).collect();
    let (passed, late) = (
        (ticks[ticks.len() - 1] - ticks[0] + 1) as i64,
        made.iter().map(|refresh| refresh.began % every).max().unwrap(),
    );
    let longest = made.iter().map(|refresh| refresh.took).max().unwrap();
    println!(
        "{counted} refreshes in {passed} ticks, {took:?}, up to {late} µs after the tick, the longest \
         of {longest} µs"
    );
    // None twice. That none is missing is shown where the test is master of the clock: a machine that
    // is late by a tick leaves one out.
    assert!(counted <= passed, "{ticks:?}");
    assert_eq!(advisory_locks(&client).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_processes_that_share_a_cache_refresh_once_per_tick() {
    let redis = Redis::start().unwrap();
    ten_processes_refresh_once_per_tick(&[("REDIS", &redis.url())]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_processes_that_share_nothing_but_the_database_refresh_once_per_tick() {
    ten_processes_refresh_once_per_tick(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_processes_that_come_at_the_same_moment_one_refreshes() {
    let redis = Redis::start().unwrap();
    for env in [&[("MANUAL", ""), ("REDIS", &*redis.url())][..], &[("MANUAL", "")]] {
        let (database, client) = counted_shop().await;
        let mut workers: Vec<_> = (0..PROCESSES).map(|_| start(&database, env)).collect();
        told(&mut workers, "start");
        for tick in 1..=TICKS {
            assert_eq!(told(&mut workers, "work").0, tick);
            assert_eq!(refreshes(&client).await, tick);
        }
    }
}

/// The survivor of a fleet of two: in this process, with a clock to be advanced.
async fn survivor(builder: RefresherBuilder) -> (Refresher, ManualClock) {
    let clock = ManualClock::new();
    let builder = builder.view(view(HOUR)).poll(Duration::from_millis(20));
    (builder.clock(clock.clone()).start().await.unwrap(), clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_while_it_refreshes_is_replaced_in_the_same_tick() {
    let redis = Redis::start().unwrap();
    let ((database, client), url) = (counted_shop().await, redis.url());
    let mut holder = database.connect().await.unwrap();
    let holds = holder.transaction().await.unwrap();
    holds.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();

    let mut dying = start(&database, &[("MANUAL", ""), ("REDIS", &url)]);
    let cache = cache(&url, Duration::from_secs(10)).await;
    let (refresher, clock) = survivor(Refresher::builder(database.pool(3)).cache(&cache)).await;
    for line in ["start", "advance"] {
        dying.send(line).unwrap();
    }
    hear(&mut dying, "refreshing");
    clock.advance(HOUR);
    let is = |activity| refresher.status()[0].activity() == activity;
    until("the other is watched", || is(Activity::RefreshedElsewhere)).await;
    let waiting = "SELECT coalesce(min(pid), 0)::int8 FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock' \
                   AND query LIKE 'REFRESH%'";
    let (mut its, mut others) = (0, 0);
    until_async("it waits for the table", async || {
        its = number(&client, waiting).await;
        its != 0
    })
    .await;
    dying.kill().unwrap();
    let killed = Instant::now();
    // The table is still held: whoever has the turn waits for it, and is alive.
    until_async("this one has its turn", async || {
        others = number(&client, waiting).await;
        others != 0 && others != its
    })
    .await;
    println!("taken over {:?} after the process was killed", killed.elapsed());
    assert!(is(Activity::Refreshing));
    assert_eq!(advisory_locks(&client).await, 1);
    drop(holds);
    until("it is refreshed", || refresher.status()[0].refreshes() == 1).await;
    assert_eq!(refreshes(&client).await, 1);
    assert!(refresher.status()[0].next() <= Some(SystemTime::UNIX_EPOCH + 2 * HOUR));
    until_async("the lock is free", async || advisory_locks(&client).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_that_passes_while_a_process_starts_is_none_of_its_own() {
    let (database, client) = counted_shop().await;
    let proxy = Proxy::to_socket(Postgres::shared().unwrap().socket()).unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(proxy.port()).user("postgres").dbname(database.name());
    let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(2).build().unwrap();
    let (running, clock) = survivor(Refresher::builder(database.pool(2))).await;
    // Its first look is long under way.
    proxy.delay(Duration::from_millis(300));
    let starting = tokio::spawn({
        let builder = Refresher::builder(pool).view(view(HOUR)).clock(clock.clone());
        async move { builder.start().await.unwrap() }
    });
    let looks = || proxy.links().iter().any(|link| link.said("WITH ORDINALITY"));
    until("it looks", looks).await;
    proxy.stall(Way::ToServer);
    clock.advance(HOUR);
    until("the tick is done", || running.status()[0].refreshes() == 1).await;
    proxy.pass();
    let started = starting.await.unwrap();
    assert_eq!(started.status()[0].next(), Some(SystemTime::UNIX_EPOCH + 2 * HOUR));
    for tick in 2..=4 {
        clock.advance(HOUR);
        let next = Some(SystemTime::UNIX_EPOCH + (tick + 1) * HOUR);
        until("the tick is done", || {
            [&running, &started].iter().all(|it| it.status()[0].next() == next)
        })
        .await;
        assert_eq!(refreshes(&client).await, i64::from(tick));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_ends_shortly_before_the_next_tick_is_not_taken_for_it() {
    let ((database, client), clock) = (counted_shop().await, ManualClock::new());
    let start = async |database: &Database| {
        let builder = Refresher::builder(database.pool(3)).view(view(HOUR));
        builder.clock(clock.clone()).start().await.unwrap()
    };
    let (one, other) = (start(&database).await, start(&database).await);
    let mut holder = database.connect().await.unwrap();
    let holds = holder.transaction().await.unwrap();
    holds.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    clock.advance(HOUR);
    let activity = |refresher: &Refresher| refresher.status()[0].activity();
    until("one refreshes and one watches", || {
        let both = [activity(&one), activity(&other)];
        both.contains(&Activity::Refreshing) && both.contains(&Activity::RefreshedElsewhere)
    })
    .await;
    clock.advance(HOUR - Duration::from_secs(1));
    drop(holds);
    let second = Some(SystemTime::UNIX_EPOCH + 2 * HOUR);
    until("the tick is done for both", || {
        [&one, &other].iter().all(|it| it.status()[0].next() == second)
    })
    .await;
    // Who knows that it was for the first tick, because it has made the refresh, ends.
    let (maker, left) = match one.status()[0].refreshes() {
        1 => (one, other),
        _ => (other, one),
    };
    maker.shutdown().await;
    clock.advance(Duration::from_secs(1));
    until("the second tick is done", || left.status()[0].next() > second).await;
    assert_eq!((left.status()[0].refreshes(), refreshes(&client).await), (1, 2));
}

/// What of a process is to be lost, that commits a refresh and dies of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    Announcement,
    NoteAndAnnouncement,
}

async fn dies_after_its_commit(lost: Lost) {
    let redis = Redis::start().unwrap();
    let (proxy, (database, client)) = (Proxy::to_redis(&redis).unwrap(), counted_shop().await);
    let cache = cache(&redis.url(), Duration::from_secs(10)).await;
    let (refresher, _clock) = survivor(Refresher::builder(database.pool(3)).cache(&cache)).await;
    let query = cache.query("SELECT sum(orders)::int8 FROM by_region").tag("by_region");
    let pool = database.pool(1);
    let ask = async || query.fetch(&pool).await.unwrap().row(0).get::<_, i64>(0);
    assert_eq!(ask().await, 10);
    let noticed = refresher.status()[0].noticed();
    client.batch_execute("INSERT INTO orders VALUES (11, 'eu', 1)").await.unwrap();

    let mut holder = database.connect().await.unwrap();
    let holds = holder.transaction().await.unwrap();
    holds.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let url = proxy.url();
    let mut dying = start(&database, &[("MANUAL", ""), ("REDIS", &url), ("TIMEOUT", "1")]);
    for line in ["start", "advance"] {
        dying.send(line).unwrap();
    }
    hear(&mut dying, "refreshing");
    // What it says is heard, and it waits in vain for an answer; or it is not even heard.
    proxy.stall(if lost == Lost::Announcement { Way::ToClient } else { Way::ToServer });
    let notes = || redis.command(&["KEYS", "*:note:view:*"]).unwrap();
    assert_eq!(notes(), "");
    drop(holds);
    if lost == Lost::Announcement {
        until("its note is in redis", || !notes().is_empty()).await;
        proxy.stall(Way::ToServer);
    }
    let committed = async || number(&client, "SELECT sum(orders)::int8 FROM by_region").await == 11;
    until_async("it is committed", committed).await;
    dying.kill().unwrap();
    let killed = Instant::now();
    until_async("the answer is new", async || ask().await == 11).await;
    println!("{lost:?} lost: made up for {:?} after the process was killed", killed.elapsed());
    assert_eq!(refreshes(&client).await, 1);
    let status = &refresher.status()[0];
    assert_eq!((status.noticed(), status.refreshes()), (noticed + 1, 0));
    assert_eq!(cache.stats().invalidations, noticed + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_had_no_time_to_announce_another_notices() {
    dies_after_its_commit(Lost::Announcement).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_that_was_cut_off_has_committed_another_notices() {
    dies_after_its_commit(Lost::NoteAndAnnouncement).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_of_another_version_are_none() {
    let redis = Redis::start().unwrap();
    let ((database, client), url) = (counted_shop().await, redis.url());
    let cache = cache(&url, Duration::from_secs(10)).await;
    let query = cache.query("SELECT sum(orders)::int8 FROM by_region").tag("by_region");
    let pool = database.pool(1);
    let ask = async || query.fetch(&pool).await.unwrap().row(0).get::<_, i64>(0);
    let (refresher, clock) = survivor(Refresher::builder(database.pool(3)).cache(&cache)).await;
    let mut orders = 10;
    let mut insert = async || {
        orders += 1;
        let sql = format!("INSERT INTO orders VALUES ({orders}, 'eu', 1)");
        client.batch_execute(&sql).await.unwrap();
        orders
    };
    insert().await;
    assert!(refresher.refresh_now("by_region").await.unwrap().changed());
    // One of the refresh, and one for each name of the view: with its schema, and without.
    assert_eq!(redis.command(&["KEYS", "*:note:*"]).unwrap().lines().count(), 3);
    for garbage in ["", "{}", "\u{0}", "731", r#"{"xmin":"731","tick_ns":"soon"}"#, "a list"] {
        let scribble = || {
            for note in redis.command(&["KEYS", "larder:fleet:note:*"]).unwrap().lines() {
                if garbage == "a list" {
                    redis.command(&["DEL", note]).unwrap();
                    redis.command(&["RPUSH", note, "731"]).unwrap();
                } else {
                    redis.command(&["SET", note, garbage]).unwrap();
                }
            }
        };
        scribble();
        let now = insert().await;
        assert!(refresher.refresh_now("by_region").await.unwrap().changed());
        assert_eq!(ask().await, now, "asked for, with {garbage:?}");

        let now = insert().await;
        scribble();
        let ticked = refresher.status()[0].refreshes();
        clock.advance(HOUR);
        until("the tick is done", || refresher.status()[0].refreshes() == ticked + 1).await;
        assert_eq!(ask().await, now, "by a tick, with {garbage:?}");

        let now = insert().await;
        scribble();
        client.batch_execute("REFRESH MATERIALIZED VIEW by_region").await.unwrap();
        until_async("a refresh by another is noticed", async || ask().await == now).await;
    }
}
