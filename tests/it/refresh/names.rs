//! Names and settings that are unusual or invalid.

use std::time::Duration;

use larder::refresh::{FindingKind, MaterializedView, RefreshErrorKind, Refresher};

use super::basics::{refresher, shop};

#[tokio::test]
async fn odd_names_are_resolved_and_quoted_by_postgresql() {
    let (database, client) = shop().await;
    client.batch_execute("CREATE SCHEMA \"My Reports\"").await.unwrap();
    let names = [
        "\"Daily Revenue\"",
        "\"say \"\"hello\"\"\"",
        "\"My Reports\".\"Größe; DROP TABLE orders\"",
        "\"My Reports\".\"it's\"",
        "\"select\"",
    ];
    for name in names {
        let sql = format!(
            "CREATE MATERIALIZED VIEW {name} AS SELECT id FROM orders;
             CREATE UNIQUE INDEX ON {name} (id);"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    let refresher = refresher(&database, &names).start().await.unwrap();
    client.batch_execute("INSERT INTO orders VALUES (30, 'eu', 1)").await.unwrap();
    for name in names {
        let rows = refresher.refresh_now(name).await.unwrap().rows().unwrap();
        assert_eq!((rows.inserted, rows.deleted), (1, 0), "{name}");
    }
    assert!(refresher.check().await.unwrap().is_ok());
}

#[tokio::test]
async fn an_injection_executes_nothing() {
    let (database, client) = shop().await;
    let names = [
        "by_region; DROP TABLE orders",
        "by_region\"; DROP TABLE orders; --",
        "by_region' OR '1'='1",
        "(SELECT 1)",
        "a.b.c.d.e",
        "..",
        "\"",
        "by_region\0",
        "",
        "   ",
    ];
    for name in names {
        let error = match refresher(&database, &[name]).start().await {
            Err(error) => error.to_string(),
            // A name that could be one, of nothing.
            Ok(refresher) => {
                let error = refresher.refresh_now(name).await.unwrap_err();
                assert_eq!(error.kind(), RefreshErrorKind::Missing);
                error.to_string()
            }
        };
        // As SQL writes it, unless that would be several lines or none.
        let shown = match name {
            "" | "   " | "by_region\0" => format!("{name:?}"),
            name => format!("view {name}"),
        };
        assert!(error.contains(&shown), "{error}");
    }
    let left: i64 = client.query_one("SELECT count(*) FROM orders", &[]).await.unwrap().get(0);
    assert_eq!(left, 10);
}

#[tokio::test]
async fn what_is_no_materialized_view_is_refused_at_the_start() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE VIEW plain_view AS SELECT 1 AS one;
             CREATE TABLE parted (id int) PARTITION BY RANGE (id);",
        )
        .await
        .unwrap();
    for (name, what) in [
        ("orders", "public.orders is a table"),
        ("plain_view", "public.plain_view is a plain view"),
        ("parted", "public.parted is a partitioned table"),
        ("orders_pkey", "public.orders_pkey is an index"),
    ] {
        let error = refresher(&database, &["by_region", name]).start().await.unwrap_err();
        assert_eq!(error.view(), Some(name));
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[tokio::test]
async fn a_view_that_is_missing_is_found_when_it_is_there() {
    let (database, client) = shop().await;
    let later = MaterializedView::new("later").created_later();
    let refresher = refresher(&database, &["By_Region"]).view(later).start().await.unwrap();
    let report = refresher.check().await.unwrap();
    let [folded, missing] = report.views() else { panic!("{report}") };
    // Unquoted, upper case is folded.
    assert!(folded.is_ok() && folded.findings().is_empty(), "{report}");
    assert_eq!(missing.findings()[0].kind(), FindingKind::Missing);
    client
        .batch_execute(
            "CREATE MATERIALIZED VIEW later AS SELECT id FROM orders;
             CREATE UNIQUE INDEX ON later (id);",
        )
        .await
        .unwrap();
    assert!(refresher.check().await.unwrap().is_ok());
    assert!(refresher.refresh_now("later").await.unwrap().rows().is_some());
    let error = refresher.refresh_now("another").await.unwrap_err();
    assert!(error.to_string().contains("none of this refresher's views: By_Region, later"));
}

#[tokio::test]
async fn a_name_that_needs_quotes_is_guessed() {
    let (database, client) = shop().await;
    let sql = "CREATE MATERIALIZED VIEW \"DailyRevenue\" AS SELECT id FROM orders";
    client.batch_execute(sql).await.unwrap();
    let later = MaterializedView::new("DailyRevenue").created_later();
    let refresher = refresher(&database, &[]).view(later).start().await.unwrap();
    let error = refresher.refresh_now("DailyRevenue").await.unwrap_err().to_string();
    assert!(error.contains("did you mean public.\"DailyRevenue\"?"), "{error}");
}

#[tokio::test]
async fn a_view_that_does_not_exist_is_an_error_at_the_start() {
    let (database, _client) = shop().await;
    for name in ["by_regoin", "elsewhere.by_region", "\"BY REGION\""] {
        let error = refresher(&database, &["by_region", name]).start().await.unwrap_err();
        assert_eq!(error.view(), Some(name));
        let text = error.to_string();
        assert!(text.starts_with("the refresher cannot be started: "), "{text}");
        assert!(text.contains("say so with `created_later` on the view"), "{text}");
    }
}

#[tokio::test]
async fn wrong_settings_are_named_before_anything_runs() {
    let (database, client) = shop().await;
    let view = || MaterializedView::new("by_region");
    let seconds = Duration::from_secs;
    let wrong = [
        (view().every(Duration::ZERO), "every"),
        (view().every(Duration::MAX), "every"),
        (view().lock_timeout(Duration::ZERO), "lock_timeout"),
        (view().statement_timeout(Duration::MAX), "statement_timeout"),
        (view().jitter(seconds(1)), "jitter"),
        (view().every(seconds(5)).jitter(seconds(5)), "jitter"),
        #[cfg(feature = "cron")]
        (view().cron("every now and then"), "cron"),
        #[cfg(feature = "cron")]
        (view().cron("61 * * * *"), "cron"),
        #[cfg(feature = "cron")]
        (view().cron("0 0 30 2 *"), "cron"),
        #[cfg(feature = "cron")]
        (view().cron("0 * * * *").time_zone("Middle/Earth"), "time_zone"),
        #[cfg(feature = "cron")]
        (view().every(seconds(5)).time_zone("Europe/Berlin"), "time_zone"),
    ];
    for (view, setting) in wrong {
        let error = Refresher::builder(database.pool(1)).view(view).start().await.unwrap_err();
        assert_eq!(error.setting(), Some(setting), "{error}");
        assert_eq!(error.view(), Some("by_region"));
        assert!(error.to_string().contains("view by_region"), "{error}");
    }
    let builder = || Refresher::builder(database.pool(1));
    let wrong = [
        (builder(), "view"),
        (builder().view(view()).view(view()), "view"),
        (builder().view(view()).view(MaterializedView::new("public.by_region")), "view"),
        (builder().view(view()).concurrent_refreshes(0), "concurrent_refreshes"),
        (builder().view(view()).poll(Duration::ZERO), "poll"),
    ];
    for (builder, setting) in wrong {
        let error = builder.start().await.unwrap_err();
        assert_eq!(error.setting(), Some(setting), "{error}");
    }
    let refreshed =
        "SELECT n_tup_ins + n_tup_del FROM pg_stat_user_tables WHERE relname = 'orders'";
    let writes: i64 = client.query_one(refreshed, &[]).await.unwrap().get(0);
    assert!(writes <= 10);
}
