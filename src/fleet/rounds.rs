//! [`Rounds`]: many callers, one announcement.
//!
//! Each announcement tells Redis all that is pending, and Redis tells every process. If each caller
//! sent one, Redis would repeat the same invalidations once for each of them. So one announcement is
//! under way at a time, and whoever comes meanwhile takes part in the next one. Databases write their
//! logs in this way: group commit (DeWitt et al., *Implementation Techniques for Main Memory Database
//! Systems*, 1984).
//!
//! A caller may not take part in the round that is under way: what it has to announce may have been
//! added after that round had begun. One caller alone runs its round itself, and waits for nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::l2::StoreError;
use crate::patience::within;
use crate::sync::Mutex;

type Outcome = Result<(), StoreError>;

#[derive(Default)]
pub(super) struct Rounds(Mutex<State>);

#[derive(Default)]
struct State {
    is_under_way: bool,
    /// Those who take part in the next round.
    next: Vec<oneshot::Sender<Word>>,
}

enum Word {
    /// The round that the caller took part in has ended.
    Ended(Outcome),
    /// The caller runs the next round.
    Lead(Lead),
}

/// The duty to run the next round, and to call the one after it. A leader that is dropped on the way
/// leaves it to another one.
struct Lead {
    rounds: Arc<Rounds>,
    /// Those who take part in this round, but for its leader.
    members: Vec<oneshot::Sender<Word>>,
}

impl Rounds {
    /// Takes part in a round that begins after this call. Its leader runs `round`, for all.
    ///
    /// It takes as long as `limit`, whatever the round that is under way takes. A round that is given
    /// up by its leader is run again by another one.
    pub(super) async fn join(
        self: &Arc<Self>,
        limit: Duration,
        round: impl AsyncFnOnce() -> Outcome,
    ) -> Outcome {
        within(limit, self.take_part(round)).await.unwrap_or(Err(StoreError::Unavailable))
    }

