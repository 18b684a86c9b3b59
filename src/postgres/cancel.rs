//! Cancels a query in PostgreSQL when nobody waits for its result any more.

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

/// Sends a cancel request over a separate connection, as PostgreSQL's protocol requires
/// (<https://www.postgresql.org/docs/current/protocol-flow.html>, "Canceling Requests in
/// Progress").
pub(crate) type Canceller =
    Arc<dyn Fn(CancelToken) -> BoxFuture<'static, Result<(), tokio_postgres::Error>> + Send + Sync>;

/// The time limit of a cancel request, and then of the end of the cancelled query.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn plain() -> Canceller {
    over(NoTls)
}

/// Sends no request. PgBouncer 1.18 and 1.19.0 crash, and all their clients lose their connections,
/// if the connection of a cancel request is closed before PgBouncer has forwarded the request.
/// tokio-postgres closes it that early (<https://github.com/pgbouncer/pgbouncer/pull/846>).
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
/// A load that exceeds its deadline is cancelled in PostgreSQL over a new connection. A pool does
/// not expose how it encrypts its own connections, so by default the new one has no TLS, and a
/// client configured with `sslmode=require` refuses that. Pass the connector here once more, and
/// cancel requests are encrypted like all other traffic:
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
    /// Wraps `pool`; cancel requests use `tls`.
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

/// Cancel requests are sent without TLS.
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

/// Whether a cancel request was sent for a connection.
#[derive(Clone, Default)]
pub(super) struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Runs a query in its own task. If the returned future is dropped before the query has ended, the
/// task cancels the query in PostgreSQL.
///
/// A cancel request names a connection, not a query, and takes effect some time after it was sent;
/// the query may have ended by itself meanwhile. So the task keeps the connection until PostgreSQL
/// has answered, and then closes it because `cancelled` is set. If the connection went back to the
/// pool, the request could cancel its next user's query.
pub(super) async fn cancelled_on_drop<T: Send + 'static>(
    token: CancelToken,
    canceller: Canceller,
    cancelled: Cancelled,
    query: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    // Dropped together with this future, which completes `given_up` in the task.
    let (_awaited, given_up) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let query = match select(Box::pin(query), given_up).await {
            Either::Left((result, _)) => return result,
            Either::Right((_, query)) => query,
        };
        cancelled.0.store(true, Ordering::SeqCst);
        // If the request cannot be delivered, the query runs on and keeps its connection until it
        // ends, at most for the limit.
        let _ = timeout(LIMIT, canceller(token)).await;
        let _ = timeout(LIMIT, query).await;
        Err(Error::closed())
    });
    task.await.unwrap_or_else(|ended| match ended.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(Error::closed()),
    })
}
