//! The cost of a key, compared with blake3 over the same bytes.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use larder::QueryCache;

mod common;
use common::SQL;
use common::turns::{print_head, repeat, turns};

fn key(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cache = runtime.block_on(QueryCache::builder().build()).unwrap();
    let query = cache.query(SQL);
    // The digest of the SQL is computed at the first use.
    drop(query.params(()).load(|| async { Ok::<_, std::io::Error>(()) }));
    let all = || {
        let mut hasher = blake3::Hasher::new();
        hasher.update(black_box(SQL).as_bytes());
        hasher.update(&black_box(42_i64).to_le_bytes()).update(black_box("eu").as_bytes());
        hasher.finalize()
    };
    let floor = || common::floor_key(&[7; 32], black_box(42), black_box("eu"));
    // A read computes its key when it is made; dropped unawaited, it does no more.
    let prepared = || {
        let bound = query.bind(black_box(42_i64)).bind(black_box("eu"));
        drop(black_box(bound.load(|| async { Ok::<_, std::io::Error>(()) })));
    };
    let made = || {
        let query = cache.query(black_box(SQL));
        let bound = query.bind(black_box(42_i64)).bind(black_box("eu"));
        drop(black_box(bound.load(|| async { Ok::<_, std::io::Error>(()) })));
    };
    let mut group = c.benchmark_group("key");
    group.throughput(Throughput::Elements(1));
    group.bench_function("blake3 of the SQL and two parameters", |b| b.iter(all));
    group.bench_function("floor: keyed blake3 of two parameters", |b| b.iter(floor));
    group.bench_function("larder: a prepared query with two parameters", |b| b.iter(prepared));
    group.bench_function("larder: a query made for one call", |b| b.iter(made));
    group.finish();

    print_head("floor", "larder");
    let each = turns(
        101,
        20_000,
        [
            &mut |count| repeat(count, floor),
            &mut |count| repeat(count, prepared),
            &mut |count| repeat(count, all),
            &mut |count| repeat(count, made),
        ],
    );
    each.print("key of two parameters, prepared query", 1, 0);
    each.print("the same, query made for the call, over blake3 of SQL and parameters", 3, 2);
}

criterion_group!(benches, key);
criterion_main!(benches);
