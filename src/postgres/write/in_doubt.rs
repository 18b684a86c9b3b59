//! [`InDoubt`]: a transaction whose connection was lost while it was being committed.
//!
//! PostgreSQL notices that a connection is lost when it reads from it or writes to it. Meanwhile it
//! may be about to commit: it flushes its log, or waits for a replica. A result that is loaded then is
//! loaded before the commit and after the invalidation, and would count as current. So the
//! invalidation is repeated when the transaction has certainly ended.

use deadpool_postgres::Pool;
use tokio_postgres::types::Type;

use super::locks::{Locks, Unknown, WriteSet};

/// What is known of the transaction.
pub(crate) struct InDoubt {
    pub(crate) set: WriteSet,
    end: End,
}

/// How it is recognized that the transaction has ended. Numbers of transactions are texts, as
/// PostgreSQL writes `xid8`.
enum End {
    /// It has this number.
    Of(String),
    /// It has no number, so it has written nothing.
    Already,
    /// Its number is not known. Any transaction that has written has one.
    OfAll,
    /// All with smaller numbers have ended.
    Before(String),
}

impl InDoubt {
    pub(super) fn new(locks: Option<Locks>) -> InDoubt {
        match locks {
            Some(Locks { set, xid: Some(xid) }) => InDoubt { set, end: End::Of(xid) },
            Some(Locks { set: set @ WriteSet::Relations(_), xid: None }) => {
                InDoubt { set, end: End::Already }
            }
            _ => InDoubt { set: WriteSet::Unknown(Unknown::Locks), end: End::OfAll },
        }
    }

    /// Whether the transaction has ended, however. `false` also if PostgreSQL cannot be asked.
    pub(crate) async fn has_ended(&mut self, pool: &Pool) -> bool {
        let (sql, xid) = match &self.end {
            End::Already => return true,
            // A server that does not know the number, after a failover, is refused below.
            End::Of(xid) => (
                "SELECT pg_catalog.pg_xact_status($1::text::xid8) IS DISTINCT FROM 'in progress', \
                 NULL",
                &**xid,
            ),
            // A number of its own is larger than all that were given out before. A snapshot's `xmax`
            // is not: a transaction under way may have it.
            End::OfAll => ("SELECT $1::text IS NULL, pg_catalog.pg_current_xact_id()::text", ""),
            End::Before(xid) => (
                "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) \
                 >= $1::text::xid8, NULL",
                &**xid,
            ),
        };
        let Ok(client) = pool.get().await else { return false };
        let row = match client.query_typed_one(sql, &[(&xid, Type::TEXT)]).await {
            Ok(row) => row,
            // It answers, and does not know the transaction: another server has taken its place.
            Err(error) => return matches!(self.end, End::Of(_)) && error.as_db_error().is_some(),
        };
        if let Some(next) = row.try_get(1).ok().flatten() {
            self.end = End::Before(next);
        }
        row.try_get(0).unwrap_or(false)
    }
}
