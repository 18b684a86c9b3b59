//! Is a view refreshed when it is due, once, and at no other time?

use std::time::Duration;

use larder::refresh::{Activity, MaterializedView, RefreshErrorKind, Refresher};
use larder::testing::ManualClock;

use super::basics::shop;
use super::{HOUR, Heard, Held, done, midnight, number, refreshing};
use crate::support::{until, until_async};

fn hourly(view: &str) -> MaterializedView {
    MaterializedView::new(view).every(HOUR)
}

#[tokio::test]
async fn a_view_is_refreshed_at_each_tick_of_three_days() {
    let (database, client) = shop().await;
    let clock = ManualClock::starting_at(midnight());
    let heard = Heard::default();
    let refresher = Refresher::builder(database.pool(2))
        .view(MaterializedView::new("by_region").every(6 * HOUR))
        .after_refresh(heard.hook("heard"))
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    for tick in 1..=12_u32 {
        let insert = "INSERT INTO orders SELECT max(id) + 1, 'eu', 1 FROM orders";
        client.batch_execute(insert).await.unwrap();
        let due = midnight() + 6 * tick * HOUR;
        assert_eq!(refresher.status()[0].next(), Some(due));
        clock.advance(6 * HOUR - Duration::from_nanos(1));
        clock.advance(Duration::from_nanos(1));
        done(&refresher, &clock).await;
        let status = &refresher.status()[0];
        assert_eq!(status.refreshes(), u64::from(tick));
        assert_eq!(status.last_refreshed().unwrap().started(), due);
        let orders = number(&client, "SELECT sum(orders)::int8 FROM by_region").await;
        assert_eq!(orders, 10 + i64::from(tick));
    }
    assert_eq!(heard.events(12).await.len(), 12);
}

