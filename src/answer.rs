//! [`Answer`]: a result, where it came from and how old it is.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::cache::{Core, Load};
use crate::error::Error;
use crate::key::CacheKey;
use crate::query::Query;
use crate::value::Value;

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// This process's memory.
    L1,
    /// Redis.
    L2,
    /// The query: this read ran it.
    Loaded,
    /// Another read of the same result, under way when this one began: it was waited for.
    Coalesced,
}

/// A result with its origin and its age; what [`Read::answer`] gives.
#[derive(Debug, Clone)]
pub struct Answer<V> {
    value: V,
    origin: Origin,
    age: Duration,
}

impl<V> Answer<V> {
    pub(crate) fn new(value: V, origin: Origin, age: Duration) -> Answer<V> {
        Answer { value, origin, age }
    }

    /// The result.
    pub fn value(&self) -> &V {
        &self.value
    }

    /// The result, taken out.
    pub fn into_value(self) -> V {
        self.value
    }

    /// Where it came from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// How long before this answer its load began: the result shows the database as of then or
    /// later. For a result from Redis it is counted in Redis's time and exact to a millisecond.
    pub fn age(&self) -> Duration {
        self.age
    }
}

/// A read under way: await it for the result, or its [`answer`](Read::answer) for the result with
/// its origin and age.
///
/// Nothing happens before it is first polled. `V` is [`Rows`](crate::Rows) or an `Arc` of the
/// user's type.
///
/// # Cancellation
///
/// It may be dropped at any time. A load that it started goes on as a task of its own, for others
/// who wait for it and for the cache.
#[must_use = "a read does nothing unless it is awaited"]
pub struct Read<'q, V, L> {
    state: State<'q, V, L>,
}

/// What a read does when its result is not in memory: it lets go of everything borrowed, so that
/// the load can run as a task of its own.
///
/// Only this crate's own methods return one.
pub trait OnMiss<V: Value>: FnOnce() -> Load<V::Stored> {}

impl<V: Value, L: FnOnce() -> Load<V::Stored>> OnMiss<V> for L {}

enum State<'q, V, L> {
    /// Not polled yet.
    Fresh {
        query: &'q Query,
        key: Result<CacheKey, Error>,
        detach: L,
    },
    /// Not in memory: this waits for Redis or the query. Only here the heap is touched.
    Slow {
        query: &'q Query,
        running: BoxFuture<'static, Result<Answer<V>, Error>>,
    },
    Done,
}

impl<'q, V: Value, L: OnMiss<V>> Read<'q, V, L> {
    /// `detach` makes the load independent of everything borrowed; it is called on a miss.
    pub(crate) fn new(query: &'q Query, key: Result<CacheKey, Error>, detach: L) -> Read<'q, V, L> {
        Read { state: State::Fresh { query, key, detach } }
    }

    /// The same read, answered with its origin and age.
    ///
    /// ```
    /// # use larder::{Origin, QueryCache};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = QueryCache::builder().build().await?;
    /// let one = cache.query("SELECT 1");
    /// let answer = one.load(|| async { Ok::<_, std::io::Error>(1_i32) }).answer().await?;
    /// assert_eq!((**answer.value(), answer.origin()), (1, Origin::Loaded));
    /// # Ok(())
    /// # }
    /// ```
    pub fn answer(self) -> ReadAnswer<'q, V, L> {
        ReadAnswer(self)
    }

    #[inline]
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer<V>, Error>> {
        if let State::Fresh { query, key, .. } = &self.state {
            if let Ok(key) = key
                && let Some(answer) = query.core().hit(key)
            {
                self.state = State::Done;
                return Poll::Ready(Ok(answer));
            }
            self.go_slow()?;
        }
        match &mut self.state {
            State::Slow { query, running } => {
                // The caller may be of another runtime, or of none that has timers.
                let _ours = query.core().runtime.enter();
                let answer = ready!(running.as_mut().poll(cx));
                self.state = State::Done;
                Poll::Ready(answer)
            }
            _ => panic!("a read was polled after it had ended"),
        }
    }

    #[cold]
    fn go_slow(&mut self) -> Result<(), Error> {
        if let State::Fresh { query, key, detach } = std::mem::replace(&mut self.state, State::Done)
        {
            let (key, policy) = (key?, *query.policy()?);
            let core: Arc<Core> = query.core().clone();
            let running = Box::pin(core.miss(key, policy, detach()));
            self.state = State::Slow { query, running };
        }
        Ok(())
    }
}

/// Nothing in it is pinned in place: the one future is boxed.
impl<V, L> Unpin for Read<'_, V, L> {}

impl<V: Value, L: OnMiss<V>> Future for Read<'_, V, L> {
    type Output = Result<V, Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_answer(cx).map_ok(Answer::into_value)
    }
}

/// A [`Read`] that answers with origin and age.
#[must_use = "a read does nothing unless it is awaited"]
pub struct ReadAnswer<'q, V, L>(Read<'q, V, L>);

impl<V: Value, L: OnMiss<V>> Future for ReadAnswer<'_, V, L> {
    type Output = Result<Answer<V>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_answer(cx)
    }
}
