//! The faults of a run: which ones, in what order, and when each occurred.

use std::time::Duration;

use fastrand::Rng;

use crate::fleet::Fleet;
use crate::record::Time;
use crate::servers::{ServerError, Way};

/// A way for things to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Redis is killed, and comes back with nothing.
    RedisKilled,
    /// Redis is killed, and comes back with what it held some time before.
    RedisRewound,
    /// Redis stands still: it accepts, and answers nobody.
    RedisFrozen,
    Flushed,
    ScriptsForgotten,
    /// The one key is gone that says what was invalidated, as by an eviction.
    DirectoryLost,
    /// Redis refuses every write that takes memory.
    RedisFull,
    /// Redis has so little memory that it drops what it holds.
    Evicting,
    SubscribersKilled,
    ClientsKilled,
    /// Redis is a replica, of a server that is not there.
    ReadOnly,
    Cut,
    RequestsHeld,
    RepliesHeld,
    Delayed,
    /// Connections are reset in the middle of a reply.
    Reset,
    WorkerPaused,
    /// A process is killed, and another takes its place.
    WorkerKilled,
    SessionsEnded,
    PostgresRestarted,
    /// Only where the database is followed: the sessions that read its changes are ended.
    StreamsEnded,
    /// Only there: a transaction that has written stays open.
    TransactionOpen,
}

/// Where a fault is. There is one at a time in each place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Redis,
    Network,
    Process,
    Postgres,
    Stream,
}

impl Kind {
    pub const FOLLOWED: [Self; 2] = [Self::StreamsEnded, Self::TransactionOpen];

    pub const ALL: [Self; 20] = [
        Self::RedisKilled,
        Self::RedisRewound,
        Self::RedisFrozen,
        Self::Flushed,
        Self::ScriptsForgotten,
        Self::DirectoryLost,
        Self::RedisFull,
        Self::Evicting,
        Self::SubscribersKilled,
        Self::ClientsKilled,
        Self::ReadOnly,
        Self::Cut,
        Self::RequestsHeld,
        Self::RepliesHeld,
        Self::Delayed,
        Self::Reset,
        Self::WorkerPaused,
        Self::WorkerKilled,
        Self::SessionsEnded,
        Self::PostgresRestarted,
    ];

    pub fn place(self) -> Place {
        match self {
            Self::Cut | Self::RequestsHeld | Self::RepliesHeld | Self::Delayed | Self::Reset => {
                Place::Network
            }
            Self::WorkerPaused | Self::WorkerKilled => Place::Process,
            Self::SessionsEnded | Self::PostgresRestarted => Place::Postgres,
            Self::StreamsEnded | Self::TransactionOpen => Place::Stream,
            _ => Place::Redis,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::RedisKilled => "Redis killed, back empty",
            Self::RedisRewound => "Redis killed, back with old data",
            Self::RedisFrozen => "Redis frozen",
            Self::Flushed => "FLUSHALL",
            Self::ScriptsForgotten => "SCRIPT FLUSH",
            Self::DirectoryLost => "directory deleted",
            Self::RedisFull => "Redis full",
            Self::Evicting => "Redis evicting",
            Self::SubscribersKilled => "subscribers killed",
            Self::ClientsKilled => "clients killed",
            Self::ReadOnly => "Redis read-only",
            Self::Cut => "network cut",
            Self::RequestsHeld => "requests held",
            Self::RepliesHeld => "replies held",
            Self::Delayed => "network slow",
            Self::Reset => "reset in mid reply",
            Self::WorkerPaused => "process paused",
            Self::WorkerKilled => "process killed",
            Self::SessionsEnded => "sessions terminated",
            Self::PostgresRestarted => "PostgreSQL restarted",
            Self::StreamsEnded => "walsenders terminated",
            Self::TransactionOpen => "open transaction",
        }
    }

    /// Whether it is over as soon as it has happened.
    fn is_instant(self) -> bool {
        matches!(
            self,
            Self::Flushed
                | Self::ScriptsForgotten
                | Self::DirectoryLost
                | Self::SubscribersKilled
                | Self::ClientsKilled
                | Self::SessionsEnded
                | Self::StreamsEnded
        )
    }

