//! Connection strings of PostgreSQL that people have.

use std::fs;

use crate::servers::Postgres;
use crate::support::{Ran, larder, run, until};

async fn check(given: &str) -> Ran {
    run(larder(["check", "--json", "--postgres", given])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_host_is_used_if_the_first_does_not_answer() {
    let database = Postgres::shared().unwrap().database().await.unwrap();
    let url = database.url().replace("host=", "host=/nonexistent,");
    let ran = check(&url).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    // Both are named if none is the right one.
    let ran = check("host=/nonexistent,127.0.0.1 port=5432,1 user=me password=hunter2").await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("/nonexistent, 127.0.0.1:1"), "{}", ran.out);
    assert!(!ran.out.contains("hunter2"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_other_programs_are_taken_with_a_remark() {
    let database = Postgres::shared().unwrap().database().await.unwrap();
    let client = database.connect().await.unwrap();
    let view =
        "CREATE SCHEMA \"Sales EU\"; CREATE MATERIALIZED VIEW \"Sales EU\".daily AS SELECT 1 AS id";
    client.batch_execute(view).await.unwrap();
    let url = format!(
        "{}&schema=Sales%20EU&pgbouncer=true&connection_limit=5&sslmode=prefer&connect_timeout=30",
        database.url()
    );
    let ran = run(larder(["refresh", "daily", "--plain", "--postgres", &url])).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    for name in ["schema", "pgbouncer", "connection_limit"] {
        assert!(ran.err.contains(&format!("--postgres: {name}")), "{name}: {}", ran.err);
    }
    let ran = check(&format!("{}&service=hunter2", database.url())).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("service files are not read"), "{}", ran.err);
    assert!(!ran.err.contains("hunter2"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_file_is_read_for_each_connection() {
    let server = Postgres::start().unwrap();
    let database = server.database().await.unwrap();
    let admin = database.connect().await.unwrap();
    admin.batch_execute("CREATE ROLE app LOGIN PASSWORD 'hunter2'").await.unwrap();
    let row = admin.query_one("SHOW hba_file", &[]).await.unwrap();
    let lines = "local all app scram-sha-256\nlocal all all trust\n";
    fs::write(row.get::<_, &str>(0), lines).unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let app = database.as_role("app");
    until("a password is asked for", async || app.connect().await.is_err()).await;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("passwords");
    let url = format!("{}&passfile={}", app.url(), path.display());
    assert_eq!(check(&url).await.code, 2, "there is no file");
    fs::write(&path, "localhost:*:*:app:wrong\n").unwrap();
    let ran = check(&url).await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("password authentication failed"), "{}", ran.out);
    fs::write(&path, "localhost:*:*:app:hunter2\n").unwrap();
    let ran = check(&url).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert!(!ran.out.contains("hunter2"), "{}", ran.out);
}
