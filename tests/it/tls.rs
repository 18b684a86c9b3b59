//! Redis over TLS: private authorities, client certificates, and what is refused.

use std::time::Duration;

use larder::{BuildError, Origin, QueryCache, QueryCacheBuilder, RedisTls};
use test_servers::{Authority, OverTls};

fn builder(url: &str) -> QueryCacheBuilder {
    QueryCache::builder().namespace("tls").redis(url).redis_timeout(Duration::from_secs(10))
}

async fn origin(cache: &QueryCache) -> Origin {
    let query = cache.query("SELECT 1").tag("one");
    let read = query.load(|| async { Ok::<_, std::io::Error>(1_i32) });
    read.answer().await.unwrap().origin()
}

/// All that was written of an error, sources included.
fn whole(error: &BuildError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// Two caches share a result, and an invalidation reaches the other one: commands and notices
/// go over TLS.
async fn is_shared(with: impl Fn() -> QueryCacheBuilder) {
    let (one, other) = (with().build().await.unwrap(), with().build().await.unwrap());
    assert_eq!(origin(&one).await, Origin::Loaded);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while origin(&other).await != Origin::L2 {
        other.clear().await.acknowledged().unwrap();
        // It serves from memory until the notice arrives.
        let mut next = origin(&one).await;
        while next == Origin::L1 {
            assert!(tokio::time::Instant::now() < deadline, "the invalidation does not arrive");
            tokio::task::yield_now().await;
            next = origin(&one).await;
        }
        assert_eq!(next, Origin::Loaded);
        assert!(tokio::time::Instant::now() < deadline, "nothing comes from redis");
    }
    one.invalidate(["one"]).await.acknowledged().unwrap();
    while origin(&other).await == Origin::L1 {
        assert!(tokio::time::Instant::now() < deadline, "the invalidation does not arrive");
        tokio::task::yield_now().await;
    }
    one.shutdown().await;
    other.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_if_it_is_given() {
    let authority = Authority::new().unwrap();
    let Some(server) = OverTls::start(&authority, false).unwrap() else { return };
    let url = server.url.as_str();
    let tls = || RedisTls::new().ca(authority.certificate());
    is_shared(|| builder(url).redis_tls(tls())).await;

    let error = builder(url).build().await.expect_err("the system does not know it");
    assert!(whole(&error).contains("certificate"), "{}", whole(&error));
    let stranger = RedisTls::new().ca(Authority::new().unwrap().certificate());
    let error = builder(url).redis_tls(stranger).build().await.expect_err("it is another");
    assert!(whole(&error).contains("certificate"), "{}", whole(&error));
    let other_name = url.replace("localhost", "127.0.0.1");
    let error = builder(&other_name).redis_tls(tls()).build().await;
    let error = error.expect_err("the certificate is for another name");
    assert!(whole(&error).contains("certificate"), "{}", whole(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_to_a_redis_that_asks_for_one() {
    let authority = Authority::new().unwrap();
    let Some(server) = OverTls::start(&authority, true).unwrap() else { return };
    let url = server.url.as_str();
    let client = authority.sign("cache").unwrap();
    let trusting = || RedisTls::new().ca(authority.certificate());
    let tls = || trusting().client_certificate(client.certificate.as_str(), client.key.as_str());
    is_shared(|| builder(url).redis_tls(tls())).await;

    let error = builder(url).redis_tls(trusting()).build().await;
    let error = error.expect_err("it has no certificate");
    assert!(error.setting().is_none(), "{}", whole(&error));
    let stranger = Authority::new().unwrap().sign("cache").unwrap();
    let stranger = trusting().client_certificate(stranger.certificate, stranger.key);
    assert!(builder(url).redis_tls(stranger).build().await.is_err());
}

#[tokio::test]
async fn what_is_no_certificate_and_what_cannot_be_meant_is_refused_by_name() {
    let error = builder("rediss://localhost")
        .redis_tls(RedisTls::new().client_certificate("no certificate", "no key"));
    let error = error.build().await.err().unwrap();
    assert_eq!(error.setting(), Some("redis_tls"), "{error}");
    let error = builder("redis://localhost").redis_tls(RedisTls::new()).build().await;
    assert!(error.err().unwrap().to_string().contains("rediss://"));
    // The redis crate would not verify certificates then.
    for url in ["rediss://localhost/#insecure", "valkeys://:secret@localhost/#insecure"] {
        let error = builder(url).build().await.err().unwrap().to_string();
        assert!(error.contains("always verified") && !error.contains("secret"), "{error}");
    }
    let shown = format!("{:?}", RedisTls::new().client_certificate("PEM", "PRIVATE"));
    assert!(!shown.contains("PRIVATE"), "{shown}");
}

#[tokio::test]
async fn every_tls_scheme_fails_without_a_panic_where_nobody_listens() {
    for url in ["rediss://localhost:1", "valkeys://localhost:1"] {
        let error = builder(url).build().await.err().unwrap();
        assert!(error.is_unreachable(), "{url}: {}", whole(&error));
    }
}
