//! Is bad input refused with a helpful error?

use std::time::Duration;

use larder::{ErrorKind, Origin, QueryCache, QueryCacheBuilder};

use crate::support::local;

async fn refused(builder: QueryCacheBuilder) -> String {
    builder.build().await.unwrap_err().to_string()
}

fn builder() -> QueryCacheBuilder {
    QueryCache::builder()
}

#[tokio::test]
async fn a_wrong_setting_is_named_with_what_was_given_and_what_is_allowed() {
    let second = Duration::from_secs(1);
    for (builder, expected) in [
        (builder().namespace(""), "`namespace` is \"\"; allowed: 1 to 64 ASCII letters"),
        (builder().namespace("a b"), "`namespace` is \"a b\"; allowed: 1 to 64 ASCII letters"),
        (builder().namespace("n".repeat(65)), "allowed: 1 to 64 ASCII letters"),
        (builder().ttl(Duration::ZERO), "`ttl` is 0ns; allowed: from 1 millisecond to 366 days"),
        (builder().ttl(Duration::MAX), "allowed: from 1 millisecond to 366 days"),
        (builder().ttl(second).l1_ttl(2 * second), "`l1_ttl` is 2s; allowed: at most the `ttl`"),
        (builder().l1_ttl(Duration::ZERO), "`l1_ttl` is 0ns; allowed"),
        (builder().jitter(0.7), "`jitter` is 0.7; allowed: a share of the `ttl` from 0.0 to 0.5"),
        (builder().load_deadline(Duration::ZERO), "`load_deadline` is 0ns; allowed"),
        (builder().stale_while_revalidate(Duration::MAX), "allowed: up to 366 days"),
        (builder().stale_if_error(Duration::MAX), "allowed: up to 366 days"),
        (builder().negative_ttl(Duration::ZERO), "`negative_ttl` is 0ns; allowed"),
        (builder().negative_sqlstates(["42p01"], second), "`negative_sqlstates` is \"42p01\""),
        (builder().negative_sqlstates(["42P01"], Duration::ZERO), "`negative_sqlstates` is 0ns"),
        (builder().early_refresh(f64::NAN), "`early_refresh` is NaN; allowed: from 0.0 (never)"),
        (
            builder().max_staleness(Duration::ZERO),
            "`max_staleness` is 0ns; allowed: from 20 milliseconds",
        ),
        (builder().disconnected_ttl(Duration::MAX), "allowed: up to 1 hour"),
        (builder().secret("short"), "`secret` is shorter than that; allowed: at least 16 bytes"),
        (builder().max_bytes(0), "`max_bytes` is 0; allowed: at least 1 byte"),
        (builder().max_value_bytes(0), "`max_value_bytes` is 0; allowed: at least 1 byte"),
        (builder().concurrent_loads(0), "`concurrent_loads` is 0; allowed: at least 1 load"),
    ] {
        let message = refused(builder).await;
        assert!(message.contains(expected), "{message}");
        assert!(message.starts_with("the cache cannot be built: "), "{message}");
    }
    let error = builder().max_bytes(0).build().await.unwrap_err();
    assert_eq!((error.setting(), error.is_unreachable()), (Some("max_bytes"), false));
}

#[tokio::test]
async fn a_querys_wrong_setting_is_an_error_of_its_reads() {
    let cache = local().await;
    let query = cache.query("SELECT 1").name("one").ttl(Duration::ZERO);
    let error = query.load(|| async { Ok::<_, std::io::Error>(1) }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setting);
    let expected = "the query `one` failed: `ttl` is 0ns; allowed: from 1 millisecond to 366 days";
    assert_eq!(error.to_string(), expected);
    assert_eq!(cache.stats().loads, 0);
    let corrected = query.ttl(Duration::from_secs(1));
    let answer = corrected.load(|| async { Ok::<_, std::io::Error>(1) }).answer().await.unwrap();
    assert_eq!(answer.origin(), Origin::Loaded);
}

