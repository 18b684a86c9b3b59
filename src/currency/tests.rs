//! Separate from `table.rs` because `tests/loom` includes that file in a program where these tests
//! cannot run.

use std::iter::once;

use super::table::Announcement;
use super::{Applied, Currency, Position, Stamp};
use crate::clock::Instant;
use crate::value::tag::TagSlot;

const LINK: u64 = 7;

fn nanos(nanos: u64) -> Instant {
    Instant::from_nanos(nanos)
}

fn a() -> TagSlot {
    TagSlot::of(1)
}

fn b() -> TagSlot {
    TagSlot::of(2)
}

fn at(epoch: u64, seq: u64) -> Position {
    Position { epoch, seq }
}

/// A table at this position, without any invalidated tag; confirmed until 10.
fn table(epoch: u64, seq: u64) -> Currency {
    let table = Currency::shared();
    assert_eq!(table.beat(at(epoch, seq), &[], LINK, Some(nanos(10))), Applied::Ok);
    table
}

/// A result of another process.
fn foreign(epoch: u64, seq: u64) -> Stamp {
    Stamp { epoch, seq, order: 0 }
}

fn current(table: &Currency, stamp: Stamp) -> bool {
    table.is_current(&stamp, once(a()))
}

fn announcement(table: &Currency) -> Announcement {
    table.unannounced().expect("something is pending")
}

// ---- what is current ----

#[test]
fn a_result_is_current_until_one_of_its_cells_is_invalidated() {
    let table = table(1, 4);
    assert!(current(&table, foreign(1, 4)));
    assert_eq!(table.pushed(at(1, 5), &[b()]), Applied::Ok);
    assert!(current(&table, foreign(1, 4)));
    assert!(!table.is_current(&foreign(1, 4), [a(), b()].into_iter()));
    assert_eq!(table.pushed(at(1, 6), &[a()]), Applied::Ok);
    assert!(!current(&table, foreign(1, 5)));
    assert!(current(&table, foreign(1, 6)));
}

#[test]
fn everything_is_one_cell_that_all_results_depend_on() {
    let table = table(1, 4);
    assert_eq!(table.pushed(at(1, 5), &[TagSlot::EVERYTHING]), Applied::Ok);
    assert!(!current(&table, foreign(1, 4)));
    assert!(!table.is_current(&foreign(1, 4), std::iter::empty()));
    assert!(current(&table, foreign(1, 5)));
}

#[test]
fn a_result_is_of_its_epoch_alone() {
    let table = table(2, 4);
    for epoch in [0, 1, 3, u64::MAX] {
        assert!(!current(&table, foreign(epoch, 4)), "{epoch}");
    }
    assert!(current(&table, foreign(2, 4)));
}

#[test]
fn before_the_first_beat_the_table_is_of_no_epoch_and_not_confirmed() {
    let table = Currency::shared();
    assert_eq!((table.position(), table.confirmed_until()), (at(0, 0), nanos(0)));
    let own = table.stamp();
    assert!(current(&table, own));
    table.invalidate(&[a()]);
    assert!(!current(&table, own));
    assert_eq!(table.beat(at(1, 3), &[], LINK, Some(nanos(9))), Applied::Ok);
    assert!(!current(&table, own) && !current(&table, foreign(1, 3)));
}

#[test]
fn a_table_alone_is_always_confirmed_and_counts_for_itself() {
    let table = Currency::alone();
    assert_eq!(table.confirmed_until(), Instant::NEVER);
    let old = table.stamp();
    assert!(current(&table, old));
    table.invalidate_alone(&[a()]);
    assert!(!current(&table, old));
    assert!(table.is_current(&old, once(b())));
    let new = table.stamp();
    assert!(current(&table, new));
    assert_eq!((new.epoch, new.seq), (1, 1));
    table.invalidate_alone(&[TagSlot::EVERYTHING]);
    assert!(!current(&table, new) && !table.is_current(&new, once(b())));
    assert_eq!(table.unannounced(), None);
}

// ---- what is followed ----

fn round(term: u64, number: u64) -> super::Round {
    super::Round { term, number }
}

#[test]
fn what_is_followed_is_served_as_long_as_two_rounds_prove() {
    let table = table(1, 4);
    assert_eq!(table.followed_until(), nanos(0));
    table.heard_of(1, round(1, 7), nanos(20));
    table.heard_of(1, round(1, 8), nanos(30));
    assert_eq!(table.followed_until(), nanos(0), "it may have been under way");
    table.heard_of(1, round(1, 9), nanos(40));
    assert_eq!(table.followed_until(), nanos(20));
    assert!(table.is_followed(&foreign(1, 4), nanos(19)));
    assert!(!table.is_followed(&foreign(1, 4), nanos(20)));
    assert!(!table.is_followed(&foreign(2, 4), nanos(19)), "of another epoch");
}

