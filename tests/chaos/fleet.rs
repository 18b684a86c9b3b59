//! The servers, and the processes that use them.

use std::time::Duration;

use fastrand::Rng;
use tokio::runtime::Runtime;
use tokio_postgres::Client;

use crate::record::{Record, Time, now};
use crate::servers::{Database, Postgres, Proxy, Redis, ServerError, Worker};
use crate::worker::{ENTRY, NAMESPACE, OPTIONAL, POSTGRES, RANDOM, REDIS, TAGS};
use crate::{KEYS, follows};

/// How long a process may be silent that is not paused.
const SILENCE: Time = 60_000_000_000;

pub struct Fleet {
    // Fields are dropped in this order: first who uses the servers.
    pub members: Vec<Member>,
    pub redis: Redis,
    pub postgres: Postgres,
    pub database: Database,
    runtime: Runtime,
    /// A session whose transaction has written and does not end.
    open: Option<Client>,
    random: Rng,
    /// What [`TAGS`] says.
    tags: String,
}

/// A process of the fleet, or its successors, and its own way to Redis.
pub struct Member {
    worker: Option<Worker>,
    pub proxy: Proxy,
    paused: bool,
    /// It has told all that happened before.
    told: Time,
    /// Lines of a process that is dead.
    last_words: Vec<String>,
}

/// What a process said.
pub enum Said {
    Record(Record),
    /// It has done as it was ordered to, or an answer was wrong.
    Line(String),
}

/// What the server needs to be followed by some of the processes.
const LOGICAL: &[&str] = &["wal_level=logical", "max_wal_senders=30", "max_replication_slots=30"];

/// One table of all rows.
fn table() -> String {
    format!(
        "CREATE TABLE items (key int PRIMARY KEY, version bigint NOT NULL);
         INSERT INTO items SELECT key, 0 FROM generate_series(0, {}) AS key",
        KEYS - 1
    )
}

/// A table for each row: what is followed are tables. Every second one is partitioned, and every third
/// one is read through a view and a function.
fn tables() -> String {
    let table = |key: usize| {
        let columns = "key int NOT NULL, version bigint NOT NULL";
        let made = if key.is_multiple_of(2) {
            format!(
                "CREATE TABLE item_{key} ({columns}) PARTITION BY LIST (key);
                 CREATE TABLE item_{key}_part PARTITION OF item_{key} FOR VALUES IN ({key});
                 ALTER TABLE item_{key}_part ADD PRIMARY KEY (key);"
            )
        } else {
            format!("CREATE TABLE item_{key} ({columns});")
        };
        format!(
            "{made}
             INSERT INTO item_{key} VALUES ({key}, 0);
             CREATE VIEW seen_{key} AS SELECT key, version FROM item_{key};
             CREATE FUNCTION version_{key}() RETURNS bigint LANGUAGE sql STABLE
                 AS 'SELECT version FROM seen_{key}';"
        )
    };
    (0..KEYS).map(table).collect::<String>() + "CREATE TABLE apart (id int);"
}

impl Fleet {
    pub fn start_all(processes: usize, seed: u64, tags: u64) -> Result<Self, ServerError> {
        let redis = Redis::start_tcp()?;
        let postgres = Postgres::start_with(if follows() { LOGICAL } else { &[] })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime for orders to PostgreSQL");
        let database = runtime.block_on(async {
            let database = postgres.database().await?;
            let table = if follows() { tables() } else { table() };
            let made = database.connect().await?.batch_execute(&table).await;
            made.expect("a new database takes a table");
            Ok::<_, ServerError>(database)
        })?;
        let mut fleet = Self {
            members: vec![],
            redis,
            postgres,
            database,
            runtime,
            open: None,
            random: Rng::with_seed(seed),
            tags: tags.to_string(),
        };
        for number in 0..processes {
            let proxy = Proxy::to_redis(&fleet.redis)?;
            let (told, last_words) = (0, Vec::new());
            fleet.members.push(Member { worker: None, proxy, paused: false, told, last_words });
            fleet.start(number, false)?;
        }
        Ok(fleet)
    }

    /// Starts a process in this place, perhaps while Redis is away.
    pub fn start(&mut self, number: usize, optional: bool) -> Result<(), ServerError> {
        let (random, postgres) = (self.random.u64(..).to_string(), self.database.url());
        let tags = self.tags.clone();
        let member = &mut self.members[number];
        let redis = member.proxy.url();
        let mut env =
            vec![(REDIS, &*redis), (POSTGRES, &*postgres), (RANDOM, &*random), (TAGS, &*tags)];
        if optional {
            env.push((OPTIONAL, "1"));
        }
        member.told = now();
        member.worker = Some(Worker::start(ENTRY, &env)?);
        Ok(())
    }

