//! Do the servers that the other tests rely on work, and do they stop afterwards?

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::servers::{Postgres, Redis, ServerError, is_running, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

/// Tells the child how it is to end.
const ENDING: &str = "LARDER_TEST_ENDING";

/// What a child process has started.
struct Started {
    child: Child,
    pids: Vec<u32>,
    directories: Vec<PathBuf>,
}

impl Started {
    fn assert_alive(&self) {
        // The child's Redis, its paused Redis, the postmaster, two sessions.
        assert_eq!(self.pids.len(), 5);
        assert_eq!(self.directories.len(), 3);
        for pid in &self.pids {
            assert!(is_running(*pid), "{pid} should run");
        }
        for directory in &self.directories {
            assert!(directory.is_dir(), "{} should exist", directory.display());
        }
    }

    fn assert_gone(mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        let gone = wait_for(PATIENCE, || {
            let no_process = !self.pids.iter().any(|pid| is_running(*pid));
            let no_directory = !self.directories.iter().any(|directory| directory.exists());
            (no_process && no_directory).then_some(())
        });
        assert!(gone.is_some(), "left behind: one of {:?} or {:?}", self.pids, self.directories);
        status
    }
}

/// Runs this program again, as a process that starts servers and then ends in
/// the given way.
fn start_child(ending: &str) -> Started {
    let (_, module) = module_path!().split_once("::").unwrap();
    let test = format!("{module}::child_that_starts_servers");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--ignored", "--nocapture"])
        .env(ENDING, ending)
        // As from a terminal, where Ctrl-C reaches all of a group.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut pids, mut directories) = (Vec::new(), Vec::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        match line.split_once(' ') {
            Some(("server-pid", pid)) => pids.push(pid.parse().unwrap()),
            Some(("server-directory", directory)) => directories.push(directory.into()),
            _ if line == "servers-ready" => break,
            _ => {}
        }
    }
    Started { child, pids, directories }
}

fn send(signal: &str, target: &str) {
    let kill = ["-c", "kill -s \"$1\" -- \"$2\"", "kill", signal, target];
    assert!(Command::new("sh").args(kill).status().unwrap().success());
}

#[tokio::test]
#[ignore = "run by the tests below, in a process of its own"]
async fn child_that_starts_servers() -> Result<(), ServerError> {
    let Ok(ending) = std::env::var(ENDING) else {
        return Ok(());
    };
    let redis = Redis::shared()?;
    let postgres = Postgres::shared()?;
    let mut paused = Redis::start()?;
    paused.pause()?;
    let database = postgres.database().await?;
    let sessions = [database.connect().await?, database.connect().await?];

    let mut pids = vec![redis.pid(), paused.pid(), postgres.pid()];
    for session in &sessions {
        let row = session.query_one("SELECT pg_backend_pid()", &[]).await;
        pids.push(row.unwrap().get::<_, i32>(0).try_into().unwrap());
    }
    println!();
    for pid in pids {
        println!("server-pid {pid}");
    }
    for directory in [redis.directory(), paused.directory(), postgres.directory()] {
        println!("server-directory {}", directory.display());
    }
    println!("servers-ready");
    match ending.as_str() {
        "abort" => std::process::abort(),
        "exit" => std::process::exit(0),
        "panic" => panic!("as it was told"),
        _ => {}
    }
    // Until it is killed, or whoever was to kill it is no more.
    let _ = std::io::stdin().read_line(&mut String::new());
    Ok(())
}

#[test]
fn a_killed_test_process_leaves_no_server_and_no_directory() {
    let started = start_child("wait");
    started.assert_alive();
    send("KILL", &started.child.id().to_string());
    assert!(!started.assert_gone().success());
}

// What Ctrl-C does, but with a signal that is not ignored by those whom a
// script started in the background.
#[test]
fn a_test_process_ended_with_its_group_leaves_no_server_and_no_directory() {
    let started = start_child("wait");
    started.assert_alive();
    send("TERM", &format!("-{}", started.child.id()));
    assert!(!started.assert_gone().success());
}

#[test]
fn a_test_process_that_ends_by_itself_leaves_no_server_and_no_directory() {
    for (ending, well) in [("exit", true), ("abort", false), ("panic", false)] {
        assert_eq!(start_child(ending).assert_gone().success(), well, "{ending}");
    }
}

