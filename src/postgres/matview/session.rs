//! [`Session`]: a pool's connection, used in a way that a pooler between can follow.

use std::convert::Infallible;
use std::time::Duration;

use deadpool_postgres::Object;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row};

use crate::error::BoxError;
use crate::postgres::CancelTls;
use crate::postgres::cancel::{Canceller, LIMIT};

/// A connection for statements one after the other.
///
/// PgBouncer in transaction mode gives each transaction another server connection, on which others
/// have left things behind. So nothing here outlives its transaction: no prepared statement has a
/// name, no setting is `SET` without `LOCAL`, no lock is the session's.
///
/// Dropped while a statement runs, it tells PostgreSQL to cancel it and closes the connection, as it
/// does where a transaction is open. At rest, it goes back to the pool.
pub(crate) struct Session {
    client: Option<Object>,
    canceller: Canceller,
    state: State,
    open: Option<Open>,
}

/// Where sessions come from.
pub(crate) struct Source {
    pub(crate) pool: CancelTls,
    /// Held by every session, and for as long as a cancel request is under way for one: whoever has
    /// the other end knows when all are gone.
    pub(crate) open: Open,
}

pub(crate) type Open = mpsc::Sender<Infallible>;

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
        let canceller = source.pool.canceller.clone();
        let open = Some(source.open.clone());
        Ok(Session { client: Some(client), canceller, state: State::AtRest, open })
    }

    /// Begins a transaction, and sets what is to hold in it.
    pub(crate) async fn begin(&mut self, settings: &str) -> Result<(), Error> {
        // Each statement sees what was committed before it, above all what whoever held the lock
        // before us has done.
        let sql = format!("BEGIN ISOLATION LEVEL READ COMMITTED; {settings}");
        self.batch(&sql, State::InTransaction).await
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
            State::InTransaction => drop(Object::take(client)),
            State::Busy => {
                // Closed only after the request was sent: what it names is this connection, so
                // that nobody else's statement can be meant.
                let (token, canceller) = (client.cancel_token(), self.canceller.clone());
                let open = self.open.take();
                let closed = async move {
                    let _ = timeout(LIMIT, canceller(token)).await;
                    drop(Object::take(client));
                    drop(open);
                };
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(closed);
                }
            }
        }
    }
}

/// A duration as PostgreSQL's settings take it: whole milliseconds, where zero would be none at all.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, i32::MAX as u64)
}
