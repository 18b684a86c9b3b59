//! Concurrent lookups. Each test has one thread and so controls the order in which lookups begin:
//! nothing is sent until it awaits.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use test_servers::{Proxy, Redis, Way};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::timeout;

use super::*;
use crate::background::Background;
use crate::l2::redis::RedisStore;
use crate::l2::redis::endpoint::Endpoint;
use crate::l2::{Listener, Notice, Store};
use crate::value::tag::TagSlot;

/// For a busy machine, in tests that are not about time limits.
const PATIENCE: Duration = Duration::from_secs(30);
/// For tests of time limits.
const LIMIT: Duration = Duration::from_millis(100);

struct Unsubscribed;

impl Listener for Unsubscribed {
    fn hear(&self, _: Notice) {}
}

struct Scene {
    server: Redis,
    proxy: Proxy,
    store: RedisStore,
}

type Look<'a> = Pin<Box<dyn Future<Output = Result<ReadReply, StoreError>> + Send + 'a>>;

async fn store(url: &str, limit: Duration) -> RedisStore {
    let background = Background::on(Handle::current());
    let link = Connection::new(Endpoint::new(url).unwrap(), limit, None, &background);
    link.connect().await.unwrap();
    RedisStore::new(link, "batch", Arc::new(Unsubscribed))
}

impl Scene {
    async fn new(limit: Duration) -> Scene {
        let server = Redis::start_tcp().unwrap();
        let proxy = Proxy::to_redis(&server).unwrap();
        let store = store(&proxy.url(), limit).await;
        store.beat(Position { epoch: 0, seq: 0 }, 1000, false, PATIENCE).await.unwrap();
        let scene = Scene { server, proxy, store };
        for number in 0..100 {
            scene.put(number, format!("value {number}").as_bytes());
        }
        scene.server.command(&["CONFIG", "RESETSTAT"]).unwrap();
        scene
    }

    fn name(&self, number: u8) -> String {
        self.store.names.entry(&key(number))
    }

    fn put(&self, number: u8, value: &[u8]) {
        self.server.command(&[b"SET", self.name(number).as_bytes(), value]).unwrap();
    }

    /// The number of times the directory was read.
    fn questions(&self) -> u64 {
        let stats = self.server.command(&["INFO", "commandstats"]).unwrap();
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_zmscore:calls="));
        calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
    }

    /// Begins lookups in this order.
    fn begin<'a>(&'a self, keys: &'a [CacheKey]) -> Vec<Look<'a>> {
        keys.iter().map(|key| begun(self.store.read(key))).collect()
    }

