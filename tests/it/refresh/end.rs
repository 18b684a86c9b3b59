//! Does a refresh end when it should, in PostgreSQL too, and go on when it can?

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use larder::refresh::{
    Activity, MaterializedView, RefreshErrorKind, RefreshHook, Refresher, RefresherBuilder,
};
use larder::testing::ManualClock;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::basics::{SCHEMA, refresher, shop};
use super::{HOUR, Heard, Held, done, locks, midnight, number, refreshing};
use crate::servers::{Database, Postgres};
use crate::support::{until, until_async};

const PATIENCE: Duration = Duration::from_secs(30);
const INSERT: &str = "INSERT INTO orders SELECT max(id) + 1, 'eu', 1 FROM orders";
const ORDERS: &str = "SELECT sum(orders)::int8 FROM by_region";

/// Refreshes `by_region` every hour, and waits a minute for locks.
fn hourly(database: &Database, clock: &ManualClock) -> RefresherBuilder {
    let view = MaterializedView::new("by_region").every(HOUR).lock_timeout(2 * PATIENCE);
    Refresher::builder(database.pool(4)).view(view).clock(clock.clone())
}

async fn until_refreshing(client: &Client, sessions: i64) {
    until_async("so many are refreshing", async || refreshing(client).await == sessions).await;
}

/// Waits until the refresher has heard that it is to end.
async fn until_closing(refresher: &Refresher) {
    until_async("it takes no more", async || {
        let refused = refresher.refresh_now("by_region").await;
        refused.is_err_and(|error| error.kind() == RefreshErrorKind::Closed)
    })
    .await;
}

#[tokio::test]
async fn shutdown_waits_for_a_refresh_and_for_whom_it_is_told() {
    let (database, client) = shop().await;
    let clock = ManualClock::starting_at(midnight());
    let after = Heard::default();
    let slow = RefreshHook::new("slow", async |_| {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        Ok(())
    });
    let refresher = hourly(&database, &clock)
        .after_refresh(slow)
        .after_refresh(after.hook("after"))
        .start()
        .await
        .unwrap();
    client.batch_execute(INSERT).await.unwrap();
    let orders = Held::table(&database, "orders").await;
    clock.advance(HOUR);
    until_refreshing(&client, 1).await;
    let shutdown = tokio::spawn({
        let refresher = refresher.clone();
        async move { refresher.shutdown().await }
    });
    until_closing(&refresher).await;
    assert_eq!(refreshing(&client).await, 1);
    assert!(!shutdown.is_finished());
    orders.release().await;
    timeout(PATIENCE, shutdown).await.unwrap().unwrap();
    let status = &refresher.status()[0];
    assert_eq!((status.refreshes(), status.failures_in_a_row()), (1, 0));
    assert!(status.last().unwrap().changed());
    assert_eq!(number(&client, ORDERS).await, 11);
    assert_eq!(after.all().len(), 1);
}

#[tokio::test]
async fn at_the_deadline_what_still_runs_is_cancelled_in_postgresql_too() {
    let (database, client) = shop().await;
    let clock = ManualClock::starting_at(midnight());
    let failed = Heard::default();
    let refresher = hourly(&database, &clock)
        .on_error(failed.hook("failed"))
        .shutdown_deadline(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    client.batch_execute(INSERT).await.unwrap();
    let orders = Held::table(&database, "orders").await;
    clock.advance(HOUR);
    until_refreshing(&client, 1).await;
    assert_eq!(locks(&client).await, 1);
    timeout(PATIENCE, refresher.shutdown()).await.unwrap();
    assert_eq!((refreshing(&client).await, locks(&client).await), (0, 0));
    orders.release().await;
    assert_eq!(number(&client, ORDERS).await, 10);
    assert_eq!(refresher.status()[0].activity(), Activity::Idle);
    assert_eq!(refresher.status()[0].refreshes(), 0);
    // Nobody is told any more.
    assert!(failed.all().is_empty());
    let next = super::basics::refresher(&database, &["by_region"]).start().await.unwrap();
    assert!(next.refresh_now("by_region").await.unwrap().changed());
}

#[tokio::test]
async fn whoever_has_asked_for_a_refresh_is_told_that_it_was_cancelled() {
    let (database, client) = shop().await;
    let refresher = refresher(&database, &["by_region"])
        .shutdown_deadline(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    let orders = Held::table(&database, "orders").await;
    let asked = tokio::spawn({
        let refresher = refresher.clone();
        async move { refresher.refresh_now("by_region").await }
    });
    until_refreshing(&client, 1).await;
    timeout(PATIENCE, refresher.shutdown()).await.unwrap();
    assert_eq!((refreshing(&client).await, locks(&client).await), (0, 0));
    let error = timeout(PATIENCE, asked).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), RefreshErrorKind::Closed);
    orders.release().await;
}

