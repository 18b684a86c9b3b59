//! The report of a run: its verdict and its measurements.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use larder::Origin;

use crate::faults::{Fault, Kind, Place, Timeline};
use crate::histogram::Histogram;
use crate::history::{History, Judged, Verdict};
use crate::record::{Read, Record, Style, Time};
use crate::{KEYS, hung};

/// The newest versions of each entry whose loads are still counted one by one.
const COUNTED: usize = 64;

/// Everything that is counted.
#[derive(Default)]
pub struct Report {
    pub seed: u64,
    pub processes: usize,
    by_origin: BTreeMap<&'static str, u64>,
    pub acknowledged: u64,
    unacknowledged: u64,
    writes_failed: u64,
    pub violations: Vec<String>,
    pub failed: Vec<String>,
    excused: u64,
    pub hung: Vec<String>,
    pub lost: Vec<String>,
    latency: Histogram,
    latency_disturbed: Histogram,
    lag: Histogram,
    /// Loads of the present process in each place, and of all before it.
    loads: Vec<u64>,
    loads_before: u64,
    /// Answers by a load while nothing was wrong, for the newest versions of each entry. Strict reads
    /// are left out: of what memory holds they make no use.
    generations: BTreeMap<(usize, usize), BTreeMap<u64, u64>>,
    /// The same of all older versions.
    per_generation: Histogram,
    recovering: Vec<Recovering>,
    recovered: BTreeMap<Kind, Histogram>,
    interrupted: BTreeMap<Kind, u64>,
}

/// A process that has not had an answer from Redis since a fault was healed.
struct Recovering {
    kind: Kind,
    process: usize,
    since: Time,
    /// When the next fault came.
    until: Time,
}

impl Report {
    pub fn new(seed: u64, processes: usize) -> Self {
        Self { seed, processes, loads: vec![0; processes], ..Self::default() }
    }

    pub fn reads(&self) -> u64 {
        self.by_origin.values().sum()
    }

    /// Counts a record, except that reads are counted when they are judged.
    pub fn count(&mut self, process: usize, record: &Record, timeline: &Timeline) {
        match record {
            Record::Read(_) => {}
            Record::Failed { start, end, error } => {
                if timeline.is_postgres_disturbed(process, *start, *end) {
                    self.excused += 1;
                } else {
                    let at = timeline.seconds(*end);
                    let line = format!("{at} a read of process {process} failed: {error}");
                    self.failed.push(self.told(line, timeline, Vec::new()));
                }
            }
            Record::Waiting { start } => self.wait(process, *start, Time::MAX, timeline),
            Record::Invalidated { acknowledged: true, .. } => self.acknowledged += 1,
            Record::Invalidated { .. } => self.unacknowledged += 1,
            Record::WriteFailed => self.writes_failed += 1,
            Record::Disobeyed { read, invalidated } => {
                let line = format!(
                    "{}: the same process had invalidated version {invalidated} before",
                    describe(process, read, timeline)
                );
                self.violations.push(self.told(line, timeline, Vec::new()));
            }
            Record::Loads(loads) => {
                // Another process, which begins at zero.
                if *loads < self.loads[process] {
                    self.loads_before += self.loads[process];
                }
                self.loads[process] = *loads;
            }
        }
    }

    fn wait(&mut self, process: usize, start: Time, end: Time, timeline: &Timeline) {
        if timeline.is_postgres_disturbed(process, start, end)
            || timeline.is_paused(process, start, end)
        {
            return;
        }
        let took = match end {
            Time::MAX => "has had no answer for too long".to_owned(),
            end => format!("took {:.3} s", (end - start) as f64 / 1e9),
        };
        let line = format!("{} a read of process {process} {took}", timeline.seconds(start));
        self.hung.push(self.told(line, timeline, Vec::new()));
    }

