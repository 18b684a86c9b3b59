//! What happens to a load that fails, panics, takes too long, or whose caller leaves?

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::poll;
use larder::{Error, ErrorKind, Origin, QueryCache, TlsPool};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Barrier, Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::support::{database, local, until, until_async};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_caller_leaving_does_not_cancel_the_load() {
    let cache = local().await;
    let (query, gate) = (cache.query("SELECT 1"), Arc::new(Notify::new()));
    let loads = Arc::new(AtomicU32::new(0));
    let load = || {
        let (gate, loads) = (gate.clone(), loads.clone());
        move || async move {
            loads.fetch_add(1, Ordering::SeqCst);
            gate.notified().await;
            Ok::<_, std::io::Error>(7_i32)
        }
    };
    let mut first = query.load(load());
    assert!(poll!(&mut first).is_pending());
    let mut second = query.load(load()).answer();
    assert!(poll!(&mut second).is_pending());
    until("the load has begun", || loads.load(Ordering::SeqCst) == 1).await;
    drop(first);
    gate.notify_one();
    let answer = second.await.unwrap();
    assert_eq!((**answer.value(), answer.origin()), (7, Origin::Coalesced));
    assert_eq!(loads.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_everybody_left_still_fills_the_cache() {
    let cache = local().await;
    let (query, gate) = (cache.query("SELECT 1"), Arc::new(Semaphore::new(0)));
    let opened = gate.clone();
    let mut only = query.load(move || async move {
        opened.acquire().await.unwrap().forget();
        Ok::<_, std::io::Error>(7_i32)
    });
    assert!(poll!(&mut only).is_pending());
    drop(only);
    gate.add_permits(1);
    until_async("the abandoned load is in memory", async || {
        let other = query.load(|| async { Ok::<_, std::io::Error>(8_i32) }).answer().await.unwrap();
        assert_eq!(**other.value(), 7);
        other.origin() == Origin::L1
    })
    .await;
    assert_eq!(cache.stats().loads, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_never_awaited_does_nothing() {
    let cache = local().await;
    let before = cache.stats();
    let query = cache.query("SELECT 1");
    drop(query.load(|| async { Ok::<_, std::io::Error>(7_i32) }));
    assert_eq!(cache.stats(), before);
}

/// Has 20 tasks wait for one load, which ends as `load` does once all are there.
async fn errors_of_twenty<F, Fut>(cache: &QueryCache, load: F) -> Vec<Error>
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<i32, std::io::Error>> + Send + 'static,
{
    let barrier = Arc::new(Barrier::new(20));
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let (cache, load, barrier) = (cache.clone(), load.clone(), barrier.clone());
        tasks.spawn(async move {
            let query = cache.query("SELECT 1");
            let mut read = query.load(load);
            let pending = poll!(&mut read).is_pending();
            barrier.wait().await;
            assert!(pending);
            read.await.unwrap_err()
        });
    }
    tasks.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_reaches_all_waiters_once_and_the_next_call_loads_again() {
    let cache = local().await;
    let gate = Arc::new(Notify::new());
    let (opened, calls) = (gate.clone(), Arc::new(AtomicU32::new(0)));
    let counted = calls.clone();
    let load = move || {
        let (opened, counted) = (opened.clone(), counted.clone());
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            opened.notified().await;
            Err(std::io::Error::other("the disk is gone"))
        }
    };
    let errors = errors_of_twenty(&cache, load);
    let opening = async {
        until("19 wait for the load", || cache.stats().coalesced == 19).await;
        gate.notify_one();
    };
    let (errors, ()) = tokio::join!(errors, opening);
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Query);
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), "the disk is gone");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let query = cache.query("SELECT 1");
    assert_eq!(*query.load(|| async { Ok::<_, std::io::Error>(7) }).await.unwrap(), 7);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.load_errors), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_becomes_an_error_for_all_waiters_and_the_next_call_loads_again() {
    let cache = local().await;
    let gate = Arc::new(Notify::new());
    let opened = gate.clone();
    let load = move || {
        let opened = opened.clone();
        async move {
            opened.notified().await;
            panic!("a bug in the mapping")
        }
    };
    let errors = errors_of_twenty(&cache, load);
    let opening = async {
        until("19 wait for the load", || cache.stats().coalesced == 19).await;
        gate.notify_one();
    };
    let (errors, ()) = tokio::join!(errors, opening);
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Panicked);
        let shown = error.to_string();
        assert!(shown.ends_with("` failed: its query function panicked"), "{shown}");
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), "a bug in the mapping");
    }
    let query = cache.query("SELECT 1");
    assert_eq!(*query.load(|| async { Ok::<_, std::io::Error>(7) }).await.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_before_the_first_await_is_caught_too() {
    let cache = local().await;
    let wrapped = cache.query("SELECT 1").wrap(|_, (number,): (i32,)| {
        assert!(number > 0, "not a number of ours");
        async move { Ok::<_, std::io::Error>(number) }
    });
    assert_eq!(wrapped.call((-1,)).await.unwrap_err().kind(), ErrorKind::Panicked);
    assert_eq!(*wrapped.call((1,)).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresqls_errors_arrive_with_their_sqlstate_and_are_not_cached() {
    let database = database().await;
    let pool = database.pool(2);
    let client = Arc::new(database.connect().await.unwrap());
    let cache = local().await;
    let code = async |sql: &str| {
        let error = cache.query(sql).fetch(&pool).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Query);
        error.sqlstate().unwrap().clone()
    };
    assert_eq!(code("SELEC 1").await, SqlState::SYNTAX_ERROR);
    assert_eq!(code("SELECT * FROM orders").await, SqlState::UNDEFINED_TABLE);
    assert_eq!(code("SELECT 1/0").await, SqlState::DIVISION_BY_ZERO);
    client.batch_execute("CREATE TABLE orders AS SELECT 1 AS n").await.unwrap();
    assert_eq!(cache.query("SELECT * FROM orders").fetch(&pool).await.unwrap().len(), 1);
    client.batch_execute("DROP TABLE orders").await.unwrap();
    assert_eq!(code("SELECT * FROM orders -- again").await, SqlState::UNDEFINED_TABLE);

    let error = cache.query("SELECT * FROM nowhere").fetch(&client).await.unwrap_err();
    let shown = error.to_string();
    assert!(
        shown.ends_with("` failed: relation \"nowhere\" does not exist (SQLSTATE 42P01)"),
        "{shown}"
    );

    // The driver's error wrapped in the user's own keeps its code.
    #[derive(Debug)]
    struct Mine(tokio_postgres::Error);
    impl std::fmt::Display for Mine {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("mine")
        }
    }
    impl std::error::Error for Mine {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let shared = client.clone();
    let query = cache.query("SELECT * FROM nowhere");
    let read = query.load(move || async move {
        shared.query("SELECT * FROM nowhere", &[]).await.map_err(Mine)?;
        Ok::<_, Mine>(1_i32)
    });
    assert_eq!(read.await.unwrap_err().sqlstate(), Some(&SqlState::UNDEFINED_TABLE));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_parameters_are_errors_that_do_not_show_their_values() {
    let database = database().await;
    let pool = database.pool(2);
    let cache = local().await;
    let query = cache.query("SELECT $1::int4 + $2::int4");
    let few = query.bind(1_i32).fetch(&pool).await.unwrap_err();
    assert!(std::error::Error::source(&few).unwrap().to_string().contains("expected 2"), "{few:?}");
    let wrong = query.bind("hunter2").bind(1_i32).fetch(&pool).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Query);
    let inner =
        cache.query("SELECT $1::text::int4").bind("hunter2").fetch(&pool).await.unwrap_err();
    assert_eq!(inner.sqlstate(), Some(&SqlState::INVALID_TEXT_REPRESENTATION));
    for error in [few, wrong, inner] {
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
    assert_eq!(
        query.bind(1_i32).bind(2_i32).fetch(&pool).await.unwrap().row(0).get::<_, i32>(0),
        3
    );
}

async fn sleeping(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity
               WHERE state = 'active' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_ends_at_its_deadline_and_postgresql_cancels_it() {
    let database = database().await;
    let (pool, watcher) = (database.pool(1), database.connect().await.unwrap());
    let cache = local().await;
    let query = cache.query("SELECT pg_sleep(600)::text").load_deadline(Duration::from_millis(300));
    let error = query.fetch(&pool).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.to_string().contains("300ms"), "{error}");
    until_async("postgresql has cancelled it", async || sleeping(&watcher).await == 0).await;
    // The pool's only connection is whole.
    assert_eq!(cache.query("SELECT 1").fetch(&pool).await.unwrap().len(), 1);

    let source = TlsPool::new(database.pool(1), NoTls);
    let error = query.scope("tls").fetch(&source).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    until_async("postgresql has cancelled it", async || sleeping(&watcher).await == 0).await;
    assert_eq!(cache.query("SELECT 2").fetch(&source).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_hits_no_query_but_its_own() {
    let database = database().await;
    let (pool, cache) = (database.pool(1), local().await);
    let query = cache.query("SELECT pg_sleep($1)::text").load_deadline(Duration::from_millis(20));
    // Loads that end just when they are given up, and an innocent query on the same pool after each.
    for number in 0..60 {
        let seconds = 0.0195 + f64::from(number % 15) * 0.0002 + f64::from(number) * 1e-7;
        let _ = query.bind(seconds).fetch(&pool).await;
        let client = pool.get().await.unwrap();
        client.query("SELECT pg_sleep(0.01)", &[]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_on_a_shared_client_harms_no_other_query_of_it() {
    let database = database().await;
    let client = Arc::new(database.connect().await.unwrap());
    let cache = local().await;
    // Somebody's query on the same client, which ends when we say so.
    let watcher = database.connect().await.unwrap();
    watcher.query("SELECT pg_advisory_lock(1)", &[]).await.unwrap();
    let shared = client.clone();
    let others = tokio::spawn(async move { shared.query("SELECT pg_advisory_lock(1)", &[]).await });
    until_async("the other query waits", async || {
        let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        watcher.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    let query = cache.query("SELECT 1").load_deadline(Duration::from_millis(100));
    assert_eq!(query.fetch(&client).await.unwrap_err().kind(), ErrorKind::Deadline);
    watcher.query("SELECT pg_advisory_unlock(1)", &[]).await.unwrap();
    others.await.unwrap().unwrap();
    assert_eq!(cache.query("SELECT 2").fetch(&client).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_fails_keeps_its_connection() {
    let database = database().await;
    let (pool, cache) = (database.pool(1), local().await);
    let pid = async || -> i32 {
        let client = pool.get().await.unwrap();
        client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
    };
    let before = pid().await;
    for sql in ["SELEC 1", "SELECT 1/0", "SELECT $1::int4"] {
        cache.query(sql).fetch(&pool).await.unwrap_err();
    }
    assert_eq!(pid().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_function_that_never_ends_is_dropped_at_its_deadline() {
    struct Dropped(Arc<AtomicU32>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let cache = local().await;
    let query = cache.query("SELECT 1").load_deadline(Duration::from_secs(3600));
    let dropped = Arc::new(AtomicU32::new(0));
    let guard = Dropped(dropped.clone());
    let read = query.load(move || async move {
        let _guard = guard;
        std::future::pending::<Result<i32, std::io::Error>>().await
    });
    assert_eq!(read.await.unwrap_err().kind(), ErrorKind::Deadline);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!(*query.load(|| async { Ok::<_, std::io::Error>(7) }).await.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_a_server_is_an_error_to_connect() {
    let mut config = tokio_postgres::Config::new();
    config.host_path("/nonexistent").user("nobody");
    let manager = deadpool_postgres::Manager::new(config, NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).build().unwrap();
    let error = local().await.query("SELECT 1").fetch(&pool).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
}

fn threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

async fn seven(cache: QueryCache) -> i32 {
    let query = cache.query("SELECT 1").load_deadline(Duration::from_secs(20));
    *query.load(|| async { Ok::<_, std::io::Error>(7_i32) }).await.unwrap()
}

#[test]
fn a_cache_outlives_the_runtime_that_it_was_built_in() {
    let single = || Builder::new_current_thread().enable_all().build().unwrap();
    // Whose runtime stands still, and whose has shut down, with callers of both sorts.
    let asleep = single();
    let cache = asleep.block_on(local());
    assert_eq!(single().block_on(seven(cache.clone())), 7);
    let cache = asleep.block_on(local());
    assert_eq!(threads().block_on(seven(cache)), 7);
    for gone in [single(), threads()] {
        let cache = gone.block_on(local());
        let again = gone.block_on(local());
        gone.shutdown_background();
        assert_eq!(single().block_on(seven(cache)), 7);
        assert_eq!(threads().block_on(seven(again)), 7);
    }
}

#[test]
fn a_load_lost_with_its_runtime_is_begun_anew_by_those_who_waited() {
    let (one, other) = (threads(), threads());
    let cache = one.block_on(local());
    let begun = Arc::new(Notify::new());
    let (begins, shared) = (begun.clone(), cache.clone());
    one.spawn(async move {
        let query = shared.query("SELECT 1");
        let read = query.load(move || async move {
            begins.notify_one();
            std::future::pending::<Result<i32, std::io::Error>>().await
        });
        let _ = read.await;
    });
    other.block_on(begun.notified());
    let reader = other.spawn(seven(cache.clone()));
    other.block_on(until("the reader waits", || cache.stats().coalesced == 1));
    one.shutdown_background();
    assert_eq!(other.block_on(reader).unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_another_needs_does_not_wait_behind_it() {
    let cache = QueryCache::builder().concurrent_loads(1).build().await.unwrap();
    let (inner, outer) = (cache.query("inner"), cache.query("outer"));
    let begun = Arc::new(Notify::new());
    let gate = Arc::new(Notify::new());
    let (begins, opened, needed) = (begun.clone(), gate.clone(), inner.clone());
    let outer = tokio::spawn(async move {
        let read = outer.load(move || async move {
            begins.notify_one();
            opened.notified().await;
            let value = needed.load(|| async { Ok::<_, std::io::Error>(0) }).await?;
            Ok::<i32, larder::Error>(*value + 1)
        });
        *read.await.unwrap()
    });
    begun.notified().await;
    // Somebody else asks for the inner result and waits for the only turn, which the outer has.
    let mut plain = inner.load(|| async { Ok::<_, std::io::Error>(20) });
    assert!(poll!(&mut plain).is_pending());
    gate.notify_one();
    assert_eq!((*plain.await.unwrap(), outer.await.unwrap()), (20, 21));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_another_query_is_not_ones_own() {
    let cache = local().await;
    let query = cache.query("SELECT 1");
    let (short, long) = (
        query.clone().load_deadline(Duration::from_millis(300)),
        query.load_deadline(Duration::from_secs(60)),
    );
    let mut first = short.load(std::future::pending::<Result<i32, std::io::Error>>);
    assert!(poll!(&mut first).is_pending());
    let second = long.load(|| async { Ok::<_, std::io::Error>(7) });
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.unwrap_err().kind(), ErrorKind::Deadline);
    assert_eq!(*second.unwrap(), 7);
}

#[test]
fn a_caller_without_a_runtime_of_its_own_is_answered() {
    let runtime = threads();
    let cache = runtime.block_on(local());
    let query = cache.query("SELECT 1");
    let read = query.load(|| async { Ok::<_, std::io::Error>(7_i32) });
    assert_eq!(*futures_executor::block_on(read).unwrap(), 7);
}

#[test]
fn without_any_runtime_left_a_miss_is_an_error_and_no_endless_loop() {
    let runtime = threads();
    let cache = runtime.block_on(local());
    let handle = runtime.handle().clone();
    runtime.shutdown_background();
    for entered in [false, true] {
        let _within = entered.then(|| handle.enter());
        let query = cache.query("SELECT 1");
        let read = query.load(|| async { Ok::<_, std::io::Error>(7_i32) });
        assert_eq!(futures_executor::block_on(read).unwrap_err().kind(), ErrorKind::Closed);
    }
}
