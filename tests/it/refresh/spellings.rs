//! Is one relation one dependency, however its name is written?

use larder::refresh::{MaterializedView, Refresher};
use larder::{Origin, Query, QueryCache};
use tokio_postgres::Client;

use super::basics::{refresher, shop};
use crate::servers::Database;
use crate::support::local;

const SPELLINGS: &[&str] = &[
    "by_region",
    "public.by_region",
    "BY_REGION",
    "\"by_region\"",
    "Public.By_Region",
    "public.\"by_region\"",
    "\"public\".\"by_region\"",
];

/// Queries that name a view in one of these ways, by `reads` and by a tag.
struct Readers {
    pool: deadpool_postgres::Pool,
    queries: Vec<(String, Query)>,
}

impl Readers {
    /// `tags`: the spellings that are texts of tags. A text in mixed case is one of countless.
    fn new(
        cache: &QueryCache,
        database: &Database,
        view: &str,
        reads: &[&str],
        tags: &[&str],
    ) -> Readers {
        // Each has a result of its own.
        let query = |how: &str| cache.query(format!("SELECT count(*) FROM {view} /* {how} */"));
        let reads = reads.iter().map(|name| {
            let how = format!("reads {name}");
            (how.clone(), query(&how).reads(&MaterializedView::new(*name)))
        });
        let tags = tags.iter().map(|name| {
            let how = format!("tag {name}");
            (how.clone(), query(&how).tag(*name))
        });
        Readers { pool: database.pool(2), queries: reads.chain(tags).collect() }
    }

    /// Those that were not loaded anew.
    async fn kept(&self) -> Vec<&str> {
        let mut kept = vec![];
        for (how, query) in &self.queries {
            let answer = query.fetch(&self.pool).answer().await.unwrap();
            if answer.origin() != Origin::Loaded {
                kept.push(&**how);
            }
        }
        kept
    }
}

