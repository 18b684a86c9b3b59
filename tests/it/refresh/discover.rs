//! The materialized views of a database, without a refresher.

use larder::refresh::{FindingKind, MaterializedView, RefreshErrorKind};

use super::basics::shop;

#[tokio::test]
async fn every_view_is_discovered_with_all_spellings_of_its_name() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE SCHEMA reports;
             CREATE MATERIALIZED VIEW reports.\"Daily\" AS SELECT 1 AS id;",
        )
        .await
        .unwrap();
    let found = MaterializedView::discover(database.pool(1)).await.unwrap();
    let names: Vec<&str> = found.iter().map(|view| &*view.name).collect();
    assert!(names.contains(&"by_region") && names.contains(&"reports.\"Daily\""), "{names:?}");
    assert!(found.iter().all(|view| view.may_refresh && !view.owner.is_empty()));
    let near = found.iter().find(|view| view.name == "by_region").unwrap();
    assert_eq!(near.tags, ["by_region", "public.by_region"]);
    let far = found.iter().find(|view| view.name.contains("Daily")).unwrap();
    assert!(far.tags.contains(&"reports.\"Daily\"".to_owned()), "{:?}", far.tags);
    assert!(!far.tags.contains(&"Daily".to_owned()), "{:?}", far.tags);
}

#[tokio::test]
async fn a_view_is_checked_without_a_refresher() {
    let (database, client) = shop().await;
    let check = MaterializedView::new("by_region").check(database.pool(1)).await.unwrap();
    assert!(check.is_ok() && check.findings().is_empty(), "{check}");
    client.batch_execute("CREATE MATERIALIZED VIEW bare AS SELECT 1 AS id").await.unwrap();
    let check = MaterializedView::new("bare").check(database.pool(1)).await.unwrap();
    assert_eq!(check.findings()[0].kind(), FindingKind::NoUniqueIndex);
    let plain = MaterializedView::new("bare").plain().check(database.pool(1)).await.unwrap();
    assert!(plain.is_ok(), "{plain}");
    let check = MaterializedView::new("no_such_view").check(database.pool(1)).await.unwrap();
    assert_eq!(check.findings()[0].kind(), FindingKind::Missing);
}

#[tokio::test]
async fn without_postgresql_it_is_an_error_of_the_connection() {
    let config: tokio_postgres::Config = "host=127.0.0.1 port=1 user=nobody".parse().unwrap();
    let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(1).build().unwrap();
    let error = MaterializedView::discover(pool).await.unwrap_err();
    assert_eq!(error.kind(), RefreshErrorKind::Connection);
}
