//! Ways to the servers, with errors for whoever sits at a terminal.

use super::config::Config;
use super::failure::{Failure, with_sources};
use crate::builder::QueryCacheBuilder;
use crate::cache::QueryCache;

/// A cache of the namespace, over its Redis: a member of the fleet as all others.
pub(super) fn builder(config: &Config) -> Result<QueryCacheBuilder, Failure> {
    let mut builder = QueryCache::builder().namespace(config.namespace()?).redis(config.redis()?);
    if let Some(secret) = &config.secret {
        builder = builder.secret(secret.clone());
    }
    Ok(builder)
}

pub(super) async fn cache(config: &Config) -> Result<QueryCache, Failure> {
    builder(config)?.build().await.map_err(|error| match error.setting() {
        Some(_) => Failure::usage(error.to_string()),
        None => Failure::server(with_sources(&error)),
    })
}
