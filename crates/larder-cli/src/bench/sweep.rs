//! Hit ratios by the capacity of the memory tier, without any server.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime;

use super::super::failure::Failure;
use super::interrupts::Interrupts;
use super::lru::Lru;
use super::opt::Opt;
use super::progress::Progress;
use super::report::{Sweep, SweepPoint};
use super::value::Capacity;
use larder::{Origin, Query, QueryCache};

/// How often it is looked whether the user has had enough.
const LOOK: usize = 1 << 12;

/// moka, which is in Larder's memory tier too, throws out when it has gathered so many writes, and holds as
/// many results more until then. What knows the future may hold as many: otherwise the best that any cache
/// can do would be less than what they do.
const GATHERED: u64 = 64;

/// Longer than any sweep.
const TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What all capacities are measured with.
struct Work {
    accesses: Vec<u32>,
    entry_bytes: u64,
    lru: Lru,
    opt: Opt,
    /// Accesses made, at all capacities.
    done: AtomicU64,
    interrupts: Interrupts,
}

pub(super) async fn run(
    accesses: Vec<u32>,
    capacities: &[Capacity],
    interrupts: &Interrupts,
) -> Result<Sweep, Failure> {
    let different: BTreeSet<u32> = accesses.iter().copied().collect();
    let distinct = different.len() as u64;
    let keys = different.last().map_or(0, |last| last + 1);
    drop(different);
    let capacities: BTreeSet<u64> = capacities.iter().map(|it| it.of(distinct)).collect();
    let entry_bytes = entry_bytes().await?;
    let steps = accesses.len() as u64 * capacities.len() as u64;
    let progress = Progress::begin("sweep", steps);
    let (lru, opt) = (Lru::new(&accesses, keys), Opt::new(&accesses, keys));
    let done = AtomicU64::new(0);
    let interrupts = interrupts.clone();
    let work = Arc::new(Work { accesses, entry_bytes, lru, opt, done, interrupts });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Arc::new(Mutex::new(capacities.clone()));
    let mut workers = vec![];
    for _ in 0..cores.min(capacities.len()) {
        let (work, queue) = (work.clone(), queue.clone());
        workers.push(tokio::task::spawn_blocking(move || {
            let mut points = vec![];
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
                let Some(capacity) = next else { return Ok(points) };
                points.extend(work.point(capacity, distinct)?);
            }
        }));
    }
    let shown = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            progress.at(work.done.load(Ordering::Relaxed), "");
        }
    };
    let all = futures_util::future::join_all(workers);
    let results = tokio::select! { results = all => results, () = shown => vec![] };
    let mut points = vec![];
    for result in results {
        let worker = result.map_err(|_| Failure::other("a part of the sweep has panicked"))?;
        points.extend(worker?);
    }
    points.sort_by_key(|point| point.capacity_keys);
    Ok(Sweep {
        accesses: work.accesses.len() as u64,
        keys: distinct,
        entry_bytes,
        interrupted: points.len() < capacities.len(),
        points,
    })
}

impl Work {
    /// None if it was interrupted.
    fn point(&self, capacity: u64, distinct: u64) -> Result<Option<SweepPoint>, Failure> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::other(format!("cannot start a runtime: {error}")))?;
        let Some(larder) = runtime.block_on(self.larder(capacity))? else { return Ok(None) };
        let Some(moka) = self.moka(capacity) else { return Ok(None) };
        let ratio = |hits: u64| hits as f64 / self.accesses.len().max(1) as f64;
        Ok(Some(SweepPoint {
            share: capacity as f64 / distinct.max(1) as f64,
            capacity_keys: capacity,
            capacity_bytes: capacity * self.entry_bytes,
            larder: ratio(larder),
            moka: ratio(moka),
            lru: ratio(self.lru.hits(capacity)),
            opt: ratio(self.opt.hits(&self.accesses, capacity + GATHERED)),
        }))
    }

    /// The hits of a whole cache, asked as any other.
    async fn larder(&self, capacity: u64) -> Result<Option<u64>, Failure> {
        let (_cache, query) = cache(capacity * self.entry_bytes).await?;
        let mut hits = 0;
        for chunk in self.accesses.chunks(LOOK) {
            if self.interrupts.has_come() {
                return Ok(None);
            }
            for key in chunk {
                hits += u64::from(read(&query, *key).await? == Origin::L1);
            }
            self.done.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        Ok(Some(hits))
    }

    /// The hits of moka by itself. It lives in `local`, and here as what that is compared with.
    fn moka(&self, capacity: u64) -> Option<u64> {
        let cache: moka::sync::Cache<u32, ()> = moka::sync::Cache::new(capacity);
        let mut hits = 0;
        for chunk in self.accesses.chunks(LOOK) {
            if self.interrupts.has_come() {
                return None;
            }
            for key in chunk {
                match cache.get(key) {
                    Some(()) => hits += 1,
                    None => cache.insert(*key, ()),
                }
            }
        }
        Some(hits)
    }
}

