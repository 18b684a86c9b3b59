//! `Rows`, compared with the rows of tokio-postgres: fetching them, reading their cells, and making
//! structs of them. The bench `codec` measures opening them from bytes.

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::turns::{print_head, repeat, turns};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use deadpool_postgres::Pool;
use larder::{Origin, Query, QueryCache, Rows};
use serde::Deserialize;
use test_servers::Postgres;
use tokio::runtime::Runtime;
use tokio_postgres::Row;

const SQL: &str = "SELECT 'eu' AS region, 'status ' || n % 10 AS status, md5(n::text) AS customer, \
     n::int8 AS orders, n * 0.5::float8 AS total FROM generate_series(1, $1::int8) AS n \
     WHERE $2::int8 IS NOT NULL";

#[derive(Debug, PartialEq, Deserialize)]
struct Line {
    region: String,
    status: String,
    customer: String,
    orders: i64,
    total: f64,
}

struct Setup {
    runtime: Runtime,
    pool: Pool,
    query: Query,
    /// A parameter that no result has had.
    next: i64,
}

impl Setup {
    fn new() -> Setup {
        let runtime = Runtime::new().unwrap();
        let database = runtime.block_on(Postgres::shared().unwrap().database()).unwrap();
        // In memory alone: what is measured is not the way into Redis.
        let cache = runtime.block_on(QueryCache::builder().build()).unwrap();
        Setup { pool: database.pool(2), query: cache.query(SQL), runtime, next: 0 }
    }

    fn raw(&self, count: u64, rows: i64) -> Duration {
        let pool = self.pool.clone();
        let task = self.runtime.spawn(async move {
            let begin = Instant::now();
            for _ in 0..count {
                black_box(ask(&pool, rows).await);
            }
            begin.elapsed()
        });
        self.runtime.block_on(task).unwrap()
    }

    fn larder(&mut self, count: u64, rows: i64) -> Duration {
        let (query, pool, from) = (self.query.clone(), self.pool.clone(), self.next);
        self.next += count as i64;
        let task = self.runtime.spawn(async move {
            let begin = Instant::now();
            for number in from..from + count as i64 {
                let answer = query.bind(rows).bind(number).fetch(&pool).answer().await.unwrap();
                assert_eq!(answer.origin(), Origin::Loaded);
            }
            begin.elapsed()
        });
        self.runtime.block_on(task).unwrap()
    }

    /// The same result in both forms.
    fn both(&self, rows: i64) -> (Vec<Row>, Rows) {
        self.runtime.block_on(async {
            let raw = ask(&self.pool, rows).await;
            (raw, self.query.bind(rows).bind(-1_i64).fetch(&self.pool).await.unwrap())
        })
    }
}

async fn ask(pool: &Pool, rows: i64) -> Vec<Row> {
    let client = pool.get().await.unwrap();
    let statement = client.prepare_cached(SQL).await.unwrap();
    client.query(&statement, &[&rows, &0_i64]).await.unwrap()
}

/// Reads all five cells of all rows. Both kinds of row have the same `get`.
macro_rules! read {
    ($rows:expr, $($column:expr),*) => {{
        let mut sum = 0;
        for row in $rows {
            let [region, status, customer, orders, total] = [$($column),*];
            sum += row.get::<_, &str>(region).len() + row.get::<_, &str>(status).len();
            sum += row.get::<_, &str>(customer).len() + row.get::<_, i64>(orders) as usize;
            sum += row.get::<_, f64>(total) as usize;
        }
        sum
    }};
}

/// Makes structs of all rows, as one writes it by hand.
macro_rules! map {
    ($rows:expr) => {
        $rows
            .iter()
            .map(|row| Line {
                region: row.get(0),
                status: row.get(1),
                customer: row.get(2),
                orders: row.get(3),
                total: row.get(4),
            })
            .collect::<Vec<_>>()
    };
}

const SIZES: [(i64, u64); 2] = [(10, 1_000), (1_000, 20)];

fn rows(c: &mut Criterion) {
    let mut setup = Setup::new();
    let mut group = c.benchmark_group("rows, fetched");
    for (rows, _) in SIZES {
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(BenchmarkId::new("floor: tokio-postgres", rows), |b| {
            b.iter_custom(|count| setup.raw(count, rows));
        });
        group.bench_function(BenchmarkId::new("larder", rows), |b| {
            b.iter_custom(|count| setup.larder(count, rows));
        });
    }
    group.finish();
    for (rows, _) in SIZES {
        let (raw, ours) = setup.both(rows);
        assert_eq!(map!(raw), ours.deserialize::<Line>().unwrap());
        let mut group = c.benchmark_group("rows, read");
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(BenchmarkId::new("floor: Row, by number", rows), |b| {
            b.iter(|| read!(&raw, 0, 1, 2, 3, 4));
        });
        group.bench_function(BenchmarkId::new("larder, by number", rows), |b| {
            b.iter(|| read!(&ours, 0, 1, 2, 3, 4));
        });
        group.bench_function(BenchmarkId::new("floor: Row, mapped by hand", rows), |b| {
            b.iter(|| map!(raw));
        });
        group.bench_function(BenchmarkId::new("larder, deserialized", rows), |b| {
            b.iter(|| ours.deserialize::<Line>().unwrap());
        });
        group.finish();
    }

    print_head("floor", "larder");
    for (rows, count) in SIZES {
        let setup = std::cell::RefCell::new(&mut setup);
        let each = turns(
            51,
            count.min(200),
            [&mut |count| setup.borrow().raw(count, rows), &mut |count| {
                setup.borrow_mut().larder(count, rows)
            }],
        );
        each.print(&format!("{rows} rows fetched, over `query` of tokio-postgres"), 1, 0);
    }
    for (rows, count) in SIZES {
        let (raw, ours) = setup.both(rows);
        let each = turns(
            101,
            count,
            [
                &mut |count| repeat(count, || read!(&raw, 0, 1, 2, 3, 4)),
                &mut |count| repeat(count, || read!(&ours, 0, 1, 2, 3, 4)),
                &mut |count| {
                    repeat(count, || read!(&raw, "region", "status", "customer", "orders", "total"))
                },
                &mut |count| {
                    repeat(count, || {
                        read!(&ours, "region", "status", "customer", "orders", "total")
                    })
                },
                &mut |count| repeat(count, || map!(raw)),
                &mut |count| repeat(count, || map!(ours)),
                &mut |count| repeat(count, || ours.deserialize::<Line>().unwrap()),
            ],
        );
        each.print(&format!("all cells of {rows} rows, by number"), 1, 0);
        each.print(&format!("all cells of {rows} rows, by name"), 3, 2);
        each.print(&format!("structs of {rows} rows by hand, over the same from `Row`"), 5, 4);
        each.print(&format!("structs of {rows} rows by serde, over by hand from `Row`"), 6, 4);
    }
}

criterion_group!(benches, rows);
criterion_main!(benches);
