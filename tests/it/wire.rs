//! What is stored in Redis, and how does a reader treat anything else there?

use std::time::Duration;

use larder::{Origin, QueryCache};
use redis::aio::MultiplexedConnection;

use crate::servers::Redis;
use crate::support::{database, namespace, over_redis, written};

pub async fn connect() -> MultiplexedConnection {
    let client = redis::Client::open(Redis::shared().unwrap().url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

pub async fn keys(redis: &mut MultiplexedConnection, namespace: &str) -> Vec<String> {
    // An entry ends with its hash in braces.
    let pattern = format!("larder:{namespace}:*}}");
    redis::cmd("KEYS").arg(pattern).query_async(redis).await.unwrap()
}

pub async fn only_key(redis: &mut MultiplexedConnection, namespace: &str) -> String {
    let mut keys = keys(redis, namespace).await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys.remove(0)
}

/// An entry that was changed by somebody who can write checksums.
pub fn forged(mut entry: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut entry);
    let cells = 2 * usize::from(u16::from_be_bytes([entry[88], entry[89]]));
    let (head, rest) = entry.split_at(112);
    let (cells, payload) = rest.split_at(cells);
    let head = twox_hash::XxHash3_64::oneshot(&[&head[..96], cells].concat());
    let sum = twox_hash::XxHash3_64::oneshot_with_seed(head, payload);
    entry[96..104].copy_from_slice(&sum.to_be_bytes());
    entry
}

/// An entry whose life ends so much earlier: as if it had been stored that much earlier.
pub fn aged(entry: Vec<u8>, by: Duration) -> Vec<u8> {
    forged(entry, |entry| {
        let number = u64::from_be_bytes(entry[88..96].try_into().unwrap());
        // The lower six bytes.
        entry[88..96].copy_from_slice(&(number - by.as_millis() as u64).to_be_bytes());
    })
}

async fn load(cache: &QueryCache) -> Origin {
    let query = cache.query("SELECT secret FROM t WHERE name = $1");
    let read = query.params(("hunter2",)).load(|| async { Ok::<_, std::io::Error>(vec![1, 2, 3]) });
    let answer = read.answer().await.unwrap();
    assert_eq!(**answer.value(), [1, 2, 3]);
    answer.origin()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_keys_reveal_neither_sql_nor_values() {
    let (namespace, mut redis) = (namespace(), connect().await);
    let cache = over_redis(&namespace).build().await.unwrap();
    load(&cache).await;
    written(&cache, 1).await;
    let key = only_key(&mut redis, &namespace).await;
    let hash = key.strip_prefix(&format!("larder:{namespace}:3:{{")).unwrap();
    let hash = hash.strip_suffix('}').unwrap();
    assert_eq!(hash.len(), 64);
    assert!(hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
}

#[tokio::test(flavor = "multi_thread")]
async fn anything_but_the_entry_is_a_counted_miss_and_is_overwritten() {
    let (namespace, mut redis) = (namespace(), connect().await);
    let cache = over_redis(&namespace).build().await.unwrap();
    load(&cache).await;
    written(&cache, 1).await;
    let key = only_key(&mut redis, &namespace).await;
    let entry: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut redis).await.unwrap();

    let changed = |at: usize, to: u8| {
        let mut changed = entry.clone();
        changed[at] = to;
        changed
    };
    let mut put = vec![
        vec![],
        b"garbage".to_vec(),
        vec![0xff; 10_000],
        entry[..entry.len() - 1].to_vec(),
        entry[..20].to_vec(),
        [&entry[..], b"x"].concat(),
        // Another build's format, another codec, another key's fingerprint.
        changed(4, 2),
        changed(5, 77),
        // A MAC where there is none.
        changed(6, 1),
        changed(9, !entry[9]),
        changed(entry.len() - 1, b'x'),
    ];
    put.push(changed(100, !entry[100]));
    for (number, bytes) in put.into_iter().enumerate() {
        let set = redis::cmd("SET").arg(&key).arg(&bytes).arg("EX").arg(60).clone();
        set.exec_async(&mut redis).await.unwrap();
        let reader = over_redis(&namespace).build().await.unwrap();
        assert_eq!(load(&reader).await, Origin::Loaded, "case {number}");
        let stats = reader.stats();
        assert_eq!((stats.l2_refused, stats.l2_errors, stats.l2_hits), (1, 0, 0), "case {number}");
        written(&reader, 1).await;
        let after: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut redis).await.unwrap();
        assert_eq!(&after[..24], &entry[..24]);
    }

    // Another Redis type.
    redis::cmd("DEL").arg(&key).exec_async(&mut redis).await.unwrap();
    redis::cmd("RPUSH").arg(&key).arg("a").exec_async(&mut redis).await.unwrap();
    redis::cmd("EXPIRE").arg(&key).arg(60).exec_async(&mut redis).await.unwrap();
    let reader = over_redis(&namespace).build().await.unwrap();
    assert_eq!(load(&reader).await, Origin::Loaded);
    assert_eq!(reader.stats().l2_misses, 1);
    written(&reader, 1).await;

    let reader = over_redis(&namespace).build().await.unwrap();
    assert_eq!(load(&reader).await, Origin::L2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_hold_together_are_a_miss() {
    // A checksum that fits and cells that do not: only a foreign writer makes such an entry, here a
    // typed value's bytes under the key of rows.
    let (database, namespace) = (database().await, namespace());
    let (pool, mut redis) = (database.pool(1), connect().await);
    let cache = over_redis(&namespace).build().await.unwrap();
    cache.query("SELECT 1").fetch(&pool).await.unwrap();
    written(&cache, 1).await;
    let key = only_key(&mut redis, &namespace).await;
    let entry: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut redis).await.unwrap();
    let cells = 2 * usize::from(u16::from_be_bytes([entry[88], entry[89]]));
    // The length of the columns, the number of rows, and the length of the cells.
    for (at, to) in [(0, 0xff), (4, 0x7f), (8, 1)] {
        let forged = forged(entry.clone(), |entry| entry[112 + cells + at] = to);
        let set = redis::cmd("SET").arg(&key).arg(&forged).arg("EX").arg(60).clone();
        set.exec_async(&mut redis).await.unwrap();
        let reader = over_redis(&namespace).build().await.unwrap();
        let rows = reader.query("SELECT 1").fetch(&pool).await.unwrap();
        assert_eq!(rows.row(0).get::<_, i32>(0), 1);
        assert_eq!(reader.stats().l2_refused, 1);
        written(&reader, 1).await;
    }
}
