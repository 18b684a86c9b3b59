//! [`Read`]: a read as a future, which finds what is in memory at its first poll.

use crate::sync::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::cache::config::QueryConfig;
use crate::cache::inner::{Inner, LoadFn};
use crate::error::Error;
use crate::value::Value;
use crate::value::answer::Answer;
use crate::value::key::CacheKey;
use crate::value::token::Token;

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
    inner: &'q Arc<Inner>,
    state: State<'q, V, L>,
}

/// What a read does when its result is not in memory: it lets go of everything borrowed, so that
/// the load can run as a task of its own.
///
/// Only this crate's own methods return one.
pub trait Loader<V: Value>: FnOnce() -> LoadFn<V::Stored> {}

impl<V: Value, L: FnOnce() -> LoadFn<V::Stored>> Loader<V> for L {}

enum State<'q, V, L> {
    /// Not polled yet.
    Fresh {
        call: Result<(CacheKey, &'q Arc<QueryConfig>), Error>,
        detach: L,
    },
    /// Not in memory: this waits for Redis or the query. Only here the heap is touched.
    Slow(BoxFuture<'static, Result<Answer<V>, Error>>),
    Done,
}

impl<'q, V: Value, L: Loader<V>> Read<'q, V, L> {
    /// `detach` makes the load independent of everything borrowed; it is called on a miss.
    pub(crate) fn new(
        inner: &'q Arc<Inner>,
        call: Result<(CacheKey, &'q Arc<QueryConfig>), Error>,
        detach: L,
    ) -> Read<'q, V, L> {
        Read { inner, state: State::Fresh { call, detach } }
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
        if let State::Fresh { call, .. } = &self.state {
            if let Ok((key, config)) = call
                && let Some(hit) = self.inner.hit(key, config)
            {
                match hit.due {
                    None => self.state = State::Done,
                    Some(seen) => self.reload(seen),
                }
                return Poll::Ready(Ok(hit.answer));
            }
            self.go_slow()?;
        }
        match &mut self.state {
            State::Slow(running) => {
                // A caller of no runtime borrows the timers of ours. One that has its own keeps
                // them: they go on when ours does not.
                let alone = Handle::try_current().is_err();
                let _ours = alone.then(|| self.inner.runtime.enter());
                let answer = ready!(running.as_mut().poll(cx));
                self.state = State::Done;
                Poll::Ready(answer)
            }
            _ => panic!("a read was polled after it had ended"),
        }
    }

    /// Loads in the background what was served from memory for one of the last times.
    #[cold]
    fn reload(&mut self, seen: Token) {
        if let State::Fresh { call: Ok((key, config)), detach } =
            std::mem::replace(&mut self.state, State::Done)
        {
            let load = Arc::new(Mutex::new(Some(detach())));
            self.inner.reload::<V>(key, config, load, seen);
        }
    }

    #[cold]
    fn go_slow(&mut self) -> Result<(), Error> {
        if let State::Fresh { call, detach } = std::mem::replace(&mut self.state, State::Done) {
            let (key, config) = call?;
            let miss_reason = self.inner.clone().miss(key, config.clone(), detach());
            self.state = State::Slow(Box::pin(miss_reason));
        }
        Ok(())
    }
}

/// Nothing in it is pinned in place: the one future is boxed.
impl<V, L> Unpin for Read<'_, V, L> {}

impl<V: Value, L: Loader<V>> Future for Read<'_, V, L> {
    type Output = Result<V, Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_answer(cx).map_ok(Answer::into_value)
    }
}

/// A [`Read`] that answers with origin and age.
#[must_use = "a read does nothing unless it is awaited"]
pub struct ReadAnswer<'q, V, L>(Read<'q, V, L>);

impl<V: Value, L: Loader<V>> Future for ReadAnswer<'_, V, L> {
    type Output = Result<Answer<V>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_answer(cx)
    }
}