async fn order(client: &Client) {
    let sql = "INSERT INTO orders SELECT max(id) + 1, 'region ' || max(id), 1 FROM orders";
    client.batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn a_refresh_under_any_spelling_reaches_queries_under_any_other() {
    let (database, client) = shop().await;
    let cache = local().await;
    let tags: Vec<&str> =
        SPELLINGS.iter().copied().filter(|it| *it != "Public.By_Region").collect();
    let readers = Readers::new(&cache, &database, "by_region", SPELLINGS, &tags);
    for given in SPELLINGS {
        let view = MaterializedView::new(*given);
        let refresher = Refresher::builder(database.pool(2)).cache(&cache).view(view.clone());
        let refresher = refresher.start().await.unwrap();
        readers.kept().await;
        assert_eq!(readers.kept().await.len(), readers.queries.len());
        for asked in SPELLINGS {
            order(&client).await;
            assert!(refresher.refresh_now(asked).await.unwrap().changed());
            assert_eq!(readers.kept().await, [""; 0], "{given} as {asked}");
        }
        // By hand, what reads the view.
        cache.invalidate([view.tag()]).await;
        let kept = readers.kept().await;
        assert!(!kept.iter().any(|how| how.starts_with("reads")), "{given}: {kept:?}");
        refresher.shutdown().await;
    }
}

#[tokio::test]
async fn the_schema_is_the_one_that_the_search_path_finds() {
    let (database, client) = shop().await;
    let setup = format!(
        "CREATE SCHEMA stats; CREATE SCHEMA other;
         CREATE MATERIALIZED VIEW stats.daily AS SELECT id FROM orders;
         CREATE UNIQUE INDEX ON stats.daily (id);
         CREATE MATERIALIZED VIEW other.daily AS SELECT id FROM orders;
         ALTER DATABASE {} SET search_path = stats, public",
        database.name()
    );
    client.batch_execute(&setup).await.unwrap();
    let cache = local().await;
    let spellings = ["daily", "stats.daily", "STATS.DAILY", "\"stats\".daily"];
    let readers = Readers::new(&cache, &database, "stats.daily", &spellings, &spellings);
    let apart = ["other.daily", "OTHER.daily"];
    let apart = Readers::new(&cache, &database, "other.daily", &apart, &["other.daily"]);
    for given in ["daily", "stats.daily", "\"daily\""] {
        let refresher = Refresher::builder(database.pool(2)).cache(&cache);
        let refresher = refresher.view(MaterializedView::new(given)).start().await.unwrap();
        readers.kept().await;
        apart.kept().await;
        order(&client).await;
        assert!(refresher.refresh_now(given).await.unwrap().changed());
        assert_eq!(readers.kept().await, [""; 0], "{given}");
        assert_eq!(apart.kept().await.len(), 3, "{given}");
        // And so for a refresh by somebody else.
        order(&client).await;
        client.batch_execute("REFRESH MATERIALIZED VIEW CONCURRENTLY stats.daily").await.unwrap();
        crate::support::until_async("it is noticed", async || readers.kept().await.is_empty())
            .await;
        refresher.shutdown().await;
    }
}

#[tokio::test]
async fn odd_names_have_one_spelling_too() {
    let (database, client) = shop().await;
    client
        .batch_execute(
            "CREATE SCHEMA \"My Reports\";
             CREATE MATERIALIZED VIEW \"My Reports\".\"Invoice\"\"Totals\" AS SELECT id FROM orders;
             CREATE UNIQUE INDEX ON \"My Reports\".\"Invoice\"\"Totals\" (id);
             CREATE MATERIALIZED VIEW größe AS SELECT id FROM orders;
             CREATE UNIQUE INDEX ON größe (id);
             CREATE MATERIALIZED VIEW a_name_of_more_than_sixty_three_bytes_which_postgresql_makes_shorter
               AS SELECT id FROM orders;
             CREATE UNIQUE INDEX short ON a_name_of_more_than_sixty_three_bytes_which_postgresql_makes_shorter (id);",
        )
        .await
        .unwrap();
    let long = "a_name_of_more_than_sixty_three_bytes_which_postgresql_makes_shorter";
    let views: [(&str, &[&str]); 3] = [
        (
            "\"My Reports\".\"Invoice\"\"Totals\"",
            &["\"My Reports\".\"Invoice\"\"Totals\"", " \"My Reports\" . \"Invoice\"\"Totals\""],
        ),
        ("größe", &["größe", "GRößE", "\"größe\"", "public.größe"]),
        (
            long,
            &[
                &long[..63],
                long,
                "A_Name_of_more_than_sixty_three_bytes_which_postgresql_makes_shorter",
            ],
        ),
    ];
    let cache = local().await;
    for (view, spellings) in views {
        let readers = Readers::new(&cache, &database, view, spellings, &spellings[..1]);
        for given in spellings {
            let refresher = Refresher::builder(database.pool(2)).cache(&cache);
            let refresher = refresher.view(MaterializedView::new(*given)).start().await.unwrap();
            readers.kept().await;
            order(&client).await;
            assert!(refresher.refresh_now(given).await.unwrap().changed());
            assert_eq!(readers.kept().await, [""; 0], "{given}");
            refresher.shutdown().await;
        }
    }
}

#[tokio::test]
async fn a_view_is_given_once_however_it_is_written() {
    let (database, _client) = shop().await;
    for names in [["by_region", "public.by_region"], ["later", "LATER"], ["\"later\"", "later"]] {
        let views = names.map(|name| MaterializedView::new(name).created_later());
        let refresher =
            views.into_iter().fold(refresher(&database, &[]), |all, view| all.view(view));
        let error = refresher.start().await.unwrap_err();
        assert_eq!(error.setting(), Some("view"), "{error}");
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn two_processes_with_two_spellings_refresh_once_and_share_their_notes() {
    use super::unchanged::{TICK, tick};
    use crate::support::{namespace, over_redis};
    use larder::refresh::RefreshOutcome;
    use larder::testing::ManualClock;

    let (database, client) = shop().await;
    let namespace = namespace();
    let clock = ManualClock::starting_at(std::time::SystemTime::UNIX_EPOCH + TICK * 1_000);
    let mut fleet = vec![];
    for name in ["by_region", "public.\"by_region\""] {
        let cache = over_redis(&namespace).build().await.unwrap();
        let refresher = Refresher::builder(database.pool(2))
            .cache(&cache)
            .clock(clock.clone())
            .view(MaterializedView::new(name).every(TICK));
        fleet.push((refresher.start().await.unwrap(), cache));
    }
    order(&client).await;
    let first = tick(&fleet[0].0, &clock).await;
    let now = clock.wall();
    crate::support::until("the other is done too", || {
        fleet[1].0.status()[0].next().is_some_and(|next| next > now)
    })
    .await;
    let refreshes: u64 = fleet.iter().map(|(it, _)| it.status()[0].refreshes()).sum();
    assert_eq!(refreshes, 1, "{first:?}");
    assert!(!matches!(first[0], RefreshOutcome::Skipped(larder::refresh::SkipReason::Unchanged)));
    // One who comes later, with a third spelling, finds all of it announced.
    for name in ["BY_REGION", "Public.by_region"] {
        let cache = over_redis(&namespace).build().await.unwrap();
        let third = refresher(&database, &[name]).cache(&cache).start().await.unwrap();
        assert_eq!(third.status()[0].noticed(), 0, "{name}");
        let query = cache.query("SELECT count(*) FROM by_region").tag("by_region");
        let pool = database.pool(1);
        let count = async || query.fetch(&pool).await.unwrap().row(0).get::<_, i64>(0);
        let before = count().await;
        order(&client).await;
        assert!(third.refresh_now("by_region").await.unwrap().changed());
        assert_eq!(count().await, before + 1);
    }
}
