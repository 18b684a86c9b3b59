//! [`Gather`]: one query for the loads of many keys.
//!
//! Each key of a batch has its own flight, its own lease and its own load task, as if it were read
//! alone. Only the loads themselves are special: they ask here, and one query answers all of them.
//!
//! It has to know when to run that query. Each key is *undecided* at first. It is decided when its
//! load asks, when it turns out to need no load, or when it begins to wait for somebody else: for
//! another reader's flight, for another process's lease, for the body of a large entry. When no key
//! is undecided any more, or after a while, one of the loads that have asked runs the query, in its
//! own task and for all of them. A key that had to wait and has to be loaded after all asks later,
//! and is loaded by a query of its own, together with others of its kind.
//!
//! - The stamp of a key is taken when its load begins, and so before the query.
//! - The load that runs the query may be dropped at its deadline, which ends the query. The others
//!   have the same deadline, and get its error.
//! - If the load that is about to run the query is dropped before, another one does it.
//! - If the query fails for a reason that may lie in the value of one key, its two halves are tried
//!   apart, and so on: a bad key spoils no other one.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, select};
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore, SemaphorePermit, oneshot, watch};
use tokio::time::timeout;

use crate::cache::inner::{Inner, LoadFn, LoadResult};
use crate::cache::loading::LOADING;
use crate::error::Error;
use crate::flight::waits::{Loading, Wait};
use crate::sync::Mutex;
use crate::value::tag::LoadReport;

/// Loads the results of some keys of a batch, by their positions. The results are in the order of
/// the positions.
pub(crate) type LoadMany<T> =
    Arc<dyn Fn(Vec<usize>) -> BoxFuture<'static, Result<Vec<T>, Error>> + Send + Sync>;

/// How many requests of one batch to Redis are under way at a time. Each of them has the time limit
/// of a single request.
const TURNS: usize = 128;

/// The least time that the query waits for keys that are undecided. Their caller may have stopped
/// polling its read.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

/// What the keys of a batch share, whatever the type of their results.
struct Round {
    counts: watch::Sender<Counts>,
    /// Notified when a reader that holds a permit waits for one of the keys.
    skip_permit: Notify,
    turns: Semaphore,
}

#[derive(Debug, Clone, Copy)]
struct Counts {
    undecided: usize,
    /// Those that are undecided or have asked and have no answer yet.
    busy: usize,
}

/// A key of a batch, from its read's start to the end of its load.
pub(crate) struct Member {
    round: Arc<Round>,
    state: AtomicU8,
}

const UNDECIDED: u8 = 0;
const ASKED: u8 = 1;
const DONE: u8 = 2;

impl Member {
    /// What a request for a lease counts of [`TURNS`].
    pub(crate) const LEASE: u32 = 1;
    /// What an entry to be written counts: it is larger.
    pub(crate) const FILL: u32 = 4;

    /// The other keys need not wait for this one any more.
    pub(crate) fn step_aside(&self) {
        self.moves(UNDECIDED, DONE, |counts| {
            counts.undecided -= 1;
            counts.busy -= 1;
        });
    }

    fn asks(&self) {
        self.moves(UNDECIDED, ASKED, |counts| counts.undecided -= 1);
    }

    fn answered(&self) {
        self.moves(ASKED, DONE, |counts| counts.busy -= 1);
    }

    fn moves(&self, from: u8, to: u8, change: impl FnOnce(&mut Counts)) {
        let moved = self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        if moved.is_ok() {
            self.round.counts.send_modify(change);
        }
    }

    /// Waits until the batch may send another request to Redis. Reads that are not of a batch have
    /// nothing to wait for.
    pub(crate) async fn turn(member: Option<&Member>, weight: u32) -> Option<SemaphorePermit<'_>> {
        member?.round.turns.acquire_many(weight).await.ok()
    }

    /// Runs the load of the key. If `skip_permit` is notified meanwhile, the query does not wait for
    /// its permit.
    pub(crate) async fn skipping_permit<F: Future>(
        &self,
        skip_permit: &Notify,
        load: F,
    ) -> F::Output {
        let skipped = async {
            skip_permit.notified().await;
            self.round.skip_permit.notify_one();
            std::future::pending().await
        };
        match select(pin!(load), pin!(skipped)).await {
            Either::Left((done, _)) | Either::Right((done, _)) => done,
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.step_aside();
        self.answered();
    }
}

/// One query for the loads of many keys.
pub(crate) struct Gather<T> {
    inner: Arc<Inner>,
    load: LoadMany<T>,
    round: Arc<Round>,
    /// Held by the load that is about to run the query.
    about_to_run: AsyncMutex<()>,
    asked: Mutex<Vec<Asked<T>>>,
    patience: Duration,
    deadline: Duration,
}

/// A key's part in a gather: its member and its load.
pub(crate) type Joined<T> = (Arc<Member>, LoadFn<T>);

/// A load that has asked.
struct Asked<T> {
    /// The position of its key.
    position: usize,
    loading: Option<Loading>,
    answer: oneshot::Sender<Result<T, Error>>,
}

