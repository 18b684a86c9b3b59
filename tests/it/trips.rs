//! How many round trips to Redis does an operation take? They are counted at a proxy, on the
//! connection for commands.

use std::time::Duration;

use larder::testing::ManualClock;
use larder::{Origin, QueryCache};

use crate::servers::{Proxy, Redis};
use crate::support::{until_async, written};

struct Scene {
    /// Kept alive.
    _redis: Redis,
    proxy: Proxy,
    cache: QueryCache,
    clock: ManualClock,
}

impl Scene {
    async fn new() -> Scene {
        let redis = Redis::start_tcp().unwrap();
        let proxy = Proxy::to_redis(&redis).unwrap();
        let clock = ManualClock::new();
        let cache = QueryCache::builder()
            .namespace("trips")
            .redis(proxy.url())
            .redis_timeout(Duration::from_secs(10))
            .l1_ttl(Duration::from_millis(1))
            .max_staleness(Duration::from_secs(3600))
            .clock(clock.clone())
            .build()
            .await
            .unwrap();
        let scene = Scene { _redis: redis, proxy, cache, clock };
        // Scripts are known, the table is confirmed.
        for _ in 0..2 {
            scene.read(-1).await;
            scene.cache.invalidate(["warm"]).await.acknowledged().unwrap();
        }
        written(&scene.cache, 1).await;
        scene
    }

    fn trips(&self) -> u64 {
        self.proxy.counts_of(|link| !link.said("SUBSCRIBE")).round_trips
    }

    async fn read(&self, number: i32) -> Origin {
        let query = self.cache.query("SELECT 1");
        let load = move || async move { Ok::<_, std::io::Error>(number) };
        query.params((number,)).load(load).answer().await.unwrap().origin()
    }

    /// The least that `ask` cost in several tries: between two of them a beat may come.
    async fn least(&self, mut ask: impl AsyncFnMut(i32)) -> u64 {
        let mut least = u64::MAX;
        for number in 0..20 {
            let before = self.trips();
            ask(number).await;
            least = least.min(self.trips() - before);
        }
        least
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_in_redis_is_one_round_trip() {
    let scene = Scene::new().await;
    let least = scene
        .least(async |_| {
            scene.clock.advance(Duration::from_millis(1));
            assert_eq!(scene.read(-1).await, Origin::L2);
        })
        .await;
    assert_eq!(least, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_is_three_round_trips_and_two_of_them_before_the_answer() {
    let scene = Scene::new().await;
    let least = scene
        .least(async |number| {
            let writes = scene.cache.stats().l2_writes;
            assert_eq!(scene.read(number).await, Origin::Loaded);
            until_async("it is written", async || scene.cache.stats().l2_writes > writes).await;
        })
        .await;
    assert_eq!(least, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_is_one_round_trip_however_many_tags_it_names() {
    let scene = Scene::new().await;
    let tags = |count: usize| (0..count).map(|number| format!("tag:{number}"));
    for count in [1, 10, 5_000] {
        let invalidate =
            async |_| scene.cache.invalidate(tags(count)).await.acknowledged().unwrap();
        assert_eq!(scene.least(invalidate).await, 1, "{count} tags");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_in_memory_and_an_idle_cache_ask_nothing() {
    let scene = Scene::new().await;
    let hit = async |_| assert_eq!(scene.read(-1).await, Origin::L1);
    assert_eq!(scene.least(hit).await, 0);
    // Nobody reads any more: after the beat that may be under way there is none.
    let mut quiet = 0;
    let (mut last, mut since) = (scene.trips(), std::time::Instant::now());
    until_async("a second passes without a word", async || {
        let now = scene.trips();
        if now != last {
            (last, since) = (now, std::time::Instant::now());
            quiet += 1;
        }
        since.elapsed() > Duration::from_secs(1)
    })
    .await;
    assert!(quiet <= 2, "{quiet} beats for nobody");
}
