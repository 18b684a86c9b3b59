//! What PostgreSQL is, what lies between, and which of its settings matter.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use super::report::{Report, Severity};
use super::session::Session;
use super::{Check, views};
use crate::connect::Pool;
use crate::failure::with_sources;

const AREA: &str = "PostgreSQL";

/// The oldest that all tests run on.
const TESTED: i32 = 140_000;

pub(super) async fn check(report: &mut Report, pool: &Pool, check: &Check) {
    let session = match Session::open(pool).await {
        Ok(session) => session,
        Err(error) => {
            let what = format!("no connection to {}: {}", pool.address, with_sources(&error));
            report.add(AREA, Severity::Error, what).advise(
                "Look at host, port, database, user and password, at pg_hba.conf, and whether the \
                 server runs.",
            );
            return;
        }
    };
    let outcome = async {
        server(report, &session, pool).await?;
        pooler(report, &session, pool).await?;
        settings(report, &session).await
    };
    let unanswered = |error: &(dyn std::error::Error + 'static)| {
        format!("a question is not answered: {}", with_sources(error))
    };
    if let Err(error) = outcome.await {
        report.add(AREA, Severity::Error, unanswered(&error));
        return;
    }
    drop(session);
    if let Err(error) = views::check(report, pool, &check.view).await {
        report.add(AREA, Severity::Error, unanswered(&error));
    }
}

async fn server(
    report: &mut Report,
    session: &Session,
    pool: &Pool,
) -> Result<(), tokio_postgres::Error> {
    let sql = "SELECT current_setting('server_version_num')::int4, \
                 current_setting('server_version'), pg_is_in_recovery(), \
                 quote_ident(current_user), quote_ident(current_database()), \
                 coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false), \
                 (SELECT sum(numbackends)::int8 FROM pg_stat_database), \
                 current_setting('max_connections')::int8, \
                 EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'larder_refresh')";
    let rows = session.query(sql, &[]).await?;
    let row: &Row = &rows[0];
    let (number, said): (i32, &str) = (row.get(0), row.get(1));
    let (role, database): (&str, &str) = (row.get(3), row.get(4));
    let what = format!("version {said} at {}, database {database}, role {role}", pool.address);
    match number {
        ..TESTED => report.add(AREA, Severity::Warning, what).advise(
            "It is older than what larder is tested with, which begins with PostgreSQL 14.",
        ),
        TESTED..150_000 => report
            .add(AREA, Severity::Ok, what)
            .advise("skip_unchanged needs PostgreSQL 15: views that have it are always refreshed."),
        _ => report.add(AREA, Severity::Ok, what),
    };
    if row.get(2) {
        report.add(AREA, Severity::Warning, "this server is a standby").advise(
            "It refreshes no views. And it may be behind: a load here after an invalidation may \
             bring what was before it, and that would be kept. Load from the primary what is \
             invalidated.",
        );
    }
    if !pool.is_local && !row.get::<_, bool>(5) {
        report
            .add(AREA, Severity::Note, "the connection is not encrypted")
            .advise("sslmode=require in its URL asks for TLS.");
    }
    let (used, most): (i64, i64) = (row.get(6), row.get(7));
    let what = format!("{used} of {most} connections are used (max_connections)");
    if 10 * used <= 8 * most {
        report.add(AREA, Severity::Ok, what)
    } else {
        report.add(AREA, Severity::Warning, what).advise(
        "A load that finds none free fails. Make pools smaller, put PgBouncer between, or raise \
         max_connections, which takes a restart. concurrent_loads bounds what one process of \
         the cache needs.",
    )
    };
    if row.get(8) {
        let what = "the event trigger larder_refresh tells of refreshes by anybody";
        report.add(AREA, Severity::Ok, what);
    }
    Ok(())
}

/// Two clients have two sessions, unless there is a pooler that gives a session to whoever begins a
/// transaction.
async fn pooler(
    report: &mut Report,
    session: &Session,
    pool: &Pool,
) -> Result<(), tokio_postgres::Error> {
    let sql = "SELECT pg_backend_pid(), inet_server_port(), current_setting('port')::int4";
    let rows = session.query(sql, &[]).await?;
    let (first, over_tcp): (i32, bool) =
        (rows[0].get(0), rows[0].get::<_, Option<i32>>(1).is_some());
    let port: i32 = rows[0].get(2);
    let Ok(other) = Session::open(pool).await else {
        report.leave_out(
            "PostgreSQL: whether a pooler lies between, for want of a second connection",
        );
        return Ok(());
    };
    if let Err(error) = other.begin().await {
        let what = format!("a transaction cannot be begun: {}", with_sources(&error));
        report.add(AREA, Severity::Error, what).advise(
            "A pooler in statement mode refuses them. Use transaction mode, or session mode.",
        );
        return Ok(());
    }
    let rows = other.query("SELECT pg_backend_pid()", &[]).await?;
    let second: i32 = rows[0].get(0);
    other.roll_back().await?;
    if first == second {
        report
            .add(
                AREA,
                Severity::Note,
                "a pooler in transaction mode lies between, such as PgBouncer",
            )
            .advise(
                "Fetch through larder::TransactionPooling: statements prepared under names may be \
                 another process's (a plain pool will do from PgBouncer 1.21 on, with \
                 max_prepared_statements above zero). Refreshes work through it; \
                 RefresherBuilder::listen hears nothing and needs a connection past it.",
            );
    } else if over_tcp && pool.port.is_some_and(|given| i32::from(given) != port) {
        let what = format!(
            "the server's own port is {port}, and not the one that was connected to: a pooler or a \
             forwarded port lies between"
        );
        report.add(AREA, Severity::Note, what).advise(
            "If it is a pooler, it gave two sessions to two clients here, as session mode does, \
             with which everything works.",
        );
    }
    Ok(())
}