    async fn take_part(self: &Arc<Self>, round: impl AsyncFnOnce() -> Outcome) -> Outcome {
        let place = {
            let mut state = self.0.lock();
            if std::mem::replace(&mut state.is_under_way, true) {
                let (word, told) = oneshot::channel();
                state.next.push(word);
                Some(told)
            } else {
                None
            }
        };
        let mut lead = match place {
            None => Lead { rounds: self.clone(), members: vec![] },
            Some(told) => match told.await {
                Ok(Word::Ended(outcome)) => return outcome,
                Ok(Word::Lead(lead)) => lead,
                // Its sender is in the list, or in the hands of a leader, until it is used.
                Err(_) => return Err(StoreError::Unavailable),
            },
        };
        lead.members = std::mem::take(&mut self.0.lock().next);
        let outcome = round().await;
        for member in lead.members.drain(..) {
            // Who has left meanwhile is not told.
            let _ = member.send(Word::Ended(outcome));
        }
        outcome
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let heir = {
            let mut state = self.rounds.0.lock();
            // Of a round that did not end.
            let late = std::mem::take(&mut state.next);
            state.next = self.members.drain(..).chain(late).collect();
            state.next.retain(|member| !member.is_closed());
            state.is_under_way = !state.next.is_empty();
            if state.is_under_way { Some(state.next.remove(0)) } else { None }
        };
        if let Some(heir) = heir {
            let lead = Lead { rounds: self.rounds.clone(), members: vec![] };
            // If the heir has just left, this drops the duty, which looks for the next one.
            let _ = heir.send(Word::Lead(lead));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;

    use futures_util::future::join_all;
    use futures_util::poll;
    use tokio::sync::Semaphore;
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A round that waits for a permit, and counts.
    struct Announcements {
        rounds: Arc<Rounds>,
        begun: AtomicUsize,
        permits: Semaphore,
    }

    impl Announcements {
        fn new() -> Announcements {
            let (begun, permits) = (AtomicUsize::new(0), Semaphore::new(0));
            Announcements { rounds: Arc::default(), begun, permits }
        }

        async fn join(&self) -> Outcome {
            self.rounds
                .join(PATIENCE, async || {
                    self.begun.fetch_add(1, Ordering::SeqCst);
                    self.permits.acquire().await.unwrap().forget();
                    Ok(())
                })
                .await
        }

        fn begun(&self) -> usize {
            self.begun.load(Ordering::SeqCst)
        }

        fn is_idle(&self) -> bool {
            let state = self.rounds.0.lock();
            !state.is_under_way && state.next.is_empty()
        }
    }

    #[tokio::test]
    async fn who_comes_during_a_round_takes_part_in_the_next_one() {
        let all = Announcements::new();
        let mut first = pin!(all.join());
        assert!(poll!(&mut first).is_pending());
        let mut others: Vec<_> = (0..5).map(|_| Box::pin(all.join())).collect();
        for other in &mut others {
            assert!(poll!(other).is_pending());
        }
        assert_eq!(all.begun(), 1, "one at a time");
        all.permits.add_permits(1);
        assert_eq!(poll!(&mut first), Poll::Ready(Ok(())));
        for other in &mut others {
            assert!(poll!(other).is_pending(), "that was not their round");
        }
        all.permits.add_permits(1);
        let ended = timeout(PATIENCE, join_all(others)).await.unwrap();
        assert!(ended.iter().all(Result::is_ok));
        assert_eq!(all.begun(), 2, "one round for five");
        assert!(all.is_idle());
    }

    #[tokio::test]
    async fn a_leader_that_leaves_is_followed_by_another_one() {
        let all = Announcements::new();
        let mut first = Box::pin(all.join());
        assert!(poll!(&mut first).is_pending());
        let mut others: Vec<_> = (0..4).map(|_| Box::pin(all.join())).collect();
        for other in &mut others {
            assert!(poll!(other).is_pending());
        }
        // The leader leaves; then its heir, before it has run; then the next one, in its round,
        // with two members; and a member.
        drop(first);
        drop(others.remove(0));
        assert!(poll!(&mut others[0]).is_pending());
        assert_eq!(all.begun(), 2);
        drop(others.remove(0));
        drop(others.remove(1));
        all.permits.add_permits(1);
        let last = others.pop().unwrap();
        assert_eq!(timeout(PATIENCE, last).await, Ok(Ok(())));
        assert_eq!(all.begun(), 3);
        assert!(all.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_for_another_round_than_for_its_own() {
        let (rounds, limit) = (Arc::new(Rounds::default()), Duration::from_secs(1));
        let begun = AtomicUsize::new(0);
        let join = async |after: Duration| {
            sleep(after).await;
            let begin = Instant::now();
            let round = async || {
                begun.fetch_add(1, Ordering::SeqCst);
                std::future::pending().await
            };
            assert_eq!(rounds.join(limit, round).await, Err(StoreError::Unavailable));
            let took = begin.elapsed();
            assert!(took >= limit && took < limit + limit / 10, "{took:?}");
        };
        let half = limit / 2;
        tokio::join!(join(Duration::ZERO), join(half), join(half), join(limit));
        assert!(begun.load(Ordering::SeqCst) >= 2);
        let state = rounds.0.lock();
        assert!(!state.is_under_way && state.next.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_caller_has_a_round_that_began_after_it_came() {
        let rounds = Arc::new(Rounds::default());
        let (pending, announced) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let callers = (0..8).map(|caller| {
            let (rounds, pending, announced) = (rounds.clone(), pending.clone(), announced.clone());
            tokio::spawn(async move {
                for number in 0..500 {
                    let mine = pending.fetch_add(1, Ordering::SeqCst) + 1;
                    let round = async || {
                        let all = pending.load(Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        announced.fetch_max(all, Ordering::SeqCst);
                        Ok(())
                    };
                    let joined = rounds.join(PATIENCE, round);
                    if (caller + number) % 7 == 0 {
                        // Leaves at once, or in the middle.
                        let mut joined = pin!(joined);
                        let _ = poll!(&mut joined);
                        tokio::task::yield_now().await;
                        let _ = poll!(&mut joined);
                    } else {
                        joined.await.unwrap();
                        assert!(announced.load(Ordering::SeqCst) >= mine);
                    }
                }
            })
        });
        for ended in timeout(PATIENCE, join_all(callers)).await.expect("nobody waits for ever") {
            ended.unwrap();
        }
        let state = rounds.0.lock();
        assert!(!state.is_under_way && state.next.is_empty());
    }
}
