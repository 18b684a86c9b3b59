//! [`QueryCache::write`]: a transaction of the application, and the invalidation of what it wrote.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_postgres::Transaction;

use crate::backoff;
use crate::cache::QueryCache;
use crate::cache::inner::{Inner, Phase};
use crate::cache::invalidation::Invalidated;
use crate::error::Error;
use crate::postgres::write::{Connection, InDoubt, Outcome, WriteSet, WriteSource};
use crate::telemetry::counters::count;
use crate::telemetry::trace;
use crate::value::relation::RelationName;
use crate::value::tag::TagSlot;

/// A committed transaction: the value that its function returned, what it has written to, and what
/// became of the invalidation.
#[derive(Debug, Clone)]
pub struct Written<T> {
    value: T,
    relations: Option<Vec<String>>,
    invalidated: Invalidated,
}

impl<T> Written<T> {
    /// What the function returned.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// What the function returned.
    pub fn into_value(self) -> T {
        self.value
    }

    /// The relations that were invalidated, such as `public.orders` or `"Sales"."Orders"`, in order.
    ///
    /// `None` if it is not known what the transaction has changed. Then all results of the namespace
    /// were invalidated; [`QueryCache::write`] says when.
    pub fn relations(&self) -> Option<&[String]> {
        self.relations.as_deref()
    }

    /// Whether Redis has acknowledged the invalidation. If not, the cache keeps it and sends it
    /// again.
    pub fn invalidated(&self) -> &Invalidated {
        &self.invalidated
    }
}