    /// Makes it happen, to these processes.
    pub fn inject(self, fleet: &mut Fleet, targets: &[usize]) -> Result<(), ServerError> {
        let redis = &mut fleet.redis;
        match self {
            Self::RedisKilled | Self::RedisRewound => redis.kill(),
            Self::RedisFrozen => redis.pause(),
            Self::Flushed => redis.command(&["FLUSHALL"]).map(drop),
            Self::ScriptsForgotten => redis.command(&["SCRIPT", "FLUSH"]).map(drop),
            Self::DirectoryLost => redis.command(&["DEL", &Fleet::directory()]).map(drop),
            Self::RedisFull => set(fleet, "noeviction", 1),
            Self::Evicting => {
                let info = redis.command(&["INFO", "memory"])?;
                let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
                let used = used.and_then(|used| used.parse().ok()).unwrap_or(1_u64 << 20);
                set(fleet, "allkeys-lru", used.saturating_sub(20_000))
            }
            Self::SubscribersKilled => kill_clients(fleet, "pubsub"),
            Self::ClientsKilled => kill_clients(fleet, "normal"),
            Self::ReadOnly => redis.command(&["REPLICAOF", "127.0.0.1", "1"]).map(drop),
            Self::WorkerPaused => targets.iter().try_for_each(|&it| fleet.members[it].pause()),
            Self::WorkerKilled => targets.iter().try_for_each(|&it| fleet.members[it].kill()),
            Self::SessionsEnded => fleet.terminate_sessions(),
            Self::PostgresRestarted => fleet.postgres.stop(),
            Self::StreamsEnded => fleet.terminate_walsenders(),
            Self::TransactionOpen => fleet.open_transaction(),
            Self::Cut | Self::RequestsHeld | Self::RepliesHeld | Self::Delayed | Self::Reset => {
                for &target in targets {
                    let proxy = &fleet.members[target].proxy;
                    match self {
                        Self::Cut => proxy.cut(),
                        Self::RequestsHeld => proxy.stall(Way::ToServer),
                        Self::RepliesHeld => proxy.stall(Way::ToClient),
                        Self::Delayed => proxy.delay(Duration::from_millis(200)),
                        _ => proxy.reset_after(100),
                    }
                }
                Ok(())
            }
        }
    }

