//! [`Inner`]: the shared state of a cache. The path of a read, which uses it, is in `read`,
//! `serve`, `read_through`, `lookup`, `permission` and `load`.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, select};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};

use crate::background::{Background, Settled};
use crate::cache::collector::Collector;
use crate::cache::large::SlowKeys;
use crate::cache::publisher::Publisher;
use crate::clock::Clock;
use crate::currency::Currency;
use crate::error::Error;
use crate::fleet::Fleet;
use crate::flight::Flights;
use crate::follow::Follower;
use crate::l1::{L1, Sweeper};
use crate::learn::known::Learning;
use crate::policy::Policy;
use crate::postgres::Statements;
use crate::rows::ColumnSets;
use crate::telemetry::counters::Counters;
#[cfg(feature = "metrics")]
use crate::telemetry::metrics::Reporter;
use crate::value::codec::Codec;
use crate::value::key::MacKey;
use crate::value::tag::LoadReport;

/// How far the shutdown of a cache has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    /// Leases are given back. Loads continue.
    ShutDown,
    /// The last handle is gone, so no read can be waiting. Loads end.
    Abandoned,
}

/// Runs a query once, in a task of its own.
pub(crate) type LoadFn<T> =
    Box<dyn FnOnce() -> BoxFuture<'static, Result<LoadResult<T>, Error>> + Send>;

/// What a load returns.
pub struct LoadResult<T> {
    pub(crate) value: T,
    /// What the load found that its result depends on.
    pub(crate) report: LoadReport,
    /// Whether the result may be stored.
    pub(crate) is_kept: bool,
}

impl<T> LoadResult<T> {
    /// A result that may be stored.
    pub(crate) fn new(value: T, report: LoadReport) -> LoadResult<T> {
        LoadResult { value, report, is_kept: true }
    }
}

pub(crate) struct Inner {
    pub(crate) namespace: String,
    pub(crate) policy: Policy,
    pub(crate) codec: Codec,
    pub(crate) secret: Option<MacKey>,
    pub(crate) clock: Clock,
    pub(crate) currency: Arc<Currency>,
    /// How long after its load began a result of this process is served without a confirmed table.
    pub(crate) disconnected_ttl: Duration,
    /// How long after its load began a result of this process that is followed is served, whatever
    /// the rounds of the follower prove.
    pub(crate) max_blind: Duration,
    pub(crate) l1: L1,
    /// Dropped with the cache, which stops its task.
    pub(crate) _sweeper: Sweeper,
    /// Dropped with the cache, which stops its task.
    pub(crate) follower: Option<Follower>,
    pub(crate) fleet: Option<Arc<Fleet>>,
    pub(crate) flights: Flights,
    /// The large entries whose bodies were not read from the shared tier in time.
    pub(crate) slow_reads: SlowKeys,
    /// Those whose bodies were not written to it in time.
    pub(crate) slow_writes: SlowKeys,
    /// One permit for each load that may run at the same time.
    pub(crate) loads: Semaphore,
    /// How many those are.
    pub(crate) concurrent_loads: usize,
    pub(crate) columns: Arc<ColumnSets>,
    /// What is known of the queries that learn.
    pub(crate) learning: Learning,
    /// The prepared statements of the connections that this cache loads on.
    pub(crate) statements: Arc<Statements>,
    pub(crate) counters: Arc<Counters>,
    /// Collects these counters and the statistics that are kept elsewhere.
    pub(crate) collector: Collector,
    /// Dropped with the cache, which stops its task.
    pub(crate) publisher: Option<Publisher>,
    /// Dropped with the cache, which stops its task.
    #[cfg(feature = "metrics")]
    pub(crate) _reporter: Reporter,
    pub(crate) closing: watch::Sender<Phase>,
    /// The runtime that the cache was built in, or has moved to since that one ended.
    pub(crate) background: Background,
}

impl Inner {
    /// Moves the background tasks to the caller's runtime if theirs has ended. Then it waits for
    /// Redis, as long as a request may take. Returns whether the tasks run.
    #[inline]
    pub(crate) async fn settle(&self) -> bool {
        match self.background.settle() {
            Settled::Already => {}
            Settled::Nowhere => return false,
            Settled::Moved => {
                if let Some(fleet) = &self.fleet {
                    fleet.resumed().await;
                }
            }
        }
        true
    }

    /// Waits for the permit to load, or for the notice that this load must not wait for one.
    pub(crate) async fn permit(
        &self,
        skip_permit: &Notify,
    ) -> Result<Option<SemaphorePermit<'_>>, Error> {
        let (turn, skipped) = (pin!(self.loads.acquire()), pin!(skip_permit.notified()));
        match select(turn, skipped).await {
            Either::Left((permit, _)) => permit.map(Some).map_err(|_| Error::closed()),
            Either::Right(_) => Ok(None),
        }
    }

    /// Polls a future with the timers of the cache's own runtime, if the caller is outside of any.
    pub(crate) async fn with_timers<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let ours = Handle::try_current().is_err().then(|| self.background.runtime());
            let _ours = ours.as_ref().map(Handle::enter);
            future.as_mut().poll(cx)
        })
        .await
    }
}
