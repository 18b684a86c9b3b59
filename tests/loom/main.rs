//! The memory order of the table of invalidations and of the front of memory, checked with [loom]:
//! every order in which threads can meet, and for every load each store that the memory model
//! allows it to see.
//!
//! The tests run the source itself, `src/currency/table.rs` and `src/l1/front.rs`, with loom's
//! primitives in place of `std`'s. Each model is a few operations of two or three threads, and a
//! property that must hold in every order. Models of two threads are explored completely. Models of
//! three threads, and of two threads with many operations, are explored for all orders with at most
//! two preemptions.
//!
//! Mutants show that the models can fail: each mutant weakens one store, load or fence, and a model
//! must detect it.
//!
//! # What loom does not show
//!
//! - It treats sequentially consistent operations as acquire and release operations. Here only the
//!   count of orders uses them, and the properties do not need more.
//! - No load sees a store that comes later in the run: orders that need such a promise are left
//!   out.
//! - It keeps only the last access to an atomic; [`sync`] describes how that could hide a reader.
//!   No model of the table has two threads that read.
//! - It forgets a store after seven newer ones.
//! - There are two slots, one set of the front, and each thread does one or two operations.
//! - The documented ordering of moka and arc-swap is assumed; their code is not run.
//!
//! [loom]: https://docs.rs/loom

use std::cell::Cell as Counter;
use std::iter::once;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

#[allow(dead_code, reason = "a part of the crate, as it is")]
#[path = "../../src/currency/table.rs"]
mod currency;
#[allow(dead_code, reason = "a part of the crate, as it is")]
#[path = "../../src/l1/front.rs"]
mod front;
#[allow(dead_code, reason = "a part of the crate, as it is")]
#[path = "../../src/currency/gate.rs"]
mod gate;

mod before;
mod key;
mod own;
mod sync;
mod tag;

use crate::key as clock;
use crate::key::Instant;

/// The rooms of the crate that the two files import from.
mod l1 {
    pub(crate) use crate::key as entry;
}

mod value {
    pub(crate) use crate::{key, tag};
}

use crate::currency::{Applied, Currency, Position, Stamp};
use crate::gate::Round;
use crate::own::{acknowledged_while_loading, load_that_meets_an_invalidation};
use crate::sync::{Field, Mutant};
use crate::tag::TagSlot;

/// The connection of all beats.
const LINK: u64 = 1;

thread_local! {
    static ORDERS: Counter<u64> = const { Counter::new(0) };
    /// How often something did not hold.
    static BROKEN: Counter<u64> = const { Counter::new(0) };
}

/// Notes what does not hold, instead of panicking: the other threads of the model have still to end.
fn hold(holds: bool) {
    if !holds {
        BROKEN.set(BROKEN.get() + 1);
    }
}

/// In how many orders something does not hold, of all in which no thread is suspended against its
/// will more often than `preemptions` says.
fn broken(model: fn(), preemptions: Option<usize>, mutants: &'static [Mutant]) -> u64 {
    ORDERS.set(0);
    BROKEN.set(0);
    sync::mutate(mutants);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        ORDERS.set(ORDERS.get() + 1);
        model();
    });
    println!("{} of {} orders {mutants:?}", BROKEN.get(), ORDERS.get());
    // One order alone would mean that the threads never met.
    assert!(ORDERS.get() > 10);
    BROKEN.get()
}

fn holds(model: fn()) {
    assert_eq!(broken(model, None, &[]), 0);
}

/// For three threads, or what comes close to that.
fn holds_nearly(model: fn()) {
    assert_eq!(broken(model, Some(2), &[]), 0);
}

fn at(epoch: u64, seq: u64) -> Position {
    Position { epoch, seq }
}

/// A result of another process.
fn result(epoch: u64, seq: u64) -> Stamp {
    Stamp { epoch, seq, order: 0 }
}

/// A table at this position, where the tag was invalidated by the last invalidation; confirmed
/// until 10.
fn table(position: Position) -> Arc<Currency> {
    let table = Currency::shared();
    let slots = [(TagSlot::TAG, position.seq)];
    applied(table.beat(position, &slots, LINK, Some(Instant::from_nanos(10))));
    Arc::new(table)
}

fn applied(heard: Applied) {
    assert_eq!(heard, Applied::Ok);
}

/// Whether a result that depends on the tag is current.
fn current(table: &Currency, stamp: Stamp) -> bool {
    table.is_current(&stamp, once(TagSlot::TAG))
}

/// Runs this in another thread.
fn aside(table: &Arc<Currency>, run: impl FnOnce(&Currency) + 'static) -> thread::JoinHandle<()> {
    let table = table.clone();
    thread::spawn(move || run(&table))
}

