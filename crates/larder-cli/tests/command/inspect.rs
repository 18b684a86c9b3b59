//! `larder inspect`: does it say of an entry what a cache makes of it?

use std::time::Duration;

use larder::{Origin, QueryCache, QueryCacheBuilder};
use serde_json::Value;

use crate::servers::{Postgres, Redis};
use crate::support::{Ran, larder, namespace, run, until};

const SQL: &str = "SELECT g AS id, 'r' || g AS name, NULL::int4 AS nothing \
                   FROM generate_series(1, $1) g WHERE $2 <> ''";

fn builder(namespace: &str) -> QueryCacheBuilder {
    QueryCache::builder()
        .namespace(namespace)
        .redis(Redis::shared().unwrap().url())
        .redis_timeout(Duration::from_secs(10))
}

/// A namespace whose Redis has three rows, which depend on `orders`.
async fn filled(builder: QueryCacheBuilder) -> QueryCache {
    let database = Postgres::shared().unwrap().database().await.unwrap();
    let cache = builder.build().await.unwrap();
    let query = cache.query(SQL).tag("orders").scope("tenant:7").schema_version(3);
    let rows = query.params((3_i32, "eu")).fetch(&database.pool(1)).await.unwrap();
    assert_eq!(rows.len(), 3);
    until("the result is in redis", async || cache.stats().l2_writes == 1).await;
    cache
}

const CALL: [&str; 9] =
    [SQL, "--param", "i32:3", "--param", "text:eu", "--scope", "tenant:7", "--schema-version", "3"];

async fn inspect(namespace: &str, arguments: &[&str]) -> (Ran, Value) {
    let redis = Redis::shared().unwrap().url();
    let fixed = ["inspect", "--json", "--redis", &redis, "--namespace", namespace];
    let ran = run(larder(fixed.iter().chain(arguments))).await;
    let json = serde_json::from_str(&ran.out).unwrap_or(Value::Null);
    (ran, json)
}