#[test]
fn a_new_epoch_needs_proof_of_its_own() {
    let table = table(1, 4);
    table.heard_of(1, round(1, 1), nanos(20));
    table.heard_of(1, round(1, 3), nanos(30));
    assert!(table.is_followed(&foreign(1, 4), nanos(19)));
    assert_eq!(table.beat(at(2, 0), &[], LINK, Some(nanos(50))), Applied::Ok);
    assert_eq!(table.followed_until(), nanos(0));
    assert!(!table.is_followed(&foreign(2, 0), nanos(1)));
    table.heard_of(1, round(1, 9), nanos(40));
    assert_eq!(table.followed_until(), nanos(0), "a late word of the old epoch");
    table.heard_of(2, round(1, 0), nanos(60));
    table.heard_of(2, round(1, 2), nanos(70));
    assert_eq!(table.followed_until(), nanos(60), "nothing of the old one is proven by it");
}

#[test]
fn all_that_is_followed_is_one_cell() {
    let table = table(1, 4);
    let followed = [a(), TagSlot::FOLLOWED].into_iter();
    assert_eq!(table.pushed(at(1, 5), &[TagSlot::FOLLOWED]), Applied::Ok);
    assert!(!table.is_current(&foreign(1, 4), followed.clone()));
    assert!(table.is_current(&foreign(1, 5), followed));
    assert!(current(&table, foreign(1, 4)), "not followed");
}

// ---- stamps and orders ----

#[test]
fn a_stamp_says_where_the_table_is_and_each_is_a_moment_later() {
    let table = table(3, 8);
    let (one, two) = (table.stamp(), table.stamp());
    assert_eq!((one.epoch, one.seq), (3, 8));
    assert!(one.is_ours() && !foreign(3, 8).is_ours());
    assert!(one.order < two.order);
    assert_eq!(table.order(), two.order);
    let invalidated = table.invalidate(&[a()]);
    assert!(two.order < invalidated && invalidated < table.stamp().order);
}

// ---- pending ----

#[test]
fn while_an_invalidation_is_pending_only_own_loads_from_after_it_are_current() {
    let table = table(1, 4);
    let before = table.stamp();
    assert!(current(&table, before));
    table.invalidate(&[a()]);
    let after = table.stamp();
    assert_eq!((after.epoch, after.seq), (before.epoch, before.seq));
    assert!(!current(&table, before));
    assert!(current(&table, after));
    // When a load of another process began is not known.
    assert!(!current(&table, foreign(1, 4)) && !current(&table, foreign(1, 100)));
    assert!(table.is_current(&foreign(1, 4), once(b())));
}

#[test]
fn everything_can_be_pending() {
    let table = table(1, 4);
    let before = table.stamp();
    table.invalidate(&[TagSlot::EVERYTHING]);
    assert!(!current(&table, before) && !current(&table, foreign(1, 4)));
    assert!(current(&table, table.stamp()));
}

#[test]
fn an_invalidation_asked_for_again_counts_from_the_last_time() {
    let table = table(1, 4);
    table.invalidate(&[a()]);
    let between = table.stamp();
    let last = table.invalidate(&[a(), b(), a()]);
    assert!(!current(&table, between));
    assert!(current(&table, table.stamp()));
    assert_eq!(announcement(&table), Announcement { slots: vec![a(), b()], upto: last });
}

#[test]
fn a_push_reaches_a_pending_cell_and_does_not_end_it() {
    let table = table(1, 4);
    table.invalidate(&[a()]);
    let early = table.stamp();
    assert_eq!(table.pushed(at(1, 5), &[a()]), Applied::Ok);
    let late = table.stamp();
    // Another process invalidated after the first load had begun.
    assert!(!current(&table, early));
    assert!(current(&table, late));
    assert!(!current(&table, foreign(1, 5)));
    assert!(table.unannounced().is_some());
}

// ---- acknowledged ----

