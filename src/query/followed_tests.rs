//! What is served of a result whose changes are learned by following the database?

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::cache::inner::LoadFn;
use crate::cache::inner::LoadResult;
use crate::cache::read::Read;
use crate::fleet::following::{Alone, Findings, Following, RoundEnded, Term};
use crate::testing::{ManualClock, MemoryStore};
use crate::value::Value;
use crate::value::lsn::{History, Lsn};
use crate::value::tag::{LoadReport, Tag};
use crate::{Origin, QueryCache};

const MILLIS: Duration = Duration::from_millis(1);

async fn cache(store: &MemoryStore, clock: &ManualClock) -> QueryCache {
    let builder = QueryCache::builder().memory_store(store).clock(clock.clone());
    builder.build().await.unwrap()
}

/// Where the result of a followed query comes from.
async fn origin(cache: &QueryCache) -> Origin {
    let query = cache.query("SELECT 1").tag("t");
    let call = query.call_of_function(<Arc<i64>>::shape(), &());
    let read: Read<'_, Arc<i64>, _> = Read::new(query.inner(), call, vec![], || -> LoadFn<i64> {
        let report = LoadReport { is_followed: true, ..LoadReport::default() };
        Box::new(|| async { Ok(LoadResult::new(1_i64, report)) }.boxed())
    });
    read.answer().await.unwrap().origin()
}

fn fleet(cache: &QueryCache) -> Following {
    Following::Fleet(cache.query("SELECT 1").inner().fleet.clone().unwrap())
}

/// A follower whose slot begins at 10.
async fn begin(following: &Following) -> (Term, Option<Lsn>) {
    let history = History::of("a database");
    let begun = following.begin_following(history, Lsn::of(10), Lsn::of(10), Lsn::of(20));
    let begun = begun.await.unwrap();
    (begun.term, begun.goes_on_from)
}

async fn end(
    following: &Following,
    term: &Term,
    number: u64,
    tags: &[&str],
    clock: &ManualClock,
) -> RoundEnded {
    let slots: Vec<_> = tags.iter().map(|&tag| Tag::from(tag).slot()).collect();
    let began = crate::clock::Clock::from(clock.clone()).now();
    let (low, high) = (Lsn::of(30), Lsn::of(40));
    let findings = Findings { began, slots: &slots, low, high };
    following.follow(term, number, &findings).await.unwrap()
}

#[tokio::test]
async fn without_a_follower_it_lives_for_two_seconds_where_it_was_loaded() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    let (one, other) = (cache(&store, &clock).await, cache(&store, &clock).await);
    assert_eq!(origin(&one).await, Origin::Loaded);
    assert_eq!(origin(&one).await, Origin::L1);
    assert_eq!(origin(&other).await, Origin::Loaded, "its age is by the clock of another machine");
    clock.advance(2_000 * MILLIS - MILLIS);
    assert_eq!(origin(&one).await, Origin::L1);
    clock.advance(MILLIS);
    assert_eq!(origin(&one).await, Origin::Loaded);
}

#[tokio::test]
async fn rounds_keep_it_alive_in_all_processes_and_what_they_announce_ends_it() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    let (one, other) = (cache(&store, &clock).await, cache(&store, &clock).await);
    assert_eq!(origin(&one).await, Origin::Loaded);
    let following = fleet(&one);
    let (term, from) = begin(&following).await;
    assert_eq!(from, None);
    assert_eq!(origin(&one).await, Origin::Loaded, "from before the follower");
    for number in 1..=20 {
        let ended = end(&following, &term, number, &[], &clock).await;
        assert!(matches!(ended, RoundEnded::Stands { .. }));
        for cache in [&one, &other] {
            fleet(cache).leader().await.unwrap();
        }
        clock.advance(250 * MILLIS);
    }
    assert_eq!(origin(&one).await, Origin::L1, "five seconds later");
    assert_eq!(origin(&other).await, Origin::L2);
    assert_eq!(origin(&other).await, Origin::L1);
    fleet(&one).leader().await.unwrap();
    let ended = end(&following, &term, 21, &["t"], &clock).await;
    assert!(matches!(ended, RoundEnded::Stands { is_used: true }));
    assert_eq!(origin(&other).await, Origin::Loaded);
    assert_eq!(origin(&one).await, Origin::L2);
    // The follower stops.
    clock.advance(2_000 * MILLIS);
    assert_eq!(origin(&one).await, Origin::Loaded);
    assert_eq!(origin(&other).await, Origin::Loaded);
}

