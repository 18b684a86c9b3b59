//! `larder check`: is told what is wrong, with what to do, and does that help?

use serde_json::Value;

use crate::servers::{Database, PgBouncer, Postgres, Redis, skipped};
use crate::support::{Ran, larder, namespace, run};

async fn database() -> Database {
    Postgres::shared().unwrap().database().await.unwrap()
}

async fn check(arguments: &[&str]) -> (Ran, Vec<Value>) {
    let ran = run(larder(["check", "--json"].iter().chain(arguments))).await;
    let report: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{}", ran.err));
    let findings = report["findings"].as_array().unwrap().clone();
    (ran, findings)
}

/// What was found of these words.
fn about<'a>(findings: &'a [Value], words: &str) -> &'a Value {
    let found = findings.iter().find(|it| it["what"].as_str().unwrap().contains(words));
    found.unwrap_or_else(|| panic!("{words:?} is in none of {findings:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_well_give_no_error_and_what_is_left_out_is_named() {
    let (redis, database) = (Redis::shared().unwrap().url(), database().await);
    let client = database.connect().await.unwrap();
    let sql = "CREATE MATERIALIZED VIEW fine AS SELECT 1 AS id; CREATE UNIQUE INDEX ON fine (id)";
    client.batch_execute(sql).await.unwrap();
    let namespace = namespace();
    let both = ["--redis", &redis, "--namespace", &namespace, "--postgres", &database.url()];
    let (ran, findings) = check(&both).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{findings:#?}");
    for words in ["version", "a master", "maxmemory", "round trip", "19 commands", "scripts run"] {
        about(&findings, words);
    }
    assert_eq!(about(&findings, "fine: can be refreshed")["severity"], "ok");
    assert_eq!(about(&findings, "no process listens")["severity"], "ok");

    let ran = run(larder(["check", "--redis", &redis])).await;
    assert_eq!(ran.code, 0, "{}", ran.out);
    assert!(ran.out.contains("left out") && ran.out.contains("no --namespace"), "{}", ran.out);
    assert!(ran.out.contains("no --postgres") && !ran.out.contains('\x1b'), "{}", ran.out);
    let ran = run(larder(["check", "--postgres", &database.url()])).await;
    assert_eq!(ran.code, 0, "{}", ran.out);
    assert!(ran.out.contains("no --redis"), "{}", ran.out);
    let ran = run(larder(["check"])).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--redis") && ran.err.contains("--postgres"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_missing_rights_are_named_and_the_command_that_grants_them_helps() {
    let redis = Redis::start_tcp().unwrap();
    let rights = "reset on >hunter2 ~larder:shop:* resetchannels +ping +time +get +mget +pttl +zmscore \
                  +subscribe +eval +evalsha +info +zrangebyscore +del +publish +getrange +setrange \
                  +set +pexpire";
    let words = ["ACL", "SETUSER", "cache"].into_iter().chain(rights.split_whitespace());
    redis.command(&words.collect::<Vec<_>>()).unwrap();
    let url = format!("redis://cache:hunter2@127.0.0.1:{}", redis.port().unwrap());
    let as_user = ["--redis", &url, "--namespace", "shop"];
    let (ran, findings) = check(&as_user).await;
    assert_eq!(ran.code, 1, "{findings:#?}");
    assert!(!ran.out.contains("hunter2"), "{}", ran.out);
    let lacks = about(&findings, "the user cache lacks");
    let grant = "ACL SETUSER cache &larder:shop:* +zadd +persist";
    assert_eq!((&lacks["severity"], &lacks["run"][0]), (&"error".into(), &grant.into()));
    // An administrator sees the same without the user's password.
    let admin = redis.url();
    let of_user = ["--redis", &admin, "--namespace", "shop", "--redis-user", "cache"];
    let (ran, findings) = check(&of_user).await;
    assert_eq!(ran.code, 1);
    let mut ways = vec![&as_user[..], &of_user];
    if redis.command(&["ACL", "DRYRUN", "default", "PING"]).is_ok() {
        assert_eq!(&about(&findings, "lacks")["run"][0], &grant);
    } else {
        skipped("in part: ACL DRYRUN is of Redis 7");
        let advice = about(&findings, "cannot say what the user cache may do")["advice"].as_str();
        assert!(advice.unwrap().contains("connect as that user"), "{advice:?}");
        ways.pop();
    }
    redis.command(&grant.split(' ').collect::<Vec<_>>()).unwrap();
    let publish = "ACL SETUSER cache +hkeys +hset +hdel +hgetall";
    for arguments in &ways {
        let (ran, findings) = check(arguments).await;
        assert_eq!(ran.code, 0, "{findings:#?}");
        about(&findings, "the user cache may use all 19 commands");
        let note = about(&findings, "the user cache may not publish numbers");
        assert_eq!((&note["severity"], &note["run"][0]), (&"note".into(), &publish.into()));
    }
    redis.command(&publish.split(' ').collect::<Vec<_>>()).unwrap();
    for arguments in &ways {
        let (_, findings) = check(arguments).await;
        assert!(findings.iter().all(|it| it["severity"] != "note"), "{findings:#?}");
    }
    // Other keys than those of its namespace it may not touch.
    let (ran, findings) = check(&["--redis", &url, "--namespace", "other"]).await;
    let run = &about(&findings, "lacks")["run"][0];
    assert_eq!((ran.code, run), (1, &"ACL SETUSER cache ~larder:other:* &larder:other:*".into()));
    let unknown = ["--redis", &admin, "--namespace", "shop", "--redis-user", "nobody"];
    assert_eq!(check(&unknown).await.0.code, 1);
    // And it has changed nothing.
    let keys = redis.command(&["KEYS", "*"]).unwrap();
    assert_eq!(keys.trim(), "larder:shop:directory");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_does_when_it_is_full_is_told() {
    for (policy, severity) in [
        ("noeviction", "warning"),
        ("allkeys-random", "warning"),
        ("allkeys-lru", "ok"),
        ("volatile-ttl", "ok"),
    ] {
        let settings = ["--maxmemory", "100mb", "--maxmemory-policy", policy];
        let redis = Redis::start_with(&settings).unwrap();
        let (ran, findings) = check(&["--redis", &redis.url(), "--namespace", "shop"]).await;
        let found = about(&findings, &format!("{policy} when it is full"));
        assert_eq!((ran.code, &found["severity"]), (0, &severity.into()), "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_no_place_for_a_cache() {
    let primary = Redis::start_tcp().unwrap();
    let replica = Redis::start_replica_of(&primary).unwrap();
    let (ran, findings) = check(&["--redis", &replica.url(), "--namespace", "shop"]).await;
    let found = about(&findings, "this is a replica");
    let port = primary.port().unwrap().to_string();
    assert!(found["advice"].as_str().unwrap().contains(&port), "{found}");
    assert_eq!(ran.code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_would_write_without_its_replicas_is_an_error() {
    let primary = Redis::start_tcp().unwrap();
    let _replica = Redis::start_replica_of(&primary).unwrap();
    let url = primary.url();
    let arguments = ["--redis", &url, "--namespace", "shop"];
    let (ran, findings) = check(&arguments).await;
    let found = about(&findings, "a master with 1 replica");
    assert_eq!((ran.code, &found["severity"]), (1, &"error".into()), "{found}");
    // Its processes demand them, or the server does.
    for (demanded, severity) in [("1", "ok"), ("2", "error")] {
        let arguments = [&arguments[..], &["--redis-min-replicas", demanded]].concat();
        let (_, findings) = check(&arguments).await;
        let found = about(&findings, "a master with 1 replica");
        assert_eq!(found["severity"], severity, "{found}");
    }
    for command in found["run"].as_array().unwrap() {
        let words: Vec<&str> = command.as_str().unwrap().split(' ').collect();
        primary.command(&words).unwrap();
    }
    let (ran, findings) = check(&arguments).await;
    let found = about(&findings, "a master with 1 replica");
    assert_eq!((ran.code, &found["severity"]), (0, &"ok".into()), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_not_there_are_errors_without_their_passwords() {
    let (ran, findings) = check(&[
        "--redis",
        "redis://:hunter2@127.0.0.1:1",
        "--namespace",
        "shop",
        "--postgres",
        "postgres://me:hunter2@127.0.0.1:1/shop",
    ])
    .await;
    assert_eq!(ran.code, 1);
    assert_eq!(findings.iter().filter(|it| it["severity"] == "error").count(), 2, "{findings:#?}");
    assert!(!ran.out.contains("hunter2") && !ran.err.contains("hunter2"), "{}", ran.out);
    let ran =
        run(larder(["check", "--postgres", "postgres://me:hunter2@h/d?sslmode=perhaps"])).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("sslmode") && !ran.err.contains("hunter2"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_cannot_be_refreshed_is_told_with_the_sql_that_mends_it() {
    let database = database().await;
    let client = database.connect().await.unwrap();
    let sql = "CREATE SCHEMA reports;
               CREATE MATERIALIZED VIEW reports.\"Daily\" AS SELECT 1 AS day;
               CREATE MATERIALIZED VIEW empty AS SELECT 1 AS id WITH NO DATA;
               CREATE UNIQUE INDEX ON empty (id)";
    client.batch_execute(sql).await.unwrap();
    let url = database.url();
    let (ran, findings) = check(&["--postgres", &url]).await;
    assert_eq!(ran.code, 1, "{findings:#?}");
    assert_eq!(about(&findings, "empty: it holds nothing yet")["severity"], "warning");
    let found = about(&findings, "reports.\"Daily\": it has no index");
    let mend = found["run"][0].as_str().unwrap();
    assert_eq!(mend, "CREATE UNIQUE INDEX CONCURRENTLY ON reports.\"Daily\" (day);");
    client.batch_execute(mend).await.unwrap();
    assert_eq!(check(&["--postgres", &url]).await.0.code, 0);
    let (ran, findings) = check(&["--postgres", &url, "--view", "nowhere"]).await;
    about(&findings, "nowhere: ");
    assert_eq!(ran.code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_between_is_noticed() {
    let cluster = Postgres::shared().unwrap();
    let database = database().await;
    let pooler = PgBouncer::start(cluster, &["pool_mode=transaction"]).unwrap();
    let through = pooler.database(database.name());
    let (ran, findings) = check(&["--postgres", &through.url()]).await;
    assert_eq!(ran.code, 0, "{findings:#?}");
    about(&findings, "a pooler in transaction mode");
    let (_, findings) = check(&["--postgres", &database.url()]).await;
    assert!(!findings.iter().any(|it| it["what"].as_str().unwrap().contains("pooler")));
}
