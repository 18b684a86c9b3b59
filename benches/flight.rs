//! One load for all concurrent readers: its cost with one reader, with 64 and with a thousand. The
//! floors share one result as well and do nothing else: a task and a `watch` channel, and a
//! `OnceCell` that the first reader fills.
//!
//! In memory only, and on one thread: the bench measures the flight, not the scheduler.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::turns::{print_head, turns};
use common::{PassThrough, SQL, floor_key};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use larder::{Query, QueryCache};
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, watch};

type Loaded = Arc<i64>;

/// Lands when all who wait for it have come: they tell by a count.
async fn load(waiters: usize, here: Arc<AtomicUsize>, id: i64) -> i64 {
    while here.load(Ordering::Relaxed) < waiters {
        tokio::task::yield_now().await;
    }
    id
}

struct Setup {
    runtime: Runtime,
    cache: QueryCache,
    query: Query,
    moka: moka::sync::Cache<[u8; 32], Loaded, PassThrough>,
    next: i64,
}

impl Setup {
    fn new() -> Setup {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cache = runtime.block_on(QueryCache::builder().build()).unwrap();
        let moka = moka::sync::Cache::builder().max_capacity(1 << 18);
        let moka = moka.build_with_hasher(PassThrough::default());
        Setup { query: cache.query(SQL), runtime, cache, moka, next: 0 }
    }

    /// So many keys, each asked for by so many tasks at once.
    fn together<F, Fut>(&mut self, keys: u64, waiters: usize, mut one: F) -> Duration
    where
        F: FnMut(i64) -> Fut,
        Fut: FnMut(Arc<AtomicUsize>) -> tokio::task::JoinHandle<()>,
    {
        let mut took = Duration::ZERO;
        for _ in 0..keys {
            self.next += 1;
            let (mut ask, here) = (one(self.next), Arc::new(AtomicUsize::new(0)));
            took += self.runtime.block_on(async {
                let begin = Instant::now();
                let tasks: Vec<_> = (0..waiters).map(|_| ask(here.clone())).collect();
                for task in tasks {
                    task.await.unwrap();
                }
                begin.elapsed()
            });
        }
        took
    }

    fn larder(&mut self, keys: u64, waiters: usize) -> Duration {
        let (query, before) = (self.query.clone(), self.cache.stats());
        let took = self.together(keys, waiters, |id| {
            let query = query.clone();
            move |here| {
                let query = query.clone();
                tokio::spawn(async move {
                    let read = query.bind(id).bind("eu");
                    here.fetch_add(1, Ordering::Relaxed);
                    let load = move || async move {
                        Ok::<_, std::io::Error>(load(waiters, here, id).await)
                    };
                    assert_eq!(*read.load(load).await.unwrap(), id);
                })
            }
        });
        let stats = self.cache.stats();
        assert_eq!(stats.loads - before.loads, keys);
        assert_eq!(stats.coalesced - before.coalesced, keys * (waiters as u64 - 1));
        took
    }

    fn watch(&mut self, keys: u64, waiters: usize) -> Duration {
        self.together(keys, waiters, |id| {
            let mut flight: Option<watch::Receiver<Option<Loaded>>> = None;
            move |here| {
                let flight = flight.get_or_insert_with(|| {
                    let (landed, flight) = watch::channel(None);
                    let here = here.clone();
                    tokio::spawn(async move {
                        landed.send_replace(Some(Arc::new(load(waiters, here, id).await)));
                    });
                    flight
                });
                let mut flight = flight.clone();
                tokio::spawn(async move {
                    here.fetch_add(1, Ordering::Relaxed);
                    let landed = flight.wait_for(Option::is_some).await.unwrap().clone();
                    assert_eq!(*landed.unwrap(), id);
                })
            }
        })
    }

    fn once_cell(&mut self, keys: u64, waiters: usize) -> Duration {
        self.together(keys, waiters, |id| {
            let cell: Arc<OnceCell<Loaded>> = Arc::default();
            move |here| {
                let cell = cell.clone();
                tokio::spawn(async move {
                    here.fetch_add(1, Ordering::Relaxed);
                    let load = || async { Arc::new(load(waiters, here, id).await) };
                    assert_eq!(*cell.get_or_init(load).await.clone(), id);
                })
            }
        })
    }

    /// Nobody else asks. The floor is a load in a task of its own, so that whoever leaves does not
    /// end it, and an `insert` into moka.
    fn lone(&mut self, keys: u64, larder: bool) -> Duration {
        let (query, from) = (self.query.clone(), self.next);
        self.next += keys as i64;
        let ids = from..self.next;
        let moka = self.moka.clone();
        self.runtime.block_on(async move {
            let begin = Instant::now();
            for id in ids {
                if larder {
                    let load = move || async move { Ok::<_, std::io::Error>(id) };
                    assert_eq!(*query.bind(id).bind("eu").load(load).await.unwrap(), id);
                } else {
                    let key = floor_key(&[7; 32], id, "eu");
                    assert!(moka.get(&key).is_none());
                    let loaded = Arc::new(tokio::spawn(async move { id }).await.unwrap());
                    moka.insert(key, loaded);
                }
            }
            begin.elapsed()
        })
    }
}

const TOGETHER: [usize; 2] = [64, 1_000];

fn flights(c: &mut Criterion) {
    let mut setup = Setup::new();
    let mut group = c.benchmark_group("flight, nobody else asks");
    group.throughput(Throughput::Elements(1));
    group.bench_function("floor: a task, and moka", |b| {
        b.iter_custom(|keys| setup.lone(keys, false));
    });
    group.bench_function("larder", |b| b.iter_custom(|keys| setup.lone(keys, true)));
    group.finish();
    let mut group = c.benchmark_group("flight, all at once");
    for waiters in TOGETHER {
        group.throughput(Throughput::Elements(waiters as u64));
        group.bench_function(BenchmarkId::new("floor: watch", waiters), |b| {
            b.iter_custom(|keys| setup.watch(keys, waiters));
        });
        group.bench_function(BenchmarkId::new("floor: OnceCell", waiters), |b| {
            b.iter_custom(|keys| setup.once_cell(keys, waiters));
        });
        group.bench_function(BenchmarkId::new("larder", waiters), |b| {
            b.iter_custom(|keys| setup.larder(keys, waiters));
        });
    }
    group.finish();

    let setup = std::cell::RefCell::new(setup);
    print_head("floor", "larder");
    let lone = turns(
        101,
        1_000,
        [&mut |keys| setup.borrow_mut().lone(keys, false), &mut |keys| {
            setup.borrow_mut().lone(keys, true)
        }],
    );
    lone.print("a load that nobody else asks for, over a task and moka", 1, 0);
    for waiters in TOGETHER {
        let keys = 20_000 / waiters as u64;
        let each = turns(
            51,
            keys,
            [
                &mut |keys| setup.borrow_mut().watch(keys, waiters),
                &mut |keys| setup.borrow_mut().once_cell(keys, waiters),
                &mut |keys| setup.borrow_mut().larder(keys, waiters),
            ],
        );
        each.print(&format!("{waiters} tasks on one cold key, over `watch` and a task"), 2, 0);
        each.print(&format!("{waiters} tasks on one cold key, over `OnceCell`"), 2, 1);
    }
}

criterion_group!(benches, flights);
criterion_main!(benches);
