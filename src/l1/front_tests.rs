//! Separate from `front.rs` because `tests/loom` includes that file in a program where these tests
//! cannot run.

use std::sync::Arc;

use super::front::{Front, MOST, ROOM, SHARE, SLOT, SLOTS};
use crate::clock::Instant;
use crate::currency::Stamp;
use crate::l1::entry::{Entry, Lifetime, LoadInfo};
use crate::value::key::{CacheKey, Digest, KeyEncoder, Shape};
use crate::value::tag::{Dependencies, TagSlot};
use crate::value::token::Token;

/// Room for a front of one set.
const ONE_SET: u64 = ROOM * SHARE * SLOTS;

fn key(number: u64) -> CacheKey {
    KeyEncoder::new(Digest::new("n", "q", None, 0), Shape(number)).finish()
}

fn entry(number: u64, bytes: usize, kept: u64) -> Arc<Entry> {
    let lifetime = Lifetime::of_nanos([0, 0, 0, 0, kept]);
    let depends = Arc::new(Dependencies::new([], TagSlot::of(0)));
    let load = LoadInfo { stamp: Stamp::default(), token: Token([0; 16]), depends };
    Entry::new(&key(number), Arc::new(()), bytes, lifetime, load)
}

/// Returns which of the key's entries is in the front.
fn kept(front: &Front, number: u64) -> Option<u64> {
    front.read(&key(number), |entry| Some(entry.lifetime.evict_at.nanos()))
}

#[test]
fn its_entries_never_weigh_more_than_its_share() {
    assert_eq!(SLOT, 32);
    for max_bytes in [1, 4096, ONE_SET - 1, ONE_SET, 3 * ONE_SET, 1 << 28, u64::MAX] {
        let front = Front::new(max_bytes);
        assert!(front.bytes() <= max_bytes / SHARE);
        assert!(front.sets.len() as u64 * SLOTS <= MOST);
        assert_eq!(front.sets.is_empty(), max_bytes < ONE_SET);
        // The largest result that fits, and one byte more.
        let room = (front.largest as usize).saturating_sub(384);
        for (bytes, fits) in [(room, true), (room + 1, false)] {
            front.watch(&key(1)).promote(&entry(1, bytes, 1));
            let fits = fits && max_bytes >= ONE_SET || front.largest == u32::MAX;
            assert_eq!(!front.sets.is_empty() && kept(&front, 1).is_some(), fits);
            front.watch(&key(1)).replace(&key(1), &entry(1, usize::MAX, 1));
        }
    }
}

#[test]
fn a_reader_that_asked_moka_before_it_was_given_another_brings_nothing() {
    let front = Front::new(ONE_SET);
    let reader = front.watch(&key(1));
    front.watch(&key(1)).replace(&key(1), &entry(1, 0, 2));
    reader.promote(&entry(1, 0, 1));
    assert_eq!(kept(&front, 1), Some(2));
}

#[test]
fn nor_does_it_when_the_slots_have_come_to_be_what_they_were() {
    let front = Front::new(ONE_SET);
    let others = [entry(2, 0, 1), entry(3, 0, 1)];
    let promote =
        || (2..).zip(&others).for_each(|(key_of, it)| front.watch(&key(key_of)).promote(it));
    promote();
    let reader = front.watch(&key(1));
    front.watch(&key(1)).replace(&key(1), &entry(1, 0, 2));
    promote();
    assert_eq!([1, 2, 3].map(|number| kept(&front, number)), [None, Some(1), Some(1)]);
    reader.promote(&entry(1, 0, 1));
    assert_eq!(kept(&front, 1), None);
}

#[test]
fn what_was_promoted_in_between_is_replaced() {
    let front = Front::new(ONE_SET);
    let (reader, writer) = (front.watch(&key(1)), front.watch(&key(1)));
    reader.promote(&entry(1, 0, 1));
    assert_eq!(kept(&front, 1), Some(1));
    writer.replace(&key(1), &entry(1, 0, 2));
    assert_eq!(kept(&front, 1), Some(2));
}

#[test]
fn two_writers_that_come_in_the_wrong_order_leave_nothing() {
    let front = Front::new(ONE_SET);
    front.watch(&key(1)).promote(&entry(1, 0, 1));
    // moka was given 2 first and then 3.
    let (first, second) = (front.watch(&key(1)), front.watch(&key(1)));
    second.replace(&key(1), &entry(1, 0, 3));
    assert_eq!(kept(&front, 1), Some(3));
    first.replace(&key(1), &entry(1, 0, 2));
    assert_eq!(kept(&front, 1), None);
}

