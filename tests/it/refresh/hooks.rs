//! Do hooks receive their events, and can they harm nothing?

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::Origin;
use larder::refresh::{
    FindingKind, MaterializedView, RefreshErrorKind, RefreshHook, RefreshOutcome, Refresher,
    SkipReason, Veto,
};
use larder::testing::ManualClock;
use tokio::sync::Semaphore;

use super::basics::{refresher, shop};
use super::{HOUR, Heard, Held, done, midnight, number};
use crate::support::{local, until};

const INSERT: &str = "INSERT INTO orders SELECT max(id) + 1, 'eu', 1 FROM orders";

#[tokio::test]
async fn a_veto_keeps_a_view_as_it_is_and_is_told_with_its_reason() {
    let (database, client) = shop().await;
    let clock = ManualClock::starting_at(midnight());
    let (behind, after, failed) = (Heard::default(), Heard::default(), Heard::default());
    let refresher = Refresher::builder(database.pool(2))
        .view(MaterializedView::new("by_region").every(HOUR))
        .before_refresh(RefreshHook::new("night", async |_| Err(Veto::because("at night").into())))
        .before_refresh(behind.hook("behind"))
        .after_refresh(after.hook("after"))
        .on_error(failed.hook("failed"))
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    let vetoed = RefreshOutcome::Skipped(SkipReason::Vetoed("at night".to_owned()));
    client.batch_execute(INSERT).await.unwrap();
    let report = refresher.refresh_now("by_region").await.unwrap();
    assert_eq!(report.outcome(), &vetoed);
    assert_eq!(report.to_string(), "by_region: not refreshed: a hook vetoed it: at night");
    clock.advance(HOUR);
    done(&refresher, &clock).await;
    let status = &refresher.status()[0];
    assert_eq!(status.last().unwrap().outcome(), &vetoed);
    assert_eq!((status.refreshes(), status.failures_in_a_row()), (0, 0));
    assert_eq!(status.hook_failures(), 0);
    assert_eq!(number(&client, "SELECT sum(orders)::int8 FROM by_region").await, 10);
    refresher.shutdown().await;
    // All that there was to tell has been told.
    assert!(behind.all().is_empty() && after.all().is_empty() && failed.all().is_empty());
}

#[tokio::test]
async fn a_hook_that_fails_before_a_refresh_is_reported_and_the_refresh_goes_on() {
    let (database, client) = shop().await;
    let (first, last) = (Heard::default(), Heard::default());
    let order = Arc::new(Mutex::new(vec![]));
    let broken = |name: &'static str, what: fn() -> Result<(), larder::refresh::HookError>| {
        let order = order.clone();
        RefreshHook::new(name, move |_| {
            order.lock().unwrap().push(name);
            async move { what() }
        })
    };
    let refresher = refresher(&database, &["by_region"])
        .before_refresh(first.hook("first"))
        .before_refresh(broken("fails", || Err("no such channel".into())))
        .before_refresh(broken("panics", || panic!("what now?")))
        .before_refresh(
            RefreshHook::new("hangs", async |_| pending().await).timeout(Duration::from_millis(20)),
        )
        .before_refresh(broken("works", || Ok(())))
        .before_refresh(last.hook("last"))
        .start()
        .await
        .unwrap();
    client.batch_execute(INSERT).await.unwrap();
    assert!(refresher.refresh_now("by_region").await.unwrap().changed());
    let status = &refresher.status()[0];
    assert_eq!((status.refreshes(), status.hook_failures()), (1, 3));
    assert_eq!(
        status.last_hook_failure(),
        Some("the hook \"hangs\" had not ended after its `timeout` of 20ms and was given up")
    );
    assert_eq!(*order.lock().unwrap(), ["fails", "panics", "works"]);
    assert_eq!((first.views().len(), last.views().len()), (1, 1));
    let event = &first.all()[0];
    assert!(event.report().is_none() && event.error().is_none() && !event.changed());
}

