//! [`Timed`]: PostgreSQL behind the cache, with the time that each query took.

use std::sync::{Arc, Mutex, PoisonError};

use deadpool_postgres::Pool;
use larder::Rows;
use tokio::sync::Semaphore;

use super::clock::{self, Instant};
use super::measure::{Parts, Times, record, times};

/// What queries came to.
pub(super) struct Queries {
    pub(super) parts: Parts,
    pub(super) times: Times,
    pub(super) total_ns: u64,
}

/// A pool whose queries are timed, from having a connection to the last row.
#[derive(Clone)]
pub(super) struct Timed {
    pub(super) pool: Pool,
    /// As many as the pool has connections: whoever has a turn does not wait for one.
    pub(super) turns: Arc<Semaphore>,
    pub(super) queries: Arc<Mutex<Queries>>,
}

impl Queries {
    pub(super) fn new(parts: Parts) -> Queries {
        Queries { parts, times: times(), total_ns: 0 }
    }

    fn add(&mut self, begun: Instant, ended: Instant) {
        self.parts.query(begun, ended);
        self.total_ns += ended.saturating_sub(begun);
        record(&mut self.times, ended.saturating_sub(begun));
    }
}

impl Timed {
    /// A query that the cache has run by itself took so long, with waiting for a connection.
    pub(super) fn took(&self, begun: Instant, ended: Instant) {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner).add(begun, ended);
    }

    /// Runs the query, and counts how long it took.
    pub(super) async fn rows(self, sql: Arc<str>, key: i32) -> Result<Rows, BenchError> {
        // It is never closed.
        let _turn = self.turns.acquire_owned().await;
        let begun = clock::now();
        let client = self.pool.get().await?;
        let statement = client.prepare_cached(&sql).await?;
        let rows = Rows::query_prepared(&**client, &statement, &[&key]).await?;
        let ended = clock::now();
        let mut queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
        queries.add(begun, ended);
        Ok(rows)
    }
}

/// Any error of a query.
pub(super) type BenchError = Box<dyn std::error::Error + Send + Sync>;
