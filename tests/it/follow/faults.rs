//! What if the connection, or PostgreSQL, fails under a follower?

use larder::stats::FollowRole;
use larder::{Follow, QueryCache};
use tokio_postgres::{Config, NoTls};

use super::{LOGICAL, following, leads, origin, stale, stats, wholesale};
use crate::servers::{Postgres, Proxy, Way};
use crate::support::{until, until_async};

#[tokio::test]
async fn a_follower_whose_connection_is_cut_begins_anew() {
    let server = Postgres::start_with(LOGICAL).unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let proxy = Proxy::to_socket(server.socket()).unwrap();
    let mut config = Config::new();
    config.host("127.0.0.1").port(proxy.port()).user("postgres").dbname(database.name());
    let follow = Follow::new(config, NoTls);
    let cache = QueryCache::builder().follow(follow).build().await.unwrap();
    leads(&cache).await;
    for fault in ["cut", "terminated", "disconnected"] {
        stale(&cache, &["t"]).await;
        let before = stats(&cache);
        match fault {
            "cut" => {
                proxy.cut();
                until("the cut is noticed", || stats(&cache).role == FollowRole::Off).await;
                // Nobody reads the stream. Reads go on.
                origin(&cache, "t").await;
                client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
                proxy.pass();
            }
            "terminated" => {
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                           WHERE backend_type = 'walsender' AND datname = current_database()";
                client.batch_execute(sql).await.unwrap();
            }
            _ => proxy.disconnect(),
        }
        until("it follows again", || stats(&cache).term > before.term && stats(&cache).round > 0)
            .await;
        let after = stats(&cache);
        assert!(after.failures > before.failures, "{fault}");
        assert_eq!(after.wholesale_gaps, before.wholesale_gaps + 1, "{fault}: nobody stood by");
        assert_eq!(stale(&cache, &["t"]).await, ["t"], "{fault}: what was written meanwhile");
        client.batch_execute("DELETE FROM t").await.unwrap();
        client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
        stale(&cache, &["t"]).await;
        client.batch_execute("DELETE FROM t").await.unwrap();
        assert_eq!(stale(&cache, &["t"]).await, ["t"], "{fault}");
    }
    // A connection on which nothing arrives any more.
    let before = stats(&cache);
    proxy.stall(Way::ToClient);
    until("the silence is noticed", || stats(&cache).role == FollowRole::Off).await;
    proxy.pass();
    until("it follows again", || stats(&cache).term > before.term && stats(&cache).round > 0).await;
}

#[tokio::test]
async fn a_crash_of_postgresql_is_a_gap() {
    let mut server = Postgres::start_with(LOGICAL).unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let cache = following(&database).await;
    stale(&cache, &["t"]).await;
    let before = stats(&cache);
    server.crash().unwrap();
    until("the crash is noticed", || stats(&cache).role == FollowRole::Off).await;
    origin(&cache, "t").await;
    server.restart().unwrap();
    until("it follows again", || stats(&cache).term > before.term && stats(&cache).round > 0).await;
    assert_eq!(stats(&cache).wholesale_gaps, before.wholesale_gaps + 1);
    let client = database.connect().await.unwrap();
    stale(&cache, &["t"]).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(stale(&cache, &["t"]).await, ["t"]);
}

#[tokio::test]
async fn an_open_transaction_that_has_written_is_waited_for_and_named() {
    let server = Postgres::start_with(LOGICAL).unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
    let pid = format!("process {}", row.get::<_, i32>(0));
    let follow = Follow::new(database.config(), NoTls);
    let cache = QueryCache::builder().follow(follow).build().await.unwrap();
    until("it is named", || stats(&cache).reason.is_some_and(|it| it.contains(&pid))).await;
    origin(&cache, "t").await;
    client.batch_execute("COMMIT").await.unwrap();
    leads(&cache).await;
    assert_eq!((stats(&cache).reason, stats(&cache).failures), (None, 0));
}

#[tokio::test]
async fn commits_that_wait_for_no_flush_are_announced_all_the_same() {
    // The log would be flushed after ten seconds by itself.
    let settings = [LOGICAL, &["wal_writer_delay=10s", "synchronous_commit=off"]].concat();
    let server = Postgres::start_with(&settings).unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let cache = following(&database).await;
    for id in 0..20 {
        stale(&cache, &["t"]).await;
        client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await.unwrap();
        assert_eq!(stale(&cache, &["t"]).await, ["t"]);
    }
    assert_eq!(wholesale(&stats(&cache)), 1);
}

#[tokio::test]
async fn rounds_end_at_every_position_of_the_log() {
    let server = Postgres::start_with(LOGICAL).unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    let cache = following(&database).await;
    // The last one of each is where a page, or a file, ends.
    for sql in ["SELECT pg_switch_wal()", "CHECKPOINT", "SELECT pg_switch_wal()"] {
        client.batch_execute(sql).await.unwrap();
        for bytes in [1, 100, 8_000, 8_100, 8_192, 24_000] {
            let sql = format!("SELECT pg_logical_emit_message(false, 'x', repeat('x', {bytes}))");
            client.batch_execute(&sql).await.unwrap();
            cache.caught_up().await.unwrap();
        }
    }
    until_async("it is the same follower", async || stats(&cache).failures == 0).await;
}