#[test]
fn without_a_runtime_the_error_says_what_is_missing() {
    let mut building = Box::pin(builder().build());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(built) = building.as_mut().poll(&mut context) else {
        panic!("it waits for a runtime that is not there");
    };
    assert!(built.unwrap_err().to_string().contains("no tokio runtime"));
}

#[cfg(feature = "redis")]
mod redis_settings {
    use super::*;
    use crate::servers::Redis;

    fn on(url: &str) -> QueryCacheBuilder {
        builder().namespace("settings").redis(url)
    }

    #[tokio::test]
    async fn a_redis_needs_a_namespace_and_a_url_that_can_be_read() {
        let message = refused(builder().redis("redis://localhost")).await;
        assert!(message.contains("`namespace` is not set; allowed: a name"), "{message}");
        for url in ["", "localhost:6379", "http://localhost", "redis://:hunter2@ho st:port"] {
            let message = refused(on(url)).await;
            assert!(message.contains("`redis` is"), "{message}");
            assert!(message.contains("allowed: redis://[user:password@]host"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        let message = refused(builder().namespace("n").redis_optional()).await;
        assert!(message.contains("`redis` is \"\""), "{message}");
        let message = refused(on("redis://localhost").redis_timeout(Duration::ZERO)).await;
        assert!(message.contains("`redis_timeout` is 0ns; allowed: more than zero"), "{message}");
    }

    #[tokio::test]
    async fn an_unreachable_redis_fails_the_start_unless_it_is_optional() {
        let url = "unix:///nonexistent/redis.sock?pass=hunter2";
        let error = on(url).build().await.unwrap_err();
        assert!(error.is_unreachable());
        let message = error.to_string();
        assert!(message.contains("redis at /nonexistent/redis.sock does not answer"), "{message}");
        assert!(message.contains("`redis_optional`"), "{message}");
        assert!(!format!("{error:?} {message}").contains("hunter2"));
        assert!(std::error::Error::source(&error).is_some());

        let cache = on(url).redis_optional().build().await.unwrap();
        let query = cache.query("SELECT 1");
        assert_eq!(*query.load(|| async { Ok::<_, std::io::Error>(1) }).await.unwrap(), 1);
        assert_eq!(cache.stats().l2_errors, 2);
    }

    #[tokio::test]
    async fn a_redis_that_wants_another_password_fails_the_start() {
        let redis = Redis::start().unwrap();
        let client = redis::Client::open(redis.url()).unwrap();
        let mut admin = client.get_multiplexed_async_connection().await.unwrap();
        let mut user = redis::cmd("ACL");
        user.arg("SETUSER").arg("app").arg("on").arg(">correct").arg(&["~*", "&*", "+@all"]);
        user.exec_async(&mut admin).await.unwrap();
        let url = |password: &str| {
            format!("redis+unix://{}?user=app&pass={password}", redis.socket().display())
        };
        let error = on(&url("hunter2")).build().await.unwrap_err();
        assert!(error.is_refused() && error.is_unauthenticated());
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        on(&url("correct")).build().await.unwrap();
    }

    #[test]
    fn debug_output_of_a_builder_hides_the_password() {
        let shown = format!("{:?}", on("redis://app:hunter2@localhost"));
        assert!(shown.contains("redis://***@localhost") && !shown.contains("hunter2"), "{shown}");
    }
}

#[cfg(all(feature = "redis", not(feature = "tls")))]
#[tokio::test]
async fn a_url_with_tls_names_the_feature_that_it_needs() {
    for url in ["rediss://:secret@localhost", "valkeys://localhost"] {
        let error = builder().namespace("tls").redis(url).build().await.unwrap_err();
        assert_eq!(error.setting(), Some("redis"));
        let error = error.to_string();
        assert!(error.contains("feature `tls`") && !error.contains("secret"), "{error}");
    }
}
