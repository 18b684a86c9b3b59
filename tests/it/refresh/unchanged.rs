//! Is a refresh skipped if nothing that the view reads was written, and only then?

use std::time::{Duration, SystemTime};

use larder::refresh::{
    FindingKind, MaterializedView, RefreshOutcome, Refresher, SkipReason, ViewStatus,
};
use larder::testing::ManualClock;
use tokio_postgres::Client;

use super::basics::shop;
use super::order::tower;
use crate::servers::{Database, Postgres, skipped};
use crate::support::until;

pub(super) const TICK: Duration = Duration::from_secs(60);

/// A refresher whose ticks are a minute apart, by a clock of the test's.
pub(super) async fn ticking(
    database: &Database,
    views: impl IntoIterator<Item = MaterializedView>,
) -> (Refresher, ManualClock) {
    let clock = ManualClock::starting_at(SystemTime::UNIX_EPOCH + TICK * 1_000);
    // Looks for refreshes by others would leave sessions that were busy a moment ago.
    let hour = Duration::from_secs(3600);
    let builder = Refresher::builder(database.pool(4)).clock(clock.clone()).poll(hour);
    let views = views.into_iter().map(|view| view.every(TICK).skip_unchanged());
    let builder = views.fold(builder, |builder, view| builder.view(view));
    (builder.start().await.unwrap(), clock)
}

fn named(views: &[&str]) -> Vec<MaterializedView> {
    views.iter().map(|name| MaterializedView::new(*name)).collect()
}

/// Whether the server is too old for `skip_unchanged`, which is said.
pub(super) async fn cannot_count() -> bool {
    let client = crate::support::database().await.connect().await.unwrap();
    let sql = "SELECT current_setting('server_version_num')::int4 < 150000";
    let is_old = client.query_one(sql, &[]).await.unwrap().get(0);
    if is_old {
        skipped("before PostgreSQL 15 nobody can tell whether all writes have been counted");
    }
    is_old
}

/// Lets a tick come and waits until all views are done with it.
pub(super) async fn tick(refresher: &Refresher, clock: &ManualClock) -> Vec<RefreshOutcome> {
    clock.advance(TICK);
    let now = clock.wall();
    let is_done = |status: &ViewStatus| status.next().is_some_and(|next| next > now);
    until("the tick is done", || refresher.status().iter().all(is_done)).await;
    let outcome = |status: &ViewStatus| {
        assert_eq!(status.failures_in_a_row(), 0, "{status}");
        status.last().unwrap().outcome().clone()
    };
    refresher.status().iter().map(outcome).collect()
}

pub(super) fn is_refreshed(outcome: &RefreshOutcome, with_changes: bool) -> bool {
    matches!(outcome, RefreshOutcome::Refreshed(rows) if rows.any() == with_changes)
}

pub(super) const UNCHANGED: RefreshOutcome = RefreshOutcome::Skipped(SkipReason::Unchanged);

#[tokio::test]
async fn dependents_are_left_out_when_nothing_changed_below() {
    if cannot_count().await {
        return;
    }
    let (database, client) = tower().await;
    let (refresher, clock) = ticking(&database, named(&["top", "doubled", "by_region"])).await;
    client.batch_execute("INSERT INTO orders VALUES (100, 'eu', 5)").await.unwrap();
    // The first time, nobody knows what they were made of. Changes go up in one tick.
    let first = tick(&refresher, &clock).await;
    assert!(first.iter().all(|outcome| is_refreshed(outcome, true)), "{first:?}");
    // A write that changes no row of the view at the bottom.
    client.batch_execute("UPDATE orders SET amount = amount WHERE id = 100").await.unwrap();
    let [top, doubled, bottom] = &tick(&refresher, &clock).await[..] else { panic!() };
    assert!(is_refreshed(bottom, false), "{bottom}");
    assert_eq!((top, doubled), (&UNCHANGED, &UNCHANGED));
    // And one that does.
    client.batch_execute("UPDATE orders SET amount = 6 WHERE id = 100").await.unwrap();
    let third = tick(&refresher, &clock).await;
    assert!(third.iter().all(|outcome| is_refreshed(outcome, true)), "{third:?}");
}

