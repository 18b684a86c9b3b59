//! [`Session`]: a pool's connection, used in a way that a pooler between can follow.

use std::time::Duration;

use deadpool_postgres::Object;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row};

use crate::error::BoxError;
use crate::postgres::TlsPool;
use crate::postgres::cancel::LIMIT;

/// A connection for statements one after the other.
///
/// PgBouncer in transaction mode gives each transaction another server connection, on which others
/// have left things behind. So nothing here outlives its transaction: no prepared statement has a
/// name, no setting is `SET` without `LOCAL`, no lock is the session's.
///
/// Dropped while a transaction runs a statement, it has PostgreSQL cancel it. It rolls back an open
/// transaction and closes its connection; one at rest goes back to the pool.
pub(crate) struct Session {
    client: Option<Object>,
    source: TlsPool,
    state: State,
    /// Where the open transaction runs, if what runs in it is worth being cancelled.
    backend: Option<Backend>,
    /// Dropped last of all; see [`Source::gone`].
    open: Option<watch::Receiver<()>>,
}

/// Where sessions come from.
pub(crate) struct Source {
    pool: TlsPool,
    /// Every session has a receiver, and keeps it until what it ran is over in PostgreSQL.
    open: watch::Sender<()>,
}

impl Source {
    pub(crate) fn new(pool: TlsPool) -> Source {
        Source { pool, open: watch::Sender::new(()) }
    }

    /// Waits until there is no session any more, and nothing is left in PostgreSQL of any.
    pub(crate) async fn gone(&self) {
        self.open.closed().await;
    }
}

/// The server's process that has a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) pid: i32,
    /// Whether it notices soon that its client has gone, and ends what it runs.
    pub(crate) notices_end: bool,
}

/// How long to wait for a connection by which another one's statement is cancelled.
const ELSEWHERE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    AtRest,
    InTransaction,
    /// A statement is under way.
    Busy,
}

/// A parameter with its type, which need not be asked for then.
pub(crate) type Typed<'a> = (&'a (dyn ToSql + Sync), Type);

impl Session {
    pub(crate) async fn open(source: &Source) -> Result<Session, BoxError> {
        let client = source.pool.pool.get().await?;
        let open = Some(source.open.subscribe());
        let source = source.pool.clone();
        Ok(Session { client: Some(client), source, state: State::AtRest, backend: None, open })
    }

    /// Begins a transaction, and sets what is to hold in it.
    pub(crate) async fn begin(&mut self, settings: &str) -> Result<(), Error> {
        // Each statement sees what was committed before it, above all what whoever held the lock
        // before us has done.
        let sql = format!("BEGIN ISOLATION LEVEL READ COMMITTED; {settings}");
        self.batch(&sql, State::InTransaction).await
    }

    /// The transaction runs there: should this be dropped while it does, it is cancelled.
    pub(crate) fn runs_in(&mut self, backend: Backend) {
        self.backend = Some(backend);
    }

    pub(crate) async fn commit(&mut self) -> Result<(), Error> {
        self.batch("COMMIT", State::AtRest).await
    }

    pub(crate) async fn roll_back(&mut self) -> Result<(), Error> {
        self.batch("ROLLBACK", State::AtRest).await
    }

    /// Runs statements without parameters.
    pub(crate) async fn run(&mut self, sql: &str) -> Result<(), Error> {
        let state = self.state;
        self.batch(sql, state).await
    }

    /// Runs a statement and takes its rows.
    pub(crate) async fn query(
        &mut self,
        sql: &str,
        params: &[Typed<'_>],
    ) -> Result<Vec<Row>, Error> {
        let state = std::mem::replace(&mut self.state, State::Busy);
        let rows = self.client().query_typed(sql, params).await;
        self.settle(state, rows)
    }

    async fn batch(&mut self, sql: &str, then: State) -> Result<(), Error> {
        self.state = State::Busy;
        if then == State::AtRest {
            self.backend = None;
        }
        let done = self.client().batch_execute(sql).await;
        self.settle(then, done)
    }

    /// After an answer. An error leaves an open transaction that takes nothing but its end; after
    /// the first word of a new one there may be one.
    fn settle<T>(&mut self, then: State, answer: Result<T, Error>) -> Result<T, Error> {
        self.state = match answer {
            Err(_) if then == State::AtRest && self.client().is_closed() => State::InTransaction,
            _ => then,
        };
        answer
    }

    fn client(&self) -> &Object {
        self.client.as_ref().expect("it is there until this is dropped")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        match self.state {
            State::AtRest => drop(client),
            state => {
                let Ok(runtime) = Handle::try_current() else {
                    return drop(Object::take(client));
                };
                let (source, backend) = (self.source.clone(), self.backend);
                let open = self.open.take();
                runtime.spawn(async move {
                    let is_at_rest = match (state, backend) {
                        (State::Busy, Some(backend)) => {
                            end_statement(&source, backend, &client).await
                        }
                        // A short statement ends by itself.
                        _ => true,
                    };
                    if is_at_rest {
                        // When this is answered nothing runs any more, and no lock is held.
                        let _ = timeout(LIMIT, client.batch_execute("ROLLBACK")).await;
                    }
                    drop(Object::take(client));
                    drop(open);
                });
            }
        }
    }
}

/// Ends what a connection runs in its transaction, and waits until it has ended.
///
/// By SQL, over another connection: a transaction keeps its backend even behind a pooler, so that
/// its number means nobody else. A cancel request is the second choice. tokio-postgres closes its
/// connection at once, and PgBouncer 1.18 and 1.19.0 crash if that is before they have passed it on
/// (<https://github.com/pgbouncer/pgbouncer/pull/846>).
///
/// Whether nothing of it is still on its way. Otherwise the transaction is left open: a pooler closes
/// the server's connection with ours then, rather than handing it to another client whom a late
/// request would hit.
async fn end_statement(source: &TlsPool, backend: Backend, client: &Object) -> bool {
    let by_sql = cancelled_by_sql(source, backend).await;
    if !by_sql {
        if backend.notices_end {
            return false;
        }
        let _ = timeout(LIMIT, (source.canceller)(client.cancel_token())).await;
    }
    // The answer to what comes after the statement says that it has ended.
    timeout(LIMIT, client.batch_execute("BEGIN")).await.is_ok() && by_sql
}

async fn cancelled_by_sql(source: &TlsPool, backend: Backend) -> bool {
    let Ok(Ok(other)) = timeout(ELSEWHERE, source.pool.get()).await else { return false };
    let sql = format!("SELECT pg_cancel_backend({})", backend.pid);
    let done = timeout(ELSEWHERE, other.batch_execute(&sql)).await;
    if done.is_err() {
        // Not to be run later, when the number may mean somebody else.
        drop(Object::take(other));
    }
    matches!(done, Ok(Ok(())))
}

/// A duration as PostgreSQL's settings take it: whole milliseconds, where zero would be none at all.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, i32::MAX as u64)
}