    /// Waits as a fleet that needs the connection does.
    async fn until_connected(&self) {
        tokio::time::timeout(PATIENCE, async {
            while !self.store.is_connected() || self.store.read(&key(0)).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("redis is used again");
    }
}

fn key(number: u8) -> CacheKey {
    CacheKey::of_bytes([number; 32])
}

fn keys(count: u8) -> Vec<CacheKey> {
    (0..count).map(key).collect()
}

/// Polls the lookup once.
fn begun(mut look: Look<'_>) -> Look<'_> {
    assert!(look.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    look
}

fn value(glance: &Result<ReadReply, StoreError>) -> Option<&str> {
    match &glance.as_ref().unwrap().found {
        Found::Entry { bytes, .. } => Some(std::str::from_utf8(bytes).unwrap()),
        Found::Nothing => None,
    }
}

fn all_have_theirs(answers: &[Result<ReadReply, StoreError>]) {
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(value(answer), Some(&*format!("value {number}")));
    }
}

#[tokio::test]
async fn one_goes_at_once_and_those_who_come_meanwhile_go_together() {
    let scene = Scene::new(PATIENCE).await;
    let keys = keys(1 + 2 * MOST as u8);
    let answers = join_all(scene.begin(&keys)).await;
    all_have_theirs(&answers);
    assert_eq!(scene.questions(), 3);
    // When all have been answered, the next lookup is sent alone again.
    assert!(value(&scene.store.read(&keys[0]).await).is_some());
    assert_eq!(scene.questions(), 4);
    assert_eq!(scene.store.batcher.0.lock().under_way, 0);
}

#[tokio::test]
async fn the_same_key_may_be_looked_for_twice_in_a_batch() {
    let scene = Scene::new(PATIENCE).await;
    let keys = [key(1), key(2), key(2), key(1)];
    let answers = join_all(scene.begin(&keys)).await;
    let values: Vec<_> = answers.iter().map(|answer| value(answer).unwrap()).collect();
    assert_eq!(values, ["value 1", "value 2", "value 2", "value 1"]);
    assert_eq!(scene.questions(), 2);
}

#[tokio::test]
async fn what_is_foreign_damaged_or_missing_harms_no_other_of_the_batch() {
    let scene = Scene::new(PATIENCE).await;
    let (list, gone, empty) = (scene.name(3), scene.name(5), 7);
    scene.server.command(&["DEL", &list, &gone]).unwrap();
    scene.server.command(&["RPUSH", &list, "of another type"]).unwrap();
    scene.put(empty, b"");
    let keys = keys(10);
    let answers = join_all(scene.begin(&keys)).await;
    for (number, answer) in answers.iter().enumerate() {
        match number {
            3 | 5 => assert_eq!(value(answer), None),
            7 => assert_eq!(value(answer), Some("")),
            _ => assert_eq!(value(answer), Some(&*format!("value {number}"))),
        }
    }
    // A lookup of its own gets the same reply.
    for number in [3, 5] {
        assert_eq!(value(&scene.store.read(&key(number)).await), None);
    }
}

#[tokio::test]
async fn an_invalidation_between_two_look_ups_of_a_batch_is_known_to_the_later_one() {
    let scene = Scene::new(PATIENCE).await;
    let keys = keys(4);
    let before = scene.store.read(&keys[0]).await.unwrap().directory.unwrap();
    let [_alone, earlier] = <[_; 2]>::try_from(scene.begin(&keys[..2])).ok().unwrap();
    // An invalidation by another process, acknowledged while this thread is blocked.
    let url = scene.server.url();
    let acknowledged = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let other = store(&url, PATIENCE).await;
            other.invalidate(before, &[TagSlot::of(1)]).await.unwrap()
        })
    });
    let acknowledged = acknowledged.join().unwrap();
    assert!(acknowledged.seq > before.seq);
    let later = scene.begin(&keys[2..]);
    scene.server.command(&["CONFIG", "RESETSTAT"]).unwrap();
    for answer in join_all(later.into_iter().chain([earlier])).await {
        assert_eq!(answer.unwrap().directory, Some(acknowledged));
    }
    // The first lookup alone, and all others together.
    assert_eq!(scene.questions(), 2);
}

#[tokio::test]
async fn callers_who_leave_harm_nobody() {
    let scene = Scene::new(PATIENCE).await;
    let keys = keys(20);
    // Before anything is sent: the lookup sent alone, the one that spawned the task, and the last
    // one.
    let mut batcher = scene.begin(&keys);
    for leaver in [19, 8, 1, 0] {
        drop(batcher.remove(leaver));
    }
    for answer in join_all(batcher).await {
        assert!(value(&answer).is_some());
    }
    // When all are on their way to Redis.
    scene.proxy.stall(Way::ToClient);
    let asked = scene.questions();
    let mut batcher = scene.begin(&keys);
    while scene.questions() < asked + 2 {
        tokio::task::yield_now().await;
    }
    for leaver in [19, 8, 1, 0] {
        drop(batcher.remove(leaver));
    }
    scene.proxy.release();
    for answer in join_all(batcher).await {
        assert!(value(&answer).is_some());
    }
    // All of them leave.
    drop(scene.begin(&keys));
    all_have_theirs(&join_all(scene.begin(&keys)).await);
    assert_eq!(scene.store.batcher.0.lock().waiting.len(), 0);
}

#[tokio::test]
async fn a_server_that_is_silent_in_mid_batch_costs_everybody_the_time_limit_and_is_given_up() {
    let scene = Scene::new(LIMIT).await;
    scene.until_connected().await;
    scene.proxy.stall(Way::ToClient);
    let keys = keys(100);
    // Lookups that were running together count as one timeout. After two in a row the connection is
    // tested, and given up if no reply comes at all.
    for _ in 0..2 {
        let answers = join_all(scene.begin(&keys)).await;
        assert!(answers.iter().all(|answer| *answer == Err(StoreError::Unavailable)));
        assert!(scene.store.is_connected());
    }
    let given_up = async {
        while scene.store.is_connected() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, given_up).await.expect("it is given up");
    scene.proxy.pass();
    scene.until_connected().await;
    let again = join_all(keys.iter().map(|key| scene.store.read(key))).await;
    assert_eq!(again.iter().filter(|answer| answer.is_err()).count(), 0);
}

