//! `larder invalidate`.

use std::process::ExitCode;

use clap::Args;

use super::config::Config;
use super::connect;
use super::failure::{Failure, counted, with_sources};

/// Make all results stale that depend on one of these tags, in all processes
///
/// When this has returned with 0, no read that begins later is answered from Redis with a result
/// whose load began before. The processes' own memories are told by a push.
#[derive(Args)]
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
        let cache = connect::cache(config).await?;
        let outcome = if self.all {
            cache.clear().await
        } else {
            cache.invalidate(self.tags.iter().map(String::as_str)).await
        };
        cache.shutdown().await;
        outcome.map_err(|error| Failure::server(with_sources(&error)))?;
        let what = if self.all {
            "all results".to_owned()
        } else {
            format!("what depends on {}", counted(self.tags.len(), "tag"))
        };
        anstream::println!("{what} in namespace {} is stale now", config.namespace()?);
        Ok(ExitCode::SUCCESS)
    }
}
