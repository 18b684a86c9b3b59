//! Does the shared tier in memory answer as Redis does?
//!
//! The same random operations go to both, and what they answer and what they tell unasked must be
//! the same. That is what makes [`MemoryStore`](crate::testing::MemoryStore) worth testing with; and since it is the scripts
//! written a second time, in another language, a slip in either of them shows.
//!
//! ```text
//! cargo test --lib differential -- --nocapture
//! LARDER_SEED=17 LARDER_OPERATIONS=1000000 cargo test --release --lib differential -- --nocapture
//! ```
//!
//! # Chance
//!
//! Both draw the random part of a new epoch from the thread's generator, which is set to the same
//! seed before each operation. So epochs are equal, not only alike, and also how they compare:
//! after a loss the new lineage may begin with the same count as one that somebody still knows, and
//! it is the random part then that decides which of them is higher.
//!
//! # Time
//!
//! Nothing sleeps. The model's clock stands still, and jumps by whole [`STEP`]s; all lives are whole
//! steps, too. Redis's clock cannot be held, so every few milliseconds a script gives each name in
//! Redis the time back that has passed there, by rounding what it has left up to whole steps, and
//! takes what the model's clock has jumped by: what has nothing left then is gone, as if it had
//! expired. Between two of these what has time left in the model never has less than a step, and
//! the two can differ about it only if the machine stood still for nearly so long. That is measured,
//! and what was asked meanwhile is not judged.
//!
//! One comparison cannot be put to both: which of two entries ends later that end at the same
//! moment. In Redis that is decided by less than a millisecond; no such entries are made here.

mod chance;
mod pair;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use test_servers::Redis;

use self::chance::Chance;
use self::pair::Pair;
use crate::clock::{self, Instant};
use crate::currency::Position;
use crate::l2::{
    Beat, Fill, Found, LEASE, LeaseOutcome, LeaseReply, LeaseRequest, Notice, ReadReply, Store,
    StoreError,
};
use crate::value::key::CacheKey;
use crate::value::tag::TagSlot;
use crate::value::token::Token;

const OPERATIONS: usize = 100_000;
/// A quarter of a lease.
const STEP: Duration = Duration::from_millis(LEASE.as_millis() as u64 / 4);
/// So many operations are under way at once. They are sent in the order in which they are polled
/// for the first time; many more would meet a full queue, or the end of what Tokio lets a task do at
/// a time, and be sent in another one.
const AT_ONCE: usize = 16;

