//! A workload in which everything happens that is counted, and what Prometheus is told of it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use larder::refresh::{MaterializedView, RefreshHook, Refresher};
use larder::{Origin, PrometheusEndpoint, QueryCache};

use crate::servers::{Postgres, Redis};

/// What must be seen nowhere: SQL, a parameter, a value.
pub const SECRETS: &[&str] = &["SELECT", "marked parameter", "marked value", "hunter2"];

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Scrape {
    pub text: String,
}

impl Scrape {
    /// The one series of this name that has all these labels, and perhaps others.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted = |line: &&str| {
            let Some(rest) = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))
            else {
                return false;
            };
            labels.iter().all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")))
        };
        let found: Vec<&str> = self.text.lines().filter(wanted).collect();
        let [line] = found[..] else { panic!("{name} {labels:?}: {found:?}\n{}", self.text) };
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

pub fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// What was told in the end, asked for once for all tests.
pub fn scrape() -> &'static Scrape {
    static SCRAPE: OnceLock<Scrape> = OnceLock::new();
    SCRAPE.get_or_init(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(work())
    })
}

fn get(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

async fn until(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !happened().await {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const SCHEMA: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, region text NOT NULL);
    INSERT INTO orders SELECT n, 'eu' FROM generate_series(1, 10) n;
    CREATE MATERIALIZED VIEW by_region AS SELECT region, count(*) FROM orders GROUP BY region;
    CREATE UNIQUE INDEX ON by_region (region);
    CREATE MATERIALIZED VIEW no_index AS SELECT region FROM orders;";

async fn work() -> Scrape {
    let redis = Redis::start().unwrap();
    let database = Postgres::shared().unwrap().database().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(SCHEMA).await.unwrap();
    let build = async || {
        QueryCache::builder()
            .namespace("metrics")
            .redis(redis.url())
            .redis_timeout(PATIENCE)
            .secret("hunter2 hunter2 hunter2")
            .max_bytes(1 << 20)
            .publish_stats(Duration::from_millis(100))
            .build()
            .await
            .unwrap()
    };
    let read = async |cache: &QueryCache, region: &'static str| {
        let query = cache.query("SELECT 'marked value' WHERE $1 <> ''").name("orders of a region");
        let load = move || async move {
            match region {
                "" => Err(std::io::Error::other("marked value")),
                _ => Ok("marked value".to_owned()),
            }
        };
        query.bind(region).load(load).answer().await.map(|answer| answer.origin())
    };

    let here = build().await;
    assert_eq!(read(&here, "marked parameter").await.unwrap(), Origin::Loaded);
    for _ in 0..2 {
        assert_eq!(read(&here, "marked parameter").await.unwrap(), Origin::L1);
    }
    until("it is in redis", async || here.stats().l2_writes == 1).await;
    // A recorder that is there only now is told of it.
    let address = free_address();
    let endpoint = PrometheusEndpoint::start(&address).unwrap();
    assert_eq!(endpoint.address().to_string(), address);
    assert_eq!(read(&here, "another").await.unwrap(), Origin::Loaded);
    read(&here, "").await.unwrap_err();

    let there = build().await;
    assert_eq!(read(&there, "marked parameter").await.unwrap(), Origin::L2);
    for _ in 0..2 {
        assert_eq!(read(&there, "marked parameter").await.unwrap(), Origin::L1);
    }
    // What it counted since it last told is told when it ends.
    drop(there);

    let view = |name: &str| MaterializedView::new(name);
    let refresher = Refresher::builder(database.pool(4))
        .cache(&here)
        .view(view("by_region"))
        .view(view("no_index"))
        .poll(Duration::from_millis(10))
        .after_refresh(RefreshHook::new("fails", async |_| Err("on purpose".into())))
        .start()
        .await
        .unwrap();
    let insert = "INSERT INTO orders SELECT max(id) + 1, 'eu' FROM orders";
    client.batch_execute(insert).await.unwrap();
    refresher.refresh_now("by_region").await.unwrap();
    refresher.refresh_now("no_index").await.unwrap_err();
    until("the hook has failed", async || refresher.status()[0].hook_failures() > 0).await;
    until("others are noticed", async || {
        client.batch_execute(insert).await.unwrap();
        client.batch_execute("REFRESH MATERIALIZED VIEW CONCURRENTLY by_region").await.unwrap();
        refresher.status()[0].noticed() > 0
    })
    .await;
    // Whoever asks in Redis is told of the views as well.
    let published = || redis.command(&["HVALS", "larder:metrics:stats"]).unwrap();
    let of_view = "\"view\":\"by_region\",\"activity\":\"idle\",\"last\":\"refreshed, ";
    let of_other = "\"failures_in_a_row\":1,\"last_error\":\"refresh the";
    until("views are published", async || {
        let all = published();
        all.contains(of_view) && all.contains(of_other)
    })
    .await;
    for secret in SECRETS {
        assert!(!published().contains(secret), "{secret}");
    }
    refresher.shutdown().await;
    drop(refresher);
    until("there is no refresher", async || published().contains("\"views\":[]")).await;

    // Counters are told once a second.
    let told = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("larder_invalidations_total{"));
        line.is_some_and(|line| !line.ends_with(" 0"))
    };
    let mut text = String::new();
    until("it is told", async || {
        text = get(&address);
        told(&text)
    })
    .await;
    // It ends with its handle, and its address is free then.
    drop(endpoint);
    assert!(TcpStream::connect(&address).is_err());
    TcpListener::bind(&address).unwrap();
    Scrape { text }
}
