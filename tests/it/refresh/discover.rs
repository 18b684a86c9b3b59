//! The materialized views of a database, without a refresher.

use larder::refresh::{FindingKind, MaterializedView, RefreshErrorKind};

use super::basics::{refresher, shop};

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

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn views_are_found_by_names_that_can_be_refreshed() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            r#"CREATE SCHEMA reports;
               CREATE SCHEMA "Odd";
               CREATE MATERIALIZED VIEW reports.daily AS SELECT id FROM orders;
               CREATE MATERIALIZED VIEW "Odd".by_region AS SELECT id FROM orders;
               CREATE MATERIALIZED VIEW "a"".b" AS SELECT id FROM orders;"#,
        )
        .await
        .unwrap();
    let views = MaterializedView::discover(database.pool(1)).await.unwrap();
    let found: Vec<(&str, &[String])> =
        views.iter().map(|view| (&*view.name, &*view.tags)).collect();
    let odd = names(&[r#""Odd".by_region"#, "Odd.by_region"]);
    let quoted = names(&[r#""a"".b""#, r#"a".b"#, r#"public."a"".b""#, r#"public.a".b"#]);
    let visible = names(&["by_region", "public.by_region"]);
    let daily = names(&["reports.daily"]);
    let expected = [
        (r#""Odd".by_region"#, &*odd),
        (r#""a"".b""#, &*quoted),
        ("by_region", &*visible),
        ("reports.daily", &*daily),
    ];
    assert_eq!(found, expected);
    let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
    let refresher = refresher(&database, &names).start().await.unwrap();
    assert!(refresher.plan().await.unwrap().steps().flatten().all(|view| view.exists()));
}

#[tokio::test]
async fn a_view_of_another_role_is_found_and_not_to_be_refreshed() {
    let (database, client) = shop().await;
    let role = format!("discoverer_{}", database.name());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT SELECT ON orders TO {role};
             GRANT CREATE ON SCHEMA public TO {role}; SET ROLE {role};
             CREATE MATERIALIZED VIEW own AS SELECT id FROM orders; RESET ROLE"
        ))
        .await
        .unwrap();
    let views = MaterializedView::discover(database.as_role(&role).pool(1)).await.unwrap();
    let found: Vec<_> =
        views.iter().map(|view| (&*view.name, view.may_refresh, view.owner == role)).collect();
    assert_eq!(found, [("by_region", false, false), ("own", true, true)]);
    client.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn a_check_finds_without_a_refresher_what_one_finds() {
    let (database, client) = shop().await;
    client
        .batch_execute("CREATE MATERIALIZED VIEW daily AS SELECT id AS day FROM orders")
        .await
        .unwrap();
    let pool = database.pool(1);
    let good = MaterializedView::new("by_region").check(pool.clone()).await.unwrap();
    assert_eq!((good.view(), good.is_ok(), good.findings()), ("by_region", true, &[][..]));

    let bad = MaterializedView::new("daily").check(pool.clone()).await.unwrap();
    assert!(!bad.is_ok());
    assert_eq!(bad.findings()[0].kind(), FindingKind::NoUniqueIndex);
    let refresher = refresher(&database, &["daily"]).start().await.unwrap();
    assert_eq!(&bad, &refresher.check().await.unwrap().views()[0]);
    // A plain refresh needs no index.
    let plain = MaterializedView::new("daily").plain().check(pool.clone()).await.unwrap();
    assert!(plain.is_ok(), "{plain}");

    client.batch_execute(&bad.findings()[0].mending_sql()[0]).await.unwrap();
    assert!(MaterializedView::new("daily").check(pool).await.unwrap().is_ok());
}