// ---- the confirmation ----

fn confirmation_and_cells() {
    let table = table(at(1, 1));
    let beat = aside(&table, |table| {
        applied(table.beat(at(1, 2), &[(TagSlot::TAG, 2)], LINK, Some(Instant::from_nanos(20))))
    });
    let confirmed = table.confirmed_until();
    let stale = current(&table, result(1, 1));
    hold(confirmed != Instant::from_nanos(20) || !stale);
    beat.join().unwrap();
    hold(table.confirmed_until() == Instant::from_nanos(20) && !current(&table, result(1, 1)));
}

fn confirmation_and_everything() {
    let table = table(at(1, 1));
    let beat = aside(&table, |table| {
        applied(table.beat(
            at(1, 2),
            &[(TagSlot::EVERYTHING, 2)],
            LINK,
            Some(Instant::from_nanos(20)),
        ))
    });
    let confirmed = table.confirmed_until();
    hold(!current(&table, result(1, 1)) || confirmed != Instant::from_nanos(20));
    let stale = current(&table, result(1, 1));
    hold(confirmed != Instant::from_nanos(20) || !stale);
    beat.join().unwrap();
}

/// The slot is written by a push, and the beat that confirms it comes after.
fn confirmation_after_a_push() {
    let table = table(at(1, 1));
    let push = aside(&table, |table| {
        let _ = table.pushed(at(1, 2), &[TagSlot::TAG]);
    });
    let beat = aside(&table, |table| {
        applied(table.beat(at(1, 2), &[(TagSlot::TAG, 2)], LINK, Some(Instant::from_nanos(20))))
    });
    let confirmed = table.confirmed_until();
    let stale = current(&table, result(1, 1));
    hold(confirmed != Instant::from_nanos(20) || !stale);
    push.join().unwrap();
    beat.join().unwrap();
}

fn confirmation_of_a_new_epoch() {
    let table = table(at(1, 1));
    let beat = aside(&table, |table| {
        applied(table.beat(at(2, 0), &[], LINK, Some(Instant::from_nanos(20))))
    });
    let confirmed = table.confirmed_until();
    let stale = current(&table, result(1, 1));
    hold(confirmed != Instant::from_nanos(20) || !stale);
    beat.join().unwrap();
}

#[test]
fn whoever_sees_a_confirmation_sees_the_cells_that_it_speaks_of() {
    holds(confirmation_and_cells);
    holds(confirmation_and_everything);
    holds_nearly(confirmation_after_a_push);
    holds(confirmation_of_a_new_epoch);
}

/// What a follower's rounds prove comes after the slots that they have written.
fn proof_and_cells() {
    let table = table(at(1, 1));
    let beats = aside(&table, |table| {
        applied(table.beat(at(1, 2), &[(TagSlot::TAG, 2)], LINK, Some(Instant::from_nanos(20))));
        table.heard_of(1, Round { term: 1, number: 1 }, Instant::from_nanos(20));
        table.heard_of(1, Round { term: 1, number: 3 }, Instant::from_nanos(30));
    });
    let is_proven = table.is_followed(&result(1, 1), Instant::from_nanos(15));
    let stale = current(&table, result(1, 1));
    hold(!is_proven || !stale);
    beats.join().unwrap();
    hold(table.is_followed(&result(1, 1), Instant::from_nanos(15)));
}

/// What is proven in one epoch lets no result of the next one be served.
fn proof_of_a_replaced_table() {
    let table = table(at(1, 1));
    applied(table.beat(at(1, 1), &[], LINK, Some(Instant::from_nanos(10))));
    table.heard_of(1, Round { term: 1, number: 1 }, Instant::from_nanos(20));
    table.heard_of(1, Round { term: 1, number: 3 }, Instant::from_nanos(30));
    let beat = aside(&table, |table| {
        applied(table.beat(at(2, 0), &[], LINK, Some(Instant::from_nanos(20))))
    });
    for _ in 0..2 {
        let is_proven = table.is_followed(&result(2, 0), Instant::from_nanos(15));
        hold(!(is_proven && current(&table, result(2, 0))));
        let is_proven = table.is_followed(&result(1, 1), Instant::from_nanos(30));
        hold(!(is_proven && current(&table, result(1, 1))));
    }
    beat.join().unwrap();
    hold(!table.is_followed(&result(2, 0), Instant::from_nanos(15)));
    hold(current(&table, result(2, 0)));
}

#[test]
fn whoever_sees_a_proof_sees_the_cells_that_it_speaks_of() {
    holds(proof_and_cells);
    holds(proof_of_a_replaced_table);
}

