//! `larder invalidate`.

use std::process::ExitCode;

use clap::Args;

use super::config::Config;
use super::connect;
use super::failure::{Failure, counted, with_sources};

/// How many names in Redis are looked at to find out what is in use.
const LOOK: usize = 100_000;

/// Make all results stale that depend on one of these tags, in all processes
///
/// When this has returned with 0, no read that begins later is answered from Redis with a result
/// whose load began before. The processes' own memories are told by a push.
#[derive(Args)]
#[command(after_long_help = "\
Exit code 1: it was done, and no result in Redis depended on a tag, or nobody has used the
namespace: perhaps a word is misspelt. Not said if Redis has more than 100,000 names.")]
pub(super) struct Invalidate {
    /// Tables, views, or words of your own, as the queries declare them
    #[arg(value_name = "TAG", required_unless_present = "all", conflicts_with = "all")]
    tags: Vec<String>,

    /// All results of the namespace, whatever they depend on
    #[arg(long)]
    all: bool,
}

impl Invalidate {
    pub(super) async fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let unused = self.unused(config).await?;
        let cache = connect::cache(config).await?;
        let outcome = if self.all {
            cache.clear().await
        } else {
            // Results that have read some rows of a table depend on these, and not on its name.
            let tables = self.tags.iter().map(|tag| cache.invalidate_table(tag));
            let tables = futures_util::future::join_all(tables).await;
            let named = cache.invalidate(self.tags.iter().map(String::as_str)).await;
            tables.into_iter().find(|it| !it.is_acknowledged()).unwrap_or(named)
        };
        cache.shutdown().await;
        outcome.acknowledged().map_err(|error| Failure::server(with_sources(&error)))?;
        let what = if self.all {
            "all results".to_owned()
        } else {
            format!("what depends on {}", counted(self.tags.len(), "tag"))
        };
        anstream::println!("{what} in namespace {} is stale now", config.namespace()?);
        for remark in &unused {
            anstream::eprintln!("{remark}");
        }
        Ok(ExitCode::from(u8::from(!unused.is_empty())))
    }

    /// What of it nothing depends on, before it is invalidated. Empty if that is not known.
    async fn unused(&self, config: &Config) -> Result<Vec<String>, Failure> {
        let namespace = config.namespace()?;
        // What is wrong with the server, the invalidation says. And whoever may invalidate need not have
        // the right to look.
        let Ok(redis) = connect::redis(config.redis()?, namespace).await else { return Ok(vec![]) };
        let Ok(directory) = redis.directory().await else { return Ok(vec![]) };
        if directory.epoch().is_none() {
            let others = redis.namespaces(LOOK).await.unwrap_or_default();
            let others = if others.is_empty() {
                String::new()
            } else {
                format!("; there are {}", others.join(", "))
            };
            let address = redis.address();
            return Ok(vec![format!(
                "nobody has used the namespace {namespace} at {address}{others}"
            )]);
        }
        let Some(found) = redis.entries(LOOK).await.ok().filter(|found| found.complete) else {
            return Ok(vec![]);
        };
        let is_used = |tag: &&String| found.entries.iter().any(|it| it.depends_on(tag.as_str()));
        let unused = self.tags.iter().filter(|tag| !is_used(tag));
        Ok(unused.map(|tag| format!("no result in Redis depended on the tag {tag}")).collect())
    }
}
