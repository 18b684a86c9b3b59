//! Is the listening connection's password asked for at each connect, and is a refusal named?

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::refresh::{FindingKind, PostgresCredentials, Refresher, ViewStatus};
use tokio_postgres::{Client, NoTls};

use super::basics::{SCHEMA, refresher};
use crate::servers::{Database, Postgres};
use crate::support::{until, until_async};

/// A server that asks the user `listener` for a password, and all others for none.
async fn server() -> (Postgres, Database, Client) {
    let server = Postgres::start().unwrap();
    let database = server.database().await.unwrap();
    let admin = database.connect().await.unwrap();
    admin.batch_execute(SCHEMA).await.unwrap();
    let sql = "CREATE ROLE listener LOGIN PASSWORD 'first'";
    admin.batch_execute(sql).await.unwrap();
    allow(&admin, "scram-sha-256").await;
    (server, database, admin)
}

/// Sets how the user `listener` proves who it is.
async fn allow(admin: &Client, method: &str) {
    let row = admin.query_one("SHOW hba_file", &[]).await.unwrap();
    let lines = format!("local all listener {method}\nlocal all all trust\n");
    fs::write(row.get::<_, &str>(0), lines).unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until_async("the file is read", async || {
        let sql = "SELECT auth_method FROM pg_hba_file_rules WHERE user_name = '{listener}'";
        let read =
            "SELECT pg_conf_load_time() > (pg_stat_file(current_setting('hba_file'))).modification";
        admin.query_one(sql, &[]).await.unwrap().get::<_, &str>(0) == method
            && admin.query_one(read, &[]).await.unwrap().get(0)
    })
    .await;
}

async fn cut_off(admin: &Client) {
    let sql =
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = 'listener'";
    admin.query(sql, &[]).await.unwrap();
}

async fn until_it_listens(admin: &Client, refresher: &Refresher) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'listener' \
               AND state = 'idle' AND query = 'LISTEN larder_refresh'";
    until_async("it listens", async || {
        admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    until("it says so", || refresher.status()[0].not_listening().is_none()).await;
}

async fn until_refused(refresher: &Refresher, expected: &str) {
    let status = || -> ViewStatus { refresher.status().remove(0) };
    let message = || status().not_listening().map(|why| why.message().to_owned());
    until(expected, || message().is_some_and(|message| message.contains(expected))).await;
    assert!(status().to_string().contains(expected), "{}", status());
    let report = refresher.check().await.unwrap();
    let finding = report.views()[0].findings().iter().find(|finding| {
        finding.kind() == FindingKind::NotListening && finding.message().contains(expected)
    });
    assert!(finding.is_some() && report.is_ok(), "{report}");
    let shown = format!("{report} {report:?} {} {:?}", status(), status());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_password_is_used_by_the_next_connection_and_a_wrong_one_is_named() {
    let (_server, database, admin) = server().await;
    let current = Arc::new(Mutex::new(Ok("first")));
    let asked = Arc::new(AtomicU32::new(0));
    let (provided, counted) = (current.clone(), asked.clone());
    let builder = refresher(&database, &["by_region"])
        .poll(Duration::from_secs(3600))
        // The user and the password of the configuration are not used.
        .listen(database.as_role("nobody").config(), NoTls)
        .listen_credentials(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let password: Result<&str, &str> = *provided.lock().unwrap();
            async move { Ok(PostgresCredentials::new("listener", password?)) }
        });
    assert!(!format!("{builder:?}").contains("first"));
    let refresher = builder.start().await.unwrap();
    until_it_listens(&admin, &refresher).await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    // The connection that is there goes on with the old one.
    admin.batch_execute("ALTER ROLE listener PASSWORD 'second'").await.unwrap();
    *current.lock().unwrap() = Ok("second");
    cut_off(&admin).await;
    until_it_listens(&admin, &refresher).await;

    *current.lock().unwrap() = Ok("hunter2");
    cut_off(&admin).await;
    until_refused(&refresher, "postgresql refuses its password").await;
    *current.lock().unwrap() = Err("the vault is sealed");
    until_refused(&refresher, "the vault is sealed").await;
    *current.lock().unwrap() = Ok("second");
    allow(&admin, "reject").await;
    until_refused(&refresher, "pg_hba.conf has a line").await;
    allow(&admin, "scram-sha-256").await;
    until_it_listens(&admin, &refresher).await;
    refresher.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_password_is_named() {
    let (_server, database, admin) = server().await;
    let builder = refresher(&database, &["by_region"]);
    let refresher =
        builder.listen(database.as_role("listener").config(), NoTls).start().await.unwrap();
    until_refused(&refresher, "has no password").await;
    allow(&admin, "trust").await;
    until_it_listens(&admin, &refresher).await;
}

#[test]
fn debug_output_shows_no_credentials() {
    let credentials = PostgresCredentials::new("listener", "hunter2");
    assert_eq!(format!("{credentials:?}"), "PostgresCredentials(***)");
}
