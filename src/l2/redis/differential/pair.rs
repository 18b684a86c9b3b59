//! [`Pair`]: the model and Redis side by side.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value, cmd};
use test_servers::Redis;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Answer, Event, Operation, STEP, put};
use crate::background::Background;
use crate::clock::{self, Clock, Instant, ManualClock};
use crate::currency::Position;
use crate::l2::memory::{Member, MemoryStore};
use crate::l2::namespace::{Kept, Namespace};
use crate::l2::redis::endpoint::Endpoint;
use crate::l2::redis::{Connection, Names, RedisStore};
use crate::l2::{LeaseOutcome, Listener, Notice, Store, StoreError};
use crate::value::key::CacheKey;

const NAMESPACE: &str = "differential";
/// The part of a step that may really pass before replies are no longer compared. Less than half a
/// step: the estimate of Redis's clock may be wrong by as much again.
const STALL: Duration = Duration::from_millis(200);
/// The maximum delay of a notice, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// ARGV: the length of a step and the length of the jump, both in ms. KEYS: entry, lease, entry,
/// lease…
///
/// Replies with the remaining time of each key, and with the content of each lease.
const TIME: &str = r"
local step, by, reply = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for index, key in ipairs(KEYS) do
    local left = redis.call('PTTL', key)
    if left >= 0 then
        left = math.ceil(left / step) * step - by
        redis.call('PEXPIRE', key, left)
        if left <= 0 then left = -2 end
    end
    reply[#reply + 1] = left
    if index % 2 == 0 then
        local lease = redis.pcall('GETRANGE', key, 0, -1)
        reply[#reply + 1] = type(lease) == 'string' and lease or ''
    end
end
return reply
";

#[derive(Default)]
struct Ear {
    heard: Mutex<Vec<Notice>>,
    more: Notify,
}

impl Listener for Ear {
    fn hear(&self, notice: Notice) {
        self.heard.lock().unwrap().push(notice);
        self.more.notify_one();
    }
}

impl Ear {
    fn take(&self) -> Vec<Notice> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }

    async fn until(&self, notice: &Notice) -> Vec<Notice> {
        let hearing = async {
            while !self.heard.lock().unwrap().contains(notice) {
                self.more.notified().await;
            }
        };
        timeout(PATIENCE, hearing).await.expect("a notice comes in time");
        self.take()
    }
}

/// Both stores, and what the test needs to drive them.
pub(super) struct Pair {
    model: MemoryStore,
    clock: ManualClock,
    member: Member,
    member_ear: Arc<Ear>,
    redis: RedisStore,
    redis_ear: Arc<Ear>,
    /// For commands that are not operations of a store.
    by_hand: MultiplexedConnection,
    names: Names,
    keys: Vec<CacheKey>,
    /// `at:` and the replication id of the server.
    server: String,
    /// The time, by the system's clock, that equals the model's present.
    base: Instant,
}

impl Pair {
    pub(super) async fn new(server: &Redis, keys: Vec<CacheKey>) -> Pair {
        let clock = ManualClock::new();
        let model = MemoryStore::with_clock(clock.clone());
        let (member_ear, redis_ear) = (Arc::new(Ear::default()), Arc::new(Ear::default()));
        let member = model.join(NAMESPACE, member_ear.clone());
        let background = Background::on(Handle::current());
        let endpoint = Endpoint::new(&server.url()).unwrap();
        let link = Connection::new(endpoint, PATIENCE, None, &background);
        link.connect().await.unwrap();
        let redis = RedisStore::new(link, NAMESPACE, redis_ear.clone());
        let client = ::redis::Client::open(server.url()).unwrap();
        // The client's own limit is half a second, which a busy machine exceeds.
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let by_hand = client.get_multiplexed_async_connection_with_config(&patient).await;
        let mut by_hand = by_hand.unwrap();
        let info: String = cmd("INFO").arg("replication").query_async(&mut by_hand).await.unwrap();
        let id = info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap();
        assert_eq!(redis_ear.until(&Notice::Subscribed).await, member_ear.take());
        let base = Clock::system().now();
        Pair {
            server: format!("at:{}", id.trim()),
            model,
            clock,
            member,
            member_ear,
            redis,
            redis_ear,
            by_hand,
            names: Names::new(NAMESPACE, 0),
            keys,
            base,
        }
    }

    pub(super) fn peek<T>(&self, peek: impl FnOnce(&mut Namespace, Instant) -> T) -> T {
        self.model.meddle(NAMESPACE, peek)
    }

    pub(super) fn model(&self, operation: &Operation, chance: u64) -> Answer {
        let answer = put(&self.member, operation, chance, self.member.now());
        answer.now_or_never().expect("memory answers at once").unwrap()
    }

    /// Runs several operations at once. Redis executes them in their order, on one connection.
    /// Batched reads may be sent after operations that follow them, so those wait for the reads
    /// here.
    pub(super) async fn redis(
        &self,
        batch: &[(Operation, u64)],
    ) -> Vec<Result<Answer, StoreError>> {
        let redis: &dyn Store = &self.redis;
        let reads = |(it, _): &(Operation, u64)| matches!(it, Operation::Read(_));
        let mut answers = vec![];
        for run in batch.chunk_by(|one, next| reads(one) == reads(next)) {
            let run = run.iter().map(|(it, chance)| put(redis, it, *chance, self.base));
            answers.extend(join_all(run).await);
        }
        answers
    }

    async fn hand<T: ::redis::FromRedisValue>(&mut self, command: &mut ::redis::Cmd) -> T {
        command.query_async(&mut self.by_hand).await.unwrap()
    }

    /// Whether enough time has passed that a key may have expired in Redis.
    pub(super) fn stalled(&self) -> bool {
        clock::since(Clock::system().now(), self.base) > STALL
    }

    /// Lets `steps` pass on both sides, and no other time in Redis. Fails if the contents differ
    /// afterwards.
    pub(super) async fn time(&mut self, steps: u32) -> Result<(), String> {
        let by = steps * STEP;
        self.clock.advance(by);
        let before = Clock::system().now();
        let mut command = cmd("EVAL");
        command.arg(TIME).arg(2 * self.keys.len());
        for key in &self.keys {
            command.arg(self.names.entry(key)).arg(self.names.lease(key));
        }
        command.arg(STEP.as_millis() as u64).arg(by.as_millis() as u64);
        let reply: Vec<Value> = self.hand(&mut command).await;
        if self.stalled() {
            return Ok(());
        }
        self.base = before;
        for (key, redis) in self.keys.iter().zip(reply.chunks_exact(3)) {
            let (entry, lease) = self.peek(|space, now| {
                space.expire(key, now);
                let left = |ends| clock::since(ends, now).as_millis() as i64;
                let entry = match space.entries.get(key) {
                    None => -2,
                    Some(Kept { ends, .. }) => ends.map_or(-1, left),
                };
                let lease = space.leases.get(key).map(|lease| {
                    let Position { epoch, seq } = lease.at;
                    let mut bytes = lease.token.0.to_vec();
                    bytes.extend(epoch.to_be_bytes());
                    bytes.extend(seq.to_be_bytes());
                    bytes.push(if lease.awaited { b'1' } else { b'0' });
                    (left(lease.ends), Value::BulkString(bytes))
                });
                (entry, lease)
            });
            let same = |model: i64, redis: &Value| *redis == Value::Int(model);
            let lease_is_same = match &lease {
                Some((left, bytes)) => same(*left, &redis[1]) && *bytes == redis[2],
                // A value of another length is not a lease.
                None => !matches!(&redis[2], Value::BulkString(bytes) if bytes.len() == 33),
            };
            if !same(entry, &redis[0]) || !lease_is_same {
                return Err(format!("{key:?}: {entry:?} and {lease:?}, but in redis {redis:?}"));
            }
        }
        Ok(())
    }

    pub(super) async fn befall(&mut self, event: &Event) -> Result<(), String> {
        let directory = self.names.directory().to_owned();
        match event {
            Event::Jump(steps) => return self.time(*steps).await,
            Event::Flush => {
                self.model.lose_everything();
                self.hand(&mut cmd("FLUSHALL")).await
            }
            Event::DirectoryLost => {
                self.peek(|space, _| space.directory = None);
                self.hand(cmd("DEL").arg(directory)).await
            }
            Event::EpochLost => {
                self.peek(|space, _| space.directory = None);
                self.hand(cmd("ZREM").arg(directory).arg("epoch")).await
            }
            Event::OtherServer => {
                self.peek(|space, _| space.directory.iter_mut().for_each(|it| it.server = 0));
                let server = self.server.clone();
                self.hand::<()>(cmd("ZREM").arg(&directory).arg(server)).await;
                self.hand(cmd("ZADD").arg(&directory).arg(0).arg("at:0000")).await
            }
            Event::EntryLost(key) => {
                self.peek(|space, _| space.entries.remove(key));
                self.hand(cmd("DEL").arg(self.names.entry(key))).await
            }
            Event::LeaseLost(key) => {
                self.peek(|space, _| space.leases.remove(key));
                self.hand(cmd("DEL").arg(self.names.lease(key))).await
            }
            Event::Planted(key, bytes, life) => {
                self.peek(|space, now| {
                    let ends = life.map(|life| clock::after(now, life * STEP));
                    let bytes = bytes.clone().map(Into::into);
                    space.entries.insert(*key, Kept { bytes, ends });
                });
                self.plant(self.names.entry(key), bytes, *life).await;
            }
            Event::LeasePlanted(key, bytes) => {
                // Foreign bytes count as no lease.
                self.peek(|space, _| space.leases.remove(key));
                self.plant(self.names.lease(key), bytes, None).await;
            }
        }
        Ok(())
    }

    async fn plant(&mut self, name: String, bytes: &Option<Vec<u8>>, life: Option<u32>) {
        self.hand::<()>(cmd("DEL").arg(&name)).await;
        match bytes {
            Some(bytes) => self.hand::<()>(cmd("SET").arg(&name).arg(bytes)).await,
            None => self.hand::<()>(cmd("RPUSH").arg(&name).arg("of another type")).await,
        }
        if let Some(life) = life {
            let life = (life * STEP).as_millis() as u64;
            self.hand::<()>(cmd("PEXPIRE").arg(&name).arg(life)).await;
        }
    }

    /// The notices of both since the last call. A notice by the test itself comes last: every
    /// earlier notice from Redis has arrived by then, and no other follows.
    pub(super) async fn notices(&mut self) -> (Vec<Notice>, Vec<Notice>) {
        let last = Notice::LeaseEnded {
            key: CacheKey::of_bytes([0xFF; 32]),
            done: LeaseOutcome::Superseded,
        };
        let message = [&b"da"[..], &[0xFF; 32]].concat();
        self.hand::<()>(cmd("PUBLISH").arg(self.names.channel()).arg(message)).await;
        let mut redis = self.redis_ear.until(&last).await;
        assert_eq!(redis.pop(), Some(last), "nothing comes after it");
        (self.member_ear.take(), redis)
    }

    /// Resets both stores.
    pub(super) async fn reset(&mut self) {
        // Repeats the beat until its reply is quick, so that Redis's clock is known well.
        loop {
            self.base = Clock::system().now();
            let answered =
                self.redis.beat(Position { epoch: 0, seq: 0 }, 1000, false, PATIENCE).await;
            if answered.is_ok() && !self.stalled() {
                break;
            }
        }
        let _ = self.befall(&Event::Flush).await;
        self.notices().await;
        self.base = Clock::system().now();
    }
}