#[test]
fn an_acknowledged_invalidation_is_like_any_other() {
    let table = table(1, 4);
    let before = table.stamp();
    table.invalidate(&[a()]);
    let meanwhile = table.stamp();
    assert_eq!(table.acknowledged(&announcement(&table), at(1, 5)), Applied::Ok);
    assert_eq!(table.position(), at(1, 5));
    assert_eq!(table.unannounced(), None);
    assert!(!current(&table, before) && !current(&table, foreign(1, 4)));
    // By its number alone it seems to be from before the invalidation: this costs one more load.
    assert!(!current(&table, meanwhile));
    assert!(current(&table, table.stamp()) && current(&table, foreign(1, 5)));
}

#[test]
fn an_acknowledgement_over_a_gap_does_not_stand_for_what_was_missed() {
    let table = table(1, 4);
    table.invalidate(&[a()]);
    assert_eq!(table.acknowledged(&announcement(&table), at(1, 7)), Applied::Ok);
    assert_eq!(table.position(), at(1, 4));
    assert!(!current(&table, foreign(1, 6)));
    assert!(current(&table, foreign(1, 7)));
    // Until the beat, own loads seem older than they are: this costs one more load and never serves
    // a stale answer.
    assert!(!current(&table, table.stamp()));
    assert_eq!(table.beat(at(1, 7), &[(b(), 5), (a(), 7)], LINK, Some(nanos(20))), Applied::Ok);
    assert!(current(&table, table.stamp()));
}

#[test]
fn an_acknowledgement_of_less_than_is_known_lowers_nothing() {
    let table = table(1, 4);
    table.invalidate(&[a()]);
    let announced = announcement(&table);
    assert_eq!(table.pushed(at(1, 5), &[a()]), Applied::Ok);
    assert_eq!(table.pushed(at(1, 6), &[a()]), Applied::Ok);
    assert_eq!(table.acknowledged(&announced, at(1, 5)), Applied::Ok);
    assert_eq!(table.position(), at(1, 6));
    assert!(!current(&table, foreign(1, 5)));
    assert!(current(&table, foreign(1, 6)));
}

#[test]
fn what_was_asked_for_after_the_announcement_stays_pending() {
    let table = table(1, 4);
    table.invalidate(&[a(), b()]);
    let announced = announcement(&table);
    let again = table.invalidate(&[a()]);
    assert_eq!(table.acknowledged(&announced, at(1, 5)), Applied::Ok);
    assert_eq!(announcement(&table), Announcement { slots: vec![a()], upto: again });
    assert!(!current(&table, foreign(1, 5)));
    assert!(table.is_current(&foreign(1, 5), once(b())));
}

#[test]
fn an_acknowledgement_of_another_epoch_ends_nothing() {
    let table = table(2, 4);
    table.invalidate(&[a()]);
    let announced = announcement(&table);
    assert_eq!(table.acknowledged(&announced, at(1, 9)), Applied::OldEpoch);
    assert_eq!(table.acknowledged(&announced, at(3, 1)), Applied::Gap);
    assert_eq!(table.unannounced().as_ref(), Some(&announced));
    assert_eq!(table.beat(at(3, 1), &[(a(), 1)], LINK, Some(nanos(20))), Applied::Ok);
    assert_eq!(table.acknowledged(&announced, at(3, 1)), Applied::Ok);
    assert_eq!(table.unannounced(), None);
    assert!(current(&table, foreign(3, 1)) && !current(&table, foreign(3, 0)));
}

#[test]
fn an_acknowledgement_that_comes_twice_does_no_harm() {
    let table = table(1, 4);
    table.invalidate(&[a()]);
    let announced = announcement(&table);
    assert_eq!(table.acknowledged(&announced, at(1, 5)), Applied::Ok);
    // Two threads announced it at once: Redis counted both.
    assert_eq!(table.acknowledged(&announced, at(1, 6)), Applied::Ok);
    assert_eq!(table.position(), at(1, 6));
    assert!(current(&table, table.stamp()));
}

// ---- pushes ----

#[test]
fn a_push_with_a_gap_before_it_sets_its_cells_and_asks_for_a_beat() {
    let table = table(1, 4);
    assert_eq!(table.pushed(at(1, 6), &[a()]), Applied::Gap);
    assert_eq!(table.position(), at(1, 4));
    assert!(!current(&table, foreign(1, 5)));
    assert_eq!(table.pushed(at(1, 5), &[b()]), Applied::Ok);
    assert_eq!(table.position(), at(1, 5));
}

#[test]
fn an_old_push_lowers_nothing() {
    let table = table(1, 4);
    assert_eq!(table.pushed(at(1, 5), &[a()]), Applied::Ok);
    assert_eq!(table.pushed(at(1, 3), &[a()]), Applied::Ok);
    assert_eq!(table.position(), at(1, 5));
    assert!(!current(&table, foreign(1, 4)));
}

