//! Do the faults that the other tests cause happen as described?

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::servers::{
    Postgres, Proxy, Redis, Reply, ServerError, Way, Worker, replies, wait_for, worker,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A client that knows what it will be answered.
struct Client(TcpStream);

impl Client {
    fn new(proxy: &Proxy) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn say(&mut self, commands: &str) {
        self.0.write_all(commands.as_bytes()).unwrap();
    }

    #[track_caller]
    fn hear(&mut self, expected: &str) {
        let mut heard = vec![0; expected.len()];
        self.0.read_exact(&mut heard).unwrap();
        assert_eq!(String::from_utf8(heard).unwrap(), expected);
    }

    #[track_caller]
    fn ask(&mut self, commands: &str, expected: &str) {
        self.say(commands);
        self.hear(expected);
    }

    /// What it hears until the connection is broken, and how it is.
    #[track_caller]
    fn hear_all(&mut self) -> (Vec<u8>, Option<ErrorKind>) {
        let mut heard = Vec::new();
        let end = self.0.read_to_end(&mut heard).err().map(|error| error.kind());
        assert_ne!(end, Some(ErrorKind::WouldBlock), "the connection is not broken");
        (heard, end)
    }

    #[track_caller]
    fn assert_hears_nothing(&mut self) {
        self.0.set_nonblocking(true).unwrap();
        let heard = self.0.read(&mut [0]);
        assert_eq!(heard.unwrap_err().kind(), ErrorKind::WouldBlock);
        self.0.set_nonblocking(false).unwrap();
    }
}

#[track_caller]
fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let waited = wait_for(PATIENCE, || happened().then_some(()));
    assert!(waited.is_some(), "waited in vain until {what}");
}

#[test]
fn a_proxy_counts_round_trips_of_each_connection() -> Result<(), ServerError> {
    let redis = Redis::start()?;
    let proxy = Proxy::to_redis(&redis)?;
    let (mut one, mut two) = (Client::new(&proxy), Client::new(&proxy));
    one.ask("SUBSCRIBE x\r\n", "*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n");
    two.ask("PING\r\n", "+PONG\r\n");

    let before = proxy.counts();
    two.ask("PING\r\nPING\r\n", "+PONG\r\n+PONG\r\n");
    // In two parts, of which the first is not answered.
    let chunks = proxy.counts().chunks;
    two.say("SET k ");
    until("the first part is there", || proxy.counts().chunks > chunks);
    two.ask("v\r\n", "+OK\r\n");
    let counts = proxy.counts() - before;
    assert_eq!((counts.connections, counts.round_trips, counts.chunks), (0, 2, 3));
    assert_eq!((counts.from_client, counts.to_server), (21, 21));
    assert_eq!((counts.from_server, counts.to_client), (19, 19));

    assert_eq!(proxy.counts_of(|link| link.said("subscribe")).round_trips, 1);
    assert_eq!(proxy.counts_of(|link| !link.said("subscribe")).round_trips, 3);
    let links = proxy.links();
    assert_eq!(links.len(), 2);
    assert!(links.iter().all(|link| link.is_open() && link.counts().connections == 1));

    // Notices are no round trips, and an end of one is none of the other.
    redis.command(&["PUBLISH", "x", "y"])?;
    one.hear("*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\ny\r\n");
    drop(one);
    let subscriber = links.iter().find(|link| link.said("SUBSCRIBE")).unwrap();
    until("the subscriber's link is closed", || !subscriber.is_open());
    assert_eq!(subscriber.counts().round_trips, 1);
    two.ask("PING\r\n", "+PONG\r\n");
    assert_eq!(proxy.counts().connections, 2);
    Ok(())
}

#[test]
fn a_proxy_passes_more_than_it_holds() -> Result<(), ServerError> {
    let redis = Redis::start()?;
    let proxy = Proxy::to_redis(&redis)?;
    let mut client = Client::new(&proxy);
    let value = "0123456789abcdef".repeat(1 << 18);
    let command = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n", value.len());
    client.ask(&command, "+OK\r\n");
    client.ask("GET k\r\n", &format!("${}\r\n{value}\r\n", value.len()));
    Ok(())
}