#[tokio::test]
async fn a_write_that_a_busy_session_has_not_reported_is_not_missed() {
    let (database, client) = shop().await;
    let (refresher, clock) = ticking(&database, named(&["by_region"])).await;
    tick(&refresher, &clock).await;
    // The second write comes too soon after the first to be reported, and then the session is busy
    // for longer than anybody waits.
    client.batch_execute("INSERT INTO orders VALUES (100, 'eu', 1)").await.unwrap();
    tick(&refresher, &clock).await;
    client.batch_execute("INSERT INTO orders VALUES (101, 'eu', 1)").await.unwrap();
    let busy = client.cancel_token();
    let sleeps = tokio::spawn(async move {
        let _ = client.batch_execute("SELECT pg_sleep(60)").await;
        client
    });
    tick(&refresher, &clock).await;
    busy.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let client = sleeps.await.unwrap();
    let rows = "SELECT (SELECT sum(orders)::int8 FROM by_region), count(*) FROM orders";
    let row = client.query_one(rows, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), row.get::<_, i64>(1));
}

#[tokio::test]
async fn a_truncate_and_what_a_crash_has_hidden_are_not_missed() {
    if cannot_count().await {
        return;
    }
    let mut postgres = Postgres::start().unwrap();
    let database = postgres.database().await.unwrap();
    let run = async |database: &Database, sql: &str| {
        database.connect().await.unwrap().batch_execute(sql).await.unwrap();
    };
    run(&database, super::basics::SCHEMA).await;
    // Counters begin anew, and say nothing of the rows that are there.
    postgres.crash().unwrap();
    postgres.restart().unwrap();
    let (refresher, clock) = ticking(&database, named(&["by_region"])).await;
    let [first] = &tick(&refresher, &clock).await[..] else { panic!() };
    assert!(is_refreshed(first, false), "{first}");
    // Counted, and forgotten.
    run(&database, "INSERT INTO orders VALUES (100, 'asia', 1)").await;
    postgres.crash().unwrap();
    postgres.restart().unwrap();
    let [second] = &tick(&refresher, &clock).await[..] else { panic!() };
    assert!(is_refreshed(second, true), "{second}");
    // Not counted at all.
    run(&database, "TRUNCATE orders").await;
    let [third] = &tick(&refresher, &clock).await[..] else { panic!() };
    assert!(is_refreshed(third, true), "{third}");
    let fourth = tick(&refresher, &clock).await;
    assert_eq!(fourth, [UNCHANGED]);
}