#[test]
fn a_push_of_another_epoch_changes_nothing() {
    let table = table(2, 4);
    assert_eq!(table.pushed(at(1, 5), &[a()]), Applied::OldEpoch);
    assert_eq!(table.pushed(at(3, 5), &[a()]), Applied::Gap);
    assert_eq!(table.position(), at(2, 4));
    assert!(current(&table, foreign(2, 4)));
}

// ---- beats ----

#[test]
fn a_beat_brings_what_was_missed_and_confirms() {
    let table = table(1, 4);
    assert_eq!(table.beat(at(1, 9), &[(a(), 6), (b(), 9)], LINK, Some(nanos(20))), Applied::Ok);
    assert_eq!((table.position(), table.confirmed_until()), (at(1, 9), nanos(20)));
    assert!(!current(&table, foreign(1, 5)) && current(&table, foreign(1, 6)));
    // A late reply: it confirms, though not for longer, and reverts nothing.
    assert_eq!(table.beat(at(1, 6), &[(a(), 5)], LINK, Some(nanos(15))), Applied::Ok);
    assert_eq!((table.position(), table.confirmed_until()), (at(1, 9), nanos(20)));
    assert!(!current(&table, foreign(1, 5)));
}

#[test]
fn a_page_is_known_and_confirms_nothing_until_the_last_one_has_come() {
    let table = table(1, 4);
    assert_eq!(table.beat(at(1, 6), &[(b(), 6)], LINK + 1, None), Applied::Ok);
    assert_eq!((table.position(), table.confirmed_until()), (at(1, 6), nanos(10)));
    // An invalidation of number 5 may have been hidden by a later one of the same slot, which is in
    // another page.
    assert!(table.covers(at(1, 4), LINK + 1, at(1, 4)));
    assert!(!table.covers(at(1, 5), LINK + 1, at(1, 4)));
    // Nor does the next number complete it.
    assert_eq!(table.pushed(at(1, 7), &[b()]), Applied::Ok);
    assert!(!table.covers(at(1, 5), LINK + 1, at(1, 4)));
    assert!(current(&table, foreign(1, 4)) && !table.is_current(&foreign(1, 4), once(b())));
    assert_eq!(table.beat(at(1, 9), &[(a(), 9)], LINK + 1, Some(nanos(20))), Applied::Ok);
    assert_eq!((table.position(), table.confirmed_until()), (at(1, 9), nanos(20)));
    assert!(table.covers(at(1, 9), LINK + 1, at(1, 4)));
    assert!(!current(&table, foreign(1, 6)));
}

#[test]
fn a_beat_of_a_lower_epoch_is_ignored() {
    let table = table(2, 4);
    assert_eq!(table.beat(at(1, 9), &[(a(), 9)], LINK + 1, Some(nanos(20))), Applied::OldEpoch);
    assert_eq!((table.position(), table.confirmed_until()), (at(2, 4), nanos(10)));
    assert!(current(&table, foreign(2, 4)));
    assert!(!table.covers(at(2, 4), LINK + 1, at(2, 4)));
}

#[test]
fn a_new_epoch_replaces_the_table() {
    let table = table(1, 4);
    assert_eq!(table.pushed(at(1, 5), &[a()]), Applied::Ok);
    let own = table.stamp();
    assert_eq!(table.beat(at(2, 2), &[(b(), 2)], LINK, Some(nanos(20))), Applied::Ok);
    assert_eq!(table.position(), at(2, 2));
    // The numbers start again.
    assert!(!current(&table, own) && !current(&table, foreign(1, 5)));
    assert!(current(&table, foreign(2, 1)));
    assert!(!table.is_current(&foreign(2, 1), once(b())));
    assert_eq!((table.stamp().epoch, table.stamp().seq), (2, 2));
}

