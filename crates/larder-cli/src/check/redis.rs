//! What Redis is, and what it does when it is full, restarted or slow.

use std::collections::BTreeMap;
use std::time::Duration;

use super::report::{Report, Severity};
use super::{Check, rights};
use larder::admin::{ErrorKind, Redis};

use crate::failure::counted;
use crate::text::{bytes, duration, thousands};

const AREA: &str = "Redis";
const ROUND_TRIPS: usize = 25;

type Info = BTreeMap<String, String>;

pub(super) async fn check(report: &mut Report, url: &str, namespace: Option<&str>, check: &Check) {
    // Without a namespace only names of nobody's are asked for.
    let redis = match Redis::connect(url, namespace.unwrap_or("check")).await {
        Ok(redis) => redis,
        Err(error) => {
            report.add(AREA, Severity::Error, format!("no connection: {error}")).advise(
                "Look at the URL, the password, and whether the server runs and its port is \
                 reachable from here.",
            );
            return;
        }
    };
    match redis.info().await {
        Ok(info) => {
            version(report, &redis, &info);
            role(report, &info, check.redis_min_replicas);
            memory(report, &info);
            persistence(report, &redis, &info).await;
            clients(report, &info);
        }
        Err(error) if is_denied(&error) => {
            report
                .leave_out("Redis: version, memory and persistence, as its user may not ask INFO");
        }
        Err(error) => {
            report.add(AREA, Severity::Error, format!("INFO is not answered: {error}"));
        }
    }
    latency(report, &redis, check.redis_timeout).await;
    clock(report, &redis).await;
    match namespace {
        Some(namespace) => {
            let other = check.redis_user.as_deref();
            // Before the rights are tried, which is to listen for a moment.
            let listeners = redis.subscribers().await.ok();
            rights::check(report, &redis, namespace, other).await;
            directory(report, &redis, namespace, listeners).await;
        }
        None => report
            .leave_out("Redis: its user's rights and the namespace, as no --namespace is given"),
    }
}

fn is_denied(error: &larder::admin::Error) -> bool {
    matches!(error.kind(), ErrorKind::Denied(_))
}

fn text<'a>(info: &'a Info, name: &str) -> &'a str {
    info.get(name).map_or("", String::as_str)
}

fn count(info: &Info, name: &str) -> u64 {
    text(info, name).parse().unwrap_or(0)
}

fn version(report: &mut Report, redis: &Redis, info: &Info) {
    let address = redis.address();
    if let Some(valkey) = info.get("valkey_version") {
        report.add(AREA, Severity::Ok, format!("Valkey {valkey} at {address}"));
        return;
    }
    let said = text(info, "redis_version");
    let mut parts = said.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let what = format!("version {said} at {address}");
    if version >= (6, 2) {
        report.add(AREA, Severity::Ok, what)
    } else {
        report
            .add(AREA, Severity::Error, format!("{what}: it lacks commands that are needed"))
            .advise("Redis 6.2 is the oldest that will do.")
    };
}

fn role(report: &mut Report, info: &Info, demanded: u64) {
    match text(info, "redis_mode") {
        "sentinel" => {
            report
                .add(AREA, Severity::Error, "this is a Sentinel, which holds no data")
                .advise("Give the address of the master that it watches.");
            return;
        }
        "cluster" => {
            report
                .add(
                    AREA,
                    Severity::Error,
                    "this is a node of a cluster, which takes its own \
                     slots only: other entries, leases and perhaps the directory are refused",
                )
                .advise(
                    "larder speaks to one server. Give it one of its own, or a proxy that \
                         shows the cluster as one.",
                );
        }
        _ => {}
    }
    if text(info, "role") == "slave" {
        let master = format!("{}:{}", text(info, "master_host"), text(info, "master_port"));
        report
            .add(AREA, Severity::Error, "this is a replica, which takes no writes")
            .advise(format!("Connect to its master, {master}."));
    } else {
        master(report, info, demanded);
    }
}