#[tokio::test]
async fn what_cannot_be_traced_is_always_refreshed_and_a_finding() {
    if cannot_count().await {
        return;
    }
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE FUNCTION mine() RETURNS int LANGUAGE sql STABLE AS 'SELECT count(*)::int FROM public.orders';
             CREATE FUNCTION pure(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
             CREATE TABLE events (id int PRIMARY KEY, at timestamptz NOT NULL, kind text);
             CREATE TABLE watched (id int PRIMARY KEY, tables regclass[]);
             CREATE VIEW lately AS SELECT id FROM events WHERE at > now() - interval '1 day';",
        )
        .await
        .unwrap();
    let traced = [
        ("t1", "SELECT id, date_trunc('day', at) AS day, to_char(at, 'YYYY') AS y FROM events"),
        (
            "t2",
            "SELECT id, pure(id), upper(kind), age(at, at), at::date, at AT TIME ZONE 'UTC' FROM events",
        ),
        (
            "t3",
            "SELECT id, at + interval '1 day' AS next, at < date '2026-01-01' AS old FROM events",
        ),
        ("t4", "SELECT id, row_number() OVER (ORDER BY at), kind || id AS both FROM events"),
        (
            "t5",
            "SELECT min(id) AS id, max(at::date::text) AS day, max(to_tsvector('english', kind)::text) AS w,
               count(DISTINCT kind), string_agg(kind, ','), jsonb_agg(kind) FROM events",
        ),
    ];
    let untraced = [
        ("u1", "SELECT id, now() FROM events", "now()"),
        ("u2", "SELECT id FROM lately", "now()"),
        ("u3", "SELECT id FROM events WHERE at > CURRENT_DATE", "CURRENT_DATE"),
        ("u4", "SELECT id, random() FROM events", "random()"),
        ("u5", "SELECT id, mine() FROM events", "mine()"),
        ("u6", "SELECT id, age(at) FROM events", "age("),
        ("u7", "SELECT oid::int AS id FROM pg_class", "pg_class"),
        ("u8", "SELECT id FROM events TABLESAMPLE SYSTEM (50)", "TABLESAMPLE"),
        ("u9", "SELECT id, current_setting('TimeZone') FROM events", "current_setting("),
        ("u11", "SELECT id, kind::date AS day FROM events", "'now'"),
        ("u12", "SELECT id, kind::text[]::date[] AS days FROM events", "'now'"),
        ("u13", "SELECT id, 'events'::regclass::text AS name FROM events", "renamed"),
        ("u14", "SELECT id, tableoid::regclass AS name FROM events", "renamed"),
        ("u15", "SELECT id, ARRAY['events'::regclass]::text AS names FROM events", "renamed"),
        ("u16", "SELECT id, row_to_json(w)::text AS names FROM watched w", "renamed"),
        ("u10", "SELECT 1 AS id FROM events WHERE EXISTS (SELECT FROM lately) LIMIT 1", "now()"),
    ];
    let all = traced.iter().copied().chain(untraced.iter().map(|(name, sql, _)| (*name, *sql)));
    for (name, sql) in all {
        let sql = format!(
            "CREATE MATERIALIZED VIEW {name} AS {sql}; CREATE UNIQUE INDEX ON {name} (id);"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    let names: Vec<&str> =
        traced.iter().map(|it| it.0).chain(untraced.iter().map(|it| it.0)).collect();
    let (refresher, clock) = ticking(&database, named(&names)).await;
    let report = refresher.check().await.unwrap();
    for (view, (name, sql)) in report.views().iter().zip(traced) {
        assert_eq!((view.view(), view.findings().len()), (name, 0), "{sql}: {view}");
    }
    for (view, (name, sql, culprit)) in report.views()[traced.len()..].iter().zip(untraced) {
        let [finding] = view.findings() else { panic!("{sql}: {view}") };
        assert_eq!((view.view(), finding.kind()), (name, FindingKind::Untraceable));
        assert!(finding.message().contains(culprit), "{finding}");
    }
    for _ in 0..2 {
        tick(&refresher, &clock).await;
    }
    let status = refresher.status();
    for view in &status[traced.len()..] {
        assert_eq!(view.refreshes(), 2, "{view}");
    }
}

#[tokio::test]
async fn a_role_that_cannot_see_who_owes_a_report_always_refreshes() {
    let (database, client) = shop().await;
    let role = format!("blind_{}", database.name());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; ALTER MATERIALIZED VIEW by_region OWNER TO {role};
             GRANT SELECT ON orders TO {role}; GRANT CREATE ON SCHEMA public TO {role}"
        ))
        .await
        .unwrap();
    let (refresher, clock) = ticking(&database.as_role(&role), named(&["by_region"])).await;
    for _ in 0..2 {
        let [outcome] = &tick(&refresher, &clock).await[..] else { panic!() };
        assert!(is_refreshed(outcome, false), "{outcome}");
    }
    refresher.shutdown().await;
    client.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.unwrap();
}

/// A bystander's session that does something at random, and how it leaves.
async fn meddle(database: &Database, chance: &mut fastrand::Rng) -> Option<Client> {
    let client = database.connect().await.unwrap();
    // Another bystander may be idle in a transaction, for good.
    client.batch_execute("SET lock_timeout = '100ms'").await.unwrap();
    for _ in 0..chance.usize(1..4) {
        let number = chance.u32(2..9);
        let sql = match chance.u32(..16) {
            0 => "INSERT INTO orders SELECT coalesce(max(id), 0) + 1, 'eu', 7 FROM orders",
            1 => "UPDATE orders SET amount = amount + 1 WHERE id % 3 = 0",
            2 => "DELETE FROM orders WHERE id % 5 = 1",
            3 => {
                "BEGIN; INSERT INTO orders SELECT coalesce(max(id), 0) + 1, 'us', 1 FROM orders; ROLLBACK"
            }
            4 => "TRUNCATE orders",
            5 => "BEGIN; TRUNCATE orders; INSERT INTO orders VALUES (1, 'eu', 1); COMMIT",
            6 => "INSERT INTO parted VALUES (1, 5), (11, 5)",
            7 => "TRUNCATE parted_low",
            8 => {
                "ALTER TABLE parted DETACH PARTITION parted_high; TRUNCATE parted_high; \
                  ALTER TABLE parted ATTACH PARTITION parted_high FOR VALUES FROM (10) TO (20)"
            }
            9 => "BEGIN; SAVEPOINT s; INSERT INTO parted VALUES (2, 2); ROLLBACK TO s; COMMIT",
            10 => &replaced(number),
            11 => &format!("BEGIN; {}; ROLLBACK", replaced(number)),
            12 => &format!(
                "CREATE OR REPLACE VIEW part AS SELECT * FROM orders WHERE id % {number} > 0"
            ),
            13 => &format!("BEGIN; {}; INSERT INTO parted VALUES (3, 3); COMMIT", replaced(number)),
            14 => "ANALYZE; CREATE TEMPORARY TABLE IF NOT EXISTS mine (id int)",
            _ => "SELECT count(*) FROM orders",
        };
        // One that has to wait for another gives up.
        let _ = client.batch_execute(sql).await;
        let _ = client.batch_execute("ROLLBACK").await;
    }
    match chance.u32(..4) {
        // Leaves.
        0 => None,
        // Idle in a transaction.
        1 => {
            client.batch_execute("BEGIN; SELECT count(*) FROM orders").await.unwrap();
            Some(client)
        }
        // Busy for longer than anybody waits.
        2 => {
            let busy = database.connect().await.unwrap();
            tokio::spawn(async move {
                let _ = client.batch_execute("SELECT pg_sleep(30)").await;
            });
            Some(busy)
        }
        // Idle.
        _ => Some(client),
    }
}