    /// Prints what must not be, at once and with what may explain it.
    fn told(&self, mut line: String, timeline: &Timeline, around: Vec<String>) -> String {
        let _ = write!(line, "\n  seed {}; the last faults:", self.seed);
        timeline.tail().iter().for_each(|fault| line.push_str(&format!("\n    {fault}")));
        if !around.is_empty() {
            line.push_str("\n  the key's last events:");
            around.iter().for_each(|event| line.push_str(&format!("\n    {event}")));
        }
        println!("{line}");
        line
    }

    /// Counts a read and what became of it.
    pub fn judged(&mut self, judged: &Judged, history: &History, timeline: &Timeline) {
        let Judged { process, read, verdict } = *judged;
        *self.by_origin.entry(name(read.origin)).or_default() += 1;
        let from_memory = !matches!(read.origin, Origin::L2 | Origin::Loaded);
        match verdict {
            Verdict::Current => {}
            Verdict::Behind(lag) if from_memory => self.lag.add(lag),
            Verdict::Behind(_) => {}
            Verdict::Violation(version, at) => {
                let line = format!(
                    "{}: version {version} had been acknowledged at {}",
                    describe(process, &read, timeline),
                    timeline.seconds(at)
                );
                let around = history.around(read.key, read.start, |at| timeline.seconds(at));
                self.violations.push(self.told(line, timeline, around));
            }
        }
        let hung = Time::try_from(hung().as_nanos()).unwrap_or(Time::MAX);
        if read.took() > hung {
            self.wait(process, read.start, read.end, timeline);
        }
        // While its process stands still, a read says nothing about the cache.
        if !timeline.is_paused(process, read.start, read.end) {
            self.latency.add(read.took());
            if timeline.is_redis_disturbed(process, read.start) {
                self.latency_disturbed.add(read.took());
            }
        }
        match read.origin {
            Origin::Loaded if read.style == Style::Strict => {}
            Origin::Loaded if timeline.is_redis_disturbed(process, read.start) => {}
            Origin::Loaded => self.loaded(&read),
            Origin::L2 => self.recover(process, &read),
            _ => {}
        }
    }

    fn loaded(&mut self, read: &Read) {
        let entry = (read.key, read.style.entry());
        let versions = self.generations.entry(entry).or_default();
        *versions.entry(read.version).or_default() += 1;
        if versions.len() > COUNTED
            && let Some((_, loads)) = versions.pop_first()
        {
            self.per_generation.add(loads);
        }
    }

    fn recover(&mut self, process: usize, read: &Read) {
        let recovered = &mut self.recovered;
        self.recovering.retain(|it| {
            let after = it.process == process && (it.since..it.until).contains(&read.start);
            if after {
                recovered.entry(it.kind).or_default().add(read.end - it.since);
            }
            !after
        });
    }

    /// A fault begins: what was recovering from an earlier one is disturbed.
    pub fn disturbed(&mut self, fault: &Fault) {
        for it in &mut self.recovering {
            // Without PostgreSQL there is nothing new in Redis.
            if fault.targets.contains(&it.process) {
                it.until = it.until.min(fault.begin);
            }
        }
    }

    /// A fault has been healed.
    pub fn healed(&mut self, fault: &Fault, last: &[Time]) {
        if matches!(fault.kind.place(), Place::Postgres | Place::Stream) {
            return;
        }
        for &process in &fault.targets {
            let (kind, since) = (fault.kind, fault.end);
            // Another fault may still last.
            let until = last[process];
            self.recovering.push(Recovering { kind, process, since, until });
        }
    }

    /// All reads have been judged that began before: who was disturbed by then has not recovered.
    pub fn give_up(&mut self, upto: Time) {
        let interrupted = &mut self.interrupted;
        self.recovering.retain(|it| {
            let over = it.until < upto;
            if over {
                *interrupted.entry(it.kind).or_default() += 1;
            }
            !over
        });
    }

    /// Who has not recovered although nothing came in between.
    pub fn unrecovered(&self) -> Vec<String> {
        let line = |it: &Recovering| format!("process {} from {}", it.process, it.kind.name());
        self.recovering.iter().filter(|it| it.until == Time::MAX).map(line).collect()
    }

