//! `larder explain`: what a query depends on, for a person and for a program.

use crate::servers::{Database, Postgres};
use crate::support::{larder, run};

async fn database() -> Database {
    let database = Postgres::shared().unwrap().database().await.unwrap();
    let sql = "CREATE TABLE orders (id int PRIMARY KEY, region text, at timestamptz);
        CREATE VIEW recent AS SELECT * FROM orders WHERE at > now() - interval '1 day';
        CREATE VIEW by_region AS SELECT region, count(*) FROM orders GROUP BY region;
        CREATE FUNCTION total() RETURNS bigint LANGUAGE plpgsql AS
          $$ BEGIN RETURN (SELECT count(*) FROM orders); END $$;
        CREATE SCHEMA other; CREATE TABLE other.orders (id int)";
    database.connect().await.unwrap().batch_execute(sql).await.unwrap();
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_explained_and_one_that_cannot_be_followed_is_an_exit_code() {
    let database = database().await;
    let url = database.url();
    let explain = async |sql: &str, more: &[&str]| {
        let arguments = [&["explain", sql, "--postgres", &url][..], more].concat();
        run(larder(arguments)).await
    };
    let ran = explain("SELECT * FROM by_region WHERE region = $1", &[]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for line in ["static: ", "  public.by_region", "  public.orders", "  $1 text"] {
        assert!(ran.out.contains(line), "{line}: {}", ran.out);
    }
    let ran = explain("SELECT * FROM recent", &[]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("unfollowed") && ran.out.contains("it calls now()"), "{}", ran.out);

    let json = async |sql: &str, more: &[&str]| {
        let ran = explain(sql, &[&["--json"][..], more].concat()).await;
        let found: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        (ran.code, found)
    };
    let (code, found) = json("SELECT total()", &[]).await;
    assert_eq!(
        (code, &found["class"], &found["relations"]),
        (0, &"dynamic".into(), &serde_json::json!([]))
    );
    let (_, found) = json("SELECT total()", &["--run"]).await;
    assert_eq!(found["relations"], serde_json::json!(["public.orders"]));
    let (_, found) = json("SELECT id FROM orders", &["--setting", "search_path=other"]).await;
    assert_eq!(found["relations"], serde_json::json!(["other.orders"]));
    let (code, found) = json("SELECT 1; DROP TABLE orders", &[]).await;
    assert_eq!((code, &found["class"]), (1, &"unfollowed".into()));
    assert_eq!(json("SELECT count(*) FROM orders", &[]).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_an_error_without_its_password() {
    let url = "postgres://me:hunter2@127.0.0.1:1/shop";
    let ran = run(larder(["explain", "SELECT 1", "--postgres", url])).await;
    assert_eq!(ran.code, 3);
    assert!(!ran.err.contains("hunter2") && ran.err.contains("127.0.0.1"), "{}", ran.err);
    assert_eq!(run(larder(["explain", "SELECT 1"])).await.code, 2);
}
