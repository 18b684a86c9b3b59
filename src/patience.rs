//! [`within`]: a time limit for what another machine does.
//!
//! A process that gets no processor does not see a reply that has long arrived, and its timers fire
//! late. If the whole wait counted, such a process would take its own lateness for a dead server, and
//! turn to PostgreSQL just when that hurts most. So the limit is waited for in slices, and a slice
//! counts for little more than its length, however long it took. Where the processor is free, that is
//! the same as one wait.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// The number of slices of a limit. A reply that arrived during one of them is seen before the next
/// one ends.
const SLICES: u32 = 10;
/// The timer of Tokio is exact to this, and late by at most this on an idle machine.
const TICK: Duration = Duration::from_millis(1);

/// Waits for something for a time in which this process could have noticed it. `None` if that time
/// is over.
pub(crate) async fn within<T>(limit: Duration, what: impl Future<Output = T>) -> Option<T> {
    let mut what = pin!(what);
    let slice = (limit / SLICES).max(TICK);
    let mut left = limit;
    loop {
        let (begin, length) = (Instant::now(), slice.min(left));
        if let Ok(done) = timeout(length, &mut what).await {
            return Some(done);
        }
        left = left.saturating_sub(begin.elapsed().min(length + TICK));
        if left.is_zero() {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::task::Poll;
    use std::thread;

    use tokio::sync::oneshot;
    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_a_limit_where_the_processor_is_free() {
        let begin = Instant::now();
        assert_eq!(within(LIMIT, pending::<()>()).await, None);
        let took = begin.elapsed();
        assert!((LIMIT..LIMIT + TICK).contains(&took), "{took:?}");
        let almost = LIMIT - 2 * TICK;
        assert_eq!(within(LIMIT, sleep(almost)).await, Some(()));
        assert_eq!(within(Duration::ZERO, pending::<()>()).await, None);
        assert_eq!(within(Duration::ZERO, async { 7 }).await, Some(7));
    }

    #[tokio::test]
    async fn a_reply_that_came_while_the_process_stood_still_is_no_late_one() {
        let (reply, receiver) = oneshot::channel();
        let mut reply = Some(reply);
        let mut receiver = pin!(receiver);
        let mut polls = 0;
        let waits = poll_fn(|context| {
            polls += 1;
            if polls == 2 {
                // The process stands still from the first slice on for twice the limit. The reply
                // arrives meanwhile, and another task delivers it after this one has looked.
                thread::sleep(2 * LIMIT);
                let reply = reply.take();
                tokio::spawn(async move { reply.map(|reply| reply.send(7)) });
                return Poll::Pending;
            }
            receiver.as_mut().poll(context)
        });
        assert_eq!(within(LIMIT, waits).await, Some(Ok(7)));
    }
}
