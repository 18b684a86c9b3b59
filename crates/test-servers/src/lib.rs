//! Real Redis, PostgreSQL and PgBouncer servers, private to the process that
//! starts them, and a browser.
//!
//! Tests, examples and benches use this crate as a dev-dependency. It does not
//! depend on the library that they test. Every server lives in a directory of
//! its own and listens on a unix socket there. Server and directory are gone
//! when the owner is dropped or the process ends, however it ends: see [`guard`].
//!
//! Starting, stopping and signalling a server block the calling thread for
//! milliseconds (PostgreSQL: about 100), also in an async test. Nothing here
//! uses a timer of tokio, so that a test may pause its clock.
//!
//! Faults: a server can be killed, paused and restarted, also with an older
//! state. A [`Proxy`] is a bad network in front of a server. A [`Worker`] is
//! another process that uses the servers.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `LARDER_REDIS_BIN` | the directory of the `redis-server` or `valkey-server` to use |
//! | `LARDER_POSTGRES_BIN` | the directory of the `initdb` and `postgres` to use |
//! | `LARDER_PGBOUNCER_BIN` | the directory of the `pgbouncer` to use |
//! | `LARDER_PROMTOOL_BIN` | the directory of the `promtool` to use |
//! | `LARDER_CHROMIUM_BIN` | the directory of the `chromium`, or another of its names, to use |

#![warn(unreachable_pub)]

mod chromium;
mod controls;
mod database;
mod find;
mod guard;
mod link;
mod pgbouncer;
mod postgres;
mod proxy;
mod redis;
mod resp;
mod template;
mod tls;
pub mod worker;

use std::fmt;
use std::io::Write;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use self::chromium::Chromium;
pub use self::controls::Way;
pub use self::database::Database;
pub use self::guard::is_running;
pub use self::link::{Counts, Link};
pub use self::pgbouncer::PgBouncer;
pub use self::postgres::Postgres;
pub use self::proxy::Proxy;
pub use self::redis::Redis;
pub use self::resp::{Reply, replies};
pub use self::tls::{Authority, Identity, OverTls};
pub use self::worker::Worker;

/// How long a server may take to start or to stop. Both take milliseconds; a
/// machine under a full build takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server could not be found, started, stopped or reached.
#[derive(Clone)]
pub struct ServerError(String);

impl ServerError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// `attempt` is what was attempted, and on what. `cause` is why it failed.
    fn caused(attempt: impl fmt::Display, cause: &(dyn std::error::Error + 'static)) -> Self {
        let mut message = attempt.to_string();
        let mut next = Some(cause);
        while let Some(error) = next {
            message.push_str(": ");
            message.push_str(&error.to_string());
            next = error.source();
        }
        Self(message)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// `unwrap` and a `main` that returns the error print this: the text, not its
// escaped form, for it has lines.
impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServerError {}

/// The path of Prometheus's `promtool`.
pub fn promtool() -> Result<std::path::PathBuf, ServerError> {
    find::promtool()
}

/// Says that the test of this thread does not run with these servers, and why. It is printed also
/// where the output of passing tests is not, so that no test is left out in silence.
pub fn skipped(why: impl fmt::Display) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or("a test"));
    // `eprintln!` would be captured.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Calls `ask` every few milliseconds until it returns a value. Returns `None`
/// when there is none after `patience`.
pub fn wait_for<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    let (never, lock) = (Condvar::new(), Mutex::new(()));
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        // Not `thread::park_timeout`: it could swallow the wake-up of an
        // executor that runs on this thread.
        let held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(never.wait_timeout(held, Duration::from_millis(2)));
    }
}
