//! Redis goes away under reads and writes, and comes back.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::thread;

use crate::{CUSTOMERS, REVENUE, Service, Stage, cents, order, until};

/// What the clients of a service have seen.
#[derive(Default)]
struct Seen {
    reads: AtomicU64,
    /// Orders of one cent each that were answered.
    orders: AtomicI64,
    over: AtomicBool,
}

impl Seen {
    fn read_until_over(&self, service: &Service) {
        while !self.over.load(SeqCst) {
            for report in [REVENUE, CUSTOMERS] {
                let reply = service.get(report, "secret7");
                assert_eq!(reply.status, 200, "{}", reply.body);
                self.reads.fetch_add(1, SeqCst);
            }
        }
    }

    /// Each order is in the next report of the process that took it, with Redis and without.
    fn write_until_over(&self, service: &Service) {
        while !self.over.load(SeqCst) {
            let placed = service.post("/orders", "secret7", &order(1));
            assert_eq!(placed.status, 201, "{}", placed.body);
            let so_far = self.orders.fetch_add(1, SeqCst) + 1;
            let seen = cents(&service.get(REVENUE, "secret7"));
            assert!(seen >= 100 + so_far, "{seen} cents after {so_far} orders");
        }
    }

    /// Waits for so many more reads and orders.
    fn more(&self, when: &str, reads: u64, orders: i64) {
        let reads = self.reads.load(SeqCst) + reads;
        let orders = self.orders.load(SeqCst) + orders;
        until(when, || self.reads.load(SeqCst) >= reads && self.orders.load(SeqCst) >= orders);
    }
}

/// Ends the clients also if the test fails.
struct Over<'a>(&'a Seen);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, SeqCst);
    }
}

pub async fn nothing_fails_while_redis_is_away(program: &str) {
    let Some(mut stage) = Stage::set(program).await else { return };
    let (writer, reader) = (stage.service(), stage.service());
    let seen = Seen::default();
    let late = thread::scope(|scope| {
        let over = Over(&seen);
        scope.spawn(|| seen.write_until_over(&writer));
        scope.spawn(|| seen.read_until_over(&writer));
        scope.spawn(|| seen.read_until_over(&reader));
        seen.more("requests with Redis", 50, 20);

        stage.redis.redis.kill().unwrap();
        seen.more("requests without Redis", 50, 5);
        // A process that starts meanwhile serves as well.
        let late = stage.service();
        assert_eq!(late.get("/health", "").status, 200);
        assert!(cents(&late.get(REVENUE, "secret7")) > 100);
        seen.more("requests after that", 50, 5);

        stage.redis.redis.restart().unwrap();
        seen.more("requests with Redis again", 50, 20);
        drop(over);
        late
    });

    // Caught up: all orders, in all processes.
    let all = 100 + seen.orders.load(SeqCst);
    for (service, whose) in [(&writer, "writer"), (&reader, "reader"), (&late, "late one")] {
        until(&format!("the {whose} has all orders"), || {
            cents(&service.get(REVENUE, "secret7")) == all
        });
    }
    // And they hear of each other again: what one loads another finds in Redis, and an order at one
    // reaches the others.
    until("a result of another process is found in Redis", || {
        let _ = writer.get(CUSTOMERS, "secret7");
        stage.service().get(CUSTOMERS, "secret7").origin() == "L2"
    });
    assert_eq!(writer.post("/orders", "secret7", &order(1)).status, 201);
    for service in [&reader, &late] {
        until("the last order", || cents(&service.get(REVENUE, "secret7")) == all + 1);
    }
}