#[test]
fn what_was_acknowledged_a_short_time_ago_is_pending_again_in_a_new_epoch() {
    for forgets in 0..3 {
        let table = table(1, 4);
        table.invalidate(&[a()]);
        assert_eq!(table.acknowledged(&announcement(&table), at(1, 5)), Applied::Ok);
        assert_eq!(table.unannounced(), None);
        (0..forgets).for_each(|_| table.forget_acknowledged());
        assert_eq!(table.beat(at(1, 6), &[], LINK, Some(nanos(20))), Applied::Ok);
        assert_eq!(table.unannounced(), None, "the epoch is the same");
        // The new epoch knows nothing of it, and somebody's load may have begun before the change.
        let own = table.stamp();
        assert_eq!(table.beat(at(2, 3), &[], LINK, Some(nanos(20))), Applied::Ok);
        let is_remembered = forgets < 2;
        assert_eq!(current(&table, foreign(2, 3)), !is_remembered, "{forgets}");
        assert!(!current(&table, own) && current(&table, table.stamp()));
        assert_eq!(table.unannounced().map(|it| it.slots), is_remembered.then(|| vec![a()]));
        if is_remembered {
            assert_eq!(table.acknowledged(&announcement(&table), at(2, 4)), Applied::Ok);
            assert!(!current(&table, foreign(2, 3)) && current(&table, foreign(2, 4)));
        }
    }
}

#[test]
fn what_is_pending_survives_a_new_epoch() {
    let table = table(1, 4);
    table.invalidate(&[a()]);
    let after = table.stamp();
    assert_eq!(table.beat(at(2, 2), &[], LINK, Some(nanos(20))), Applied::Ok);
    assert!(!current(&table, foreign(2, 2)) && !current(&table, after));
    assert!(current(&table, table.stamp()));
    assert_eq!(table.newest(once(a())), 0);
    assert_eq!(table.acknowledged(&announcement(&table), at(2, 3)), Applied::Ok);
    assert!(!current(&table, foreign(2, 2)) && current(&table, foreign(2, 3)));
}

// ---- how a Redis lookup is judged ----

#[test]
fn a_directory_is_covered_when_all_that_it_knew_is_here() {
    let table = table(2, 4);
    let covers = |directory, asked| table.covers(directory, LINK, asked);
    assert!(covers(at(2, 4), at(2, 4)));
    // The table has moved on since the request.
    assert!(covers(at(2, 3), at(2, 3)));
    assert!(covers(at(2, 3), at(1, 9)));
    assert!(!covers(at(2, 5), at(2, 4)));
    assert!(!covers(at(1, 4), at(2, 4)) && !covers(at(3, 0), at(2, 4)));
}

#[test]
fn a_directory_that_went_back_is_not_covered() {
    assert!(!table(2, 4).covers(at(2, 3), LINK, at(2, 4)));
}

#[test]
fn a_connection_on_which_no_beat_was_answered_covers_nothing() {
    let table = table(2, 4);
    assert!(!table.covers(at(2, 4), LINK + 1, at(2, 4)));
    assert_eq!(table.beat(at(2, 4), &[], LINK + 1, Some(nanos(20))), Applied::Ok);
    assert!(table.covers(at(2, 4), LINK + 1, at(2, 4)));
    assert!(!table.covers(at(2, 4), LINK, at(2, 4)));
    assert!(!Currency::shared().covers(at(0, 0), LINK, at(0, 0)));
}

#[test]
fn the_newest_is_the_highest_number_that_is_known_of_the_cells() {
    let table = table(1, 4);
    assert_eq!(table.newest([a(), b()].into_iter()), 0);
    assert_eq!(table.beat(at(1, 9), &[(a(), 6), (b(), 8)], LINK, Some(nanos(20))), Applied::Ok);
    assert_eq!(table.newest(once(a())), 6);
    assert_eq!(table.newest([a(), b()].into_iter()), 8);
    table.invalidate(&[b()]);
    assert_eq!(table.newest([a(), b()].into_iter()), 8);
    assert_eq!(table.pushed(at(1, 10), &[TagSlot::EVERYTHING]), Applied::Ok);
    assert_eq!(table.newest(once(a())), 10);
}

#[cfg(feature = "tracing")]
#[test]
fn the_killer_is_the_cell_or_the_epoch_that_made_it_stale() {
    let table = table(1, 4);
    let killer = |stamp: Stamp| table.killer(&stamp, [b(), a()].into_iter());
    assert_eq!(killer(foreign(1, 4)), None);
    assert_eq!(killer(foreign(0, 4)), Some((None, 1)));
    assert_eq!(table.pushed(at(1, 5), &[a()]), Applied::Ok);
    assert_eq!(killer(foreign(1, 4)), Some((Some(a()), 5)));
    let own = table.stamp();
    table.invalidate(&[b()]);
    assert_eq!(killer(own), Some((Some(b()), 0)));
    assert_eq!(killer(table.stamp()), None);
    assert_eq!(table.pushed(at(1, 6), &[TagSlot::EVERYTHING]), Applied::Ok);
    assert_eq!(table.killer(&foreign(1, 5), once(a())), Some((Some(TagSlot::EVERYTHING), 6)));
}
