//! The memory order of the table of what is current, by [loom]: every order in which threads can
//! meet, and for every load each store that the memory model lets it see.
//!
//! What is tried is the source itself, `src/currency.rs`, with loom's primitives in the place of
//! `std`'s. Each model is a few operations of two or three threads, and what must hold in all of
//! its orders. Those of two threads are explored whole. Of those of three, and of two with much to
//! do, all orders are in which threads are suspended against their will twice at most.
//!
//! That the models can fail is shown by mutants: one store, load or fence at a time is weakened, and
//! a model has to notice.
//!
//! # What loom does not show
//!
//! - It takes sequentially consistent operations for acquiring and releasing ones. Here these are
//!   the count of moments and nothing else, and what is shown does not need more.
//! - No load sees a store that comes later in the run: orders that need such a promise are left out.
//! - It looks back at one access to an atomic only; see [`sync`] for what would hide a reader, and
//!   no model has two threads that read.
//! - A store more than seven stores ago is forgotten.
//! - There are two cells, and each thread does one thing or two.
//!
//! [loom]: https://docs.rs/loom

use std::cell::Cell as Counter;
use std::iter::once;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

#[allow(dead_code, reason = "a part of the crate, as it is")]
#[path = "../../src/currency.rs"]
mod currency;
mod sync;
mod tag;

use crate::currency::{Currency, Heard, Position, Stamp};
use crate::sync::{Field, Mutant};
use crate::tag::Cell;

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
fn result(epoch: u64, asof: u64) -> Stamp {
    Stamp { epoch, asof, moment: 0 }
}

/// A table at this position, where the tag was invalidated by the last invalidation; confirmed
/// until 10.
fn table(position: Position) -> Arc<Currency> {
    let table = Currency::shared();
    let cells = [(Cell::TAG, position.seq)];
    applied(table.beat(position, &cells, LINK, 10));
    Arc::new(table)
}

fn applied(heard: Heard) {
    assert_eq!(heard, Heard::Applied);
}

/// Whether a result that depends on the tag is current.
fn current(table: &Currency, stamp: Stamp) -> bool {
    table.is_current(&stamp, once(Cell::TAG))
}

/// Runs this in another thread.
fn aside(table: &Arc<Currency>, run: impl FnOnce(&Currency) + 'static) -> thread::JoinHandle<()> {
    let table = table.clone();
    thread::spawn(move || run(&table))
}

// ---- the confirmation ----

fn confirmation_and_cells() {
    let table = table(at(1, 1));
    let beat = aside(&table, |table| applied(table.beat(at(1, 2), &[(Cell::TAG, 2)], LINK, 20)));
    let confirmed = table.confirmed_until();
    let stale = current(&table, result(1, 1));
    hold(confirmed != 20 || !stale);
    beat.join().unwrap();
    hold(table.confirmed_until() == 20 && !current(&table, result(1, 1)));
}

fn confirmation_and_everything() {
    let table = table(at(1, 1));
    let beat =
        aside(&table, |table| applied(table.beat(at(1, 2), &[(Cell::EVERYTHING, 2)], LINK, 20)));
    let confirmed = table.confirmed_until();
    hold(!current(&table, result(1, 1)) || confirmed != 20);
    let stale = current(&table, result(1, 1));
    hold(confirmed != 20 || !stale);
    beat.join().unwrap();
}

/// The cell is written by a push, and the beat that confirms it comes after.
fn confirmation_after_a_push() {
    let table = table(at(1, 1));
    let push = aside(&table, |table| {
        let _ = table.pushed(at(1, 2), &[Cell::TAG]);
    });
    let beat = aside(&table, |table| applied(table.beat(at(1, 2), &[(Cell::TAG, 2)], LINK, 20)));
    let confirmed = table.confirmed_until();
    let stale = current(&table, result(1, 1));
    hold(confirmed != 20 || !stale);
    push.join().unwrap();
    beat.join().unwrap();
}

