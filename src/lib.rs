//! A cache for the results of PostgreSQL queries that take long: in memory, over a Redis that all
//! processes of a service share.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(unreachable_pub)]

mod answer;
mod builder;
mod cache;
mod checksum;
mod clock;
mod codec;
mod entry;
mod error;
mod flight;
mod key;
mod local;
mod param;
mod policy;
mod postgres;
mod query;
mod read;
#[cfg(feature = "redis")]
mod redis;
mod rows;
mod stats;
#[cfg_attr(not(feature = "redis"), allow(dead_code))]
mod store;
mod value;
mod wrapped;

pub use self::answer::{Answer, Origin};
pub use self::builder::{BuildError, QueryCacheBuilder};
pub use self::cache::QueryCache;
pub use self::clock::{Clock, ManualClock};
pub use self::codec::Codec;
pub use self::error::{Error, ErrorKind};
pub use self::key::KeyEncoder;
pub use self::param::{Also, OwnedParams, Param, Params, SqlParam, SqlParams};
pub use self::postgres::{CancelTls, Source};
pub use self::query::{Bound, Query};
pub use self::read::{OnMiss, Read, ReadAnswer};
pub use self::rows::{Column, Iter, Row, RowIndex, Rows};
pub use self::stats::CacheStats;
pub use self::wrapped::Wrapped;
