//! Are materialized views refreshed, and do cached results become stale?

mod basics;
mod check;
mod credentials;
mod definitions;
mod discover;
mod end;
mod errors;
#[cfg(feature = "redis")]
mod fleet;
mod follow;
mod hooks;
mod locks;
mod names;
mod order;
mod pgbouncer;
mod spellings;
mod time;
mod unchanged;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use larder::refresh::{RefreshEvent, RefreshHook, Refresher};
use larder::testing::ManualClock;
use tokio_postgres::Client;

use crate::servers::Database;
use crate::support::until;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A midnight in October 2024.
fn midnight() -> SystemTime {
    SystemTime::UNIX_EPOCH + 20_000 * 24 * HOUR
}

/// Waits until all ticks that have come by this clock are done.
async fn done(refresher: &Refresher, clock: &ManualClock) {
    until("all ticks that have come are done", || {
        let now = clock.wall();
        refresher.status().iter().all(|view| view.next().is_none_or(|next| next > now))
    })
    .await;
}

/// A table that nobody can read, so that a refresh that does has to wait.
struct Held(Client);

impl Held {
    async fn table(database: &Database, table: &str) -> Held {
        let client = database.connect().await.unwrap();
        let sql = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        client.batch_execute(&sql).await.unwrap();
        Held(client)
    }

    async fn release(self) {
        self.0.batch_execute("ROLLBACK").await.unwrap();
    }
}

/// How many sessions of this database are refreshing a view at this moment.
async fn refreshing(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
               AND state = 'active' AND query LIKE 'REFRESH MATERIALIZED VIEW%'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// How many advisory locks are held in this database.
async fn locks(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// What hooks were told, in order.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<RefreshEvent>>>);

impl Heard {
    fn hook(&self, name: &str) -> RefreshHook {
        let heard = self.clone();
        RefreshHook::new(name, move |event| {
            heard.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            async { Ok(()) }
        })
    }

    fn all(&self) -> Vec<RefreshEvent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn views(&self) -> Vec<String> {
        self.all().iter().map(|event| event.view().to_owned()).collect()
    }

    async fn events(&self, number: usize) -> Vec<RefreshEvent> {
        until("the hook has heard of it", || self.all().len() >= number).await;
        self.all()
    }
}