#[test]
fn the_last_two_that_were_read_or_written_have_the_slots() {
    let front = Front::new(ONE_SET);
    let all = || [1, 2, 3].map(|number| kept(&front, number));
    front.watch(&key(1)).promote(&entry(1, 0, 1));
    front.watch(&key(2)).replace(&key(2), &entry(2, 0, 2));
    assert_eq!(all(), [Some(1), Some(2), None]);
    // It is replaced in its own slot.
    front.watch(&key(1)).replace(&key(1), &entry(1, 0, 3));
    front.watch(&key(2)).promote(&entry(2, 0, 4));
    assert_eq!(all(), [Some(3), Some(4), None]);
    front.watch(&key(3)).promote(&entry(3, 0, 5));
    assert_eq!(all(), [None, Some(4), Some(5)]);
    // An entry that is too large removes only its own key's entry.
    front.watch(&key(1)).replace(&key(1), &entry(1, 1 << 16, 6));
    assert_eq!(all(), [None, Some(4), Some(5)]);
    front.watch(&key(2)).replace(&key(2), &entry(2, 1 << 16, 6));
    assert_eq!(all(), [None, None, Some(5)]);
    // The key keeps its slot, and the entry in the other slot stays.
    front.watch(&key(2)).promote(&entry(2, 0, 7));
    assert_eq!(all(), [None, Some(7), Some(5)]);
    front.sweep(Instant::from_nanos(5));
    assert_eq!(all(), [None, Some(7), None]);
    front.watch(&key(1)).promote(&entry(1, 0, 8));
    assert_eq!(all(), [Some(8), Some(7), None]);
}

/// Whatever the operations and their order, a key has at most one entry in the front, and that
/// entry is never newer than the last one given to it.
#[test]
fn a_key_has_one_entry_here_at_most() {
    let front = Front::new(ONE_SET);
    let mut random = fastrand::Rng::with_seed(1);
    let mut last = [0; 4];
    for count in 1..20_000 {
        let number = random.usize(0..4);
        let of = key(number as u64);
        match random.u8(0..4) {
            0 => front.watch(&of).replace(&of, &entry(number as u64, 1 << 16, count)),
            1 => front.sweep(Instant::from_nanos(count - random.u64(0..8).min(count))),
            2 => front.watch(&of).replace(&of, &entry(number as u64, 0, count)),
            _ => front.watch(&of).promote(&entry(number as u64, 0, count)),
        }
        last[number] = count.max(last[number]);
        let firsts = std::cell::RefCell::new(vec![]);
        front.alone(|first| {
            firsts.borrow_mut().push(first);
            false
        });
        let mut firsts = firsts.into_inner();
        let all = firsts.len();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), all);
        for (number, last) in last.iter().enumerate() {
            assert!(kept(&front, number as u64).is_none_or(|kept| kept <= *last));
        }
    }
}

#[test]
fn a_set_that_somebody_else_is_busy_with_is_left_to_him() {
    let front = Front::new(ONE_SET);
    let locked = front.sets[0].lock();
    front.watch(&key(1)).promote(&entry(1, 0, 1));
    assert_eq!(kept(&front, 1), None);
    drop(locked);
}

#[test]
fn what_is_here_alone_is_counted_by_the_first_bytes_of_its_key() {
    let front = Front::new(1 << 22);
    assert_eq!(front.alone(|_| false), (0, 0));
    front.watch(&key(1)).promote(&entry(1, 100, 1));
    front.watch(&key(2)).replace(&key(2), &entry(2, 200, 1));
    let elsewhere = |numbers: &'static [u64]| {
        move |first| numbers.iter().any(|&number| key(number).first() == first)
    };
    assert_eq!(front.alone(elsewhere(&[])), (2, 300 + 2 * 384));
    assert_eq!(front.alone(elsewhere(&[1])), (1, 200 + 384));
    assert_eq!(front.alone(elsewhere(&[1, 2])), (0, 0));
    // The entries of several keys, one after another, in the same slots.
    let front = Front::new(ONE_SET);
    for number in 1..=9 {
        front.watch(&key(number)).promote(&entry(number, 0, 1));
        let others = if number == 1 { 0 } else { 1 };
        assert_eq!(front.alone(|first| first == key(number).first()), (others, others * 384));
    }
    front.sweep(Instant::from_nanos(1));
    assert_eq!(front.alone(|_| false), (0, 0));
}
