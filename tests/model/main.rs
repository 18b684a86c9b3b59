//! An exhaustive model of how the cache knows which results are current: every possible event, in
//! every order, within small bounds.
//!
//! The models mirror `src/currency`, `src/flight/mod.rs`, `src/fleet/following.rs` and the scripts in
//! `src/l2/redis/lua`, for one key. They do not run that code: they show that its rules suffice,
//! and the mutants show that each rule is necessary.
//!
//! With `LARDER_MODEL=large` in the environment they visit tens of millions of states. That takes
//! minutes and a few GB of memory, and needs an optimised build:
//!
//! ```text
//! LARDER_MODEL=large cargo test --release --test model -- --nocapture
//! ```

mod bounds;
mod currency;
mod explore;
mod fleet;
mod flight;
mod follow;
mod follower;
mod lease;
mod mutation;
mod process;
mod redis;
mod scenario;
mod table;
mod turn;

use std::thread;

use crate::mutation::Mutation;
use crate::scenario::{LARGE, QUICK, Scenario};

/// Goes through a scenario to its end.
fn holds(scenario: &Scenario) -> usize {
    let explored = scenario.explore(None);
    println!("{:>10} states: {}", explored.states, scenario.name);
    if let Some(trace) = explored.trace {
        panic!("{}:\n{trace}", scenario.name);
    }
    explored.states
}

fn is_large() -> bool {
    std::env::var("LARDER_MODEL").is_ok_and(|size| size == "large")
}

#[test]
fn the_protocol_holds() {
    let mut states: usize = thread::scope(|scope| {
        let running = QUICK.each_ref().map(|scenario| scope.spawn(|| holds(scenario)));
        running.map(|it| it.join().expect("a trace was printed")).into_iter().sum()
    });
    if is_large() {
        // One at a time: each takes all the memory that there may be.
        states += LARGE.iter().map(holds).sum::<usize>();
    }
    println!("{states:>10} states");
}

#[test]
fn a_protocol_without_one_of_its_rules_does_not_hold() {
    println!("{:<24} {:>9}  found in", "rule broken", "states");
    let survivors: Vec<Mutation> = Mutation::ALL
        .into_iter()
        .filter(|mutation| is_large() || !Mutation::SLOW.contains(mutation))
        .filter(|&mutation| {
            let scenario = Scenario::that_kills(mutation);
            let explored = scenario.explore(Some(mutation));
            println!("{:<24} {:>9}  {}", format!("{mutation:?}"), explored.states, scenario.name);
            explored.trace.is_none()
        })
        .collect();
    assert!(survivors.is_empty(), "not noticed: {survivors:?}");
}

#[test]
fn a_fault_is_told_step_by_step() {
    let mutation = Mutation::LateCapture;
    let explored = Scenario::that_kills(mutation).explore(Some(mutation));
    let trace = explored.trace.expect("a late capture is found");
    println!("{trace}");
    // The load sees the old version, the change is made and invalidated, and only then the load
    // learns as of which invalidation it began.
    let mut rest = &*trace;
    for step in [
        "process A loads from the database",
        "the database commits a change",
        "process B begins an invalidation",
        "process B has its invalidation carried out",
        "process A captures a stamp",
        "fault: memory serves what it must not",
    ] {
        let at =
            rest.find(step).unwrap_or_else(|| panic!("no step {step:?} in its place:\n{trace}"));
        rest = &rest[at..];
    }
}