    /// The name of the key that says what was invalidated.
    pub fn directory() -> String {
        format!("larder:{NAMESPACE}:directory")
    }

    /// Tells all sessions to end. Not [`Database::terminate_sessions`], which waits for the end of
    /// each, a tenth of a second at least.
    pub fn terminate_sessions(&self) -> Result<(), ServerError> {
        self.runtime.block_on(async {
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE datname = current_database() AND pid <> pg_backend_pid()";
            let told = self.database.connect().await?.batch_execute(sql).await;
            told.expect("a superuser may terminate sessions");
            Ok(())
        })
    }

    /// Ends the sessions that read the stream of changes.
    pub fn terminate_walsenders(&self) -> Result<(), ServerError> {
        self.runtime.block_on(async {
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE backend_type = 'walsender'";
            let told = self.database.connect().await?.batch_execute(sql).await;
            told.expect("a superuser may terminate sessions");
            Ok(())
        })
    }

    /// Begins a transaction that writes, and leaves it open: no slot can be made meanwhile.
    pub fn open_transaction(&mut self) -> Result<(), ServerError> {
        let opened = self.runtime.block_on(async {
            let client = self.database.connect().await?;
            let begun = client.batch_execute("BEGIN; INSERT INTO apart VALUES (1)").await;
            begun.expect("a transaction may write");
            Ok::<_, ServerError>(client)
        })?;
        self.open = Some(opened);
        Ok(())
    }

    pub fn end_transaction(&mut self) {
        let Some(client) = self.open.take() else { return };
        // Its session may have been ended meanwhile.
        let _ = self.runtime.block_on(client.batch_execute("ROLLBACK"));
    }

    /// Hears what the processes have said so far.
    pub fn listen(&mut self, mut heard: impl FnMut(usize, Said)) {
        for (number, member) in self.members.iter_mut().enumerate() {
            let mut lines = std::mem::take(&mut member.last_words);
            lines.extend(member.worker.iter().flat_map(Worker::lines_so_far));
            for line in lines {
                let Some(log) = line.strip_prefix("log ") else {
                    heard(number, Said::Line(line));
                    continue;
                };
                let mut words = log.split_whitespace();
                let told = words.next().and_then(|word| word.parse().ok());
                member.told = told.unwrap_or_else(|| panic!("no time in {line:?}"));
                for word in words {
                    let record = word.parse().unwrap_or_else(|error: String| panic!("{error}"));
                    heard(number, Said::Record(record));
                }
            }
            if let Some(worker) = &mut member.worker
                && !member.paused
                && now().saturating_sub(member.told) > SILENCE
            {
                let error = worker.next_line(Duration::ZERO).err();
                panic!("process {number} is silent: {error:?}");
            }
        }
    }

    /// Until when all processes that live have told what happened.
    pub fn told(&self) -> Time {
        let living = self.members.iter().filter(|member| member.worker.is_some());
        living.map(|member| member.told).min().unwrap_or(Time::MAX)
    }

    pub fn order(&mut self, order: &str) -> Result<(), ServerError> {
        let mut workers = self.members.iter_mut().flat_map(|member| &mut member.worker);
        workers.try_for_each(|worker| worker.send(order))
    }

    /// Lets all processes come to their end, and keeps what they still say.
    pub fn finish(&mut self) -> Result<(), ServerError> {
        for (number, member) in self.members.iter_mut().enumerate() {
            let Some(mut worker) = member.worker.take() else { continue };
            let status = worker.finish()?;
            assert!(status.success(), "process {number} ended with {status}");
            member.last_words.extend(worker.lines());
        }
        Ok(())
    }
}

impl Member {
    pub fn pause(&mut self) -> Result<(), ServerError> {
        self.paused = true;
        self.worker.as_mut().map_or(Ok(()), Worker::pause)
    }

    pub fn resume(&mut self) -> Result<(), ServerError> {
        self.paused = false;
        // It has been silent for as long as it was paused.
        self.worker.as_mut().map_or(Ok(()), Worker::resume)
    }

    /// What it has not told is lost, with all that it had to announce.
    pub fn kill(&mut self) -> Result<(), ServerError> {
        let Some(mut worker) = self.worker.take() else { return Ok(()) };
        worker.kill()?;
        self.last_words.extend(worker.lines());
        Ok(())
    }
}
