//! Are views refreshed after the views that they read?

use larder::refresh::{FindingKind, MaterializedView};
use tokio_postgres::Client;

use super::basics::{refresher, shop};
use crate::servers::Database;

/// by_region ← (plain view) share ← top; by_region ← doubled ← top; apart.
pub async fn tower() -> (Database, Client) {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE VIEW share AS
               SELECT region, total / (SELECT sum(total) FROM by_region) AS share FROM by_region;
             CREATE MATERIALIZED VIEW doubled AS SELECT region, total * 2 AS twice FROM by_region;
             CREATE UNIQUE INDEX ON doubled (region);
             CREATE MATERIALIZED VIEW top AS
               SELECT region, share, twice FROM share JOIN doubled USING (region);
             CREATE UNIQUE INDEX ON top (region);
             CREATE MATERIALIZED VIEW apart AS SELECT id FROM orders;
             CREATE UNIQUE INDEX ON apart (id);",
        )
        .await
        .unwrap();
    (database, client)
}

#[tokio::test]
async fn a_plan_goes_from_the_bottom_up_through_plain_views_too() {
    let (database, _client) = tower().await;
    let names = ["top", "apart", "doubled", "by_region"];
    let nowhere = MaterializedView::new("nowhere").created_later();
    let refresher = refresher(&database, &names).view(nowhere).start().await.unwrap();
    let plan = refresher.plan().await.unwrap();
    assert_eq!(
        plan.to_string(),
        "1. apart; by_region; nowhere (missing)\n\
         2. doubled after by_region\n\
         3. top after doubled, by_region"
    );
    let steps: Vec<Vec<&str>> =
        plan.steps().map(|step| step.iter().map(|view| view.name()).collect()).collect();
    assert_eq!(steps, [vec!["apart", "by_region", "nowhere"], vec!["doubled"], vec!["top"]]);
}

#[tokio::test]
async fn one_round_brings_a_write_from_the_bottom_to_the_top() {
    let (database, client) = tower().await;
    let names = ["top", "apart", "doubled", "by_region"];
    let refresher = refresher(&database, &names).start().await.unwrap();
    for amount in [100, 1000] {
        let sql = format!("INSERT INTO orders SELECT max(id) + 1, 'eu', {amount} FROM orders");
        client.batch_execute(&sql).await.unwrap();
        let reports = refresher.refresh_all().await;
        assert!(reports.into_iter().all(|report| report.unwrap().changed()));
        let row = client
            .query_one(
                "SELECT twice::int8, (SELECT sum(amount) FROM orders WHERE region = 'eu')::int8 \
                 FROM top WHERE region = 'eu'",
                &[],
            )
            .await
            .unwrap();
        assert_eq!(row.get::<_, i64>(0), 2 * row.get::<_, i64>(1));
    }
}

#[tokio::test]
async fn a_view_below_that_nobody_refreshes_is_a_finding() {
    let (database, _client) = tower().await;
    let refresher = refresher(&database, &["top", "doubled"]).start().await.unwrap();
    let report = refresher.check().await.unwrap();
    assert!(report.is_ok());
    for view in report.views() {
        let [finding] = view.findings() else { panic!("{report}") };
        assert_eq!(finding.kind(), FindingKind::Unmanaged);
        assert!(finding.message().contains("public.by_region"), "{report}");
    }
    // The order of the two is known all the same.
    assert_eq!(refresher.plan().await.unwrap().to_string(), "1. doubled\n2. top after doubled");
}