impl QueryCache {
    /// Runs a transaction, commits it, and makes all results stale that read what it has written.
    ///
    /// Nobody has to say what was written: PostgreSQL is asked for it, in the round trip of the
    /// commit. It includes what triggers, cascades and functions wrote, partitions and their parents,
    /// `TRUNCATE` and deferred constraints. It does not include what was undone by a rollback to a
    /// savepoint. Results are stale that were declared to read one of the relations, by
    /// [`Query::table`](crate::Query::table), or by its name as a [tag](crate::Query::tag) in any
    /// spelling: `orders`, `public.orders`, `"orders"`.
    ///
    /// If the function returns `Ok`, the transaction is committed. If it returns an error, panics or
    /// is dropped, it is rolled back.
    ///
    /// ```no_run
    /// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
    /// let revenue = cache.query("SELECT sum(amount)::float8 FROM orders").table("orders");
    ///
    /// let written = cache
    ///     .write(&pool, async |tx| {
    ///         let row = tx.query_one("INSERT INTO orders (amount) VALUES (7) RETURNING id", &[]).await?;
    ///         tx.execute("UPDATE customers SET orders = orders + 1 WHERE id = 42", &[]).await?;
    ///         Ok::<i64, larder::Error>(row.get(0))
    ///     })
    ///     .await?;
    /// println!("order {}", written.value());
    /// // Loaded anew, with the order.
    /// revenue.fetch(&pool).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The function is an `async` closure: write `async |tx| { … }`, since `|tx| async move { … }` cannot
    /// lend it the transaction. It gets a [`tokio_postgres::Transaction`]. It may set its isolation level with
    /// `SET TRANSACTION` as the first statement, and use savepoints by `tx.transaction()`. It must not
    /// end the transaction by a statement (`COMMIT`, `ROLLBACK`, `PREPARE TRANSACTION`): what is
    /// committed in that way is not known, so everything is invalidated, when the function returns.
    /// After `COMMIT PREPARED`, call [`invalidate_table`](QueryCache::invalidate_table).
    ///
    /// # Consistency
    ///
    /// After this has returned `Ok`, the guarantee is that of
    /// [`invalidate`](QueryCache::invalidate) for the relations written, called after the commit:
    /// no read in this process that begins later is answered with a result whose load began before.
    /// [`Written::invalidated`] says whether Redis has acknowledged it for the others. Between
    /// PostgreSQL's commit and the return, others may see either state.
    ///
    /// All results are invalidated, and [`Written::relations`] is `None`, if the relations are not
    /// known by name:
    ///
    /// - the transaction dropped, renamed or moved a relation, or built one anew (`DROP`, also of a
    ///   temporary table, `REFRESH MATERIALIZED VIEW`, `CLUSTER`, most of `ALTER TABLE … TYPE`);
    /// - PostgreSQL did not report the locks;
    /// - the function ended the transaction by a statement.
    ///
    /// Not covered: a change without a lock on the relation that was read, such as another definition
    /// of a function or a type, a sequence that advanced in a transaction that was rolled back, and
    /// what a foreign server changes by itself. A result that reads a view must name the tables
    /// below it.
    ///
    /// # Errors
    ///
    /// The function's error, as it is; the transaction was rolled back. An [`Error`], converted by
    /// `From`, of one of these kinds:
    ///
    /// - [`ErrorKind::Connect`](crate::ErrorKind::Connect): the pool gave no connection; the function
    ///   was not called;
    /// - [`Query`](crate::ErrorKind::Query): PostgreSQL did not begin the transaction, or refused to
    ///   commit it. It was rolled back, and nothing was written. [`Error::sqlstate`] says why, such as
    ///   a deferred constraint. A serialization failure (`40001`) is not retried: whether the
    ///   function may run again is for the caller to say, in a loop around this;
    /// - [`InDoubt`](crate::ErrorKind::InDoubt): the connection was lost during the commit, which may
    ///   have taken place or not. What it may have changed is invalidated at once, and again when
    ///   PostgreSQL has ended the transaction; that is found out over another connection of the pool.
    ///   A source without a pool cannot ask: it invalidates several times within a minute.
    ///
    /// Nothing of the cache is an error. Without Redis the invalidation is kept, as by
    /// [`invalidate`](QueryCache::invalidate).
    ///
    /// # Cancellation
    ///
    /// If the future is dropped while the function runs, the transaction is rolled back. From the
    /// moment when the function has returned `Ok`, the transaction is committed and its invalidation
    /// carried out, also if the future is dropped: in a task then. If the runtime shuts down
    /// during the commit, or the process is killed between the commit and the invalidation, results
    /// from before may be served until their `ttl` ends.
    ///
    /// # Cost
    ///
    /// The round trips of a transaction (behind a pooler one more), one to Redis, and about 0.1 ms of
    /// PostgreSQL's time. PostgreSQL lists all locks of the server for this: with thousands of locks
    /// held elsewhere it takes milliseconds. A transaction that wrote nothing invalidates nothing.
    pub async fn write<S, T, E, F>(&self, source: &S, function: F) -> Result<Written<T>, E>
    where
        S: WriteSource,
        E: From<Error>,
        F: AsyncFnOnce(&mut Transaction<'_>) -> Result<T, E>,
    {
        let connection = source.clone().connection(self.inner.statements.clone());
        let mut connection = connection.await?;
        let mut transaction = connection.begin().await?;
        let value = match function(&mut transaction).await {
            Ok(value) => value,
            Err(error) => {
                // If this fails, the connection is lost, and the transaction with it.
                let _ = transaction.rollback().await;
                return Err(error);
            }
        };
        Connection::keep_open(transaction);
        let (relations, invalidated) = self.commit(connection, source.pool()).await?;
        Ok(Written { value, relations, invalidated })
    }

    /// Makes all results stale that read this table or view, in whatever spelling they name it. It
    /// cannot fail.
    ///
    /// For what is written without [`write`](QueryCache::write): by another program, or by
    /// `COMMIT PREPARED`. Write the name as in SQL: `orders`, `public.orders`, `"Sales"."Orders"`. For
    /// a partition, name its parents as well.
    ///
    /// Consistency, cancellation and cost are those of [`invalidate`](QueryCache::invalidate).
    pub async fn invalidate_table(&self, name: &str) -> Invalidated {
        let parsed = RelationName::parse(name);
        let tags = parsed.iter().flat_map(RelationName::tags).chain([name.into()]);
        self.invalidate(tags).await
    }

    async fn commit(
        &self,
        connection: Connection,
        pool: Option<Pool>,
    ) -> Result<(Option<Vec<String>>, Invalidated), Error> {
        let runtime = Handle::try_current().unwrap_or_else(|_| self.inner.background.runtime());
        let commit = self.inner.clone().commit(connection, pool).boxed();
        Continued { future: Some(commit), runtime }.await
    }
}

/// A future that is continued in a task if its caller leaves.
struct Continued<T: Send + 'static> {
    future: Option<BoxFuture<'static, T>>,
    runtime: Handle,
}

