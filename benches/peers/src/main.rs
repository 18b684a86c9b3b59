//! Larder beside other caches, on the same work, over the same Redis and PostgreSQL.
//!
//! ```sh
//! cargo run --release --manifest-path benches/peers/Cargo.toml
//! ```
//!
//! Prints the table that stands in `benches/README.md`. A number as its argument is the number of
//! turns; in each, everybody does the same work once, in an order that shifts by one from turn to
//! turn. Servers are started privately, as in Larder's tests.

#[path = "../../common/mod.rs"]
mod common;
mod contest;
mod faults;
mod peer;
mod peers;
mod table;
mod work;

use std::process::Command;
use std::sync::Arc;

use contest::{Contestant, Entry, Shared, Took};
use faults::Fault;
use peers::{ByHand, Cached, CachedByKey, Floor, Hitbox, LarderRows, LarderTyped, MultiTier};
use test_servers::Redis;
use table::{Table, median, time};
use tokio::runtime::Runtime;
use work::{LARGE, SMALL};

const TURNS: usize = 11;

const IN_REDIS: [Shared; 3] = [
    Shared { name: "1 KB, one at a time", region: SMALL, first: 10_000, tasks: 1, each: 300 },
    Shared { name: "1 KB, 64 tasks", region: SMALL, first: 20_000, tasks: 64, each: 50 },
    Shared { name: "100 KB, one at a time", region: LARGE, first: 30_000, tasks: 1, each: 50 },
];

/// Each does the same once a turn; what each took, turn by turn.
fn turns<T>(
    contestants: &mut [Box<dyn Contestant>],
    turns: usize,
    mut take: impl FnMut(&mut dyn Contestant) -> T,
) -> Vec<Vec<T>> {
    let count = contestants.len();
    let mut taken: Vec<Vec<T>> = contestants.iter().map(|_| vec![]).collect();
    for turn in 0..turns {
        for place in 0..count {
            let who = (place + turn) % count;
            taken[who].push(take(&mut *contestants[who]));
        }
    }
    taken
}

/// The median, and the median of the turns' ratios over the floor, which is the first.
fn over_floor(seconds: &[Vec<f64>]) -> Vec<String> {
    let cell = |of: &Vec<f64>| {
        let ratio = median(of.iter().zip(&seconds[0]).map(|(of, floor)| of / floor));
        format!("{}, {ratio:.2} ×", time(median(of.iter().copied())))
    };
    let floor = time(median(seconds[0].iter().copied()));
    std::iter::once(floor).chain(seconds[1..].iter().map(cell)).collect()
}

fn in_memory(contestants: &mut [Box<dyn Contestant>], count: usize, table: &mut Table) {
    let taken = turns(contestants, count, |each| (each.hits(1), each.hits(2)));
    let one: Vec<Vec<f64>> =
        taken.iter().map(|turns| turns.iter().map(|(one, _)| 1.0 / one).collect()).collect();
    table.line("hit in memory, ten rows", over_floor(&one));
    let two = |turns: &Vec<(f64, f64)>| median(turns.iter().map(|(one, two)| two / one));
    table.line(
        "hits in memory of two threads over one",
        taken.iter().map(|turns| format!("{:.2} ×", two(turns))),
    );
}

fn in_redis(contestants: &mut [Box<dyn Contestant>], count: usize, table: &mut Table) {
    for case in &IN_REDIS {
        contestants.iter_mut().for_each(|each| each.fill(case));
        let taken = turns(contestants, count, |each| each.shared(case));
        let seconds: Vec<Vec<f64>> = taken
            .iter()
            .map(|turns| turns.iter().map(|Took { seconds, .. }| *seconds).collect())
            .collect();
        table.line(&format!("hit in Redis, {}", case.name), over_floor(&seconds));
        if case.tasks == 1 {
            let bytes = |turns: &Vec<Took>| median(turns.iter().map(|took| took.bytes)) / 1e3;
            table.line(
                "… which takes from Redis",
                taken.iter().map(|turns| format!("{:.1} kB", bytes(turns))),
            );
        }
    }
}