async fn cache(max_bytes: u64) -> Result<(QueryCache, Query), Failure> {
    let built = QueryCache::builder().max_bytes(max_bytes).ttl(TTL).build().await;
    let cache = built.map_err(|error| Failure::other(error.to_string()))?;
    let query = cache.query("a result");
    Ok((cache, query))
}

/// Every result is as large as any other.
async fn read(query: &Query, key: u32) -> Result<Origin, Failure> {
    let read = query.bind(i64::from(key)).load(|| async { Ok::<_, Infallible>(0_u8) });
    let answer = read.answer().await;
    answer.map(|answer| answer.origin()).map_err(|error| Failure::other(error.to_string()))
}

/// What one result takes of the bound.
async fn entry_bytes() -> Result<u64, Failure> {
    let (cache, query) = cache(1 << 20).await?;
    read(&query, 0).await?;
    let stats = cache.stats();
    match stats.entries {
        1 => Ok(stats.memory_bytes),
        _ => Err(Failure::other("the memory tier does not keep a result")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::{Kind, Workload, random};

    #[tokio::test(flavor = "multi_thread")]
    async fn larder_lies_between_lru_and_what_no_cache_can_exceed() {
        let zipf = Workload::new(Kind::Zipf { skew: 0.9 }, 2000, Arc::default(), (0, 1));
        let mut random = random(7, 0, 0);
        let accesses: Vec<u32> = (0..40_000).filter_map(|_| zipf.next(&mut random)).collect();
        let different = accesses.iter().collect::<BTreeSet<_>>().len() as u64;
        let capacities = [Capacity::Share(0.05), Capacity::Share(0.25), Capacity::Share(1.0)];
        let sweep = run(accesses, &capacities, &Interrupts::none()).await.unwrap();
        assert_eq!((sweep.accesses, sweep.keys, sweep.interrupted), (40_000, different, false));
        assert_eq!(sweep.points.len(), 3);
        for point in &sweep.points {
            assert!(point.lru <= point.opt && point.moka <= point.opt, "{point:?}");
            assert!(point.larder <= point.opt && point.larder > point.lru - 0.01, "{point:?}");
            // How near it is, is for a longer trace to tell.
            assert!((point.larder - point.moka).abs() < 0.1, "{point:?}");
        }
        // All fit: only first accesses miss.
        let all = sweep.points[2];
        assert!((all.opt - (1.0 - different as f64 / 40_000.0)).abs() < 1e-9, "{all:?}");
        assert_eq!(all.lru, all.opt);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_exceeds_the_best_however_small_the_memory_is() {
        let mut random = random(7, 0, 0);
        let zipf = Workload::new(Kind::Zipf { skew: 0.99 }, 300, Arc::default(), (0, 1));
        let zipf: Vec<u32> = (0..20_000).filter_map(|_| zipf.next(&mut random)).collect();
        let uniform = Workload::new(Kind::Zipf { skew: 0.0 }, 300, Arc::default(), (0, 1));
        let uniform: Vec<u32> = (0..20_000).filter_map(|_| uniform.next(&mut random)).collect();
        // The worst for all who do not know the future.
        let around = (0..20_000).map(|number| number % 300).collect();
        for accesses in [zipf, uniform, around] {
            let capacities = [1, 3, 6, 20, 64, 150, 290].map(Capacity::Keys);
            let sweep = run(accesses, &capacities, &Interrupts::none()).await.unwrap();
            assert_eq!(sweep.points.len(), 7);
            for point in &sweep.points {
                assert!(point.larder <= point.opt && point.moka <= point.opt, "{point:?}");
            }
        }
    }

    #[test]
    fn moka_holds_no_more_than_its_bound_and_what_it_has_gathered() {
        for capacity in [1, 3, 20, 200] {
            let out = Arc::new(AtomicU64::new(0));
            let counted = out.clone();
            let cache: moka::sync::Cache<u32, ()> = moka::sync::Cache::builder()
                .max_capacity(capacity)
                .eviction_listener(move |_, (), _| {
                    counted.fetch_add(1, Ordering::Relaxed);
                })
                .build();
            let mut most = 0;
            for key in 0..10_000 {
                cache.insert(key, ());
                most = (u64::from(key) + 1 - out.load(Ordering::Relaxed)).max(most);
            }
            assert!(most >= capacity && most <= capacity + GATHERED, "{most} of {capacity}");
        }
    }
}
