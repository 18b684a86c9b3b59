//! [`Timed`]: PostgreSQL behind the cache, which is told how long each query took.

use std::sync::{Arc, Mutex, PoisonError};

use deadpool_postgres::Pool;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::measure::{Parts, Times, record, times};
use crate::clock::{Clock, Instant};
use crate::error::Error;
use crate::param::OwnedParams;
use crate::postgres::{self, Source, sealed};
use crate::rows::{ColumnSets, Image};

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

impl Source for Timed {}

impl sealed::Source for Timed {
    fn rows(
        self,
        sql: Arc<str>,
        params: OwnedParams,
        sets: Arc<ColumnSets>,
    ) -> BoxFuture<'static, Result<Image, Error>> {
        Box::pin(async move {
            // It is never closed.
            let _turn = self.turns.acquire_owned().await;
            let clock = Clock::system();
            let begun = clock.now();
            let rows = postgres::rows(self.pool, sql, params, sets).await;
            let ended = clock.now();
            if rows.is_ok() {
                let mut queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
                queries.add(begun, ended);
            }
            rows
        })
    }
}