#[tokio::test]
async fn hooks_after_a_refresh_see_its_rows_one_event_after_the_other() {
    let (database, client) = shop().await;
    let said = Arc::new(Mutex::new(vec![]));
    let says = |name: &'static str| {
        let said = said.clone();
        RefreshHook::new(name, move |event| {
            let said = said.clone();
            async move {
                let rows = event.rows().unwrap();
                tokio::task::yield_now().await;
                said.lock().unwrap().push((name, rows.inserted, rows.deleted, event.changed()));
                Ok(())
            }
        })
    };
    let refresher = refresher(&database, &["by_region"])
        .after_refresh(says("one"))
        .after_refresh(RefreshHook::new("fails", async |_| Err("it does".into())))
        .after_refresh(says("two"))
        .start()
        .await
        .unwrap();
    client.batch_execute("INSERT INTO orders VALUES (11, 'asia', 1)").await.unwrap();
    refresher.refresh_now("by_region").await.unwrap();
    refresher.refresh_now("by_region").await.unwrap();
    client.batch_execute("DELETE FROM orders WHERE region = 'asia'").await.unwrap();
    let report = refresher.refresh_now("by_region").await.unwrap();
    until("all have been told", || said.lock().unwrap().len() == 6).await;
    let expected = [
        ("one", 1, 0, true),
        ("two", 1, 0, true),
        ("one", 0, 0, false),
        ("two", 0, 0, false),
        ("one", 0, 1, true),
        ("two", 0, 1, true),
    ];
    assert_eq!(*said.lock().unwrap(), expected);
    let rows = report.rows().unwrap();
    assert_eq!((rows.inserted, rows.deleted), (0, 1));
    let status = &refresher.status()[0];
    assert_eq!(status.hook_failures(), 3);
    assert_eq!(status.last_hook_failure(), Some("the hook \"fails\" failed: it does"));
}

#[tokio::test]
async fn a_hook_for_errors_is_told_what_to_do_and_how_often_it_failed() {
    let (database, client) = shop().await;
    client.batch_execute("DROP INDEX by_region_region_idx; ANALYZE").await.unwrap();
    let (failed, after) = (Heard::default(), Heard::default());
    let refresher = refresher(&database, &["by_region"])
        .on_error(failed.hook("failed"))
        .after_refresh(after.hook("after"))
        .start()
        .await
        .unwrap();
    for failures in 1..=2 {
        let error = refresher.refresh_now("by_region").await.unwrap_err();
        let event = failed.events(failures).await.pop().unwrap();
        let told = event.error().unwrap();
        assert_eq!(told.kind(), RefreshErrorKind::NoUniqueIndex);
        assert_eq!(told.to_string(), error.to_string());
        assert_eq!(event.failures_in_a_row(), failures as u32);
        assert_eq!(refresher.status()[0].failures_in_a_row(), failures as u32);
        assert!(event.report().is_none() && event.rows().is_none() && !event.changed());
    }
    let error = failed.all().pop().unwrap().error().unwrap().clone();
    let [finding] = error.findings() else { panic!("one thing is wrong: {error}") };
    assert_eq!(finding.kind(), FindingKind::NoUniqueIndex);
    // What it says to do is what helps.
    for sql in finding.mending_sql() {
        client.batch_execute(sql).await.unwrap();
    }
    assert!(after.all().is_empty());
    refresher.refresh_now("by_region").await.unwrap();
    let status = &refresher.status()[0];
    assert_eq!((status.failures_in_a_row(), status.refreshes()), (0, 1));
    assert!(status.last_error().is_none());
    assert_eq!(after.events(1).await[0].failures_in_a_row(), 0);
    assert_eq!(failed.all().len(), 2);
}

#[tokio::test]
async fn of_a_tick_that_fails_again_and_again_a_hook_is_told_once() {
    let (database, _client) = shop().await;
    let clock = ManualClock::starting_at(midnight());
    let (failed, after) = (Heard::default(), Heard::default());
    let refresher = Refresher::builder(database.pool(2))
        .view(
            MaterializedView::new("by_region").every(HOUR).lock_timeout(Duration::from_millis(10)),
        )
        .on_error(failed.hook("failed"))
        .after_refresh(after.hook("after"))
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    for tick in 1..=2 {
        let orders = Held::table(&database, "orders").await;
        clock.advance(HOUR);
        until("it has been tried three times", || refresher.status()[0].failures_in_a_row() >= 3)
            .await;
        orders.release().await;
        done(&refresher, &clock).await;
        assert_eq!(refresher.status()[0].failures_in_a_row(), 0);
        // It comes after all failures of its tick.
        after.events(tick).await;
        let failed = failed.all();
        assert_eq!(failed.len(), tick);
        assert!(failed.iter().all(|event| event.failures_in_a_row() == 1));
    }
}

