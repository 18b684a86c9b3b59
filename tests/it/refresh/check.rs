//! Does a check report a problem before a refresh fails because of it?

use std::time::Duration;

use larder::refresh::{
    Activity, Finding, FindingKind, MaterializedView, RefreshErrorKind, Refresher,
};
use tokio_postgres::Client;

use super::basics::{refresher, shop};
use super::unchanged::cannot_count;
use crate::servers::{Database, skipped};
use crate::support::{until, until_async};

async fn findings(refresher: &Refresher) -> Vec<Vec<Finding>> {
    let report = refresher.check().await.unwrap();
    report.views().iter().map(|view| view.findings().to_vec()).collect()
}

#[tokio::test]
async fn a_view_that_can_be_refreshed_has_no_findings() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE MATERIALIZED VIEW several AS SELECT id, region, amount FROM orders;
             CREATE UNIQUE INDEX ON several (id, region) INCLUDE (amount);
             CREATE UNIQUE INDEX not_this_one ON several (id) WHERE id > 5;",
        )
        .await
        .unwrap();
    let refresher = refresher(&database, &["by_region", "several"]).start().await.unwrap();
    let report = refresher.check().await.unwrap();
    assert!(report.is_ok());
    assert_eq!(report.to_string(), "by_region: ok\nseveral: ok");
    assert!(refresher.refresh_now("several").await.unwrap().rows().is_some());
}

#[tokio::test]
async fn the_classic_mistake_is_told_with_the_index_to_create() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE MATERIALIZED VIEW daily AS SELECT id AS day, sum(amount) FROM orders GROUP BY id;
             CREATE INDEX daily_day ON daily (day);",
        )
        .await
        .unwrap();
    let refresher = refresher(&database, &["daily"]).start().await.unwrap();
    let report = refresher.check().await.unwrap();
    assert!(!report.is_ok());
    assert_eq!(
        report.to_string(),
        "daily: cannot be refreshed\n  \
         none of its indexes is one that CONCURRENTLY can use, unique and on plain columns: \
         public.daily_day is not unique\n    \
         CREATE UNIQUE INDEX CONCURRENTLY ON public.daily (day);"
    );
    client.batch_execute(&report.views()[0].findings()[0].mending_sql()[0]).await.unwrap();
    assert!(refresher.check().await.unwrap().is_ok());
}

#[tokio::test]
async fn every_mend_mends() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE MATERIALIZED VIEW empty AS SELECT id FROM orders WITH NO DATA;
             CREATE UNIQUE INDEX ON empty (id);
             CREATE MATERIALIZED VIEW bare AS SELECT id, region, '{}'::json AS json FROM orders;
             CREATE MATERIALIZED VIEW known AS SELECT region || id AS name, id FROM orders;
             CREATE MATERIALIZED VIEW invalid AS SELECT id, 1 AS same FROM orders;",
        )
        .await
        .unwrap();
    // A concurrent creation that fails leaves an index that does not count.
    client.batch_execute("ANALYZE known").await.unwrap();
    let failed = "CREATE UNIQUE INDEX CONCURRENTLY invalid_same ON invalid (same)";
    client.batch_execute(failed).await.unwrap_err();
    let names = ["empty", "bare", "known", "invalid"];
    let refresher = refresher(&database, &names).start().await.unwrap();
    let all = findings(&refresher).await;
    let kinds: Vec<_> = all.iter().map(|findings| findings[0].kind()).collect();
    let no_index = FindingKind::NoUniqueIndex;
    assert_eq!(kinds, [FindingKind::NotPopulated, no_index, no_index, no_index]);
    assert!(all[1][0].message().starts_with("it has no index"), "{}", all[1][0]);
    // A column without an order cannot be part of it.
    let create = "CREATE UNIQUE INDEX CONCURRENTLY ON";
    assert_eq!(all[1][0].mending_sql(), [format!("{create} public.bare (id, region);")]);
    assert_eq!(all[2][0].mending_sql(), [format!("{create} public.known (name);")]);
    assert!(all[3][0].message().contains("public.invalid_same is invalid"), "{}", all[3][0]);
    assert_eq!(all[3][0].mending_sql(), ["REINDEX INDEX CONCURRENTLY public.invalid_same;"]);
    // The values have to become different first, which only the user can see to.
    client
        .batch_execute(
            "DROP MATERIALIZED VIEW invalid;
             CREATE MATERIALIZED VIEW invalid AS SELECT id, 1 AS same FROM orders LIMIT 1;",
        )
        .await
        .unwrap();
    for finding in findings(&refresher).await.iter().flatten() {
        for sql in finding.mending_sql() {
            client.batch_execute(sql).await.unwrap();
        }
    }
    let report = refresher.check().await.unwrap();
    assert!(report.views().iter().all(|view| view.findings().is_empty()), "{report}");
    for name in names {
        assert!(!refresher.refresh_now(name).await.unwrap().rows().unwrap().plain);
    }
}

