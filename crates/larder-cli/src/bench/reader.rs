//! A reader process: [`Reading`] with what goes in and out, and its answers judged while it reads.

use std::collections::HashMap;
use std::io::{BufRead, Write, stdin, stdout};
use std::process::ExitCode;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::runtime;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::super::failure::Failure;
use super::judge::{Judge, Shown, Verdict};
use super::measure::{Times, pack, record, times};
use super::opened::Opened;
use super::reading::Reading;
use super::report::{Source, Violation};
use super::wire::{FromReader, Outcome, ToReader};
use larder::Tag;

use super::clock::{self, Instant};

/// How often it tells how far it is.
const TICK: Duration = Duration::from_millis(100);

/// So many violations are kept as examples.
const EXAMPLES: usize = 10;

/// Runs a reader process to its end.
pub(in super::super) fn main() -> Result<ExitCode, Failure> {
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("cannot start threads: {error}")))?;
    runtime.block_on(run());
    Ok(ExitCode::SUCCESS)
}

/// What the benchmark says. Its end is the end of this process.
fn incoming() -> UnboundedReceiver<ToReader> {
    let (send, incoming) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in stdin().lock().lines() {
            let message = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            let Some(message) = message else { break };
            if send.send(message).is_err() {
                return;
            }
        }
        std::process::exit(0);
    });
    incoming
}

fn tell(message: &FromReader) {
    let mut line = serde_json::to_vec(message).expect("messages are numbers and texts");
    line.push(b'\n');
    let mut out = stdout().lock();
    // Whoever does not listen any more has ended, and then this process ends.
    let _ = out.write_all(&line).and_then(|()| out.flush());
}

async fn run() {
    let mut incoming = incoming();
    let Some(ToReader::Setup(task)) = incoming.recv().await else { return };
    let opened = match Opened::new(*task).await {
        Ok(opened) => opened,
        Err(error) => return tell(&FromReader::Failed(error)),
    };
    tell(&FromReader::Ready);
    let Some(ToReader::Begin { at, until }) = incoming.recv().await else { return };
    let (told, mut writes) = mpsc::unbounded_channel();
    let reading = Arc::new(Reading::new(opened, at, until, told));
    let mut readers = JoinSet::new();
    for number in 0..reading.opened.task.tasks {
        readers.spawn(reading.clone().read(number));
    }
    let writer = tokio::spawn(reading.clone().write_at_rate());
    let mut court = Court::new(&reading);
    let (mut out_of_time, mut writer) = (false, Some(writer));
    while !court.is_complete() {
        tokio::select! {
            message = incoming.recv() => match message {
                Some(message) => court.hear(message).await,
                None => return,
            },
            Some((number, key)) = writes.recv() => tell(&FromReader::Tell { number, key }),
            _ = court.ticks.tick() => court.sit(),
            Some(ended) = readers.join_next() => {
                match ended {
                    Ok(late) => out_of_time |= late,
                    // It has said so itself, on standard error.
                    Err(_) => return tell(&FromReader::Failed("a reader has panicked".into())),
                }
                if readers.is_empty() {
                    reading.stop();
                }
            }
            _ = async { if let Some(writer) = &mut writer { let _ = writer.await; } },
                if readers.is_empty() && writer.is_some() =>
            {
                writer = None;
                court.adjourn();
            }
        }
    }
    court.sit();
    tell(&FromReader::Done(Box::new(court.outcome(out_of_time))));
    if let Some(cache) = &reading.opened.cache {
        cache.shutdown().await;
    }
}

/// Judges answers as soon as it has heard of all writes from before they were asked for.
struct Court<'r> {
    reading: &'r Arc<Reading>,
    judge: Judge,
    ticks: Interval,
    /// Up to when the writes of each process are known.
    complete: Vec<Instant>,
    own: usize,
    /// Nothing is read or written here any more.
    adjourned: Option<Instant>,
    waiting: Vec<Shown>,
    checked: u64,
    behind: Times,
    violations: u64,
    examples: Vec<Violation>,
    acknowledged: u64,
}