#[test]
fn a_cut_closes_what_is_open_and_what_is_opened() -> Result<(), ServerError> {
    let redis = Redis::start()?;
    let proxy = Proxy::to_redis(&redis)?;
    let mut old = Client::new(&proxy);
    old.ask("PING\r\n", "+PONG\r\n");
    proxy.cut();
    assert!(old.hear_all().0.is_empty());
    let mut new = Client::new(&proxy);
    assert!(new.hear_all().0.is_empty());
    assert_eq!((proxy.turned_away(), proxy.counts().connections), (1, 1));

    proxy.pass();
    let mut newest = Client::new(&proxy);
    newest.ask("PING\r\n", "+PONG\r\n");
    proxy.disconnect();
    assert!(newest.hear_all().0.is_empty());
    Client::new(&proxy).ask("PING\r\n", "+PONG\r\n");
    assert_eq!(proxy.turned_away(), 1);
    Ok(())
}

#[test]
fn a_server_that_dies_ends_the_connections_and_is_reached_again() -> Result<(), ServerError> {
    let mut redis = Redis::start_tcp()?;
    let proxy = Proxy::to_port(redis.port().unwrap())?;
    let mut client = Client::new(&proxy);
    client.ask("PING\r\n", "+PONG\r\n");
    redis.kill()?;
    assert!(client.hear_all().0.is_empty());
    assert!(Client::new(&proxy).hear_all().0.is_empty());
    assert_eq!(proxy.turned_away(), 1);
    redis.restart()?;
    Client::new(&proxy).ask("PING\r\n", "+PONG\r\n");
    Ok(())
}

#[test]
fn a_request_is_held_and_then_delivered() -> Result<(), ServerError> {
    let redis = Redis::start()?;
    let proxy = Proxy::to_redis(&redis)?;
    let mut client = Client::new(&proxy);
    client.ask("SET k before\r\n", "+OK\r\n");
    let before = proxy.counts();
    proxy.stall(Way::ToServer);
    client.say("SET k after\r\n");
    until("the request is held", || proxy.counts().from_client - before.from_client == 13);
    assert_eq!(redis.command(&["GET", "k"])?, "before");
    assert_eq!(proxy.counts().to_server, before.to_server);
    proxy.release();
    client.hear("+OK\r\n");
    assert_eq!(redis.command(&["GET", "k"])?, "after");
    Ok(())
}

#[test]
fn a_reply_is_held_and_then_delivered() -> Result<(), ServerError> {
    let redis = Redis::start()?;
    let proxy = Proxy::to_redis(&redis)?;
    // A connection that does not exist yet is stalled as well.
    proxy.stall(Way::ToClient);
    let mut client = Client::new(&proxy);
    client.say("SET k v\r\n");
    until("the reply is held", || proxy.counts().from_server == 5);
    assert_eq!(redis.command(&["GET", "k"])?, "v");
    assert_eq!(proxy.counts().to_client, 0);
    client.assert_hears_nothing();
    proxy.pass();
    client.hear("+OK\r\n");

    // A fault of one connection is none of another.
    proxy.links()[0].stall(Way::Both);
    client.say("PING\r\n");
    Client::new(&proxy).ask("GET k\r\n", "$1\r\nv\r\n");
    until("the request is held", || proxy.links()[0].counts().from_client == 15);
    client.assert_hears_nothing();
    proxy.links()[0].release();
    client.hear("+PONG\r\n");
    Ok(())
}

#[test]
fn what_is_delayed_is_under_way_together_and_in_order() -> Result<(), ServerError> {
    let redis = Redis::start()?;
    let proxy = Proxy::to_redis(&redis)?;
    let mut client = Client::new(&proxy);
    let delay = Duration::from_millis(200);
    proxy.delay(delay);
    let begin = Instant::now();
    for number in 0..10 {
        client.say(&format!("ECHO {number}\r\n"));
        until("it is under way", || proxy.counts().chunks == number + 1);
    }
    for number in 0..10 {
        client.hear(&format!("$1\r\n{number}\r\n"));
    }
    let took = begin.elapsed();
    assert!(took >= 2 * delay, "{took:?}");
    // One after the other they would take twenty.
    assert!(took < 10 * delay, "{took:?}");

    // The end of a delay is one for what is under way.
    proxy.delay(Duration::from_secs(3600));
    client.say("PING\r\n");
    until("it is under way", || proxy.counts().chunks == 11);
    proxy.pass();
    client.hear("+PONG\r\n");
    Ok(())
}

