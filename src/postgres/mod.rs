//! The sources of [`Rows`](crate::Rows): PostgreSQL, through `tokio_postgres`.

pub(crate) mod cancel;
pub(crate) mod learn;
mod open;
mod outdated;
mod query;
mod replica;
pub(crate) mod replication;
mod run;
#[cfg(feature = "sqlx")]
mod sqlx;
mod statements;
mod transaction;
mod types;
pub(crate) mod write;

use std::any::Any;
use std::sync::Arc;

use deadpool_postgres::Pool;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio_postgres::Client;

pub use self::cancel::TlsPool;
use self::learn::{Lesson, Taught};
pub(crate) use self::run::Call;
use self::run::Pooling;
pub(crate) use self::statements::Statements;
use crate::error::Error;
use crate::learn::known::SourceId;
use crate::rows::Image;

/// A source that a query can be [fetched](crate::Bound::fetch) from:
///
/// - a [`deadpool_postgres::Pool`], or a [`TlsPool`] where connections must be encrypted;
/// - with the feature `sqlx`, a `sqlx::PgPool`;
/// - an `Arc` of a [`tokio_postgres::Client`], or of a [`tokio::sync::Mutex`] around one;
/// - behind PgBouncer, a [`TransactionPooling`].
///
/// Prefer the pool. A load past its deadline is cancelled in PostgreSQL only if it has a connection
/// of its own. On a shared client, a cancel request cannot name one of several queries: the load
/// ends for its callers, and the query continues. The same holds for a client behind a mutex. Do not
/// hold its lock while a fetch waits.
///
/// A [role](crate::Query::as_role) and [settings](crate::Query::with_setting) are set within a
/// transaction. They work with every source but the `Arc` of a client: statements that others send on
/// it would run inside that transaction, under the wrong role, and be undone if the query fails. It is
/// an error there.
///
/// A transaction is not a source, so it can neither read nor fill the cache:
///
/// ```compile_fail
/// # async fn run(cache: larder::QueryCache, client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let transaction = client.transaction().await?;
/// cache.query("SELECT 1").fetch(&transaction).await?;
/// # Ok(())
/// # }
/// ```
///
/// The cache cannot recognize a client on which someone ran `BEGIN` by hand. Do not share such a
/// client with the cache.
///
/// # Consistency
///
/// Read from the primary. A replica lags behind, so it can give, after an invalidation, a result from
/// before it. Results of a server that is in recovery (`pg_is_in_recovery()`) are answered and not
/// stored, and are counted in [`CacheStats::unstorable`](crate::stats::CacheStats::unstorable). Each
/// connection is asked together with its queries, without a round trip, until it leads to a server
/// that is not in recovery. A logical replica is not in recovery and cannot be recognized. Neither
/// can the source of a query function ([`wrap`](crate::Query::wrap), [`load`](crate::Query::load),
/// [`Rows::query`](crate::Rows::query)): it must read from the primary, or its results may stay
/// outdated for their whole `ttl`.
///
/// Behind a pooler that gives each transaction a different session, such as PgBouncer in
/// transaction mode, a plain pool is **wrong**. Statements are prepared under names, and a session
/// may have another process's statement under the same name; a query then returns the rows of that
/// statement. Use [`TransactionPooling`] there.
///
/// # Changes of the schema
///
/// A pool's connections keep prepared statements (see
/// [`prepared_statements`](crate::QueryCacheBuilder::prepared_statements)) and descriptions of
/// types. Tables, types, functions, operators and schemas may change while they do:
///
/// - If a statement fails because of such a change, it is prepared again and run once more.
/// - A result with an enum, a composite, a domain, a range or an array of them is compared with the
///   catalogs, so that its values have the names that PostgreSQL gives them. This takes one round
///   trip when a connection meets the type. After that, each load asks for the type's version
///   together with its query. If the type was altered meanwhile, the rows are rejected and the
///   query is run once more. Results of PostgreSQL's own types need none of this.
/// - A statement that still works keeps what it was prepared with. It does not see a function that
///   would match better than the one it calls, or a column that was added to a function's result.
///   A literal in its text keeps the meaning that `DateStyle`, `IntervalStyle` or
///   `standard_conforming_strings` gave it. A column's `table_oid` and `column_id` may be those of a
///   table that was dropped and made anew under its name. Where that matters, fetch from an `Arc` of
///   a client or from a [`TransactionPooling`], which prepare each query for each load, or set
///   `prepared_statements(0)`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not what a cached query can be fetched from",
    label = "expected `&deadpool_postgres::Pool` or `&Arc<tokio_postgres::Client>`",
    note = "give the pool itself, `&pool`, and not a connection of it, nor an `Arc` of it: its clones are \
            of one pool",
    note = "put a client into an `Arc`: `Arc::new(client)`, which its users share",
    note = "a `sqlx::PgPool` needs the feature `sqlx`, of sqlx 0.9; for other clients, see `load_rows`",
    note = "a transaction sees what others do not, and neither reads nor fills the cache: run its \
            queries on itself"
)]
pub trait Source: sealed::Source {}

