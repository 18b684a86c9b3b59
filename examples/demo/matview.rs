//! The view is refreshed every few seconds while orders come in, and readers ask for its last days.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use chrono::NaiveDate;
use deadpool_postgres::{Client, Pool};
use larder::refresh::{MaterializedView, RefreshHook, RefreshReport, Refresher};
use larder::{Answer, Query, QueryCache, Rows};
use rust_decimal::Decimal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::cells::Cells;
use crate::format::{count, money, seconds, time};
use crate::history::{self, History, Read, Verdict};
use crate::place::Place;
use crate::progress::Progress;

/// The name of the view.
pub(crate) const VIEW: &str = "daily_revenue";

/// How often it is refreshed, and how many refreshes are watched. Where each takes longer, as many as
/// there are in this time, and one at least.
const EVERY: Duration = Duration::from_secs(3);
const REFRESHES: usize = 5;
const LONGEST: Duration = Duration::from_secs(20);
/// How long the last is watched.
const AFTER: Duration = Duration::from_secs(1);

/// So many readers, each of which asks so often. The writer writes two orders as often as it says.
const READERS: usize = 3;
const READ: Duration = Duration::from_millis(4);
const WRITE: Duration = Duration::from_millis(40);

const LAST_DAYS: &str =
    "SELECT day, orders, revenue FROM daily_revenue WHERE day >= $1 ORDER BY day DESC";

/// Orders of this demo have keys below zero, which TPC-H has none of: so they can be told apart, and
/// none of TPC-H's is changed. They are of the two days after its last.
const INSERT: &str =
    "INSERT INTO orders VALUES ($1::int8, 1, 'O', $2, date '1998-08-03' + (abs($1::int8) % 2)::int4,
    '5-LOW', 'Clerk#000000001', 0, 'of the demo')";
const UPDATE: &str = "UPDATE orders SET o_totalprice = o_totalprice + 1 WHERE o_orderkey = $1";

/// Removes what this part of the demo makes, also if a run before was cut short.
///
/// # Errors
///
/// If PostgreSQL refuses.
pub(crate) async fn clean(pool: &Pool) -> Result<()> {
    let sql = "DROP MATERIALIZED VIEW IF EXISTS daily_revenue;
               DELETE FROM orders WHERE o_orderkey < 0";
    pool.get().await?.batch_execute(sql).await.context("cannot clean up after the view")
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) every: Duration,
    /// How long each refresh took.
    pub(crate) took: Vec<Duration>,
    /// How many rows of the view were written or removed in all.
    pub(crate) rows: u64,
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    pub(crate) verdict: Verdict,
}

/// What happens meanwhile, and is shown.
enum News {
    Refreshed(RefreshReport),
    /// The first reader was told something new.
    Told(String),
}

/// Has the view refreshed for some seconds, with a writer and readers, and checks every answer.
///
/// # Errors
///
/// If anything fails, or an answer is not what the view held.
pub(crate) async fn watch(place: &Place, cache: &QueryCache) -> Result<Watched> {
    let pool = place.pool(4)?;
    let history = History::new();
    let (tell, mut news) = mpsc::unbounded_channel();
    let view = MaterializedView::new(VIEW).every(EVERY);
    let last_days = cache.query(LAST_DAYS).reads(&view);
    let refresher = Refresher::builder(pool.clone())
        .cache(cache)
        .view(view)
        .before_refresh(before(&pool, &history))
        .after_refresh(after(&history, &tell))
        .start()
        .await?;

    let stop = Arc::new(AtomicBool::new(false));
    let latest = watch::Sender::new(String::new());
    let reads = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        let reader = Reader {
            query: last_days.clone(),
            pool: pool.clone(),
            stop: Arc::clone(&stop),
            reads: Arc::clone(&reads),
            shows: (number == 0).then(|| (latest.clone(), tell.clone())),
        };
        readers.spawn(reader.run());
    }
    let written = Arc::new(AtomicU64::new(0));
    let mut writer = JoinSet::new();
    writer.spawn(write(pool.get().await?, Arc::clone(&stop), Arc::clone(&written)));

    let progress = Progress::live("refreshing the view while orders come in");
    let begun = Instant::now();
    let (mut took, mut rows) = (vec![], 0);
    let mut ticks = interval(Duration::from_millis(100));
    let mut end = begun + LONGEST;
    while Instant::now() < end || took.is_empty() {
        let clock = format!("{:>7}", seconds(begun.elapsed()));
        let status = refresher.status().pop().context("the view has no status")?;
        if let Some(error) = status.last_error() {
            progress.end();
            return Err(error.clone().into());
        }
        let next = status.next().and_then(|next| next.duration_since(SystemTime::now()).ok());
        let next = next.map_or_else(String::new, |next| format!("; next in {}", seconds(next)));
        tokio::select! {
            Some(new) = news.recv() => match new {
                News::Refreshed(report) => {
                    rows += changed(&report);
                    took.push(report.duration());
                    if took.len() == REFRESHES {
                        end = Instant::now() + AFTER;
                    }
                    progress.stays(&format!("{clock}  view    {}", report.outcome()));
                }
                News::Told(told) => progress.stays(&format!("{clock}  reader  {told}")),
            },
            _ = ticks.tick() => progress.show(&[
                format!("{clock}  view    {}, {} refreshes{next}", status.activity(), took.len()),
                format!("         reader  {}", *latest.borrow()),
                format!(
                    "         in all  {} reads, {} writes",
                    count(reads.load(Ordering::Relaxed)),
                    count(written.load(Ordering::Relaxed))
                ),
            ]),
        }
    }
    refresher.shutdown().await;
    stop.store(true, Ordering::Relaxed);
    progress.end();

    let mut all = vec![];
    while let Some(reader) = readers.join_next().await {
        all.extend(reader??);
    }
    let (inserted, updated) = writer.join_next().await.context("there is no writer")???;
    while let Ok(late) = news.try_recv() {
        if let News::Refreshed(report) = late {
            rows += changed(&report);
            took.push(report.duration());
        }
    }
    history.holds(held(&pool).await?);
    let status = refresher.status().pop().context("the view has no status")?;
    ensure!(status.hook_failures() == 0, "{}", status.last_hook_failure().unwrap_or_default());
    let verdict = history.judge(&all)?;
    ensure!(
        verdict.stale == 0 && verdict.wrong == 0,
        "of {} answers, {} were stale, and {} nothing that the view held",
        verdict.reads,
        verdict.stale,
        verdict.wrong
    );
    Ok(Watched { every: EVERY, took, rows, inserted, updated, verdict })
}

