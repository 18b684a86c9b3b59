//! `larder refresh`.

use std::time::Duration;

use larder::{Origin, QueryCache};
use serde_json::Value;
use tokio_postgres::Client;

use crate::servers::{Database, Postgres, Redis};
use crate::support::{Ran, larder, namespace, run, until};

/// Orders, what they sum up to, and what that sums up to.
async fn shop() -> (Database, Client) {
    let database = Postgres::shared().unwrap().database().await.unwrap();
    let client = database.connect().await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE orders AS SELECT g AS id, g % 3 AS region FROM generate_series(1, 9) g;
             CREATE SCHEMA reports;
             CREATE MATERIALIZED VIEW reports.total AS SELECT 1 AS id WITH NO DATA;
             DROP MATERIALIZED VIEW reports.total;
             CREATE MATERIALIZED VIEW by_region AS
               SELECT region, count(*) AS orders FROM orders GROUP BY region;
             CREATE UNIQUE INDEX ON by_region (region);
             CREATE MATERIALIZED VIEW reports.total AS
               SELECT 1 AS id, sum(orders) AS orders FROM by_region;
             CREATE UNIQUE INDEX ON reports.total (id);",
        )
        .await
        .unwrap();
    (database, client)
}

async fn refresh(database: &Database, arguments: &[&str]) -> (Ran, Value) {
    let url = database.url();
    let fixed = ["refresh", "--json", "--postgres", &url];
    let ran = run(larder(fixed.iter().chain(arguments))).await;
    let json = serde_json::from_str(&ran.out).unwrap_or(Value::Null);
    (ran, json)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|view| view["view"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_refreshed_from_the_bottom_up_and_caches_are_told_however_they_name_them() {
    let ((database, client), namespace) = (shop().await, namespace());
    let redis = Redis::shared().unwrap().url();
    let cache = QueryCache::builder()
        .namespace(&namespace)
        .redis(&redis)
        .redis_timeout(Duration::from_secs(10))
        .build()
        .await
        .unwrap();
    let tags = ["by_region", "public.by_region", "reports.total", "total", "orders"];
    let queries = tags.map(|tag| cache.query(tag).tag(tag));
    let origin = async |at: usize| {
        let load = queries[at].load(|| async { Ok::<_, std::io::Error>(1_i32) });
        load.answer().await.unwrap().origin()
    };
    let cached = ["--redis", &redis, "--namespace", &namespace];
    let arguments = [&["--all"], &cached[..]].concat();
    // The first look of a fleet at a view makes stale what may be from before it.
    assert_eq!(refresh(&database, &arguments).await.0.code, 0);
    for at in 0..tags.len() {
        assert_eq!(origin(at).await, Origin::Loaded);
    }
    // No row has changed: nothing is stale.
    let (ran, told) = refresh(&database, &arguments).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert_eq!(names(&told["views"]), ["by_region", "reports.total"]);
    for (at, tag) in tags.iter().enumerate() {
        assert_eq!(origin(at).await, Origin::L1, "{tag}");
    }
    client.batch_execute("INSERT INTO orders VALUES (10, 1)").await.unwrap();
    let (ran, told) = refresh(&database, &arguments).await;
    assert_eq!(ran.code, 0, "{}", ran.out);
    for view in told["views"].as_array().unwrap() {
        assert_eq!((&view["changed"], &view["inserted"]), (&true.into(), &1.into()), "{view}");
    }
    // Also without its schema, which another program's search_path may find.
    for at in 0..4 {
        until("the push has come", async || origin(at).await != Origin::L1).await;
    }
    // The table was not refreshed.
    assert_eq!(origin(4).await, Origin::L1);
    let total = "SELECT orders::int8 FROM reports.total";
    assert_eq!(client.query_one(total, &[]).await.unwrap().get::<_, i64>(0), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_changes_nothing_and_all_leaves_out_what_the_role_may_not_refresh() {
    let (database, client) = shop().await;
    let role = format!("clerk_{}", database.name());
    let sql = format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT ON orders TO {role};
         GRANT CREATE ON SCHEMA public TO {role};
         ALTER MATERIALIZED VIEW by_region OWNER TO {role};
         INSERT INTO orders VALUES (10, 1)"
    );
    client.batch_execute(&sql).await.unwrap();
    let (ran, plan) = refresh(&database, &["--all", "--plan"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(names(&plan["steps"][0]), ["by_region"]);
    assert_eq!(names(&plan["steps"][1]), ["reports.total"]);
    assert_eq!(plan["steps"][1][0]["after"][0], "by_region");
    let sum = "SELECT sum(orders)::int8 FROM by_region";
    assert_eq!(client.query_one(sum, &[]).await.unwrap().get::<_, i64>(0), 9);

    let (ran, told) = refresh(&database.as_role(&role), &["--all"]).await;
    assert_eq!(ran.code, 0, "{}", ran.out);
    assert_eq!(
        (names(&told["views"]), names(&told["left_out"])),
        (vec!["by_region"], vec!["reports.total"])
    );
    assert_eq!(client.query_one(sum, &[]).await.unwrap().get::<_, i64>(0), 10);
    let url = database.as_role(&role).url();
    let ran = run(larder(["refresh", "--all", "--postgres", &url])).await;
    for words in ["ok ", "left out reports.total", "no cache is told", "1 view refreshed"] {
        assert!(ran.out.contains(words), "{words}: {}", ran.out);
    }
    client.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_fails_is_told_with_what_mends_it_and_keeps_no_other_from_it() {
    let (database, client) = shop().await;
    let sql = "CREATE MATERIALIZED VIEW bare AS SELECT id FROM orders";
    client.batch_execute(sql).await.unwrap();
    let (ran, told) = refresh(&database, &["bare", "by_region"]).await;
    assert_eq!(ran.code, 1, "{}", ran.out);
    let views = told["views"].as_array().unwrap();
    let of = |name| views.iter().find(|view| view["view"] == name).unwrap();
    assert_eq!(of("by_region")["outcome"], "refreshed");
    let failed = of("bare");
    assert_eq!((&failed["outcome"], &failed["sqlstate"]), (&"failed".into(), &"55000".into()));
    let mend = failed["run"][0].as_str().unwrap();
    let url = database.url();
    let mut narrow = larder(["refresh", "bare", "--postgres", &url]);
    narrow.env("COLUMNS", "40");
    let ran = run(narrow).await;
    assert!(ran.code == 1 && ran.out.contains(mend), "{}", ran.out);
    let long = |line: &&str| line.chars().count() > 40 && !line.contains(mend);
    assert_eq!(ran.out.lines().find(long), None, "{}", ran.out);
    let (ran, told) = refresh(&database, &["bare", "--or-plain"]).await;
    assert_eq!((ran.code, &told["views"][0]["plain"]), (0, &true.into()));
    client.batch_execute(mend).await.unwrap();
    let (ran, told) = refresh(&database, &["bare"]).await;
    assert_eq!((ran.code, &told["views"][0]["plain"]), (0, &false.into()));

    let (ran, _) = refresh(&database, &["orders"]).await;
    assert!(ran.code == 2 && ran.err.contains("is a table"), "{}", ran.err);
    let nowhere = ["refresh", "by_region", "--postgres", "postgres://me:hunter2@127.0.0.1:1/shop"];
    let ran = run(larder(nowhere)).await;
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("127.0.0.1:1") && !ran.err.contains("hunter2"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_in_postgresql_too() {
    let (database, mut client) = shop().await;
    let holder = client.transaction().await.unwrap();
    holder.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let url = database.url();
    let arguments = ["refresh", "by_region", "--lock-timeout", "1h", "--postgres", &url];
    let mut command = larder(arguments);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = child.id().to_string();
    let ran = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let observer = database.connect().await.unwrap();
    let refreshing = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND state = 'active' AND query LIKE 'REFRESH MATERIALIZED VIEW%'";
        observer.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    until("it waits for the table", async || refreshing().await == 1).await;
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = ran.await.unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cancelled"), "{said}");
    assert_eq!(refreshing().await, 0);
    holder.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_waits_says_for_whom_while_it_waits_and_at_its_end() {
    let (database, mut client) = shop().await;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let holder = client.transaction().await.unwrap();
    let lock = "SET LOCAL application_name = 'the migration';
                LOCK TABLE orders IN ACCESS EXCLUSIVE MODE";
    holder.batch_execute(lock).await.unwrap();
    let url = database.url();
    let arguments = ["refresh", "by_region", "--lock-timeout", "1500ms", "--postgres", &url];
    let ran = run(larder(arguments)).await;
    assert_eq!(ran.code, 1);
    let mend = format!("SELECT pg_terminate_backend({pid});");
    for (text, first) in [(&ran.err, "waiting"), (&ran.out, "failed")] {
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.starts_with(first), "{words}");
        for said in [
            &format!("process {pid} (user postgres, application the migration) holds"),
            "AccessExclusiveLock on public.orders",
            &mend,
        ] {
            assert!(words.contains(said), "{said}: {words}");
        }
    }
    holder.rollback().await.unwrap();
}