#[tokio::test]
async fn a_refresh_that_waits_for_its_turn_does_not_begin_after_the_end_has() {
    let (database, client) = shop().await;
    let other = "CREATE TABLE events (id int);
                 CREATE MATERIALIZED VIEW other AS TABLE events;
                 CREATE UNIQUE INDEX ON other (id)";
    client.batch_execute(other).await.unwrap();
    let clock = ManualClock::starting_at(midnight());
    let asked = Heard::default();
    let refresher = hourly(&database, &clock)
        .view(MaterializedView::new("other").every(2 * HOUR).lock_timeout(2 * PATIENCE))
        .concurrent_refreshes(1)
        .before_refresh(asked.hook("asked"))
        .start()
        .await
        .unwrap();
    let orders = Held::table(&database, "orders, events").await;
    clock.advance(HOUR);
    until_refreshing(&client, 1).await;
    clock.advance(HOUR);
    let waits = || refresher.status()[1].activity() == Activity::WaitingForDependencies;
    until("the other one is due", waits).await;
    let also = tokio::spawn({
        let refresher = refresher.clone();
        async move { refresher.refresh_now("other").await }
    });
    let shutdown = tokio::spawn({
        let refresher = refresher.clone();
        async move { refresher.shutdown().await }
    });
    until_closing(&refresher).await;
    orders.release().await;
    timeout(PATIENCE, shutdown).await.unwrap().unwrap();
    let also = timeout(PATIENCE, also).await.unwrap().unwrap();
    assert_eq!(also.unwrap_err().kind(), RefreshErrorKind::Closed);
    assert_eq!(asked.views(), ["by_region"]);
    let refreshes: Vec<_> = refresher.status().iter().map(|view| view.refreshes()).collect();
    assert_eq!(refreshes, [1, 0]);
}

#[tokio::test]
async fn after_the_end_nothing_is_refreshed() {
    let (database, client) = shop().await;
    let clock = ManualClock::starting_at(midnight());
    let asked = Heard::default();
    let builder = hourly(&database, &clock).before_refresh(asked.hook("asked"));
    let refresher = builder.start().await.unwrap();
    clock.advance(HOUR);
    done(&refresher, &clock).await;
    refresher.shutdown().await;
    clock.advance(HOUR);
    for _ in 0..20 {
        let error = refresher.refresh_now("by_region").await.unwrap_err();
        assert_eq!(error.kind(), RefreshErrorKind::Closed);
        for refused in refresher.refresh_all().await {
            assert_eq!(refused.unwrap_err().kind(), RefreshErrorKind::Closed);
        }
        assert_eq!(refreshing(&client).await, 0);
    }
    assert_eq!((asked.all().len(), refresher.status()[0].refreshes()), (1, 1));
    assert_eq!(refresher.status()[0].failures_in_a_row(), 0);
    // A second time there is nothing left to end.
    refresher.shutdown().await;
}

#[tokio::test]
async fn an_idle_refresher_ends_without_waiting_for_anything() {
    let (database, _client) = shop().await;
    let ends = async {
        for _ in 0..10 {
            let refresher = refresher(&database, &["by_region"]).start().await.unwrap();
            refresher.refresh_now("by_region").await.unwrap();
            refresher.shutdown().await;
        }
    };
    timeout(PATIENCE, ends).await.unwrap();
}

