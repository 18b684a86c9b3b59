//! Whether the materialized views of a database can be refreshed.

use super::report::{Report, Severity};
use crate::matviews;
use crate::postgres::matview::check::{self, Wanted};
use crate::postgres::matview::session::Session;
use crate::postgres::matview::{Finding, FindingKind};

const AREA: &str = "Materialized views";

pub(super) async fn check(
    report: &mut Report,
    session: &mut Session,
    wanted: &[String],
) -> Result<(), tokio_postgres::Error> {
    let all = matviews::all(session).await?;
    let managed: Vec<u32> = all.iter().map(|view| view.oid).collect();
    let all: Vec<String> = all.into_iter().map(|view| view.name).collect();
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