fn reason(seen: &Value) -> (bool, &str) {
    (seen["served"].as_bool().unwrap(), seen["reason"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_found_by_what_the_program_says_and_by_its_key() {
    let namespace = namespace();
    let cache = filled(builder(&namespace)).await;
    let (ran, seen) = inspect(&namespace, &[&CALL[..], &["--tag", "orders"]].concat()).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(reason(&seen), (true, "current"), "{seen:#}");
    let entry = &seen["entry"];
    assert_eq!((&entry["codec"], &entry["seal"]), (&"rows".into(), &"holds".into()));
    assert_eq!(entry["ttl_ms"], 300_000);
    let names: Vec<&str> = entry["cells"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cell| cell["name"].as_str().unwrap())
        .collect();
    for name in ["orders", "the query itself", "everything"] {
        assert!(names.contains(&name), "{names:?}");
    }
    // No value unless it is asked for.
    assert!(seen.get("value").is_none() && !ran.out.contains("r2"), "{}", ran.out);
    let (key, name) = (seen["key"].as_str().unwrap(), seen["name"].as_str().unwrap());
    for what in [key, name, &key[..16]] {
        let (_, by_key) = inspect(&namespace, &[what, "--value"]).await;
        assert_eq!(by_key["key"], seen["key"], "{what}");
        let value = &by_key["value"];
        assert_eq!(value["columns"], serde_json::json!(["id", "name", "nothing"]));
        assert_eq!(value["rows"][1], serde_json::json!([2, "r2", null]));
    }
    // What differs in anything is another key.
    for other in [
        &[SQL, "--param", "i64:3", "--param", "text:eu", "--scope", "tenant:7"][..],
        &[&CALL[..], &["--type", "alloc::string::String", "--size", "24"]].concat(),
    ] {
        assert_eq!(reason(&inspect(&namespace, other).await.1), (false, "absent"));
    }
    // A cache is of the same opinion.
    cache.invalidate(["orders"]).await.acknowledged().unwrap();
    let (_, seen) = inspect(&namespace, &[&CALL[..], &["--tag", "orders"]].concat()).await;
    assert_eq!(reason(&seen), (false, "invalidated"));
    let why = seen["why"].as_str().unwrap();
    assert!(why.contains("(orders) was invalidated at 1"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_under_a_role_and_settings_is_found_by_them() {
    let namespace = namespace();
    let database = Postgres::shared().unwrap().database().await.unwrap();
    let cache = builder(&namespace).build().await.unwrap();
    let query = cache.query("SELECT 1").with_setting("app.tenant", "7");
    let config = database.config();
    let role = config.get_user().unwrap();
    let read = query.params(()).as_role(role).with_setting("TimeZone", "UTC");
    assert_eq!(read.fetch(&database.pool(1)).await.unwrap().len(), 1);
    until("the result is in redis", async || cache.stats().l2_writes == 1).await;
    let setup = ["--role", role, "--setting", "timezone=UTC", "--setting", "App.Tenant=7"];
    for (setup, found) in [
        (&setup[..], true),
        (&setup[2..], false),
        (&setup[..4], false),
        (&["--role", role, "--setting", "timezone=UTC", "--setting", "app.tenant=8"], false),
        (&[], false),
    ] {
        let (ran, seen) = inspect(&namespace, &[&["SELECT 1"], setup].concat()).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert_eq!(reason(&seen).0, found, "{setup:?}: {seen:#}");
    }
    let (ran, _) = inspect(&namespace, &["SELECT 1", "--setting", "hunter2"]).await;
    assert!(ran.code != 0 && ran.err.contains("NAME=VALUE"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typed_value_is_found_by_the_name_and_size_of_its_type() {
    let namespace = namespace();
    let cache = builder(&namespace).build().await.unwrap();
    let query = cache.query("SELECT name");
    let load = || query.load(|| async { Ok::<_, std::io::Error>("the secret name".to_owned()) });
    load().await.unwrap();
    until("the result is in redis", async || cache.stats().l2_writes == 1).await;
    let string = ["SELECT name", "--type", std::any::type_name::<String>(), "--size", "24"];
    let (ran, seen) = inspect(&namespace, &string).await;
    assert_eq!(reason(&seen), (true, "current"), "{seen:#}");
    assert!(!ran.out.contains("secret"), "{}", ran.out);
    let (_, seen) = inspect(&namespace, &[&string[..], &["--value"]].concat()).await;
    assert_eq!(seen["value"], "the secret name");
    let (ran, _) = inspect(&namespace, &["SELECT name", "--type", "shop::Stats"]).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("size_of::<shop::Stats>"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_not_to_serve_an_entry_is_told() {
    const SECRET: &str = "known to all processes of the fleet";
    let (namespace, redis) = (namespace(), Redis::shared().unwrap());
    let cache = filled(builder(&namespace).secret(SECRET)).await;
    let (_, seen) = inspect(&namespace, &CALL).await;
    assert_eq!(reason(&seen), (true, "current"));
    assert_eq!(seen["entry"]["seal"], "not checked");
    let name = seen["name"].as_str().unwrap().to_owned();
    let mut with_secret = larder(["inspect", "--json", "--namespace", &namespace, &name]);
    with_secret.env("LARDER_REDIS", redis.url()).env("LARDER_SECRET", SECRET);
    let ran = run(with_secret).await;
    let seen: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((reason(&seen), &seen["entry"]["seal"]), ((true, "current"), &"holds".into()));
    let mut other_secret = larder(["inspect", "--json", "--namespace", &namespace, &name]);
    other_secret.env("LARDER_REDIS", redis.url()).env("LARDER_SECRET", "another secret, as long");
    let seen: Value = serde_json::from_str(&run(other_secret).await.out).unwrap();
    assert_eq!(reason(&seen), (false, "unauthentic"));

    let of = async || {
        let (_, seen) = inspect(&namespace, &[&name]).await;
        let (served, reason) = reason(&seen);
        assert!(!served, "{seen:#}");
        reason.to_owned()
    };
    // When it ends by its own account, in the far future and long ago.
    redis.command(&["SETRANGE", &name, "90", "\u{7f}"]).unwrap();
    assert_eq!(of().await, "expiry");
    redis.command(&["SETRANGE", &name, "90", "\0"]).unwrap();
    assert_eq!(of().await, "expired");
    redis.command(&["SETRANGE", &name, "4", "\u{1}"]).unwrap();
    assert_eq!(of().await, "format");
    redis.command(&["SET", &name, "not an entry"]).unwrap();
    assert_eq!(of().await, "foreign");
    redis.command(&["DEL", &name]).unwrap();
    redis.command(&["LPUSH", &name, "a list"]).unwrap();
    assert_eq!(of().await, "foreign");
    redis.command(&["DEL", &name]).unwrap();
    assert_eq!(of().await, "absent");

    // Unsigned, and changed by one byte at its end; then of an epoch that has ended.
    cache.shutdown().await;
    let cache = filled(builder(&namespace)).await;
    let length = redis.command(&["STRLEN", &name]).unwrap();
    let last = (length.trim().parse::<usize>().unwrap() - 1).to_string();
    let before = redis.reply(&["GETRANGE", &name, &last, &last]).unwrap();
    redis.command(&["SETRANGE", &name, &last, "x"]).unwrap();
    assert_eq!(of().await, "damaged");
    let crate::servers::Reply::Text(before) = before else { panic!("{before:?}") };
    let restore: [&[u8]; 4] = [b"SETRANGE", name.as_bytes(), last.as_bytes(), &before];
    redis.command(&restore).unwrap();
    assert_eq!(reason(&inspect(&namespace, &[&name]).await.1), (true, "current"));
    redis.command(&["DEL", &format!("larder:{namespace}:directory")]).unwrap();
    assert_eq!(of().await, "epoch");
    cache.invalidate(["something else"]).await.acknowledged().unwrap();
    assert_eq!(of().await, "epoch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_under_way_is_seen_by_its_lease() {
    let namespace = namespace();
    let cache = builder(&namespace).build().await.unwrap();
    let query = cache.query("SELECT slow");
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let load = tokio::spawn(async move {
        let load = query.load(|| async {
            let _ = released.await;
            Ok::<_, std::io::Error>(7_i64)
        });
        load.answer().await.unwrap().origin()
    });
    let call = ["SELECT slow", "--type", "i64", "--size", "8"];
    let mut seen = Value::Null;
    until("the lease is there", async || {
        seen = inspect(&namespace, &call).await.1;
        !seen["lease"].is_null()
    })
    .await;
    assert_eq!(reason(&seen), (false, "absent"));
    assert!(seen["why"].as_str().unwrap().contains("is loading it"), "{seen:#}");
    assert!(seen["lease"]["remaining_ms"].as_u64().unwrap() <= 2_000);
    release.send(()).unwrap();
    assert_eq!(load.await.unwrap(), Origin::Loaded);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_read_fits_forty_columns_and_says_no_more_than_it_was_asked() {
    let namespace = namespace();
    let _cache = filled(builder(&namespace)).await;
    let redis = Redis::shared().unwrap().url();
    let fixed = ["inspect", "--redis", &redis, "--namespace", &namespace];
    let mut command = larder(fixed.iter().chain(&CALL).chain(&["--value", "--rows", "2"]));
    command.env("COLUMNS", "40");
    let ran = run(command).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let long = |line: &&str| line.chars().count() > 40 && !line.contains(&namespace);
    assert_eq!(ran.out.lines().find(long), None, "{}", ran.out);
    for words in ["would be served", "r2", "NULL", "1 row more"] {
        assert!(ran.out.contains(words), "{words}: {}", ran.out);
    }
    assert!(!ran.out.contains('\x1b') && !ran.out.contains("r3"), "{}", ran.out);
    let (ran, _) = inspect(&namespace, &["abc"]).await;
    assert!(ran.code == 2 && ran.err.contains("8 digits"), "{}", ran.err);
    let (ran, _) = inspect(&namespace, &["0123456789"]).await;
    assert!(ran.code == 2 && ran.err.contains("no key begins with"), "{}", ran.err);
    let (ran, _) = inspect(&namespace, &[SQL, "--param", "i32:three"]).await;
    assert!(ran.code == 2 && ran.err.contains("i32:three"), "{}", ran.err);
}