#[tokio::test]
async fn who_holds_a_view_is_told() {
    let (database, mut client) = shop().await;
    let other = database.connect().await.unwrap();
    let refresher = refresher(&database, &["by_region"]).start().await.unwrap();
    let holder = client.transaction().await.unwrap();
    holder.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let refresh = tokio::spawn({
        let refresher = refresher.clone();
        async move { refresher.refresh_now("by_region").await }
    });
    until("it is refreshing", || refresher.status()[0].activity() == Activity::Refreshing).await;
    until_async("the refresh is found", async || {
        let all = findings(&refresher).await;
        all[0].iter().any(|it| it.message().contains("is refreshing it at this moment, for "))
    })
    .await;
    holder.rollback().await.unwrap();
    refresh.await.unwrap().unwrap();

    let holder = client.transaction().await.unwrap();
    let lock = "SET LOCAL application_name = 'backup'; ANALYZE by_region";
    holder.batch_execute(lock).await.unwrap();
    let all = findings(&refresher).await;
    let [finding] = &all[0][..] else { panic!("{:?}", all[0]) };
    assert_eq!(finding.kind(), FindingKind::Held);
    assert!(
        finding
            .message()
            .contains("application backup) holds ShareUpdateExclusiveLock on public.by_region,"),
        "{finding}"
    );
    assert!(!finding.kind().is_fatal());
    drop(holder);
    let sql = "SELECT 1";
    other.batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn what_skip_unchanged_needs_is_asked_for() {
    if cannot_count().await {
        return;
    }
    let (database, client) = shop().await;
    let role = format!("skipper_{}", database.name());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; ALTER MATERIALIZED VIEW by_region OWNER TO {role};
             GRANT SELECT ON orders TO {role}; GRANT CREATE ON SCHEMA public TO {role}"
        ))
        .await
        .unwrap();
    let view = MaterializedView::new("by_region").every(Duration::from_secs(3600)).skip_unchanged();
    let refresher = Refresher::builder(database.as_role(&role).pool(2)).view(view);
    let refresher = refresher.start().await.unwrap();
    let all = findings(&refresher).await;
    let [finding] = &all[0][..] else { panic!("{:?}", all[0]) };
    assert_eq!(finding.kind(), FindingKind::Untraceable);
    assert_eq!(finding.mending_sql(), [format!("GRANT pg_read_all_stats TO {role};")]);
    client.batch_execute(&finding.mending_sql()[0]).await.unwrap();
    assert!(findings(&refresher).await[0].is_empty());
    drop(refresher);
    client.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.unwrap();
}

