//! Are credentials asked for at each connect, and is a refusal of them named?

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{BuildError, Origin, QueryCache, QueryCacheBuilder, RedisCredentials};

use crate::servers::Redis;
use crate::support::{until, until_async};

fn on(url: impl Into<String>) -> QueryCacheBuilder {
    QueryCache::builder()
        .namespace("credentials")
        .redis(url)
        .redis_timeout(Duration::from_secs(10))
        .l1_ttl(Duration::from_millis(1))
}

async fn read(cache: &QueryCache) -> Origin {
    let query = cache.query("SELECT 1").tag("t");
    query.load(|| async { Ok::<_, std::io::Error>(1_i32) }).answer().await.unwrap().origin()
}

async fn until_redis_answers(cache: &QueryCache) {
    until_async("an answer comes from redis", async || read(cache).await == Origin::L2).await;
}

fn user(redis: &Redis, words: &[&str]) {
    redis.command(&[&["ACL", "SETUSER", "app"], words].concat()).unwrap();
}

/// A server with the user `app`, and all ways in which a URL names its password.
fn server() -> (Redis, impl Fn(&str) -> Vec<String>) {
    let redis = Redis::start_tcp().unwrap();
    user(&redis, &["on", ">correct", "~*", "&*", "+@all"]);
    let (port, socket) = (redis.port().unwrap(), redis.socket().display().to_string());
    let urls = move |password: &str| {
        vec![
            format!("redis://app:{password}@127.0.0.1:{port}"),
            format!("redis://app:{password}@127.0.0.1:{port}/?protocol=resp3"),
            format!("redis://app:{password}@127.0.0.1:{port}/3"),
            format!("valkey://app:{password}@127.0.0.1:{port}"),
            format!("unix://{socket}?user=app&pass={password}"),
            format!("redis+unix://{socket}?db=3&user=app&pass={password}&protocol=3"),
        ]
    };
    (redis, urls)
}

