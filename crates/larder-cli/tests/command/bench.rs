//! `larder bench`: what it measures, and what it leaves behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::servers::{Database, Postgres, Redis};
use crate::support::{Ran, larder, run, until};

/// Servers, and a database in which nobody else makes schemas.
struct Place {
    redis: Redis,
    database: Database,
    directory: TempDir,
}

impl Place {
    async fn new() -> Place {
        let database = Postgres::shared().unwrap().database().await.unwrap();
        Place { redis: Redis::start().unwrap(), database, directory: tempfile::tempdir().unwrap() }
    }

    /// `bench` with small tables, cheap queries, and these arguments.
    fn bench(&self, arguments: &str) -> Command {
        let mut command = larder(["bench", "--rows=2", "--query-cost=1ms"]);
        command.args(arguments.split_whitespace());
        command.env("LARDER_REDIS", self.redis.url());
        command.env("LARDER_POSTGRES", self.database.url());
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs it to its end and returns its report.
    async fn report(&self, arguments: &str) -> Value {
        let ran = run(self.bench(&format!("{arguments} --json"))).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
        serde_json::from_str(&ran.out).unwrap()
    }

    async fn schemas(&self) -> Vec<String> {
        let client = self.database.connect().await.unwrap();
        let sql = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'larder%'";
        client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// How often the benchmark under way has written.
    async fn versions(&self) -> i64 {
        let Some(schema) = self.schemas().await.pop() else { return 0 };
        let client = self.database.connect().await.unwrap();
        let sql = format!("SELECT coalesce(sum(version), 0)::int8 FROM {schema}.keys");
        // There may be no table yet.
        client.query_one(&sql, &[]).await.map_or(0, |row| row.get(0))
    }

    fn keys(&self) -> String {
        self.redis.command(&["KEYS", "larder:*"]).unwrap()
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn total(answers: &Value) -> u64 {
    answers.as_object().unwrap().values().map(number).sum()
}

fn mode<'r>(report: &'r Value, name: &str) -> &'r Value {
    let modes = report["modes"].as_array().unwrap();
    modes.iter().find(|mode| mode["mode"] == name).unwrap_or_else(|| panic!("no mode {name}"))
}

/// Whatever was measured, its numbers belong together.
fn ensure_sums(mode: &Value) {
    let reads = number(&mode["reads"]);
    assert!(reads > 0, "{mode}");
    assert_eq!(total(&mode["answers"]), reads);
    assert_eq!(number(&mode["currency"]["checked"]), reads);
    assert_eq!(number(&mode["currency"]["violations"]), 0, "{}", mode["currency"]);
    assert_eq!(number(&mode["errors"]), 0, "{}", mode["first_error"]);
    let series = mode["series"].as_array().unwrap();
    assert_eq!(series.iter().map(|it| total(&it["answers"])).sum::<u64>(), reads);
    let queries = series.iter().map(|it| number(&it["queries"])).sum::<u64>();
    assert_eq!(queries, number(&mode["postgres"]["queries"]));
    let latency = mode["latency"].as_array().unwrap();
    assert_eq!(latency[0]["source"], "all");
    for it in latency {
        let quantiles = &it["quantiles"];
        let count = match it["source"].as_str().unwrap() {
            "all" => reads,
            source => number(&mode["answers"][source]),
        };
        assert_eq!(number(&quantiles["count"]), count);
        let bars = it["bars"].as_array().unwrap();
        assert_eq!(bars.iter().map(|bar| number(&bar["count"])).sum::<u64>(), count);
        let rising = ["p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"];
        assert!(rising.map(|name| number(&quantiles[name])).is_sorted(), "{quantiles}");
        assert!(number(&quantiles["p50_ns"]) > 20, "{quantiles}");
    }
    let written = &mode["postgres"]["writes"];
    let currency = &mode["currency"];
    let announced = number(&currency["acknowledged"]) + number(&currency["unacknowledged"]);
    assert_eq!(announced, number(written));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_answers_from_where_it_may_and_its_numbers_agree() {
    let place = Place::new().await;
    let report = place.report("--reads 3001 --keys 40 --tasks 3 --writes 3% --seed 5").await;
    assert_eq!(report["modes"].as_array().unwrap().len(), 4);
    for mode in report["modes"].as_array().unwrap() {
        ensure_sums(mode);
        assert_eq!(number(&mode["reads"]), 3001);
        assert_eq!(mode["ended"], "reads");
        assert!(number(&mode["postgres"]["writes"]) > 0);
    }
    let none = mode(&report, "none");
    assert_eq!(none["answers"]["postgres"], 3001);
    assert_eq!(none["postgres"]["queries"], 3001);
    let l1 = mode(&report, "l1");
    assert_eq!((&l1["answers"]["l2"], &l1["redis"]), (&0.into(), &Value::Null));
    assert!(number(&l1["answers"]["l1"]) > 0);
    let l2 = mode(&report, "l2");
    assert_eq!(l2["answers"]["l1"], 0);
    assert!(number(&l2["answers"]["l2"]) > 0 && number(&l2["redis"]["bytes_out"]) > 0);
    let both = mode(&report, "both");
    assert!(number(&both["answers"]["l1"]) > 0 && number(&both["answers"]["l2"]) > 0);
    for cached in [l1, l2, both] {
        let (queries, loaded) =
            (number(&cached["postgres"]["queries"]), number(&cached["answers"]["loaded"]));
        // One that is told by another process that it has loaded just now ran no query itself.
        assert!(0 < queries && queries <= loaded && loaded < 3001, "{queries}, {loaded}");
        assert!(cached["versus_none"]["fewer_queries"].as_f64().unwrap() > 1.0);
        assert_eq!(cached["answers"]["postgres"], 0);
    }
    assert_eq!(place.schemas().await, Vec::<String>::new());
    assert!(!place.keys().contains("larder:"), "{}", place.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_alone_needs_no_redis() {
    let place = Place::new().await;
    let mut bench = place.bench("--modes l1 --reads 500 --keys 10 --workload uniform --writes 0");
    bench.args(["--processes=1", "--tasks=1", "--json"]).env_remove("LARDER_REDIS");
    let ran = run(bench).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let answers = &mode(&report, "l1")["answers"];
    assert_eq!((&answers["loaded"], &answers["l1"]), (&10.into(), &490.into()));
    assert_eq!(report["servers"]["redis"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_at_a_rate_and_stale_answers_are_counted() {
    let place = Place::new().await;
    let report = place
        .report(
            "--modes both --duration 1500ms --keys 5 --writes 40/s --ttl 100ms \
             --stale-while-revalidate 30s",
        )
        .await;
    let both = mode(&report, "both");
    ensure_sums(both);
    assert_eq!(both["ended"], "duration");
    assert!(number(&both["answers"]["stale"]) > 0, "{}", both["answers"]);
    let writes = number(&both["postgres"]["writes"]);
    assert!(0 < writes && writes <= 70, "{writes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_replayed_to_its_end_by_all_processes_together() {
    let place = Place::new().await;
    let trace: String = (0..1001).map(|number| format!("{}\n", number * number % 97)).collect();
    std::fs::write(place.path("trace.txt"), trace).unwrap();
    let file = place.path("report.json");
    let arguments = format!(
        "--trace {} --modes both --sweep=10% --writes 0 --json {}",
        place.path("trace.txt").display(),
        file.display()
    );
    let ran = run(place.bench(&arguments)).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.contains("1,001 accesses to 49 keys"), "{}", ran.out);
    let report: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let both = mode(&report, "both");
    ensure_sums(both);
    assert_eq!((&both["reads"], &both["ended"]), (&1001.into(), &"reads".into()));
    assert_eq!(report["sweep"]["accesses"], 1001);
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_gives_the_report_so_far_and_leaves_nothing() {
    let place = Place::new().await;
    let mut bench = place.bench("--modes both,none --duration 10m --keys 40 --writes 20% --json");
    let child = bench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("it reads and writes", async || place.versions().await > 0).await;
    let pid = child.id();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    signal("INT", pid);
    let output = ended.await.unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    assert_eq!(report["modes"].as_array().unwrap().len(), 1);
    let both = mode(&report, "both");
    assert_eq!(both["ended"], "interrupted");
    ensure_sums(both);
    assert_eq!(place.schemas().await, Vec::<String>::new());
    assert!(!place.keys().contains("larder:"), "{}", place.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_one_leaves_is_dropped_when_asked_and_nothing_in_use() {
    let place = Place::new().await;
    let mut bench = place.bench("--modes l1 --duration 10m --keys 40");
    let mut child = bench.stdout(Stdio::null()).spawn().unwrap();
    until("there is a schema", async || place.schemas().await.len() == 1).await;
    let clean = || async {
        let ran = run(place.clean()).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        ran.out
    };
    let schema = place.schemas().await.remove(0);
    // It is locked before it is made.
    let said = clean().await;
    assert!(said.contains("in use") && said.contains(&schema), "{said}");
    assert_eq!(place.schemas().await, std::slice::from_ref(&schema));
    child.kill().unwrap();
    child.wait().unwrap();
    until("it is dropped", async || clean().await.contains("dropped 1 schema")).await;
    assert_eq!(place.schemas().await, Vec::<String>::new());
}

impl Place {
    fn clean(&self) -> Command {
        let mut command = larder(["bench", "--clean"]);
        command.env("LARDER_POSTGRES", self.database.url());
        command
    }
}

/// Runs it without any server.
async fn refused(arguments: &[&str]) -> Ran {
    let mut command = larder(["bench"]);
    command.args(arguments);
    let ran = run(command).await;
    assert_eq!(ran.out, "");
    ran
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_cannot_be_used_is_told_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, contents: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path
    };
    for (path, word) in [
        (directory.path().join("missing"), "No such file"),
        (directory.path().to_owned(), "directory"),
        (file("empty", b""), "empty"),
        (file("words", b"1\n2\nthree\n"), "line 3"),
        (file("odd", &[0, 0, 0, 1, 0, 0]), "6 bytes"),
        (file("cut.xz", b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46"), "damaged or cut off"),
    ] {
        let path = path.to_str().unwrap();
        let ran = refused(&["--sweep-only", "--trace", path]).await;
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains(word) && ran.err.contains(path), "{}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_exclude_each_other_are_told() {
    for arguments in [
        &["--trace", "t", "--keys", "5"][..],
        &["--workload", "uniform", "--sweep"],
        &["--workload", "trace"],
        &["--tasks", "0"],
        &["--skew=-1"],
        &["--writes", "lots"],
        &["--sweep-only", "--modes", "none"],
    ] {
        let ran = refused(arguments).await;
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(arguments[0].split('=').next().unwrap()), "{}", ran.err);
    }
    // The second is its name in earlier versions.
    for name in ["--max-staleness", "--max-blind"] {
        let ran = refused(&[name, "1ms", "--postgres", "host=/nowhere"]).await;
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains("max_staleness"), "{}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_not_there_are_named_without_passwords() {
    let place = Place::new().await;
    let secret = |server: &str| format!("{server}://me:hunter2@127.0.0.1:1");
    let (redis, postgres) = (secret("redis"), secret("postgres"));
    let ran = refused(&["--modes", "none", "--postgres", &postgres]).await;
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("127.0.0.1:1") && !ran.err.contains("hunter2"), "{}", ran.err);
    let ran = refused(&["--postgres", &place.database.url(), "--redis", &redis]).await;
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("127.0.0.1:1") && !ran.err.contains("hunter2"), "{}", ran.err);
    let ran = refused(&[]).await;
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("--postgres"), "{}", ran.err);
    assert_eq!(place.schemas().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_could_not_be_written_is_told_before_anything_is_asked() {
    // Nor is there a server at that place.
    for kind in ["--json", "--html"] {
        let ran = refused(&[kind, "/nowhere/report", "--postgres", "host=/nowhere"]).await;
        assert_eq!(ran.code, 4, "{}", ran.err);
        assert!(ran.err.contains("cannot write /nowhere/report:"), "{}", ran.err);
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report");
    let file = file.to_str().unwrap();
    let again = file.replace("/report", "/./report");
    let ran = refused(&["--json", file, "--html", &again, "--postgres", "host=/nowhere"]).await;
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("the same file"), "{}", ran.err);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

fn swept(path: &Path, columns: &str) -> Command {
    let mut command = larder(["bench", "--sweep-only", "--sweep=300,50%", "--trace"]);
    command.arg(path).env("COLUMNS", columns);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_knows_the_best_and_needs_no_servers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace");
    let around: String = (0..4000).map(|number| format!("{}\n", number % 400)).collect();
    std::fs::write(&path, around).unwrap();
    let mut command = swept(&path, "80");
    command.arg("--json");
    let ran = run(command).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let points = report["sweep"]["points"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    // Keys in turn through too little room: the best keeps as many as it can for good, and who
    // throws out what was used longest ago throws out what comes next.
    for (point, keys) in points.iter().zip([200, 300]) {
        assert_eq!(number(&point["capacity_keys"]), keys);
        assert_eq!(point["lru"].as_f64(), Some(0.0));
        // Moka holds up to 64 more than its bound until it gets round to that.
        let best = (keys + 64) as f64 * 9.0 / 4000.0;
        assert_eq!(point["opt"].as_f64(), Some(best));
        assert!(point["larder"].as_f64().unwrap() <= best, "{point}");
    }
    assert_eq!(report["servers"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_text_fits_into_narrow_terminals() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace");
    std::fs::write(&path, "1\n2\n3\n1\n").unwrap();
    let place = Place::new().await;
    for columns in ["80", "40"] {
        let mut bench = place.bench("--modes none,both --reads 300 --keys 20");
        bench.env("COLUMNS", columns);
        for ran in [run(bench).await, run(swept(&path, columns)).await] {
            assert_eq!((ran.code, ran.err.as_str()), (0, ""));
            let widest = ran.out.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= columns.parse().unwrap(), "{widest} of {columns}:\n{}", ran.out);
            assert!(!ran.out.contains('\x1b'), "colours without a terminal");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_restarted_meanwhile_does_not_end_it_without_a_report() {
    for comes_back in [true, false] {
        let mut place = Place::new().await;
        let arguments = "--modes l2 --duration 3s --writes 50% --processes 1 --json";
        let mut command = place.bench(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("it writes", async || place.versions().await > 0).await;
        place.redis.kill().unwrap();
        if comes_back {
            place.redis.restart().unwrap();
        }
        let output =
            tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        let redis = &report["modes"][0]["redis"];
        assert_eq!(redis["commands"].as_u64().unwrap() > 0, comes_back, "{redis}");
        assert_eq!(err.contains("does not answer INFO"), !comes_back, "{err}");
        assert!(report["modes"][0]["reads"].as_u64().unwrap() > 0, "{out}");
    }
}
