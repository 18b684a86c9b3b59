//! What both services are held to, as processes of their own, against a private PostgreSQL and a private
//! Redis that speaks TLS.
//!
//! No scene sleeps: each waits for what it is about, with a deadline.

#![forbid(unsafe_code)]

mod outage;
mod service;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use test_servers::{Authority, Database, OverTls, Postgres, wait_for};
use tokio_postgres::Client;

pub use self::outage::nothing_fails_while_redis_is_away;
pub use self::service::{Reply, Service};

const SCHEMA: &str = include_str!("../../schema.sql");

/// Longer than anything takes on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const REVENUE: &str = "/reports/revenue/eu";
pub const CUSTOMERS: &str = "/reports/customers";
pub const RANKING: &str = "/reports/ranking";

/// The servers of one test, with the schema and a few rows.
pub struct Stage<'a> {
    program: &'a Path,
    pub client: Client,
    database: Database,
    pub redis: OverTls,
    pub postgres: Postgres,
}

impl Stage<'_> {
    /// `None`, said aloud, if Redis was built without TLS.
    pub async fn set(program: &str) -> Option<Stage<'_>> {
        let authority = Authority::new().unwrap();
        let redis = OverTls::start(&authority, false).unwrap()?;
        let postgres = Postgres::start().unwrap();
        let database = postgres.database().await.unwrap();
        let client = database.connect().await.unwrap();
        client.batch_execute(SCHEMA).await.unwrap();
        let rows =
            "INSERT INTO customers (tenant, name) VALUES (7, 'Anna'), (7, 'Bela'), (8, 'Cleo');
                    INSERT INTO orders (tenant, region, cents) VALUES (7, 'eu', 100), (8, 'eu', 5);
                    REFRESH MATERIALIZED VIEW ranking";
        client.batch_execute(rows).await.unwrap();
        Some(Stage { program: Path::new(program), client, database, redis, postgres })
    }

    /// A process of the service that listens.
    pub fn service(&self) -> Service {
        self.service_with(&[])
    }

    pub fn service_with(&self, more: &[(&str, &str)]) -> Service {
        let (database, ca) = (self.database.url(), self.redis.ca());
        let mut variables = vec![
            ("DATABASE_URL", &*database),
            ("REDIS_URL", &self.redis.url),
            ("REDIS_CA", ca.to_str().unwrap()),
            ("TENANTS", r#"{"secret7": 7, "secret8": 8}"#),
            ("ADDRESS", "127.0.0.1:0"),
            ("REFRESH_SECONDS", "3600"),
        ];
        variables.extend(more);
        Service::start(self.program, &variables)
    }
}

fn cents(reply: &Reply) -> i64 {
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json().as_array().unwrap().iter().map(|day| day["cents"].as_i64().unwrap()).sum()
}

fn names(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 200, "{}", reply.body);
    let name = |row: &Value| row["name"].as_str().unwrap().to_owned();
    reply.json().as_array().unwrap().iter().map(name).collect()
}

fn order(cents: i64) -> Value {
    json!({ "region": "eu", "cents": cents })
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let held = wait_for(PATIENCE, || holds().then_some(()));
    assert!(held.is_some(), "not within {PATIENCE:?}: {what}");
}

pub async fn reports_come_from_memory_and_from_redis(program: &str) {
    let Some(stage) = Stage::set(program).await else { return };
    let one = stage.service();
    assert_eq!(one.get(REVENUE, "secret7").origin(), "Loaded");
    let again = one.get(REVENUE, "secret7");
    assert_eq!((again.origin(), cents(&again)), ("L1", 100));
    assert_eq!(one.get(CUSTOMERS, "secret7").origin(), "Loaded");

    // Results are written to Redis after their answers.
    let keys = || stage.redis.redis.command(&["DBSIZE"]).unwrap();
    let other = stage.service();
    until("another process finds the results in Redis", || {
        let found = stage.service().get(CUSTOMERS, "secret7");
        assert_eq!(names(&found), ["Anna", "Bela"]);
        found.origin() == "L2"
    });
    assert_eq!(other.get(CUSTOMERS, "secret7").origin(), "L2", "{} keys in Redis", keys());
    assert_eq!(other.get(CUSTOMERS, "secret7").origin(), "L1");
}

pub async fn an_order_makes_exactly_the_report_of_orders_stale(program: &str) {
    let Some(stage) = Stage::set(program).await else { return };
    let (one, other) = (stage.service(), stage.service());
    for service in [&one, &other] {
        for report in [REVENUE, CUSTOMERS] {
            service.get(report, "secret7");
            assert_eq!(service.get(report, "secret7").origin(), "L1");
        }
    }
    let placed = one.post("/orders", "secret7", &order(11));
    assert_eq!(placed.status, 201, "{}", placed.body);
    assert!(placed.json()["id"].is_i64(), "{}", placed.body);

    let after = one.get(REVENUE, "secret7");
    assert_eq!((after.origin(), cents(&after)), ("Loaded", 111));
    until("the other process has the order", || cents(&other.get(REVENUE, "secret7")) == 111);
    for service in [&one, &other] {
        assert_eq!(service.get(CUSTOMERS, "secret7").origin(), "L1");
    }
}

