//! Whether the materialized views of a database can be refreshed.

use larder::refresh::{Finding, FindingKind, MaterializedView, RefreshError};

use super::report::{Report, Severity};
use crate::connect::Pool;

const AREA: &str = "Materialized views";

pub(super) async fn check(
    report: &mut Report,
    pool: &Pool,
    wanted: &[String],
) -> Result<(), RefreshError> {
    let all = MaterializedView::discover(pool.source.clone()).await?;
    let all: Vec<String> = all.into_iter().map(|view| view.name).collect();
    let names = if wanted.is_empty() { &all } else { wanted };
    if names.is_empty() {
        report.add(AREA, Severity::Ok, "there are none in this database");
    }
    for name in names {
        let check = MaterializedView::new(name.as_str()).check(pool.source.clone()).await?;
        // The limits are the connection's, and are reported once, with its other settings.
        let of_view = |finding: &&Finding| finding.kind() != FindingKind::TimeLimit;
        let findings: Vec<&Finding> = check.findings().iter().filter(of_view).collect();
        if findings.is_empty() {
            report.add(AREA, Severity::Ok, format!("{name}: can be refreshed CONCURRENTLY"));
        }
        for finding in findings {
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
