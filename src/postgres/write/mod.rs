//! [`WriteSource`]: the connections that a transaction of the application is run on, so that what it
//! has written is known when it is committed.

mod commit;
mod in_doubt;
mod locks;

#[cfg(feature = "sqlx")]
use std::future::ready;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use deadpool_postgres::{Object, Pool};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_postgres::{Client, Transaction};

pub(crate) use self::commit::Outcome;
pub(crate) use self::in_doubt::InDoubt;
pub(crate) use self::locks::WriteSet;
use super::run::Pooling;
use super::statements::{Session, Statements};
use super::{Pooled, Source, TlsPool, TransactionPooling};
use crate::error::Error;

/// A source that a transaction can be run on by [`QueryCache::write`](crate::QueryCache::write):
///
/// - a [`deadpool_postgres::Pool`], or a [`TlsPool`];
/// - behind PgBouncer, a [`TransactionPooling`] (of a pool of deadpool: with one of sqlx a write fails, and
///   has not begun);
/// - an `Arc` of a [`tokio::sync::Mutex`] around a [`tokio_postgres::Client`], which is locked until
///   the transaction has ended.
///
/// An `Arc` of a client is a [`Source`] for reading, and not for writing: what others send on it
/// would become part of the transaction.
///
/// ```compile_fail,E0277
/// # async fn run(cache: larder::QueryCache, client: std::sync::Arc<tokio_postgres::Client>) {
/// let _ = cache.write(&client, async |_| Ok::<_, larder::Error>(())).await;
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not what a transaction can be run on by the cache",
    label = "expected `&deadpool_postgres::Pool` or `&Arc<tokio::sync::Mutex<tokio_postgres::Client>>`",
    note = "statements that others send on a shared client would become part of the transaction"
)]
pub trait WriteSource: Source + sealed::WriteSource {}

pub(crate) mod sealed {
    use super::{Arc, BoxFuture, Connection, Error, Pool, Statements};

    pub trait WriteSource: Clone + Send + Sync + 'static {
        /// A connection that nobody else uses until it is dropped.
        #[doc(hidden)]
        fn connection(
            self,
            statements: Arc<Statements>,
        ) -> BoxFuture<'static, Result<Connection, Error>>;

        /// Where another connection can be had, to ask for the outcome of a transaction whose own
        /// connection was lost.
        #[doc(hidden)]
        fn pool(&self) -> Option<Pool>;
    }
}

/// A connection for one transaction.
pub struct Connection {
    client: Lent,
    pooling: Pooling,
    /// What is kept for the connection.
    session: Arc<Session>,
}

enum Lent {
    Pooled(Box<Object>),
    Locked(OwnedMutexGuard<Client>),
}

impl Deref for Lent {
    type Target = Client;

    fn deref(&self) -> &Client {
        match self {
            Lent::Pooled(object) => object,
            Lent::Locked(client) => client,
        }
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Client {
        match self {
            Lent::Pooled(object) => object,
            Lent::Locked(client) => client,
        }
    }
}

/// Is set within each transaction, and ends with it. So if it is there at the end, the transaction is
/// the one that was begun: nobody ended it by hand and began another one.
const MARK: &str = "SET LOCAL larder.write = 'begun'";

/// Other processes name their statements as this one does.
const FORGET_STATEMENTS: &str = "DEALLOCATE ALL; SET LOCAL larder.write = 'begun'";

impl Connection {
    async fn of_pool(
        pool: Pool,
        statements: Arc<Statements>,
        pooling: Pooling,
    ) -> Result<Connection, Error> {
        let object = pool.get().await.map_err(|error| Error::connect(error.into()))?;
        let session = statements.session(&object.statement_cache);
        if pooling == Pooling::Transactions {
            session.forget_statements();
            object.statement_cache.clear();
        }
        Ok(Connection { client: Lent::Pooled(Box::new(object)), pooling, session })
    }

    /// Begins the transaction. It is rolled back if it is dropped.
    pub(crate) async fn begin(&mut self) -> Result<Transaction<'_>, Error> {
        let transaction = self.client.transaction().await.map_err(Error::not_begun)?;
        match self.pooling {
            // The first poll sends it. It is carried out before the next statement, and its reply is
            // not needed: if it fails, that is seen at the end.
            Pooling::Sessions => {
                let _ = transaction.batch_execute(MARK).now_or_never();
            }
            // Poolers may take the reply to the first statement as that to a later one.
            Pooling::Transactions => {
                transaction.batch_execute(FORGET_STATEMENTS).await.map_err(Error::not_begun)?;
            }
        }
        Ok(transaction)
    }

    /// Lets the transaction stay open on its connection, which [`commit`](Connection::commit) ends.
    pub(crate) fn keep_open(transaction: Transaction<'_>) {
        // Without this it would be rolled back. It owns nothing: it has no savepoint.
        std::mem::forget(transaction);
    }
}

impl WriteSource for Pool {}

impl sealed::WriteSource for Pool {
    fn connection(
        self,
        statements: Arc<Statements>,
    ) -> BoxFuture<'static, Result<Connection, Error>> {
        Connection::of_pool(self, statements, Pooling::Sessions).boxed()
    }

    fn pool(&self) -> Option<Pool> {
        Some(self.clone())
    }
}

impl WriteSource for TlsPool {}

impl sealed::WriteSource for TlsPool {
    fn connection(
        self,
        statements: Arc<Statements>,
    ) -> BoxFuture<'static, Result<Connection, Error>> {
        self.pool.connection(statements)
    }

    fn pool(&self) -> Option<Pool> {
        Some(self.pool.clone())
    }
}

impl WriteSource for TransactionPooling {}

impl sealed::WriteSource for TransactionPooling {
    fn connection(
        self,
        statements: Arc<Statements>,
    ) -> BoxFuture<'static, Result<Connection, Error>> {
        match self.0 {
            Pooled::Deadpool(pool) => {
                Connection::of_pool(pool.pool, statements, Pooling::Transactions).boxed()
            }
            #[cfg(feature = "sqlx")]
            Pooled::Sqlx(_) => ready(Err(Error::no_write_of_sqlx())).boxed(),
        }
    }

    fn pool(&self) -> Option<Pool> {
        match &self.0 {
            Pooled::Deadpool(pool) => Some(pool.pool.clone()),
            #[cfg(feature = "sqlx")]
            Pooled::Sqlx(_) => None,
        }
    }
}

impl WriteSource for Arc<Mutex<Client>> {}

impl sealed::WriteSource for Arc<Mutex<Client>> {
    fn connection(
        self,
        statements: Arc<Statements>,
    ) -> BoxFuture<'static, Result<Connection, Error>> {
        let locked = async move {
            let session = statements.session(&self);
            let client = Lent::Locked(self.lock_owned().await);
            Ok(Connection { client, pooling: Pooling::Sessions, session })
        };
        locked.boxed()
    }

    fn pool(&self) -> Option<Pool> {
        None
    }
}
