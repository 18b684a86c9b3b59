//! Do the pages of a beat's reply add up to one full reply?

use std::iter::once;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::late_tests::Unsubscribed;
use super::*;
use crate::background::Background;
use crate::currency::{Applied, Currency};
use crate::l2::redis::endpoint::Endpoint;

const PATIENCE: Duration = Duration::from_secs(30);
const ALL: usize = 1 << 20;
const START: Position = Position { epoch: 0, seq: 0 };

async fn store(server: &test_servers::Redis) -> RedisStore {
    let background = Background::on(Handle::current());
    let endpoint = Endpoint::new(&server.url()).unwrap();
    let link = Connection::new(endpoint, PATIENCE, None, &background);
    link.connect().await.unwrap();
    RedisStore::new(link, "pages", Arc::new(Unsubscribed))
}

fn slot(number: usize) -> TagSlot {
    TagSlot::numbered(number as u64).unwrap()
}

/// The number of every slot but the last, which all results depend on.
fn numbers(table: &Currency) -> Vec<u64> {
    let everything = TagSlot::EVERYTHING.index();
    (0..everything).map(|number| table.newest(once(slot(number)))).collect()
}

/// A table that has all in one reply.
async fn whole(store: &RedisStore) -> Currency {
    let table = Currency::shared();
    let beat = store.beat(START, ALL, false, PATIENCE).await.unwrap();
    assert!(!beat.more);
    let applied = table.beat(beat.at, &beat.slots, 1, Some(Instant::NEVER));
    assert_eq!(applied, Applied::Ok);
    table
}

#[tokio::test]
async fn pages_with_invalidations_between_them_are_one_full_reply() {
    let seed =
        std::env::var("LARDER_SEED").map_or_else(|_| fastrand::u64(..), |it| it.parse().unwrap());
    println!("LARDER_SEED={seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let server = test_servers::Redis::start().unwrap();
    let store = store(&server).await;
    for _ in 0..40 {
        server.command(&["FLUSHALL"]).unwrap();
        let range = chance.usize(1..300);
        let invalidate = async |chance: &mut fastrand::Rng, most: usize| {
            let count = chance.usize(1..=most);
            let slots: Vec<_> = (0..count).map(|_| slot(chance.usize(..range))).collect();
            store.invalidate(START, &slots).await.unwrap();
        };
        for _ in 0..chance.usize(..60) {
            invalidate(&mut chance, 9).await;
        }
        let table = Currency::shared();
        let most = chance.usize(1..40);
        let (mut pages, mut between) = (0, chance.usize(..30));
        loop {
            let known = table.position();
            let beat = store.beat(known, most, false, PATIENCE).await.unwrap();
            pages += 1;
            let has_room = beat.slots.len() <= most;
            let is_one_number = beat.slots.iter().all(|(_, seq)| *seq == beat.at.seq);
            assert!(has_room || is_one_number, "a page is no longer than it may be");
            let until = (!beat.more).then_some(Instant::NEVER);
            assert_eq!(table.beat(beat.at, &beat.slots, 1, until), Applied::Ok);
            if !beat.more {
                break;
            }
            assert_eq!(table.confirmed_until(), Instant::from_nanos(0), "not before the last page");
            assert!(table.position().seq > known.seq, "each page is a step");
            // All that the table claims to have, it has.
            let upto = table.position().seq;
            let (mine, theirs) = (numbers(&table), numbers(&whole(&store).await));
            for (mine, theirs) in mine.iter().zip(theirs) {
                assert!(theirs > upto || *mine == theirs, "{mine} is {theirs}, and claimed {upto}");
            }
            if between > 0 {
                between -= 1;
                invalidate(&mut chance, 9).await;
            }
        }
        let whole = whole(&store).await;
        assert_eq!(table.position(), whole.position(), "after {pages} pages");
        assert!(numbers(&table) == numbers(&whole), "after {pages} pages");
    }
    store.close();
}

#[tokio::test]
async fn thousands_of_slots_of_one_call_come_in_pages() {
    let server = test_servers::Redis::start().unwrap();
    let store = store(&server).await;
    let slots: Vec<_> = (0..5_000).map(slot).collect();
    let at = store.invalidate(START, &slots).await.unwrap();
    assert_eq!(at.seq, 5_000 / SLOTS_PER_NUMBER as u64);
    let beat = store.beat(START, 1_000, false, PATIENCE).await.unwrap();
    assert_eq!((beat.slots.len(), beat.at.seq, beat.more), (1_000, 2, true));
    // As it was stored by versions that gave all slots of a call one number.
    let mut command = vec!["ZADD".to_owned(), store.names.directory().to_owned()];
    command.extend((0..5_000).flat_map(|slot| ["7".to_owned(), slot.to_string()]));
    server.command(&command).unwrap();
    let beat = store.beat(START, 1_000, false, PATIENCE).await.unwrap();
    assert_eq!((beat.slots.len(), beat.at.seq, beat.more), (5_000, 7, true));
    let beat = store.beat(beat.at, 1_000, false, PATIENCE).await.unwrap();
    assert_eq!((beat.slots.len(), beat.at, beat.more), (0, at, false));
    store.close();
}
