//! [`Inner`]: the shared state of a cache. The path of a read, which uses it, is in `read`,
//! `serve`, `read_through`, `lookup`, `permission` and `load`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::cache::collector::Collector;
use crate::cache::publisher::Publisher;
use crate::clock::Clock;
use crate::currency::Currency;
use crate::error::Error;
use crate::fleet::Fleet;
use crate::flight::Flights;
use crate::l1::{L1, Sweeper};
use crate::policy::Policy;
use crate::postgres::Statements;
use crate::rows::ColumnSets;
use crate::telemetry::counters::Counters;
#[cfg(feature = "metrics")]
use crate::telemetry::metrics::Reporter;
use crate::value::codec::Codec;
use crate::value::key::MacKey;
use crate::value::tag::Tag;

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

/// A result, and the tags that its load reported.
pub(crate) type LoadResult<T> = (T, Vec<Tag>);

pub(crate) struct Inner {
    pub(crate) namespace: String,
    pub(crate) policy: Policy,
    pub(crate) codec: Codec,
    pub(crate) secret: Option<MacKey>,
    pub(crate) clock: Clock,
    pub(crate) currency: Arc<Currency>,
    /// How long after its load began a result of this process is served without a confirmed table.
    pub(crate) disconnected_ttl: Duration,
    pub(crate) l1: L1,
    /// Dropped with the cache, which stops its task.
    pub(crate) _sweeper: Sweeper,
    pub(crate) fleet: Option<Arc<Fleet>>,
    pub(crate) flights: Flights,
    /// One permit for each load that may run at the same time.
    pub(crate) loads: Semaphore,
    pub(crate) columns: Arc<ColumnSets>,
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
    /// The runtime that the cache was built in; see `Inner::place` in `read_through`.
    pub(crate) runtime: Handle,
}