fn confirmation_of_a_new_epoch() {
    let table = table(at(1, 1));
    let beat = aside(&table, |table| applied(table.beat(at(2, 0), &[], LINK, 20)));
    let confirmed = table.confirmed_until();
    let stale = current(&table, result(1, 1));
    hold(confirmed != 20 || !stale);
    beat.join().unwrap();
}

#[test]
fn whoever_sees_a_confirmation_sees_the_cells_that_it_speaks_of() {
    holds(confirmation_and_cells);
    holds(confirmation_and_everything);
    holds_nearly(confirmation_after_a_push);
    holds(confirmation_of_a_new_epoch);
}

// ---- the epoch ----

/// A result of the old epoch that has been overtaken in it: with cells that were reset it would seem
/// current.
fn replaced_under_an_old_result() {
    let table = table(at(1, 5));
    let beat = aside(&table, |table| applied(table.beat(at(2, 4), &[(Cell::TAG, 4)], LINK, 20)));
    hold(!current(&table, result(1, 3)));
    beat.join().unwrap();
    hold(!current(&table, result(1, 5)));
}

/// A result of the new epoch that has been overtaken in it: with cells that were reset and not
/// written yet it would seem current.
fn replaced_under_a_new_result() {
    let table = table(at(1, 5));
    let beat = aside(&table, |table| applied(table.beat(at(2, 4), &[(Cell::TAG, 4)], LINK, 20)));
    hold(!current(&table, result(2, 3)));
    beat.join().unwrap();
    hold(current(&table, result(2, 4)));
}

/// A result that is right in its epoch is current as long as that lasts, and not again.
fn replaced_once() {
    let table = table(at(1, 5));
    let beat = aside(&table, |table| applied(table.beat(at(2, 4), &[(Cell::TAG, 4)], LINK, 20)));
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
    table.invalidate(&[Cell::TAG]);
    let announcement = table.unannounced().unwrap();
    let beat = aside(&table, |table| applied(table.beat(at(2, 0), &[], LINK, 20)));
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
    let beat = aside(&table, |table| applied(table.beat(at(2, 4), &[(Cell::TAG, 4)], LINK, 20)));
    let stamp = table.stamp();
    hold(matches!((stamp.epoch, stamp.asof), (1, 5) | (2, 4)));
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

/// A load whose stamp says that it knows of an invalidation began when the cells knew of it.
fn stamp_after_cells(write: fn(&Currency)) {
    let table = table(at(1, 1));
    let writer = aside(&table, write);
    let stamp = table.stamp();
    let stale = current(&table, result(1, 1));
    hold(stamp.asof < 2 || !stale);
    writer.join().unwrap();
    hold(table.stamp().asof == 2 && !current(&table, result(1, 1)));
}

fn stamp_after_a_push() {
    stamp_after_cells(|table| applied(table.pushed(at(1, 2), &[Cell::TAG])));
}

fn stamp_after_a_beat() {
    stamp_after_cells(|table| applied(table.beat(at(1, 2), &[(Cell::TAG, 2)], LINK, 20)));
}

fn stamp_after_an_acknowledgement() {
    stamp_after_cells(|table| {
        table.invalidate(&[Cell::TAG]);
        let announcement = table.unannounced().unwrap();
        applied(table.acknowledged(&announcement, at(1, 2)));
    });
}

/// Two that were pushed out of order: the later one does not stand for both.
fn stamp_after_a_gap() {
    let table = table(at(1, 1));
    let late = aside(&table, |table| {
        let _ = table.pushed(at(1, 2), &[Cell::TAG]);
    });
    let early = aside(&table, |table| {
        let _ = table.pushed(at(1, 3), &[Cell::EVERYTHING]);
    });
    let stamp = table.stamp();
    let (first, second) = (current(&table, result(1, 1)), current(&table, result(1, 2)));
    hold(stamp.asof < 2 || !first);
    hold(stamp.asof < 3 || !second);
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
            applied(table.pushed(at(1, 2), &[Cell::TAG]));
        }
    });
    let stamp = table.stamp();
    let loaded = data.load(Ordering::Relaxed);
    push.join().unwrap();
    hold(loaded == 2 || !current(&table, stamp));
}