impl<'r> Court<'r> {
    fn new(reading: &'r Arc<Reading>) -> Court<'r> {
        let task = &reading.opened.task;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Court {
            reading,
            judge: Judge::new(task.mode, Duration::from_nanos(task.max_staleness_ns))
                .following(task.follow.is_some()),
            ticks,
            complete: vec![0; task.processes as usize],
            own: task.process as usize,
            adjourned: None,
            waiting: vec![],
            checked: 0,
            behind: times(),
            violations: 0,
            examples: vec![],
            acknowledged: 0,
        }
    }

    /// Whether all writes of all processes are known.
    fn is_complete(&self) -> bool {
        self.complete.iter().all(|to| *to == Instant::MAX)
    }

    async fn hear(&mut self, message: ToReader) {
        match message {
            ToReader::Acks { from, acks, complete_to } => {
                acks.into_iter().for_each(|ack| self.judge.add(ack, false));
                self.complete[from as usize] = complete_to;
            }
            ToReader::Tell { from, number, key } => {
                if let Some(cache) = &self.reading.opened.cache {
                    // Without Redis there are no errors.
                    cache.invalidate([Tag::from(super::opened::tag(key))]).await;
                }
                tell(&FromReader::Heard { from, number });
            }
            ToReader::Heard { number } => self.reading.heard(number),
            ToReader::Stop => self.reading.stop(),
            ToReader::Setup(_) | ToReader::Begin { .. } => {}
        }
    }

    /// There will be no more writes of this process.
    fn adjourn(&mut self) {
        self.adjourned = Some(clock::now());
        self.sit();
    }

    /// Tells how far it is, and judges what can be judged.
    fn sit(&mut self) {
        if self.complete[self.own] == Instant::MAX && self.waiting.is_empty() {
            return;
        }
        let (acks, mut complete_to) = self.reading.acks();
        if self.adjourned.is_some() {
            complete_to = Instant::MAX;
        }
        self.acknowledged += acks.len() as u64;
        acks.iter().for_each(|ack| self.judge.add(*ack, true));
        let (mut reads, mut hits) = (0, 0);
        for shard in &self.reading.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            self.waiting.append(&mut shard.shown);
            reads += shard.reads;
            hits += shard.hits;
        }
        if self.complete[self.own] != Instant::MAX {
            tell(&FromReader::Tick { reads, hits, acks, complete_to });
            self.complete[self.own] = complete_to;
        }
        let known = self.complete.iter().copied().min().unwrap_or(0);
        let (ripe, waiting): (Vec<Shown>, Vec<Shown>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|shown| shown.begun < known);
        self.waiting = waiting;
        self.checked += ripe.len() as u64;
        for shown in &ripe {
            match self.judge.judge(shown) {
                Verdict::Current => {}
                Verdict::Behind(by) => record(&mut self.behind, by.as_nanos() as u64),
                Verdict::Violation(violation) => {
                    self.violations += 1;
                    if self.examples.len() < EXAMPLES {
                        self.examples.push(violation);
                    }
                }
            }
        }
    }

    fn outcome(self, out_of_time: bool) -> Outcome {
        let reading = self.reading;
        let mut parts = reading.parts();
        let mut latency: HashMap<Source, Times> = HashMap::new();
        let mut first_error = None;
        for shard in &reading.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            parts.merge(&shard.parts);
            for (source, times) in &shard.times {
                let all = latency.entry(*source).or_insert_with(super::measure::times);
                let _ = all.add(times);
            }
            first_error = first_error.or_else(|| shard.first_error.clone());
        }
        let queries = reading.source.queries.lock().unwrap_or_else(PoisonError::into_inner);
        parts.merge(&queries.parts);
        let written = reading.written.lock().unwrap_or_else(PoisonError::into_inner);
        parts.merge(&written.parts);
        let redis_errors = reading.opened.cache.as_ref().map_or(0, |it| it.stats().l2_errors);
        Outcome {
            ended: self.adjourned.unwrap_or_default(),
            out_of_time,
            query_ns: queries.total_ns,
            parts,
            latency: latency.iter().map(|(source, times)| (*source, pack(times))).collect(),
            queries: pack(&queries.times),
            write_ns: written.total_ns,
            unacknowledged: written.unacknowledged,
            acknowledged: self.acknowledged,
            redis_errors,
            first_error,
            checked: self.checked,
            behind: pack(&self.behind),
            violations: self.violations,
            examples: self.examples,
        }
    }
}
