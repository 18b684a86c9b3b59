//! The share of reads that memory answers, compared with plain moka caches and an exact LRU of the
//! same number of entries.
//!
//! ```sh
//! cargo bench --bench hit_ratio                   # keys drawn by Zipf's law
//! cargo bench --bench hit_ratio -- some.trace.xz  # keys of a recorded trace
//! ```
//!
//! A trace has one big-endian 32-bit key for each access, and may be compressed with xz.

mod common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Result};
use std::path::Path;

use common::{SQL, zipf};
use larder::QueryCache;
use lzma_rust2::XzReader;

/// What larder counts for an entry beside its payload.
const OVERHEAD: usize = 384;

fn main() -> Result<()> {
    // Cargo adds `--bench`.
    let file = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let keys = match &file {
        Some(file) => trace(Path::new(file))?,
        None => zipf(100_000, 0.9, 1).take(2_000_000).map(|key| key as u32).collect(),
    };
    let distinct = keys.iter().collect::<HashSet<_>>().len();
    println!(
        "{} accesses to {distinct} keys, {}",
        keys.len(),
        file.as_deref().unwrap_or("Zipf 0.9")
    );
    println!(
        "hits in %      entries      LRU     moka   moka, weighed   larder, 4 KB   larder, 512 bytes"
    );
    for percent in [5, 10, 25] {
        let entries = distinct * percent / 100;
        let hits = [
            lru(&keys, entries),
            moka(&keys, entries, None),
            moka(&keys, entries, Some(4096)),
            // The largest that come before moka, so that these are as many as can be; and small ones,
            // of which there are few.
            larder(&keys, entries, 4096),
            larder(&keys, entries, 512),
        ];
        let [lru, moka, weighed, large, small] =
            hits.map(|hits| 100.0 * hits as f64 / keys.len() as f64);
        println!(
            "{percent:>2} % of keys {entries:>9} {lru:>8.2} {moka:>8.2} {weighed:>15.2} {large:>14.2} \
             {small:>19.2}"
        );
    }
    Ok(())
}

fn trace(file: &Path) -> Result<Vec<u32>> {
    let (mut bytes, opened) = (vec![], BufReader::new(File::open(file)?));
    if file.extension().is_some_and(|extension| extension == "xz") {
        XzReader::new(opened, true).read_to_end(&mut bytes)?
    } else {
        { opened }.read_to_end(&mut bytes)?
    };
    Ok(bytes.as_chunks().0.iter().map(|key| u32::from_be_bytes(*key)).collect())
}

fn lru(keys: &[u32], entries: usize) -> u64 {
    let (mut read, mut oldest) = (HashMap::new(), BTreeMap::new());
    let mut hits = 0;
    for (now, &key) in keys.iter().enumerate() {
        match read.insert(key, now) {
            Some(before) => {
                hits += 1;
                oldest.remove(&before);
            }
            None if read.len() > entries => {
                let (_, evicted) = oldest.pop_first().unwrap();
                read.remove(&evicted);
            }
            None => {}
        }
        oldest.insert(now, key);
    }
    hits
}

/// With a weight for each entry, or without: what it holds is the same.
fn moka(keys: &[u32], entries: usize, weight: Option<u32>) -> u64 {
    let cache = match weight {
        Some(weight) => moka::sync::Cache::builder()
            .max_capacity(entries as u64 * u64::from(weight))
            .weigher(move |_, ()| weight)
            .build(),
        None => moka::sync::Cache::new(entries as u64),
    };
    let mut hits = 0;
    for &key in keys {
        match cache.get(&key) {
            Some(()) => hits += 1,
            None => cache.insert(key, ()),
        }
    }
    hits
}

fn larder(keys: &[u32], entries: usize, weight: usize) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bytes = (entries * weight) as u64;
        let cache = QueryCache::builder().max_bytes(bytes).build().await.unwrap();
        let query = cache.query(SQL);
        // In JSON it is in quotes.
        let value = "x".repeat(weight - OVERHEAD - 2);
        for &key in keys {
            let value = value.clone();
            let load = || async { Ok::<_, std::io::Error>(value) };
            query.bind(i64::from(key)).load(load).await.unwrap();
        }
        cache.stats().l1_hits
    })
}
