//! [`Session`]: a connection of the pool, used in a way that works behind a transaction pooler.

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

/// A connection that runs statements one after the other.
///
/// PgBouncer in transaction mode runs each transaction on another server connection, where other
/// clients have left their state. So no state here outlives its transaction: no prepared statement
/// has a name, no setting is `SET` without `LOCAL`, no lock belongs to the session.
///
/// If it is dropped while a transaction runs a statement, it makes PostgreSQL cancel the statement.
/// If it is dropped within a transaction, it rolls back and closes the connection. Otherwise the
/// connection returns to the pool.
pub(crate) struct Session {
    client: Option<Object>,
    source: TlsPool,
    state: State,
    /// Where the open transaction runs, if its statements are worth cancelling.
    backend: Option<Backend>,
    /// Dropped last; see [`Source::gone`].
    open: Option<watch::Receiver<()>>,
}

/// Opens sessions.
pub(crate) struct Source {
    pool: TlsPool,
    /// Each session has a receiver, and keeps it until what it ran has ended in PostgreSQL.
    open: watch::Sender<()>,
}

impl Source {
    pub(crate) fn new(pool: TlsPool) -> Source {
        Source { pool, open: watch::Sender::new(()) }
    }

    /// Waits until there is no session any more, and nothing that one ran is left in PostgreSQL.
    pub(crate) async fn gone(&self) {
        self.open.closed().await;
    }
}

/// The server process that runs a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) pid: i32,
    /// Whether it soon detects that its client has gone, and ends its statement.
    pub(crate) notices_end: bool,
}

/// How long to wait for the connection over which another one's statement is cancelled, and then
/// for the cancellation.
const ELSEWHERE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    AtRest,
    InTransaction,
    /// A statement is running.
    Busy,
}

/// A parameter with its type, so that the server need not be asked for the type.
pub(crate) type Typed<'a> = (&'a (dyn ToSql + Sync), Type);

impl Session {
    pub(crate) async fn open(source: &Source) -> Result<Session, BoxError> {
        let client = source.pool.pool.get().await?;
        let open = Some(source.open.subscribe());
        let source = source.pool.clone();
        Ok(Session { client: Some(client), source, state: State::AtRest, backend: None, open })
    }

    /// Begins a transaction, and applies settings that hold within it.
    pub(crate) async fn begin(&mut self, settings: &str) -> Result<(), Error> {
        // Each statement sees what was committed before it, above all what the previous holder of
        // the lock has done.
        let sql = format!("BEGIN ISOLATION LEVEL READ COMMITTED; {settings}");
        self.batch(&sql, State::InTransaction).await
    }

    /// The transaction runs there. If this session is dropped meanwhile, its statement is
    /// cancelled.
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

    /// Runs a statement and returns its rows.
    pub(crate) async fn query(
        &mut self,
        sql: &str,
        params: &[Typed<'_>],
    ) -> Result<Vec<Row>, Error> {
        let state = std::mem::replace(&mut self.state, State::Busy);
        let rows = self.client().query_typed(sql, params).await;
        self.settle(state, rows)
    }

    /// Runs a query of the catalogs, without PostgreSQL's just-in-time compiler.
    ///
    /// The planner overestimates such queries by far, and PostgreSQL compiles what it thinks is
    /// expensive: that takes seconds, where the query itself takes milliseconds. The setting ends
    /// with this query. In an open transaction it is put back, so that a refresh runs as the role
    /// is set up.
    pub(crate) async fn query_catalogs(
        &mut self,
        sql: &str,
        params: &[Typed<'_>],
    ) -> Result<Vec<Row>, Error> {
        const OFF: &str = "SET LOCAL jit = off";
        if self.state == State::AtRest {
            self.begin(OFF).await?;
            let rows = self.query(sql, params).await;
            let ended = self.roll_back().await;
            return rows.and_then(|rows| ended.map(|()| rows));
        }
        let jit = self.query("SELECT current_setting('jit')", &[]).await?;
        let jit: String = jit[0].get(0);
        if jit == "off" {
            return self.query(sql, params).await;
        }
        self.run(OFF).await?;
        // After an error, only the end of the transaction is accepted, and it ends the setting.
        let rows = self.query(sql, params).await?;
        self.run(&format!("SET LOCAL jit = {jit}")).await?;
        Ok(rows)
    }

    async fn batch(&mut self, sql: &str, then: State) -> Result<(), Error> {
        self.state = State::Busy;
        if then == State::AtRest {
            self.backend = None;
        }
        let done = self.client().batch_execute(sql).await;
        self.settle(then, done)
    }

    /// Sets the state after an answer. After an error, an open transaction accepts only its end. If
    /// the beginning of a transaction fails, there may be an open one.
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
                        // When this is answered, nothing runs any more, and no lock is held.
                        let _ = timeout(LIMIT, client.batch_execute("ROLLBACK")).await;
                    }
                    drop(Object::take(client));
                    drop(open);
                });
            }
        }
    }
}

/// Ends the statement that a connection runs in its transaction, and waits until it has ended.
///
/// The first choice is SQL over another connection. A transaction keeps its backend even behind a
/// pooler, so its process id means no other client. The second choice is a cancel request.
/// tokio-postgres closes the connection of the request at once, and PgBouncer 1.18 and 1.19.0 crash
/// if it is closed before they have forwarded the request
/// (<https://github.com/pgbouncer/pgbouncer/pull/846>).
///
/// Returns `true` if no cancellation can still be on its way. On `false`, the caller leaves the
/// transaction open, so that a pooler closes the server connection together with ours. After a
/// rollback, the pooler would hand it to another client, and a late request would hit that client.
async fn end_statement(source: &TlsPool, backend: Backend, client: &Object) -> bool {
    let by_sql = cancelled_by_sql(source, backend).await;
    if !by_sql {
        if backend.notices_end {
            return false;
        }
        let _ = timeout(LIMIT, (source.canceller)(client.cancel_token())).await;
    }
    // This runs after the statement, so its answer shows that the statement has ended.
    timeout(LIMIT, client.batch_execute("BEGIN")).await.is_ok() && by_sql
}

async fn cancelled_by_sql(source: &TlsPool, backend: Backend) -> bool {
    let Ok(Ok(other)) = timeout(ELSEWHERE, source.pool.get()).await else { return false };
    let sql = format!("SELECT pg_cancel_backend({})", backend.pid);
    let done = timeout(ELSEWHERE, other.batch_execute(&sql)).await;
    if done.is_err() {
        // The statement must not run later, when the process id may mean another client.
        drop(Object::take(other));
    }
    matches!(done, Ok(Ok(())))
}

/// A duration for PostgreSQL's settings: whole milliseconds, and at least one, since zero means no
/// limit.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, i32::MAX as u64)
}
