//! Do spans contain what the documentation says, and nothing confidential?

use std::collections::BTreeSet;

use larder::refresh::{MaterializedView, Refresher};

use crate::support::{database, namespace, over_redis, written};
use crate::told::{Listening, Told, listen};

const DOCS: &str = include_str!("../../src/docs/tracing.md");
const SECRET: &str = "hunter2 hunter2 hunter2";
/// In SQL, as a parameter, in values and in the errors of query functions.
const MARK: &str = "marked";

/// The spans of a name, with the fields that are asked for.
fn spans(all: &[Told], name: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let of = |told: &Told| {
        fields.iter().map(|field| told.fields.get(field).cloned().unwrap_or_default()).collect()
    };
    all.iter().filter(|told| told.name == Some(name)).map(of).collect()
}

/// Rows of the documentation: what it is called, its level and its fields.
fn documented() -> Vec<(&'static str, &'static str, BTreeSet<&'static str>)> {
    let rows = DOCS.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let rows = rows.filter(|line| !line.contains("| level |"));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        (
            cells[0].trim_matches('`'),
            cells[1],
            cells[2].split(", ").map(|it| it.trim_matches('`')).collect(),
        )
    })
    .collect()
}

async fn work(seen: &Listening) {
    let (database, namespace) = (database().await, namespace());
    let build = async || over_redis(&namespace).secret(SECRET).build().await.unwrap();
    let (here, there) = (build().await, build().await);
    let ask = async |cache: &larder::QueryCache, fails: bool| {
        let query = cache.query("SELECT 'marked' WHERE $1 <> ''").name("a report").tag("orders");
        let load = move || async move {
            if fails { Err(std::io::Error::other("marked")) } else { Ok("marked".to_owned()) }
        };
        query.bind(MARK).bind(fails).load(load).await
    };
    ask(&here, false).await.unwrap();
    written(&here, 1).await;
    let before = seen.all().len();
    for _ in 0..10 {
        ask(&here, false).await.unwrap();
    }
    let meanwhile = seen.all()[before..].to_vec();
    // Beats may tell of an epoch; a hit tells nothing.
    assert!(meanwhile.iter().all(|told| told.name.is_none()), "{meanwhile:?}");
    ask(&here, true).await.unwrap_err();
    ask(&there, false).await.unwrap();
    here.invalidate(["orders", "customers"]).await.unwrap();
    ask(&here, false).await.unwrap();
    let pool = database.pool(2);
    here.query("SELECT 'marked'::text, $1::text").bind(MARK).fetch(&pool).await.unwrap();
    here.query("SELECT marked FROM marked").fetch(&pool).await.unwrap_err();

    let client = database.connect().await.unwrap();
    let views = "CREATE MATERIALIZED VIEW good AS SELECT 'marked' AS it;
                 CREATE UNIQUE INDEX ON good (it);
                 CREATE MATERIALIZED VIEW bad AS SELECT 'marked' AS it";
    client.batch_execute(views).await.unwrap();
    let refresher = Refresher::builder(database.pool(2)).cache(&here);
    let views = ["good", "bad"].map(MaterializedView::new);
    let refresher = views.into_iter().fold(refresher, |builder, view| builder.view(view));
    let refresher = refresher.start().await.unwrap();
    refresher.refresh_now("good").await.unwrap();
    refresher.refresh_now("bad").await.unwrap_err();
    refresher.shutdown().await;
    there.shutdown().await;
    here.shutdown().await;
}

#[tokio::test]
async fn spans_tell_what_is_documented_and_no_sql_parameter_value_or_secret() {
    let seen = listen();
    work(&seen).await;
    let all = seen.all();

    let loads = spans(&all, "load", &["query", "outcome"]);
    let named: Vec<&str> =
        loads.iter().filter(|load| load[0] == "a report").map(|load| &*load[1]).collect();
    assert_eq!(named, ["loaded", "query", "loaded"]);
    // Those without a name are called by a digest.
    let others: Vec<_> = loads.iter().filter(|load| load[0] != "a report").collect();
    assert_eq!(others.len(), 2);
    assert!(others.iter().all(|load| load[0].len() == 16), "{others:?}");
    assert_eq!((&*others[0][1], &*others[1][1]), ("loaded", "query"));
    if cfg!(feature = "redis") {
        let outcomes: Vec<String> = spans(&all, "look_up", &["outcome"]).concat();
        assert!(outcomes.contains(&"entry".to_owned()), "{outcomes:?}");
        assert!(outcomes.contains(&"nothing".to_owned()), "{outcomes:?}");
    }
    let word = if cfg!(feature = "redis") { "announced" } else { "alone" };
    assert_eq!(spans(&all, "invalidate", &["tags", "outcome"])[0], ["2", word]);
    let refreshes = spans(&all, "refresh", &["view", "outcome"]);
    assert_eq!(refreshes, [["good", "refreshed"], ["bad", "no_unique_index"]]);

    let documented = documented();
    for told in &all {
        for (field, value) in &told.fields {
            assert!(!value.contains("hunter2"), "{told:?}");
            // The check of a view names what would mend it, which is about columns and no values.
            assert!(!value.contains(MARK) && !value.contains("SELECT"), "{field}: {told:?}");
        }
        let has = |fields: &BTreeSet<&str>| {
            told.fields.keys().all(|field| *field == "message" || fields.contains(field))
        };
        let fits = |(name, level, fields): &(&str, &str, BTreeSet<&str>)| {
            told.name.is_none_or(|mine| mine == *name)
                && level.split(", ").any(|level| level == told.level)
                && has(fields)
        };
        // A warning of a refresh is not in this workload.
        assert!(documented.iter().any(fits), "{told:?}");
    }
    let spans: BTreeSet<_> = all.iter().filter_map(|told| told.name).collect();
    for (name, ..) in &documented[..4] {
        assert!(spans.contains(name) || !cfg!(feature = "redis"), "no span {name}");
    }
}