#[tokio::test]
async fn a_view_warms_the_cache_when_its_rows_have_changed() {
    let (database, client) = shop().await;
    let cache = local().await;
    let view = MaterializedView::new("by_region");
    let query = cache.query("SELECT orders FROM by_region WHERE region = $1").reads(&view);
    let tag = view.tag();
    let after = Heard::default();
    let refresher = Refresher::builder(database.pool(2))
        .cache(&cache)
        .view(view.warm(&query, ("eu",)))
        .after_refresh(after.hook("after"))
        .start()
        .await
        .unwrap();
    let pool = database.pool(1);
    for changed in 1..=2 {
        client.batch_execute(INSERT).await.unwrap();
        assert!(refresher.refresh_now("by_region").await.unwrap().changed());
        // Behind `warm`, which is done when this one is told.
        after.events(2 * changed - 1).await;
        assert_eq!(cache.stats().loads, changed as u64);
        let answer = query.bind("eu").fetch(&pool).answer().await.unwrap();
        assert_eq!(answer.origin(), Origin::L1);
        assert_eq!(answer.value().row(0).get::<_, i64>("orders"), 5 + changed as i64);

        // Whatever reads it now has to load.
        cache.invalidate([tag.clone()]).await.acknowledged().unwrap();
        assert!(!refresher.refresh_now("by_region").await.unwrap().changed());
        after.events(2 * changed).await;
        assert_eq!(cache.stats().loads, changed as u64);
    }
    assert_eq!(refresher.status()[0].hook_failures(), 0);
}

#[tokio::test]
async fn a_query_is_warmed_under_its_role_and_settings() {
    let (database, client) = shop().await;
    let cache = local().await;
    let view = MaterializedView::new("by_region");
    let sql = "SELECT current_setting('app.tenant') AS tenant FROM by_region WHERE region = $1";
    let query = cache.query(sql).with_setting("app.tenant", "7").reads(&view);
    let after = Heard::default();
    let refresher = Refresher::builder(database.pool(2))
        .cache(&cache)
        .view(view.warm(&query, ("eu",)))
        .after_refresh(after.hook("after"))
        .start()
        .await
        .unwrap();
    client.batch_execute(INSERT).await.unwrap();
    assert!(refresher.refresh_now("by_region").await.unwrap().changed());
    after.events(1).await;
    // Whoever sets the same for a call finds it.
    let (query, pool) = (cache.query(sql), database.pool(1));
    let read = query.bind("eu").with_setting("App.Tenant", "7").fetch(&pool);
    assert_eq!(read.await.unwrap().row(0).get::<_, &str>("tenant"), "7");
    assert_eq!((cache.stats().loads, cache.stats().l1_hits), (1, 1));
}

#[tokio::test]
async fn what_cannot_be_warmed_is_reported_and_keeps_nothing_else_from_being_warmed() {
    let (database, client) = shop().await;
    let cache = local().await;
    let view = MaterializedView::new("by_region");
    let wrong = cache.query("SELECT nothing FROM by_region WHERE region = $1").reads(&view);
    let right = cache.query("SELECT orders FROM by_region WHERE region = $1").reads(&view);
    let after = Heard::default();
    let refresher = Refresher::builder(database.pool(2))
        .cache(&cache)
        .view(view.warm(&wrong, ("eu",)).warm(&right, ("eu",)))
        .after_refresh(after.hook("after"))
        .start()
        .await
        .unwrap();
    client.batch_execute(INSERT).await.unwrap();
    assert!(refresher.refresh_now("by_region").await.unwrap().changed());
    after.events(1).await;
    let status = &refresher.status()[0];
    assert_eq!((status.hook_failures(), status.failures_in_a_row()), (1, 0));
    let failure = status.last_hook_failure().unwrap();
    assert!(failure.starts_with("the hook \"warm\" failed: "), "{failure}");
    assert!(failure.contains("column \"nothing\" does not exist"), "{failure}");
    let answer = right.bind("eu").fetch(&database.pool(1)).answer().await.unwrap();
    assert_eq!(answer.origin(), Origin::L1);
}

