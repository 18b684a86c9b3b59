//! Does each mode run, print its table, and leave nothing behind?

use std::process::{Command, Stdio};

use test_servers::Redis;

/// Runs a mode with small sizes. Returns what it printed.
fn run(arguments: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_larder-scale"))
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments}: {out}\n{err}");
    assert!(out.contains("processors") && out.contains("Redis"), "{arguments}: {out}");
    out.into_owned()
}

/// The cells of the first table's lines.
fn lines(out: &str) -> Vec<Vec<String>> {
    let rows = out.lines().skip_while(|line| !line.starts_with("| "));
    let rows = rows.take_while(|line| line.starts_with('|')).filter(|line| line.starts_with("| "));
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.skip(1).filter(|line| !line.starts_with("| ---")).map(cells).collect()
}

fn number(cell: &str) -> f64 {
    cell.chars().filter(|it| it.is_ascii_digit() || *it == '.').collect::<String>().parse().unwrap()
}

#[test]
fn modes_on_a_redis_that_is_given_measure_and_leave_no_key() {
    let redis = Redis::start_tcp().unwrap();
    let url = redis.url();
    let on = |arguments: &str| run(&format!("--redis {url} {arguments}"));

    let out = on("idle --caches 1,3 --max-staleness 1 --seconds 1");
    assert!(!out.contains(&url), "{out}");
    let all = lines(&out);
    assert_eq!((all.len(), all[2][1].as_str()), (3, "3"), "{out}");
    assert!(number(&all[2][2]) >= 3.0, "three caches in use beat: {out}");

    let all = lines(&on("invalidations --caches 1,2 --callers 1,4 --tags 20 --seconds 0.3"));
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|line| number(&line[2]) > 0.0 && line[6] == "0"), "{all:?}");

    let all = lines(&on("push --caches 1,3 --rounds 5"));
    assert_eq!(all.len(), 2, "{all:?}");

    let all = lines(&on("reads --tasks 1,8 --results 200 --bytes 100 --turns 1"));
    assert_eq!(all.len(), 6, "{all:?}");
    assert_eq!(all[0][5], "1.00", "GET over GET");

    let all = lines(&on("resync --cells 0,300 --fresh 2 --old 2 --seconds 1"));
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(number(&all[1][0]) >= 300.0, "{all:?}");

    let all = lines(&on("starved --loops 0,1 --seconds 0.4 --pause-ms 0,1 --tasks 2 --results 5"));
    assert_eq!(all.len(), 8, "{all:?}");

    assert_eq!(redis.command(&["KEYS", "*"]).unwrap().trim(), "");
    assert_eq!(redis.command(&["PUBSUB", "CHANNELS"]).unwrap().trim(), "");
}

#[test]
fn a_redis_that_is_given_is_not_killed() {
    let redis = Redis::start_tcp().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_larder-scale"))
        .args(["--redis", &redis.url(), "reconnect", "--caches", "1"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("without --redis"), "{error}");
    redis.command(&["PING"]).unwrap();
}

#[test]
fn a_killed_redis_is_measured_over_tcp_and_tls() {
    let all = lines(&run("reconnect --caches 3 --away 1.2 --rounds 1"));
    assert!(!all.is_empty() && all.iter().all(|line| line[3] == "0"), "{all:?}");
}
