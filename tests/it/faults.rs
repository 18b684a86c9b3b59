//! What do readers notice of a fault? Only a delay.
//!
//! Each fault happens to a cache in use: readers read rows of a real table through a proxy, and a
//! writer changes the table and invalidates. Every read must be answered in bounded time, and never
//! with a result that its own process had invalidated before the read began. Redis must be used
//! again when the fault is over. The measurements are printed: `cargo test faults -- --nocapture`.

mod postgres;
mod processes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::{Origin, QueryCache};
use tokio::task::JoinSet;

use crate::servers::{Database, Proxy, Redis, Way, replies};
use crate::support::{database, until_async};

const KEYS: usize = 20;
/// Ten times what is promised: this machine may be busy. The figures are printed.
const HUNG: Duration = Duration::from_secs(1);

struct Scene {
    redis: Redis,
    proxy: Proxy,
    database: Database,
    cache: QueryCache,
}

impl Scene {
    async fn new() -> Scene {
        Scene::with(Redis::start_tcp().unwrap()).await
    }

    async fn with(redis: Redis) -> Scene {
        let database = database().await;
        let admin = database.connect().await.unwrap();
        let table = format!(
            "CREATE TABLE items AS SELECT key, 0::int8 AS version \
             FROM generate_series(0, {}) AS key; \
             CREATE UNIQUE INDEX ON items (key)",
            KEYS - 1
        );
        admin.batch_execute(&table).await.unwrap();
        let proxy = Proxy::to_redis(&redis).unwrap();
        let builder = QueryCache::builder().namespace("faults").redis(proxy.url());
        let cache = builder.l1_ttl(Duration::from_millis(1)).build().await.unwrap();
        Scene { redis, proxy, database, cache }
    }
}

/// What the writer and the readers have in common.
struct Traffic {
    cache: QueryCache,
    pool: deadpool_postgres::Pool,
    /// By key, the version whose invalidation had returned: no read that begins later shows less.
    floor: [AtomicI64; KEYS],
    stop: AtomicBool,
    from_redis: AtomicU64,
    reads: AtomicU64,
}

impl Traffic {
    async fn read(&self, key: usize) -> Result<Origin, larder::Error> {
        let floor = self.floor[key].load(Ordering::SeqCst);
        let query = self.cache.query("SELECT version FROM items WHERE key = $1");
        let query = query.tag(format!("item:{key}"));
        let answer = query.bind(key as i32).fetch(&self.pool).answer().await?;
        let version: i64 = answer.value().row(0).get("version");
        assert!(version >= floor, "{version} from {:?}, {floor} was there", answer.origin());
        self.reads.fetch_add(1, Ordering::Relaxed);
        if answer.origin() == Origin::L2 {
            self.from_redis.fetch_add(1, Ordering::SeqCst);
        }
        Ok(answer.origin())
    }

