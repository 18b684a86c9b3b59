//! [`Writes`]: PostgreSQL's write counters, to detect later whether a table was written to.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::session::Session;

/// A digest of the write counters of some tables. If two digests are equal, no write was counted in
/// between.
///
/// It contains, for each table and its partitions and children, the numbers of rows inserted,
/// updated and deleted, and its file, which TRUNCATE replaces. It also contains the time when
/// counting began, since a crash or a reset restarts the counters. Rolled-back writes are counted
/// as well; they cause a refresh that was not needed.
///
/// Source: "The Cumulative Statistics System",
/// <https://www.postgresql.org/docs/current/monitoring-stats.html>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Writes(pub(crate) String);

/// How long to wait until each session that was idle at the beginning has reported. It reports 10 s
/// after it became idle, and it became idle less than 1 s after the last write that it may not have
/// reported (`PGSTAT_IDLE_INTERVAL` and `PGSTAT_MIN_INTERVAL` in PostgreSQL's `pgstat.c`). One more
/// second is for a busy machine.
pub(crate) const REPORTED_AFTER: Duration = Duration::from_secs(12);

/// The first `server_version_num` where idle sessions report. Before PostgreSQL 15, an idle session
/// keeps its unreported writes indefinitely.
pub(crate) const COUNTED_SINCE: i32 = 150_000;

/// The current counters of these tables. `None` if one of them has no counters, or if this role may
/// not see which other sessions have yet to report.
pub(crate) async fn read(
    session: &mut Session,
    tables: &[u32],
) -> Result<Option<Writes>, tokio_postgres::Error> {
    let sql = "\
        WITH RECURSIVE family AS ( \
          SELECT unnest($1::oid[]) AS oid \
          UNION \
          SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid) \
        SELECT coalesce(bool_and(c.relkind IN ('r', 'p')), true) \
            AND pg_has_role('pg_read_all_stats', 'USAGE'), \
          md5(concat_ws('/', pg_postmaster_start_time(), \
            pg_stat_get_bgwriter_stat_reset_time(), \
            (SELECT pg_stat_get_db_stat_reset_time(oid) FROM pg_database \
              WHERE datname = current_database()), \
            string_agg(concat_ws(',', c.oid, pg_relation_filenode(c.oid), \
              pg_stat_get_tuples_inserted(c.oid), pg_stat_get_tuples_updated(c.oid), \
              pg_stat_get_tuples_deleted(c.oid)), ';' ORDER BY c.oid))) \
        FROM family f JOIN pg_class c ON c.oid = f.oid";
    let rows = session.query(sql, &[(&tables, Type::OID_ARRAY)]).await?;
    let row = &rows[0];
    Ok(row.get::<_, bool>(0).then(|| Writes(row.get(1))))
}

/// A session that may have writes it has not reported yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnreportedSession {
    pid: i32,
    /// When its transaction and its statement began, in microseconds. If both differ between two
    /// observations, the session was idle outside of a transaction in between, and reported then.
    transaction: i64,
    statement: i64,
}

impl UnreportedSession {
    /// Whether one of the sessions in `earlier` has not been idle since.
    pub(crate) fn persists(earlier: &[UnreportedSession], now: &[UnreportedSession]) -> bool {
        earlier.iter().any(|old| {
            now.iter().any(|new| {
                old.pid == new.pid
                    && (old.transaction == new.transaction || old.statement == new.statement)
            })
        })
    }
}

/// The sessions that may have written something after `since` and until `ago` before now, and may
/// not have reported it yet.
///
/// A session reports when it becomes idle outside of a transaction, if its last report is a second
/// old. Otherwise it reports when it has been idle for ten seconds. So for ten seconds, an idle
/// session may have unreported writes from less than a second before it became idle. A busy session
/// may have them too: work that began within the ten seconds delays the report until it is done.
/// Only a role with `pg_read_all_stats` sees this of other users' sessions, so the caller's role
/// must have it.
pub(crate) async fn unreported(
    session: &mut Session,
    since: i64,
    ago: Duration,
) -> Result<Vec<UnreportedSession>, tokio_postgres::Error> {
    // `state` is NULL for a moment before a new session has begun anything, and for sessions that
    // this role may not see.
    let sql = "\
        SELECT a.pid, \
          coalesce((extract(epoch FROM a.xact_start) * 1000000)::int8, 0), \
          coalesce((extract(epoch FROM a.query_start) * 1000000)::int8, 0) \
        FROM pg_stat_activity a, \
          LATERAL (SELECT clock_timestamp() AS now) t, \
          LATERAL (SELECT t.now - $2 * interval '1 millisecond' + interval '1 second' AS until, \
            timestamptz 'epoch' + $1 * interval '1 microsecond' AS since) p \
        WHERE a.datid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
          AND a.pid <> pg_backend_pid() \
          AND coalesce(a.backend_type, '') NOT IN ('autovacuum worker', 'walsender') \
          AND CASE \
            WHEN a.state IS NULL THEN a.backend_type IS NULL OR NOT \
              (pg_has_role(a.usesysid, 'USAGE') OR pg_has_role('pg_read_all_stats', 'USAGE')) \
            WHEN a.state = 'disabled' THEN true \
            WHEN a.state = 'idle' THEN a.state_change > p.since \
              AND a.state_change > t.now - interval '11 seconds' AND a.state_change < p.until \
            ELSE coalesce(a.xact_start, a.query_start, t.now) > p.since \
          END";
    let (since, ago) = (since as f64, ago.as_millis() as f64);
    let rows = session.query(sql, &[(&since, Type::FLOAT8), (&ago, Type::FLOAT8)]).await?;
    let unreported = |row: &tokio_postgres::Row| UnreportedSession {
        pid: row.get(0),
        transaction: row.get(1),
        statement: row.get(2),
    };
    Ok(rows.iter().map(unreported).collect())
}
