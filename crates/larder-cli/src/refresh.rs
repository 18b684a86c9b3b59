//! `larder refresh`.

mod outcome;

use std::collections::HashSet;
use std::error::Error as _;
use std::future::Future;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::interval;

use self::outcome::Outcomes;
use super::config::Config;
use super::connect;
use super::failure::{Failure, counted, with_sources};
use super::text::{self, BOLD, RESET, read_duration};
use larder::QueryCache;
use larder::refresh::{DiscoveredView, MaterializedView, RefreshError, RefreshPlan, Refresher};

/// Refresh materialized views, and tell the caches
///
/// Those below go first. A view that somebody else is refreshing is left alone. With --redis and
/// --namespace, results that read a view become stale with its refresh if rows changed, in all
/// processes; without, only processes that refresh the same view themselves notice, by looking.
///
/// Each refresh is one transaction: cancelled by Ctrl-C, or failed, it leaves the rows as they were.
#[derive(Args)]
#[command(after_long_help = "\
Exit code 1: a view could not be refreshed. Each error says why, with the SQL that mends it.

Examples:
  larder refresh daily_revenue reports.by_region
  larder refresh --all --plan             # in which order, and nothing else
  larder refresh --all --or-plain --lock-timeout 2s")]
pub(super) struct Refresh {
    /// Materialized views, written as in SQL
    #[arg(value_name = "VIEW", required_unless_present = "all", conflicts_with = "all")]
    views: Vec<String>,

    /// All materialized views of the database that the role may refresh
    #[arg(long)]
    all: bool,

    /// Show the order only
    #[arg(long)]
    plan: bool,

    /// CONCURRENTLY, and nothing else will do: readers go on reading [default]
    #[arg(long, group = "how")]
    concurrently: bool,

    /// Plainly where CONCURRENTLY cannot be, for want of an index: readers wait
    #[arg(long, group = "how")]
    or_plain: bool,

    /// Always plainly: it costs less where most rows change, and readers wait
    #[arg(long, group = "how")]
    plain: bool,

    /// Run ANALYZE after each refresh that changed rows
    #[arg(long)]
    analyze: bool,

    /// How long to wait for locks
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = read_duration)]
    lock_timeout: Duration,

    /// How long one refresh may take [default: as the role's settings say]
    #[arg(long, value_name = "TIME", value_parser = read_duration)]
    statement_timeout: Option<Duration>,

    /// How many views to refresh at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 2,
        value_parser = clap::value_parser!(u16).range(1..=100))]
    jobs: u16,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Refresh {
    pub(super) async fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        // One connection looks on, and one may be needed to cancel.
        let pool = connect::pool(config, usize::from(self.jobs) + 2)?;
        let (all, left_out) = self.known(&pool).await?;
        let names: Vec<String> = if self.all {
            all.iter().map(|view| view.name.clone()).collect()
        } else {
            self.views.clone()
        };
        let mut outcomes = Outcomes::new(self.json, left_out);
        if names.is_empty() {
            outcomes.note("there is no materialized view here that this role may refresh");
            return outcomes.end();
        }
        // For a plan no cache is needed, and for a refresh it may be done without.
        let cache = if config.redis().is_ok() && !self.plan {
            Some(connect::cache(config).await?)
        } else {
            None
        };
        let refresher = self.refresher(&pool, &names, cache.as_ref()).await?;
        let plan = refresher.plan().await.map_err(|error| failed(&error))?;
        if self.plan {
            outcomes.plan(&plan)?;
            refresher.shutdown().await;
            return Ok(ExitCode::SUCCESS);
        }
        if cache.is_none() {
            outcomes.note("no cache is told: neither --redis nor LARDER_REDIS is given");
        }
        let interrupted = tokio::select! {
            done = refresh(&refresher, &plan, &mut outcomes) => {
                done?;
                false
            }
            // What runs is dropped with the other branch, and that cancels it in PostgreSQL.
            _ = tokio::signal::ctrl_c() => true,
        };
        refresher.shutdown().await;
        if let Some(cache) = cache {
            cache.shutdown().await;
        }
        if interrupted {
            anstream::eprintln!("cancelled: what was not finished has the rows that it had before");
            let _ = outcomes.end();
            return Ok(ExitCode::from(130));
        }
        outcomes.end()
    }

    /// The database's views, and of those that --all means the ones that cannot be refreshed.
    async fn known(
        &self,
        pool: &connect::Pool,
    ) -> Result<(Vec<DiscoveredView>, Vec<(String, String)>), Failure> {
        let no_answer = |error: &(dyn std::error::Error + 'static)| {
            Failure::server(format!(
                "there is no connection to postgresql at {}: {}",
                pool.address,
                with_sources(error)
            ))
        };
        let all = MaterializedView::discover(pool.source.clone()).await;
        let all = all.map_err(|error| no_answer(error.source().unwrap_or(&error)))?;
        if !self.all {
            return Ok((all, vec![]));
        }
        let (may, may_not): (Vec<_>, Vec<_>) = all.into_iter().partition(|view| view.may_refresh);
        let left_out = may_not.into_iter().map(|view| {
            let why = format!("it belongs to {}, and this role may not refresh it", view.owner);
            (view.name, why)
        });
        Ok((may, left_out.collect()))
    }

    async fn refresher(
        &self,
        pool: &connect::Pool,
        names: &[String],
        cache: Option<&QueryCache>,
    ) -> Result<Refresher, Failure> {
        let mut builder = Refresher::builder(pool.source.clone())
            .concurrent_refreshes(usize::from(self.jobs))
            // Refreshes by others are none of this process's business.
            .poll(Duration::from_secs(3600))
            .shutdown_deadline(Duration::ZERO);
        if let Some(cache) = cache {
            builder = builder.cache(cache);
        }
        for name in names {
            builder = builder.view(self.view(name));
        }
        builder.start().await.map_err(|error| {
            let why = with_sources(&error);
            if error.is_unreachable() { Failure::server(why) } else { Failure::usage(why) }
        })
    }

    fn view(&self, name: &str) -> MaterializedView {
        let view = MaterializedView::new(name).created_later();
        let mut view = view.lock_timeout(self.lock_timeout);
        if self.plain {
            view = view.plain();
        } else if self.or_plain {
            view = view.or_plain();
        }
        if let Some(timeout) = self.statement_timeout {
            view = view.statement_timeout(timeout);
        }
        if self.analyze {
            view = view.analyze();
        }
        view
    }
}