pub async fn tenants_never_see_each_others_rows(program: &str) {
    let Some(stage) = Stage::set(program).await else { return };
    // Few connections, many requests of both at once, and orders that empty the cache in between.
    let (one, other) = (stage.service(), stage.service());
    std::thread::scope(|scope| {
        for (token, own) in [("secret7", vec!["Anna", "Bela"]), ("secret8", vec!["Cleo"])] {
            for service in [&one, &other] {
                let own = own.clone();
                scope.spawn(move || {
                    for turn in 0..40 {
                        assert_eq!(names(&service.get(CUSTOMERS, token)), own);
                        let cents = cents(&service.get(REVENUE, token));
                        // Those of 7 come in hundreds, and 8 never has that much.
                        match token {
                            "secret7" => assert_eq!(cents % 100, 0),
                            _ => assert!((5..100).contains(&cents), "{cents}"),
                        }
                        if turn % 4 == 0 {
                            let worth = if token == "secret7" { 100 } else { 1 };
                            let placed = service.post("/orders", token, &order(worth));
                            assert_eq!(placed.status, 201, "{}", placed.body);
                        }
                    }
                });
            }
        }
    });
    for service in [&one, &other] {
        until("all orders of 7", || cents(&service.get(REVENUE, "secret7")) == 100 + 20 * 100);
        until("all orders of 8", || cents(&service.get(REVENUE, "secret8")) == 5 + 20);
    }
    for report in [REVENUE, CUSTOMERS] {
        for token in ["", "secret9"] {
            assert_eq!(one.get(report, token).status, 401, "{report} {token}");
        }
    }
    assert_eq!(one.post("/orders", "secret9", &order(1)).status, 401);
}

pub async fn the_ranking_follows_its_view(program: &str) {
    let Some(stage) = Stage::set(program).await else { return };
    let service = stage.service_with(&[("REFRESH_SECONDS", "1")]);
    let orders = || {
        let ranking = service.get(RANKING, "");
        assert_eq!(ranking.status, 200, "{}", ranking.body);
        assert_eq!(ranking.header("content-type"), Some("application/json"));
        ranking.json()[0]["orders"].as_i64().unwrap()
    };
    assert_eq!(orders(), 2);
    assert_eq!(service.post("/orders", "secret8", &order(1)).status, 201);
    until("a refresh brings the order", || orders() == 3);
    // And a refresh by somebody else.
    stage
        .client
        .batch_execute("INSERT INTO orders (tenant, region, cents) VALUES (9, 'eu', 1)")
        .await
        .unwrap();
    stage.client.batch_execute("REFRESH MATERIALIZED VIEW ranking").await.unwrap();
    until("another's refresh is noticed", || orders() == 4);
}

pub async fn metrics_and_health_are_served_on_the_same_port(program: &str) {
    let Some(stage) = Stage::set(program).await else { return };
    let service = stage.service();
    for _ in 0..3 {
        service.get(REVENUE, "secret7");
    }
    service.get(RANKING, "");
    // Counters are up to a second old.
    let wanted = [
        r#",query="revenue",origin="loaded"} 1"#,
        r#",query="revenue",origin="l1"} 2"#,
        r#",query="ranking",origin="loaded"} 1"#,
    ];
    until("the reads are counted", || {
        let scraped = service.get("/metrics", "");
        assert_eq!(scraped.status, 200);
        assert_eq!(scraped.header("content-type"), Some("text/plain; version=0.0.4"));
        let reads = scraped.body.lines().filter(|it| it.starts_with("larder_reads_total{"));
        wanted.iter().all(|end| reads.clone().any(|line| line.ends_with(end)))
    });
    let scraped = service.get("/metrics", "").body;
    assert!(!scraped.contains("secret7") && !scraped.contains("Anna"), "{scraped}");
    assert_eq!(service.get("/health", "").status, 200);
}

pub async fn failures_have_their_status(program: &str) {
    let Some(mut stage) = Stage::set(program).await else { return };
    let service = stage.service();
    let refused = service.post("/orders", "secret7", &order(-1));
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert!(!refused.body.contains("-1"), "{}", refused.body);
    let wrong = service.post("/orders", "secret7", &json!({ "region": "eu" }));
    assert_eq!(wrong.status, 422, "{}", wrong.body);
    assert_eq!(service.get("/reports/none", "secret7").status, 404);
    assert_eq!(cents(&service.get(REVENUE, "secret7")), 100);

    // Without PostgreSQL what is in memory is served, and nothing else.
    stage.postgres.stop().unwrap();
    let held = service.get(REVENUE, "secret7");
    assert_eq!((held.origin(), cents(&held)), ("L1", 100));
    assert_eq!(service.get(CUSTOMERS, "secret7").status, 503);
    assert_eq!(service.post("/orders", "secret7", &order(1)).status, 503);
    assert_eq!(service.get("/health", "").status, 503);
    stage.postgres.restart().unwrap();
    until("the service is well again", || service.get("/health", "").status == 200);
    assert_eq!(names(&service.get(CUSTOMERS, "secret7")), ["Anna", "Bela"]);
}

pub async fn a_request_under_way_is_answered_before_the_end(program: &str) {
    let Some(stage) = Stage::set(program).await else { return };
    let mut service = stage.service();
    stage.client.batch_execute("BEGIN; LOCK TABLE customers").await.unwrap();
    let slow = service.begin(CUSTOMERS, "secret7");
    let waits =
        "SELECT count(*) FROM pg_locks WHERE relation = 'customers'::regclass AND NOT granted";
    let deadline = std::time::Instant::now() + PATIENCE;
    while stage.client.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(std::time::Instant::now() < deadline, "the request does not reach PostgreSQL");
    }
    service.terminate();
    until("nobody else is let in", || !service.is_listening());
    stage.client.batch_execute("COMMIT").await.unwrap();
    let reply = slow.read().unwrap();
    assert_eq!(names(&reply), ["Anna", "Bela"]);
    service.ends_well();
}