    /// Ends it.
    pub fn heal(self, fleet: &mut Fleet, targets: &[usize]) -> Result<(), ServerError> {
        match self {
            Self::RedisKilled => fleet.redis.restart(),
            Self::RedisRewound => fleet.redis.restart_with_snapshot(),
            Self::RedisFrozen => fleet.redis.resume(),
            Self::RedisFull | Self::Evicting => set(fleet, "noeviction", 0),
            Self::ReadOnly => fleet.redis.command(&["REPLICAOF", "NO", "ONE"]).map(drop),
            Self::WorkerPaused => targets.iter().try_for_each(|&it| fleet.members[it].resume()),
            Self::WorkerKilled => targets.iter().try_for_each(|&it| fleet.start(it, true)),
            Self::PostgresRestarted => fleet.postgres.restart(),
            Self::TransactionOpen => {
                fleet.end_transaction();
                Ok(())
            }
            _ if self.place() == Place::Network => {
                targets.iter().for_each(|&target| fleet.members[target].proxy.pass());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn set(fleet: &Fleet, policy: &str, bytes: u64) -> Result<(), ServerError> {
    fleet.redis.command(&["CONFIG", "SET", "maxmemory-policy", policy])?;
    fleet.redis.command(&["CONFIG", "SET", "maxmemory", &bytes.to_string()]).map(drop)
}

fn kill_clients(fleet: &Fleet, kind: &str) -> Result<(), ServerError> {
    fleet.redis.command(&["CLIENT", "KILL", "TYPE", kind]).map(drop)
}

/// The faults to come, all of them at random from one seed.
pub struct Plan {
    random: Rng,
    /// Every kind comes up before any comes again.
    deck: Vec<Kind>,
    processes: usize,
    /// There is time for long ones.
    patient: bool,
    /// The database is followed.
    follows: bool,
}

impl Plan {
    pub fn new(seed: u64, processes: usize, patient: bool, follows: bool) -> Self {
        Self { random: Rng::with_seed(seed), deck: Vec::new(), processes, patient, follows }
    }

    /// The next fault in a place that is free, the processes it is for, and how long it lasts.
    pub fn next(
        &mut self,
        is_free: impl Fn(Place) -> bool,
    ) -> Option<(Kind, Vec<usize>, Duration)> {
        if !self.deck.iter().any(|kind| is_free(kind.place())) {
            let mut deck = Kind::ALL.to_vec();
            if self.follows {
                deck.extend(Kind::FOLLOWED);
            }
            self.random.shuffle(&mut deck);
            self.deck.splice(0..0, deck);
        }
        let at = self.deck.iter().rposition(|kind| is_free(kind.place()))?;
        let kind = self.deck.remove(at);
        let all: Vec<_> = (0..self.processes).collect();
        let targets = match kind.place() {
            Place::Redis | Place::Postgres | Place::Stream => all,
            Place::Network if self.random.u32(..4) == 0 => all,
            Place::Network | Place::Process => vec![self.random.usize(..self.processes)],
        };
        let portion = self.random.f64().powi(2);
        let (shortest, longest) = match kind.place() {
            _ if kind.is_instant() => (0.1, 0.1),
            _ if self.patient => (0.2, 5.0),
            // For longer than a process may be blind while others go on: what it holds gets stale.
            Place::Network => (1.3, 2.2),
            _ if kind == Kind::WorkerPaused => (1.3, 2.2),
            _ => (0.15, 1.0),
        };
        let seconds = shortest + (longest - shortest) * portion;
        Some((kind, targets, Duration::from_secs_f64(seconds)))
    }

    /// How long it is until the next fault. Some come while another lasts, and some leave time to
    /// recover fully.
    pub fn pause(&mut self) -> Duration {
        let quiet = if self.patient { 2.0 } else { 1.0 };
        Duration::from_secs_f64(match self.random.u32(..6) {
            0 => 0.05,
            1 => quiet,
            _ => 0.2 + 0.4 * self.random.f64(),
        })
    }

    /// Whether the next fault waits for the end of this one.
    pub fn waits_for(&mut self, kind: Kind) -> bool {
        let alone = match kind.place() {
            Place::Redis | Place::Postgres => 3,
            Place::Stream => 0,
            Place::Network | Place::Process => 1,
        };
        self.random.u32(..4) < alone
    }
}

/// One fault that happened.
pub struct Fault {
    pub kind: Kind,
    pub targets: Vec<usize>,
    pub begin: Time,
    /// The end of time while it lasts.
    pub end: Time,
}

/// All faults that happened, in the order in which they began.
pub struct Timeline {
    pub began: Time,
    pub faults: Vec<Fault>,
}

/// What a disturbance of PostgreSQL, or a pause of a process, may still cause after its end.
const GRACE: Time = 1_000_000_000;

/// A record is told seconds after a fault, not minutes: so many faults back is enough to look.
const RECENT: usize = 40;

impl Timeline {
    pub fn new(began: Time) -> Self {
        Self { began, faults: Vec::new() }
    }

    /// A point of time as seconds since the beginning.
    pub fn seconds(&self, at: Time) -> String {
        format!("{:10.6}", (at as f64 - self.began as f64) / 1e9)
    }

    fn recent(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().rev().take(RECENT)
    }

    /// Whether PostgreSQL was disturbed for the process at some point between the two: one that
    /// stood still meanwhile finds its connections broken when it goes on.
    pub fn is_postgres_disturbed(&self, process: usize, start: Time, end: Time) -> bool {
        self.recent().filter(|fault| fault.kind.place() == Place::Postgres).any(|fault| {
            let slept = self.recent().filter(|pause| {
                let meanwhile = pause.begin <= fault.end && fault.begin <= pause.end;
                let process = pause.targets.contains(&process) && meanwhile;
                pause.kind.place() == Place::Process && process
            });
            let noticed = slept.map(|pause| pause.end).fold(fault.end, Time::max);
            fault.begin <= end && start <= noticed.saturating_add(GRACE)
        })
    }

    /// Whether the process stood still at some point between the two.
    pub fn is_paused(&self, process: usize, start: Time, end: Time) -> bool {
        self.recent().any(|fault| {
            let last = fault.end.saturating_add(GRACE);
            let paused = fault.kind.place() == Place::Process && fault.targets.contains(&process);
            paused && fault.begin <= end && start <= last
        })
    }

    /// Whether something was wrong between the process and Redis.
    pub fn is_redis_disturbed(&self, process: usize, at: Time) -> bool {
        self.recent().any(|fault| {
            let redis = matches!(fault.kind.place(), Place::Redis | Place::Network);
            redis && fault.targets.contains(&process) && (fault.begin..=fault.end).contains(&at)
        })
    }

    /// The last faults as lines.
    pub fn tail(&self) -> Vec<String> {
        let first = self.faults.len().saturating_sub(12);
        let line = |Fault { kind, targets, begin, end }: &Fault| {
            let end = match *end {
                Time::MAX => "and lasts".to_owned(),
                end => format!("to {}", self.seconds(end).trim_start()),
            };
            format!("{} {} of {targets:?}, {end}", self.seconds(*begin), kind.name())
        };
        self.faults[first..].iter().map(line).collect()
    }
}
