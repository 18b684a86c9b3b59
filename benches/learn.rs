//! Loads that learn what they depend on, beside loads whose tags are declared: of a query whose
//! relations are the same for all parameters, and of one that calls a function.
//!
//! Each load has another parameter, so none is a hit. There is no shared tier: what is measured is the
//! load alone. Hits in memory are measured besides.

mod common;

use std::time::{Duration, Instant};

use common::turns::{print_head, turns};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use deadpool_postgres::Pool;
use larder::{Query, QueryCache};
use test_servers::Postgres;
use tokio::runtime::Runtime;

const STATIC: &str = "SELECT cents FROM accounts WHERE id = $1::int8 % 10000 + 1";
const DYNAMIC: &str = "SELECT cents_of($1::int8 % 10000 + 1)";
const SCHEMA: &str = "CREATE TABLE accounts (id int8 PRIMARY KEY, cents int8);
    INSERT INTO accounts SELECT n, 0 FROM generate_series(1, 10000) n; ANALYZE accounts;
    CREATE FUNCTION cents_of(int8) RETURNS int8 LANGUAGE plpgsql STABLE AS
      $$ BEGIN RETURN (SELECT cents FROM accounts WHERE id = $1); END $$";

struct Setup {
    runtime: Runtime,
    cache: QueryCache,
    pool: Pool,
    _postgres: Postgres,
}

impl Setup {
    fn new() -> Setup {
        let runtime = Runtime::new().unwrap();
        let postgres = Postgres::start().unwrap();
        let (cache, pool) = runtime.block_on(async {
            let cache = QueryCache::builder().max_bytes(8 << 20).build().await.unwrap();
            let pool = postgres.database().await.unwrap().pool(1);
            pool.get().await.unwrap().batch_execute(SCHEMA).await.unwrap();
            (cache, pool)
        });
        Setup { runtime, cache, pool, _postgres: postgres }
    }

    fn declared(&self, sql: &str) -> Query {
        self.cache.query(sql).table("accounts")
    }

    fn learned(&self, sql: &str) -> Query {
        self.cache.query(sql).auto()
    }

    fn loads(&self, query: &Query, count: u64) -> Duration {
        let (query, pool) = (query.clone(), self.pool.clone());
        let before = self.cache.stats();
        let task = self.runtime.spawn(async move {
            // Another one each time, also between turns.
            let first = fastrand::i64(0..i64::MAX / 2);
            let begin = Instant::now();
            for n in 0..count {
                query.bind(first + n as i64).fetch(&pool).await.unwrap();
            }
            begin.elapsed()
        });
        let took = self.runtime.block_on(task).unwrap();
        let after = self.cache.stats();
        assert_eq!((after.loads - before.loads, after.unfollowed), (count, 0));
        took
    }
}

impl Setup {
    /// Reads of one result in memory.
    fn hits(&self, query: &Query, count: u64) -> Duration {
        let (query, pool) = (query.clone(), self.pool.clone());
        let task = self.runtime.spawn(async move {
            for _ in 0..2 {
                query.bind(1_i64).fetch(&pool).await.unwrap();
            }
            let begin = Instant::now();
            for _ in 0..count {
                std::hint::black_box(query.bind(1_i64).fetch(&pool).await.unwrap());
            }
            begin.elapsed()
        });
        self.runtime.block_on(task).unwrap()
    }
}

const TURNS: usize = 51;
const EACH: u64 = 200;
const HITS: u64 = 100_000;

fn loads(c: &mut Criterion) {
    let setup = Setup::new();
    let mut group = c.benchmark_group("learn");
    group.throughput(Throughput::Elements(1));
    let all = [
        ("static, declared", setup.declared(STATIC)),
        ("static, learned", setup.learned(STATIC)),
        ("dynamic, declared", setup.declared(DYNAMIC)),
        ("dynamic, learned", setup.learned(DYNAMIC)),
    ];
    for (name, query) in &all {
        group.bench_function(*name, |b| b.iter_custom(|n| setup.loads(query, n)));
    }
    group.finish();

    print_head("declared", "learned");
    for (at, what) in [(0, "a static query"), (2, "a dynamic query")] {
        let each = turns(
            TURNS,
            EACH,
            [&mut |n| setup.loads(&all[at].1, n), &mut |n| setup.loads(&all[at + 1].1, n)],
        );
        each.print(
            &format!("a load of {what} that learns, over one whose table is declared"),
            1,
            0,
        );
    }
    let (declared, learned) = (&all[0].1, &all[1].1);
    let each =
        turns(TURNS, HITS, [&mut |n| setup.hits(declared, n), &mut |n| setup.hits(learned, n)]);
    each.print("a hit in memory of a query that learns, over one whose table is declared", 1, 0);
}

criterion_group!(benches, loads);
criterion_main!(benches);
