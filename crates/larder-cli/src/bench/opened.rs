//! [`Opened`]: the cache and the connections of a reader process.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deadpool_postgres::Pool;

use super::super::connection::Postgres;
use super::super::failure::with_sources;
use super::report::Mode;
use super::wire::Task;
use super::workload::Workload;
use larder::{Query, QueryCache};

/// All that a reader process needs, ready to be used.
pub(super) struct Opened {
    pub(super) task: Task,
    /// Not there in mode `none`.
    pub(super) cache: Option<QueryCache>,
    pub(super) pool: Pool,
    pub(super) workload: Workload,
    /// The query for each key, made when it is first asked for: each has a tag of its own.
    queries: Vec<OnceLock<Query>>,
}

/// What the result of a key depends on.
pub(super) fn tag(key: u32) -> String {
    format!("key:{key}")
}

impl Opened {
    pub(super) async fn new(task: Task) -> Result<Opened, String> {
        let pool = pool(&task.postgres, task.connections as usize)?;
        // Connections, statements and the server's own caches are not what is measured.
        let mut clients = vec![];
        for _ in 0..task.connections {
            let client = pool.get().await.map_err(|error| {
                format!("cannot connect to PostgreSQL: {}", with_sources(&error))
            })?;
            client.prepare_cached(&task.query).await.map_err(|error| with_sources(&error))?;
            clients.push(client);
        }
        drop(clients);
        let cache = match task.mode {
            Mode::None => None,
            _ => Some(cache(&task).await?),
        };
        let trace = task.trace.as_deref().map(accesses).transpose()?.unwrap_or_default();
        let place = (task.process, task.processes);
        let workload = Workload::new(task.workload, task.keys, Arc::new(trace), place);
        let queries = (0..task.keys).map(|_| OnceLock::new()).collect();
        Ok(Opened { task, cache, pool, workload, queries })
    }

    pub(super) fn query(&self, cache: &QueryCache, key: u32) -> &Query {
        self.queries[key as usize]
            .get_or_init(|| cache.query(self.task.query.as_str()).tag(tag(key)))
    }
}

async fn cache(task: &Task) -> Result<QueryCache, String> {
    let ttl = Duration::from_nanos(task.ttl_ns);
    let mut builder = QueryCache::builder()
        .namespace(&task.namespace)
        .max_bytes(task.l1_bytes)
        .ttl(ttl)
        .stale_while_revalidate(Duration::from_nanos(task.stale_while_revalidate_ns))
        .max_staleness(Duration::from_nanos(task.max_staleness_ns));
    if let Some(secret) = &task.secret {
        builder = builder.secret(secret.clone());
    }
    if let Some(redis) = task.redis.as_ref().filter(|_| task.mode.needs_redis()) {
        builder = builder.redis(redis);
    }
    if task.mode == Mode::L2 {
        builder = builder.memory_off();
    }
    builder.build().await.map_err(|error| with_sources(&error))
}

pub(super) fn pool(url: &str, size: usize) -> Result<Pool, String> {
    let mut postgres = Postgres::read(url).map_err(|failure| failure.message().to_owned())?;
    postgres.config.application_name("larder bench");
    let tls = postgres.connector().map_err(|failure| failure.message().to_owned())?;
    Pool::builder(postgres.manager(tls))
        .max_size(size)
        .build()
        .map_err(|error| with_sources(&error))
}

/// A trace as the benchmark has prepared it.
fn accesses(path: &Path) -> Result<Vec<u32>, String> {
    let mut bytes = vec![];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
}
