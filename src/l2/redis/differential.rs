//! Does the shared tier in memory answer as Redis does?
//!
//! The same random operations go to both. Their replies and their notices must be equal. That is
//! what makes [`MemoryStore`](crate::testing::MemoryStore) a valid stand-in for tests. It also
//! shows mistakes in the scripts, since the store in memory implements them a second time, in
//! another language.
//!
//! ```text
//! cargo test --lib differential -- --nocapture
//! LARDER_SEED=17 LARDER_OPERATIONS=1000000 cargo test --release --lib differential -- --nocapture
//! ```
//!
//! # Random numbers
//!
//! Both stores draw the random part of a new epoch from the thread's generator, which is set to the
//! same seed before each operation. So the epochs are equal, and they compare alike. That matters:
//! after a loss the new lineage may begin with the same count as one that a process still knows,
//! and then the random part decides which of the two is higher.
//!
//! # Time
//!
//! Nothing sleeps. The model's clock stands still and jumps by whole [`STEP`]s, and all lifetimes
//! are whole steps. Redis's clock cannot be stopped. Instead, every few milliseconds a script
//! corrects each key in Redis: it rounds the remaining time up to whole steps, which restores the
//! time that has really passed, and subtracts the jump of the model's clock. A key without
//! remaining time is removed, as if it had expired. Between two corrections, a key that has time
//! left in the model has at least a step, so the two can differ about it only if the machine
//! stalled for nearly a step. Stalls are measured, and replies from a stalled phase are not
//! compared.
//!
//! One comparison is left out: which of two entries ends later if both end at the same time. In
//! Redis less than a millisecond decides it, so the test never creates such entries.

mod chance;
mod pair;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use test_servers::Redis;

use self::chance::Chance;
use self::pair::Pair;
use crate::clock::{self, Instant};
use crate::currency::Position;
use crate::l2::follow::{RoundEnd, RoundReply, TermReply, TermStart};
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
/// The number of operations that run at once. They are sent in the order of their first polls. Many
/// more would meet a full queue, or the end of the task's cooperative budget in Tokio, and be sent
/// in another order.
const AT_ONCE: usize = 16;

#[derive(Debug, Clone)]
enum Operation {
    Read(CacheKey),
    Lease(CacheKey, LeaseRequest),
    Renew(CacheKey, Token),
    /// With the lifetime of the entry in steps.
    Fill(CacheKey, Fill, u32),
    Release(CacheKey, Token, LeaseOutcome),
    /// With the size of a page, and whether the caller is in use.
    Beat(Position, usize, bool),
    Invalidate(Position, Vec<TagSlot>),
    BeginFollowing(Position, TermStart),
    Follow(Position, RoundEnd, Vec<TagSlot>),
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
    BeginFollowing(TermReply),
    Follow(RoundReply),
}

/// An external event that changes the store.
#[derive(Debug, Clone)]
enum Event {
    Jump(u32),
    Flush,
    DirectoryLost,
    /// Only the directory's epoch is lost: the rest of the directory must not come back.
    EpochLost,
    OtherServer,
    EntryLost(CacheKey),
    LeaseLost(CacheKey),
    /// Foreign bytes, or `None` for a value that is not a string, with a lifetime in steps, or
    /// `None` for no expiry.
    Planted(CacheKey, Option<Vec<u8>>, Option<u32>),
    LeasePlanted(CacheKey, Option<Vec<u8>>),
}

/// Sends an operation to a store. `base` is the time, by the store's clock, that equals the model's
/// present.
async fn put(
    store: &dyn Store,
    operation: &Operation,
    chance: u64,
    base: Instant,
) -> Result<Answer, StoreError> {
    // Nothing else draws from the generator before the first await.
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
        Operation::Beat(known, most, in_use) => {
            let mut beat = store.beat(*known, *most, *in_use, store.limit()).await?;
            // Redis orders slots of the same number by their text.
            beat.slots.sort();
            Answer::Beat(beat)
        }
        Operation::Invalidate(known, slots) => {
            Answer::Invalidate(store.invalidate(*known, slots).await?)
        }
        Operation::BeginFollowing(known, start) => {
            Answer::BeginFollowing(store.begin_following(*known, start).await?)
        }
        Operation::Follow(known, end, slots) => {
            Answer::Follow(store.follow(*known, end, slots).await?)
        }
    })
}

/// Whether Redis replied as the model did, apart from the time that has passed there.
fn agree(model: &Answer, redis: &Answer) -> bool {
    let mut redis = redis.clone();
    match (model, &mut redis) {
        (Answer::Lease(LeaseReply::Wait(model)), Answer::Lease(LeaseReply::Wait(redis)))
            if about(*model, *redis) =>
        {
            *redis = *model;
        }
        // Each store replies by its own clock, and Redis's clock does not jump. Lifetimes are
        // compared whenever time passes.
        (
            Answer::Read(ReadReply { found: Found::Entry { now: model, .. }, .. }),
            Answer::Read(ReadReply { found: Found::Entry { now: redis, .. }, .. }),
        ) => *redis = *model,
        _ => {}
    }
    *model == redis
}

/// Redis may have less time left, by less than one step. PTTL is the difference of two times
/// truncated to milliseconds, so it may be one millisecond too large.
fn about(model: Duration, redis: Duration) -> bool {
    redis <= model + Duration::from_millis(1) && model < redis + STEP
}

/// Kept for the case of a difference, and formatted only then.
#[derive(Debug)]
#[expect(dead_code, reason = "read by `Debug`")]
enum Logged {
    Operation(Box<Operation>, Answer),
    Event(Event),
}

/// The class that a reply is counted in. The test must meet every class.
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
        Answer::Beat(Beat { more: true, .. }) => "page of a beat",
        Answer::Beat(Beat { leader: Some(_), .. }) => "beat that shows a leader",
        Answer::Beat(_) => "beat",
        Answer::BeginFollowing(begun) if begun.at.epoch != epoch => "term begins an epoch",
        Answer::BeginFollowing(TermReply { goes_on_from: Some(_), .. }) => "term goes on",
        Answer::BeginFollowing(_) => "term with a gap before it",
        Answer::Follow(RoundReply { is_accepted: false, .. }) => "round refused",
        Answer::Follow(RoundReply { is_used: true, .. }) => "round that was waited for",
        Answer::Follow(_) => "round",
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
    // Makes every script known to Redis. A script that is unknown is sent twice, and later
    // operations may overtake it.
    let (key, token, zero) = (chance.key(), chance.any_token(), chance.at);
    let ask = LeaseRequest { token, at: zero, need: 0, seen: None, refused: false };
    let slots = vec![TagSlot::of(1)];
    let mut batch = vec![
        Operation::Beat(zero, 1000, false),
        Operation::Invalidate(zero, slots.clone()),
        Operation::BeginFollowing(zero, chance.term(&pair)),
        Operation::Follow(zero, chance.round(&pair), slots),
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
                // A few values only, so that epochs sometimes repeat.
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
                log.push_back(Logged::Operation(Box::new(operation), model));
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
        assert_eq!(cases.len(), 25, "every case is met");
        assert!(cases.values().all(|&count| count >= 100), "and often");
    }
}