#[tokio::test]
async fn a_hook_that_never_returns_delays_no_refresh() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE MATERIALIZED VIEW other AS SELECT 1 AS one; CREATE UNIQUE INDEX ON other (one)",
        )
        .await
        .unwrap();
    let clock = ManualClock::starting_at(midnight());
    let hangs = RefreshHook::new("hangs", async |_| pending().await).timeout(10_000 * HOUR);
    let refresher = Refresher::builder(database.pool(4))
        .view(MaterializedView::new("by_region").every(HOUR))
        .view(MaterializedView::new("other").every(HOUR))
        .after_refresh(hangs)
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    for tick in 1..=5 {
        clock.advance(HOUR);
        done(&refresher, &clock).await;
        for view in refresher.status() {
            assert_eq!((view.refreshes(), view.hook_failures()), (tick, 0));
        }
    }
}

#[tokio::test]
async fn events_that_nobody_keeps_up_with_are_left_out_and_counted() {
    let (database, _client) = shop().await;
    let (heard, gate) = (Heard::default(), Arc::new(Semaphore::new(0)));
    let slow = RefreshHook::new("slow", {
        let gate = gate.clone();
        move |_| {
            let gate = gate.clone();
            async move {
                gate.acquire().await?.forget();
                Ok(())
            }
        }
    });
    let refresher = refresher(&database, &["by_region"])
        .after_refresh(heard.hook("heard"))
        .after_refresh(slow.timeout(HOUR))
        .start()
        .await
        .unwrap();
    // One that it is busy with and sixteen that wait.
    refresher.refresh_now("by_region").await.unwrap();
    heard.events(1).await;
    // Neither of the two hooks hears of those that are left out.
    for left_out in [0_u64; 16].into_iter().chain([2, 4, 6]) {
        refresher.refresh_now("by_region").await.unwrap();
        assert_eq!(refresher.status()[0].hook_failures(), left_out);
    }
    let status = &refresher.status()[0];
    assert_eq!((status.refreshes(), status.failures_in_a_row()), (20, 0));
    assert_eq!(
        status.last_hook_failure(),
        Some("the hook \"slow\" was not told of an event: 16 others wait")
    );
    gate.add_permits(100);
    refresher.shutdown().await;
    assert_eq!(heard.all().len(), 17);
}

#[cfg(feature = "webhook")]
#[tokio::test]
async fn a_webhook_posts_what_became_of_each_refresh() {
    use wiremock::matchers::{body_partial_json, header_exists, method, path};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    let (database, client) = shop().await;
    let server = MockServer::start().await;
    let expect = async |json: serde_json::Value| {
        Mock::given(method("POST"))
            .and(path("/refreshes"))
            .and(header_exists("webhook-signature"))
            .and(body_partial_json(json))
            .respond_with(ResponseTemplate::new(204))
            .expect(1)
            .mount(&server)
            .await;
    };
    expect(serde_json::json!({
        "type": "refresh.succeeded",
        "view": "by_region",
        "started_at": "2024-10-04T00:00:00.000Z",
        "rows": {"inserted": 1, "updated": 0, "deleted": 0},
        "changed": true,
        "error": null,
        "failures_in_a_row": 0,
        "process": "worker-7",
    }))
    .await;
    expect(serde_json::json!({
        "type": "refresh.failed",
        "view": "by_region",
        "started_at": "2024-10-04T01:00:00.000Z",
        "rows": null,
        "changed": false,
        "error": {"kind": "no_unique_index", "sqlstate": "55000"},
        "failures_in_a_row": 1,
        "process": "worker-7",
    }))
    .await;
    let webhook = larder::refresh::Webhook::new(&format!("{}/refreshes", server.uri()))
        .unwrap()
        .secret("sixteen bytes or more")
        .unwrap()
        .process("worker-7");
    let clock = ManualClock::starting_at(midnight());
    let refresher = Refresher::builder(database.pool(2))
        .view(MaterializedView::new("by_region"))
        .after_refresh(webhook.clone())
        .on_error(webhook)
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    client.batch_execute("INSERT INTO orders VALUES (11, 'asia', 1)").await.unwrap();
    assert!(refresher.refresh_now("by_region").await.unwrap().changed());
    client.batch_execute("DROP INDEX by_region_region_idx").await.unwrap();
    clock.advance(HOUR);
    refresher.refresh_now("by_region").await.unwrap_err();
    // It lets waiting hooks finish.
    refresher.shutdown().await;
    assert_eq!(refresher.status()[0].last_hook_failure(), None);
    server.verify().await;
}
