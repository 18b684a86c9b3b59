//! Does Prometheus get what the documentation and the board for Grafana say?
//!
//! A program of its own: a process has one recorder.

use test_servers as servers;

mod alerts;
mod board;
mod scene;

use std::net::TcpListener;
use std::time::SystemTime;

use larder::{PrometheusEndpoint, PrometheusRecorder};

use self::scene::{SECRETS, free_address, scrape};

const DOCS: &str = include_str!("../../src/docs/metrics.md");

/// What the documentation lists: name, kind, description.
fn documented() -> Vec<(&'static str, &'static str, &'static str)> {
    let rows = DOCS.lines().filter(|line| line.starts_with("| `larder_"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        (cells[0].trim_matches('`'), cells[1], cells[3])
    });
    rows.collect()
}

#[test]
fn what_is_documented_is_exposed_with_its_kind_and_description_and_nothing_else() {
    let scrape = scrape();
    for (name, kind, what) in documented() {
        for line in [format!("# TYPE {name} {kind}\n"), format!("# HELP {name} {what}\n")] {
            assert!(scrape.text.contains(&line), "{line}{}", scrape.text);
        }
    }
    let types = scrape.text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut exposed: Vec<_> = types.map(|line| line.split(' ').next().unwrap()).collect();
    let mut names: Vec<_> = documented().iter().map(|(name, ..)| *name).collect();
    exposed.sort_unstable();
    names.sort_unstable();
    assert_eq!(exposed, names);
}

#[test]
fn the_numbers_are_those_of_the_cache_from_its_beginning_to_its_end() {
    let scrape = scrape();
    let reads = |origin: &str| {
        scrape.value(
            "larder_reads_total",
            &[("namespace", "metrics"), ("query", "orders of a region"), ("origin", origin)],
        )
    };
    // Two caches of one namespace; one was there before the recorder, and one is gone by now.
    assert_eq!((reads("loaded"), reads("l1"), reads("l2")), (2.0, 4.0, 1.0));
    assert_eq!(reads("failed"), 1.0);
    let of = |name, labels: &[(&str, &str)]| scrape.value(name, labels);
    let query = [("namespace", "metrics"), ("query", "orders of a region")];
    assert_eq!(of("larder_loads_total", &query), 3.0);
    assert_eq!(of("larder_load_errors_total", &query), 1.0);
    // Told where they are taken: what came before the recorder was there is not known to it.
    assert_eq!(of("larder_load_duration_seconds_count", &query), 2.0);
    assert!(of("larder_l2_lookup_duration_seconds_count", &query) >= 2.0);
    let infinite = [&query[..], &[("le", "+Inf")]].concat();
    assert_eq!(of("larder_load_duration_seconds_bucket", &infinite), 2.0);
    assert!(of("larder_invalidations_total", &query[..1]) >= 1.0);
    assert!(of("larder_memory_bytes", &query[..1]) > 0.0);
    assert_eq!(of("larder_memory_limit_bytes", &query[..1]), (1 << 20) as f64);
    assert!(
        of("larder_refreshes_total", &[("view", "by_region"), ("outcome", "refreshed")]) >= 1.0
    );
    let failed = [("namespace", "metrics"), ("view", "no_index"), ("outcome", "failed")];
    assert!(of("larder_refreshes_total", &failed) >= 1.0);
    // In the order in which it happened: `no_index` was seen at the start, and not refreshed since.
    let fresh = |view| {
        let labels = [("namespace", "metrics"), ("view", view)];
        of("larder_refresh_last_success_timestamp_seconds", &labels)
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(now - 600.0 < fresh("no_index") && fresh("no_index") < fresh("by_region"));
    assert!(fresh("by_region") <= now);
    assert_eq!(of("larder_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
}

#[test]
fn no_label_shows_sql_a_parameter_or_a_value() {
    let text = &scrape().text;
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[test]
fn an_endpoint_that_cannot_be_says_why() {
    let address = free_address();
    let taken = TcpListener::bind(&address).unwrap();
    let error = PrometheusEndpoint::start(&address).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot serve metrics at \"{address}\": ")), "{error}");
    assert!(error.contains("in use") && error.contains("is another process"), "{error}");
    drop(taken);
    for (wrong, why) in [
        ("localhost", "a host and a port are needed"),
        ("127.0.0.1:0", "Prometheus has to know the port"),
        ("127.0.0.1:99999", "a host and a port are needed"),
    ] {
        let error = PrometheusEndpoint::start(wrong).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    scrape();
    let error = PrometheusEndpoint::start(&address).unwrap_err().to_string();
    assert!(error.contains("has a recorder for the metrics facade already"), "{error}");
    let error = PrometheusRecorder::install().unwrap_err().to_string();
    assert!(error.starts_with("cannot record metrics for Prometheus: this process has"), "{error}");
    // And lets go of the address.
    TcpListener::bind(&address).unwrap();
}
