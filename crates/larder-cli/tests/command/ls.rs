//! `larder ls`.

use std::time::Duration;

use larder::{QueryCache, QueryCacheBuilder};
use serde_json::Value;

use crate::servers::Redis;
use crate::support::{Ran, larder, namespace, run, until};

fn builder(namespace: &str) -> QueryCacheBuilder {
    QueryCache::builder()
        .namespace(namespace)
        .redis(Redis::shared().unwrap().url())
        .redis_timeout(Duration::from_secs(10))
}

/// Results of two queries, the second without a name.
async fn filled(builder: QueryCacheBuilder) -> QueryCache {
    let cache = builder.build().await.unwrap();
    let one = async || Ok::<_, std::io::Error>(1_i64);
    let revenue = cache.query("SELECT revenue WHERE $1").name("revenue").tag("orders");
    for region in ["eu", "us", "asia"] {
        revenue.bind(region).tag(format!("orders:{region}")).load(one).await.unwrap();
    }
    cache.query("SELECT stock").tag("stock").load(one).await.unwrap();
    until("all is in redis", async || cache.stats().l2_writes == 4).await;
    cache
}

async fn ls(namespace: &str, arguments: &[&str]) -> Ran {
    let redis = Redis::shared().unwrap().url();
    let fixed = ["ls", "--redis", &redis, "--namespace", namespace];
    run(larder(fixed.iter().chain(arguments))).await
}

async fn as_json(namespace: &str, arguments: &[&str]) -> Value {
    let ran = ls(namespace, &[&["--json"], arguments].concat()).await;
    assert_eq!(ran.err, "");
    serde_json::from_str(&ran.out).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_listed_with_their_tags_and_the_number_of_their_results() {
    let namespace = namespace();
    let cache = filled(builder(&namespace).publish_stats(Duration::from_millis(100))).await;
    let mut seen = Value::Null;
    until("the process has told of all loads", async || {
        seen = as_json(&namespace, &[]).await;
        seen["queries"].as_array().is_some_and(|all| all.iter().all(|it| !it["name"].is_null()))
    })
    .await;
    assert_eq!((&seen["results"], &seen["complete"]), (&4.into(), &true.into()));
    let queries = seen["queries"].as_array().unwrap();
    let [first, second] = &queries[..] else { panic!("{seen:#}") };
    assert_eq!((&first["name"], &first["results"]), (&"revenue".into(), &3.into()));
    // Not those of the calls, which show parameters.
    assert_eq!(first["tags"], serde_json::json!(["orders"]));
    assert_eq!((&second["results"], &second["tags"][0]), (&1.into(), &"stock".into()));
    assert!(first["bytes"].as_u64().unwrap() > second["bytes"].as_u64().unwrap());

    let ran = ls(&namespace, &[]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for words in [format!("{namespace}: 4 results in Redis"), "revenue".into(), "stock".into()] {
        assert!(ran.out.contains(&words), "{}", ran.out);
    }
    let ran = ls(&namespace, &["revenue"]).await;
    assert!(ran.out.starts_with("revenue: 3 results in Redis"), "{}", ran.out);
    let with_tag = as_json(&namespace, &["revenue", "--tag", "orders:eu"]).await;
    let [only] = &with_tag["results"].as_array().unwrap()[..] else { panic!("{with_tag:#}") };
    // The key is one that `inspect` takes.
    let (redis, key) = (Redis::shared().unwrap().url(), only["key"].as_str().unwrap());
    let inspected =
        run(larder(["inspect", &key[..16], "--redis", &redis, "--namespace", &namespace])).await;
    assert_eq!(inspected.code, 0, "{}", inspected.err);
    // By its SQL as well.
    let by_sql = as_json(&namespace, &["SELECT revenue WHERE $1"]).await;
    assert_eq!(by_sql["results"].as_array().unwrap().len(), 3);
    let ran = ls(&namespace, &["revenues"]).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("neither the name") && ran.err.contains("revenue"), "{}", ran.err);
    drop(cache);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_process_tells_of_is_counted_and_what_is_not_there_is_said() {
    let namespace = namespace();
    let _cache = filled(builder(&namespace)).await;
    let ran = ls(&namespace, &[]).await;
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("(told of by nobody)"), "{}", ran.out);
    let nothing = ls(&namespace, &["--tag", "nobody has this"]).await;
    assert_eq!(nothing.code, 1);
    let redis = Redis::shared().unwrap().url();
    let all = run(larder(["ls", "--namespaces", "--redis", &redis])).await;
    assert_eq!((all.code, all.err.as_str()), (0, ""));
    assert!(all.out.lines().any(|line| line == namespace), "{}", all.out);
}
