//! [`Verified`]: a task that asks every second whether the address still leads to the server that is
//! followed.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::failure::{Failure, FailureKind};
use super::server::{Identity, verify};
use crate::patience::within;
use crate::postgres::replication::dial::Endpoint;
use crate::postgres::replication::error::ReplicationError;
use crate::sync::Mutex;
use std::sync::Arc;

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(1);

/// No round ends later than this after a question that was answered with yes.
const VALID: Duration = Duration::from_secs(2);

/// How long a round waits for the answer to a question.
const WAITED_FOR: Duration = Duration::from_secs(5);

/// Ends its task when it is dropped.
pub(super) struct Verified {
    /// When the last question was asked that was answered with yes.
    asked: watch::Receiver<Instant>,
    why: Arc<Mutex<Option<Failure>>>,
    task: AbortHandle,
}

impl Drop for Verified {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Verified {
    /// `connected`: when the server was connected to.
    pub(super) fn start(endpoint: Endpoint, followed: Identity, connected: Instant) -> Verified {
        let (answered, asked) = watch::channel(connected);
        let why = Arc::new(Mutex::new(None));
        let task = tokio::spawn({
            let why = why.clone();
            async move {
                loop {
                    sleep(EVERY).await;
                    let now = Instant::now();
                    match verify(&endpoint, &followed).await {
                        Ok(()) => drop(answered.send(now)),
                        // A connection that cannot be opened now may be the next time.
                        Err(failure) => {
                            let is_other = failure.kind == FailureKind::OtherServer;
                            *why.lock() = Some(failure);
                            if is_other {
                                return;
                            }
                        }
                    }
                }
            }
        });
        Verified { asked, why, task: task.abort_handle() }
    }

    /// Waits until the address has been seen to lead to the server a short time ago.
    pub(super) async fn is_valid(&mut self) -> Result<(), Failure> {
        let valid = self.asked.wait_for(|asked| asked.elapsed() < VALID);
        match within(WAITED_FOR, valid).await {
            Some(Ok(_)) => Ok(()),
            // It ended since the address leads elsewhere, or it cannot connect.
            _ => Err(self.why.lock().take().unwrap_or_else(|| {
                let late = ReplicationError::TimedOut("a connection to the same address");
                Failure::of("following the database", late)
            })),
        }
    }
}