#[tokio::test]
async fn a_server_whose_replies_are_late_is_not_given_up() {
    let scene = Scene::new(LIMIT).await;
    scene.until_connected().await;
    let sent = scene.store.link.sent();
    // Each reply comes after the time limit, and well before a test of the connection ends.
    scene.proxy.delay(2 * LIMIT);
    for _ in 0..4 {
        let answers = join_all(scene.begin(&keys(3))).await;
        assert!(answers.iter().all(|answer| *answer == Err(StoreError::Unavailable)));
    }
    scene.proxy.pass();
    let first = async { while scene.store.read(&key(1)).await.is_err() {} };
    timeout(PATIENCE, first).await.expect("replies are in time again");
    assert_eq!(scene.store.link.sent().number, sent.number, "on the same connection");
}

#[tokio::test]
async fn a_server_that_dies_in_mid_batch_is_an_error_to_everybody_at_once() {
    let scene = Scene::new(PATIENCE).await;
    // More bytes than the reply to the first lookup has, and fewer than that to the batch has.
    scene.proxy.reset_after(400);
    let keys = keys(30);
    let begin = std::time::Instant::now();
    let answers = join_all(scene.begin(&keys)).await;
    assert!(begin.elapsed() < PATIENCE);
    assert!(answers.iter().skip(1).all(|answer| *answer == Err(StoreError::Unavailable)));
    scene.proxy.pass();
    scene.until_connected().await;
    all_have_theirs(&join_all(scene.begin(&keys)).await);
}

/// A store whose tasks run on a runtime that runs only while the test drives it.
fn elsewhere(scene: &Scene) -> (Runtime, RedisStore) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let store = runtime.block_on(store(&scene.proxy.url(), LIMIT));
    (runtime, store)
}

#[test]
fn a_runtime_that_ends_or_stands_still_keeps_nobody() {
    let here = Builder::new_current_thread().enable_all().build().unwrap();
    let scene = here.block_on(Scene::new(PATIENCE));
    let keys = keys(5);
    // The runtime stands still: nobody waits longer than the time limit, which counts as for one
    // lookup.
    let (runtime, store) = elsewhere(&scene);
    let mut timeouts = 0;
    while store.is_connected() {
        let answers = here.block_on(join_all(keys.iter().map(|key| store.read(key))));
        assert!(answers.iter().all(|answer| *answer == Err(StoreError::Unavailable)));
        timeouts += 1;
    }
    // Two, and as many as a test of the connection may take, which cannot run there.
    assert!((3..20).contains(&timeouts), "{timeouts}");
    drop((store, runtime));
    // The runtime ends after the task was spawned.
    let (runtime, store) = elsewhere(&scene);
    let batcher =
        here.block_on(async { keys.iter().map(|key| begun(store.read(key))).collect::<Vec<_>>() });
    runtime.shutdown_background();
    let answers = here.block_on(join_all(batcher));
    assert!(answers.iter().all(|answer| *answer == Err(StoreError::Unavailable)));
    // No task can be spawned any more.
    let answers = here.block_on(join_all(keys.iter().map(|key| store.read(key))));
    assert!(answers.iter().all(|answer| *answer == Err(StoreError::Unavailable)));
}

#[tokio::test]
async fn large_entries_go_in_small_batches() {
    let scene = Scene::new(PATIENCE).await;
    let large = vec![b'x'; BYTES / 2];
    (0..20).for_each(|number| scene.put(number, &large));
    let keys = keys(21);
    let shared = &scene.store.batcher.0;
    assert_eq!(shared.most(), MOST);
    // The first batch does not know the sizes yet.
    join_all(scene.begin(&keys)).await;
    assert!((2..=3).contains(&shared.most()), "{}", shared.most());
    let asked = scene.questions();
    join_all(scene.begin(&keys)).await;
    assert!(scene.questions() >= asked + 1 + 20 / 3);
    // Small sizes are learned slowly.
    (0..20).for_each(|number| scene.put(number, b"small"));
    while shared.most() < MOST {
        join_all(scene.begin(&keys)).await;
    }
}
