//! Is any answer older than promised, whatever fails?
//!
//! Several processes read and write the same rows, each through its own cache over one Redis.
//! Meanwhile servers, networks and processes are killed, paused, cut off and reset. Every row has a
//! version that each write increments. Every read and every acknowledged invalidation is reported
//! to a checker, with the times at which it began and ended by a clock that all processes share:
//!
//! ```text
//! worker 0 ── proxy ──┐           worker ── stdout ──▶ history (judges)
//! worker 1 ── proxy ──┼─ Redis                              │
//! worker … ── proxy ──┘                                     ▼
//!    └──────── PostgreSQL                                 report
//! ```
//!
//! `scripts/chaos` runs it for any length of time. The seed of a run repeats its faults; the
//! operations of the processes between the faults depend on the machine.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `LARDER_CHAOS_SECONDS` | the length of the run (20) |
//! | `LARDER_CHAOS_SEED` | the seed of the faults (random) |
//! | `LARDER_CHAOS_PROCESSES` | the number of processes (8) |
//! | `LARDER_CHAOS_TAGS` | the number of tags besides those of the rows, which fill the directory (none) |
//! | `LARDER_CHAOS_BUSY` | the number of threads that keep a processor busy meanwhile (none) |
//! | `LARDER_CHAOS_FOLLOW` | if set, nobody invalidates anything: the caches follow the database, by queries that learn |
//! | `LARDER_CHAOS_REPORT` | a file that receives a copy of the report |

use test_servers as servers;

mod faults;
mod fleet;
mod histogram;
mod history;
mod record;
mod report;
mod worker;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use self::faults::{Fault, Kind, Place, Plan, Timeline};
use self::fleet::{Fleet, Said};
use self::history::History;
use self::record::{Record, Time, now};
use self::report::Report;
use self::servers::{ServerError, wait_for};

/// So many rows are there.
const KEYS: usize = 50;
/// The caches' own default, by which their answers are judged.
const MAX_STALENESS: Duration = Duration::from_secs(1);
/// No read takes so long, whatever Redis does. The longest wait that it may cause is for the lease
/// of a process that was killed, two seconds.
const HUNG: Duration = Duration::from_secs(3);
/// The setting of the number of busy threads, which the processes inherit.
const BUSY: &str = "LARDER_CHAOS_BUSY";
/// The default of a cache that follows the database: how late it may notice a commit.
const MAX_BLIND: Duration = Duration::from_secs(2);
/// Set if the caches follow the database. The processes inherit it.
const FOLLOW: &str = "LARDER_CHAOS_FOLLOW";
/// How long processes may take to do as they are told.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is kept at the end for the last fault and for what follows it.
const FAREWELL: Duration = Duration::from_secs(4);
/// How often every process reads everything at the end, as long as an answer is too old.
const ROUNDS: usize = 10;
/// From here on there is time for long faults.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn no_answer_is_older_than_promised_whatever_goes_wrong() -> Result<(), ServerError> {
    let seconds = setting("LARDER_CHAOS_SECONDS").unwrap_or(20);
    let seed = setting("LARDER_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let processes = setting("LARDER_CHAOS_PROCESSES").unwrap_or(8) as usize;
    assert!(processes >= 2, "chaos takes two processes at least");
    let tags = setting("LARDER_CHAOS_TAGS").unwrap_or(0);
    let busy = setting(BUSY).unwrap_or(0);
    let way = if follows() { "followed" } else { "told" };
    println!("chaos with LARDER_CHAOS_SEED={seed}, {tags} other tags, {busy} busy threads, {way}");
    let _busy = Busy::start(busy);

    let length = Duration::from_secs(seconds);
    let mut run = Run::start(seed, processes, tags)?;
    let mut plan = Plan::new(seed, processes, length >= LONG, follows());
    run.suffer(&mut plan, length.saturating_sub(FAREWELL))?;
    run.part()?;
    run.settle()?;
    let (report, kinds) = run.end()?;

    assert!(report.violations.is_empty(), "{}", report.violations.join("\n"));
    assert!(report.lost.is_empty(), "{}", report.lost.join("\n"));
    assert!(report.failed.is_empty(), "{}", report.failed.join("\n"));
    assert!(report.hung.is_empty(), "{}", report.hung.join("\n"));
    let unrecovered = report.unrecovered();
    assert!(unrecovered.is_empty(), "not recovered at the end: {}", unrecovered.join(", "));
    assert!(report.reads() > 100 * seconds, "only {} reads", report.reads());
    assert!(report.acknowledged > 10 * seconds, "only {} invalidations", report.acknowledged);
    // Shorter runs are for those who look for something.
    let enough = if seconds >= 20 { 12 } else { 0 };
    assert!(kinds.len() >= enough, "only {kinds:?}");
    Ok(())
}

