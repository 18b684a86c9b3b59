//! Are the materialized views of a database found, and checked without a refresher?

use larder::refresh::{FindingKind, MaterializedView, RefreshErrorKind};

use super::basics::{refresher, shop};
use crate::support::database;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_database_without_materialized_views_has_none() {
    let database = database().await;
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE t (id int); CREATE VIEW v AS TABLE t").await.unwrap();
    assert_eq!(MaterializedView::discover(database.pool(1)).await.unwrap(), []);
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

#[tokio::test]
async fn a_missing_view_is_a_finding_and_a_missing_server_an_error() {
    let database = database().await;
    let check = MaterializedView::new("nowhere").check(database.pool(1)).await.unwrap();
    assert!(!check.is_ok());
    assert_eq!(check.findings()[0].kind(), FindingKind::Missing);

    let nobody = database.as_role("nobody_of_this_name");
    let view = MaterializedView::new("nowhere");
    let error = view.check(nobody.pool(1)).await.unwrap_err();
    assert_eq!(error.kind(), RefreshErrorKind::Connection);
    let error = MaterializedView::discover(nobody.pool(1)).await.unwrap_err();
    assert_eq!(error.kind(), RefreshErrorKind::Connection);
    assert!(error.to_string().contains("all materialized views"), "{error}");
}