#[test]
fn a_connection_is_reset_in_the_middle_of_a_reply() -> Result<(), ServerError> {
    let redis = Redis::start()?;
    let value = "v".repeat(1000);
    redis.command(&["SET", "k", &value])?;
    let proxy = Proxy::to_redis(&redis)?;
    let mut client = Client::new(&proxy);
    client.ask("PING\r\n", "+PONG\r\n");
    proxy.reset_after(107);
    client.ask("PING\r\n", "+PONG\r\n");
    client.say("GET k\r\n");
    let begun = format!("$1000\r\n{}", "v".repeat(93)).into_bytes();
    assert_eq!(client.hear_all(), (begun, Some(ErrorKind::ConnectionReset)));
    until("it is closed", || !proxy.links()[0].is_open());

    let mut client = Client::new(&proxy);
    client.say("GET k\r\n");
    assert_eq!(client.hear_all().0.len(), 107);
    proxy.pass();
    let mut client = Client::new(&proxy);
    client.ask("PING\r\n", "+PONG\r\n");
    proxy.links()[2].reset_after(0);
    client.say("PING\r\n");
    assert_eq!(client.hear_all(), (Vec::new(), Some(ErrorKind::ConnectionReset)));
    Ok(())
}

#[test]
fn replies_are_swapped_lost_and_restored() -> Result<(), ServerError> {
    let redis = Redis::start()?;
    redis.command(&["MSET", "one", "1", "two", "2"])?;
    let proxy = Proxy::to_redis(&redis)?;
    let mut client = Client::new(&proxy);
    proxy.rewrite(|chunk| {
        let mut replies = replies(chunk);
        replies.reverse();
        replies.concat()
    });
    client.ask("GET one\r\nGET two\r\n", "$1\r\n2\r\n$1\r\n1\r\n");
    let lost = Arc::new(AtomicBool::new(false));
    let told = lost.clone();
    proxy.rewrite(move |_| {
        told.store(true, Ordering::Release);
        Vec::new()
    });
    client.say("GET one\r\n");
    until("the reply is lost", || lost.load(Ordering::Acquire));
    proxy.pass();
    client.ask("GET two\r\n", "$1\r\n2\r\n");

    // A function that panics, as an assertion does, ends the connection.
    proxy.rewrite(|_| panic!("as it was told"));
    client.say("PING\r\n");
    assert!(client.hear_all().0.is_empty());
    Ok(())
}

#[test]
fn a_chunk_is_split_into_replies() {
    let all: [&[u8]; 7] = [
        b"+OK\r\n",
        b":1\r\n",
        b"$4\r\n\r\n\r\n\r\n",
        b"*2\r\n*1\r\n$-1\r\n$1\r\na\r\n",
        b"%1\r\n+key\r\n#t\r\n",
        b"-ERR no\r\n",
        b"$10\r\nbegun",
    ];
    assert_eq!(replies(&all.concat()), all);
    assert!(replies(b"").is_empty());
}

#[test]
fn a_dropped_proxy_leaves_no_thread_and_no_port() -> Result<(), ServerError> {
    // In a process of its own, where no other test has a proxy.
    let mut worker = Worker::start("harness_faults::worker_that_drops_a_proxy", &[])?;
    let said: Vec<_> = worker.lines().collect();
    assert_eq!(said, ["9 threads", "0 threads", "refused"]);
    assert!(worker.finish()?.success());
    Ok(())
}

#[test]
fn worker_that_drops_a_proxy() -> Result<(), ServerError> {
    if worker::parent_lines().is_none() {
        return Ok(());
    }
    let threads = || {
        let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return None };
        let names = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("comm")));
        Some(names.flatten().filter(|name| name == "proxy\n").count())
    };
    let redis = Redis::start()?;
    let proxy = Proxy::to_redis(&redis)?;
    let (mut idle, mut stalled) = (Client::new(&proxy), Client::new(&proxy));
    for client in [&mut idle, &mut stalled] {
        client.ask("PING\r\n", "+PONG\r\n");
    }
    proxy.stall(Way::Both);
    stalled.say("PING\r\n");
    let held = Arc::new(());
    let held_by_proxy = held.clone();
    proxy.rewrite(move |chunk| {
        let _ = &held_by_proxy;
        chunk.to_vec()
    });
    // Where there is no /proc, the test is about the port alone.
    worker::say(&format!("{} threads", threads().unwrap_or(9)));
    let port = proxy.port();
    drop(proxy);
    // Its threads have let go of everything, not only been told to.
    assert_eq!(Arc::strong_count(&held), 1);
    // A joined thread may still be listed for an instant.
    let gone = wait_for(PATIENCE, || (threads().unwrap_or(0) == 0).then_some(0));
    worker::say(&format!("{} threads", gone.or_else(threads).unwrap_or(0)));
    let error = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    worker::say(if error.kind() == ErrorKind::ConnectionRefused {
        "refused"
    } else {
        "not refused"
    });
    Ok(())
}