#[tokio::test]
async fn a_second_leader_deposes_the_first_and_leaves_no_gap() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    let (one, other) = (cache(&store, &clock).await, cache(&store, &clock).await);
    let (first, second) = (fleet(&one), fleet(&other));
    let (old, _) = begin(&first).await;
    assert!(matches!(end(&first, &old, 1, &[], &clock).await, RoundEnded::Stands { .. }));
    assert_eq!(origin(&one).await, Origin::Loaded);
    let (new, from) = begin(&second).await;
    assert_eq!(from, Some(Lsn::of(30)), "where the first had come to");
    assert_eq!(origin(&one).await, Origin::L1, "nothing is dropped");
    assert_eq!(end(&first, &old, 2, &["t"], &clock).await, RoundEnded::Deposed);
    assert_eq!(origin(&one).await, Origin::L1, "and nothing was announced");
    assert!(matches!(end(&second, &new, 1, &["t"], &clock).await, RoundEnded::Stands { .. }));
    assert_eq!(end(&second, &new, 1, &[], &clock).await, RoundEnded::Deposed, "it stands already");
    assert_eq!(origin(&one).await, Origin::Loaded);
    store.lose_everything();
    assert_eq!(end(&second, &new, 2, &[], &clock).await, RoundEnded::Deposed);
    assert_eq!(begin(&second).await.1, None, "nobody knows what was announced");
}

#[tokio::test]
async fn a_cache_without_redis_follows_for_itself() {
    let clock = ManualClock::new();
    let cache = QueryCache::builder().clock(clock.clone()).build().await.unwrap();
    let query = cache.query("SELECT 1");
    let inner = query.inner();
    let (currency, counters) = (inner.currency.clone(), inner.counters.clone());
    let alone = Alone::new(currency, counters, clock.clone().into(), inner.max_blind);
    let following = Following::Alone(Arc::new(alone));
    assert_eq!(origin(&cache).await, Origin::Loaded);
    let (term, _) = begin(&following).await;
    assert_eq!(origin(&cache).await, Origin::Loaded, "from before the follower");
    clock.advance(1_500 * MILLIS);
    assert!(matches!(end(&following, &term, 1, &[], &clock).await, RoundEnded::Stands { .. }));
    clock.advance(2_000 * MILLIS - MILLIS);
    assert_eq!(origin(&cache).await, Origin::L1);
    clock.advance(MILLIS);
    assert_eq!(origin(&cache).await, Origin::Loaded);
    assert!(matches!(end(&following, &term, 2, &["t"], &clock).await, RoundEnded::Stands { .. }));
    assert_eq!(origin(&cache).await, Origin::Loaded);
    assert_eq!(end(&following, &term, 2, &[], &clock).await, RoundEnded::Deposed);
}

#[tokio::test]
async fn who_waits_until_it_has_caught_up_has_a_round_that_began_later() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    let cache = cache(&store, &clock).await;
    let following = fleet(&cache);
    let (term, _) = begin(&following).await;
    assert!(!following.caught_up(50 * MILLIS).await, "no round ends");
    let limit = Duration::from_secs(30);
    let rounds = async {
        for number in 1.. {
            end(&following, &term, number, &[], &clock).await;
            following.leader().await;
        }
    };
    let is_caught_up = tokio::select! {
        is_caught_up = following.caught_up(limit) => is_caught_up,
        () = rounds => unreachable!("there is always another round"),
    };
    assert!(is_caught_up);
}