/// Step by step, and each view of a step as soon as there is a place for it.
async fn refresh(
    refresher: &Refresher,
    plan: &RefreshPlan,
    outcomes: &mut Outcomes,
) -> Result<(), Failure> {
    for step in plan.steps() {
        let mut running: FuturesUnordered<_> = step
            .iter()
            .map(|view| async move { (view.name(), refresher.refresh_now(view.name()).await) })
            .collect();
        let mut waits = Waits::default();
        while let Some((name, outcome)) = waits.shown_until(refresher, running.next()).await {
            outcomes.add(name, outcome)?;
        }
    }
    Ok(())
}

/// The waits for locks that were shown.
#[derive(Default)]
struct Waits(HashSet<String>);

impl Waits {
    /// Shows on stderr for whom the refreshes wait, until something has happened.
    async fn shown_until<T>(
        &mut self,
        refresher: &Refresher,
        something: impl Future<Output = T>,
    ) -> T {
        let mut something = pin!(something);
        let mut looks = interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                biased;
                done = &mut something => return done,
                _ = looks.tick() => self.show(refresher),
            }
        }
    }

    fn show(&mut self, refresher: &Refresher) {
        for view in refresher.status() {
            for finding in view.waits_for() {
                // The message changes with the time; the SQL names the process.
                let sql = finding.mending_sql().join(" ");
                if !self.0.insert(format!("{}: {sql}", view.view())) {
                    continue;
                }
                let text = format!("{}: {}", view.view(), finding.message());
                let line = text::paragraph("waiting  ", 9, &text, text::width());
                anstream::eprintln!("{line}\n           {BOLD}{sql}{RESET}");
            }
        }
    }
}

fn failed(error: &RefreshError) -> Failure {
    Failure::server(with_sources(error))
}

/// A plan, step by step.
fn steps(plan: &RefreshPlan, width: usize) -> String {
    let mut out = String::new();
    for (at, step) in plan.steps().enumerate() {
        out.push_str(&format!("{BOLD}step {}{RESET}\n", at + 1));
        for view in step {
            let after: Vec<&str> = view.after().collect();
            let mut line = view.name().to_owned();
            if !view.exists() {
                line.push_str(" (there is no such materialized view)");
            }
            if !after.is_empty() {
                line.push_str(&format!(", after {}", after.join(", ")));
            }
            out.push_str(&text::paragraph("  ", 2, &line, width));
            out.push('\n');
        }
    }
    out.push_str(&format!(
        "\n{} in {}; those of one step side by side\n",
        counted(plan.steps().map(<[_]>::len).sum(), "view"),
        counted(plan.steps().len(), "step")
    ));
    out
}