    /// The longest read and the 99th percentile.
    async fn readers(self: &Arc<Self>) -> JoinSet<Vec<Duration>> {
        let mut readers = JoinSet::new();
        for _ in 0..8 {
            let traffic = self.clone();
            readers.spawn(async move {
                let mut took = vec![];
                while !traffic.stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    traffic.read(fastrand(KEYS)).await.unwrap();
                    took.push(begin.elapsed());
                    tokio::task::yield_now().await;
                }
                took
            });
        }
        let traffic = self.clone();
        readers.spawn(async move {
            let client = traffic.pool.get().await.unwrap();
            let update = "UPDATE items SET version = version + 1 WHERE key = $1 RETURNING version";
            while !traffic.stop.load(Ordering::Relaxed) {
                let key = fastrand(KEYS);
                let row = client.query_one(update, &[&(key as i32)]).await.unwrap();
                // Announced or not, in this process it is in force.
                traffic.cache.invalidate([format!("item:{key}")]).await;
                traffic.floor[key].fetch_max(row.get(0), Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
            vec![]
        });
        readers
    }

    async fn until_redis_answers(&self) {
        let before = self.from_redis.load(Ordering::SeqCst);
        until_async("an answer comes from redis", async || {
            self.from_redis.load(Ordering::SeqCst) > before
        })
        .await;
    }
}

fn fastrand(below: usize) -> usize {
    use std::hash::{BuildHasher, Hasher, RandomState};
    (RandomState::new().build_hasher().finish() % below as u64) as usize
}

/// Lets a cache in use meet a fault that lasts so long.
async fn meets(
    mut scene: Scene,
    fault: &str,
    lasting: Duration,
    begin: impl AsyncFnOnce(&mut Scene),
    heal: impl AsyncFnOnce(&mut Scene),
) -> Scene {
    let traffic = Arc::new(Traffic {
        cache: scene.cache.clone(),
        pool: scene.database.pool(9),
        floor: Default::default(),
        stop: AtomicBool::new(false),
        from_redis: AtomicU64::new(0),
        reads: AtomicU64::new(0),
    });
    let mut readers = traffic.readers().await;
    traffic.until_redis_answers().await;

    begin(&mut scene).await;
    let (began, before) = (Instant::now(), traffic.reads.load(Ordering::SeqCst));
    until_async("the fault has lasted", async || began.elapsed() >= lasting).await;
    let during = traffic.reads.load(Ordering::SeqCst) - before;
    heal(&mut scene).await;

    let healed = Instant::now();
    traffic.until_redis_answers().await;
    let recovered = healed.elapsed();
    traffic.stop.store(true, Ordering::Relaxed);
    let mut took = vec![];
    while let Some(reader) = readers.join_next().await {
        took.extend(reader.unwrap());
    }
    took.sort();
    let (longest, p99) = (took[took.len() - 1], took[took.len() * 99 / 100]);
    println!(
        "{fault}: {} reads, {during} while it lasted, p99 {p99:.1?}, longest {longest:.1?}; \
         redis in use again {recovered:.1?} after it",
        took.len()
    );
    assert!(longest < HUNG, "{fault}: a read took {longest:?}");
    scene
}

const MOMENT: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_killed_and_comes_back_empty() {
    let scene = Scene::new().await;
    let kill = async |scene: &mut Scene| scene.redis.kill().unwrap();
    let back = async |scene: &mut Scene| scene.redis.restart().unwrap();
    let scene = meets(scene, "redis killed", MOMENT, kill, back).await;
    assert!(scene.cache.stats().epochs >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_comes_back_with_old_data() {
    let scene = Scene::new().await;
    let begin = async |scene: &mut Scene| {
        scene.redis.snapshot().unwrap();
        until_async("much has changed since", async || scene.cache.stats().invalidations > 500)
            .await;
        scene.redis.kill().unwrap();
    };
    let back = async |scene: &mut Scene| scene.redis.restart_with_snapshot().unwrap();
    let scene = meets(scene, "redis restarted with old data", MOMENT, begin, back).await;
    assert!(scene.cache.stats().epochs >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_frozen_for_five_seconds() {
    let scene = Scene::new().await;
    let freeze = async |scene: &mut Scene| scene.redis.pause().unwrap();
    let thaw = async |scene: &mut Scene| scene.redis.resume().unwrap();
    meets(scene, "redis frozen", Duration::from_secs(5), freeze, thaw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_flushed() {
    let scene = Scene::new().await;
    let flush = async |scene: &mut Scene| {
        for _ in 0..20 {
            scene.redis.command(&["FLUSHALL"]).unwrap();
        }
    };
    let scene = meets(scene, "FLUSHALL", MOMENT, flush, async |_: &mut Scene| {}).await;
    assert!(scene.cache.stats().epochs >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_forgets_its_scripts() {
    let scene = Scene::new().await;
    let flush = async |scene: &mut Scene| {
        for _ in 0..20 {
            scene.redis.command(&["SCRIPT", "FLUSH"]).unwrap();
        }
    };
    let scene = meets(scene, "SCRIPT FLUSH", MOMENT, flush, async |_: &mut Scene| {}).await;
    assert_eq!(scene.cache.stats().epochs, 1);
    assert_eq!(scene.cache.stats().unacknowledged, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_evicts_the_directory() {
    let scene = Scene::new().await;
    let evict = async |scene: &mut Scene| {
        scene.redis.command(&["DEL", "larder:faults:directory"]).unwrap();
    };
    let scene = meets(scene, "directory evicted", MOMENT, evict, async |_: &mut Scene| {}).await;
    assert!(scene.cache.stats().epochs >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_full_and_refuses_writes() {
    let scene = Scene::new().await;
    let fill = async |scene: &mut Scene| {
        scene.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    };
    let free = async |scene: &mut Scene| {
        scene.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    };
    let scene = meets(scene, "redis full (noeviction)", MOMENT, fill, free).await;
    assert!(scene.cache.stats().unacknowledged > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_full_and_evicts_at_will() {
    let scene = Scene::new().await;
    let fill = async |scene: &mut Scene| {
        scene.redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).unwrap();
        scene.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    };
    let free = async |scene: &mut Scene| {
        scene.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    };
    meets(scene, "redis full (allkeys-lru)", MOMENT, fill, free).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_read_only() {
    let scene = Scene::new().await;
    let demote = async |scene: &mut Scene| {
        scene.redis.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    };
    let promote = async |scene: &mut Scene| {
        scene.redis.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    };
    // Longer than the table is confirmed for.
    let scene = meets(scene, "READONLY", 5 * MOMENT, demote, promote).await;
    assert!(scene.cache.stats().unacknowledged > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_and_connections_are_killed() {
    let scene = Scene::new().await;
    let kill = async |scene: &mut Scene| {
        for _ in 0..5 {
            scene.redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).unwrap();
            scene.redis.command(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
        }
    };
    meets(scene, "CLIENT KILL", MOMENT, kill, async |_: &mut Scene| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_direction_is_stalled() {
    for way in [Way::ToServer, Way::ToClient] {
        let scene = Scene::new().await;
        let stall = async |scene: &mut Scene| scene.proxy.stall(way);
        let pass = async |scene: &mut Scene| scene.proxy.pass();
        meets(scene, &format!("stalled {way:?}"), 4 * MOMENT, stall, pass).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_two_hundred_milliseconds_late() {
    let scene = Scene::new().await;
    // Each way half of it.
    let late = async |scene: &mut Scene| scene.proxy.delay(Duration::from_millis(100));
    let pass = async |scene: &mut Scene| scene.proxy.pass();
    meets(scene, "200 ms late", 5 * MOMENT, late, pass).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_reset_in_mid_reply() {
    let scene = Scene::new().await;
    let reset = async |scene: &mut Scene| scene.proxy.reset_after(700);
    let pass = async |scene: &mut Scene| scene.proxy.pass();
    meets(scene, "reset in mid-reply", 3 * MOMENT, reset, pass).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_are_given_to_the_wrong_questions() {
    let scene = Scene::new().await;
    // A bulk reply is held back and given in the place of the next one.
    let swap = async |scene: &mut Scene| {
        let mut last: Option<Vec<u8>> = None;
        scene.proxy.rewrite(move |chunk| {
            let mut out = vec![];
            for reply in replies(chunk) {
                if reply.starts_with(b"$") && reply.len() > 100 {
                    let held = last.replace(reply.to_vec());
                    out.extend(held.as_deref().unwrap_or(reply));
                } else {
                    out.extend(reply);
                }
            }
            out
        });
    };
    let pass = async |scene: &mut Scene| scene.proxy.pass();
    let scene = meets(scene, "wrong replies", 2 * MOMENT, swap, pass).await;
    assert!(scene.cache.stats().l2_refused > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_is_cut() {
    let scene = Scene::new().await;
    let cut = async |scene: &mut Scene| scene.proxy.cut();
    let pass = async |scene: &mut Scene| scene.proxy.pass();
    meets(scene, "cut", 4 * MOMENT, cut, pass).await;
}
