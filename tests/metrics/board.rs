//! The board for Grafana: whether it holds together, and shows what there is.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use crate::documented;
use crate::scene::scrape;

const BOARD: &str = include_str!("../../dashboards/larder.json");

fn board() -> Value {
    serde_json::from_str(BOARD).unwrap()
}

fn panels(board: &Value) -> Vec<&Value> {
    board["panels"].as_array().unwrap().iter().collect()
}

/// All expressions of panels and variables, with where they are.
fn expressions(board: &Value) -> Vec<(String, String)> {
    let mut all = vec![];
    for panel in panels(board) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap().to_owned();
            all.push((panel["title"].to_string(), expression));
        }
    }
    for variable in board["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            let query = variable["query"]["query"].as_str().unwrap().to_owned();
            assert_eq!(variable["definition"], *query);
            all.push((variable["name"].to_string(), query));
        }
    }
    all
}

/// The names of metrics in an expression, and the labels that it selects or groups by.
fn words(expression: &str) -> Vec<&str> {
    let mut quoted = false;
    let outside = expression.split('"').filter(|_| {
        quoted = !quoted;
        quoted
    });
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$' || c == ':';
    outside.flat_map(|part| part.split(move |c| !is_word(c))).filter(|it| !it.is_empty()).collect()
}

#[test]
fn every_expression_names_metrics_and_labels_that_exist() {
    let (board, text) = (board(), &scrape().text);
    // Name of a series, and the labels that it is exposed with.
    let mut series: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for line in text.lines().filter(|line| line.starts_with("larder_")) {
        let (name, rest) = line.split_once('{').unwrap_or((line, ""));
        let labels = rest.split("\",").filter_map(|label| label.split_once("=\"")).map(|it| it.0);
        series.entry(name).or_default().extend(labels);
    }
    const OF_PROMQL: &[&str] = &[
        "sum",
        "by",
        "rate",
        "topk",
        "histogram_quantile",
        "max",
        "time",
        "scalar",
        "and",
        "label_values",
        "$__rate_interval",
    ];
    for (place, expression) in expressions(&board) {
        let words = words(&expression);
        let names: Vec<&str> =
            words.iter().copied().filter(|word| word.starts_with("larder_")).collect();
        assert!(!names.is_empty(), "{place}: {expression}");
        for name in &names {
            assert!(series.contains_key(name), "{place}: there is no {name}");
        }
        let is_number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
        for word in words {
            let known = word.starts_with("larder_") || OF_PROMQL.contains(&word) || is_number(word);
            // `job` is Prometheus's own, of each series.
            let is_label = || word == "job" || names.iter().any(|name| series[name].contains(word));
            assert!(known || is_label(), "{place}: what is `{word}`? {expression}");
        }
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            let count = |of| expression.matches(of).count();
            assert_eq!(count(open), count(close), "{place}: {expression}");
        }
        // A counter is not shown as it stands.
        let counters = names.iter().filter(|name| name.ends_with("_total")).count();
        let is_variable = expression.starts_with("label_values(");
        assert!(is_variable || expression.matches("rate(").count() >= counters, "{place}");
    }
}

#[test]
fn every_panel_is_of_the_jobs_and_namespaces_that_are_chosen() {
    let board = board();
    for panel in panels(&board) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let parts = expression.split("larder_").skip(1);
            for selector in parts.map(|part| part.split_once('{').map_or("", |it| it.1)) {
                assert!(selector.starts_with("job=~\"$job\""), "{expression}");
                // Of the library, and of no cache.
                let of_all = expression.contains("larder_build_info");
                let namespace = "job=~\"$job\", namespace=~\"$namespace\"";
                assert!(of_all || selector.starts_with(namespace), "{expression}");
            }
        }
    }
}

#[test]
fn every_metric_is_on_the_board() {
    let shown: Vec<String> = expressions(&board()).into_iter().map(|(_, it)| it).collect();
    for (name, ..) in documented() {
        let suffixes = ["", "_bucket", "_sum", "_count"];
        let shows = |expression: &String| {
            words(expression).iter().any(|word| {
                word.strip_prefix(name).is_some_and(|suffix| suffixes.contains(&suffix))
            })
        };
        assert!(shown.iter().any(shows), "{name}");
    }
}

#[test]
fn panels_have_ids_of_their_own_and_do_not_overlap() {
    let board = board();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&board) {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let at = |field: &str| panel["gridPos"][field].as_u64().unwrap();
        assert!(at("w") > 0 && at("h") > 0 && at("x") + at("w") <= 24, "{panel}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{} lies over another", panel["title"]);
            }
        }
    }
    // No gaps either: Grafana would close them.
    let lowest = taken.iter().map(|(_, y)| *y).max().unwrap();
    assert_eq!(taken.len() as u64, 24 * (lowest + 1));
}

#[test]
fn what_grafana_asks_of_a_board_is_there() {
    let board = board();
    assert_eq!(board["uid"], "larder");
    assert!(board["schemaVersion"].as_u64().unwrap() >= 36);
    assert!(board["title"].is_string() && board["time"]["from"].is_string());
    assert!(board["annotations"]["list"].is_array());
    let variables = board["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "job", "namespace", "query"]);
    assert_eq!(
        (&variables[0]["type"], &variables[0]["query"]),
        (&"datasource".into(), &"prometheus".into())
    );
    let source = serde_json::json!({"type": "prometheus", "uid": "${datasource}"});
    for variable in &variables[1..] {
        assert_eq!(variable["datasource"], source);
    }
    for panel in panels(&board) {
        let title = panel["title"].as_str().unwrap();
        if panel["type"] == "row" {
            assert_eq!(
                (&panel["collapsed"], &panel["panels"]),
                (&false.into(), &Value::Array(vec![]))
            );
            continue;
        }
        assert!(["timeseries", "stat"].contains(&panel["type"].as_str().unwrap()), "{title}");
        assert_eq!(panel["datasource"], source, "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}");
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}");
        let mut refs = BTreeSet::new();
        for target in panel["targets"].as_array().unwrap() {
            assert!(refs.insert(target["refId"].as_str().unwrap()), "{title}");
            assert_eq!(target["datasource"], source, "{title}");
            assert!(target["legendFormat"].is_string(), "{title}");
        }
        assert!(!refs.is_empty(), "{title}");
    }
}
