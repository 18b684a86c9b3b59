//! A whole benchmark, from the tables to the report.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tempfile::NamedTempFile;

use super::super::config::Config;
use super::super::failure::Failure;
use super::arguments::{Keys, Plan};
use super::engine::Readers;
use super::interrupts::Interrupts;
use super::place::{Place, Priced, Shape};
use super::progress::Progress;
use super::redis::{Server, between};
use super::report::{
    self, Mode, ModeReport, Report, Servers, Setup, Workload as WorkloadReport, WorkloadKind,
};
use super::trace::Trace;
use super::value::Writes;
use super::wire::Task;
use super::workload::{self, Kind, Workload};
use super::{compile, machine, sweep};
use larder::QueryCache;

/// Accesses of a sweep over drawn keys, if nothing else is said.
const SWEPT: u64 = 1_000_000;
/// More than this are refused: they are held in memory.
const MOST_SWEPT: u64 = 200_000_000;

pub(super) async fn run(
    plan: &Plan,
    config: &Config,
    interrupts: &Interrupts,
) -> Result<Report, Failure> {
    let begun = machine::now();
    let trace = trace(plan).await?;
    let mut report = Report {
        version: report::VERSION,
        larder: env!("CARGO_PKG_VERSION").to_owned(),
        begun,
        command: command(),
        interrupted: false,
        machine: machine::machine(),
        servers: None,
        workload: workload(plan, trace.as_ref()),
        setup: None,
        modes: vec![],
        sweep: None,
    };
    if !plan.modes.is_empty() {
        modes(plan, config, interrupts, trace.as_ref(), &mut report).await?;
    }
    if let Some(capacities) = &plan.sweep
        && !interrupts.has_come()
    {
        let accesses = accesses(plan, trace)?;
        report.sweep = Some(sweep::run(accesses, capacities, interrupts).await?);
    }
    report.interrupted = interrupts.has_come();
    Ok(report)
}

/// The arguments as they were typed, without what tells where servers are.
fn command() -> String {
    let mut words = vec!["larder".to_owned()];
    // A file may be called whatever its system allows.
    let arguments = std::env::args_os().skip(1);
    let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    while let Some(argument) = arguments.next() {
        let secret = ["--redis", "--postgres", "--secret-file", "--config"];
        match argument.split_once('=') {
            Some((flag, _)) if secret.contains(&flag) => {}
            None if secret.contains(&argument.as_str()) => drop(arguments.next()),
            _ => words.push(argument),
        }
    }
    words.join(" ")
}

async fn trace(plan: &Plan) -> Result<Option<Trace>, Failure> {
    let Keys::Trace(path) = &plan.keys else { return Ok(None) };
    let _progress = Progress::begin("reading the trace", 0);
    let path = path.clone();
    let read = tokio::task::spawn_blocking(move || Trace::read(&path)).await;
    read.unwrap_or_else(|_| Err(Failure::other("reading the trace has panicked"))).map(Some)
}

fn workload(plan: &Plan, trace: Option<&Trace>) -> WorkloadReport {
    let (kind, keys, skew, file) = match &plan.keys {
        Keys::Zipf { keys, skew } => (WorkloadKind::Zipf, *keys, Some(*skew), None),
        Keys::Uniform { keys } => (WorkloadKind::Uniform, *keys, None, None),
        Keys::Trace(path) => {
            let keys = trace.map_or(0, |trace| trace.keys);
            (WorkloadKind::Trace, keys, None, path.file_name())
        }
    };
    WorkloadReport {
        kind,
        keys: keys.into(),
        skew,
        trace: file.map(|name| name.to_string_lossy().into_owned()),
        accesses: trace.map(|trace| trace.accesses.len() as u64),
        seed: plan.seed,
    }
}

/// What a sweep goes through.
fn accesses(plan: &Plan, trace: Option<Trace>) -> Result<Vec<u32>, Failure> {
    if let Some(Trace { mut accesses, .. }) = trace {
        accesses.truncate(plan.reads.and_then(|it| it.try_into().ok()).unwrap_or(usize::MAX));
        return Ok(accesses);
    }
    let (Keys::Zipf { keys, skew }, reads) = (&plan.keys, plan.reads.unwrap_or(SWEPT)) else {
        return Err(Failure::usage("there is nothing to sweep over"));
    };
    if reads > MOST_SWEPT {
        return Err(Failure::usage(format!("a sweep of more than {MOST_SWEPT} --reads")));
    }
    let zipf = Workload::new(Kind::Zipf { skew: *skew }, *keys, Arc::default(), (0, 1));
    let mut random = workload::random(plan.seed, 0, 0);
    Ok((0..reads).filter_map(|_| zipf.next(&mut random)).collect())
}

