//! The metrics of a cache for Prometheus: starts an endpoint, makes some reads, and scrapes it.

use std::time::Duration;

use larder::{PrometheusEndpoint, QueryCache};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

mod support;

const ADDRESS: &str = "127.0.0.1:9464";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let servers = support::servers().await?;
    let endpoint = PrometheusEndpoint::start(ADDRESS)?;
    let cache =
        QueryCache::builder().namespace("metrics").redis(&servers.redis_url).build().await?;

    let report = cache.query("SELECT pg_sleep(0.02)::text, $1::int8 AS n").name("slow report");
    for read in 0..1000 {
        report.bind(read % 10_i64).fetch(&servers.pool).await?;
    }
    let pings = cache.query("SELECT 1").name("ping");
    pings.fetch(&servers.pool).await?;
    cache.invalidate(["orders"]).await;

    // Counters are reported once a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    println!("http://{}/metrics, without what is zero:\n", endpoint.address());
    for line in scrape().await?.lines() {
        let is_comment = line.starts_with('#') || line.is_empty();
        if !is_comment && !line.ends_with(" 0") && !line.contains("_bucket") {
            println!("{line}");
        }
    }
    // The same without Prometheus:
    for query in cache.query_stats() {
        let ratio = query.hit_ratio().unwrap_or_default() * 100.0;
        let median = query.load_latency.quantile(0.5).unwrap_or_default();
        println!("\n{}: {ratio:.1} % hits, a load takes {median:.0?}", query.name);
    }
    Ok(())
}

async fn scrape() -> std::io::Result<String> {
    let mut stream = TcpStream::connect(ADDRESS).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    Ok(reply.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}