pub(crate) mod sealed {
    use super::{Any, Arc, BoxFuture, Call, Error, Image, Lesson, Taught};

    pub trait Source: Clone + Send + Sync + 'static {
        #[doc(hidden)]
        fn rows(self, call: Call) -> BoxFuture<'static, Result<Image, Error>>;

        /// The address of what all handles of the source share. `None` if nothing can be learned over
        /// it, as it has no connection that the cache has to itself for a transaction.
        #[doc(hidden)]
        fn address(&self) -> Option<usize> {
            None
        }

        /// A weak reference to what is at the address, which keeps it from being used again.
        #[doc(hidden)]
        fn guard(&self) -> Arc<dyn Any + Send + Sync> {
            Arc::new(())
        }

        /// Learns what a query reads.
        #[doc(hidden)]
        fn learn(self, _: Lesson) -> BoxFuture<'static, Result<Taught, Error>> {
            Box::pin(async { Err(Error::auto_of_shared_client()) })
        }
    }
}

/// Runs a query for the cache.
pub(crate) fn rows<S: Source>(source: S, call: Call) -> BoxFuture<'static, Result<Image, Error>> {
    source.rows(call)
}

/// Learns what a query reads.
pub(crate) fn learn<S: Source>(
    source: S,
    lesson: Lesson,
) -> BoxFuture<'static, Result<Taught, Error>> {
    source.learn(lesson)
}

/// The address of a source; see [`SourceId`]. `None` if nothing can be learned over it.
#[inline]
pub(crate) fn address<S: Source>(source: &S) -> Option<usize> {
    source.address()
}

/// What a source is recognized by; `None` if nothing can be learned over it.
pub(crate) fn id<S: Source>(source: &S) -> Option<SourceId> {
    Some(SourceId { address: source.address()?, guard: source.guard() })
}

/// The manager lies in what a pool's handles share.
fn address_of(pool: &Pool) -> usize {
    std::ptr::from_ref(pool.manager()).addr()
}

impl Source for Pool {}

impl sealed::Source for Pool {
    fn rows(self, call: Call) -> BoxFuture<'static, Result<Image, Error>> {
        Box::pin(run::on_pool(self, call, Pooling::Sessions, cancel::plain()))
    }

    fn address(&self) -> Option<usize> {
        Some(address_of(self))
    }

    fn guard(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::new(self.weak())
    }

    fn learn(self, lesson: Lesson) -> BoxFuture<'static, Result<Taught, Error>> {
        Box::pin(learn::on_pool(self, lesson, Pooling::Sessions))
    }
}

impl Source for Arc<Mutex<Client>> {}

impl sealed::Source for Arc<Mutex<Client>> {
    fn rows(self, call: Call) -> BoxFuture<'static, Result<Image, Error>> {
        Box::pin(run::on_locked_client(self, call))
    }

    fn address(&self) -> Option<usize> {
        Some(Arc::as_ptr(self).addr())
    }

    fn guard(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::new(Arc::downgrade(self))
    }

    fn learn(self, lesson: Lesson) -> BoxFuture<'static, Result<Taught, Error>> {
        Box::pin(learn::on_locked_client(self, lesson))
    }
}

impl Source for Arc<Client> {}

impl sealed::Source for Arc<Client> {
    fn rows(self, call: Call) -> BoxFuture<'static, Result<Image, Error>> {
        Box::pin(run::on_client(self, call))
    }
}

