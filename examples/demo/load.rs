//! TPC-H into PostgreSQL: tables, rows, indexes, statistics.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use deadpool_postgres::Pool;
use tokio::task::JoinSet;

use crate::format::{count, seconds};
use crate::matview;
use crate::progress::Progress;
use crate::rows::Piece;
use crate::schema::{Index, Table};

/// Begins the comment on a schema of ours. A schema without it belongs to
/// somebody else and is left alone.
const MARK: &str = "larder demo: TPC-H";

/// What is in the schema.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// How long loading took; nothing if the data was there from before.
    pub(crate) took: Option<Duration>,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// Fills `schema` with TPC-H at `scale`, unless an earlier run has.
///
/// # Errors
///
/// If the schema exists and is not ours, or PostgreSQL refuses something.
pub(crate) async fn load(
    pool: &Pool,
    schema: &str,
    scale: f64,
    connections: usize,
) -> Result<Loaded> {
    let complete = format!("{MARK} at scale {scale}");
    let begun = Instant::now();
    let found = comment(pool, schema).await?;
    let took = match found {
        Some(mark) if mark == complete => {
            eprintln!("using schema {schema}, where an earlier run loaded scale {scale}");
            // What a run that was cut short has written.
            matview::clean(pool).await?;
            None
        }
        Some(mark) if !mark.starts_with(MARK) => bail!(
            "schema {schema} exists and was not made by this demo: \
             name another with --schema"
        ),
        stale => {
            create(pool, schema, stale.is_some()).await?;
            fill(pool, scale, connections).await?;
            let mark = format!("COMMENT ON SCHEMA {schema} IS '{complete}'");
            pool.get().await?.batch_execute(&mark).await?;
            Some(begun.elapsed())
        }
    };
    let (rows, bytes) = size(pool, schema).await?;
    Ok(Loaded { took, rows, bytes })
}

/// The comment on the schema, empty if it has none; `None` without a schema.
async fn comment(pool: &Pool, schema: &str) -> Result<Option<String>> {
    let found = pool
        .get()
        .await?
        .query_opt(
            "SELECT coalesce(obj_description(oid, 'pg_namespace'), '')
             FROM pg_namespace WHERE nspname = $1",
            &[&schema],
        )
        .await?;
    Ok(found.map(|row| row.get(0)))
}

async fn create(pool: &Pool, schema: &str, replace: bool) -> Result<()> {
    let mut statements = String::new();
    if replace {
        eprintln!("making schema {schema} anew: it is from a run cut short or at another scale");
        statements += &format!("DROP SCHEMA {schema} CASCADE;");
    }
    statements += &format!("CREATE SCHEMA {schema};");
    statements += &format!("COMMENT ON SCHEMA {schema} IS '{MARK}, being loaded';");
    for table in Table::ALL {
        // Unlogged: all of it can be made again, so none of it need burden
        // the server's log and replicas. Reading is the same.
        let columns = table.columns();
        statements += &format!("CREATE UNLOGGED TABLE {schema}.{table} ({columns});");
    }
    pool.get()
        .await?
        .batch_execute(&statements)
        .await
        .with_context(|| format!("cannot create schema {schema}"))
}

async fn fill(pool: &Pool, scale: f64, connections: usize) -> Result<()> {
    let begun = Instant::now();
    let expected = Table::ALL.iter().map(|t| t.expected_rows(scale)).sum();
    let bar = Progress::rows("generating and copying", expected);
    let copied = spread(pool, connections, Piece::all(scale), {
        let bar = bar.clone();
        move |pool, piece| {
            let bar = bar.clone();
            async move {
                let client = pool.get().await?;
                let rows = piece.load(&client, &bar).await;
                rows.with_context(|| format!("cannot load table {}", piece.table))
            }
        }
    })
    .await?;
    let rows: u64 = copied.into_iter().sum();
    let took = begun.elapsed();
    bar.done(&format!(
        "copied {} rows in {} ({} rows/s)",
        count(rows),
        seconds(took),
        count((rows as f64 / took.as_secs_f64()) as u64),
    ));

    let mut indexes: Vec<(Table, Index)> = Table::ALL
        .into_iter()
        .flat_map(|table| table.indexes().iter().map(move |index| (table, *index)))
        .collect();
    // Adding a primary key locks its table, so each table is done with that before two connections
    // meet on it.
    indexes.sort_by_key(|(_, index)| !matches!(index, Index::Primary(_)));
    let indexes = indexes.into_iter().map(|(table, index)| index.create(table)).collect();
    statements(pool, connections, "indexing", indexes).await?;

    // VACUUM also settles what the first reader of a fresh row would have to
    // write, so the measurements do not pay for the load.
    let vacuums = Table::ALL.into_iter().map(|table| format!("VACUUM (ANALYZE) {table}")).collect();
    statements(pool, connections, "gathering statistics", vacuums).await
}

async fn statements(
    pool: &Pool,
    connections: usize,
    what: &'static str,
    statements: Vec<String>,
) -> Result<()> {
    let begun = Instant::now();
    let steps = statements.len();
    let bar = Progress::steps(what, steps as u64);
    spread(pool, connections, statements, {
        let bar = bar.clone();
        move |pool, statement| {
            let bar = bar.clone();
            async move {
                let done = pool.get().await?.batch_execute(&statement).await;
                bar.advance(1);
                done.with_context(|| statement)
            }
        }
    })
    .await?;
    bar.done(&format!("{what}: {steps} in {}", seconds(begun.elapsed())));
    Ok(())
}

/// Works through `jobs` in their order with so many at a time.
async fn spread<J, T, F, W>(pool: &Pool, at_once: usize, jobs: Vec<J>, work: F) -> Result<Vec<T>>
where
    J: Send + 'static,
    T: Send + 'static,
    F: Fn(Pool, J) -> W + Clone + Send + 'static,
    W: Future<Output = Result<T>> + Send,
{
    let queue = Arc::new(Mutex::new(VecDeque::from(jobs)));
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let (pool, queue, work) = (pool.clone(), Arc::clone(&queue), work.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(job) = next else {
                    return anyhow::Ok(done);
                };
                done.push(work(pool.clone(), job).await?);
            }
        });
    }
    let mut done = Vec::new();
    while let Some(worker) = workers.join_next().await {
        done.extend(worker??);
    }
    Ok(done)
}

async fn size(pool: &Pool, schema: &str) -> Result<(u64, u64)> {
    let client = pool.get().await?;
    let mut rows = 0;
    for table in Table::ALL {
        let counted = client
            .query_one(&format!("SELECT count(*) FROM {table}"), &[])
            .await
            .with_context(|| format!("cannot read table {schema}.{table}"))?;
        rows += counted.get::<_, i64>(0).unsigned_abs();
    }
    let sized = client
        .query_one(
            "SELECT sum(pg_total_relation_size(oid))::bigint
             FROM pg_class
             WHERE relnamespace = $1::text::regnamespace AND relkind = 'r'",
            &[&schema],
        )
        .await?;
    Ok((rows, sized.get::<_, i64>(0).unsigned_abs()))
}
