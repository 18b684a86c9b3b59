//! Telling PostgreSQL that nobody waits for a query any more.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::future::{BoxFuture, Either, select};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{CancelToken, NoTls, Socket};

use crate::error::Error;

/// Sends a cancel request: over a connection of its own, as PostgreSQL's protocol has it
/// (<https://www.postgresql.org/docs/current/protocol-flow.html>, "Canceling Requests in Progress").
pub(crate) type Canceller =
    Arc<dyn Fn(CancelToken) -> BoxFuture<'static, Result<(), tokio_postgres::Error>> + Send + Sync>;

/// How long a cancel request may take, and how long the query may take to heed it.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn plain() -> Canceller {
    over(NoTls)
}

/// Sends nothing. PgBouncer 1.18 and 1.19.0 crash, with all their clients' connections, when the
/// connection of a cancel request is closed before they have passed it on, as tokio-postgres closes it
/// (<https://github.com/pgbouncer/pgbouncer/pull/846>).
pub(crate) fn none() -> Canceller {
    Arc::new(|_| Box::pin(async { Ok(()) }))
}

fn over<C>(tls: C) -> Canceller
where
    C: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    C::Stream: Send,
    C::TlsConnect: Send,
    <C::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Arc::new(move |token: CancelToken| {
        let tls = tls.clone();
        Box::pin(async move { token.cancel_query(tls).await })
    })
}

/// A pool whose queries are cancelled over TLS.
///
/// A load that runs into its deadline is cancelled in PostgreSQL through a new connection. A pool
/// does not tell how it encrypts its own, so by default that one is made without TLS, which a client
/// configured with `sslmode=require` refuses. Hand the connector over once more and the request
/// travels like everything else:
///
/// ```no_run
/// # use tokio_postgres::NoTls as MakeRustlsConnect;
/// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
/// # let connector = MakeRustlsConnect;
/// let source = larder::TlsPool::new(pool, connector);
/// let rows = cache.query("SELECT count(*) FROM orders").fetch(&source).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TlsPool {
    pub(crate) pool: Pool,
    pub(crate) canceller: Canceller,
}

impl TlsPool {
    /// `pool`, with `tls` for cancel requests.
    pub fn new<C>(pool: Pool, tls: C) -> TlsPool
    where
        C: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        C::Stream: Send,
        C::TlsConnect: Send,
        <C::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        TlsPool { pool, canceller: over(tls) }
    }
}

/// Cancel requests travel without TLS.
impl From<Pool> for TlsPool {
    fn from(pool: Pool) -> TlsPool {
        TlsPool { pool, canceller: plain() }
    }
}

impl fmt::Debug for TlsPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsPool").finish_non_exhaustive()
    }
}

/// Whether a connection has had a cancel request sent to it.
#[derive(Clone, Default)]
pub(super) struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Runs a query as a task of its own, which PostgreSQL is told to cancel if the returned future is
/// dropped before it has ended.
///
/// A cancel request names a connection, not a query, and takes effect at some time after it was
/// sent: the query may end by itself meanwhile. So the task keeps the connection until PostgreSQL
/// has answered, and `cancelled` tells it that the connection must be closed then. Handed on, it
/// would have its next user's query cancelled.
pub(super) async fn cancelled_on_drop<T: Send + 'static>(
    token: CancelToken,
    canceller: Canceller,
    cancelled: Cancelled,
    query: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    // Dropped together with this future; the task notices.
    let (_awaited, given_up) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let query = match select(Box::pin(query), given_up).await {
            Either::Left((result, _)) => return result,
            Either::Right((_, query)) => query,
        };
        cancelled.0.store(true, Ordering::SeqCst);
        // If the request cannot be delivered, the query runs to its end and keeps its connection
        // for as long, at most for the limit.
        let _ = timeout(LIMIT, canceller(token)).await;
        let _ = timeout(LIMIT, query).await;
        Err(Error::closed())
    });
    task.await.unwrap_or_else(|ended| match ended.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(Error::closed()),
    })
}
