//! Is a Redis left that keeps its connections and cannot serve?

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use larder::{Origin, QueryCache, QueryCacheBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::servers::Redis;
use crate::support::{until, until_async};

/// An address that leads to the server which it names at the time of a connect.
pub struct Service {
    pub port: u16,
    target: Arc<AtomicU16>,
    accepting: JoinHandle<()>,
}

impl Service {
    pub async fn start(redis: &Redis) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(redis.port().unwrap()));
        let accepting = tokio::spawn({
            let target = target.clone();
            async move {
                loop {
                    let (mut client, _) = listener.accept().await.unwrap();
                    let target = target.load(Ordering::SeqCst);
                    tokio::spawn(async move {
                        let mut server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    });
                }
            }
        });
        Service { port, target, accepting }
    }

    pub fn name(&self, redis: &Redis) {
        self.target.store(redis.port().unwrap(), Ordering::SeqCst);
    }

    fn cache(&self, credentials: &str) -> QueryCacheBuilder {
        QueryCache::builder()
            .namespace("demotion")
            .redis(format!("redis://{credentials}127.0.0.1:{}", self.port))
            // A busy machine must not be the reason why a connection is given up.
            .redis_timeout(Duration::from_secs(10))
            // Every read of these tests is to ask Redis: memory keeps nothing for long.
            .l1_ttl(Duration::from_millis(1))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn read(cache: &QueryCache) -> Origin {
    let query = cache.query("SELECT 1").tag("t");
    query.load(|| async { Ok::<_, std::io::Error>(1_i32) }).answer().await.unwrap().origin()
}

async fn until_redis_answers(cache: &QueryCache) {
    until_async("an answer comes from redis", async || read(cache).await == Origin::L2).await;
}

/// The connections of a server, without those of the test.
fn connections(redis: &Redis, kind: &str) -> usize {
    let list = redis.command(&["CLIENT", "LIST", "TYPE", kind]).unwrap();
    list.lines().filter(|line| !line.contains("cmd=client") && !line.is_empty()).count()
}

/// Makes a server one that cannot serve, and keeps its connections.
type Demote = fn(&Redis, &Redis);

fn replica(old: &Redis, new: &Redis) {
    let port = new.port().unwrap().to_string();
    old.command(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
}

fn replica_without_master(old: &Redis, _: &Redis) {
    old.command(&["CONFIG", "SET", "replica-serve-stale-data", "no"]).unwrap();
    old.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
}

fn without_replicas(old: &Redis, _: &Redis) {
    old.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).unwrap();
}

/// A snapshot fails, and the server takes no writes.
fn without_disk(old: &Redis, _: &Redis) {
    fs::create_dir_all(old.directory().join("dump.rdb/full")).unwrap();
    old.command(&["CONFIG", "SET", "save", "3600 1"]).unwrap();
    old.command(&["BGSAVE"]).unwrap();
    let failed = crate::servers::wait_for(Duration::from_secs(30), || {
        let info = old.command(&["INFO", "persistence"]).unwrap();
        info.contains("rdb_last_bgsave_status:err").then_some(())
    });
    assert!(failed.is_some(), "the snapshot succeeds");
}

fn without_a_right(old: &Redis, _: &Redis) {
    old.command(&["ACL", "SETUSER", "app", "-persist"]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_serve_is_left_for_the_one_that_the_address_names() {
    for (why, demote, is_of_credentials) in [
        ("READONLY", replica as Demote, false),
        ("MASTERDOWN", replica_without_master, false),
        ("NOREPLICAS", without_replicas, false),
        ("MISCONF", without_disk, false),
        ("NOPERM", without_a_right, true),
    ] {
        let (old, new) = (Redis::start_tcp().unwrap(), Redis::start_tcp().unwrap());
        for redis in [&old, &new] {
            let user = ["ACL", "SETUSER", "app", "on", ">hunter2", "~*", "&*", "+@all"];
            redis.command(&user).unwrap();
        }
        let service = Service::start(&old).await;
        let cache = service.cache("app:hunter2@").build().await.unwrap();
        until_redis_answers(&cache).await;
        until("the cache listens", || connections(&old, "pubsub") == 1).await;
        assert_eq!(cache.stats().refused_connections, 0, "{why}");

        demote(&old, &new);
        service.name(&new);
        let begin = Instant::now();
        // Until its beat is refused, entries are read from the old server, as they may be.
        until_async("the old server is left", async || {
            read(&cache).await;
            let stats = cache.stats();
            stats.refused_credentials + stats.refused_connections > 0
        })
        .await;
        cache.invalidate(["t"]).await.acknowledged().unwrap();
        until_redis_answers(&cache).await;
        let took = begin.elapsed();
        println!("{why}: used again after {took:.1?}");
        assert!(took < Duration::from_secs(5), "{why}: {took:?}");
        until("the cache listens to the new server", || connections(&new, "pubsub") == 1).await;
        until("it has left the old server", || {
            connections(&old, "pubsub") + connections(&old, "normal") == 0
        })
        .await;
        let stats = cache.stats();
        let refused = (stats.refused_credentials, stats.refused_connections);
        assert_eq!((refused.0 > 0, refused.1 > 0), (is_of_credentials, !is_of_credentials));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_during_a_demotion_reaches_the_new_server() {
    let (old, new) = (Redis::start_tcp().unwrap(), Redis::start_tcp().unwrap());
    let service = Service::start(&old).await;
    let cache = service.cache("").build().await.unwrap();
    until_redis_answers(&cache).await;
    replica(&old, &new);
    service.name(&new);
    // No read and no beat has noticed it before.
    cache.invalidate(["t"]).await.acknowledged().unwrap();
    assert_eq!(cache.stats().unacknowledged, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_lacks_its_replicas_acknowledges_no_invalidation() {
    let redis = Redis::start_tcp().unwrap();
    let service = Service::start(&redis).await;
    let cache = service.cache("").build().await.unwrap();
    until_redis_answers(&cache).await;
    without_replicas(&redis, &redis);
    assert!(!cache.invalidate(["t"]).await.is_acknowledged());
    assert_eq!(cache.stats().unacknowledged, 1);
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).unwrap();
    until_redis_answers(&cache).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demoted_server_is_not_used_while_the_address_still_names_it() {
    let (old, new) = (Redis::start_tcp().unwrap(), Redis::start_tcp().unwrap());
    let service = Service::start(&old).await;
    let cache = service.cache("").build().await.unwrap();
    until_redis_answers(&cache).await;
    replica(&old, &new);
    until_async("a new connection was refused as well", async || {
        assert_ne!(read(&cache).await, Origin::Coalesced);
        cache.stats().refused_connections >= 3
    })
    .await;
    let errors = cache.stats().l2_errors;
    read(&cache).await;
    // Passed over, without a round trip.
    assert!(cache.stats().l2_errors > errors);
    service.name(&new);
    until_redis_answers(&cache).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loads_its_data_is_not_used_until_it_has() {
    let (old, source) = (Redis::start_tcp().unwrap(), Redis::start_tcp().unwrap());
    source.command(&["CONFIG", "SET", "rdbcompression", "no"]).unwrap();
    let fill = "for n = 1, 100 do redis.call('SETRANGE', 'key:' .. n, 262143, 'x') end";
    source.command(&["EVAL", fill, "0"]).unwrap();
    // It loads for eight seconds, and answers after each 2 MiB.
    let new = Redis::start_tcp_with(&["--key-load-delay", "80000"]).unwrap();
    let service = Service::start(&old).await;
    let cache = service.cache("").build().await.unwrap();
    until_redis_answers(&cache).await;
    let port = source.port().unwrap().to_string();
    new.command(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    let is_loading =
        || new.command(&["GET", "a"]).is_err_and(|it| it.to_string().contains("LOADING"));
    until("the new server loads", is_loading).await;
    service.name(&new);
    old.command(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
    until_async("a connection was refused", async || {
        assert_ne!(read(&cache).await, Origin::Coalesced);
        cache.stats().refused_connections > 0
    })
    .await;
    assert!(is_loading());
    assert!(!cache.invalidate(["t"]).await.is_acknowledged());
    // Redis 6.2 refuses this as well, and loads to the end.
    let _ = new.command(&["CONFIG", "SET", "key-load-delay", "0"]);
    until("the new server is a master", || new.command(&["REPLICAOF", "NO", "ONE"]).is_ok()).await;
    until_redis_answers(&cache).await;
    cache.invalidate(["t"]).await.acknowledged().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_cluster_that_is_down_is_not_used() {
    let old = Redis::start_tcp().unwrap();
    // It has no slot yet: CLUSTERDOWN.
    let node = Redis::start_tcp_with(&["--cluster-enabled", "yes"]).unwrap();
    let service = Service::start(&old).await;
    let cache = service.cache("").build().await.unwrap();
    until_redis_answers(&cache).await;
    service.name(&node);
    old.command(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
    until_async("a connection was refused", async || {
        assert_ne!(read(&cache).await, Origin::Coalesced);
        cache.stats().refused_connections > 0
    })
    .await;
    let error = service.cache("").build().await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("CLUSTERDOWN"), "{error}");
    service.name(&old);
    until_redis_answers(&cache).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_one_command_keeps_the_connection() {
    let redis = Redis::start_tcp().unwrap();
    let service = Service::start(&redis).await;
    let cache = service.cache("").build().await.unwrap();
    until_redis_answers(&cache).await;
    let ids = || {
        let list = redis.command(&["CLIENT", "LIST"]).unwrap();
        let lines = list.lines().filter(|line| !line.contains("cmd=client"));
        lines.map(|line| line.split_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>()
    };
    let before = ids();
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    cache.invalidate(["t"]).await.acknowledged().unwrap_err();
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    until_redis_answers(&cache).await;
    assert_eq!(ids(), before);
    assert_eq!(cache.stats().refused_connections, 0);
}
