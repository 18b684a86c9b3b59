//! A cache for the results of PostgreSQL queries that take long: in this process's memory, over a
//! Redis that all processes of a service share.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use larder::QueryCache;
//!
//! # async fn run(pool: deadpool_postgres::Pool) -> Result<(), Box<dyn std::error::Error>> {
//! let cache = QueryCache::builder()
//!     .namespace("shop")
//!     .redis("redis://127.0.0.1:6379")
//!     .ttl(Duration::from_secs(300))
//!     .build()
//!     .await?;
//!
//! let revenue = cache
//!     .query("SELECT day, sum(amount)::float8 AS total FROM orders WHERE region = $1 GROUP BY day")
//!     .tag("orders");
//! let rows = revenue.bind("eu").fetch(&pool).await?;
//! for row in &rows {
//!     let total: f64 = row.get("total");
//!     println!("{total:.2}");
//! }
//! // After a transaction that changed orders has committed:
//! cache.invalidate(["orders"]).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Three ways to ask
//!
//! - [`fetch`](Bound::fetch) runs a query on a [`deadpool_postgres::Pool`] or a shared
//!   [`tokio_postgres::Client`] and gives [`Rows`]: the cells as PostgreSQL sent them, with the
//!   `get` of `tokio_postgres::Row`, or [`deserialize`](Rows::deserialize) into structs.
//! - [`wrap`](Query::wrap) puts a query function behind the cache, over any driver, with any
//!   result that serde can write and read; [`call`](Wrapped::call) it as often as you like.
//! - [`load`](Bound::load) does the same for one call.
//!
//! Each returns a [`Read`]: awaited it is the result, and its [`answer`](Read::answer) is the result
//! with where it came from and how old it is.
//!
//! Without `.redis(…)` it is a cache in memory with the same methods, which is also how the examples
//! on these pages run:
//!
//! ```
//! use larder::{Origin, QueryCache};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = QueryCache::builder().build().await?;
//! let user_stats = cache
//!     .query("SELECT count(*) FROM orders WHERE user_id = $1")
//!     .wrap(|_sql, (user_id,): (i64,)| async move {
//!         Ok::<_, std::io::Error>(format!("the statistics of user {user_id}"))
//!     });
//! assert_eq!(*user_stats.call((42,)).await?, "the statistics of user 42");
//! assert_eq!(user_stats.call((42,)).answer().await?.origin(), Origin::L1);
//! # Ok(())
//! # }
//! ```
//!
//! # What names a result
//!
//! A blake3 hash of the namespace, the SQL, its [`scope`](Query::scope), its
//! [schema version](Query::schema_version), the Rust type of the result, and kind and value of each
//! parameter. Calls that differ in any of them never share a result: `("a", "bc")` and
//! `("ab", "c")`, `NULL` and `''`, `1_i32` and `1_i64` are different calls. A key in Redis is named
//! `larder:<namespace>:<format>:{<hash>}` and shows neither SQL nor values.
//!
//! What else a result depends on, you have to say: set a `scope` where row-level security, the role,
//! `search_path` or `TimeZone` make the same SQL give different results, and a namespace per
//! database. Queries whose result depends on the moment (`now()`, `random()`) or that write are not
//! for a cache.
//!
//! # How long it lives
//!
//! For the [`ttl`](QueryCacheBuilder::ttl), from the end of its load. A copy in memory lives for the
//! [`l1_ttl`](QueryCacheBuilder::l1_ttl) at most, and never longer than what remains of the entry
//! in Redis that it was read from. And no longer than until one of its [tags](Query::tag) is
//! [invalidated](QueryCache::invalidate); see [below](#how-a-result-is-known-to-be-current). A change
//! that nobody reports is seen when the result has expired: choose the `ttl` for that.
//!
//! # Materialized views
//!
//! A [`Refresher`] refreshes [`MaterializedView`]s on schedule, each by one process of a service at a
//! time, and makes the results stale that [read](Query::reads) them. It tells what keeps a view from
//! being refreshed, with the SQL that mends it: [`check`](Refresher::check). What follows on a refresh
//! is done by [hooks](RefreshHook), such as a webhook. Refreshes by others are noticed as well.
//!
//! # What it does
//!
//! [`stats`](QueryCache::stats) and, query by query, [`query_stats`](QueryCache::query_stats): reads by
//! where their answers came from, loads, errors, bytes, latencies. Give queries a
//! [`name`](Query::name) to find them again there and in [metrics](#metrics).
//!
//! # What it never does
//!
//! - **Fail or hang a query.** Redis may refuse, freeze, be killed, be full, hold garbage under a
//!   key: the read goes on to PostgreSQL, after 50 ms at most where Redis does not answer, and the
//!   trouble is counted in [`stats`](QueryCache::stats). When Redis is back, it is used again
//!   within a second.
//! - **Serve what was invalidated.** Not after a crash, not through a race of a slow load with an
//!   invalidation, not from a Redis that came back with old data.
//! - **Load twice at once.** A thousand tasks in eight processes that ask for one cold key cause one
//!   load. It belongs to none of them, so whoever leaves harms nobody; its error or panic reaches all who
//!   waited, and the next call loads again. It ends at its
//!   [deadline](QueryCacheBuilder::load_deadline), and PostgreSQL is told to cancel the query.
//! - **Change a value.** `Rows` are PostgreSQL's own bytes. Floats and 128-bit integers come back
//!   from JSON bit for bit; what a [codec](Codec) would change is answered whole and not stored.
//! - **Mix in a transaction.** A `Transaction` is no [`Source`]: it neither reads nor fills the
//!   cache.
//!
//! # Features
//!
//! | feature | for |
//! | --- | --- |
//! | `redis` (default) | the shared tier |
//! | `msgpack` | [`Codec::MessagePack`] for typed values |
//! | `tracing` | spans and events under the target `larder`: see [below](#tracing) |
//! | `metrics` | the cache's numbers through the `metrics` facade: see [below](#metrics) |
//! | `prometheus` | `PrometheusEndpoint`: an HTTP endpoint for Prometheus with them |
//! | `tls` | `rediss://` URLs: Redis over TLS |
//! | `admin` | `larder::admin`: what Redis holds for one result, and what its user may do |
//! | `cron` | [`MaterializedView::cron`]: refreshes by cron expressions, in time zones |
//! | `webhook` | [`Webhook`]: a hook that posts a signed JSON event over HTTP |
//! | `test-util` | `MemoryStore`: a shared tier in memory, for tests of several caches |
//! | `chrono`, `time`, `uuid`, `rust_decimal` | parameters and columns of these crates' types |
//!
#![doc = include_str!("docs/currency.md")]
//!
#![doc = include_str!("docs/metrics.md")]
//!
#![doc = include_str!("docs/tracing.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(unreachable_pub)]