#[cfg(feature = "cron")]
#[tokio::test]
async fn a_time_of_day_is_kept_through_both_changes_of_the_clocks() {
    let (database, _client) = shop().await;
    let utc = |time: &str| {
        std::time::SystemTime::from(chrono::DateTime::parse_from_rfc3339(time).unwrap())
    };
    let cases: [(&str, &[&str]); 4] = [
        // Half past two is left out on the 29th of March, and comes right after the gap.
        (
            "30 2 * * *",
            &[
                "2026-03-28T01:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-30T00:30:00Z",
                "2026-03-31T00:30:00Z",
            ],
        ),
        // It is there twice on the 25th of October, and taken once.
        ("30 2 * * *", &["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        ("0 6 * * *", &["2026-03-28T05:00:00Z", "2026-03-29T04:00:00Z", "2026-03-30T04:00:00Z"]),
        // A cadence goes on in both of the hours that are shown twice.
        (
            "*/30 * * * *",
            &[
                "2026-10-25T00:00:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:00:00Z",
            ],
        ),
    ];
    for (expression, ticks) in cases {
        let clock = ManualClock::starting_at(utc(ticks[0]) - Duration::from_secs(1));
        let refresher = Refresher::builder(database.pool(2))
            .view(MaterializedView::new("by_region").cron(expression).time_zone("Europe/Berlin"))
            .clock(clock.clone())
            .start()
            .await
            .unwrap();
        for (before, tick) in ticks.iter().enumerate() {
            let due = utc(tick);
            let status = &refresher.status()[0];
            assert_eq!((status.next(), status.refreshes()), (Some(due), before as u64), "{tick}");
            clock.advance(due.duration_since(clock.wall()).unwrap());
            done(&refresher, &clock).await;
            let status = &refresher.status()[0];
            assert_eq!(status.last_refreshed().unwrap().started(), due, "{tick}");
        }
        assert_eq!(refresher.status()[0].refreshes(), ticks.len() as u64);
    }
}

#[tokio::test]
async fn a_pause_of_three_days_is_made_up_for_by_one_refresh() {
    let (database, _client) = shop().await;
    let clock = ManualClock::starting_at(midnight());
    let heard = Heard::default();
    let refresher = Refresher::builder(database.pool(2))
        .view(hourly("by_region"))
        .after_refresh(heard.hook("heard"))
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    clock.advance(3 * 24 * HOUR + HOUR / 2);
    done(&refresher, &clock).await;
    let status = &refresher.status()[0];
    assert_eq!((status.refreshes(), status.next()), (1, Some(midnight() + 73 * HOUR)));
    assert_eq!(status.last_refreshed().unwrap().started(), clock.wall());
    // Any that were queued would be counted before the next one.
    clock.advance(HOUR / 2);
    done(&refresher, &clock).await;
    let status = &refresher.status()[0];
    assert_eq!((status.refreshes(), status.next()), (2, Some(midnight() + 74 * HOUR)));
    assert_eq!(heard.events(2).await.len(), 2);
}

#[tokio::test]
async fn ticks_that_pass_during_a_refresh_are_left_out() {
    let (database, client) = shop().await;
    let clock = ManualClock::starting_at(midnight());
    let asked = Heard::default();
    let refresher = Refresher::builder(database.pool(4))
        .view(hourly("by_region").lock_timeout(Duration::from_secs(60)))
        .concurrent_refreshes(4)
        .before_refresh(asked.hook("asked"))
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    let orders = Held::table(&database, "orders").await;
    clock.advance(HOUR);
    until_async("it is refreshing", async || refreshing(&client).await == 1).await;
    for _ in 0..10 {
        clock.advance(HOUR);
        assert_eq!(refreshing(&client).await, 1);
    }
    let status = &refresher.status()[0];
    assert_eq!(status.activity(), Activity::Refreshing);
    assert_eq!((status.refreshes(), status.next()), (0, Some(midnight() + HOUR)));
    orders.release().await;
    done(&refresher, &clock).await;
    let status = &refresher.status()[0];
    assert_eq!((status.refreshes(), status.next()), (1, Some(midnight() + 12 * HOUR)));
    assert_eq!(status.last_refreshed().unwrap().started(), midnight() + HOUR);
    clock.advance(HOUR);
    done(&refresher, &clock).await;
    assert_eq!(refresher.status()[0].refreshes(), 2);
    assert_eq!(asked.all().len(), 2);
}

#[tokio::test]
async fn a_tick_that_comes_while_another_is_tried_again_takes_its_place() {
    let (database, _client) = shop().await;
    let clock = ManualClock::starting_at(midnight());
    let failed = Heard::default();
    let refresher = Refresher::builder(database.pool(2))
        .view(hourly("by_region").lock_timeout(Duration::from_millis(10)))
        .on_error(failed.hook("failed"))
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    let orders = Held::table(&database, "orders").await;
    for _ in 1..=3 {
        clock.advance(HOUR);
        let failures = refresher.status()[0].failures_in_a_row();
        until("it is tried again, and then once more", || {
            let status = &refresher.status()[0];
            status.failures_in_a_row() > failures + 1 && status.activity() == Activity::Retrying
        })
        .await;
    }
    // Of each tick once, except that one may have come during an attempt for the one before.
    let events = failed.all();
    assert!((1..=3).contains(&events.len()), "{}", events.len());
    assert_eq!(events[0].error().unwrap().kind(), RefreshErrorKind::LockTimeout);
    orders.release().await;
    done(&refresher, &clock).await;
    let status = &refresher.status()[0];
    assert_eq!((status.refreshes(), status.failures_in_a_row()), (1, 0));
    assert_eq!(status.next(), Some(midnight() + 4 * HOUR));
}

#[tokio::test]
async fn jitter_puts_a_refresh_off_by_no_more_than_it_may() {
    let (database, _client) = shop().await;
    let clock = ManualClock::starting_at(midnight());
    let refresher = Refresher::builder(database.pool(2))
        .view(hourly("by_region").jitter(HOUR / 2))
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    for tick in 1..=3_u32 {
        let due = midnight() + tick * HOUR;
        clock.advance(due.duration_since(clock.wall()).unwrap());
        until("its time has come", || {
            refresher.status()[0].activity() == Activity::WaitingForDependencies
        })
        .await;
        // It would have to draw zero out of billions to be at work already.
        let status = &refresher.status()[0];
        assert_eq!((status.refreshes(), status.next()), (u64::from(tick) - 1, Some(due)));
        clock.advance(HOUR / 2);
        done(&refresher, &clock).await;
        let status = &refresher.status()[0];
        assert_eq!(status.refreshes(), u64::from(tick));
        assert_eq!(status.last_refreshed().unwrap().started(), due + HOUR / 2);
        assert_eq!(status.next(), Some(due + HOUR));
    }
}

/// On the view `by_region`, through a plain one, stands the materialized view `total`.
const ABOVE: &str = "
    CREATE VIEW regions AS SELECT * FROM by_region;
    CREATE MATERIALIZED VIEW total AS SELECT sum(orders)::int8 AS orders FROM regions;
    CREATE UNIQUE INDEX ON total (orders);";

#[tokio::test]
async fn what_a_view_reads_is_refreshed_before_it() {
    let (database, client) = shop().await;
    client.batch_execute(ABOVE).await.unwrap();
    let clock = ManualClock::starting_at(midnight());
    let asked = Heard::default();
    let refresher = Refresher::builder(database.pool(4))
        .view(hourly("total"))
        .view(hourly("by_region").lock_timeout(Duration::from_secs(60)))
        .before_refresh(asked.hook("asked"))
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    for tick in 1..=3 {
        let insert = "INSERT INTO orders SELECT max(id) + 1, 'eu', 1 FROM orders";
        client.batch_execute(insert).await.unwrap();
        let orders = Held::table(&database, "orders").await;
        clock.advance(HOUR);
        until_async("the lower one is refreshing", async || refreshing(&client).await == 1).await;
        until("the upper one waits for it", || {
            refresher.status()[0].activity() == Activity::WaitingForDependencies
        })
        .await;
        orders.release().await;
        done(&refresher, &clock).await;
        assert_eq!(number(&client, "SELECT orders FROM total").await, 10 + tick);
    }
    assert_eq!(asked.views(), ["by_region", "total"].repeat(3));
}

#[tokio::test]
async fn a_lower_view_that_fails_does_not_keep_the_upper_from_being_refreshed() {
    let (database, client) = shop().await;
    client.batch_execute(ABOVE).await.unwrap();
    client.batch_execute("DROP INDEX by_region_region_idx").await.unwrap();
    let clock = ManualClock::starting_at(midnight());
    let refresher = Refresher::builder(database.pool(4))
        .view(hourly("by_region"))
        .view(hourly("total"))
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    for tick in 1..=2 {
        clock.advance(HOUR);
        done(&refresher, &clock).await;
        let [lower, upper] = &refresher.status()[..] else { panic!("there are two") };
        assert_eq!((lower.refreshes(), lower.failures_in_a_row()), (0, tick));
        assert_eq!(lower.last_error().unwrap().kind(), RefreshErrorKind::NoUniqueIndex);
        assert_eq!((upper.refreshes(), upper.failures_in_a_row()), (u64::from(tick), 0));
    }
}

#[tokio::test]
async fn as_many_views_are_refreshed_at_a_time_as_may_be() {
    let (database, client) = shop().await;
    for table in ["a", "b", "c"] {
        let sql = format!(
            "CREATE TABLE {table} (id int); CREATE MATERIALIZED VIEW of_{table} AS TABLE {table};
             CREATE UNIQUE INDEX ON of_{table} (id)"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    let clock = ManualClock::starting_at(midnight());
    let asked = Heard::default();
    let view = |view| hourly(view).lock_timeout(Duration::from_secs(60));
    let refresher = Refresher::builder(database.pool(5))
        .view(view("of_a"))
        .view(view("of_b"))
        .view(view("of_c"))
        .concurrent_refreshes(2)
        .before_refresh(asked.hook("asked"))
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    let held = Held::table(&database, "a, b, c").await;
    clock.advance(HOUR);
    until_async("two are refreshing", async || refreshing(&client).await >= 2).await;
    let active = || {
        let status = refresher.status();
        status.iter().filter(|view| view.activity() == Activity::Refreshing).count()
    };
    // As many chances for the third to begin as it would ever need.
    for _ in 0..50 {
        assert_eq!((refreshing(&client).await, active()), (2, 2));
    }
    assert_eq!(asked.all().len(), 2);
    held.release().await;
    done(&refresher, &clock).await;
    assert_eq!(refresher.status().iter().map(|view| view.refreshes()).sum::<u64>(), 3);
    let mut views = asked.views();
    views.sort();
    assert_eq!(views, ["of_a", "of_b", "of_c"]);
}
