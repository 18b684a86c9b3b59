//! The cache against real servers: one module per question.

use test_servers as servers;

mod cancellation;
mod cycles;
mod deposed;
mod described;
mod errors;
#[cfg(feature = "tracing")]
mod events;
mod expiry;
mod follow;
mod harness;
mod harness_faults;
mod harness_pgbouncer;
mod harness_workers;
mod invalidation;
mod json;
mod learn;
mod many;
mod outdated;
mod params;
mod pooling;
mod postgres_types;
mod reading;
mod refresh;
mod replicas;
mod rows_query;
mod settings;
#[cfg(feature = "tracing")]
mod spans;
#[cfg(feature = "sqlx")]
mod sqlx;
mod stale;
mod stampede;
mod statements;
mod stats;
mod support;
mod tenants;
mod text_forms;
#[cfg(feature = "tracing")]
mod told;
mod typed_values;
mod write;

#[cfg(feature = "admin")]
mod admin;
#[cfg(feature = "redis")]
mod batches;
#[cfg(feature = "redis")]
mod credentials;
#[cfg(feature = "redis")]
mod demotion;
#[cfg(feature = "redis")]
mod faults;
#[cfg(feature = "redis")]
mod fleet;
#[cfg(feature = "redis")]
mod large;
#[cfg(feature = "redis")]
mod outage;
#[cfg(feature = "redis")]
mod rights;
#[cfg(feature = "redis")]
mod runtimes;
#[cfg(feature = "redis")]
mod security;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "redis")]
mod trips;
#[cfg(feature = "redis")]
mod urls;
#[cfg(feature = "redis")]
mod wire;
