//! Encoding and decoding of typed values, compared with the raw formats; and `Rows`, which need
//! neither.
//!
//! The codec has no public interface of its own. The bench measures a cache over `MemoryStore`,
//! which costs no network: a load until its result is stored, and a read of a stored result. Each
//! is measured once with the value and once with a number in its place, which shows the cost
//! without the value.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::turns::{Turns, print_head, repeat, turns};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use larder::testing::{ManualClock, MemoryStore};
use larder::{Codec, Origin, Query, QueryCache};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use test_servers::{Database, Postgres};
use tokio::runtime::Runtime;

/// 103 bytes as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line {
    region: String,
    status: String,
    customer: String,
    orders: i64,
    total: f64,
}

fn lines(count: i64) -> Vec<Line> {
    let line = |n: i64| Line {
        region: "eu".into(),
        status: format!("status {}", n % 10),
        customer: format!(
            "{:032x}",
            (n as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
        ),
        orders: n,
        total: n as f64 * 0.5,
    };
    (0..count).map(line).collect()
}

/// The same as PostgreSQL sends it.
const ROWS: &str = "SELECT 'eu' AS region, 'status ' || n % 10 AS status, md5(n::text) AS customer, \
     n::int8 AS orders, n * 0.5::float8 AS total FROM generate_series(1, $1::int8) AS n";

#[derive(Clone, Copy)]
enum Raw {
    Json,
    MessagePack,
}

impl Raw {
    fn codec(self) -> Codec {
        match self {
            Raw::Json => Codec::Json,
            Raw::MessagePack => Codec::MessagePack,
        }
    }

    fn encode<T: Serialize>(self, value: &T) -> Vec<u8> {
        match self {
            Raw::Json => serde_json::to_vec(value).unwrap(),
            Raw::MessagePack => rmp_serde::to_vec_named(value).unwrap(),
        }
    }

    fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> T {
        match self {
            Raw::Json => serde_json::from_slice(bytes).unwrap(),
            Raw::MessagePack => rmp_serde::from_slice(bytes).unwrap(),
        }
    }
}

struct Setup {
    runtime: Arc<Runtime>,
    clock: ManualClock,
    cache: QueryCache,
    query: Query,
    database: Database,
    next: i64,
}

impl Setup {
    fn new(runtime: &Arc<Runtime>, database: &Database, codec: Codec) -> Setup {
        let clock = ManualClock::new();
        let store = MemoryStore::with_clock(clock.clone());
        let cache = QueryCache::builder()
            .memory_store(&store)
            .codec(codec)
            .ttl(Duration::from_secs(365 * 24 * 3600))
            .l1_ttl(Duration::from_secs(1))
            // The clock runs ahead of the beats.
            .max_staleness(Duration::from_secs(3600))
            // What was stored to measure it need not stay in memory.
            .max_bytes(8 << 20)
            .clock(clock.clone());
        let cache = runtime.block_on(cache.build()).unwrap();
        let query = cache.query(ROWS);
        let (runtime, database) = (runtime.clone(), database.clone());
        Setup { runtime, clock, cache, query, database, next: 0 }
    }

    /// Loads so often a value that it is given, until it is stored.
    fn store<T>(&mut self, count: u64, value: &T) -> Duration
    where
        T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        // Under sixteen keys: a store that grows would be measured as well.
        self.next = (self.next + 1) % 16;
        let query = self.query.clone().schema_version(1);
        let (cache, key) = (&self.cache, self.next);
        self.runtime.block_on(async {
            let mut took = Duration::ZERO;
            for _ in 0..count {
                // Copied outside of the time that is taken.
                let (value, before) = (value.clone(), cache.stats().l2_writes);
                cache.invalidate_query(&query).await.acknowledged().unwrap();
                let begin = Instant::now();
                let load = move || async move { Ok::<_, std::io::Error>(value) };
                let answer = query.bind(key).load(load).answer().await.unwrap();
                while cache.stats().l2_writes == before {
                    tokio::task::yield_now().await;
                }
                took += begin.elapsed();
                assert_eq!(answer.origin(), Origin::Loaded);
            }
            took
        })
    }

    /// Stores a value once, and reads it so often.
    fn read<T>(&self, count: u64, value: &T) -> Duration
    where
        T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        self.runtime.block_on(async {
            let mut took = Duration::ZERO;
            for number in 0..=count {
                self.clock.advance(Duration::from_secs(2));
                let (value, written) = (value.clone(), self.cache.stats().l2_writes);
                let begin = Instant::now();
                let load = move || async move { Ok::<_, std::io::Error>(value) };
                let answer = self.query.bind(-1_i64).load(load).answer().await.unwrap();
                let each = begin.elapsed();
                if answer.origin() == Origin::Loaded {
                    assert_eq!(number, 0, "it is stored");
                    while self.cache.stats().l2_writes == written {
                        tokio::task::yield_now().await;
                    }
                } else {
                    assert_eq!(answer.origin(), Origin::L2);
                    took += each * u32::from(number > 0);
                }
            }
            took
        })
    }

    /// The same with rows.
    fn read_rows(&self, count: u64, rows: i64) -> Duration {
        let pool = self.database.pool(1);
        self.runtime.block_on(async {
            let mut took = Duration::ZERO;
            for number in 0..=count {
                self.clock.advance(Duration::from_secs(2));
                let written = self.cache.stats().l2_writes;
                let begin = Instant::now();
                let answer = self.query.bind(rows).fetch(&pool).answer().await.unwrap();
                let each = begin.elapsed();
                if answer.origin() == Origin::Loaded {
                    assert_eq!(number, 0, "it is stored");
                    while self.cache.stats().l2_writes == written {
                        tokio::task::yield_now().await;
                    }
                } else {
                    assert_eq!(answer.origin(), Origin::L2);
                    took += each * u32::from(number > 0);
                }
            }
            took
        })
    }
}

