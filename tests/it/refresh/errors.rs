//! Does each way in which PostgreSQL rejects a refresh lead to a message that says what to do?

use std::time::Duration;

use larder::refresh::{FindingKind, MaterializedView, RefreshError, RefreshErrorKind, Refresher};
use tokio_postgres::Client;

use super::basics::{refresher, shop};
use crate::servers::{Database, Postgres};
use crate::support::until_async;

/// Refreshes a view that will not be refreshed.
async fn fails(database: &Database, view: MaterializedView) -> RefreshError {
    let name = view.name().to_owned();
    let refresher = Refresher::builder(database.pool(2)).view(view).start().await.unwrap();
    let error = refresher.refresh_now(&name).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("refresh the materialized view {name}: ")));
    let status = &refresher.status()[0];
    assert_eq!(status.failures_in_a_row(), 1);
    assert_eq!(status.last_error().map(RefreshError::kind), Some(error.kind()));
    error
}

fn sqlstate(error: &RefreshError) -> &str {
    error.sqlstate().map_or("none", |state| state.code())
}

async fn orders(client: &Client) -> i64 {
    let sql = "SELECT sum(orders)::int8 FROM by_region";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn no_unique_index_that_counts_says_why_each_does_not_and_which_to_create() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE MATERIALIZED VIEW plain AS SELECT id, region FROM orders;
             CREATE INDEX plain_id ON plain (id);
             CREATE UNIQUE INDEX plain_partial ON plain (id) WHERE id > 0;
             CREATE UNIQUE INDEX plain_expression ON plain ((id + 1));",
        )
        .await
        .unwrap();
    let error = fails(&database, MaterializedView::new("plain")).await;
    assert_eq!((error.kind(), sqlstate(&error)), (RefreshErrorKind::NoUniqueIndex, "55000"));
    let [finding] = error.findings() else { panic!("{:?}", error.findings()) };
    for said in [
        "public.plain_id is not unique",
        "public.plain_partial is partial (it has a WHERE)",
        "public.plain_expression is on an expression",
    ] {
        assert!(finding.message().contains(said), "{finding}");
        assert!(error.to_string().contains(said), "{error}");
    }
    assert_eq!(finding.mending_sql(), ["CREATE UNIQUE INDEX CONCURRENTLY ON public.plain (id);"]);
    // And that does mend it.
    client.batch_execute(&finding.mending_sql()[0]).await.unwrap();
    let refresher = refresher(&database, &["plain"]).start().await.unwrap();
    assert!(refresher.refresh_now("plain").await.unwrap().rows().is_some());
}

