//! `larder follow check`: does it tell whether a cache could follow the database?

use crate::servers::Postgres;
use crate::support::{larder, run, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_can_be_followed_is_and_nothing_is_left() {
    let server = Postgres::start_with(&["wal_level=logical"]).unwrap();
    let database = server.database().await.unwrap();
    let ran = run(larder(["follow", "check", "--postgres", &database.url()])).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert!(
        ran.out.contains("can be followed") && ran.out.contains("a round takes"),
        "{}",
        ran.out
    );
    let client = database.connect().await.unwrap();
    until("nothing is left", async || {
        let sql = "SELECT count(*) FROM pg_replication_slots";
        client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named() {
    let server = Postgres::start_with(&["wal_level=replica"]).unwrap();
    let database = server.database().await.unwrap();
    let ran = run(larder(["follow", "check", "--postgres", &database.url()])).await;
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(
        ran.out.starts_with("error  ") && ran.out.contains("wal_level = logical"),
        "{}",
        ran.out
    );
    let nowhere = "host=/nowhere user=postgres dbname=postgres";
    let ran = run(larder(["follow", "check", "--wait", "1s", "--postgres", nowhere])).await;
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.out.contains("connecting to /nowhere"), "{}", ran.out);
}
