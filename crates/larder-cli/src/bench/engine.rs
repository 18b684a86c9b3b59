//! One mode: reader processes started, told of each other's writes, and heard to their end.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::super::failure::Failure;
use super::clock::{self, Instant};
use super::interrupts::Interrupts;
use super::progress::Progress;
use super::wire::{FromReader, Outcome, READER, Task, ToReader};

/// What all reader processes have found.
pub(super) struct Run {
    pub(super) begun: Instant,
    pub(super) interrupted: bool,
    pub(super) outcomes: Vec<Outcome>,
}

/// Reader processes. They end when this is dropped.
pub(super) struct Readers {
    /// Held for that.
    _children: Vec<Child>,
    inputs: Vec<UnboundedSender<ToReader>>,
    /// What they say, with their numbers; `None` is the end of one.
    incoming: UnboundedReceiver<(usize, Option<FromReader>)>,
}

impl Readers {
    /// Starts a process for each task, and returns when all of them are ready to read.
    pub(super) async fn start(tasks: Vec<Task>) -> Result<Readers, Failure> {
        let (send, incoming) = mpsc::unbounded_channel();
        let (mut children, mut inputs) = (vec![], vec![]);
        for (number, task) in tasks.into_iter().enumerate() {
            let mut child = spawn()?;
            // URLs hold passwords, and arguments are for all to see: so they go by a pipe.
            let (input, messages) = mpsc::unbounded_channel();
            let _ = input.send(ToReader::Setup(Box::new(task)));
            inputs.push(input);
            if let Some(stdin) = child.stdin.take() {
                tokio::spawn(write(stdin, messages));
            }
            if let Some(stdout) = child.stdout.take() {
                let send = send.clone();
                tokio::spawn(async move {
                    let mut lines = BufReader::new(stdout).lines();
                    while let Ok(Some(line)) = lines.next_line().await {
                        let Ok(message) = serde_json::from_str(&line) else { break };
                        let _ = send.send((number, Some(message)));
                    }
                    let _ = send.send((number, None));
                });
            }
            children.push(child);
        }
        let mut readers = Readers { _children: children, inputs, incoming };
        for _ in 0..readers.inputs.len() {
            match readers.next().await? {
                (_, FromReader::Ready) => {}
                (number, _) => return Err(nonsense(number)),
            }
        }
        Ok(readers)
    }

    async fn next(&mut self) -> Result<(usize, FromReader), Failure> {
        match self.incoming.recv().await {
            Some((_, Some(FromReader::Failed(why)))) => Err(Failure::server(why)),
            Some((number, Some(message))) => Ok((number, message)),
            Some((number, None)) => Err(ended(number)),
            None => Err(ended(0)),
        }
    }

    fn tell_others(&self, from: usize, message: impl Fn() -> ToReader) {
        for (number, input) in self.inputs.iter().enumerate() {
            if number != from {
                // One that has ended is noticed by what it says no more.
                let _ = input.send(message());
            }
        }
    }

    /// Lets them read.
    pub(super) async fn run(
        mut self,
        duration: Option<Duration>,
        progress: &Progress,
        mut interrupts: Interrupts,
    ) -> Result<Run, Failure> {
        let begun = clock::now();
        let until = duration.map(|duration| {
            begun.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
        });
        self.tell_others(usize::MAX, || ToReader::Begin { at: begun, until });
        let processes = self.inputs.len();
        let mut outcomes: Vec<Option<Outcome>> = (0..processes).map(|_| None).collect();
        let mut seen = vec![(0, 0); processes];
        // Writes that others have not heard of yet, and of how many.
        let mut unheard: HashMap<(u32, u64), usize> = HashMap::new();
        let mut interrupted = false;
        while outcomes.iter().any(Option::is_none) {
            let (number, message) = tokio::select! {
                next = self.incoming.recv() => match next {
                    Some((number, None)) if outcomes[number].is_some() => continue,
                    Some((_, Some(FromReader::Failed(why)))) => return Err(Failure::other(why)),
                    Some((number, Some(message))) => (number, message),
                    Some((number, None)) => return Err(ended(number)),
                    None => return Err(ended(0)),
                },
                () = interrupts.come(), if !interrupted => {
                    interrupted = true;
                    self.tell_others(usize::MAX, || ToReader::Stop);
                    continue;
                }
            };
            let from = number as u32;
            match message {
                FromReader::Tick { reads, hits, acks, complete_to } => {
                    self.tell_others(number, || ToReader::Acks {
                        from,
                        acks: acks.clone(),
                        complete_to,
                    });
                    seen[number] = (reads, hits);
                    show(progress, &seen, duration, clock::now().saturating_sub(begun));
                }
                FromReader::Tell { number: write, key } => {
                    unheard.insert((from, write), processes - 1);
                    self.tell_others(number, || ToReader::Tell { from, number: write, key });
                }
                FromReader::Heard { from, number: write } => {
                    let left = unheard.get_mut(&(from, write)).ok_or_else(|| nonsense(number))?;
                    *left -= 1;
                    if *left == 0 {
                        unheard.remove(&(from, write));
                        let _ = self.inputs[from as usize].send(ToReader::Heard { number: write });
                    }
                }
                FromReader::Done(outcome) => outcomes[number] = Some(*outcome),
                FromReader::Ready | FromReader::Failed(_) => return Err(nonsense(number)),
            }
        }
        Ok(Run { begun, interrupted, outcomes: outcomes.into_iter().flatten().collect() })
    }
}

fn spawn() -> Result<Child, Failure> {
    let program = std::env::current_exe();
    let spawned = program.and_then(|program| {
        Command::new(program)
            .arg(READER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is meant for the benchmark, which tells them what to do.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    });
    spawned.map_err(|error| Failure::other(format!("cannot start a reader process: {error}")))
}

/// Writes what is to be told. When nobody can tell anything any more, the input ends, and the process
/// with it.
async fn write(mut stdin: ChildStdin, mut messages: UnboundedReceiver<ToReader>) {
    while let Some(message) = messages.recv().await {
        let Ok(mut line) = serde_json::to_vec(&message) else { return };
        line.push(b'\n');
        if stdin.write_all(&line).await.is_err() {
            return;
        }
    }
}

fn show(progress: &Progress, seen: &[(u64, u64)], duration: Option<Duration>, passed_ns: u64) {
    let (reads, hits) = seen.iter().fold((0, 0), |(reads, hits), it| (reads + it.0, hits + it.1));
    let done = match duration {
        Some(_) => passed_ns / 1_000_000,
        None => reads,
    };
    let ratio = 100.0 * hits as f64 / reads.max(1) as f64;
    progress.at(done, format!("{reads} reads, {ratio:.1} % hits"));
}

fn ended(number: usize) -> Failure {
    Failure::other(format!("reader process {} has ended before its time", number + 1))
}

fn nonsense(number: usize) -> Failure {
    Failure::other(format!("reader process {} says what was not asked for", number + 1))
}
