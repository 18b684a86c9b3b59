//! Invalidations by this process: requested, pending, acknowledged.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::currency::Currency;
use crate::key::Instant;
use crate::tag::TagSlot;
use crate::{LINK, applied, aside, at, current, hold, holds, holds_nearly, result, table};

/// Invalidates in one thread and then has it acknowledged, while another does `meanwhile`: to a
/// reader who knows that the call has returned, results from before it are dead.
fn invalidated(meanwhile: fn(&Currency), acknowledged_at: u64) {
    let table = table(at(1, 1));
    let own = table.stamp();
    let done = Arc::new(AtomicBool::new(false));
    let invalidation = aside(&table, {
        let done = done.clone();
        move |table| {
            table.invalidate(&[TagSlot::TAG]);
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
        let _ = table.pushed(at(1, 2), &[TagSlot::TAG]);
    };
    invalidated(push, 3);
}

fn invalidated_and_overtaken_by_a_push() {
    let push = |table: &Currency| {
        let _ = table.pushed(at(1, 3), &[TagSlot::EVERYTHING]);
    };
    invalidated(push, 2);
}

fn invalidated_and_confirmed() {
    // A beat from before the invalidation, answered late.
    let beat =
        |table: &Currency| applied(table.beat(at(1, 1), &[], LINK, Some(Instant::from_nanos(20))));
    invalidated(beat, 2);
}

fn invalidated_in_a_new_epoch() {
    let beat =
        |table: &Currency| applied(table.beat(at(2, 0), &[], LINK, Some(Instant::from_nanos(20))));
    invalidated(beat, 2);
}

/// From commit to answer: what a load of ours has read before the commit is not current once the
/// invalidation has begun, and one that began after it is, while it pends.
pub(crate) fn load_that_meets_an_invalidation() {
    let table = table(at(1, 1));
    let data = Arc::new(AtomicU64::new(1));
    let invalidation = aside(&table, {
        let data = data.clone();
        move |table| {
            data.store(2, Ordering::Relaxed);
            table.invalidate(&[TagSlot::TAG]);
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
            load.0.store(table.stamp().order, Ordering::Relaxed);
            load.1.store(*data.lock().unwrap(), Ordering::Relaxed);
        }
    });
    *data.lock().unwrap() = 2;
    let asked = table.order();
    loader.join().unwrap();
    let (order, loaded) = (load.0.load(Ordering::Relaxed), load.1.load(Ordering::Relaxed));
    hold(order <= asked || loaded == 2);
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
pub(crate) fn acknowledged_while_loading() {
    let table = table(at(1, 1));
    let before = table.stamp();
    table.invalidate(&[TagSlot::TAG]);
    let announcement = table.unannounced().unwrap();
    let answer = aside(&table, move |table| {
        applied(table.acknowledged(&announcement, at(1, 2)));
    });
    let stamp = table.stamp();
    let (first, again) = (current(&table, stamp), current(&table, stamp));
    hold(first || !again);
    hold(stamp.seq < 2 || first && again);
    hold(!current(&table, before) && !current(&table, result(1, 1)));
    let foreign = current(&table, result(1, 2));
    hold(!foreign || current(&table, result(1, 2)));
    answer.join().unwrap();
    hold(current(&table, result(1, 2)));
    hold(current(&table, stamp) == (stamp.seq == 2));
}

/// Asked for again while the first is acknowledged: the second still pends.
fn acknowledged_and_asked_for_again() {
    let table = table(at(1, 1));
    table.invalidate(&[TagSlot::TAG]);
    let announcement = table.unannounced().unwrap();
    let between = table.stamp();
    let answer = aside(&table, move |table| {
        applied(table.acknowledged(&announcement, at(1, 2)));
    });
    table.invalidate(&[TagSlot::TAG]);
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
    table.invalidate(&[TagSlot::TAG]);
    let (one, two) = (table.unannounced().unwrap(), table.unannounced().unwrap());
    let first = aside(&table, move |table| applied(table.acknowledged(&one, at(1, 2))));
    let second = aside(&table, move |table| applied(table.acknowledged(&two, at(1, 3))));
    let stamp = table.stamp();
    hold(!current(&table, before) && !current(&table, result(1, 1)));
    first.join().unwrap();
    second.join().unwrap();
    hold(stamp.seq <= table.position().seq);
    hold(!current(&table, before) && table.unannounced().is_none());
}

#[test]
fn an_acknowledgement_brings_nothing_back_to_life() {
    holds(acknowledged_while_loading);
    holds(acknowledged_and_asked_for_again);
    holds_nearly(acknowledged_twice);
}
