//! [`WriteSet`]: the relations that a transaction has written to, read from its own locks.
//!
//! Whatever changes a relation locks it for the rest of the transaction, more strongly than a read
//! does: a statement, a trigger, a cascade, a `TRUNCATE`, an `ALTER TABLE`. What is undone by a
//! rollback to a savepoint gives its locks back. So the locks of a transaction that is about to be
//! committed are what it has changed, and a little more: a statement that met no row, and `LOCK TABLE`.

use std::collections::BTreeSet;

use tokio_postgres::{Client, Row, Statement};

use crate::value::relation::RelationName;

/// What a transaction has written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteSet {
    Relations(BTreeSet<RelationName>),
    Unknown(Unknown),
}

/// Why it is not known what a transaction has written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// PostgreSQL did not report the locks, or not in time.
    Locks,
    /// The transaction dropped, renamed or moved a relation, so its earlier name is gone.
    Names,
    /// The function ended the transaction by itself.
    Ended,
}

impl Unknown {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Unknown::Locks => "postgresql did not report the transaction's locks",
            Unknown::Names => {
                "the transaction dropped, renamed or moved a relation, or built one anew, so \
                 names from before are gone"
            }
            Unknown::Ended => "the transaction was ended by a statement, such as COMMIT",
        }
    }
}

/// The locks of a transaction, and its number if it has one.
#[derive(Debug, Clone)]
pub(super) struct Locks {
    pub(super) set: WriteSet,
    /// A text, as PostgreSQL writes `xid8`.
    pub(super) xid: Option<String>,
}

/// All that the session has locked more strongly than a read does, with what it is a partition or a
/// child of, each with its present name.
///
/// Names and partitions are looked up by functions that see what is committed now. The query's own
/// snapshot may be that of an older `REPEATABLE READ` transaction.
///
/// `renamed`: only an exclusive lock allows another name or schema, and with the relation its row
/// type is renamed or moved. So the type's catalog row is younger than the transaction; if the row of
/// the column `ctid` is as well, the relation was made by the transaction and has no earlier name.
/// `TRUNCATE`, which needs the same lock, changes neither.
pub(super) const LOCKS: &str = "\
    WITH RECURSIVE held AS ( \
      SELECT l.relation, pg_catalog.bool_or(l.mode = 'AccessExclusiveLock') AS exclusive \
      FROM pg_catalog.pg_lock_status() l \
      WHERE l.locktype = 'relation' AND l.pid = pg_catalog.pg_backend_pid() \
        AND l.mode <> 'AccessShareLock' AND l.mode <> 'RowShareLock' \
      GROUP BY l.relation), \
    family AS ( \
      (SELECT h.relation, h.exclusive FROM held h \
       UNION \
       SELECT p.relid, false FROM held h, pg_catalog.pg_partition_ancestors(h.relation) p (relid)) \
      UNION \
      SELECT i.inhparent, false FROM family f \
      JOIN pg_catalog.pg_inherits i ON i.inhrelid = f.relation) \
    SELECT pg_catalog.current_setting('larder.write', true) AS mark, \
      pg_catalog.pg_current_xact_id_if_assigned()::text AS xid, o.type, o.identity, \
      CASE WHEN f.exclusive THEN EXISTS ( \
        SELECT FROM pg_catalog.pg_class c \
        JOIN pg_catalog.pg_type t ON t.oid = c.reltype \
        WHERE c.oid = f.relation AND pg_catalog.age(t.xmin) BETWEEN -268435456 AND 0 \
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a \
            WHERE a.attrelid = c.oid AND a.attnum = -1 \
              AND pg_catalog.age(a.xmin) BETWEEN -268435456 AND 0)) \
      ELSE false END AS renamed \
    FROM (VALUES (1)) AS one (row) \
    LEFT JOIN (family f CROSS JOIN LATERAL pg_catalog.pg_identify_object( \
      'pg_catalog.pg_class'::regclass, f.relation, 0) AS o) ON true";

/// Asks for the locks. The first poll sends the question.
pub(super) async fn ask(
    client: &Client,
    prepared: Option<&Statement>,
) -> Result<Locks, tokio_postgres::Error> {
    let rows = match prepared {
        Some(statement) => client.query(statement, &[]).await?,
        None => client.query_typed(LOCKS, &[]).await?,
    };
    // Rows of another shape are those of another client's statement: behind a pooler that was taken
    // for a session.
    let unknown = Locks { set: WriteSet::Unknown(Unknown::Locks), xid: None };
    Ok(read(&rows).unwrap_or(unknown))
}

fn read(rows: &[Row]) -> Option<Locks> {
    let first = rows.first()?;
    let mark: Option<&str> = first.try_get("mark").ok()?;
    let xid: Option<String> = first.try_get("xid").ok()?;
    if mark != Some("begun") {
        return Some(Locks { set: WriteSet::Unknown(Unknown::Ended), xid });
    }
    let mut relations = BTreeSet::new();
    for row in rows {
        let Some(kind) = row.try_get::<_, Option<&str>>("type").ok()? else { continue };
        let Some(identity) = row.try_get::<_, Option<&str>>("identity").ok()? else {
            return Some(Locks { set: WriteSet::Unknown(Unknown::Names), xid });
        };
        match kind {
            // Parts of a relation. Nobody reads them by name.
            "index" | "toast table" | "composite type" => continue,
            // Of this session alone.
            _ if identity.starts_with("pg_temp.") => continue,
            _ => {}
        }
        if row.try_get("renamed").ok()? {
            return Some(Locks { set: WriteSet::Unknown(Unknown::Names), xid });
        }
        relations.insert(RelationName::parse(identity)?);
    }
    Some(Locks { set: WriteSet::Relations(relations), xid })
}