    /// The report as a text.
    pub fn text(&self, seconds: f64, timeline: &Timeline) -> String {
        let mut text = String::from("Larder under chaos\n");
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<36}{value}");
        };
        line("seed", self.seed.to_string());
        line("seconds", format!("{seconds:.1}"));
        line("processes, keys", format!("{}, {KEYS}", self.processes));
        let reads = self.reads();
        line("reads", format!("{reads}, {:.0} a second", reads as f64 / seconds));
        for (origin, count) in &self.by_origin {
            let share = 100.0 * *count as f64 / reads.max(1) as f64;
            line(&format!("  {origin}"), format!("{count}, {share:.1} %"));
        }
        line("invalidations acknowledged", self.acknowledged.to_string());
        line("invalidations not acknowledged", self.unacknowledged.to_string());
        line("writes failed", self.writes_failed.to_string());
        line("violations", self.violations.len().to_string());
        line("lost invalidations", self.lost.len().to_string());
        line(
            "failed reads",
            format!("{}, and {} with PostgreSQL", self.failed.len(), self.excused),
        );
        line("hung reads", self.hung.len().to_string());
        line("read latency", times(&self.latency));
        line("read latency during Redis faults", times(&self.latency_disturbed));
        line("lag of answers that were behind", times(&self.lag));
        let loads: u64 = self.loads_before + self.loads.iter().sum::<u64>();
        let mut per_generation = self.per_generation.clone();
        let counted = self.generations.values().flat_map(BTreeMap::values);
        counted.for_each(|loads| per_generation.add(*loads));
        line("loads", loads.to_string());
        let generations = per_generation.count();
        let [p50, p99] = [0.5, 0.99].map(|portion| per_generation.quantile(portion));
        let max = per_generation.max();
        line(
            "loads per generation, undisturbed",
            format!("p50 {p50}, p99 {p99}, max {max}, of {generations}"),
        );

        let _ = writeln!(text, "\n{:<36}{:>5}   recovered processes: p50, max", "fault", "times");
        for kind in Kind::ALL.into_iter().chain(Kind::FOLLOWED) {
            let happened = timeline.faults.iter().filter(|fault| fault.kind == kind).count();
            if happened == 0 {
                continue;
            }
            let recovered = self.recovered.get(&kind).map(|times| {
                let (p50, max) = (duration(times.quantile(0.5)), duration(times.max()));
                format!("{:>6}: {p50:>9}, {max:>9}", times.count())
            });
            let interrupted = match self.interrupted.get(&kind) {
                Some(count) => format!("; {count} disturbed before"),
                None => String::new(),
            };
            let recovered = recovered.unwrap_or_default();
            let row = format!("{:<36}{happened:>5}   {recovered}{interrupted}", kind.name());
            let _ = writeln!(text, "{}", row.trim_end());
        }
        text
    }
}

fn describe(process: usize, read: &Read, timeline: &Timeline) -> String {
    let Read { key, version, start, end, origin, style } = *read;
    let took = (end - start) as f64 / 1e6;
    format!(
        "{} process {process} read version {version} of key {key} from {origin:?} ({style:?}, \
         {took:.3} ms)",
        timeline.seconds(start)
    )
}

fn name(origin: Origin) -> &'static str {
    match origin {
        Origin::L1 => "L1",
        Origin::L2 => "L2",
        Origin::Loaded => "loaded",
        Origin::Coalesced => "coalesced",
        _ => "stale",
    }
}

fn times(times: &Histogram) -> String {
    let [p50, p99] = [0.5, 0.99].map(|portion| duration(times.quantile(portion)));
    format!("p50 {p50}, p99 {p99}, max {}, of {}", duration(times.max()), times.count())
}

fn duration(nanoseconds: u64) -> String {
    match nanoseconds as f64 {
        it if it < 1e6 => format!("{:.1} µs", it / 1e3),
        it if it < 1e9 => format!("{:.1} ms", it / 1e6),
        it => format!("{:.2} s", it / 1e9),
    }
}
