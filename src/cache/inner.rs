//! [`Inner`]: all parts of a cache. What they do together stands in the files of the path of a read:
//! `cache`, `serve`, `look` and `load`.

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
use crate::rows::ColumnSets;
use crate::telemetry::counters::Counters;
#[cfg(feature = "metrics")]
use crate::telemetry::metrics::Reporter;
use crate::value::codec::Codec;
use crate::value::key::MacKey;
use crate::value::tag::Tag;

/// How far the end of a cache has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    /// Leases are given back, loads go on.
    ShutDown,
    /// Nobody can be waiting for anything.
    Abandoned,
}

/// Runs a query, once, as a task of its own.
pub(crate) type LoadFn<T> =
    Box<dyn FnOnce() -> BoxFuture<'static, Result<LoadResult<T>, Error>> + Send>;

/// A result, and the tags that its loader reported.
pub(crate) type LoadResult<T> = (T, Vec<Tag>);

pub(crate) struct Inner {
    pub(crate) namespace: String,
    pub(crate) policy: Policy,
    pub(crate) codec: Codec,
    pub(crate) secret: Option<MacKey>,
    pub(crate) clock: Clock,
    pub(crate) currency: Arc<Currency>,
    /// How long after its load began a result is served that cannot be confirmed.
    pub(crate) disconnected_ttl: Duration,
    pub(crate) l1: L1,
    /// Ends with the cache.
    pub(crate) _sweeper: Sweeper,
    pub(crate) fleet: Option<Arc<Fleet>>,
    pub(crate) flights: Flights,
    /// A permit for each load that may run at a time.
    pub(crate) loads: Semaphore,
    pub(crate) columns: Arc<ColumnSets>,
    pub(crate) counters: Arc<Counters>,
    /// The same, and where others are.
    pub(crate) collector: Collector,
    /// Ends with the cache.
    pub(crate) publisher: Option<Publisher>,
    /// Likewise.
    #[cfg(feature = "metrics")]
    pub(crate) _reporter: Reporter,
    pub(crate) closing: watch::Sender<Phase>,
    /// The runtime that the cache was built in; see `Inner::place` in `cache`.
    pub(crate) runtime: Handle,
}