#[tokio::test]
async fn duplicates_are_named_without_their_values() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE TABLE secrets (word text);
             INSERT INTO secrets VALUES ('hunter2');
             CREATE MATERIALIZED VIEW words AS SELECT word, 1 AS one FROM secrets;
             CREATE UNIQUE INDEX ON words (word);
             INSERT INTO secrets VALUES ('hunter2');",
        )
        .await
        .unwrap();
    // Whole rows are the same.
    let error = fails(&database, MaterializedView::new("words")).await;
    assert_eq!((error.kind(), sqlstate(&error)), (RefreshErrorKind::Duplicates, "21000"));
    assert!(error.to_string().contains("DISTINCT"));
    // Keys are the same, rows are not.
    client
        .batch_execute(
            "CREATE MATERIALIZED VIEW keys AS SELECT word, min(ctid) AS at FROM secrets
               GROUP BY word, ctid LIMIT 1;
             CREATE UNIQUE INDEX ON keys (word);
             CREATE MATERIALIZED VIEW numbered AS SELECT 1 AS word, id FROM orders WHERE id = 1;
             CREATE UNIQUE INDEX ON numbered (word);
             CREATE TABLE more (id int);
             DROP MATERIALIZED VIEW numbered;
             CREATE MATERIALIZED VIEW numbered AS SELECT 1 AS word, id FROM more;
             CREATE UNIQUE INDEX ON numbered (word);
             INSERT INTO more VALUES (1), (2);",
        )
        .await
        .unwrap();
    let error = fails(&database, MaterializedView::new("numbered")).await;
    assert_eq!((error.kind(), sqlstate(&error)), (RefreshErrorKind::Duplicates, "23505"));
    for said in [error.to_string(), format!("{error:?}")] {
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn missing_privileges_come_with_the_grants() {
    let (database, client) = shop().await;
    let role = format!("role_{}", database.name());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT CREATE, USAGE ON SCHEMA public TO {role};
             REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC;
             GRANT SELECT ON orders TO {role};
             SET ROLE {role};
             CREATE MATERIALIZED VIEW theirs AS SELECT id FROM orders;
             CREATE UNIQUE INDEX ON theirs (id);
             RESET ROLE;
             REVOKE SELECT ON orders FROM {role};",
            name = database.name()
        ))
        .await
        .unwrap();
    // A superuser refreshes; the owner may not read.
    let error = fails(&database, MaterializedView::new("theirs")).await;
    assert_eq!((error.kind(), sqlstate(&error)), (RefreshErrorKind::Forbidden, "42501"));
    let mends: Vec<_> = error.findings().iter().flat_map(|it| it.mending_sql()).collect();
    let (table, temporary) = (
        format!("GRANT SELECT ON public.orders TO {role};"),
        format!("GRANT TEMPORARY ON DATABASE {} TO {role};", database.name()),
    );
    assert!(mends.contains(&&table) && mends.contains(&&temporary), "{error}");
    client.batch_execute(&table).await.unwrap();
    let error = fails(&database, MaterializedView::new("theirs")).await;
    assert_eq!((error.kind(), sqlstate(&error)), (RefreshErrorKind::Forbidden, "42501"));
    assert_eq!(error.findings().len(), 1, "{error}");
    client.batch_execute(&temporary).await.unwrap();
    // The owner refreshes their own view, and not another's.
    let theirs = database.as_role(&role);
    let owner = Refresher::builder(theirs.pool(2));
    let owner =
        owner.view(MaterializedView::new("theirs")).view(MaterializedView::new("by_region"));
    let owner = owner.start().await.unwrap();
    assert!(owner.refresh_now("theirs").await.unwrap().rows().is_some());
    let error = owner.refresh_now("by_region").await.unwrap_err();
    assert_eq!((error.kind(), sqlstate(&error)), (RefreshErrorKind::Forbidden, "42501"));
    let [finding] = error.findings() else { panic!("{error}") };
    assert_eq!(finding.kind(), FindingKind::NotOwner);
    client.batch_execute(&finding.mending_sql()[0]).await.unwrap();
    assert!(owner.refresh_now("by_region").await.unwrap().rows().is_some());
    client.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn a_lock_that_is_not_given_in_time_names_its_holder_and_leaves_the_rows() {
    let (database, mut client) = shop().await;
    let other = database.connect().await.unwrap();
    let holder = client.transaction().await.unwrap();
    // What VACUUM and CREATE INDEX CONCURRENTLY take.
    holder.batch_execute("INSERT INTO orders VALUES (20, 'eu', 1)").await.unwrap();
    let lock = "SET application_name = 'the index builder'; CREATE INDEX ON by_region (total)";
    holder.batch_execute(lock).await.unwrap();
    let view = MaterializedView::new("by_region").lock_timeout(Duration::from_millis(50));
    let error = fails(&database, view.clone()).await;
    assert_eq!((error.kind(), sqlstate(&error)), (RefreshErrorKind::LockTimeout, "55P03"));
    let [finding] = error.findings() else { panic!("{error}") };
    assert_eq!(finding.kind(), FindingKind::Held);
    assert!(
        finding.message().contains("application the index builder) holds ShareLock on"),
        "{error}"
    );
    assert!(finding.mending_sql()[0].starts_with("SELECT pg_terminate_backend("));
    assert_eq!(orders(&other).await, 10);
    holder.rollback().await.unwrap();
    let refresher = Refresher::builder(database.pool(1)).view(view).start().await.unwrap();
    assert!(refresher.refresh_now("by_region").await.unwrap().rows().is_some());
}

