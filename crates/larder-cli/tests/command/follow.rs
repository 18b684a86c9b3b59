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
async fn a_table_that_would_gain_from_another_replica_identity_is_named_with_the_sql() {
    let server = Postgres::start_with(&["wal_level=logical"]).unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    let sql = "CREATE TABLE users (id int PRIMARY KEY);
        CREATE TABLE \"Orders\" (id int PRIMARY KEY, user_id int NOT NULL REFERENCES users, org int);
        CREATE INDEX ON \"Orders\" (org)";
    client.batch_execute(sql).await.unwrap();
    let hints = async || {
        let ran = run(larder(["follow", "check", "--postgres", &database.url()])).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
        let words: Vec<&str> = ran.out.split_whitespace().collect();
        let out = words.join(" ");
        out.split("hint ").skip(1).map(|hint| hint.trim().to_owned()).collect::<Vec<_>>()
    };
    let found = hints().await;
    let [org, user] = &found[..] else { panic!("{found:?}") };
    assert!(org.contains("by org") && org.contains("REPLICA IDENTITY FULL"), "{org}");
    // What it says can be done, and then it says it no more.
    let index = "CREATE UNIQUE INDEX CONCURRENTLY \"Orders_by_user_id\" ON public.\"Orders\" (user_id, id);";
    let table = "ALTER TABLE public.\"Orders\" REPLICA IDENTITY USING INDEX \"Orders_by_user_id\";";
    assert!(user.contains(&format!("{index} {table}")), "{user}");
    client.batch_execute(index).await.unwrap();
    client.batch_execute(table).await.unwrap();
    assert_eq!(hints().await.len(), 1);
    client.batch_execute("ALTER TABLE \"Orders\" REPLICA IDENTITY FULL").await.unwrap();
    assert_eq!(hints().await, [""; 0]);
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