impl<T: Send + 'static> Future for Continued<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let future = self.future.as_mut().expect("it is not polled after its end");
        let output = ready!(future.as_mut().poll(cx));
        self.future = None;
        Poll::Ready(output)
    }
}

impl<T: Send + 'static> Drop for Continued<T> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            // A runtime that has ended drops it here.
            self.runtime.spawn(future);
        }
    }
}

impl Inner {
    async fn commit(
        self: Arc<Inner>,
        connection: Connection,
        pool: Option<Pool>,
    ) -> Result<(Option<Vec<String>>, Invalidated), Error> {
        let dropped = Dropped(&self);
        let outcome = connection.commit().await;
        std::mem::forget(dropped);
        // Others may use it while Redis is waited for.
        drop(connection);
        match outcome {
            Outcome::Committed(set) => {
                tell(&set);
                let invalidated = self.invalidate_set(&set).await;
                let relations = match set {
                    WriteSet::Relations(all) => {
                        Some(all.iter().map(RelationName::canonical).collect())
                    }
                    WriteSet::Unknown(_) => None,
                };
                Ok((relations, invalidated))
            }
            Outcome::RolledBack(error) => Err(error),
            Outcome::Unknown(error, in_doubt) => {
                tell(&in_doubt.set);
                self.invalidate_set(&in_doubt.set).await;
                let background = self.background.clone();
                background.spawn(self.clone().settle_doubt(in_doubt, pool));
                Err(error)
            }
        }
    }

    async fn invalidate_set(&self, set: &WriteSet) -> Invalidated {
        self.invalidate(&slots(set)).await
    }

    /// Invalidates once more when a transaction whose connection was lost has ended.
    async fn settle_doubt(self: Arc<Inner>, mut in_doubt: InDoubt, pool: Option<Pool>) {
        let mut closing = self.closing.subscribe();
        let settle = async {
            for asked in 0_u32.. {
                sleep(backoff::pause(asked, FIRST_PAUSE, LONGEST_PAUSE)).await;
                match &pool {
                    Some(pool) if in_doubt.has_ended(pool).await => break,
                    Some(_) => continue,
                    // Nobody can be asked.
                    None if asked == UNASKED => break,
                    None => drop(self.invalidate_set(&in_doubt.set).await),
                }
            }
        };
        let closed = closing.wait_for(|&phase| phase >= Phase::ShutDown);
        tokio::select! {
            () = settle => {}
            _ = closed => {}
        }
        self.invalidate_set(&in_doubt.set).await;
    }
}

/// The pauses between two questions whether a transaction has ended.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How many times it is invalidated if nobody can be asked.
const UNASKED: u32 = 60;

/// Tells of a transaction once, however often its invalidation is repeated.
fn tell(set: &WriteSet) {
    if let WriteSet::Unknown(unknown) = set {
        trace::wholesale(unknown.reason());
    }
}

fn slots(set: &WriteSet) -> Vec<TagSlot> {
    match set {
        WriteSet::Relations(relations) => {
            let tags = relations.iter().flat_map(RelationName::tags);
            let mut slots: Vec<TagSlot> = tags.map(|tag| tag.slot()).collect();
            slots.sort();
            slots.dedup();
            slots
        }
        WriteSet::Unknown(_) => vec![TagSlot::EVERYTHING],
    }
}

/// A commit that is under way. If this is dropped, its runtime has ended, and nobody waits for the
/// outcome any more.
struct Dropped<'i>(&'i Inner);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        count(&self.0.counters.invalidations);
        let everything = [TagSlot::EVERYTHING];
        match &self.0.fleet {
            Some(fleet) => {
                fleet.invalidate(&everything);
                count(&self.0.counters.unannounced);
                // Announced by the next beat, on whatever runtime there is then.
                fleet.notices.beat.notify_one();
            }
            None => self.0.currency.invalidate_alone(&everything),
        }
    }
}
