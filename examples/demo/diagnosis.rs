//! A view that cannot be refreshed: what Larder says about it, and what becomes of it when one does
//! as Larder says.

use anyhow::{Context, Result, bail, ensure};
use larder::refresh::{FindingKind, MaterializedView, Refresher};

use crate::matview::{self, VIEW};
use crate::place::Place;

/// A view as many are made. The index is there because somebody has read that concurrent refreshes
/// need one; it has to be unique.
const MADE: &str = "\
CREATE MATERIALIZED VIEW daily_revenue AS
  SELECT o_orderdate AS day, count(*) AS orders, sum(o_totalprice) AS revenue
  FROM orders GROUP BY o_orderdate;
CREATE INDEX ON daily_revenue (day);";

/// What Larder said.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    pub(crate) made: &'static str,
    pub(crate) report: String,
    /// What a refresh says that is tried all the same.
    pub(crate) error: String,
    /// The statements of the report, which were run.
    pub(crate) mended: Vec<String>,
    pub(crate) after: String,
}

/// Makes the view with the mistake, asks Larder what is wrong, and does what it says.
///
/// # Errors
///
/// If Larder finds nothing, or what it says does not help.
pub(crate) async fn diagnose(place: &Place) -> Result<Diagnosis> {
    let pool = place.pool(2)?;
    matview::clean(&pool).await?;
    let client = pool.get().await?;
    client.batch_execute(MADE).await.context("cannot make the view")?;

    let view = MaterializedView::new(VIEW);
    let refresher = Refresher::builder(place.pool(2)?).view(view).start().await?;
    let report = refresher.check().await?;
    let Err(error) = refresher.refresh_now(VIEW).await else {
        bail!("a refresh without a unique index should have failed");
    };

    // What else may be wrong on somebody's own server is not ours to mend.
    let findings = report.views().iter().flat_map(|view| view.findings());
    let missing_index = findings.filter(|it| it.kind() == FindingKind::NoUniqueIndex);
    let mended: Vec<String> = missing_index.flat_map(|it| it.mending_sql()).cloned().collect();
    ensure!(!mended.is_empty(), "Larder does not say how to mend the view:\n{report}");
    for sql in &mended {
        client.batch_execute(sql).await.with_context(|| format!("cannot run {sql}"))?;
    }
    let after = refresher.check().await?;
    ensure!(after.is_ok(), "what Larder said did not help:\n{after}");
    refresher.shutdown().await;
    Ok(Diagnosis {
        made: MADE,
        report: report.to_string(),
        error: error.to_string(),
        mended,
        after: after.to_string(),
    })
}