// ---- the epoch ----

/// A result of the old epoch that has been overtaken in it: with slots that were reset it would seem
/// current.
fn replaced_under_an_old_result() {
    let table = table(at(1, 5));
    let beat = aside(&table, |table| {
        applied(table.beat(at(2, 4), &[(TagSlot::TAG, 4)], LINK, Some(Instant::from_nanos(20))))
    });
    hold(!current(&table, result(1, 3)));
    beat.join().unwrap();
    hold(!current(&table, result(1, 5)));
}

/// A result of the new epoch that has been overtaken in it: with slots that were reset and not
/// written yet it would seem current.
fn replaced_under_a_new_result() {
    let table = table(at(1, 5));
    let beat = aside(&table, |table| {
        applied(table.beat(at(2, 4), &[(TagSlot::TAG, 4)], LINK, Some(Instant::from_nanos(20))))
    });
    hold(!current(&table, result(2, 3)));
    beat.join().unwrap();
    hold(current(&table, result(2, 4)));
}

/// A result that is right in its epoch is current as long as that lasts, and not again.
fn replaced_once() {
    let table = table(at(1, 5));
    let beat = aside(&table, |table| {
        applied(table.beat(at(2, 4), &[(TagSlot::TAG, 4)], LINK, Some(Instant::from_nanos(20))))
    });
    let new = current(&table, result(2, 4));
    let old = current(&table, result(1, 5));
    hold(!(new && old));
    let new_again = current(&table, result(2, 4));
    hold(!new || new_again);
    beat.join().unwrap();
    hold(!current(&table, result(1, 5)));
}

/// The table is replaced while an invalidation of our own pends: it is in force in both epochs.
fn replaced_while_pending() {
    let table = table(at(1, 1));
    let own = table.stamp();
    table.invalidate(&[TagSlot::TAG]);
    let announcement = table.unannounced().unwrap();
    let beat = aside(&table, |table| {
        applied(table.beat(at(2, 0), &[], LINK, Some(Instant::from_nanos(20))))
    });
    let answer = aside(&table, move |table| {
        // It was the old epoch that has acknowledged it: lost, if the new one is known by then.
        let _ = table.acknowledged(&announcement, at(1, 2));
    });
    let old = current(&table, result(1, 1)) || current(&table, own);
    hold(!old);
    beat.join().unwrap();
    answer.join().unwrap();
    match table.unannounced() {
        Some(_) => hold(!current(&table, result(2, 0))),
        // Acknowledged in the old epoch before that ended: the new one is of after it.
        None => hold(current(&table, result(2, 0))),
    }
}

/// A stamp is a position that the table has been at.
fn stamp_of_a_replaced_table() {
    let table = table(at(1, 5));
    let beat = aside(&table, |table| {
        applied(table.beat(at(2, 4), &[(TagSlot::TAG, 4)], LINK, Some(Instant::from_nanos(20))))
    });
    let stamp = table.stamp();
    hold(matches!((stamp.epoch, stamp.seq), (1, 5) | (2, 4)));
    beat.join().unwrap();
}

#[test]
fn a_replaced_table_is_never_read_half_and_half() {
    holds(replaced_under_an_old_result);
    holds(replaced_under_a_new_result);
    holds_nearly(replaced_once);
    holds_nearly(replaced_while_pending);
    holds(stamp_of_a_replaced_table);
}

// ---- the stamp ----

/// A load whose stamp says that it knows of an invalidation began when the slots knew of it.
fn stamp_after_slots(write: fn(&Currency)) {
    let table = table(at(1, 1));
    let writer = aside(&table, write);
    let stamp = table.stamp();
    let stale = current(&table, result(1, 1));
    hold(stamp.seq < 2 || !stale);
    writer.join().unwrap();
    hold(table.stamp().seq == 2 && !current(&table, result(1, 1)));
}

fn stamp_after_a_push() {
    stamp_after_slots(|table| applied(table.pushed(at(1, 2), &[TagSlot::TAG])));
}

fn stamp_after_a_beat() {
    stamp_after_slots(|table| {
        applied(table.beat(at(1, 2), &[(TagSlot::TAG, 2)], LINK, Some(Instant::from_nanos(20))))
    });
}

fn stamp_after_an_acknowledgement() {
    stamp_after_slots(|table| {
        table.invalidate(&[TagSlot::TAG]);
        let announcement = table.unannounced().unwrap();
        applied(table.acknowledged(&announcement, at(1, 2)));
    });
}