/// A pool behind PgBouncer in transaction mode, or behind another pooler that gives each
/// transaction a different session.
///
/// A query is prepared and run within one transaction, and its statement is dropped at the end.
/// This takes four round trips (six with sqlx), where a plain pool takes one, or two for a query that is
/// new to its connection. But a plain pool must not be used there; see [`Source`]. With PgBouncer 1.21 or later and its `max_prepared_statements` above zero, a plain
/// pool is correct as well. PgBouncer then keeps the statements; if one of them is outdated, the
/// query is prepared again with a comment at its end, by which PgBouncer takes it for another one.
///
/// A connection that cannot look up an altered or new type any more is closed, and another one is
/// used. PgBouncer keeps its sessions when that happens.
///
/// For a pool of deadpool, no cancel request is sent for a load past its deadline, because older
/// poolers crash on it. Instead, its connection is closed after 5 seconds. PostgreSQL on Linux ends the query one second
/// later; on other systems the query runs to its end.
///
/// ```no_run
/// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
/// let source = larder::TransactionPooling::new(pool);
/// let rows = cache.query("SELECT count(*) FROM orders").fetch(&source).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TransactionPooling(Pooled);

/// The pools that can be behind a pooler.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub enum Pooled {
    #[doc(hidden)]
    Deadpool(TlsPool),
    #[cfg(feature = "sqlx")]
    #[doc(hidden)]
    Sqlx(::sqlx::postgres::PgPool),
}

impl<P: Into<TlsPool>> From<P> for Pooled {
    fn from(pool: P) -> Pooled {
        Pooled::Deadpool(pool.into())
    }
}

#[cfg(feature = "sqlx")]
impl From<::sqlx::postgres::PgPool> for Pooled {
    fn from(pool: ::sqlx::postgres::PgPool) -> Pooled {
        Pooled::Sqlx(pool)
    }
}

impl TransactionPooling {
    /// Wraps a pool: of deadpool, a [`TlsPool`] where its connections must be encrypted, or, with the
    /// feature `sqlx`, a `sqlx::PgPool`.
    pub fn new(pool: impl Into<Pooled>) -> TransactionPooling {
        TransactionPooling(pool.into())
    }
}

impl Source for TransactionPooling {}

impl sealed::Source for TransactionPooling {
    fn rows(self, call: Call) -> BoxFuture<'static, Result<Image, Error>> {
        match self.0 {
            Pooled::Deadpool(TlsPool { pool, .. }) => {
                Box::pin(run::on_pool(pool, call, Pooling::Transactions, cancel::none()))
            }
            #[cfg(feature = "sqlx")]
            Pooled::Sqlx(pool) => sqlx::pooled(pool, call),
        }
    }

    fn address(&self) -> Option<usize> {
        match &self.0 {
            Pooled::Deadpool(pool) => pool.address(),
            #[cfg(feature = "sqlx")]
            Pooled::Sqlx(pool) => pool.address(),
        }
    }

    fn guard(&self) -> Arc<dyn Any + Send + Sync> {
        match &self.0 {
            Pooled::Deadpool(pool) => pool.guard(),
            #[cfg(feature = "sqlx")]
            Pooled::Sqlx(pool) => pool.guard(),
        }
    }

    fn learn(self, lesson: Lesson) -> BoxFuture<'static, Result<Taught, Error>> {
        match self.0 {
            Pooled::Deadpool(TlsPool { pool, .. }) => {
                Box::pin(learn::on_pool(pool, lesson, Pooling::Transactions))
            }
            #[cfg(feature = "sqlx")]
            Pooled::Sqlx(pool) => sqlx::learn(pool, lesson, Pooling::Transactions),
        }
    }
}

impl Source for TlsPool {}

impl sealed::Source for TlsPool {
    fn rows(self, call: Call) -> BoxFuture<'static, Result<Image, Error>> {
        Box::pin(run::on_pool(self.pool, call, Pooling::Sessions, self.canceller))
    }

    fn address(&self) -> Option<usize> {
        self.pool.address()
    }

    fn guard(&self) -> Arc<dyn Any + Send + Sync> {
        self.pool.guard()
    }

    fn learn(self, lesson: Lesson) -> BoxFuture<'static, Result<Taught, Error>> {
        self.pool.learn(lesson)
    }
}