const SETTINGS: &str = "SELECT name, setting, source FROM pg_settings WHERE name IN ( \
    'track_counts', 'statement_timeout', 'lock_timeout', 'transaction_timeout', \
    'idle_in_transaction_session_timeout', 'idle_session_timeout', 'autovacuum', \
    'default_transaction_read_only', 'client_connection_check_interval')";

/// Where a setting comes from, as the end of a sentence.
fn whose(source: &str) -> &'static str {
    match source {
        "user" => ", by a setting of the role",
        "database" => ", by a setting of the database",
        "database user" => ", by a setting of the role in this database",
        "client" => ", by an option of the connection",
        _ => "",
    }
}

async fn settings(report: &mut Report, session: &Session) -> Result<(), tokio_postgres::Error> {
    let rows = session.query(SETTINGS, &[]).await?;
    let settings: BTreeMap<String, String> =
        rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let whose: BTreeMap<String, &str> =
        rows.iter().map(|row| (row.get(0), whose(row.get(2)))).collect();
    let is = |name: &str, value: &str| settings.get(name).is_some_and(|it| it == value);
    let millis = |name: &str| {
        settings.get(name).and_then(|it| it.parse::<u64>().ok()).filter(|&millis| millis > 0)
    };
    let sql = "SELECT pg_has_role('pg_read_all_stats', 'USAGE'), quote_ident(current_user)";
    let rows = session.query(sql, &[]).await?;
    let role: String = rows[0].get(1);
    if is("track_counts", "off") {
        report
            .add(AREA, Severity::Warning, "track_counts is off: writes are not counted")
            .advise("Every refresh counts as a change then, and skip_unchanged never skips.")
            .run("ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf();");
    } else if !rows[0].get::<_, bool>(0) {
        let what = format!("{role} cannot see what other roles' sessions have yet to report");
        report
            .add(AREA, Severity::Note, what)
            .advise("skip_unchanged needs that; without it views are always refreshed.")
            .run(format!("GRANT pg_read_all_stats TO {role};"));
    } else {
        let what = "writes are counted (track_counts), and this role sees what has yet to be \
                    reported: skip_unchanged works";
        report.add(AREA, Severity::Ok, what);
    }
    if is("autovacuum", "off") {
        report
            .add(AREA, Severity::Warning, "autovacuum is off")
            .advise("Each concurrent refresh leaves dead rows: views grow, and get slower.")
            .run("ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();");
    }
    if is("default_transaction_read_only", "on") {
        report
            .add(
                AREA,
                Severity::Warning,
                format!("transactions of {role} are read-only by default"),
            )
            .advise("Loads are; refreshes cannot be.")
            .run(format!("ALTER ROLE {role} SET default_transaction_read_only = off;"));
    }
    let limits = [
        (
            "statement_timeout",
            "A load that takes longer fails, before its own load_deadline; so \
          does a refresh, unless its view has a statement_timeout of its own.",
        ),
        (
            "lock_timeout",
            "A load that waits longer for a lock fails. A refresh has a lock_timeout of its own.",
        ),
        (
            "transaction_timeout",
            "A refresh that takes longer is ended together with its \
          connection, and nothing of larder overrides that.",
        ),
        (
            "idle_session_timeout",
            "A pool's connections are ended when nobody uses them for so \
          long; the pool makes new ones.",
        ),
        (
            "idle_in_transaction_session_timeout",
            "No transaction of larder idles for longer than a \
          round trip; behind a slow network that may count.",
        ),
    ];
    let mut unlimited = vec![];
    for (name, meaning) in limits {
        match millis(name) {
            Some(millis) => {
                let time = crate::text::duration(std::time::Duration::from_millis(millis));
                let whose = whose.get(name).unwrap_or(&"");
                let what = format!("{name} is {time}{whose}");
                report.add(AREA, Severity::Note, what).advise(meaning);
            }
            None if settings.contains_key(name) => unlimited.push(name),
            None => {}
        }
    }
    if !unlimited.is_empty() {
        let what = format!("not limited: {}", unlimited.join(", "));
        report.add(AREA, Severity::Ok, what);
    }
    if is("client_connection_check_interval", "0") {
        report
            .add(AREA, Severity::Note, "client_connection_check_interval is off")
            .advise(
                "A query whose process was killed runs on to its end; with it PostgreSQL notices, \
                 on Linux and some others.",
            )
            .run(
                "ALTER SYSTEM SET client_connection_check_interval = '2s'; SELECT \
                 pg_reload_conf();",
            );
    }
    Ok(())
}
