//! [`Writes`]: how PostgreSQL's counters stand, to see later whether a table was written to.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::session::Session;

/// A digest of the counters of some tables. Equal digests: no write was counted in between.
///
/// It is made of the counts of rows inserted, updated and deleted of each table, its partitions and
/// children; of their files, which TRUNCATE replaces; and of when counting began, for a crash or a
/// reset starts it anew. Rolled-back writes count as well: then a view is refreshed in vain.
///
/// Source: "The Cumulative Statistics System",
/// <https://www.postgresql.org/docs/current/monitoring-stats.html>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Writes(pub(crate) String);

/// How long to wait until every session that was idle before has reported: 10 s after it became idle,
/// which was less than 1 s after the last write that it may owe (`PGSTAT_IDLE_INTERVAL` and
/// `PGSTAT_MIN_INTERVAL` in PostgreSQL's `pgstat.c`), and a second for a busy machine.
pub(crate) const REPORTED_AFTER: Duration = Duration::from_secs(12);

/// Before PostgreSQL 15 an idle session keeps what it has not reported, without end.
pub(crate) const COUNTED_SINCE: i32 = 150_000;

/// How the counters of these tables stand now; `None` if one of them has no counters, or if this role
/// may not see what other sessions have yet to report.
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

/// A session that may owe a report of what it has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnreportedSession {
    pid: i32,
    /// When its transaction and its statement began, in microseconds. Between two of which both
    /// differ it was idle once, outside of a transaction, and reported then.
    transaction: i64,
    statement: i64,
}

impl UnreportedSession {
    /// Whether one of these sessions has not been idle since it was in the other list.
    pub(crate) fn persists(earlier: &[UnreportedSession], now: &[UnreportedSession]) -> bool {
        earlier.iter().any(|old| {
            now.iter().any(|new| {
                old.pid == new.pid
                    && (old.transaction == new.transaction || old.statement == new.statement)
            })
        })
    }
}

/// The sessions that may have written something, after `since` and until `ago` before now, and not
/// reported it yet.
///
/// A session reports when it becomes idle outside of a transaction, if its last report is a second
/// old, and otherwise when it has been idle for ten. So an idle one may owe, for ten seconds, what
/// it wrote less than a second before it became idle. One that is at work may owe that as well: work
/// that came within the ten seconds put the report off until it is done. Other users' sessions show
/// that only to a role with `pg_read_all_stats`, which whoever asks has to have.
pub(crate) async fn unreported(
    session: &mut Session,
    since: i64,
    ago: Duration,
) -> Result<Vec<UnreportedSession>, tokio_postgres::Error> {
    // `state` is NULL for a moment before a new session has begun anything, and of what may not be
    // seen.
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
