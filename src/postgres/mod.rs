//! Where [`Rows`](crate::Rows) come from: PostgreSQL, through `tokio_postgres`.

pub(crate) mod cancel;
mod run;

use std::sync::Arc;

use deadpool_postgres::Pool;
use futures_util::future::BoxFuture;
use tokio_postgres::Client;

pub use self::cancel::TlsPool;
use crate::error::Error;
use crate::rows::{ColumnSets, Image};
use crate::value::param::OwnedParams;

/// What a query can be [fetched](crate::Bound::fetch) from: a [`deadpool_postgres::Pool`], which is
/// a [`TlsPool`] where connections must be encrypted, or an `Arc` of a [`tokio_postgres::Client`];
/// behind PgBouncer, [`TransactionPooling`].
///
/// Prefer the pool. A load past its deadline is cancelled in PostgreSQL if it has its connection for
/// itself. On a shared client, PostgreSQL could not be told which of the queries on it is meant, so
/// there the load ends for its callers and the query goes on.
///
/// A transaction is no source, so none can read or fill the cache:
///
/// ```compile_fail
/// # async fn run(cache: larder::QueryCache, client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let transaction = client.transaction().await?;
/// cache.query("SELECT 1").fetch(&transaction).await?;
/// # Ok(())
/// # }
/// ```
///
/// A client on which somebody issued a `BEGIN` by hand looks like any other. Do not share one with
/// the cache that does so.
///
/// Behind a pooler that gives each transaction another session, such as PgBouncer in transaction
/// mode, a plain pool is **wrong**: statements are prepared under names, and a session may have
/// another process's statement under the same name, whose rows come back then. Use
/// [`TransactionPooling`] there.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not what a cached query can be fetched from",
    label = "expected `&deadpool_postgres::Pool` or `&Arc<tokio_postgres::Client>`",
    note = "a transaction sees what others do not, and neither reads nor fills the cache: run its \
            queries on itself"
)]
pub trait Source: sealed::Source {}

pub(crate) mod sealed {
    use super::{Arc, BoxFuture, ColumnSets, Error, Image, OwnedParams};

    pub trait Source: Clone + Send + Sync + 'static {
        #[doc(hidden)]
        fn rows(
            self,
            sql: Arc<str>,
            params: OwnedParams,
            sets: Arc<ColumnSets>,
        ) -> BoxFuture<'static, Result<Image, Error>>;
    }
}

/// Runs a query for the cache.
pub(crate) fn rows<S: Source>(
    source: S,
    sql: Arc<str>,
    params: OwnedParams,
    sets: Arc<ColumnSets>,
) -> BoxFuture<'static, Result<Image, Error>> {
    source.rows(sql, params, sets)
}

impl Source for Pool {}

impl sealed::Source for Pool {
    fn rows(
        self,
        sql: Arc<str>,
        params: OwnedParams,
        sets: Arc<ColumnSets>,
    ) -> BoxFuture<'static, Result<Image, Error>> {
        Box::pin(run::on_pool(self, sql, params, sets, cancel::plain()))
    }
}

impl Source for Arc<Client> {}

impl sealed::Source for Arc<Client> {
    fn rows(
        self,
        sql: Arc<str>,
        params: OwnedParams,
        sets: Arc<ColumnSets>,
    ) -> BoxFuture<'static, Result<Image, Error>> {
        Box::pin(run::on_client(self, sql, params, sets))
    }
}

/// A pool behind PgBouncer in transaction mode, or another pooler that gives each transaction another
/// session.
///
/// A query is prepared and run within one transaction, and forgotten at its end. That takes two more
/// round trips than on a plain pool, which must not be used there; see [`Source`]. With PgBouncer
/// 1.21 or later and its `max_prepared_statements` above zero, a plain pool is right as well.
///
/// No cancel request is sent for a load past its deadline: older poolers crash of it. Its connection is
/// closed after 5 seconds, and PostgreSQL on Linux ends the query a second later; elsewhere it runs to
/// its end.
///
/// ```no_run
/// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
/// let source = larder::TransactionPooling::new(pool);
/// let rows = cache.query("SELECT count(*) FROM orders").fetch(&source).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TransactionPooling(TlsPool);

impl TransactionPooling {
    /// `pool`, which is a [`TlsPool`] where connections must be encrypted.
    pub fn new(pool: impl Into<TlsPool>) -> TransactionPooling {
        TransactionPooling(pool.into())
    }
}

impl Source for TransactionPooling {}

impl sealed::Source for TransactionPooling {
    fn rows(
        self,
        sql: Arc<str>,
        params: OwnedParams,
        sets: Arc<ColumnSets>,
    ) -> BoxFuture<'static, Result<Image, Error>> {
        Box::pin(run::in_transaction(self.0.pool, sql, params, sets, cancel::none()))
    }
}

impl Source for TlsPool {}

impl sealed::Source for TlsPool {
    fn rows(
        self,
        sql: Arc<str>,
        params: OwnedParams,
        sets: Arc<ColumnSets>,
    ) -> BoxFuture<'static, Result<Image, Error>> {
        Box::pin(run::on_pool(self.pool, sql, params, sets, self.canceller))
    }
}