async fn server_version(client: &Client) -> i32 {
    let sql = "SELECT current_setting('server_version_num')::int4";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_function_that_names_no_schema_is_told_from_postgresql_17_on() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE FUNCTION by_sql() RETURNS bigint LANGUAGE sql STABLE
               AS 'SELECT count(*) FROM orders';
             CREATE FUNCTION by_plpgsql(int) RETURNS bigint LANGUAGE plpgsql STABLE
               AS 'BEGIN RETURN (SELECT count(*) FROM orders); END';
             CREATE FUNCTION step(bigint, int) RETURNS bigint LANGUAGE sql STABLE
               AS 'SELECT $1 + by_sql()';
             CREATE AGGREGATE stepped(int) (sfunc = step, stype = bigint, initcond = '0');
             CREATE FUNCTION full_name() RETURNS bigint LANGUAGE sql STABLE
               AS 'SELECT count(*) FROM public.orders';
             CREATE FUNCTION with_path() RETURNS bigint LANGUAGE sql STABLE SET search_path = public
               AS 'SELECT count(*) FROM orders';
             CREATE FUNCTION resolved() RETURNS bigint LANGUAGE sql STABLE
               RETURN (SELECT count(*) FROM orders);
             CREATE FUNCTION harmless() RETURNS bigint LANGUAGE plpgsql STABLE
               AS 'DECLARE orders bigint := 1; BEGIN RETURN orders; END';
             CREATE VIEW below AS SELECT id, by_sql() FROM orders;
             CREATE MATERIALIZED VIEW a AS SELECT 1 AS id, by_sql() WITH NO DATA;
             CREATE MATERIALIZED VIEW b AS SELECT 1 AS id, by_plpgsql(1) WITH NO DATA;
             CREATE MATERIALIZED VIEW c AS SELECT stepped(id) AS id FROM orders WITH NO DATA;
             CREATE MATERIALIZED VIEW d AS SELECT * FROM below WITH NO DATA;
             CREATE MATERIALIZED VIEW e AS
               SELECT 1 AS id, full_name(), with_path(), resolved(), harmless() WITH NO DATA;",
        )
        .await
        .unwrap();
    let names = ["a", "b", "c", "d", "e"];
    let views = names.map(|name| MaterializedView::new(name).plain());
    let builder = Refresher::builder(database.pool(2));
    let builder = views.iter().fold(builder, |builder, view| builder.view(view.clone()));
    let refresher = builder.start().await.unwrap();
    let about = |findings: &[Finding]| -> Vec<Finding> {
        let kinds = [FindingKind::SearchPath, FindingKind::SearchPathDoubtful];
        findings.iter().filter(|finding| kinds.contains(&finding.kind())).cloned().collect()
    };
    let all = findings(&refresher).await;
    if server_version(&client).await < 170_000 {
        assert!(all.iter().all(|findings| about(findings).is_empty()), "{all:?}");
        assert!(refresher.refresh_all().await.iter().all(Result::is_ok));
        skipped("PostgreSQL refreshes with a safe search_path since 17");
        return;
    }
    let kinds: Vec<Vec<_>> =
        all.iter().map(|it| about(it).iter().map(Finding::kind).collect()).collect();
    let (sure, doubtful) = (vec![FindingKind::SearchPath], vec![FindingKind::SearchPathDoubtful]);
    assert_eq!(kinds, [sure.clone(), doubtful, sure.clone(), sure, vec![]], "{all:?}");
    for (name, findings) in names.iter().zip(&all).take(4) {
        let error = refresher.refresh_now(name).await.unwrap_err();
        assert_eq!(error.kind(), RefreshErrorKind::Postgres, "{error}");
        assert!(error.to_string().contains("search_path"), "{error}");
        assert_eq!(error.findings(), about(findings), "{error}");
    }
    let mends: Vec<Finding> = all.iter().flat_map(|findings| about(findings)).collect();
    assert_eq!(
        mends[1].mending_sql(),
        ["ALTER FUNCTION public.by_plpgsql(integer) SET search_path = public, pg_temp;"]
    );
    for finding in &mends {
        client.batch_execute(&finding.mending_sql()[0]).await.unwrap();
    }
    let all = findings(&refresher).await;
    assert!(all.iter().all(|findings| about(findings).is_empty()), "{all:?}");
    for refreshed in refresher.refresh_all().await {
        refreshed.unwrap();
    }
}