fn stamp_alone() {
    let table = Arc::new(Currency::alone());
    let writer = aside(&table, |table| table.invalidate_alone(&[Cell::TAG]));
    let stamp = table.stamp();
    let stale = current(&table, result(1, 0));
    hold(stamp.asof < 1 || !stale);
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

// ---- invalidations of our own ----

/// Invalidates in one thread and then has it acknowledged, while another does `meanwhile`: to a
/// reader who knows that the call has returned, results from before it are dead.
fn invalidated(meanwhile: fn(&Currency), acknowledged_at: u64) {
    let table = table(at(1, 1));
    let own = table.stamp();
    let done = Arc::new(AtomicBool::new(false));
    let invalidation = aside(&table, {
        let done = done.clone();
        move |table| {
            table.invalidate(&[Cell::TAG]);
            done.store(true, Ordering::Release);
            let announcement = table.unannounced().unwrap();
            let _ = table.acknowledged(&announcement, at(1, acknowledged_at));
        }
    });
    let other = aside(&table, meanwhile);
    if done.load(Ordering::Acquire) {
        hold(!current(&table, result(1, 1)));
        hold(!current(&table, own));
    }
    invalidation.join().unwrap();
    other.join().unwrap();
    hold(!current(&table, result(1, 1)) && !current(&table, own));
}

fn invalidated_and_pushed() {
    let push = |table: &Currency| {
        let _ = table.pushed(at(1, 2), &[Cell::TAG]);
    };
    invalidated(push, 3);
}

fn invalidated_and_overtaken_by_a_push() {
    let push = |table: &Currency| {
        let _ = table.pushed(at(1, 3), &[Cell::EVERYTHING]);
    };
    invalidated(push, 2);
}

fn invalidated_and_confirmed() {
    // A beat from before the invalidation, answered late.
    let beat = |table: &Currency| applied(table.beat(at(1, 1), &[], LINK, 20));
    invalidated(beat, 2);
}

fn invalidated_in_a_new_epoch() {
    let beat = |table: &Currency| applied(table.beat(at(2, 0), &[], LINK, 20));
    invalidated(beat, 2);
}

/// From commit to answer: what a load of ours has read before the commit is not current once the
/// invalidation has begun, and one that began after it is, while it pends.
fn load_that_meets_an_invalidation() {
    let table = table(at(1, 1));
    let data = Arc::new(AtomicU64::new(1));
    let invalidation = aside(&table, {
        let data = data.clone();
        move |table| {
            data.store(2, Ordering::Relaxed);
            table.invalidate(&[Cell::TAG]);
        }
    });
    let stamp = table.stamp();
    let loaded = data.load(Ordering::Relaxed);
    invalidation.join().unwrap();
    hold(loaded == 2 || !current(&table, stamp));
    hold(current(&table, table.stamp()));
}

/// A reader who asks after the commit takes any load that began after that. The database puts
/// commit and query in an order, as a lock does.
fn load_that_began_after_the_reader_asked() {
    let table = table(at(1, 1));
    let data = Arc::new(loom::sync::Mutex::new(1));
    let load = loom::sync::Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let loader = aside(&table, {
        let (data, load) = (data.clone(), load.clone());
        move |table| {
            load.0.store(table.stamp().moment, Ordering::Relaxed);
            load.1.store(*data.lock().unwrap(), Ordering::Relaxed);
        }
    });
    *data.lock().unwrap() = 2;
    let asked = table.moment();
    loader.join().unwrap();
    let (moment, loaded) = (load.0.load(Ordering::Relaxed), load.1.load(Ordering::Relaxed));
    hold(moment <= asked || loaded == 2);
}

#[test]
fn what_this_process_has_invalidated_is_dead_in_it_at_once() {
    holds_nearly(invalidated_and_pushed);
    holds_nearly(invalidated_and_overtaken_by_a_push);
    holds_nearly(invalidated_and_confirmed);
    holds_nearly(invalidated_in_a_new_epoch);
    holds(load_that_meets_an_invalidation);
    holds(load_that_began_after_the_reader_asked);
}

// ---- from pending to acknowledged ----

/// A load that began while the invalidation pended is current until the acknowledgement and, if it
/// does not know of that, dead from then on; it does not come back to life.
fn acknowledged_while_loading() {
    let table = table(at(1, 1));
    let before = table.stamp();
    table.invalidate(&[Cell::TAG]);
    let announcement = table.unannounced().unwrap();
    let answer = aside(&table, move |table| {
        applied(table.acknowledged(&announcement, at(1, 2)));
    });
    let stamp = table.stamp();
    let (first, again) = (current(&table, stamp), current(&table, stamp));
    hold(first || !again);
    hold(stamp.asof < 2 || first && again);
    hold(!current(&table, before) && !current(&table, result(1, 1)));
    let foreign = current(&table, result(1, 2));
    hold(!foreign || current(&table, result(1, 2)));
    answer.join().unwrap();
    hold(current(&table, result(1, 2)));
    hold(current(&table, stamp) == (stamp.asof == 2));
}

/// Asked for again while the first is acknowledged: the second still pends.
fn acknowledged_and_asked_for_again() {
    let table = table(at(1, 1));
    table.invalidate(&[Cell::TAG]);
    let announcement = table.unannounced().unwrap();
    let between = table.stamp();
    let answer = aside(&table, move |table| {
        applied(table.acknowledged(&announcement, at(1, 2)));
    });
    table.invalidate(&[Cell::TAG]);
    hold(!current(&table, between));
    hold(!current(&table, result(1, 1)));
    // Loaded by another process after the first; nothing is known of the second there.
    hold(!current(&table, result(1, 2)));
    answer.join().unwrap();
    hold(!current(&table, between) && !current(&table, result(1, 2)));
    hold(table.unannounced().is_some());
}

/// Announced by two callers at a time; the second answer says nothing new.
fn acknowledged_twice() {
    let table = table(at(1, 1));
    let before = table.stamp();
    table.invalidate(&[Cell::TAG]);
    let (one, two) = (table.unannounced().unwrap(), table.unannounced().unwrap());
    let first = aside(&table, move |table| applied(table.acknowledged(&one, at(1, 2))));
    let second = aside(&table, move |table| applied(table.acknowledged(&two, at(1, 3))));
    let stamp = table.stamp();
    hold(!current(&table, before) && !current(&table, result(1, 1)));
    first.join().unwrap();
    second.join().unwrap();
    hold(stamp.asof <= table.position().seq);
    hold(!current(&table, before) && table.unannounced().is_none());
}

#[test]
fn an_acknowledgement_brings_nothing_back_to_life() {
    holds(acknowledged_while_loading);
    holds(acknowledged_and_asked_for_again);
    holds_nearly(acknowledged_twice);
}

// ---- mutants ----

/// A model, and what is weakened in it.
type Case = (fn(), &'static [Mutant]);

#[test]
fn a_weaker_order_is_noticed() {
    use Field::{Applied, ConfirmedUntil, Epoch};
    use Ordering::{Acquire, Release};
    let mutants: [Case; 12] = [
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

/// The source orders these more strictly than it has to: cells are read before a fence, and a fence
/// follows the load of `applied`. Whoever takes both away is noticed above.
#[test]
fn what_a_fence_orders_needs_no_order_of_its_own() {
    use Field::{Applied, Cell};
    let mutants: [&'static [Mutant]; 2] =
        [&[Mutant::RelaxedStore(Cell)], &[Mutant::RelaxedLoad(Applied)]];
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