impl<T: Send + 'static> Gather<T> {
    /// For the keys at these positions. Returns a member and a load for each of them, in their order.
    pub(crate) fn start(
        inner: &Arc<Inner>,
        load: &LoadMany<T>,
        positions: &[usize],
        deadline: Duration,
    ) -> (Arc<Gather<T>>, Vec<Joined<T>>) {
        let counts = Counts { undecided: positions.len(), busy: positions.len() };
        let counts = watch::Sender::new(counts);
        let (skip_permit, turns) = (Notify::new(), Semaphore::new(TURNS));
        let round = Arc::new(Round { counts, skip_permit, turns });
        let limit = inner.fleet.as_ref().map_or(Duration::ZERO, |fleet| fleet.store.limit());
        let gather = Arc::new(Gather {
            inner: inner.clone(),
            load: load.clone(),
            round: round.clone(),
            about_to_run: AsyncMutex::default(),
            asked: Mutex::default(),
            patience: limit.max(LEAST_PATIENCE),
            deadline,
        });
        let member = |&position: &usize| {
            let state = AtomicU8::new(UNDECIDED);
            let member = Arc::new(Member { round: round.clone(), state });
            let (gather, asks) = (gather.clone(), member.clone());
            let load: LoadFn<T> =
                Box::new(move || async move { gather.ask(position, &asks).await }.boxed());
            (member, load)
        };
        let members = positions.iter().map(member).collect();
        (gather, members)
    }

    /// Waits until no key is undecided and none that has asked waits for the query.
    pub(crate) async fn is_idle(&self) {
        let mut counts = self.round.counts.subscribe();
        let _ = counts.wait_for(|counts| counts.busy == 0).await;
    }

    async fn ask(&self, position: usize, member: &Member) -> Result<LoadResult<T>, Error> {
        let (sender, mut answer) = oneshot::channel();
        let loading = LOADING.try_with(Loading::clone).ok();
        self.asked.lock().push(Asked { position, loading: loading.clone(), answer: sender });
        member.asks();
        let turn = pin!(self.turn());
        let answered = match select(turn, &mut answer).await {
            Either::Right((answered, _)) => answered,
            Either::Left((turn, _)) => {
                let (permit, asked) = turn?;
                // Else another one runs it.
                if !asked.is_empty() {
                    self.run(asked, loading.as_ref()).await;
                }
                drop(permit);
                answer.await
            }
        };
        member.answered();
        let value = answered.map_err(|_| Error::closed())??;
        Ok(LoadResult::new(value, LoadReport::default()))
    }

    /// Waits until the query may run. Returns those that have asked by then.
    async fn turn(&self) -> Result<(Option<SemaphorePermit<'_>>, Vec<Asked<T>>), Error> {
        let _about_to_run = self.about_to_run.lock().await;
        let mut counts = self.round.counts.subscribe();
        let decided = counts.wait_for(|counts| counts.undecided == 0);
        let _ = timeout(self.patience, decided).await;
        if self.asked.lock().is_empty() {
            return Ok((None, vec![]));
        }
        let permit = self.inner.permit(&self.round.skip_permit).await?;
        let mut asked = std::mem::take(&mut *self.asked.lock());
        // Loads that have left need no result.
        asked.retain(|asked| !asked.answer.is_closed());
        asked.sort_by_key(|asked| asked.position);
        Ok((permit, asked))
    }

    /// Runs the query for those that have asked, and answers them.
    async fn run(&self, asked: Vec<Asked<T>>, runs_in: Option<&Loading>) {
        // A read within the query that waits for one of the others would wait for itself.
        let _waits: Vec<Wait> = runs_in
            .map(|runs_in| {
                let others = asked.iter().filter_map(|asked| asked.loading.as_ref());
                let others = others.filter(|other| other.flight != runs_in.flight);
                others.filter_map(|it| it.wait_for(runs_in.flight, &runs_in.query).ok()).collect()
            })
            .unwrap_or_default();
        let asked = asked.into_iter().map(Some).collect();
        let mut unanswered = Unanswered { asked, deadline: self.deadline };
        let mut parts = vec![(0, unanswered.asked.len())];
        while let Some((start, end)) = parts.pop() {
            let asked = &mut unanswered.asked[start..end];
            let positions = asked.iter().flatten().map(|asked| asked.position).collect();
            let load = AssertUnwindSafe(async { (self.load)(positions).await }).catch_unwind();
            match load.await.unwrap_or_else(|panic| Err(Error::panicked(&*panic))) {
                Ok(values) => {
                    for (asked, value) in asked.iter_mut().zip(values) {
                        answer(asked, Ok(value));
                    }
                }
                Err(error) if end - start > 1 && error.may_be_of_one_value() => {
                    let middle = start.midpoint(end);
                    parts.extend([(middle, end), (start, middle)]);
                }
                Err(error) => asked.iter_mut().for_each(|asked| answer(asked, Err(error.clone()))),
            }
        }
    }
}

fn answer<T>(asked: &mut Option<Asked<T>>, outcome: Result<T, Error>) {
    if let Some(asked) = asked.take() {
        // A load that has left does not get it.
        let _ = asked.answer.send(outcome);
    }
}

/// Those whose query runs. If it is dropped, its deadline has passed.
struct Unanswered<T> {
    asked: Vec<Option<Asked<T>>>,
    deadline: Duration,
}

impl<T> Drop for Unanswered<T> {
    fn drop(&mut self) {
        for asked in &mut self.asked {
            answer(asked, Err(Error::deadline(self.deadline)));
        }
    }
}
