//! Does the pooler of the other tests share sessions among clients, with all consequences?

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

use crate::servers::{
    Database, PgBouncer, Postgres, ServerError, Worker, is_running, wait_for, worker,
};
use crate::support::{database, until_async};

const PATIENCE: Duration = Duration::from_secs(30);

/// One database, with and without a pooler of so many sessions before it.
struct Ways {
    direct: Database,
    pooled: Database,
    bouncer: PgBouncer,
}

async fn ways(sessions: usize) -> Ways {
    let size = format!("default_pool_size={sessions}");
    let bouncer = PgBouncer::start(Postgres::shared().unwrap(), &[&size]).unwrap();
    let direct = database().await;
    Ways { pooled: bouncer.database(direct.name()), direct, bouncer }
}

impl Ways {
    /// How many rows about the database there are in a list of the console.
    async fn count(&self, list: &str) -> usize {
        let rows = self.bouncer.show(list).await.unwrap();
        rows.iter().filter(|row| row.get("database") == Some(self.direct.name())).count()
    }

    /// Waits until the pooler has noticed who has gone.
    async fn until_there_are(&self, count: usize, list: &str) {
        let what = format!("there are {count} {list}");
        until_async(&what, async || self.count(list).await == count).await;
    }
}

/// The only value of the only row, by the simple protocol.
async fn ask(client: &Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap();
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.unwrap().get(0).unwrap_or_default().to_owned()
}

async fn session(client: &Client) -> String {
    ask(client, "SELECT pg_backend_pid()").await
}

/// A client, and the payloads that it is notified of.
async fn listener(database: &Database) -> (Client, UnboundedReceiver<String>) {
    let (client, mut connection) = database.config().connect(NoTls).await.unwrap();
    let (heard, payloads) = unbounded_channel();
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = heard.send(notification.payload().to_owned());
            }
        }
    });
    (client, payloads)
}

#[tokio::test]
async fn two_clients_share_a_session_between_transactions() {
    let ways = ways(1).await;
    let one = ways.pooled.connect().await.unwrap();
    let two = ways.pooled.connect().await.unwrap();
    let shared = session(&one).await;
    assert_eq!(session(&two).await, shared);
    assert_eq!(session(&one).await, shared);
    let others = [ways.direct.connect().await.unwrap(), ways.direct.connect().await.unwrap()];
    assert_ne!(session(&others[0]).await, session(&others[1]).await);

    // A transaction has it to itself.
    one.batch_execute("BEGIN").await.unwrap();
    let waiting = tokio::spawn(async move { session(&two).await });
    until_async("the other client waits", async || {
        let pools = ways.bouncer.show("POOLS").await.unwrap();
        let pool = pools.iter().find(|pool| pool.get("database") == Some(ways.direct.name()));
        assert_eq!(pool.unwrap().get("pool_mode"), Some("transaction"));
        pool.unwrap().get("cl_waiting") == Some("1")
    })
    .await;
    assert_eq!(session(&one).await, shared);
    one.batch_execute("COMMIT").await.unwrap();
    assert_eq!(waiting.await.unwrap(), shared);
}

#[tokio::test]
async fn many_clients_of_a_pool_get_by_with_two_sessions() {
    let bouncer = PgBouncer::start(Postgres::shared().unwrap(), &[]).unwrap();
    let direct = database().await;
    let pooled = bouncer.database(direct.name());
    let config: tokio_postgres::Config = pooled.url().parse().unwrap();
    assert_eq!(config.get_dbname(), Some(direct.name()));
    assert_eq!(config.get_hosts(), pooled.config().get_hosts());

    let pool = pooled.pool(50);
    let clients = try_join_all((0..50).map(|_| pool.get())).await.unwrap();
    let sessions = clients.iter().map(|client| async move {
        let sql = "SELECT current_database() || ' ' || pg_backend_pid()";
        ask(client, sql).await
    });
    let sessions: HashSet<String> = join_all(sessions).await.into_iter().collect();
    assert!(sessions.len() <= 2, "{sessions:?}");
    assert!(sessions.iter().all(|session| session.starts_with(direct.name())), "{sessions:?}");
}

#[tokio::test]
async fn a_lock_of_a_session_outlives_its_client_and_excludes_no_other() {
    let ways = ways(1).await;
    let outsider = ways.direct.connect().await.unwrap();
    let one = ways.pooled.connect().await.unwrap();
    let two = ways.pooled.connect().await.unwrap();
    let lock = "SELECT pg_try_advisory_lock(7)";
    assert_eq!(ask(&one, lock).await, "t");
    assert_eq!(ask(&two, lock).await, "t");

    drop((one, two));
    ways.until_there_are(0, "CLIENTS").await;
    assert_eq!(ask(&outsider, lock).await, "f");
}

#[tokio::test]
async fn a_lock_of_a_transaction_ends_with_it_or_with_its_client() {
    let ways = ways(1).await;
    let outsider = ways.direct.connect().await.unwrap();
    let client = ways.pooled.connect().await.unwrap();
    let lock = "SELECT pg_try_advisory_xact_lock(7)";
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(ask(&client, lock).await, "t");
    assert_eq!(ask(&outsider, lock).await, "f");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(ask(&outsider, lock).await, "t");

    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(ask(&client, lock).await, "t");
    drop(client);
    until_async("the lock is free", async || ask(&outsider, lock).await == "t").await;
}