#[tokio::test]
async fn a_timeout_or_a_cancel_leaves_the_old_rows() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE MATERIALIZED VIEW slow AS SELECT 1 AS id, pg_sleep(0)::text AS slept, 0.0 AS n;
             DROP MATERIALIZED VIEW slow;
             CREATE TABLE naps (seconds float8); INSERT INTO naps VALUES (0);
             CREATE MATERIALIZED VIEW slow AS
               SELECT seconds, pg_sleep(seconds)::text AS slept FROM naps;
             CREATE UNIQUE INDEX ON slow (seconds);
             UPDATE naps SET seconds = 100;",
        )
        .await
        .unwrap();
    let limited = MaterializedView::new("slow").statement_timeout(Duration::from_millis(50));
    let error = fails(&database, limited).await;
    assert_eq!((error.kind(), sqlstate(&error)), (RefreshErrorKind::Cancelled, "57014"));
    assert!(error.to_string().contains("statement_timeout"));

    let refresher = refresher(&database, &["slow"]).start().await.unwrap();
    let refresh = tokio::spawn(async move { refresher.refresh_now("slow").await });
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
                  WHERE query LIKE 'REFRESH%' AND datname = current_database() AND state = 'active'";
    until_async("it was cancelled", async || {
        client.query_one(cancel, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    assert_eq!(refresh.await.unwrap().unwrap_err().kind(), RefreshErrorKind::Cancelled);
    let rows: f64 = client.query_one("SELECT seconds FROM slow", &[]).await.unwrap().get(0);
    assert_eq!(rows, 0.0);
}

#[tokio::test]
async fn a_server_that_takes_no_writes_says_so() {
    let (database, client) = shop().await;
    let read_only = "ALTER DATABASE {} SET default_transaction_read_only = on";
    client.batch_execute(&read_only.replace("{}", database.name())).await.unwrap();
    let error = fails(&database, MaterializedView::new("by_region")).await;
    assert_eq!((error.kind(), sqlstate(&error)), (RefreshErrorKind::ReadOnly, "25006"));
    let [finding] = error.findings() else { panic!("{error}") };
    let mend = &finding.mending_sql()[0];
    let run = format!("SET default_transaction_read_only = off; {mend}");
    client.batch_execute(&run).await.unwrap();
    let refresher = refresher(&database, &["by_region"]).start().await.unwrap();
    assert!(refresher.refresh_now("by_region").await.unwrap().rows().is_some());
}

#[tokio::test]
async fn an_error_of_the_views_own_query_is_told_without_values() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE TABLE texts (id int PRIMARY KEY, text text); INSERT INTO texts VALUES (1, '7');
             CREATE MATERIALIZED VIEW numbers AS SELECT id, text::int AS number FROM texts;
             CREATE UNIQUE INDEX ON numbers (id);
             UPDATE texts SET text = 'hunter2';",
        )
        .await
        .unwrap();
    let error = fails(&database, MaterializedView::new("numbers")).await;
    assert_eq!((error.kind(), sqlstate(&error)), (RefreshErrorKind::Postgres, "22P02"));
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_server_that_is_gone_is_a_matter_of_the_connection() {
    let mut postgres = Postgres::start().unwrap();
    let database = postgres.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(super::basics::SCHEMA).await.unwrap();
    let refresher = refresher(&database, &["by_region"]).start().await.unwrap();
    postgres.stop().unwrap();
    let error = refresher.refresh_now("by_region").await.unwrap_err();
    assert_eq!(error.kind(), RefreshErrorKind::Connection);
    let error = Refresher::builder(database.pool(1)).view(MaterializedView::new("by_region"));
    let error = error.start().await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    postgres.restart().unwrap();
    assert!(refresher.refresh_now("by_region").await.unwrap().rows().is_some());
}
