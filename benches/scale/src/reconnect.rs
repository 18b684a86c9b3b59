//! A Redis that is killed and comes back with its data, at the same address.

use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use larder::{QueryCacheBuilder, RedisTls};
use test_servers::{Authority, OverTls, Redis};

use crate::fleet;
use crate::measure::time;
use crate::table::Table;
use crate::target::Target;

#[derive(Args)]
pub(crate) struct Reconnect {
    /// How many caches
    #[arg(long, value_delimiter = ',', default_value = "50,200")]
    caches: Vec<usize>,
    /// For how many seconds Redis is away: longer than `max_staleness`, 1 second
    #[arg(long, default_value_t = 2.0)]
    away: f64,
    /// How often it is killed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

impl Reconnect {
    pub(crate) async fn run(&self, target: &Target) -> anyhow::Result<Vec<Table>> {
        ensure!(target.is_private(), "this mode kills its Redis: call it without --redis");
        ensure!(self.away > 1.0, "until the caches know that it is away, they are confirmed");
        let mut table = Table::new([
            "caches",
            "connections",
            "from the restart until all are confirmed, each round",
            "reads that failed",
        ]);
        for &count in &self.caches {
            let mut redis = Redis::start_tcp()?;
            let url = redis.url();
            self.measure(&mut table, &mut redis, fleet::settings(&url, "reconnect"), count, "TCP")
                .await?;
            let authority = Authority::new()?;
            if let Some(mut over_tls) = OverTls::start(&authority, false)? {
                let trust = RedisTls::new().ca(authority.certificate());
                let builder = fleet::settings(&over_tls.url, "reconnect").redis_tls(trust);
                self.measure(&mut table, &mut over_tls.redis, builder, count, "TLS").await?;
            }
        }
        Ok(vec![table])
    }

    async fn measure(
        &self,
        table: &mut Table,
        redis: &mut Redis,
        builder: QueryCacheBuilder,
        count: usize,
        over: &str,
    ) -> anyhow::Result<()> {
        let caches = fleet::build(&builder, count).await?;
        fleet::all_confirmed(&caches).await?;
        let mut took = vec![];
        for _ in 0..self.rounds {
            redis.snapshot()?;
            redis.kill()?;
            tokio::select! {
                () = fleet::keep_in_use(&caches) => unreachable!("it does not end"),
                () = tokio::time::sleep(Duration::from_secs_f64(self.away)) => {}
            }
            redis.restart_with_snapshot()?;
            let begin = Instant::now();
            took.push(time(fleet::all_confirmed(&caches).await? - begin));
        }
        let failed: u64 = caches.iter().map(|cache| cache.stats().failed).sum();
        table.line([count.to_string(), over.to_owned(), took.join(", "), failed.to_string()]);
        fleet::end(caches).await
    }
}
