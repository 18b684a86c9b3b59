//! The end of a transaction: its locks are read and it is committed, in one round trip.
//!
//! ```text
//! 1  SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT
//! 2  the locks
//! 3  RELEASE SAVEPOINT; COMMIT
//! ```
//!
//! All three are sent at once. Deferred constraints and triggers are carried out by the first, since
//! they may write; PostgreSQL would do so at the commit. If the first fails, as when a deferred
//! constraint is violated, the third finds no savepoint, so nothing is committed. If the second fails,
//! the transaction is saved by the savepoint: it is asked once more, in another way, and then committed
//! with or without an answer. So nothing of the cache's own makes a transaction fail.

use futures_util::future::{join3, join4};
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::{Client, Error as PostgresError};

use super::in_doubt::InDoubt;
use super::locks::{self, LOCKS, Locks, Unknown, WriteSet};
use super::{Connection, Pooling};
use crate::error::Error;

/// The end of a transaction.
pub(crate) enum Outcome {
    Committed(WriteSet),
    RolledBack(Error),
    /// The connection was lost meanwhile. Perhaps PostgreSQL is still busy with the commit.
    Unknown(Error, InDoubt),
}

const BEFORE: &str = "SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT larder_write";
const COMMIT: &str = "RELEASE SAVEPOINT larder_write; COMMIT";

/// The savepoint is still there, whether or not the locks could be read.
const BACK: &str = "ROLLBACK TO SAVEPOINT larder_write";
const COMMIT_ANYWAY: &str = "ROLLBACK TO SAVEPOINT larder_write; COMMIT";

impl Connection {
    /// Commits the transaction that is open on the connection.
    ///
    /// It must not be dropped before it has ended.
    pub(crate) async fn commit(&self) -> Outcome {
        let client = &*self.client;
        let known = self.session.statement(LOCKS);
        let before = client.batch_execute(BEFORE);
        let locks = locks::ask(client, known.as_ref().map(|known| &known.statement));
        let committed = client.batch_execute(COMMIT);
        // For the next transaction on this connection, in the same round trip.
        let prepare = async {
            let keeps_statements = self.pooling == Pooling::Sessions
                && self.session.keeps_statements()
                && known.is_none();
            if keeps_statements { client.prepare(LOCKS).await.ok() } else { None }
        };
        let (before, locks, committed, prepared) = join4(before, locks, committed, prepare).await;
        if let Some(statement) = prepared {
            self.session.keep_statement(LOCKS, statement);
        }
        let Err(error) = committed else {
            return Outcome::Committed(set_of(locks));
        };
        match (before, locks) {
            (Ok(()), Err(failed)) if is_refusal(&failed) && is_refusal(&error) => {
                self.session.forget(LOCKS);
                commit_again(client).await
            }
            (Err(before), _) if is_refusal(&before) => {
                if error.code() == Some(&SqlState::NO_ACTIVE_SQL_TRANSACTION) {
                    return Outcome::Committed(WriteSet::Unknown(Unknown::Ended));
                }
                rolled_back(client, before).await
            }
            (_, locks) => ended(client, locks, error).await,
        }
    }
}

/// Commits after the locks could not be read, and asks for them once more.
async fn commit_again(client: &Client) -> Outcome {
    let back = client.batch_execute(BACK);
    let locks = locks::ask(client, None);
    let committed = client.batch_execute(COMMIT_ANYWAY);
    let (_, locks, committed) = join3(back, locks, committed).await;
    match committed {
        Ok(()) => Outcome::Committed(set_of(locks)),
        Err(error) => ended(client, locks, error).await,
    }
}

/// The commit has returned an error.
async fn ended(
    client: &Client,
    locks: Result<Locks, PostgresError>,
    error: PostgresError,
) -> Outcome {
    if is_refusal(&error) {
        return rolled_back(client, error).await;
    }
    let in_doubt = InDoubt::new(locks.ok());
    Outcome::Unknown(Error::in_doubt(error), in_doubt)
}

/// Ends a transaction that was not committed. It may still be open.
async fn rolled_back(client: &Client, error: PostgresError) -> Outcome {
    // If this fails, the connection is lost, and the transaction with it.
    let _ = client.batch_execute("ROLLBACK").await;
    Outcome::RolledBack(Error::not_committed(error))
}

fn set_of(locks: Result<Locks, PostgresError>) -> WriteSet {
    locks.map_or(WriteSet::Unknown(Unknown::Locks), |locks| locks.set)
}

/// Whether PostgreSQL has refused a statement, and the connection goes on. After a fatal error,
/// which may come from a pooler, what was sent may have been carried out or not.
fn is_refusal(error: &PostgresError) -> bool {
    let severity = error.as_db_error().and_then(|db| db.parsed_severity());
    severity == Some(Severity::Error)
}