#[tokio::test]
async fn the_end_waits_for_no_pool_that_has_nothing_to_give() {
    let (database, _client) = shop().await;
    let pool = database.pool(1);
    let refresher = Refresher::builder(pool.clone())
        .view(MaterializedView::new("by_region"))
        .poll(Duration::from_millis(10))
        .shutdown_deadline(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    let taken = pool.get().await.unwrap();
    until("it waits for a connection to look", || pool.status().waiting == 1).await;
    timeout(PATIENCE, refresher.shutdown()).await.unwrap();
    drop(taken);
    assert_eq!(pool.status().waiting, 0);
}

#[tokio::test]
async fn a_hook_that_goes_on_is_given_up_at_the_deadline() {
    struct Dropped(Arc<Notify>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (database, _client) = shop().await;
    let (called, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let hangs = RefreshHook::new("hangs", {
        let (called, dropped) = (called.clone(), dropped.clone());
        move |_| {
            let (called, dropped) = (called.clone(), Dropped(dropped.clone()));
            async move {
                let _dropped = dropped;
                called.notify_one();
                pending().await
            }
        }
    });
    let after = Heard::default();
    let refresher = refresher(&database, &["by_region"])
        .after_refresh(hangs.timeout(HOUR))
        .after_refresh(after.hook("after"))
        .shutdown_deadline(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    refresher.refresh_now("by_region").await.unwrap();
    timeout(PATIENCE, called.notified()).await.unwrap();
    timeout(PATIENCE, refresher.shutdown()).await.unwrap();
    timeout(PATIENCE, dropped.notified()).await.unwrap();
    assert!(after.all().is_empty());
    assert_eq!(refresher.status()[0].refreshes(), 1);
}

#[tokio::test]
async fn the_last_handle_takes_what_runs_with_it() {
    let (database, client) = shop().await;
    let clock = ManualClock::starting_at(midnight());
    let refresher = hourly(&database, &clock).start().await.unwrap();
    client.batch_execute(INSERT).await.unwrap();
    let orders = Held::table(&database, "orders").await;
    clock.advance(HOUR);
    until_refreshing(&client, 1).await;
    drop(refresher.clone());
    assert_eq!(refreshing(&client).await, 1);
    drop(refresher);
    until_async("its lock is free", async || locks(&client).await == 0).await;
    until_refreshing(&client, 0).await;
    orders.release().await;
    assert_eq!(number(&client, ORDERS).await, 10);
}

#[tokio::test]
async fn nothing_is_left_of_a_refresher_that_was_dropped() {
    let (database, client) = shop().await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let clock = ManualClock::starting_at(midnight());
    let pool = database.pool(4);
    let refresher = Refresher::builder(pool.clone())
        .view(MaterializedView::new("by_region").every(HOUR))
        .listen(database.config(), tokio_postgres::NoTls)
        .after_refresh(Heard::default().hook("after"))
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    let sessions = "SELECT count(*) FROM pg_stat_activity \
                    WHERE datname = current_database() AND backend_type = 'client backend'";
    let is_listening = "SELECT count(*) FROM pg_stat_activity \
                        WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    until_async("it listens", async || number(&client, is_listening).await == 1).await;
    clock.advance(HOUR);
    done(&refresher, &clock).await;
    drop(refresher);
    until("all connections are back", || {
        let status = pool.status();
        status.size > 0 && status.available == status.size && status.waiting == 0
    })
    .await;
    drop(pool);
    until("its tasks are over", || tasks() == before).await;
    until_async("its sessions are closed", async || number(&client, sessions).await == 1).await;
}

#[tokio::test]
async fn whoever_leaves_takes_their_refresh_with_them_and_leaves_a_pool_that_works() {
    let (database, client) = shop().await;
    let pool = database.pool(1);
    let view = MaterializedView::new("by_region").lock_timeout(2 * PATIENCE);
    let refresher = Refresher::builder(pool.clone()).view(view).start().await.unwrap();
    for round in 1..=3 {
        client.batch_execute(INSERT).await.unwrap();
        let orders = Held::table(&database, "orders").await;
        let asked = tokio::spawn({
            let refresher = refresher.clone();
            async move { refresher.refresh_now("by_region").await }
        });
        until_refreshing(&client, 1).await;
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        assert_eq!(refresher.status()[0].activity(), Activity::Idle);
        until_async("its lock is free", async || locks(&client).await == 0).await;
        until_refreshing(&client, 0).await;
        orders.release().await;
        assert_eq!(number(&client, ORDERS).await, 9 + round);
        let report = timeout(PATIENCE, refresher.refresh_now("by_region")).await.unwrap();
        assert!(report.unwrap().changed());
        let one = timeout(PATIENCE, pool.get()).await.unwrap().unwrap();
        assert_eq!(number(&one, ORDERS).await, 10 + round);
        assert_eq!(pool.status().size, 1);
        assert_eq!(refresher.status()[0].failures_in_a_row(), 0);
    }
}

#[tokio::test]
async fn who_finds_a_view_busy_does_not_make_it_look_idle() {
    let (database, client) = shop().await;
    let refresher = refresher(&database, &["by_region"]).start().await.unwrap();
    let orders = Held::table(&database, "orders").await;
    let first = tokio::spawn({
        let refresher = refresher.clone();
        async move { refresher.refresh_now("by_region").await }
    });
    until_refreshing(&client, 1).await;
    assert!(refresher.refresh_now("by_region").await.unwrap().rows().is_none());
    assert_eq!(refresher.status()[0].activity(), Activity::Refreshing);
    orders.release().await;
    assert!(first.await.unwrap().unwrap().rows().is_some());
    assert_eq!(refresher.status()[0].activity(), Activity::Idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_was_away_is_come_back_to_without_help() {
    let mut postgres = Postgres::start().unwrap();
    let database = postgres.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(SCHEMA).await.unwrap();
    client.batch_execute(INSERT).await.unwrap();
    let clock = ManualClock::starting_at(midnight());
    let failed = Heard::default();
    let refresher =
        hourly(&database, &clock).on_error(failed.hook("failed")).start().await.unwrap();
    postgres.stop().unwrap();
    clock.advance(HOUR);
    until("it was tried several times", || {
        let status = &refresher.status()[0];
        status.failures_in_a_row() >= 3 && status.activity() == Activity::Retrying
    })
    .await;
    let status = &refresher.status()[0];
    assert_eq!(status.last_error().unwrap().kind(), RefreshErrorKind::Connection);
    assert_eq!(status.next(), Some(midnight() + HOUR));
    postgres.restart().unwrap();
    done(&refresher, &clock).await;
    let status = &refresher.status()[0];
    assert_eq!((status.refreshes(), status.failures_in_a_row()), (1, 0));
    assert!(status.last_error().is_none());
    assert_eq!(status.next(), Some(midnight() + 2 * HOUR));
    assert_eq!(failed.all().len(), 1);
    let client = database.connect().await.unwrap();
    assert_eq!(number(&client, ORDERS).await, 11);
    timeout(PATIENCE, refresher.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_refresh_whose_session_was_terminated_is_made_again() {
    let (database, client) = shop().await;
    let slow = "CREATE TABLE pause (seconds float8); INSERT INTO pause VALUES (0);
                CREATE MATERIALIZED VIEW slow AS
                  SELECT seconds::int8, pg_sleep(seconds)::text FROM pause;
                CREATE UNIQUE INDEX ON slow (seconds);
                UPDATE pause SET seconds = 600";
    client.batch_execute(slow).await.unwrap();
    let clock = ManualClock::starting_at(midnight());
    let failed = Heard::default();
    let refresher = Refresher::builder(database.pool(2))
        .view(MaterializedView::new("slow").every(HOUR))
        .on_error(failed.hook("failed"))
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    clock.advance(HOUR);
    until_refreshing(&client, 1).await;
    client.batch_execute("UPDATE pause SET seconds = 0.001").await.unwrap();
    assert!(database.terminate_sessions().await.unwrap() >= 2);
    done(&refresher, &clock).await;
    let status = &refresher.status()[0];
    assert_eq!((status.refreshes(), status.failures_in_a_row()), (1, 0));
    let [event] = &failed.all()[..] else { panic!("it failed once") };
    assert_eq!(event.error().unwrap().kind(), RefreshErrorKind::Connection);
}