/// Whether processes that a deposed master keeps notice it.
fn master(report: &mut Report, info: &Info, demanded: u64) {
    const AFTER_A_FAILOVER: &str = "After a failover the new master begins a new epoch: all that \
                                    was cached before is a miss, and none of it comes back.";
    let replicas = count(info, "connected_slaves");
    let what = format!("a master with {}", counted(replicas as usize, "replica"));
    if replicas < demanded {
        report
            .add(AREA, Severity::Error, format!("{what}, of which the processes demand {demanded}"))
            .advise(
                "Until enough of them are online, the processes serve nothing from Redis. Look at \
                 the replicas, or demand fewer with `redis_min_replicas`.",
            );
    } else if replicas == 0 {
        report.add(AREA, Severity::Ok, "a master");
    } else if demanded > 0 || info.contains_key("min_slaves_good_slaves") {
        report.add(AREA, Severity::Ok, what).advise(AFTER_A_FAILOVER);
    } else {
        report
            .add(
                AREA,
                Severity::Error,
                format!(
                    "{what}, which goes on writing when it has lost them. If it is replaced while \
                     some processes still reach it, these serve what was invalidated elsewhere for \
                     as long as it lasts"
                ),
            )
            .advise(
                "Let it refuse writes then (with two replicas, since a promoted one needs another), \
                 or set `redis_min_replicas` in the builder of every process and say so with \
                 --redis-min-replicas:",
            )
            .run("CONFIG SET min-replicas-to-write 1")
            .run("CONFIG SET min-replicas-max-lag 1");
    }
}

fn memory(report: &mut Report, info: &Info) {
    let (limit, used) = (count(info, "maxmemory"), count(info, "used_memory"));
    let policy = text(info, "maxmemory_policy");
    if limit == 0 {
        let machine = match count(info, "total_system_memory") {
            0 => "the machine has no more".to_owned(),
            total => format!("the machine's {} are used up", bytes(total)),
        };
        report
            .add(
                AREA,
                Severity::Warning,
                format!(
                    "maxmemory is not set: {} are used, and it may grow until {machine} and the \
                 kernel kills it",
                    bytes(used),
                ),
            )
            .advise(
                "Entries end with their ttl, so there is a natural bound; better set one. \
                     Where larder has the server for itself:",
            )
            .run("CONFIG SET maxmemory 2gb")
            .run("CONFIG SET maxmemory-policy volatile-lru");
        return;
    }
    let full = 100 * used / limit;
    let what = format!(
        "{} of {} are used ({full} %), {policy} when it is full",
        bytes(used),
        bytes(limit)
    );
    let evicted = count(info, "evicted_keys");
    let evicted = match evicted {
        0 => String::new(),
        evicted => format!(" {} keys were evicted since its start.", thousands(evicted)),
    };
    match policy {
        "noeviction" => {
            let severity = if full >= 90 { Severity::Error } else { Severity::Warning };
            report.add(AREA, severity, what).advise(
                "It refuses writes then: results are not stored, and an invalidation returns an \
                 error and is announced later. Reads go on, from PostgreSQL. Let it evict what has \
                 an expiry, which entries have and the directory has not:",
            ).run("CONFIG SET maxmemory-policy volatile-lru")
        }
        "allkeys-random" => report
            .add(AREA, Severity::Warning, what)
            .advise(format!(
                "It may evict the directory, without which all that is cached is a miss. \
             allkeys-lru and allkeys-lfu keep it, for it is used all the time; volatile-lru cannot \
             take it at all.{evicted}"
            ))
            .run("CONFIG SET maxmemory-policy volatile-lru"),
        policy if policy.starts_with("allkeys") => {
            report.add(AREA, Severity::Ok, what).advise(format!(
                "What is read least goes first. The directory is used all the time and stays; \
                     lost, it would cost misses and no more.{evicted}"
            ))
        }
        _ => report.add(AREA, Severity::Ok, what).advise(format!(
            "Entries have an expiry and go; the directory has none and stays.{evicted}"
        )),
    };
}