/// Two that were pushed out of order: the later one does not stand for both.
fn stamp_after_a_gap() {
    let table = table(at(1, 1));
    let late = aside(&table, |table| {
        let _ = table.pushed(at(1, 2), &[TagSlot::TAG]);
    });
    let early = aside(&table, |table| {
        let _ = table.pushed(at(1, 3), &[TagSlot::EVERYTHING]);
    });
    let stamp = table.stamp();
    let (first, second) = (current(&table, result(1, 1)), current(&table, result(1, 2)));
    hold(stamp.seq < 2 || !first);
    hold(stamp.seq < 3 || !second);
    late.join().unwrap();
    early.join().unwrap();
}

/// From commit to answer: another process has changed the data and told us. What was loaded here
/// before the change is not current once the push is applied.
fn load_that_meets_a_push() {
    let table = table(at(1, 1));
    let data = Arc::new(AtomicU64::new(1));
    let push = aside(&table, {
        let data = data.clone();
        move |table| {
            data.store(2, Ordering::Relaxed);
            applied(table.pushed(at(1, 2), &[TagSlot::TAG]));
        }
    });
    let stamp = table.stamp();
    let loaded = data.load(Ordering::Relaxed);
    push.join().unwrap();
    hold(loaded == 2 || !current(&table, stamp));
}

fn stamp_alone() {
    let table = Arc::new(Currency::alone());
    let writer = aside(&table, |table| table.invalidate_alone(&[TagSlot::TAG]));
    let stamp = table.stamp();
    let stale = current(&table, result(1, 0));
    hold(stamp.seq < 1 || !stale);
    writer.join().unwrap();
    hold(!current(&table, result(1, 0)));
}

#[test]
fn a_stamp_never_knows_of_an_invalidation_that_the_cells_do_not_show() {
    holds(stamp_after_a_push);
    holds(stamp_after_a_beat);
    holds(stamp_after_an_acknowledgement);
    holds_nearly(stamp_after_a_gap);
    holds(load_that_meets_a_push);
    holds(stamp_alone);
}

// ---- mutants ----

/// A model, and what is weakened in it.
type Case = (fn(), &'static [Mutant]);

#[test]
fn a_weaker_order_is_noticed() {
    use Field::{Applied, ConfirmedUntil, Epoch, FollowedUntil};
    use Ordering::{Acquire, Release};
    let mutants: [Case; 15] = [
        (proof_and_cells, &[Mutant::RelaxedStore(FollowedUntil)]),
        (proof_and_cells, &[Mutant::RelaxedLoad(FollowedUntil)]),
        (proof_of_a_replaced_table, &[Mutant::RelaxedLoad(Epoch)]),
        (confirmation_and_cells, &[Mutant::RelaxedStore(ConfirmedUntil)]),
        (confirmation_and_cells, &[Mutant::RelaxedLoad(ConfirmedUntil)]),
        (replaced_under_a_new_result, &[Mutant::RelaxedStore(Epoch)]),
        (replaced_under_a_new_result, &[Mutant::RelaxedLoad(Epoch)]),
        (replaced_under_an_old_result, &[Mutant::NeverClosed]),
        (replaced_under_an_old_result, &[Mutant::NoFence(Release)]),
        (replaced_under_an_old_result, &[Mutant::NoFence(Acquire)]),
        (stamp_of_a_replaced_table, &[Mutant::NeverClosed]),
        (stamp_of_a_replaced_table, &[Mutant::RelaxedLoad(Applied), Mutant::NoFence(Acquire)]),
        (stamp_after_a_push, &[Mutant::RelaxedStore(Applied)]),
        (stamp_alone, &[Mutant::RelaxedStore(Applied)]),
        (load_that_meets_an_invalidation, &[Mutant::RelaxedCount]),
    ];
    for (model, mutants) in mutants {
        assert_ne!(broken(model, Some(2), mutants), 0, "{mutants:?} lives");
    }
}

/// The source orders these more strictly than it has to: slots are read before a fence, and a fence
/// follows the load of `applied`. Whoever takes both away is noticed above.
#[test]
fn what_a_fence_orders_needs_no_order_of_its_own() {
    use Field::{Applied, TagSlot};
    let mutants: [&'static [Mutant]; 2] =
        [&[Mutant::RelaxedStore(TagSlot)], &[Mutant::RelaxedLoad(Applied)]];
    for mutants in mutants {
        for model in [
            confirmation_and_cells as fn(),
            replaced_under_an_old_result,
            replaced_under_a_new_result,
            stamp_of_a_replaced_table,
            stamp_after_a_push,
            load_that_meets_an_invalidation,
            acknowledged_while_loading,
        ] {
            assert_eq!(broken(model, Some(2), mutants), 0, "{mutants:?}");
        }
    }
}
