//! Whether the materialized views of a database can be refreshed.

use super::report::{Report, Severity};
use crate::postgres::matview::check::{self, Wanted};
use crate::postgres::matview::session::Session;
use crate::postgres::matview::{Finding, FindingKind};

const AREA: &str = "Materialized views";

/// Those that there are, by names to be found under, and whether this role may refresh each.
pub(in crate::command) const ALL: &str = "SELECT c.oid::regclass::text, c.oid, \
      quote_ident(pg_get_userbyid(c.relowner)) \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'm' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' \
    ORDER BY n.nspname, c.relname";

pub(super) async fn check(
    report: &mut Report,
    session: &mut Session,
    wanted: &[String],
) -> Result<(), tokio_postgres::Error> {
    let rows = session.query(ALL, &[]).await?;
    let all: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let managed: Vec<u32> = rows.iter().map(|row| row.get(1)).collect();
    let names = if wanted.is_empty() { &all } else { wanted };
    if names.is_empty() {
        report.add(AREA, Severity::Ok, "there are none in this database");
    }
    for name in names {
        let how = Wanted { concurrently: true, skip_unchanged: false };
        let findings = check::check(session, name, how, &managed).await?;
        if findings.is_empty() {
            report.add(AREA, Severity::Ok, format!("{name}: can be refreshed CONCURRENTLY"));
        }
        for finding in &findings {
            add(report, name, finding);
        }
    }
    Ok(())
}

fn add(report: &mut Report, name: &str, finding: &Finding) {
    let severity = match finding.kind() {
        kind if kind.is_fatal() => Severity::Error,
        FindingKind::NotPopulated => Severity::Warning,
        _ => Severity::Note,
    };
    let added = report.add(AREA, severity, format!("{name}: {}", finding.message()));
    if finding.kind() == FindingKind::NoUniqueIndex {
        added.advise(
            "Create one, or let it be refreshed plainly (or_plain, plain): readers wait for as long \
             then.",
        );
    }
    for sql in finding.mending_sql() {
        added.run(sql);
    }
}
