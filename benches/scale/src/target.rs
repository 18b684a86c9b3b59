//! [`Target`]: the Redis that is measured.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, cmd};
use test_servers::Redis;

use crate::fleet::PATIENCE;

/// The Redis that is measured, and a connection of the measurement's own.
pub(crate) struct Target {
    /// Ends with this value.
    private: Option<Redis>,
    url: String,
    connection: MultiplexedConnection,
    namespaces: RefCell<Vec<String>>,
}

impl Target {
    pub(crate) async fn open(url: Option<&str>) -> anyhow::Result<Target> {
        let private = match url {
            Some(_) => None,
            None => Some(Redis::start_tcp()?),
        };
        let url = match (&private, url) {
            (Some(redis), _) => redis.url(),
            (None, url) => url.unwrap_or_default().to_owned(),
        };
        // What the client library says of a wrong URL shows no part of it.
        let connection = connect(&url).await.context("connect to the redis of --redis")?;
        Ok(Target { private, url, connection, namespaces: RefCell::default() })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// One more connection.
    pub(crate) async fn connect(&self) -> anyhow::Result<MultiplexedConnection> {
        connect(&self.url).await
    }

    /// A namespace that nobody else uses. Its keys are removed at the end.
    pub(crate) fn namespace(&self, of: &str) -> String {
        let mut namespaces = self.namespaces.borrow_mut();
        let name = format!("scale-{}-{of}-{}", std::process::id(), namespaces.len());
        namespaces.push(name.clone());
        name
    }

    /// How the measurement was called, and where.
    pub(crate) async fn head(&self, words: &[String]) -> anyhow::Result<String> {
        let info = self.info().await?;
        let version = match info.text("valkey_version") {
            "" => format!("Redis {}", info.text("redis_version")),
            version => format!("Valkey {version}"),
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("unknown");
        let whose = if self.is_private() { "private, over TCP loopback" } else { "given" };
        Ok(format!(
            "`cargo run --release -p larder-scale -- {}`\n\n{version} ({whose}), {processors} \
             processors, load {load} before it began.",
            words.join(" ")
        ))
    }

    pub(crate) async fn info(&self) -> anyhow::Result<Info> {
        let text: String = self.ask(cmd("INFO").arg("all")).await?;
        Ok(Info::read(&text))
    }

    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, command: &Cmd) -> anyhow::Result<T> {
        let mut connection = self.connection.clone();
        Ok(command.query_async(&mut connection).await?)
    }

    /// The keys of a namespace whose names have this in them.
    pub(crate) async fn keys(&self, namespace: &str, with: &str) -> anyhow::Result<Vec<String>> {
        let (mut keys, mut cursor) = (vec![], "0".to_owned());
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(format!("larder:{namespace}:*{with}*"));
            let (next, some): (String, Vec<String>) =
                self.ask(scan.arg("COUNT").arg(1_000)).await?;
            keys.extend(some);
            if next == "0" {
                keys.sort_unstable();
                keys.dedup();
                return Ok(keys);
            }
            cursor = next;
        }
    }

    /// Removes all that was written.
    pub(crate) async fn clean(&self) -> anyhow::Result<()> {
        for namespace in self.namespaces.take() {
            for some in self.keys(&namespace, "").await?.chunks(500) {
                let _: u64 = self.ask(cmd("UNLINK").arg(some)).await?;
            }
        }
        Ok(())
    }
}

async fn connect(url: &str) -> anyhow::Result<MultiplexedConnection> {
    // A reply that is late is to be measured, and not to be an error.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    Ok(Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await?)
}

/// What Redis counts.
pub(crate) struct Info(BTreeMap<String, String>);

impl Info {
    pub(crate) fn read(text: &str) -> Info {
        let lines = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        Info(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The processor time of the server since it started.
    pub(crate) fn processor(&self) -> Duration {
        let seconds = |name| self.text(name).parse::<f64>().unwrap_or(0.0);
        Duration::from_secs_f64(seconds("used_cpu_sys") + seconds("used_cpu_user"))
    }

    /// How often these commands were called, also by scripts.
    pub(crate) fn calls(&self, commands: &[&str]) -> u64 {
        let calls = |command: &&str| {
            let stats = self.text(&format!("cmdstat_{command}"));
            let calls = stats.split(',').find_map(|field| field.strip_prefix("calls="));
            calls.and_then(|calls| calls.parse::<u64>().ok()).unwrap_or(0)
        };
        commands.iter().map(calls).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_counts_is_read() {
        let info = Info::read(
            "# Server\r\nredis_version:7.0.15\r\nused_cpu_sys:1.25\r\nused_cpu_user:0.5\r\n\
             cmdstat_evalsha:calls=7,usec=9,usec_per_call=1.3\r\ncmdstat_eval:calls=2,usec=1\r\n",
        );
        assert_eq!(info.text("redis_version"), "7.0.15");
        assert_eq!(info.processor(), Duration::from_millis(1_750));
        assert_eq!(info.calls(&["evalsha", "eval", "publish"]), 9);
    }
}