/// How long a read may take. While Redis is away, all processes load from PostgreSQL, and on processors
/// that others keep busy it is PostgreSQL that they wait for.
fn hung() -> Duration {
    HUNG * (1 + setting(BUSY).unwrap_or(0) as u32)
}

/// Whether the caches follow the database, and nobody invalidates anything.
fn follows() -> bool {
    std::env::var_os(FOLLOW).is_some()
}

fn setting(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is {value:?}, and is to be a number")))
}

/// Threads that take processors away from everybody else, until it is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start(threads: u64) -> Self {
        let busy = Arc::new(AtomicBool::new(true));
        for _ in 0..threads {
            let busy = busy.clone();
            std::thread::spawn(move || {
                while busy.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

struct Run {
    fleet: Fleet,
    history: History,
    timeline: Timeline,
    report: Report,
    /// The highest version of each key that each process has to announce still, as far as is known.
    unannounced: Vec<[u64; KEYS]>,
    resting: usize,
    settled: usize,
    /// Answers of the last round that were too old.
    behind: Vec<String>,
}

/// A fault that lasts.
struct Lasting {
    /// Its place in the timeline.
    number: usize,
    until: Time,
}

impl Run {
    fn start(seed: u64, processes: usize, tags: u64) -> Result<Self, ServerError> {
        let fleet = Fleet::start_all(processes, seed, tags)?;
        Ok(Self {
            fleet,
            history: if follows() {
                History::of_followed(KEYS, nanoseconds(MAX_BLIND))
            } else {
                History::new(KEYS, nanoseconds(MAX_STALENESS))
            },
            timeline: Timeline::new(now()),
            report: Report::new(seed, processes),
            unannounced: vec![[0; KEYS]; processes],
            resting: 0,
            settled: 0,
            behind: Vec::new(),
        })
    }

    /// One fault after the other, and sometimes two at once, with quiet moments between.
    fn suffer(&mut self, plan: &mut Plan, length: Duration) -> Result<(), ServerError> {
        let end = self.timeline.began + nanoseconds(length);
        let mut lasting: Vec<Lasting> = Vec::new();
        self.pass(Duration::from_secs(1));
        self.fleet.redis.snapshot()?;
        let mut next = now();
        while now() < end || !lasting.is_empty() {
            let awaited = lasting.iter().map(|it| it.until).chain([next]).min().unwrap_or(next);
            self.pass(Duration::from_nanos(awaited.saturating_sub(now())));
            let at = now();
            for Lasting { number, .. } in lasting.extract_if(.., |it| it.until <= at) {
                self.heal(number)?;
                next = next.max(now() + nanoseconds(plan.pause()));
            }
            if now() < next {
                continue;
            }
            let mut waits = false;
            let is_free = |place| {
                let in_place = |it: &Lasting| self.timeline.faults[it.number].kind.place() == place;
                !lasting.iter().any(in_place)
            };
            if lasting.len() < 2
                && at < end
                && let Some((kind, targets, length)) = plan.next(is_free)
            {
                waits = plan.waits_for(kind);
                if is_free(Place::Redis) && self.timeline.faults.len().is_multiple_of(3) {
                    self.fleet.redis.snapshot()?;
                }
                let number = self.inject(kind, targets)?;
                lasting.push(Lasting { number, until: now() + nanoseconds(length) });
            }
            next = match lasting.iter().map(|it| it.until).min() {
                // It is set anew when the first of them ends.
                Some(until) if waits || lasting.len() == 2 => until,
                _ => now() + nanoseconds(plan.pause()),
            };
        }
        Ok(())
    }

    fn inject(&mut self, kind: Kind, targets: Vec<usize>) -> Result<usize, ServerError> {
        let fault = Fault { kind, targets, begin: now(), end: Time::MAX };
        self.report.disturbed(&fault);
        self.timeline.faults.push(fault);
        let number = self.timeline.faults.len() - 1;
        let targets = self.timeline.faults[number].targets.clone();
        kind.inject(&mut self.fleet, &targets)?;
        if kind == Kind::WorkerKilled {
            self.listen();
            // With the processes, what they had to announce is gone.
            targets.iter().for_each(|&target| self.unannounced[target] = [0; KEYS]);
        }
        Ok(number)
    }

    fn heal(&mut self, number: usize) -> Result<(), ServerError> {
        let Fault { kind, targets, .. } = &self.timeline.faults[number];
        kind.heal(&mut self.fleet, targets)?;
        self.timeline.faults[number].end = now();
        // What lasts beside it, and began before: its processes cannot recover.
        let disturbed = |process| {
            let lasting =
                |fault: &&Fault| fault.end == Time::MAX && fault.targets.contains(&process);
            let first = self.timeline.faults.iter().rev().take(8).find(lasting);
            first.map_or(Time::MAX, |fault| fault.begin)
        };
        let until: Vec<_> = (0..self.report.processes).map(disturbed).collect();
        self.report.healed(&self.timeline.faults[number], &until);
        Ok(())
    }

    /// The last fault: half of the processes are cut off, go on with their invalidations, and have
    /// to announce them when they are back. The other half keeps what these make stale.
    fn part(&mut self) -> Result<(), ServerError> {
        self.pass(Duration::from_secs(1));
        let half = (0..self.report.processes).step_by(2).collect();
        let number = self.inject(Kind::Cut, half)?;
        self.pass(Duration::from_millis(400));
        self.fleet.order("rest")?;
        self.until("the writers rest", |run| run.resting == run.report.processes);
        self.heal(number)?;
        let latest = if follows() { MAX_BLIND } else { MAX_STALENESS };
        self.pass(latest + Duration::from_secs(1));
        Ok(())
    }

    /// Now every process has to know of every invalidation.
    fn settle(&mut self) -> Result<(), ServerError> {
        let mut least = self.history.newest();
        for unannounced in &self.unannounced {
            let both = least.iter_mut().zip(unannounced);
            both.for_each(|(least, version)| *least = (*least).max(*version));
        }
        let words: Vec<_> = least.iter().map(u64::to_string).collect();
        let order = format!("settle {}", words.join(" "));
        for round in 0..ROUNDS {
            self.behind.clear();
            self.settled = 0;
            self.fleet.order(&order)?;
            self.until("all have read everything", |run| run.settled == run.report.processes);
            if round == 0 {
                let explained = self.behind.iter().map(|line| self.explain(line, &least));
                self.report.lost = explained.collect();
                self.report.lost.iter().for_each(|line| println!("{line}"));
            } else if !self.report.lost.is_empty() {
                // Whether they were lost for good or only late.
                println!("{} answers are behind in round {round}", self.behind.len());
            }
            if self.behind.is_empty() {
                break;
            }
            self.pass(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Who should have announced what a process does not know.
    fn explain(&self, line: &str, least: &[u64]) -> String {
        let key = line.split_whitespace().nth(3).and_then(|word| word.parse::<usize>().ok());
        let Some(key) = key else { return line.to_owned() };
        let holders: Vec<_> = (0..self.unannounced.len())
            .filter(|&process| self.unannounced[process][key] == least[key])
            .collect();
        let around = self.history.around(key, now(), |at| self.timeline.seconds(at));
        format!(
            "{line}, not {}, which these had to announce: {holders:?}\n    {}",
            least[key],
            around.join("\n    ")
        )
    }

    fn end(mut self) -> Result<(Report, BTreeSet<Kind>), ServerError> {
        let seconds = (now() - self.timeline.began) as f64 / 1e9;
        self.fleet.finish()?;
        self.listen();
        assert_eq!(self.history.held(), 0, "reads that nobody judged");
        let text = self.report.text(seconds, &self.timeline);
        println!("{text}");
        if let Some(file) = std::env::var_os("LARDER_CHAOS_REPORT") {
            std::fs::write(&file, text).unwrap_or_else(|error| panic!("write {file:?}: {error}"));
        }
        let kinds: BTreeSet<_> = self.timeline.faults.iter().map(|fault| fault.kind).collect();
        Ok((self.report, kinds))
    }

    /// Lets time pass, and hears what is said meanwhile.
    fn pass(&mut self, time: Duration) {
        wait_for(time, || {
            self.listen();
            None::<()>
        });
    }

    fn until(&mut self, what: &str, happened: impl Fn(&Self) -> bool) {
        let waited = wait_for(PATIENCE, || {
            self.listen();
            happened(self).then_some(())
        });
        assert!(waited.is_some(), "waited in vain until {what}");
    }

    fn listen(&mut self) {
        let Self { fleet, history, timeline, report, unannounced, resting, settled, behind } = self;
        fleet.listen(|process, said| match said {
            Said::Record(record) => {
                report.count(process, &record, timeline);
                match record {
                    Record::Read(read) => history.hold(process, read),
                    Record::Invalidated { key, version, at, acknowledged: true } => {
                        history.acknowledge(key, version, at);
                    }
                    Record::Invalidated { key, version, .. } => {
                        let highest = &mut unannounced[process][key];
                        *highest = (*highest).max(version);
                    }
                    _ => {}
                }
            }
            Said::Line(line) => match line.as_str() {
                "resting" => *resting += 1,
                "settled" => *settled += 1,
                _ => behind.push(format!("process {process} {line}")),
            },
        });
        let told = fleet.told();
        history.judge(told, |history, judged| report.judged(&judged, history, timeline));
        report.give_up(told);
    }
}

fn nanoseconds(duration: Duration) -> Time {
    Time::try_from(duration.as_nanos()).unwrap_or(Time::MAX)
}
