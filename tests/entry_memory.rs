//! What does an entry in memory take?
//!
//! A program of its own, with one test: the allocator's counts belong to the whole process.

use std::time::Duration;

use allocation_counter::measure;
use larder::QueryCache;
use tokio::runtime::{Builder, Runtime};

/// 180 bytes, as a report's SQL may be.
const SQL: &str = "SELECT region, status, count(*) AS orders, sum(amount) AS total, avg(amount) AS mean \
                   FROM orders WHERE customer_id = $1 AND region = $2 GROUP BY region, status ORDER BY 1, 2";

/// All on this thread, so that all is counted.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn cache(runtime: &Runtime) -> QueryCache {
    let ttl = Duration::from_secs(3600);
    runtime.block_on(QueryCache::builder().max_bytes(1 << 40).ttl(ttl).build()).unwrap()
}

#[test]
fn an_entry_in_memory_takes_at_most_400_bytes_beside_its_payload() {
    const ENTRIES: i64 = 20_000;
    let runtime = runtime();
    let cache = cache(&runtime);
    let query = cache.query(SQL);
    // What the first entries bring with them: moka's queues, the query's digest.
    let fill = |from: i64, to: i64, payload: usize| {
        runtime.block_on(async {
            for number in from..to {
                let load = move || async move {
                    Ok::<_, std::io::Error>(vec![7_u8; payload].into_boxed_slice())
                };
                query.bind(number).load(load).await.unwrap();
            }
        });
    };
    fill(-2_000, 0, 100);
    let counted = measure(|| fill(0, ENTRIES, 100));
    let beside = counted.bytes_current / ENTRIES - 100;
    println!("an entry takes {beside} bytes beside its payload");
    assert!((0..=400).contains(&beside), "{beside} bytes beside the payload: {counted:?}");
}
