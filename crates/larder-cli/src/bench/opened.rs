//! [`Opened`]: the cache and the connections of a reader process.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio_postgres::NoTls;

use super::super::connection::Postgres;
use super::super::failure::{Failure, with_sources};
use super::report::Mode;
use super::wire::Task;
use super::workload::Workload;
use larder::{Follow, Query, QueryCache};

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
        self.queries[key as usize].get_or_init(|| {
            let query = cache.query(self.task.query.as_str());
            match self.task.follow {
                // It depends on what it reads.
                Some(_) => query.auto(),
                None => query.tag(tag(key)),
            }
        })
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
    if task.follow.is_some() {
        builder = builder.follow(follow(task)?);
    }
    let cache = builder.build().await.map_err(|error| with_sources(&error))?;
    if task.follow.is_some() {
        // Making a slot is not what is measured either.
        cache.caught_up().await.map_err(|error| {
            let why = cache.follow_stats().and_then(|stats| stats.reason);
            why.unwrap_or_else(|| with_sources(&error))
        })?;
    }
    Ok(cache)
}

fn follow(task: &Task) -> Result<Follow, String> {
    let told = |failure: Failure| failure.message().to_owned();
    let postgres = Postgres::read(&task.postgres).map_err(told)?;
    let follow = match postgres.connector().map_err(told)? {
        Some(tls) => Follow::new(postgres.config.clone(), tls),
        None => Follow::new(postgres.config.clone(), NoTls),
    };
    Ok(follow.max_blind(Duration::from_nanos(task.max_staleness_ns)))
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