fn changed(report: &RefreshReport) -> u64 {
    report.rows().map_or(0, |rows| rows.inserted + rows.updated + rows.deleted)
}

/// What the view holds, as PostgreSQL says.
async fn held(pool: &Pool) -> Result<Cells> {
    let client = pool.get().await?;
    Ok(Cells::direct(&client.query(LAST_DAYS, &[&since()]).await?))
}

fn since() -> NaiveDate {
    NaiveDate::from_ymd_opt(1998, 7, 31).unwrap_or_default()
}

/// The refresh waits for it, so that nobody else changes the view meanwhile.
fn before(pool: &Pool, history: &History) -> RefreshHook {
    let (pool, history) = (pool.clone(), history.clone());
    RefreshHook::new("before", move |event| {
        let (pool, history) = (pool.clone(), history.clone());
        async move {
            history.refreshing(event.started(), held(&pool).await?);
            Ok(())
        }
    })
}

fn after(history: &History, tell: &mpsc::UnboundedSender<News>) -> RefreshHook {
    let (history, tell) = (history.clone(), tell.clone());
    RefreshHook::new("after", move |event| {
        history.refreshed(event.started());
        if let Some(report) = event.report() {
            let _ = tell.send(News::Refreshed(report.clone()));
        }
        async { Ok(()) }
    })
}

/// Asks again and again.
struct Reader {
    query: Query,
    pool: Pool,
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    /// Where it tells what it was told, if anywhere.
    shows: Option<(watch::Sender<String>, mpsc::UnboundedSender<News>)>,
}

impl Reader {
    async fn run(self) -> Result<Vec<Read>> {
        let mut ticks = interval(READ);
        let mut all: Vec<Read> = vec![];
        while !self.stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            let begun = Instant::now();
            let answer = self.query.bind(since()).fetch(&self.pool).answer().await?;
            let ended = Instant::now();
            self.reads.fetch_add(1, Ordering::Relaxed);
            let cells = Cells::cached(answer.value());
            // Most are what the last one was, and need not be kept twice.
            let cells = match all.last() {
                Some(last) if *last.cells == cells => Arc::clone(&last.cells),
                _ => Arc::new(cells),
            };
            if let Some((latest, tell)) = &self.shows {
                let told = told(&answer);
                if all.last().is_none_or(|last| !Arc::ptr_eq(&last.cells, &cells)) {
                    let _ = tell.send(News::Told(told.clone()));
                }
                latest.send_replace(format!("{told}, {} old", time(answer.age())));
            }
            all.push(Read { begun, ended, origin: answer.origin(), cells });
        }
        Ok(all)
    }
}

/// The last day of an answer, and where it is from.
fn told(answer: &Answer<Rows>) -> String {
    let origin = history::name(answer.origin());
    answer.value().iter().next().map_or_else(
        || format!("no rows, from {origin}"),
        |row| {
            let (day, orders): (NaiveDate, i64) = (row.get("day"), row.get("orders"));
            let revenue: Decimal = row.get("revenue");
            let orders = count(orders.unsigned_abs());
            format!("{day}: {orders} orders, {}; from {origin}", money(revenue))
        },
    )
}

/// Inserts an order and changes one, again and again; how many in all.
async fn write(
    client: Client,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
) -> Result<(u64, u64)> {
    let (insert, update) = (client.prepare(INSERT).await?, client.prepare(UPDATE).await?);
    let (mut inserted, mut updated) = (0, 0);
    let mut ticks = interval(WRITE);
    for number in 1_i64.. {
        ticks.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let price = Decimal::new(10_000_000 + number * 7_919 % 20_000_000, 2);
        inserted += client.execute(&insert, &[&-number, &price]).await?;
        updated += client.execute(&update, &[&-(number / 2 + 1)]).await?;
        written.store(inserted + updated, Ordering::Relaxed);
    }
    Ok((inserted, updated))
}