fn at_once(contestants: &mut [Box<dyn Contestant>], count: usize, table: &mut Table) {
    let cases = [
        (1, "64 tasks on one cold key: loads"),
        (2, "the same, half of them in another cache on the same Redis"),
    ];
    for (caches, name) in cases {
        let taken = turns(contestants, count, |each| each.stampede(caches));
        let cell = |turns: &Vec<Option<i64>>| {
            let loads: Option<Vec<f64>> =
                turns.iter().map(|loads| loads.map(|loads| loads as f64)).collect();
            loads.map_or("its store is a static".to_owned(), |loads| format!("{}", median(loads)))
        };
        table.line(name, std::iter::once("".into()).chain(taken.iter().map(cell)));
    }
}

fn harmed(contestants: &mut [Box<dyn Contestant>], count: usize, table: &mut Table) {
    let taken = turns(contestants, count, |each| each.keeps_overtaken());
    let cell = |turns: &Vec<bool>| match turns.iter().filter(|kept| **kept).count() {
        0 => "no".to_owned(),
        kept if kept == turns.len() => "yes, for its whole life".to_owned(),
        kept => format!("in {kept} of {} runs", turns.len()),
    };
    table.line(
        "invalidated while it is loaded: is the old value kept?",
        std::iter::once("".into()).chain(taken.iter().map(cell)),
    );
    let faults = [
        (Fault::Killed, "Redis killed: the next three reads of new keys"),
        (Fault::Frozen, "Redis frozen: the next three reads of new keys"),
    ];
    for (fault, name) in faults {
        // All at the same time, each with its own Redis: they wait more than they work.
        let under = |each: &mut Box<dyn Contestant>| {
            let rounds: Vec<_> = (0..count.min(7)).map(|_| each.under(fault)).collect();
            table::outcomes(&rounds)
        };
        let under = &under;
        let cells: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                contestants.iter_mut().map(|each| scope.spawn(move || under(each))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        table.line(name, std::iter::once("".into()).chain(cells));
    }
}

/// What a program says about itself, on one line.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or(String::new(), |said| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

fn main() {
    let count = match std::env::args().nth(1).map(|turns| turns.parse()) {
        None => TURNS,
        Some(Ok(turns)) if turns > 0 => turns,
        Some(_) => {
            eprintln!("the only argument is the number of turns, {TURNS} without it");
            std::process::exit(2);
        }
    };
    let runtime = Arc::new(Runtime::new().unwrap());
    let redis = Arc::new(Redis::start_tcp().unwrap());
    let mut contestants = [
        Entry::<Floor>::boxed(&runtime, &redis),
        Entry::<LarderRows>::boxed(&runtime, &redis),
        Entry::<LarderTyped>::boxed(&runtime, &redis),
        Entry::<Cached>::boxed(&runtime, &redis),
        Entry::<CachedByKey>::boxed(&runtime, &redis),
        Entry::<MultiTier>::boxed(&runtime, &redis),
        Entry::<Hitbox>::boxed(&runtime, &redis),
        Entry::<ByHand>::boxed(&runtime, &redis),
    ];
    let mut table = Table::new(contestants.iter().map(|each| each.name()));
    in_memory(&mut contestants, count, &mut table);
    in_redis(&mut contestants, count, &mut table);
    at_once(&mut contestants[1..], count, &mut table);
    harmed(&mut contestants[1..], count, &mut table);

    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = said("cut", &["-d ", "-f1-3", "/proc/loadavg"]);
    println!("{}, {cores} cores, load {load}, medians of {count} turns:\n", said("date", &["-uI"]));
    table.print();
    println!();
    for each in &contestants {
        println!("- **{}**: {}.", each.name(), each.remark());
    }
}