#[cfg(feature = "admin")]
#[cfg_attr(docsrs, doc(cfg(feature = "admin")))]
pub mod admin;
mod answer;
mod backoff;
mod backplane;
mod build_error;
mod builder;
mod cache;
mod checksum;
mod clock;
mod codec;
mod currency;
// Not in `currency.rs`, which the tests under loom include as it is.
#[cfg(test)]
#[path = "currency/tests.rs"]
mod currency_tests;
#[cfg_attr(not(feature = "redis"), allow(dead_code))]
mod entry;
mod error;
mod fleet;
mod flight;
#[cfg(test)]
mod fuzz;
mod heartbeat;
mod held;
mod judge;
mod key;
mod load;
mod local;
mod look;
mod metrics;
mod param;
mod parts;
mod policy;
mod postgres;
#[cfg(feature = "prometheus")]
mod prometheus;
mod query;
mod read;
#[cfg(feature = "redis")]
mod redis;
mod refresh;
mod rows;
mod serve;
#[cfg(all(test, feature = "redis"))]
#[path = "../tests/servers/mod.rs"]
mod servers;
mod stats;
#[cfg_attr(not(feature = "redis"), allow(dead_code))]
mod store;
mod sync;
mod tag;
#[cfg(feature = "tls")]
mod tls;
mod trace;
mod value;
mod wrapped;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

pub use self::answer::{Answer, Origin, Staleness};
pub use self::build_error::BuildError;
pub use self::builder::QueryCacheBuilder;
pub use self::cache::QueryCache;
pub use self::clock::{Clock, ManualClock};
pub use self::codec::Codec;
pub use self::error::{Error, ErrorKind};
pub use self::key::KeyEncoder;
pub use self::param::{Also, OwnedParams, Param, Params, SqlParam, SqlParams};
pub use self::postgres::matview::{Finding, FindingKind, RefreshError, RefreshErrorKind};
pub use self::postgres::{CancelTls, Source, TransactionPooling};
#[cfg(feature = "prometheus")]
#[cfg_attr(docsrs, doc(cfg(feature = "prometheus")))]
pub use self::prometheus::{EndpointError, PrometheusEndpoint};
pub use self::query::{Bound, Query};
pub use self::read::{OnMiss, Read, ReadAnswer};
pub use self::refresh::{
    Activity, CheckReport, HookError, MaterializedView, PlannedView, RefreshEvent, RefreshHook,
    RefreshOutcome, RefreshPlan, RefreshReport, Refresher, RefresherBuilder, RowChanges,
    SkipReason, StartError, Veto, ViewCheck, ViewStatus,
};
#[cfg(feature = "webhook")]
#[cfg_attr(docsrs, doc(cfg(feature = "webhook")))]
pub use self::refresh::{Webhook, WebhookError};
pub use self::rows::{Column, Iter, Row, RowIndex, Rows};
pub use self::stats::{CacheStats, FleetStats, Latency, ProcessStats, QueryStats, ViewStats};
#[cfg(any(test, feature = "test-util"))]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub use self::store::memory::MemoryStore;
pub use self::tag::{Tag, Tagged};
pub use self::wrapped::Wrapped;