const SIZES: [(&str, i64, u64); 2] = [("1 KB", 10, 200), ("100 KB", 1_000, 8)];
const FORMATS: [(&str, Raw); 2] = [("JSON", Raw::Json), ("MessagePack", Raw::MessagePack)];

fn codecs(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let runtime = Arc::new(runtime);
    let database = runtime.block_on(Postgres::shared().unwrap().database()).unwrap();
    for (format, raw) in FORMATS {
        let mut setup = Setup::new(&runtime, &database, raw.codec());
        for (size, count, _) in SIZES {
            let value = lines(count);
            let bytes = raw.encode(&value);
            let mut group = c.benchmark_group(format!("codec, {format}"));
            group.throughput(Throughput::Bytes(bytes.len() as u64));
            group.bench_function(BenchmarkId::new("floor: encode", size), |b| {
                b.iter(|| raw.encode(&value));
            });
            group.bench_function(BenchmarkId::new("floor: decode", size), |b| {
                b.iter(|| raw.decode::<Vec<Line>>(&bytes));
            });
            group.bench_function(BenchmarkId::new("larder: load and store", size), |b| {
                b.iter_custom(|count| setup.store(count, &value));
            });
            group.bench_function(BenchmarkId::new("larder: read what is stored", size), |b| {
                b.iter_custom(|count| setup.read(count, &value));
            });
            group.finish();
        }
    }

    print_head("floor", "larder");
    for (format, raw) in FORMATS {
        for (size, rows, count) in SIZES {
            let each = compare(&runtime, &database, raw, rows, count);
            each.print(&format!("{size} as {format}: load and store, over encoding"), 2, 0);
            each.print(&format!("{size} as {format}: read what is stored, over decoding"), 3, 1);
            if rows == 10 {
                each.print("(the way alone: load and store a number, over encoding)", 4, 0);
                each.print("(the way alone: read a stored number, over decoding)", 5, 1);
            }
        }
    }
    for (size, rows, count) in SIZES {
        let each = compare(&runtime, &database, Raw::MessagePack, rows, count);
        each.print(
            &format!("{size} as `Rows`: read what is stored, over decoding MessagePack"),
            6,
            1,
        );
    }
}

fn compare(
    runtime: &Arc<Runtime>,
    database: &Database,
    raw: Raw,
    rows: i64,
    count: u64,
) -> Turns<7> {
    let value = lines(rows);
    let bytes = raw.encode(&value);
    let mut storing = Setup::new(runtime, database, raw.codec());
    let mut storing_number = Setup::new(runtime, database, raw.codec());
    let reading = Setup::new(runtime, database, raw.codec());
    let reading_number = Setup::new(runtime, database, raw.codec());
    turns(
        31,
        count,
        [
            &mut |count| repeat(count, || raw.encode(&value)),
            &mut |count| repeat(count, || raw.decode::<Vec<Line>>(&bytes)),
            &mut |count| storing.store(count, &value),
            &mut |count| reading.read(count, &value),
            &mut |count| storing_number.store(count, &7_i64),
            &mut |count| reading_number.read(count, &7_i64),
            &mut |count| reading.read_rows(count, rows),
        ],
    )
}

criterion_group!(benches, codecs);
criterion_main!(benches);