#[derive(Debug, Clone)]
enum Operation {
    Read(CacheKey),
    Lease(CacheKey, LeaseRequest),
    Renew(CacheKey, Token),
    /// With the steps that the entry has to live.
    Fill(CacheKey, Fill, u32),
    Release(CacheKey, Token, LeaseOutcome),
    Beat(Position),
    Invalidate(Position, Vec<TagSlot>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Read(ReadReply),
    Lease(LeaseReply),
    Renew(bool),
    Fill(bool),
    Release,
    Beat(Beat),
    Invalidate(Position),
}

/// What happens to the store, unasked.
#[derive(Debug, Clone)]
enum Event {
    Jump(u32),
    Flush,
    DirectoryLost,
    /// The directory's epoch alone is lost: what else is there must not come back.
    EpochLost,
    OtherServer,
    EntryLost(CacheKey),
    LeaseLost(CacheKey),
    /// Somebody else's bytes, or `None` for another type than a string, and with so many steps to
    /// live, or no end.
    Planted(CacheKey, Option<Vec<u8>>, Option<u32>),
    LeasePlanted(CacheKey, Option<Vec<u8>>),
}

/// Puts an operation to a store. `base` is the moment, by the store's clock, that the model calls
/// now.
async fn put(
    store: &dyn Store,
    operation: &Operation,
    chance: u64,
    base: Instant,
) -> Result<Answer, StoreError> {
    // Up to the first await nobody else draws.
    fastrand::seed(chance);
    Ok(match operation {
        Operation::Read(key) => Answer::Read(store.read(key).await?),
        Operation::Lease(key, ask) => Answer::Lease(store.lease(key, *ask).await?),
        Operation::Renew(key, token) => Answer::Renew(store.renew(key, *token).await?),
        Operation::Fill(key, fill, life) => {
            let ends = store.time_of(clock::after(base, *life * STEP));
            let fill = Fill { ends: ends.expect("the clock is known"), ..fill.clone() };
            Answer::Fill(store.fill(key, fill).await?)
        }
        Operation::Release(key, token, done) => {
            store.release(key, *token, *done).await?;
            Answer::Release
        }
        Operation::Beat(known) => {
            let mut beat = store.beat(*known).await?;
            // Redis orders slots of one number by their text.
            beat.slots.sort();
            Answer::Beat(beat)
        }
        Operation::Invalidate(known, slots) => {
            Answer::Invalidate(store.invalidate(*known, slots).await?)
        }
    })
}

/// Whether Redis answered as the model did, but for the time that has passed there.
fn agree(model: &Answer, redis: &Answer) -> bool {
    let mut redis = redis.clone();
    match (model, &mut redis) {
        (Answer::Lease(LeaseReply::Wait(model)), Answer::Lease(LeaseReply::Wait(redis)))
            if about(*model, *redis) =>
        {
            *redis = *model;
        }
        // Each by its own clock, and Redis's does not jump. How long an entry lives is put to both
        // whenever time passes.
        (
            Answer::Read(ReadReply { found: Found::Entry { now: model, .. }, .. }),
            Answer::Read(ReadReply { found: Found::Entry { now: redis, .. }, .. }),
        ) => *redis = *model,
        _ => {}
    }
    *model == redis
}

/// A step less is none less. PTTL is the difference of two times that are cut to milliseconds, and
/// may be one more than what it is of.
fn about(model: Duration, redis: Duration) -> bool {
    redis <= model + Duration::from_millis(1) && model < redis + STEP
}

/// Written down for the case that something differs; turned to text only then.
#[derive(Debug)]
#[expect(dead_code, reason = "read by `Debug`")]
enum Logged {
    Operation(Operation, Answer),
    Event(Event),
}

/// What an answer is counted as: a test that meets only half of the cases shows nothing.
fn case(answer: &Answer, epoch: u64) -> &'static str {
    match answer {
        Answer::Read(ReadReply { directory: None, .. }) => "read without a directory",
        Answer::Read(ReadReply { found: Found::Nothing, .. }) => "read nothing",
        Answer::Read(_) => "read an entry",
        Answer::Lease(LeaseReply::Granted) => "lease granted",
        Answer::Lease(LeaseReply::Entry) => "lease refused for an entry",
        Answer::Lease(LeaseReply::Wait(_)) => "lease another's",
        Answer::Renew(true) => "renewed",
        Answer::Renew(false) => "not renewed",
        Answer::Fill(true) => "filled",
        Answer::Fill(false) => "not filled",
        Answer::Release => "released",
        Answer::Beat(beat) if beat.at.epoch != epoch => "beat begins an epoch",
        Answer::Beat(_) => "beat",
        Answer::Invalidate(at) if at.epoch != epoch => "invalidation begins an epoch",
        Answer::Invalidate(_) => "invalidation",
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

#[tokio::test]
async fn memory_and_redis_answer_alike() {
    let seed = number("LARDER_SEED").unwrap_or_else(|| fastrand::u64(..));
    let operations = number("LARDER_OPERATIONS").map_or(OPERATIONS, |number| number as usize);
    println!("LARDER_SEED={seed}");
    let begin = std::time::Instant::now();
    let server = Redis::start().unwrap();
    let keys: Vec<_> = (0..6).map(|number| CacheKey::of_bytes([number; 32])).collect();
    let mut pair = Pair::new(&server, keys.clone()).await;
    let mut chance = Chance::new(seed, keys);
    // Every script becomes known to Redis: one that is not is sent twice, and overtaken meanwhile.
    let (key, token, zero) = (chance.key(), chance.any_token(), chance.at);
    let ask = LeaseRequest { token, at: zero, need: 0, seen: None, refused: false };
    let slots = vec![TagSlot::of(1)];
    let mut batch = vec![
        Operation::Beat(zero),
        Operation::Invalidate(zero, slots),
        Operation::Lease(key, ask),
        Operation::Renew(key, token),
        Operation::Release(key, token, LeaseOutcome::Filled),
        chance.fill(&pair, key),
    ];
    for operation in batch.drain(..) {
        pair.redis(&[(operation, 0)]).await.pop().unwrap().unwrap();
    }
    pair.reset().await;

    let mut cases = BTreeMap::<&str, usize>::new();
    let mut log = VecDeque::new();
    let (mut asked, mut stalls) = (0, 0);
    while asked < operations {
        let mut outcome = pair.time(0).await;
        for _ in 0..8 {
            let count = chance.chance.usize(1..=AT_ONCE);
            let (mut batch, mut answers) = (vec![], vec![]);
            for _ in 0..count {
                // Few, so that epochs sometimes repeat, too.
                let (operation, draw) = (chance.operation(&pair), chance.chance.u64(..64));
                let answer = pair.model(&operation, draw);
                *cases.entry(case(&answer, chance.at.epoch)).or_default() += 1;
                chance.learn(&answer);
                batch.push((operation, draw));
                answers.push(answer);
            }
            let replies = pair.redis(&batch).await;
            asked += count;
            if pair.stalled() {
                break;
            }
            for (((operation, _), model), redis) in batch.into_iter().zip(answers).zip(replies) {
                let agree = redis.as_ref().is_ok_and(|redis| agree(&model, redis));
                log.push_back(Logged::Operation(operation, model));
                if !agree {
                    outcome = Err(format!("that was memory's answer; Redis's is {redis:?}"));
                    break;
                }
            }
            if outcome.is_ok() && chance.percent(70) {
                let event = chance.event();
                outcome = pair.befall(&event).await;
                log.push_back(Logged::Event(event));
            }
            if outcome.is_err() || pair.stalled() {
                break;
            }
        }
        if pair.stalled() {
            stalls += 1;
            pair.reset().await;
            continue;
        }
        if outcome.is_ok() {
            let (model, redis) = pair.notices().await;
            for notice in &model {
                let case = match notice {
                    Notice::LeaseEnded { .. } => "told of the end of a load",
                    _ => "told of an invalidation",
                };
                *cases.entry(case).or_default() += 1;
            }
            if model != redis {
                outcome = Err(format!("memory told {model:?}\nand Redis {redis:?}"));
            }
        }
        log.drain(..log.len().saturating_sub(100));
        if let Err(difference) = outcome {
            for logged in &log {
                println!("{logged:?}");
            }
            panic!("LARDER_SEED={seed}, within operation {asked}: {difference}");
        }
    }
    println!("{asked} operations in {:?}; the machine stood still {stalls} times", begin.elapsed());
    for (case, count) in &cases {
        println!("{count:>8} {case}");
    }
    if operations >= OPERATIONS {
        assert_eq!(cases.len(), 17, "every case is met");
        assert!(cases.values().all(|&count| count >= 100), "and often");
    }
}