#[tokio::test]
async fn who_listens_through_a_pooler_hears_nothing_while_others_do() {
    let ways = ways(1).await;
    let outsider = ways.direct.connect().await.unwrap();
    let (client, mut heard) = listener(&ways.pooled).await;
    let (other, mut heard_by_other) = listener(&ways.pooled).await;
    client.batch_execute("LISTEN changes").await.unwrap();

    // What a session is to be told waits for the end of its transaction, which
    // is another client's by now.
    other.batch_execute("BEGIN").await.unwrap();
    outsider.batch_execute("NOTIFY changes, 'news'").await.unwrap();
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(heard_by_other.recv().await.unwrap(), "news");

    // Nobody is told when the session goes, and the registration with it.
    let channels = "SELECT count(*) FROM pg_listening_channels()";
    assert_eq!(ask(&client, channels).await, "1");
    let end = format!("SELECT pg_terminate_backend({}, 30000)", session(&client).await);
    assert_eq!(ask(&outsider, &end).await, "t");
    ways.until_there_are(0, "SERVERS").await;
    assert_eq!(ask(&client, channels).await, "0");

    drop(client);
    assert_eq!(heard.recv().await, None);
}

/// A client that got one of two sessions, and shall get the other one next:
/// transactions of others hold them by turns.
struct Moved {
    client: Client,
    holders: [Client; 2],
}

impl Moved {
    async fn new(pooled: &Database) -> Self {
        let connect = || async { pooled.connect().await.unwrap() };
        let holders = [connect().await, connect().await];
        holders[0].batch_execute("BEGIN").await.unwrap();
        Self { client: connect().await, holders }
    }

    async fn to_the_other_session(&self) {
        self.holders[1].batch_execute("BEGIN").await.unwrap();
        self.holders[0].batch_execute("COMMIT").await.unwrap();
    }
}

/// Whether this pooler prepares statements wherever their client goes, as those
/// since 1.21 can.
async fn follows_statements(bouncer: &PgBouncer) -> bool {
    let settings = bouncer.show("CONFIG").await.unwrap();
    let setting = settings.iter().find(|row| row.get("key") == Some("max_prepared_statements"));
    setting.is_some_and(|row| row.get("value") != Some("0"))
}

#[tokio::test]
async fn a_prepared_statement_stays_in_the_session_that_prepared_it() {
    let ways = ways(2).await;
    let moved = Moved::new(&ways.pooled).await;
    let statement = moved.client.prepare("SELECT 'ours'").await.unwrap();
    moved.to_the_other_session().await;
    match moved.client.query_one(&statement, &[]).await {
        Ok(row) => {
            assert!(follows_statements(&ways.bouncer).await);
            assert_eq!(row.get::<_, &str>(0), "ours");
        }
        Err(error) => {
            assert!(!follows_statements(&ways.bouncer).await, "{error:?}");
            assert_eq!(error.code(), Some(&SqlState::INVALID_SQL_STATEMENT_NAME));
        }
    }
}

#[tokio::test]
async fn a_prepared_statement_of_the_same_name_is_taken_for_ours() {
    let ways = ways(2).await;
    if follows_statements(&ways.bouncer).await {
        return;
    }
    let moved = Moved::new(&ways.pooled).await;
    let statement = moved.client.prepare("SELECT 'ours'").await.unwrap();
    let name = "SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT ''ours'''";
    let name = ask(&moved.client, name).await;
    // Each process counts its own from the same number on.
    let theirs = format!("PREPARE {name} AS SELECT 'theirs'");
    moved.holders[0].batch_execute(&theirs).await.unwrap();
    moved.to_the_other_session().await;
    let row = moved.client.query_one(&statement, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "theirs");
}

#[tokio::test]
async fn a_statement_without_a_name_works_in_any_session() {
    let ways = ways(2).await;
    let moved = Moved::new(&ways.pooled).await;
    let ours = async || {
        let parameter = (&"ours" as _, Type::TEXT);
        let sql = "SELECT pg_backend_pid(), $1";
        let rows = moved.client.query_typed(sql, &[parameter]).await.unwrap();
        assert_eq!(rows[0].get::<_, &str>(1), "ours");
        rows[0].get::<_, i32>(0)
    };
    let first = ours().await;
    moved.to_the_other_session().await;
    assert_ne!(ours().await, first);
}

#[test]
fn a_dropped_pooler_is_gone_with_its_directory() -> Result<(), ServerError> {
    let bouncer = PgBouncer::start(Postgres::shared()?, &[])?;
    let (pid, directory) = (bouncer.pid(), bouncer.directory().to_owned());
    assert!(is_running(pid) && directory.is_dir());
    drop(bouncer);
    assert!(!is_running(pid) && !directory.exists());
    Ok(())
}

/// A worker that has a pooler.
#[test]
fn worker_that_pools() {
    let Some(lines) = worker::parent_lines() else { return };
    let bouncer = PgBouncer::start(Postgres::shared().unwrap(), &[]).unwrap();
    worker::say(&bouncer.pid().to_string());
    worker::say(&bouncer.directory().display().to_string());
    lines.for_each(drop);
}

#[test]
fn a_killed_process_leaves_no_pooler_and_no_directory() -> Result<(), ServerError> {
    let mut worker = Worker::start("harness_pgbouncer::worker_that_pools", &[])?;
    let pid = worker.next_line(PATIENCE)?.parse().unwrap();
    let directory = PathBuf::from(worker.next_line(PATIENCE)?);
    assert!(is_running(pid) && directory.is_dir());
    worker.kill()?;
    let gone = wait_for(PATIENCE, || (!is_running(pid) && !directory.exists()).then_some(()));
    assert!(gone.is_some(), "left behind: {pid} or {}", directory.display());
    Ok(())
}

#[test]
fn a_pooler_that_cannot_start_says_why() -> Result<(), ServerError> {
    let error = PgBouncer::start(Postgres::shared()?, &["no_such_setting=1"]).unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    Ok(())
}
