//! What a key costs, beside blake3 over the same bytes.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use larder::QueryCache;

mod common;
use common::SQL;

fn key(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cache = runtime.block_on(QueryCache::builder().build()).unwrap();
    let query = cache.query(SQL);
    // The digest of the SQL is computed at the first use.
    drop(query.params(()).load(|| async { Ok::<_, std::io::Error>(()) }));
    let mut group = c.benchmark_group("key");

    group.bench_function("blake3 of the SQL and two parameters", |b| {
        b.iter(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(black_box(SQL).as_bytes());
            hasher.update(&black_box(42_i64).to_le_bytes()).update(black_box("eu").as_bytes());
            hasher.finalize()
        });
    });
    group.bench_function("floor: keyed blake3 of two parameters", |b| {
        b.iter(|| common::floor_key(&[7; 32], black_box(42), black_box("eu")));
    });
    group.bench_function("larder: a prepared query with two parameters", |b| {
        b.iter(|| {
            let bound = query.bind(black_box(42_i64)).bind(black_box("eu"));
            // A read computes its key when it is made; dropped unawaited, it does no more.
            drop(black_box(bound.load(|| async { Ok::<_, std::io::Error>(()) })));
        });
    });
    group.bench_function("larder: a query made for one call", |b| {
        b.iter(|| {
            let query = cache.query(black_box(SQL));
            let bound = query.bind(black_box(42_i64)).bind(black_box("eu"));
            drop(black_box(bound.load(|| async { Ok::<_, std::io::Error>(()) })));
        });
    });
    group.finish();
}

criterion_group!(benches, key);
criterion_main!(benches);
