//! A cache for the results of slow PostgreSQL queries. It has two tiers: the memory of each
//! process, and a Redis that all processes of a service share.
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
//! cache.invalidate(["orders"]).await;
//! # Ok(())
//! # }
//! ```
//!
//! # Three ways to run a query
//!
//! - [`fetch`](Bound::fetch) runs the query on a [`deadpool_postgres::Pool`] or a shared
//!   [`tokio_postgres::Client`] and returns [`Rows`]: the cells as PostgreSQL sent them, with the
//!   `get` of `tokio_postgres::Row`, [`deserialize`](Rows::deserialize) into structs, or
//!   [JSON](Rows#json). [`fetch_one`](Bound::fetch_one), [`fetch_optional`](Bound::fetch_optional),
//!   [`fetch_scalar`](Bound::fetch_scalar) and [`fetch_json`](Bound::fetch_json) do so in one call.
//! - [`wrap`](Query::wrap) puts the cache in front of a query function. The function may use any
//!   driver and return any type that serde can write and read. [`call`](Wrapped::call) it as often
//!   as you like.
//! - [`load`](Bound::load) does the same for a single call.
//!
//! With [`auto`](Query::auto), a query that is fetched learns from PostgreSQL what it reads, so that
//! [`write`](QueryCache::write) makes its results stale without a tag.
//!
//! Each returns a [`Read`]. Await it for the result, or await its [`answer`](Read::answer) for the
//! result with its origin and its age.
//!
//! Without `.redis(…)` the cache has its memory tier only, with the same methods. The examples on
//! these pages run that way:
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
#![doc = include_str!("docs/results.md")]
//!
//! # Materialized views
//!
//! A [`Refresher`](refresh::Refresher) refreshes [`MaterializedView`](refresh::MaterializedView)s
//! on a schedule. One process of a service refreshes a view at a time, and the refresh makes the
//! results stale that [read](Query::reads) the view. [`check`](refresh::Refresher::check) reports
//! what prevents a view from being refreshed, with the SQL that corrects it. To run code at a
//! refresh, such as a webhook, attach a [hook](refresh::RefreshHook). Refreshes made by others are
//! detected as well.
//!
//! # Statistics
//!
//! [`stats`](QueryCache::stats) and, per query, [`query_stats`](QueryCache::query_stats) report
//! reads by the origin of their answers, loads, errors, bytes and latencies. Give a query a
//! [`name`](Query::name) to find it there and in the [metrics](#metrics).
//!
#![doc = include_str!("docs/never.md")]
//!
#![doc = include_str!("docs/features.md")]
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
mod background;
mod backoff;
mod cache;
mod clock;
mod credentials;
mod currency;
mod error;
mod fleet;
mod flight;
mod follow;
mod l1;
// Without Redis and outside of tests nothing makes a shared tier.
#[cfg_attr(not(feature = "redis"), allow(dead_code))]
mod l2;
mod learn;
mod patience;
mod policy;
mod postgres;
mod query;
pub mod refresh;
pub mod rows;
mod sync;
mod telemetry;
mod value;

