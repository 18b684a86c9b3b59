//! A report as `larder bench --json` writes it, made up: what a page shows can be foreseen, and it
//! takes no time.

use serde_json::{Value, json};

/// Where answers come from in a mode, at some share of its run.
type Mix = fn(f64) -> [(&'static str, f64); 6];

/// All four modes, and a sweep.
pub fn report() -> Value {
    let none = mode("none", QUERIES, |_| mix([0.0, 0.0, 0.0, 0.0, 0.0, 1.0]));
    let l1 = mode("l1", 21_000.0, |at| {
        let warm = 1.0 - (-12.0 * at).exp();
        mix([0.93 * warm, 0.0, 1.0 - 0.95 * warm, 0.02 * warm, 0.0, 0.0])
    });
    let l2 = mode("l2", 16_500.0, |at| {
        let warm = 1.0 - (-16.0 * at).exp();
        mix([0.0, 0.95 * warm, 1.0 - 0.965 * warm, 0.015 * warm, 0.0, 0.0])
    });
    let both = mode("both", 48_000.0, |at| {
        let warm = 1.0 - (-18.0 * at).exp();
        let wave = 0.01 * (20.0 * at).sin();
        mix([
            (0.89 + wave) * warm,
            (0.075 - wave) * warm,
            1.0 - 0.98 * warm,
            0.013 * warm,
            0.002 * warm,
            0.0,
        ])
    });
    let mut modes = vec![none, l1, l2, both];
    let throughput = modes[0]["reads_per_second"].as_f64().unwrap();
    let work = |mode: &Value| {
        mode["postgres"]["query_seconds"].as_f64().unwrap() / mode["reads"].as_f64().unwrap()
    };
    let share = |mode: &Value| {
        mode["postgres"]["queries"].as_f64().unwrap() / mode["reads"].as_f64().unwrap()
    };
    let (work_of_none, share_of_none) = (work(&modes[0]), share(&modes[0]));
    for mode in modes.iter_mut().skip(1) {
        mode["versus_none"] = json!({
            "fewer_queries": share_of_none / share(mode),
            "less_query_time": work_of_none / work(mode),
            "throughput": mode["reads_per_second"].as_f64().unwrap() / throughput,
        });
    }
    json!({
        "version": 1,
        "larder": "0.1.0",
        "begun": "2026-03-01T12:00:00Z",
        "command": "larder bench --keys 10000 --writes 1% --sweep --html report.html",
        "interrupted": false,
        "machine": {
            "system": "linux x86_64",
            "processor": "Some Processor 9000 at 3.20 GHz",
            "cores": 8,
            "memory_bytes": 33_554_432_000_u64,
            "debug_build": false,
        },
        "servers": { "redis": "Redis 7.0.15", "postgres": "PostgreSQL 15.18" },
        "workload": {
            "kind": "zipf", "keys": 10_000, "skew": 0.99, "trace": null, "accesses": null, "seed": 42,
        },
        "setup": {
            "processes": 2, "tasks": 8, "connections": 4,
            "duration_seconds": SECONDS, "reads": null, "write_share": 0.01, "write_rate": null,
            "ttl_seconds": 60.0, "stale_while_revalidate_seconds": 5.0, "max_staleness_seconds": 1.0,
            "l1_bytes": 67_108_864, "rows": 10, "row_bytes": 100, "rows_read": 24_000,
            "query_ns": 5_020_000,
        },
        "modes": modes,
        "sweep": sweep(),
    })
}

const SECONDS: f64 = 10.0;
const PARTS: u32 = 60;
const QUERIES: f64 = 1_520.0;

fn mix(shares: [f64; 6]) -> [(&'static str, f64); 6] {
    let names = ["l1", "l2", "loaded", "coalesced", "stale", "postgres"];
    std::array::from_fn(|i| (names[i], shares[i].max(0.0)))
}

fn mode(name: &str, reads_per_second: f64, shares: Mix) -> Value {
    let part = SECONDS / f64::from(PARTS);
    let mut totals = [0_u64; 6];
    let mut all_queries = 0;
    let mut series = vec![];
    for i in 0..PARTS {
        let at = f64::from(i) * part;
        let shares = shares((f64::from(i) + 0.5) / f64::from(PARTS));
        // PostgreSQL does so many queries a second. And some unrest, the same each time.
        let most = QUERIES / (shares[2].1 + shares[5].1);
        let unrest = 1.0 + 0.06 * (f64::from(i) * 2.399).sin();
        let reads_per_second = most.min(reads_per_second);
        let answers: [u64; 6] = std::array::from_fn(|source| {
            (reads_per_second * part * shares[source].1 * unrest).round() as u64
        });
        let queries = answers[2] + answers[5];
        totals.iter_mut().zip(answers).for_each(|(total, answers)| *total += answers);
        all_queries += queries;
        series.push(json!({
            "at_seconds": at,
            "seconds": part,
            "answers": answers_of(&answers),
            "hit_ratio": hits(&answers),
            "errors": 0,
            "queries": queries,
            "queries_running": queries as f64 / part * 0.0052,
            "writes": answers.iter().sum::<u64>() / 100,
        }));
    }
    let reads: u64 = totals.iter().sum();
    let medians = [1.4e3, 210e3, 5.4e6, 3.1e6, 1.6e3, 5.1e6];
    let mut latency: Vec<Value> = shares(0.5)
        .iter()
        .enumerate()
        .filter(|(i, _)| totals[*i] > 0)
        .map(|(i, (source, _))| distribution(source, totals[i], medians[i]))
        .collect();
    let usual = totals.iter().zip(medians).max_by_key(|(total, _)| **total).unwrap().1;
    latency.insert(0, distribution("all", reads, usual));
    let query = distribution("postgres", all_queries, 5.1e6)["quantiles"].clone();
    let redis = json!({
        "bytes_in": reads * 90, "bytes_out": reads * 260, "commands": reads / 3, "errors": 0,
    });
    json!({
        "mode": name,
        "ended": "duration",
        "seconds": SECONDS,
        "reads": reads,
        "reads_per_second": reads as f64 / SECONDS,
        "answers": answers_of(&totals),
        "hit_ratio": hits(&totals),
        "errors": 0,
        "first_error": null,
        "series": series,
        "latency": latency,
        "postgres": {
            "queries": all_queries,
            "query_seconds": all_queries as f64 * 0.0052,
            "queries_running": all_queries as f64 * 0.0052 / SECONDS,
            "query": query,
            "writes": reads / 100,
            "write_seconds": reads as f64 / 100.0 * 0.0011,
        },
        "redis": if matches!(name, "l2" | "both") { redis } else { Value::Null },
        "currency": {
            "checked": reads, "acknowledged": reads / 100, "unacknowledged": 0,
            "behind": if name == "both" { 17 } else { 0 },
            "behind_by": distribution("all", 17, 240e3)["quantiles"],
            "violations": 0,
            "examples": [],
        },
        "versus_none": null,
    })
}

fn answers_of(answers: &[u64; 6]) -> Value {
    let [l1, l2, loaded, coalesced, stale, postgres] = answers;
    json!({
        "l1": l1, "l2": l2, "loaded": loaded, "coalesced": coalesced, "stale": stale,
        "postgres": postgres,
    })
}

fn hits(answers: &[u64; 6]) -> f64 {
    (answers[0] + answers[1] + answers[4]) as f64 / answers.iter().sum::<u64>().max(1) as f64
}

/// Times around a median, with a long tail.
fn distribution(source: &str, count: u64, median: f64) -> Value {
    let most = (count.max(1) as f64).log10();
    let at = |nines: f64| {
        let nines = nines.min(most);
        (median * (1.0 + 0.8 * nines + 0.3 * nines * nines)) as u64
    };
    let mut bars = vec![];
    let mut from = median / 3.0;
    while from < median * 12.0 {
        let away = (from / median).ln();
        let wide = if away < 0.0 { 0.25 } else { 0.6 };
        let height = (-away * away / (2.0 * wide * wide)).exp();
        bars.push(json!({
            "from_ns": from as u64,
            "to_ns": (from * 1.25) as u64,
            "count": (count as f64 * 0.2 * height).round() as u64,
        }));
        from *= 1.25;
    }
    let mut curve = vec![];
    for step in 0..=30 {
        let nines = most * f64::from(step) / 30.0;
        curve.push(json!({ "quantile": 1.0 - 10_f64.powf(-nines), "ns": at(nines) }));
    }
    curve.push(json!({ "quantile": 1.0, "ns": at(most) }));
    json!({
        "source": source,
        "quantiles": {
            "count": count, "mean_ns": median * 1.2, "p50_ns": at(0.301), "p90_ns": at(1.0),
            "p99_ns": at(2.0), "p999_ns": at(3.0), "max_ns": at(most),
        },
        "bars": bars,
        "curve": curve,
    })
}

fn sweep() -> Value {
    let points = [
        (0.01, 0.331, 0.329, 0.214, 0.402),
        (0.02, 0.405, 0.404, 0.291, 0.478),
        (0.05, 0.518, 0.516, 0.410, 0.591),
        (0.1, 0.612, 0.611, 0.519, 0.684),
        (0.25, 0.744, 0.743, 0.689, 0.802),
        (0.5, 0.848, 0.847, 0.823, 0.882),
        (1.0, 0.931, 0.931, 0.931, 0.931),
    ];
    let points = points.map(|(share, larder, moka, lru, opt)| {
        json!({
            "share": share,
            "capacity_keys": (share * 10_000.0) as u64,
            "capacity_bytes": (share * 14_000_000.0) as u64,
            "larder": larder, "moka": moka, "lru": lru, "opt": opt,
        })
    });
    json!({
        "accesses": 1_000_000, "keys": 10_000, "entry_bytes": 1_400, "points": points,
        "interrupted": false,
    })
}