#[tokio::test]
async fn a_postgres_is_reached_through_a_proxy_and_cut_off() -> Result<(), ServerError> {
    let postgres = Postgres::shared()?;
    let database = postgres.database().await?;
    let proxy = Proxy::to_socket(postgres.socket())?;
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(proxy.port()).user("postgres").dbname(database.name());
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = client.query_one("SELECT current_database()::text", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), database.name());
    proxy.cut();
    assert!(client.query_one("SELECT 1", &[]).await.is_err());
    Ok(())
}

#[tokio::test]
async fn sessions_of_one_database_are_terminated() -> Result<(), ServerError> {
    let postgres = Postgres::shared()?;
    let (database, other) = (postgres.database().await?, postgres.database().await?);
    let sessions = [database.connect().await?, database.connect().await?];
    let spared = other.connect().await?;
    assert_eq!(database.terminate_sessions().await?, 2);
    for session in sessions {
        assert!(session.simple_query("SELECT 1").await.is_err());
    }
    spared.simple_query("SELECT 1").await.unwrap();
    Ok(())
}

#[test]
fn a_redis_is_told_what_to_do() -> Result<(), ServerError> {
    let redis = Redis::start_tcp_with(&["--maxmemory", "64mb"])?;
    assert_eq!(redis.command(&["CONFIG", "GET", "maxmemory"])?, "maxmemory\n67108864");
    assert_eq!(redis.command(&["GET", "absent"])?, "");
    assert_eq!(redis.reply(&["GET", "absent"])?, Reply::Nil);
    let value: &[u8] = b"\xff\r\n\0";
    redis.command(&[b"SET".as_slice(), b"bytes", value])?;
    assert_eq!(redis.reply(&["GET", "bytes"])?, Reply::Text(value.to_vec()));
    let error = redis.command(&["NO-SUCH-COMMAND"]).unwrap_err().to_string();
    assert!(error.contains("NO-SUCH-COMMAND: ERR unknown command"), "{error}");

    let proxy = Proxy::to_port(redis.port().unwrap())?;
    let mut subscriber = Client::new(&proxy);
    subscriber.ask("SUBSCRIBE x\r\n", "*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n");
    assert_eq!(redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"])?, "1");
    assert!(subscriber.hear_all().0.is_empty());
    Ok(())
}

#[test]
fn a_redis_comes_back_with_an_older_state() -> Result<(), ServerError> {
    let mut redis = Redis::start()?;
    assert!(redis.restart_with_snapshot().is_err(), "there is none yet");
    redis.restart()?;
    redis.command(&["MSET", "changed", "old", "deleted", "old"])?;
    redis.snapshot()?;
    for _ in 0..2 {
        redis.command(&["MSET", "changed", "new", "added", "new"])?;
        redis.command(&["DEL", "deleted"])?;
        redis.restart_with_snapshot()?;
        let values = redis.command(&["MGET", "changed", "deleted", "added"])?;
        assert_eq!(values, "old\nold\n");
    }
    redis.restart()?;
    assert_eq!(redis.command(&["DBSIZE"])?, "0");
    Ok(())
}

#[test]
fn a_replica_follows_until_it_is_promoted() -> Result<(), ServerError> {
    let mut primary = Redis::start_tcp()?;
    primary.command(&["SET", "early", "1"])?;
    let mut replica = Redis::start_replica_of(&primary)?;
    assert_eq!(replica.command(&["GET", "early"])?, "1");
    primary.command(&["SET", "late", "2"])?;
    until("the replica has it", || replica.command(&["GET", "late"]).unwrap() == "2");
    let refused = replica.command(&["SET", "own", "3"]).unwrap_err().to_string();
    assert!(refused.contains("READONLY"), "{refused}");

    primary.kill()?;
    replica.promote()?;
    replica.command(&["SET", "own", "3"])?;
    assert_eq!(replica.command(&["MGET", "early", "late", "own"])?, "1\n2\n3");
    // No replica any more, also when it is started again, and an empty server
    // in spite of the file that replication has left.
    replica.restart()?;
    replica.command(&["SET", "own", "4"])?;
    assert_eq!(replica.command(&["DBSIZE"])?, "1");

    let error = Redis::start_replica_of(&Redis::start()?).unwrap_err().to_string();
    assert!(error.contains("start_tcp"), "{error}");
    Ok(())
}