/// Runs all modes, and leaves nothing behind.
async fn modes(
    plan: &Plan,
    config: &Config,
    interrupts: &Interrupts,
    trace: Option<&Trace>,
    report: &mut Report,
) -> Result<(), Failure> {
    let postgres = config.postgres()?;
    check_settings(plan).await?;
    let needs_redis = plan.modes.iter().any(|mode| mode.needs_redis());
    let mut redis = if needs_redis { Some(Server::connect(config.redis()?).await?) } else { None };
    let version = match &mut redis {
        Some(redis) => Some(redis.version().await?),
        None => None,
    };
    let mut place = Place::create(postgres).await?;
    let mut interrupted = interrupts.clone();
    let prepared = async {
        let _progress = Progress::begin("making the tables", 0);
        report.servers = Some(Servers {
            redis: version,
            postgres: format!("PostgreSQL {}", place.version().await?),
        });
        place.fill(report.workload.keys as u32, plan.follow).await?;
        let shape = Shape { rows: plan.rows, row_bytes: plan.row_bytes, cost: plan.query_cost };
        place.price(shape).await
    };
    let prepared = tokio::select! {
        prepared = prepared => prepared.map(Some),
        () = interrupted.come() => Ok(None),
    };
    let outcome = match prepared {
        Ok(Some(priced)) => {
            report.setup = Some(setup(plan, &priced));
            let mut bench = Benched { plan, config, interrupts, redis, place: &place, trace };
            bench.all(&priced, report).await
        }
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    if plan.keep {
        return outcome;
    }
    let dropped = place.drop().await;
    outcome.and(dropped)
}

/// What a cache would refuse is told before there is anything to clean up.
async fn check_settings(plan: &Plan) -> Result<(), Failure> {
    let trial = QueryCache::builder()
        .ttl(plan.ttl)
        .stale_while_revalidate(plan.stale_while_revalidate)
        .max_staleness(plan.max_staleness)
        .max_bytes(plan.l1_bytes);
    trial.build().await.map(drop).map_err(|error| Failure::usage(error.to_string()))
}

fn setup(plan: &Plan, priced: &Priced) -> Setup {
    let (write_share, write_rate) = match plan.writes {
        Writes::Share(share) => (Some(share), None),
        Writes::Rate(rate) => (None, Some(rate)),
    };
    Setup {
        processes: plan.processes,
        tasks: plan.tasks,
        connections: plan.connections,
        duration_seconds: plan.duration.map(|it| it.as_secs_f64()),
        reads: plan.reads,
        write_share,
        write_rate,
        follow: plan.follow,
        ttl_seconds: plan.ttl.as_secs_f64(),
        stale_while_revalidate_seconds: plan.stale_while_revalidate.as_secs_f64(),
        max_staleness_seconds: plan.max_staleness.as_secs_f64(),
        l1_bytes: plan.l1_bytes,
        rows: plan.rows,
        row_bytes: plan.row_bytes,
        rows_read: priced.rows_read,
        query_ns: priced.takes.as_nanos() as u64,
    }
}

/// All that a mode needs.
struct Benched<'b> {
    plan: &'b Plan,
    config: &'b Config,
    interrupts: &'b Interrupts,
    redis: Option<Server>,
    place: &'b Place,
    trace: Option<&'b Trace>,
}