async fn refusal(builder: QueryCacheBuilder) -> (BuildError, String) {
    let error = builder.build().await.unwrap_err();
    assert!(!error.is_unreachable() && error.is_refused(), "{error}");
    let source = std::error::Error::source(&error).unwrap();
    let shown = format!("{error} {error:?} {source} {source:?}");
    assert!(!shown.contains("does not answer") && !shown.contains("hunter2"), "{shown}");
    (error, shown)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_replies_to_wrong_credentials_is_said_for_every_form_of_url() {
    let (redis, urls) = server();
    for url in urls("correct") {
        let cache = on(&url).build().await.unwrap();
        until_redis_answers(&cache).await;
    }
    for url in urls("hunter2") {
        let (error, shown) = refusal(on(&url)).await;
        assert!(error.is_unauthenticated(), "{shown}");
        assert!(shown.contains("WRONGPASS invalid username-password pair"), "{shown}");
        let shown = format!("{:?}", on(&url));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    user(&redis, &["-persist"]);
    for url in urls("correct") {
        let (error, shown) = refusal(on(&url)).await;
        assert!(!error.is_unauthenticated() && shown.contains("NOPERM"), "{shown}");
        assert!(shown.contains("its user must have the rights"), "{shown}");
    }
    redis.command(&["ACL", "SETUSER", "default", "resetpass", ">hunter2"]).unwrap();
    let open = format!("redis://127.0.0.1:{}", redis.port().unwrap());
    for url in [open.clone(), format!("{open}/?protocol=resp3"), format!("{open}/3")] {
        let (error, shown) = refusal(on(url)).await;
        assert!(error.is_unauthenticated() && shown.contains("NOAUTH"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_credentials_are_used_by_every_connection_that_follows() {
    let (redis, urls) = server();
    let current = Arc::new(Mutex::new(RedisCredentials::new("app", "correct")));
    let asked = Arc::new(AtomicU32::new(0));
    let provider = || {
        let (current, asked) = (current.clone(), asked.clone());
        move || {
            asked.fetch_add(1, Ordering::SeqCst);
            let current = current.lock().unwrap().clone();
            async move { Ok(current) }
        }
    };
    let mut caches = vec![];
    // The password in the URL is not used.
    for url in urls("hunter2") {
        let cache = on(url).redis_credentials(provider()).build().await.unwrap();
        until_redis_answers(&cache).await;
        caches.push(cache);
    }
    let listening = |count: usize| {
        let list = redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).unwrap();
        list.lines().filter(|line| line.contains("user=app")).count() == count
    };
    until("all listen", || listening(caches.len())).await;
    assert!(asked.load(Ordering::SeqCst) >= 2 * caches.len() as u32);

    user(&redis, &["resetpass", ">rotated"]);
    *current.lock().unwrap() = RedisCredentials::new("app", "rotated");
    redis.command(&["CLIENT", "KILL", "USER", "app"]).unwrap();
    for cache in &caches {
        until_redis_answers(cache).await;
        cache.invalidate(["t"]).await.acknowledged().unwrap();
        assert_eq!(cache.stats().refused_credentials, 0);
    }
    until("all listen again", || listening(caches.len())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_lost_its_rights_is_replaced_by_the_one_that_the_provider_names() {
    let (redis, urls) = server();
    let next = ["ACL", "SETUSER", "next", "on", ">correct", "~*", "&*", "+@all"];
    redis.command(&next).unwrap();
    let name = Arc::new(Mutex::new("app"));
    let named = name.clone();
    let provider = move || {
        let user = *named.lock().unwrap();
        async move { Ok(RedisCredentials::new(user, "correct")) }
    };
    let cache = on(&urls("")[0]).redis_credentials(provider).build().await.unwrap();
    until_redis_answers(&cache).await;
    *name.lock().unwrap() = "next";
    user(&redis, &["-@all"]);
    until_redis_answers(&cache).await;
    assert!(cache.stats().refused_credentials > 0);
    until("it has left the old user", || {
        !redis.command(&["CLIENT", "LIST"]).unwrap().contains("user=app")
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_fails_is_named_and_asked_again() {
    let (_redis, urls) = server();
    let fails = || async { Err("the vault is sealed".into()) };
    let error = on(&urls("correct")[0]).redis_credentials(fails).build().await.unwrap_err();
    assert!(error.is_unauthenticated() && !error.is_refused() && !error.is_unreachable());
    assert!(error.to_string().contains("`redis_credentials`"), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "the vault is sealed");

    let attempts = Arc::new(AtomicU32::new(0));
    let provider = move || {
        let attempt = attempts.fetch_add(1, Ordering::SeqCst);
        async move {
            match attempt {
                0..4 => Err("not yet".into()),
                4 => panic!("on purpose"),
                _ => Ok(RedisCredentials::new("app", "correct")),
            }
        }
    };
    let cache = on(&urls("")[0]).redis_credentials(provider).redis_optional();
    let cache = cache.build().await.unwrap();
    until_redis_answers(&cache).await;
    assert!(cache.stats().refused_credentials >= 5);
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn an_event_and_a_counter_name_a_password_that_is_refused_later() {
    let seen = crate::told::listen();
    let (redis, urls) = server();
    user(&redis, &[">hunter2"]);
    let cache = on(&urls("hunter2")[0]).build().await.unwrap();
    until_redis_answers(&cache).await;
    user(&redis, &["<hunter2"]);
    redis.command(&["CLIENT", "KILL", "USER", "app"]).unwrap();
    until_async("many attempts were refused", async || {
        read(&cache).await;
        cache.stats().refused_credentials >= 6
    })
    .await;
    let told = seen.all();
    let refusals: Vec<_> = told
        .iter()
        .filter(|it| it.fields.get("reply").is_some_and(|reply| reply.contains("WRONGPASS")))
        .collect();
    // Each of the two connections reports its reason once, not at each attempt.
    assert!((1..=2).contains(&refusals.len()), "{refusals:?}");
    let message = &refusals[0].fields["message"];
    assert!(message.contains("refuses the user or its password"), "{message}");
    assert!(!format!("{told:?}").contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_repeats_the_password_shows_it_to_nobody() {
    for (url, reply) in [
        ("redis://app:hunter2@HOST", "-ERR unknown command 'AUTH', with args: 'app' 'hunter2' "),
        ("redis://app:hunter2@HOST", "-WRONGPASS hunter2 is not the password of app"),
        ("redis://app:hunter2@HOST", "-hunter2"),
        ("redis://app:hunter2@HOST/?protocol=3", "-ERR unknown command 'HELLO', args: 'hunter2'"),
        ("redis://app:hunter2@HOST/?protocol=3", "-NOAUTH hunter2"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = url.replace("HOST", &listener.local_addr().unwrap().to_string());
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            while stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                let _ = stream.write_all(format!("{reply}\r\n").repeat(3).as_bytes());
            }
        });
        let error = on(&url).build().await.unwrap_err();
        let mut shown = format!("{error} {error:?}");
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            shown.push_str(&format!(" {error} {error:?}"));
            source = error.source();
        }
        assert!(!shown.contains("hunter2"), "{reply}: {shown}");
        drop(error);
        answering.join().unwrap();
    }
}
