//! [`Read`]: a read as a future. Its first poll answers from memory, without allocating.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::cache::config::QueryConfig;
use crate::cache::inner::{Inner, LoadFn};
use crate::error::Error;
use crate::sync::Mutex;
use crate::value::Value;
use crate::value::answer::Answer;
use crate::value::key::CacheKey;
use crate::value::tag::Tag;
use crate::value::token::Token;

/// A read: await it for the result, or await its [`answer`](Read::answer) for the result with its
/// origin and age.
///
/// Nothing happens before the first poll. `V` is [`Rows`](crate::Rows) or an `Arc` of the user's
/// type.
///
/// # Cancellation
///
/// It may be dropped at any time. A load that it started continues as a task of its own, for other
/// reads that wait for it and for the cache.
#[must_use = "a read does nothing unless it is awaited"]
pub struct Read<'q, V, L> {
    inner: &'q Arc<Inner>,
    state: State<'q, V, L>,
}

/// Makes the load of a read when the result is not in memory.
///
/// The load owns everything it uses, so that it can run as a task of its own. Only methods of this
/// crate return a `Loader`.
pub trait Loader<V: Value>: FnOnce() -> LoadFn<V::Stored> {}

impl<V: Value, L: FnOnce() -> LoadFn<V::Stored>> Loader<V> for L {}

enum State<'q, V, L> {
    /// Not polled yet.
    Fresh {
        call: Result<(CacheKey, &'q Arc<QueryConfig>), Error>,
        /// Those of this call. They are needed after a miss only: an entry has its own.
        tags: Vec<Tag>,
        detach: L,
    },
    /// Not in memory: waits for Redis or the query. Only this state allocates.
    Slow(BoxFuture<'static, Result<Answer<V>, Error>>),
    Done,
}

impl<'q, V: Value, L: Loader<V>> Read<'q, V, L> {
    /// `detach` makes a load that borrows nothing. It is called on a miss.
    pub(crate) fn new(
        inner: &'q Arc<Inner>,
        call: Result<(CacheKey, &'q Arc<QueryConfig>), Error>,
        tags: Vec<Tag>,
        detach: L,
    ) -> Read<'q, V, L> {
        Read { inner, state: State::Fresh { call, tags, detach } }
    }

    /// A read whose key is not known yet.
    pub(crate) fn of_unknown_key(
        inner: &'q Arc<Inner>,
        answer: BoxFuture<'static, Result<Answer<V>, Error>>,
    ) -> Read<'q, V, L> {
        Read { inner, state: State::Slow(answer) }
    }

    /// The key of its result, before it has been polled.
    pub(crate) fn key(&self) -> Option<CacheKey> {
        match &self.state {
            State::Fresh { call: Ok((key, _)), .. } => Some(*key),
            _ => None,
        }
    }

    /// Returns the result with its origin and age, instead of the result alone.
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
                // A caller outside of any runtime needs the timers of ours. A caller inside a
                // runtime uses its own, which run even if ours has stopped.
                let alone = Handle::try_current().is_err();
                let ours = alone.then(|| self.inner.background.runtime());
                let _ours = ours.as_ref().map(Handle::enter);
                let answer = ready!(running.as_mut().poll(cx));
                self.state = State::Done;
                Poll::Ready(answer)
            }
            _ => panic!("a read was polled after it had ended"),
        }
    }

    /// Starts an early refresh: a background load of a result that was served from memory.
    #[cold]
    fn reload(&mut self, seen: Token) {
        if let State::Fresh { call: Ok((key, config)), tags, detach } =
            std::mem::replace(&mut self.state, State::Done)
        {
            let load = Arc::new(Mutex::new(Some(detach())));
            self.inner.reload::<V>(key, &config.tagged(&tags), load, seen);
        }
    }

    #[cold]
    fn go_slow(&mut self) -> Result<(), Error> {
        if let State::Fresh { call, tags, detach } = std::mem::replace(&mut self.state, State::Done)
        {
            let (key, config) = call?;
            let answer = self.inner.clone().miss(key, config.tagged(&tags), detach());
            self.state = State::Slow(Box::pin(answer));
        }
        Ok(())
    }
}

/// No field is pinned in place: the one future is boxed.
impl<V, L> Unpin for Read<'_, V, L> {}

impl<V: Value, L: Loader<V>> Future for Read<'_, V, L> {
    type Output = Result<V, Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_answer(cx).map_ok(Answer::into_value)
    }
}

/// A [`Read`] that returns its result with origin and age, as an [`Answer`].
#[must_use = "a read does nothing unless it is awaited"]
pub struct ReadAnswer<'q, V, L>(Read<'q, V, L>);

impl<V: Value, L: Loader<V>> Future for ReadAnswer<'_, V, L> {
    type Output = Result<Answer<V>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_answer(cx)
    }
}
