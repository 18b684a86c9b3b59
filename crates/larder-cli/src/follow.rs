//! `larder follow`.

mod identities;

use std::error::Error as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use tokio::time::{interval, timeout};
use tokio_postgres::NoTls;

use self::identities::Hint;
use super::config::Config;
use super::connection::Postgres;
use super::failure::Failure;
use super::text::{self, read_duration};
use larder::stats::{FollowRole, FollowStats};
use larder::{Follow as Settings, QueryCache};

/// Follow the changes of a database, as caches do that are built with `follow`
#[derive(Args)]
pub(super) struct Follow {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Check(Check),
}

/// Try whether the database can be followed, and say what is missing
///
/// It does what a process does that follows: it connects for replication, makes a temporary slot,
/// reads the stream for a moment, and ends. Nothing is left on the server. If a setting, a right or
/// the address does not allow it, it names what to change, and the exit code is 1.
///
/// A hint names a table whose changes make more results stale than they need, since the log does not
/// tell the value of a column that queries look rows up by; and the SQL that changes it. Hints do not
/// count for the exit code.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  larder follow check --postgres 'host=db.internal user=larder dbname=shop'
  larder follow check --wait 1m    # while transactions are open that have written")]
struct Check {
    /// How long the slot may take: it is made when all open transactions have ended that have written
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = read_duration)]
    wait: Duration,
}

impl Follow {
    pub(super) async fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        match self.what {
            What::Check(check) => check.run(config).await,
        }
    }
}

impl Check {
    async fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let postgres = Postgres::read(config.postgres()?)?;
        postgres.print_remarks();
        let settings = match postgres.connector()? {
            Some(tls) => Settings::new(postgres.config.clone(), tls),
            None => Settings::new(postgres.config.clone(), NoTls),
        };
        let began = Instant::now();
        let cache = match QueryCache::builder().follow(settings).build().await {
            Ok(cache) => cache,
            Err(error) if error.is_not_followed() => {
                let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                anstream::println!("error  {why}");
                return Ok(ExitCode::from(1));
            }
            Err(error) => return Err(Failure::other(error.to_string())),
        };
        let is_led = timeout(self.wait, led(&cache)).await.is_ok();
        let stats = stats(&cache);
        cache.shutdown().await;
        if !is_led {
            let why = stats.reason.unwrap_or_else(|| "there is no answer".to_owned());
            anstream::println!("error  {why}");
            return Ok(ExitCode::from(1));
        }
        let took = began.elapsed();
        anstream::println!(
            "ok     the database can be followed: the first round ended after {took:.0?}"
        );
        anstream::println!("ok     a round takes {:.1?}", stats.lag);
        let hints = match postgres.client().await? {
            Ok(client) => identities::hints(&client).await,
            Err(error) => Err(error),
        };
        match hints {
            Ok(hints) => {
                for Hint { why, sql, cost } in &hints {
                    anstream::println!("{}", text::paragraph("hint   ", 7, why, text::width()));
                    // Whole lines, to be copied.
                    sql.iter().for_each(|statement| anstream::println!("         {statement}"));
                    anstream::println!("{}", text::paragraph("       ", 7, cost, text::width()));
                }
            }
            Err(error) => {
                anstream::println!("hint   the tables' replica identities were not read: {error}");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn stats(cache: &QueryCache) -> FollowStats {
    cache.follow_stats().unwrap_or_default()
}

/// Waits until a second round has ended: the first one compares all definitions.
async fn led(cache: &QueryCache) {
    let mut ticks = interval(Duration::from_millis(5));
    loop {
        ticks.tick().await;
        let stats = stats(cache);
        if stats.role == FollowRole::Leads && stats.round > 1 {
            return;
        }
        if stats.round == 1 {
            // The next one need not be waited for.
            let _ = cache.caught_up().await;
        }
    }
}