async fn persistence(report: &mut Report, redis: &Redis, info: &Info) {
    if text(info, "loading") == "1" {
        report.add(AREA, Severity::Error, "it is still loading its data and answers nothing");
    }
    let stops = redis.setting("stop-writes-on-bgsave-error").await.ok().flatten();
    if text(info, "rdb_last_bgsave_status") == "err" && stops.as_deref() != Some("no") {
        report
            .add(AREA, Severity::Error, "its last snapshot failed, and so it refuses writes")
            .advise("Its log says why: no space, most likely. A cache needs no snapshots:")
            .run("CONFIG SET save ''")
            .run("CONFIG SET stop-writes-on-bgsave-error no");
    }
    let aof = text(info, "aof_enabled") == "1";
    let save = redis.setting("save").await.ok().flatten();
    let how = match (aof, save.as_deref()) {
        (true, _) => "it keeps a log of its writes (appendonly)",
        (false, Some("")) => "it keeps nothing on disk",
        (false, Some(_)) => "it takes snapshots",
        (false, None) => "it keeps no log of its writes",
    };
    let what = format!("{how}; a restart loses nothing that matters");
    report.add(AREA, Severity::Ok, what).advise(
        "After one a new epoch begins, whatever was on disk: all that was cached is a miss once, \
         and no old result comes back. larder gains nothing from persistence.",
    );
}

fn clients(report: &mut Report, info: &Info) {
    let (clients, most) = (count(info, "connected_clients"), count(info, "maxclients"));
    if most > 0 && 10 * clients > 8 * most {
        report
            .add(AREA, Severity::Warning, format!("{clients} of {most} connections are used"))
            .advise("Each process of the service takes two.")
            .run(format!("CONFIG SET maxclients {}", 2 * most));
    }
}

async fn latency(report: &mut Report, redis: &Redis, limit: Duration) {
    let mut times = vec![];
    for _ in 0..ROUND_TRIPS {
        match redis.ping().await {
            Ok(time) => times.push(time),
            Err(error) if is_denied(&error) => return,
            Err(error) => {
                report.add(AREA, Severity::Error, format!("PING is not answered: {error}"));
                return;
            }
        }
    }
    times.sort_unstable();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    let what = format!(
        "a round trip takes {} (median of {ROUND_TRIPS}; the longest {}); reads wait {} at most",
        duration(median),
        duration(longest),
        duration(limit),
    );
    let advice = "A read that waits longer goes on to PostgreSQL, and after two such the connection \
                  is made anew. Bring Redis nearer, or raise redis_timeout (and say --redis-timeout \
                  here).";
    match () {
        () if median >= limit => report.add(AREA, Severity::Error, what).advise(advice),
        () if 2 * longest >= limit => report.add(AREA, Severity::Warning, what).advise(advice),
        () => report.add(AREA, Severity::Ok, what),
    };
}

async fn clock(report: &mut Report, redis: &Redis) {
    match redis.clock_ahead().await {
        Ok(ahead) => {
            let apart = duration(Duration::from_millis(ahead.unsigned_abs()));
            let what = match ahead.unsigned_abs() {
                0..=20 => "its clock (TIME) agrees with this machine's".to_owned(),
                _ if ahead > 0 => format!("its clock (TIME) is {apart} ahead of this machine's"),
                _ => format!("its clock (TIME) is {apart} behind this machine's"),
            };
            let finding = report.add(AREA, Severity::Ok, what);
            if ahead.unsigned_abs() > 1000 {
                finding.advise("No matter: expiries are reckoned by Redis's own clock.");
            }
        }
        // Among the rights.
        Err(error) if is_denied(&error) => {}
        Err(error) => {
            report
                .add(AREA, Severity::Error, format!("TIME is not answered: {error}"))
                .advise("Nothing is stored without it: nobody could say how long it may live.");
        }
    }
}

async fn directory(report: &mut Report, redis: &Redis, namespace: &str, listeners: Option<u64>) {
    const AREA: &str = "Redis, the namespace";
    // Whoever may not ask has been told so among the rights.
    let Ok(directory) = redis.directory().await else { return };
    let Some((epoch, seq)) = directory.epoch().zip(directory.seq()) else {
        let what = format!("{namespace} has no directory: no cache has used it on this server");
        report.add(AREA, Severity::Note, what);
        return;
    };
    let what =
        format!("{namespace} is in epoch {}, with {} invalidations in it", epoch, thousands(seq));
    let finding = report.add(AREA, Severity::Ok, what);
    if directory.is_of_this_server() == Some(false) {
        finding.advise(
            "The directory is of another server (a restart, or a failover): the next beat of any \
             process begins a new epoch.",
        );
    }
    if let Some(listeners) = listeners {
        let what = match listeners {
            0 => "no process listens for invalidations now".to_owned(),
            1 => "1 process listens for invalidations".to_owned(),
            many => format!("{many} processes listen for invalidations"),
        };
        report.add(AREA, Severity::Ok, what);
    }
}