#[test]
fn a_dropped_server_is_gone_with_its_directory() -> Result<(), ServerError> {
    let (redis, postgres) = (Redis::start()?, Postgres::start_on_disk(&[])?);
    let pids = [redis.pid(), postgres.pid()];
    let directories = [redis.directory(), postgres.directory()].map(Path::to_owned);
    assert!(pids.iter().all(|pid| is_running(*pid)));
    assert!(directories.iter().all(|directory| directory.is_dir()));
    drop((redis, postgres));
    assert!(!pids.iter().any(|pid| is_running(*pid)));
    assert!(!directories.iter().any(|directory| directory.exists()));
    Ok(())
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn a_killed_redis_comes_back_empty_at_the_same_address() -> Result<(), ServerError> {
    for mut server in [Redis::start()?, Redis::start_tcp()?] {
        let (url, pid) = (server.url(), server.pid());
        let client = redis::Client::open(url.as_str()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut set = redis::cmd("SET");
        let set = set.arg("key").arg("value");
        set.exec_async(&mut connection).await.unwrap();

        server.kill()?;
        server.kill()?;
        assert!(!is_running(pid));
        assert!(client.get_multiplexed_async_connection().await.is_err());
        assert!(server.pause().is_err());

        server.restart()?;
        assert_eq!(server.url(), url);
        assert_ne!(server.pid(), pid);
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let size = redis::cmd("DBSIZE");
        let keys: u64 = size.query_async(&mut connection).await.unwrap();
        assert_eq!(keys, 0);
    }
    Ok(())
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn a_paused_redis_answers_after_it_is_resumed() -> Result<(), ServerError> {
    let mut server = Redis::start()?;
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    server.pause()?;
    let ping = tokio::spawn(async move {
        let ping = redis::cmd("PING");
        ping.query_async::<String>(&mut connection).await
    });
    server.resume()?;
    assert_eq!(ping.await.unwrap().unwrap(), "PONG");

    server.pause()?;
    server.kill()?;
    server.restart()?;
    assert!(client.get_multiplexed_async_connection().await.is_ok());
    Ok(())
}

#[test]
fn a_redis_that_cannot_start_says_why() {
    let error = Redis::start_with(&["--no-such-option", "1"]).unwrap_err();
    assert!(error.to_string().contains("no-such-option"), "{error}");
}

#[tokio::test]
async fn every_database_is_a_new_one() -> Result<(), ServerError> {
    let postgres = Postgres::shared()?;
    let mut making = tokio::task::JoinSet::new();
    for _ in 0..8 {
        making.spawn(postgres.database());
    }
    let mut names = std::collections::HashSet::new();
    while let Some(database) = making.join_next().await {
        let database = database.unwrap()?;
        let client = database.connect().await?;
        let sql = "CREATE TABLE only_here (); SELECT 1 FROM pg_database";
        client.batch_execute(sql).await.unwrap();
        names.insert(database.name().to_owned());
    }
    assert_eq!(names.len(), 8);
    Ok(())
}

#[tokio::test]
async fn a_database_is_reached_by_its_url_and_by_a_pool() -> Result<(), ServerError> {
    let database = Postgres::shared()?.database().await?;
    let config: tokio_postgres::Config = database.url().parse().unwrap();
    assert_eq!(config.get_dbname(), Some(database.name()));
    assert_eq!(config.get_hosts(), database.config().get_hosts());

    let pool = database.pool(2);
    let (first, second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    for client in [first, second] {
        let row = client.query_one("SELECT current_database()::text", &[]);
        assert_eq!(row.await.unwrap().get::<_, String>(0), database.name());
    }
    Ok(())
}

#[tokio::test]
async fn a_restarted_postgres_has_its_data_and_its_settings() -> Result<(), ServerError> {
    let mut postgres = Postgres::start_with(&["wal_level=logical"])?;
    let database = postgres.database().await?;
    let client = database.connect().await?;
    let sql = "CREATE TABLE kept AS SELECT 1 AS one";
    client.batch_execute(sql).await.unwrap();

    postgres.stop()?;
    assert!(client.simple_query("SELECT 1").await.is_err());
    assert!(database.connect().await.is_err());
    postgres.restart()?;
    postgres.crash()?;
    assert!(!is_running(postgres.pid()));
    postgres.restart()?;

    let client = database.connect().await?;
    let sql = "SELECT count(*), current_setting('wal_level') FROM kept";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get(1)), (1, "logical"));
    Ok(())
}