/// The examples of the pages, compiled, and run where they need no server.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[cfg(all(feature = "test-util", feature = "prometheus", feature = "cron"))]
    #[doc = include_str!("../docs/guide/first-steps.md")]
    mod first_steps {}
    #[cfg(all(feature = "test-util", feature = "prometheus", feature = "cron"))]
    #[doc = include_str!("../docs/guide/learning.md")]
    mod learning {}
    #[doc = include_str!("../docs/guide/following.md")]
    mod following {}
    #[doc = include_str!("../docs/guide/many-keys.md")]
    mod many_keys {}
    #[cfg(all(feature = "test-util", feature = "prometheus", feature = "cron"))]
    #[doc = include_str!("../docs/guide/operating.md")]
    mod operating {}
    #[cfg(all(feature = "test-util", feature = "prometheus", feature = "cron"))]
    #[doc = include_str!("../docs/guide/own-writes.md")]
    mod own_writes {}
    #[cfg(all(feature = "test-util", feature = "prometheus", feature = "cron"))]
    #[doc = include_str!("../docs/guide/pagination.md")]
    mod pagination {}
    #[cfg(all(feature = "test-util", feature = "prometheus", feature = "cron"))]
    #[doc = include_str!("../docs/guide/pgbouncer.md")]
    mod pgbouncer {}
    #[cfg(all(feature = "test-util", feature = "prometheus", feature = "cron"))]
    #[doc = include_str!("../docs/guide/several-databases.md")]
    mod several_databases {}
    #[cfg(feature = "sqlx")]
    #[doc = include_str!("../docs/guide/sqlx.md")]
    mod sqlx {}
    #[cfg(all(feature = "test-util", feature = "prometheus", feature = "cron"))]
    #[doc = include_str!("../docs/guide/stale-while-revalidate.md")]
    mod stale_while_revalidate {}
    #[cfg(all(feature = "test-util", feature = "prometheus", feature = "cron"))]
    #[doc = include_str!("../docs/guide/tenants.md")]
    mod tenants {}
    #[cfg(all(feature = "test-util", feature = "prometheus", feature = "cron"))]
    #[doc = include_str!("../docs/guide/testing.md")]
    mod testing {}
    #[cfg(all(feature = "test-util", feature = "prometheus", feature = "cron"))]
    #[doc = include_str!("../docs/guide/ttl-and-tags.md")]
    mod ttl_and_tags {}
    #[cfg(all(feature = "test-util", feature = "prometheus", feature = "cron"))]
    #[doc = include_str!("../docs/guide/warming.md")]
    mod warming {}
}

pub use self::cache::QueryCache;
pub use self::cache::build_error::BuildError;
pub use self::cache::builder::QueryCacheBuilder;
pub use self::cache::invalidation::Invalidated;
pub use self::cache::read::{Loader, Read, ReadAnswer};
pub use self::cache::write::Written;
pub use self::clock::Clock;
pub use self::error::{Error, ErrorKind};
pub use self::follow::Follow;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use self::l2::redis::credentials::RedisCredentials;
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub use self::l2::redis::tls::RedisTls;
pub use self::learn::QueryClass;
pub use self::postgres::write::WriteSource;
pub use self::postgres::{Source, TlsPool, TransactionPooling};
pub use self::query::dependencies::QueryDependencies;
pub use self::query::wrapped::Wrapped;
pub use self::query::{Batch, Bound, BoundWith, Grouped, Query, ReadMany};
pub use self::rows::{Row, Rows};
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use self::telemetry::metrics::DURATION_BUCKETS;
#[cfg(feature = "prometheus")]
#[cfg_attr(docsrs, doc(cfg(feature = "prometheus")))]
pub use self::telemetry::prometheus::{EndpointError, PrometheusEndpoint, PrometheusRecorder};
pub use self::value::answer::{Answer, Origin, Staleness};
pub use self::value::codec::Codec;
pub use self::value::tag::{Tag, Tagged, Tags};

/// Statistics: counters and latencies of a cache and of each query.
pub mod stats {
    pub use crate::telemetry::stats::{
        CacheStats, FleetStats, FollowRole, FollowStats, Latency, ProcessStats, QueryStats,
        ViewStats,
    };
}

/// The parameters of queries, and the traits that make a type of your own a parameter.
pub mod params {
    pub use crate::value::key::KeyEncoder;
    #[doc(hidden)]
    pub use crate::value::param::Bind;
    pub use crate::value::param::{OwnedParams, Param, Params, SqlParam, SqlParams};
    pub use crate::value::setup::SettingValue;
}

/// For tests: a clock that the test advances, and a shared tier in memory.
pub mod testing {
    pub use crate::clock::ManualClock;
    #[cfg(any(test, feature = "test-util"))]
    #[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
    pub use crate::l2::memory::MemoryStore;
}