/// A function that the view calls by another one, whose text does not show it to PostgreSQL.
fn replaced(number: u32) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION inner_f(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
           AS 'BEGIN RETURN $1 * {number}; END'"
    )
}

const SUMS: &str = "SELECT (SELECT coalesce(sum(outer_f(amount)), 0)::int8 FROM part) AS orders, \
    (SELECT coalesce(sum(amount), 0)::int8 FROM parted) AS parted, 1 AS id";

async fn is_current(client: &Client) -> bool {
    let sql = format!("SELECT NOT EXISTS (TABLE sums EXCEPT {SUMS})");
    client.query_one(&sql, &[]).await.unwrap().get(0)
}

/// `LARDER_ROUNDS=20 LARDER_SEED=7 cargo test --all-features --test it never_left_out -- --nocapture`
#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_never_left_out_wrongly() {
    const DATABASES: usize = 6;
    let number = |name| std::env::var(name).ok().and_then(|it| it.parse::<u64>().ok());
    let (rounds, seed) = (number("LARDER_ROUNDS").unwrap_or(2), number("LARDER_SEED"));
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("LARDER_SEED={seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut postgres = Postgres::start().unwrap();
    let (mut shops, mut left_out) = (vec![], 0);
    for _ in 0..DATABASES {
        let database = postgres.database().await.unwrap();
        let client = database.connect().await.unwrap();
        let sql = format!(
            "CREATE TABLE orders (id int PRIMARY KEY, region text, amount int);
             INSERT INTO orders SELECT n, 'eu', n FROM generate_series(1, 10) n;
             CREATE TABLE parted (id int, amount int) PARTITION BY RANGE (id);
             CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (10);
             CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (10) TO (20);
             {};
             CREATE FUNCTION outer_f(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
               AS 'BEGIN RETURN public.inner_f($1); END';
             CREATE VIEW part AS SELECT * FROM orders;
             CREATE MATERIALIZED VIEW sums AS {SUMS};
             CREATE UNIQUE INDEX ON sums (id);",
            replaced(1)
        );
        client.batch_execute(&sql).await.unwrap();
        let (refresher, clock) = ticking(&database, named(&["sums"])).await;
        shops.push((database, refresher, clock));
    }
    let mut bystanders = vec![];
    for round in 0..=rounds {
        let crashes = round > 0 && chance.u32(..3) == 0;
        for (database, _, _) in &shops {
            // Some are left alone, so that there is something to leave out.
            if round > 0 && chance.u32(..3) > 0 {
                for _ in 0..chance.usize(1..4) {
                    bystanders.extend(meddle(database, &mut chance).await);
                }
            }
        }
        if crashes {
            postgres.crash().unwrap();
            postgres.restart().unwrap();
        }
        let ticks = shops.iter().map(|(database, refresher, clock)| async move {
            let outcome = tick(refresher, clock).await.remove(0);
            let client = database.connect().await.unwrap();
            (outcome, is_current(&client).await)
        });
        for (outcome, is_current) in futures_util::future::join_all(ticks).await {
            assert!(is_current, "round {round}: {outcome}");
            left_out += u32::from(outcome == UNCHANGED);
        }
    }
    println!("{left_out} of {} refreshes were left out", DATABASES as u64 * (rounds + 1));
}