impl Benched<'_> {
    async fn all(&mut self, priced: &Priced, report: &mut Report) -> Result<(), Failure> {
        let file = self.trace.map(shared).transpose()?;
        for mode in &self.plan.modes {
            if self.interrupts.has_come() {
                break;
            }
            let task = self.task(*mode, priced, report.workload.keys as u32, file.as_ref())?;
            let done = self.mode(*mode, &task, report.mode(Mode::None)).await;
            if mode.needs_redis()
                && let Some(redis) = &mut self.redis
            {
                // What cannot be removed ends with its time to live.
                let _ = redis.clean(&task.namespace).await;
            }
            report.modes.extend(done?);
        }
        Ok(())
    }

    fn task(
        &self,
        mode: Mode,
        priced: &Priced,
        keys: u32,
        trace: Option<&NamedTempFile>,
    ) -> Result<Task, Failure> {
        let plan = self.plan;
        let nanos = |time: Duration| time.as_nanos() as u64;
        let (write_share, write_rate) = match plan.writes {
            Writes::Share(share) => (share, 0.0),
            Writes::Rate(rate) => (0.0, rate / f64::from(plan.processes)),
        };
        let name = self.place.schema.replace('_', "-");
        Ok(Task {
            mode,
            redis: mode.needs_redis().then(|| self.config.redis()).transpose()?.map(str::to_owned),
            postgres: self.config.postgres()?.to_owned(),
            // Each mode begins with nothing in Redis.
            namespace: format!("{name}-{}", mode.name()),
            secret: self.config.secret.clone(),
            schema: self.place.schema.clone(),
            query: priced.sql.clone(),
            workload: match plan.keys {
                Keys::Zipf { skew, .. } => Kind::Zipf { skew },
                Keys::Uniform { .. } => Kind::Scan,
                Keys::Trace(_) => Kind::Trace,
            },
            keys,
            trace: trace.map(|file| file.path().to_owned()),
            seed: plan.seed,
            process: 0,
            processes: plan.processes,
            tasks: plan.tasks,
            connections: plan.connections,
            reads: None,
            follow: plan.follow.filter(|_| mode != Mode::None),
            write_share,
            write_rate,
            ttl_ns: nanos(plan.ttl),
            stale_while_revalidate_ns: nanos(plan.stale_while_revalidate),
            max_staleness_ns: nanos(plan.max_staleness),
            l1_bytes: plan.l1_bytes,
            part_ns: nanos(part(plan.duration)),
        })
    }

    async fn mode(
        &mut self,
        mode: Mode,
        task: &Task,
        none: Option<&ModeReport>,
    ) -> Result<Option<ModeReport>, Failure> {
        let plan = self.plan;
        let processes = u64::from(plan.processes);
        let tasks = (0..plan.processes).map(|process| {
            let first = u64::from(process);
            // The first few make one more, so that together they make as many as were asked for.
            let reads = plan.reads.map(|it| it / processes + u64::from(first < it % processes));
            Task { process, reads, ..task.clone() }
        });
        let readers = tokio::select! {
            readers = Readers::start(tasks.collect()) => readers?,
            () = async { self.interrupts.clone().come().await } => return Ok(None),
        };
        let before = self.load(mode).await;
        let accesses = self.trace.map(|trace| trace.accesses.len() as u64);
        let reads = plan.reads.into_iter().chain(accesses).min();
        let all = plan.duration.map_or(reads.unwrap_or(0), |it| it.as_millis() as u64);
        let progress = Progress::begin(&format!("{:4}", mode.name()), all);
        let run = readers.run(plan.duration, &progress, self.interrupts.clone()).await?;
        drop(progress);
        let errors = run.outcomes.iter().map(|it| it.redis_errors).sum();
        let after = self.load(mode).await;
        let redis = mode.needs_redis().then(|| match (before, after) {
            (before, Some(after)) => between(&before.unwrap_or_default(), &after, errors),
            (_, None) => {
                anstream::eprintln!(
                    "\x1b[1mnote:\x1b[0m Redis does not answer INFO at the end of mode {}: what went \
                     through it is not known, and is reported as nothing",
                    mode.name()
                );
                report::RedisLoad { errors, ..Default::default() }
            }
        });
        Ok(compile::mode(mode, run, redis, none))
    }

    async fn load(&mut self, mode: Mode) -> Option<report::RedisLoad> {
        match &mut self.redis {
            Some(redis) if mode.needs_redis() => redis.load().await,
            _ => None,
        }
    }
}

/// A sixtieth of the run, or, if it ends by its reads, whatever gives enough parts.
fn part(duration: Option<Duration>) -> Duration {
    const LEAST: Duration = Duration::from_millis(50);
    duration.map_or(LEAST, |duration| (duration / 60).max(LEAST))
}

/// The accesses in a file that reader processes can read fast.
fn shared(trace: &Trace) -> Result<NamedTempFile, Failure> {
    let write = || {
        let mut file = tempfile::Builder::new().prefix("larder-bench-").tempfile()?;
        let bytes: Vec<u8> = trace.accesses.iter().flat_map(|key| key.to_le_bytes()).collect();
        file.write_all(&bytes)?;
        Ok(file)
    };
    write().map_err(|error: std::io::Error| {
        Failure::other(format!("cannot write the trace for the reader processes: {error}"))
    })
}
