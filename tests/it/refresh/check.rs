//! Does a check report a problem before a refresh fails because of it?

use std::time::Duration;

use larder::refresh::{Activity, Finding, FindingKind, MaterializedView, Refresher};

use super::basics::{refresher, shop};
use crate::support::{until, until_async};

async fn findings(refresher: &Refresher) -> Vec<Vec<Finding>> {
    let report = refresher.check().await.unwrap();
    report.views().iter().map(|view| view.findings().to_vec()).collect()
}

#[tokio::test]
async fn a_view_that_can_be_refreshed_has_no_findings() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE MATERIALIZED VIEW several AS SELECT id, region, amount FROM orders;
             CREATE UNIQUE INDEX ON several (id, region) INCLUDE (amount);
             CREATE UNIQUE INDEX not_this_one ON several (id) WHERE id > 5;",
        )
        .await
        .unwrap();
    let refresher = refresher(&database, &["by_region", "several"]).start().await.unwrap();
    let report = refresher.check().await.unwrap();
    assert!(report.is_ok());
    assert_eq!(report.to_string(), "by_region: ok\nseveral: ok");
    assert!(refresher.refresh_now("several").await.unwrap().rows().is_some());
}

#[tokio::test]
async fn the_classic_mistake_is_told_with_the_index_to_create() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE MATERIALIZED VIEW daily AS SELECT id AS day, sum(amount) FROM orders GROUP BY id;
             CREATE INDEX daily_day ON daily (day);",
        )
        .await
        .unwrap();
    let refresher = refresher(&database, &["daily"]).start().await.unwrap();
    let report = refresher.check().await.unwrap();
    assert!(!report.is_ok());
    assert_eq!(
        report.to_string(),
        "daily: cannot be refreshed\n  \
         none of its indexes is one that CONCURRENTLY can use, unique and on plain columns: \
         public.daily_day is not unique\n    \
         CREATE UNIQUE INDEX CONCURRENTLY ON public.daily (day);"
    );
    client.batch_execute(&report.views()[0].findings()[0].mending_sql()[0]).await.unwrap();
    assert!(refresher.check().await.unwrap().is_ok());
}

#[tokio::test]
async fn every_mend_mends() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE MATERIALIZED VIEW empty AS SELECT id FROM orders WITH NO DATA;
             CREATE UNIQUE INDEX ON empty (id);
             CREATE MATERIALIZED VIEW bare AS SELECT id, region, '{}'::json AS json FROM orders;
             CREATE MATERIALIZED VIEW known AS SELECT region || id AS name, id FROM orders;
             CREATE MATERIALIZED VIEW invalid AS SELECT id, 1 AS same FROM orders;",
        )
        .await
        .unwrap();
    // A concurrent creation that fails leaves an index that does not count.
    client.batch_execute("ANALYZE known").await.unwrap();
    let failed = "CREATE UNIQUE INDEX CONCURRENTLY invalid_same ON invalid (same)";
    client.batch_execute(failed).await.unwrap_err();
    let names = ["empty", "bare", "known", "invalid"];
    let refresher = refresher(&database, &names).start().await.unwrap();
    let all = findings(&refresher).await;
    let kinds: Vec<_> = all.iter().map(|findings| findings[0].kind()).collect();
    let no_index = FindingKind::NoUniqueIndex;
    assert_eq!(kinds, [FindingKind::NotPopulated, no_index, no_index, no_index]);
    assert!(all[1][0].message().starts_with("it has no index"), "{}", all[1][0]);
    // A column without an order cannot be part of it.
    let create = "CREATE UNIQUE INDEX CONCURRENTLY ON";
    assert_eq!(all[1][0].mending_sql(), [format!("{create} public.bare (id, region);")]);
    assert_eq!(all[2][0].mending_sql(), [format!("{create} public.known (name);")]);
    assert!(all[3][0].message().contains("public.invalid_same is invalid"), "{}", all[3][0]);
    assert_eq!(all[3][0].mending_sql(), ["REINDEX INDEX CONCURRENTLY public.invalid_same;"]);
    // The values have to become different first, which only the user can see to.
    client
        .batch_execute(
            "DROP MATERIALIZED VIEW invalid;
             CREATE MATERIALIZED VIEW invalid AS SELECT id, 1 AS same FROM orders LIMIT 1;",
        )
        .await
        .unwrap();
    for finding in findings(&refresher).await.iter().flatten() {
        for sql in finding.mending_sql() {
            client.batch_execute(sql).await.unwrap();
        }
    }
    let report = refresher.check().await.unwrap();
    assert!(report.views().iter().all(|view| view.findings().is_empty()), "{report}");
    for name in names {
        assert!(!refresher.refresh_now(name).await.unwrap().rows().unwrap().plain);
    }
}

#[tokio::test]
async fn who_holds_a_view_is_told() {
    let (database, mut client) = shop().await;
    let other = database.connect().await.unwrap();
    let refresher = refresher(&database, &["by_region"]).start().await.unwrap();
    let holder = client.transaction().await.unwrap();
    holder.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let refresh = tokio::spawn({
        let refresher = refresher.clone();
        async move { refresher.refresh_now("by_region").await }
    });
    until("it is refreshing", || refresher.status()[0].activity() == Activity::Refreshing).await;
    until_async("the refresh is found", async || {
        let all = findings(&refresher).await;
        all[0].iter().any(|it| it.message().contains("is refreshing it at this moment, for "))
    })
    .await;
    holder.rollback().await.unwrap();
    refresh.await.unwrap().unwrap();

    let holder = client.transaction().await.unwrap();
    let lock = "SET LOCAL application_name = 'backup'; ANALYZE by_region";
    holder.batch_execute(lock).await.unwrap();
    let all = findings(&refresher).await;
    let [finding] = &all[0][..] else { panic!("{:?}", all[0]) };
    assert_eq!(finding.kind(), FindingKind::Held);
    assert!(
        finding
            .message()
            .contains("application backup) holds ShareUpdateExclusiveLock on public.by_region,"),
        "{finding}"
    );
    assert!(!finding.kind().is_fatal());
    drop(holder);
    let sql = "SELECT 1";
    other.batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn what_skip_unchanged_needs_is_asked_for() {
    let (database, client) = shop().await;
    let role = format!("skipper_{}", database.name());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; ALTER MATERIALIZED VIEW by_region OWNER TO {role};
             GRANT SELECT ON orders TO {role}; GRANT CREATE ON SCHEMA public TO {role}"
        ))
        .await
        .unwrap();
    let view = MaterializedView::new("by_region").every(Duration::from_secs(3600)).skip_unchanged();
    let refresher = Refresher::builder(database.as_role(&role).pool(2)).view(view);
    let refresher = refresher.start().await.unwrap();
    let all = findings(&refresher).await;
    let [finding] = &all[0][..] else { panic!("{:?}", all[0]) };
    assert_eq!(finding.kind(), FindingKind::Untraceable);
    assert_eq!(finding.mending_sql(), [format!("GRANT pg_read_all_stats TO {role};")]);
    client.batch_execute(&finding.mending_sql()[0]).await.unwrap();
    assert!(findings(&refresher).await[0].is_empty());
    drop(refresher);
    client.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.unwrap();
}
