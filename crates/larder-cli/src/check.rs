//! `larder check`.

mod clock;
mod postgres;
mod redis;
mod report;
mod rights;
mod session;
mod views;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use self::report::{Report, Severity};
use super::config::Config;
use super::connect;
use super::failure::Failure;
use super::text::read_duration;

/// Look for what would go wrong, and say what to do about it
///
/// It asks Redis for its version, what it does when it is full, what a restart loses, and what its
/// user may do; PostgreSQL for its version, the settings that matter here, a pooler in between, and
/// every materialized view; and this machine for its clock. Nothing is changed: commands that write
/// are tried on names that are not there.
#[derive(Args)]
#[command(after_long_help = "\
Findings:
  ok       as it should be
  note     good to know; nothing has to be done
  warning  works, and could go better, or will not work one day
  error    does not work; the exit code is 1

Examples:
  larder check --redis redis://cache.internal --namespace shop
  larder check --postgres 'host=/run/postgresql dbname=shop'
  larder check --redis-user shop-cache    # ask as an administrator
  larder check --json | jq '.findings[] | select(.severity == \"error\")'")]
pub(super) struct Check {
    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Try the rights of this user of Redis instead of those of the connection (ACL DRYRUN, Redis 7
    /// and later, which only administrators may)
    #[arg(long, value_name = "NAME")]
    redis_user: Option<String>,

    /// How long the cache's reads wait for Redis, as its builder has it
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = read_duration)]
    redis_timeout: Duration,

    /// How many replicas the processes demand, as `redis_min_replicas` of their builders has it
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    redis_min_replicas: u64,

    /// Look at this materialized view and no others; may be given several times
    #[arg(long, value_name = "NAME")]
    view: Vec<String>,
}

impl Check {
    pub(super) async fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let (redis, postgres) = (config.redis(), config.postgres());
        if redis.is_err() && postgres.is_err() {
            return Err(Failure::usage(
                "there is nothing to check: say --redis (LARDER_REDIS), --postgres \
                 (LARDER_POSTGRES), or both",
            ));
        }
        let mut report = Report::default();
        match redis {
            Ok(url) => redis::check(&mut report, url, config.namespace().ok(), &self).await,
            Err(_) => report.leave_out("Redis: no --redis, LARDER_REDIS or redis in larder.toml"),
        }
        match postgres {
            Ok(_) => {
                let pool = connect::pool(config, 2)?;
                postgres::check(&mut report, &pool, &self).await;
            }
            Err(_) => report
                .leave_out("PostgreSQL: no --postgres, LARDER_POSTGRES or postgres in larder.toml"),
        }
        clock::check(&mut report);
        report.print(self.json)?;
        Ok(match report.worst() {
            Severity::Error => ExitCode::from(1),
            _ => ExitCode::SUCCESS,
        })
    }
}