/// The finding that this role may not refresh `by_region`.
async fn not_owner(database: &Database, role: &str) -> Finding {
    let view = MaterializedView::new("by_region");
    let check = view.check(database.as_role(role).pool(1)).await.unwrap();
    let found = check.findings().iter().find(|it| it.kind() == FindingKind::NotOwner);
    found.unwrap_or_else(|| panic!("{check}")).clone()
}

#[tokio::test]
async fn no_advice_hands_out_the_rights_of_a_superuser() {
    let (database, client) = shop().await;
    let (role, owner) =
        (format!("clerk_{}", database.name()), format!("owner_{}", database.name()));
    let run = async |sql: &str| {
        let sql = sql.replace("$role", &role).replace("$owner", &owner);
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    };
    run("CREATE ROLE $role LOGIN; CREATE ROLE $owner; GRANT SELECT ON orders TO $role, $owner;
         GRANT CREATE ON SCHEMA public TO $role, $owner")
    .await;
    let has_maintain = server_version(&client).await >= 170_000;
    let maintain = format!("GRANT MAINTAIN ON public.by_region TO {role};");
    let give = format!("ALTER MATERIALIZED VIEW public.by_region OWNER TO {role};");
    let grant = format!("GRANT {owner} TO {role};");
    let strong = if has_maintain { &maintain } else { &give };
    let cases = [
        ("", strong),
        ("ALTER MATERIALIZED VIEW by_region OWNER TO $owner; ALTER ROLE $owner SUPERUSER", strong),
        ("ALTER ROLE $owner NOSUPERUSER CREATEROLE", strong),
        ("ALTER ROLE $owner NOCREATEROLE BYPASSRLS", strong),
        ("ALTER ROLE $owner NOBYPASSRLS; GRANT pg_execute_server_program TO $owner", strong),
        (
            "REVOKE pg_execute_server_program FROM $owner",
            if has_maintain { &maintain } else { &grant },
        ),
    ];
    for (change, mend) in cases {
        run(change).await;
        let finding = not_owner(&database, &role).await;
        assert_eq!(finding.mending_sql(), std::slice::from_ref(mend), "{change}: {finding}");
    }
    // The advice for strong owners is enough, too.
    run(strong).await;
    let refresher = refresher(&database.as_role(&role), &["by_region"]).start().await.unwrap();
    assert!(refresher.refresh_now("by_region").await.unwrap().rows().is_some());
    drop(refresher);
    run("DROP OWNED BY $role, $owner CASCADE; DROP ROLE $role, $owner").await;
}

#[tokio::test]
async fn a_view_below_that_holds_nothing_is_told_before_and_after() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE MATERIALIZED VIEW low AS SELECT id FROM orders WITH NO DATA;
             CREATE MATERIALIZED VIEW high AS SELECT id FROM low WITH NO DATA;",
        )
        .await
        .unwrap();
    let refresher =
        Refresher::builder(database.pool(2)).view(MaterializedView::new("high").plain());
    let refresher = refresher.start().await.unwrap();
    let report = refresher.check().await.unwrap();
    assert!(!report.is_ok(), "{report}");
    let error = refresher.refresh_now("high").await.unwrap_err();
    assert_eq!(error.kind(), RefreshErrorKind::NotPopulated, "{error}");
    let finding = error.findings().iter().find(|it| it.kind() == FindingKind::SourceNotPopulated);
    assert_eq!(finding.unwrap().mending_sql(), ["REFRESH MATERIALIZED VIEW public.low;"]);
    client.batch_execute(&finding.unwrap().mending_sql()[0]).await.unwrap();
    assert!(refresher.check().await.unwrap().is_ok());
    refresher.refresh_now("high").await.unwrap();
    // A refresher of both refreshes the lower one first.
    client.batch_execute("REFRESH MATERIALIZED VIEW low WITH NO DATA").await.unwrap();
    let both = Refresher::builder(database.pool(2))
        .view(MaterializedView::new("high").plain())
        .view(MaterializedView::new("low").plain());
    let both = both.start().await.unwrap();
    assert!(both.check().await.unwrap().is_ok());
    assert!(both.refresh_all().await.iter().all(Result::is_ok));
}
