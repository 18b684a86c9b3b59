//! What happens to reads that look into Redis together?
//!
//! Each test has one thread and so decides the order of the reads: nothing is sent while the test
//! does not await.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder::testing::ManualClock;
use larder::{Origin, QueryCache, QueryCacheBuilder};

use crate::servers::{Proxy, Redis, Way};
use crate::support::written;

const READS: i32 = 40;
const PATIENCE: Duration = Duration::from_secs(10);

struct Scene {
    redis: Redis,
    proxy: Proxy,
    cache: QueryCache,
    clock: ManualClock,
}

type Read<'a> = Pin<Box<dyn Future<Output = Origin> + 'a>>;

impl Scene {
    /// With results in Redis, and none in memory.
    async fn new(limit: Duration) -> Scene {
        let redis = Redis::start_tcp().unwrap();
        let proxy = Proxy::to_redis(&redis).unwrap();
        let clock = ManualClock::new();
        // Another process's, whose limit no busy machine exceeds.
        let filler = builder(&redis.url()).redis_timeout(PATIENCE).build().await.unwrap();
        join_all((0..READS).map(|number| read(&filler, number))).await;
        written(&filler, READS as u64).await;
        filler.shutdown().await;
        let cache = builder(&proxy.url())
            .redis_timeout(limit)
            .l1_ttl(Duration::from_millis(1))
            .max_staleness(Duration::from_secs(3600))
            .clock(clock.clone())
            .build()
            .await
            .unwrap();
        Scene { redis, proxy, cache, clock }
    }

    /// What is in memory is too old from here on.
    fn forget(&self) {
        self.clock.advance(Duration::from_millis(1));
    }

    async fn read(&self, number: i32) -> Origin {
        read(&self.cache, number).await
    }

    /// Begins a read, up to its look into Redis.
    fn begin(&self, number: i32) -> Read<'_> {
        let mut read: Read<'_> = Box::pin(self.read(number));
        assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        read
    }

    /// How often Redis was asked for entries.
    fn questions(&self) -> u64 {
        let stats = self.redis.command(&["INFO", "commandstats"]).unwrap();
        let calls = |command: &str| {
            let calls = stats.lines().find_map(|line| line.strip_prefix(command));
            calls.map_or(0, |calls| calls.split(',').next().unwrap().parse::<u64>().unwrap())
        };
        calls("cmdstat_get:calls=") + calls("cmdstat_mget:calls=")
    }
}

async fn read(cache: &QueryCache, number: i32) -> Origin {
    let query = cache.query("SELECT 1").tag("t");
    let load = move || async move { Ok::<_, std::io::Error>(number) };
    let answer = query.params((number,)).load(load).answer().await.unwrap();
    assert_eq!(**answer.value(), number);
    answer.origin()
}

fn builder(url: &str) -> QueryCacheBuilder {
    QueryCache::builder().namespace("batches").redis(url)
}

#[tokio::test]
async fn reads_that_come_together_ask_few_questions() {
    let scene = Scene::new(PATIENCE).await;
    let before = scene.questions();
    let origins = join_all((0..READS).map(|number| scene.read(number))).await;
    assert!(origins.iter().all(|&origin| origin == Origin::L2));
    // The first one, and all that came while it was under way, 32 at a time.
    assert_eq!(scene.questions() - before, 3);
}

#[tokio::test]
async fn an_invalidation_between_two_reads_of_a_batch_is_respected_by_the_later_one() {
    let scene = Scene::new(PATIENCE).await;
    // No push helps.
    for link in scene.proxy.links().iter().filter(|link| link.said("SUBSCRIBE")) {
        link.stall(Way::ToClient);
    }
    let first = scene.begin(0);
    let earlier = scene.begin(1);
    let url = scene.redis.url();
    // Another process's, acknowledged while this thread stands still.
    let other = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cache = builder(&url).redis_timeout(PATIENCE).build().await.unwrap();
            cache.invalidate(["t"]).await.acknowledged().unwrap();
        });
    });
    other.join().unwrap();
    let (later, before) = (scene.begin(2), scene.questions());
    let origins = join_all([first, earlier, later]).await;
    // All were sent after it.
    assert_eq!(origins, [Origin::Loaded; 3]);
    assert!(scene.questions() - before >= 2);
    assert_eq!(scene.cache.stats().invalidated, 3);
}

#[tokio::test]
async fn a_damaged_entry_is_a_miss_and_the_others_of_the_batch_are_hits() {
    let scene = Scene::new(PATIENCE).await;
    let names = scene.redis.command(&["KEYS", "larder:batches:*}"]).unwrap();
    let names: Vec<_> = names.lines().collect();
    assert_eq!(names.len(), READS as usize);
    scene.redis.command(&["SETRANGE", names[7], "120", "damaged"]).unwrap();
    scene.redis.command(&["SET", names[8], "foreign"]).unwrap();
    scene.redis.command(&["DEL", names[9]]).unwrap();
    let origins = join_all((0..READS).map(|number| scene.read(number))).await;
    let count = |wanted| origins.iter().filter(|&&origin| origin == wanted).count();
    assert_eq!((count(Origin::L2), count(Origin::Loaded)), (READS as usize - 3, 3));
    assert_eq!(scene.cache.stats().l2_refused, 2);
}

#[tokio::test]
async fn readers_who_leave_in_mid_batch_cost_the_others_nothing() {
    let scene = Scene::new(PATIENCE).await;
    for stalled in [false, true] {
        let mut reads: Vec<_> = (0..READS).map(|number| scene.begin(number)).collect();
        if stalled {
            let before = scene.questions();
            scene.proxy.stall(Way::ToClient);
            while scene.questions() < before + 2 {
                tokio::task::yield_now().await;
            }
        }
        for leaver in [39, 20, 1, 0] {
            drop(reads.remove(leaver));
        }
        scene.proxy.release();
        let origins = join_all(reads).await;
        assert!(origins.iter().all(|&origin| origin == Origin::L2), "{origins:?}");
        scene.forget();
    }
    assert_eq!(scene.cache.stats().l2_errors, 0);
}

#[tokio::test]
async fn a_redis_that_freezes_or_dies_in_mid_batch_fails_no_read() {
    for dies in [false, true] {
        let mut scene = Scene::new(Duration::from_millis(50)).await;
        let begin = Instant::now();
        // It says a part of what it is asked, or nothing.
        if !dies {
            scene.redis.pause().unwrap()
        } else {
            scene.proxy.reset_after(500)
        }
        let origins = join_all((0..READS).map(|number| scene.read(number))).await;
        println!("{:?} for {READS} reads", begin.elapsed());
        // The one that went alone may have been answered.
        let loaded = origins.iter().filter(|&&origin| origin == Origin::Loaded).count();
        assert!(loaded >= READS as usize - 1, "{origins:?}");
        if !dies {
            scene.redis.resume().unwrap()
        } else {
            scene.proxy.pass()
        }
        crate::support::until_async("redis is used again", async || {
            scene.forget();
            scene.read(0).await == Origin::L2
        })
        .await;
    }
}
