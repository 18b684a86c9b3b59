//! [`RefreshError`]: why a materialized view could not be refreshed, and what to do about it.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use tokio_postgres::error::{DbError, SqlState};

use super::finding::Finding;
use crate::error::BoxError;
use crate::refresh::name;

/// Why a materialized view was not refreshed. Its rows are as they were before; only with
/// [`Connection`](RefreshErrorKind::Connection) this is not certain.
///
/// The message says what was attempted, on which view, and what to do next, with the SQL to run if
/// there is some. PostgreSQL's own error is the [`source`](StdError::source). Cheap to clone.
#[derive(Clone)]
pub struct RefreshError(Arc<Inner>);

struct Inner {
    kind: RefreshErrorKind,
    view: String,
    why: String,
    findings: Vec<Finding>,
    source: Option<BoxError>,
}

/// What prevented a view from being refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefreshErrorKind {
    /// There is no relation of this name, or the name cannot be parsed (42P01, 42602, 3F000).
    Missing,
    /// The relation is not a materialized view (42809).
    NotMaterialized,
    /// `CONCURRENTLY` needs a usable unique index (55000).
    NoUniqueIndex,
    /// `CONCURRENTLY` needs a view that was populated before (0A000), or the view reads another
    /// materialized view that was never populated (55000).
    NotPopulated,
    /// The new rows have duplicates that `CONCURRENTLY` cannot tell apart, or that a unique index
    /// forbids (21000, 23505).
    Duplicates,
    /// The role may not refresh the view, or the view's owner may not read what the view reads
    /// (42501).
    Forbidden,
    /// The same session is using the view (55006).
    InUse,
    /// The server, or the transaction, is read-only (25006).
    ReadOnly,
    /// Another session held a lock that the refresh needs for too long: on the view, or on
    /// something that it reads (55P03). The findings name the session. Also if the statement
    /// timeout ended the wait (57014).
    LockTimeout,
    /// The refresh exceeded its statement timeout (57014) or its transaction timeout (25P04), or
    /// was cancelled.
    Cancelled,
    /// No connection was available, or it was lost. It is not known then whether the refresh took
    /// place. If it did, it is detected like a refresh made by others, and the caches are
    /// invalidated.
    Connection,
    /// The refresher has shut down.
    Closed,
    /// Any other error from PostgreSQL, such as an error of the view's own query.
    Postgres,
}

impl RefreshErrorKind {
    /// Whether a retry may succeed soon.
    pub(crate) fn is_passing(self) -> bool {
        matches!(self, RefreshErrorKind::Connection | RefreshErrorKind::LockTimeout)
    }
}

impl RefreshError {
    pub(crate) fn new(kind: RefreshErrorKind, view: &str, why: impl Into<String>) -> RefreshError {
        let (view, why) = (view.to_owned(), why.into());
        RefreshError(Arc::new(Inner { kind, view, why, findings: vec![], source: None }))
    }

    pub(crate) fn connect(view: &str, source: BoxError) -> RefreshError {
        let why = "no connection to postgresql could be had; check that the server answers and \
                   that the pool is large enough";
        RefreshError(Arc::new(Inner {
            kind: RefreshErrorKind::Connection,
            view: view.to_owned(),
            why: why.to_owned(),
            findings: vec![],
            source: Some(source),
        }))
    }

    /// Whether there is no relation of this name, in contrast to a name that cannot be parsed.
    pub(crate) fn is_absent(&self) -> bool {
        self.0.kind == RefreshErrorKind::Missing && self.0.source.is_none()
    }

    pub(crate) fn closed(view: &str) -> RefreshError {
        let why = "the refresher has shut down, and what ran was cancelled in postgresql";
        RefreshError::new(RefreshErrorKind::Closed, view, why)
    }

    pub(crate) fn of_postgres(view: &str, source: tokio_postgres::Error) -> RefreshError {
        let (kind, why) = match source.as_db_error() {
            Some(db) => {
                let kind = kind_of(view, db);
                (kind, why(kind, db))
            }
            None => (
                RefreshErrorKind::Connection,
                "the connection was lost; whether the refresh took place is not known, and a \
                 scheduled one is tried again"
                    .to_owned(),
            ),
        };
        let (view, source) = (view.to_owned(), Some(source.into()));
        RefreshError(Arc::new(Inner { kind, view, why, findings: vec![], source }))
    }

    /// Adds what was found out about the view afterwards.
    pub(crate) fn with(self, findings: Vec<Finding>) -> RefreshError {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => RefreshError(Arc::new(Inner { findings, ..inner })),
            Err(shared) => RefreshError(shared),
        }
    }

    /// The same error of a refresh that was waiting for a lock when it ended. `wait`: the lock, and
    /// for how long. `by_limit`: whether it had reached its statement timeout.
    pub(crate) fn during(self, wait: &str, findings: Vec<Finding>, by_limit: bool) -> RefreshError {
        let kind = match self.0.kind {
            RefreshErrorKind::LockTimeout => RefreshErrorKind::LockTimeout,
            RefreshErrorKind::Cancelled if by_limit => RefreshErrorKind::LockTimeout,
            kind @ (RefreshErrorKind::Cancelled | RefreshErrorKind::Connection) => kind,
            _ => return self,
        };
        let source = self.0.source.as_deref();
        let source = source.and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
        let said = match source.and_then(tokio_postgres::Error::as_db_error) {
            Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
            None => "the connection was lost".to_owned(),
        };
        let why = format!("{said}, while it waited for {wait}");
        let why = match kind {
            RefreshErrorKind::LockTimeout => format!("{why}; {HELD}"),
            RefreshErrorKind::Cancelled => format!("{why}; somebody cancelled it"),
            _ => format!("{why}; {}", "a scheduled refresh is tried again"),
        };
        match Arc::try_unwrap(self.0) {
            Ok(inner) => RefreshError(Arc::new(Inner { kind, why, findings, ..inner })),
            Err(shared) => RefreshError(shared),
        }
    }

    /// The kind of this error.
    pub fn kind(&self) -> RefreshErrorKind {
        self.0.kind
    }

    /// The name of the view, as given to the refresher.
    pub fn view(&self) -> &str {
        &self.0.view
    }

    /// What is wrong with the view, as far as it explains the error. Findings contain the SQL that
    /// fixes them.
    pub fn findings(&self) -> &[Finding] {
        &self.0.findings
    }

    /// PostgreSQL's five-character code, if PostgreSQL reported the error.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.0.source.as_deref()?.downcast_ref::<tokio_postgres::Error>()?.code()
    }
}

/// The view's query, and the functions that it calls, raise the same codes as the command itself.
/// The function of PostgreSQL's source that raised the error, which is not translated, tells them
/// apart. Where it is not reported, the code decides.
fn kind_of(view: &str, db: &DbError) -> RefreshErrorKind {
    let by_refresh = db.routine().is_none_or(|it| REFRESH.contains(&it));
    let in_function = db.where_().is_some_and(|context| !context.is_empty());
    match db.code().code() {
        "42P01" | "42602" | "3F000" | "42809" if in_function => RefreshErrorKind::Postgres,
        "42P01" | "42602" | "3F000" => RefreshErrorKind::Missing,
        "42809" => RefreshErrorKind::NotMaterialized,
        "55000" if db.routine() == Some(SCAN) => RefreshErrorKind::NotPopulated,
        "55000" if by_refresh => RefreshErrorKind::NoUniqueIndex,
        "0A000" if by_refresh => RefreshErrorKind::NotPopulated,
        "21000" if by_refresh => RefreshErrorKind::Duplicates,
        // A function may write to a table of its own.
        "23505" if db.table().is_none_or(|table| is_of(view, table)) => {
            RefreshErrorKind::Duplicates
        }
        "42501" => RefreshErrorKind::Forbidden,
        "55006" => RefreshErrorKind::InUse,
        "25006" => RefreshErrorKind::ReadOnly,
        "55P03" => RefreshErrorKind::LockTimeout,
        // By the statement's limit or by somebody; by the limit of transactions.
        "57014" | "25P04" => RefreshErrorKind::Cancelled,
        // Shutting down, starting up, out of connections. Deadlocks and conflicts are transient as
        // well.
        "57P01" | "57P02" | "57P03" | "57P05" | "53300" | "40001" | "40P01" => {
            RefreshErrorKind::Connection
        }
        code if code.starts_with("08") => RefreshErrorKind::Connection,
        _ => RefreshErrorKind::Postgres,
    }
}

/// The functions in PostgreSQL's `matview.c` that raise errors of a refresh.
const REFRESH: &[&str] = &["ExecRefreshMatView", "RefreshMatViewByOid", "refresh_by_match_merge"];

/// The function that opens a relation to read it. A materialized view that was never populated
/// cannot be read.
const SCAN: &str = "ExecOpenScanRelation";

/// Whether a name, as it was given, is that of this relation in some schema. `CONCURRENTLY` works
/// with a temporary table whose name ends with the view's OID.
fn is_of(view: &str, relation: &str) -> bool {
    name::relation(view).is_none_or(|name| name == relation) || relation.starts_with("pg_temp_")
}

/// Whether a name in the text of a function was not found. The codes are those of relations, functions, other objects and schemas.
fn is_unresolved(db: &DbError) -> bool {
    matches!(db.code().code(), "42P01" | "42883" | "42704" | "3F000")
        && db.where_().is_some_and(|context| !context.is_empty())
}

/// The functions in an error's context, from the inside out. Contexts are translated; from those
/// in other languages nothing is taken.
fn functions(context: &str) -> Vec<&str> {
    let named = |line: &str| -> Option<(usize, usize)> {
        if let Some(at) = line.find("SQL function \"") {
            let from = at + "SQL function \"".len();
            return Some((from, from + line[from..].find('"')?));
        }
        let from = line.find("PL/pgSQL function ")? + "PL/pgSQL function ".len();
        Some((from, from + line[from..].find(')')? + 1))
    };
    context.lines().filter_map(|line| named(line).map(|(from, to)| &line[from..to])).collect()
}

/// What to do about a lock that was not free in time.
const HELD: &str = "a lock that the refresh needs was not free within `lock_timeout`, or within \
    `statement_timeout` where that is shorter: end the session that holds it, or raise the limit; a \
    scheduled refresh is tried again";

/// What the error means and what to do. PostgreSQL's message is quoted where it names something.
/// Its detail is not quoted, since it contains values.
fn why(kind: RefreshErrorKind, db: &DbError) -> String {
    let (said, code) = (db.message(), db.code().code());
    let advice = match kind {
        RefreshErrorKind::Missing => {
            "there is no such relation on this connection's search_path: check the name, and write \
             it with its schema, in double quotes where it has upper case or other odd characters"
        }
        RefreshErrorKind::NotMaterialized => "only a materialized view can be refreshed",
        RefreshErrorKind::NoUniqueIndex => {
            "concurrent refreshes need a unique index on plain columns, without WHERE; create one, \
             or allow `or_plain`"
        }
        RefreshErrorKind::NotPopulated if code == "55000" => {
            "a materialized view that is read holds nothing yet: refresh that one first"
        }
        RefreshErrorKind::NotPopulated => {
            "it holds nothing yet, and CONCURRENTLY compares with what is there: refresh it once \
             without, or allow `or_plain`"
        }
        RefreshErrorKind::Duplicates => {
            "its query yields rows that are equal in the columns of a unique index, or altogether: \
             make the query return each row once (DISTINCT, GROUP BY), or the index cover the \
             columns that tell rows apart"
        }
        RefreshErrorKind::Forbidden => {
            "the role of this connection must own the view (or have MAINTAIN on it, from PostgreSQL \
             17), and the view's owner must be allowed to read all that it reads, even if a \
             superuser refreshes"
        }
        RefreshErrorKind::InUse => {
            "this same session uses the view, by an open cursor, say: close it first"
        }
        RefreshErrorKind::ReadOnly => {
            "this server or this role takes no writes: connect to the primary, and look for \
             default_transaction_read_only"
        }
        RefreshErrorKind::LockTimeout => HELD,
        RefreshErrorKind::Cancelled => {
            "it took longer than `statement_timeout` (or `transaction_timeout`), or was cancelled by \
             somebody: give the view a `statement_timeout` of its own, or make its query faster"
        }
        RefreshErrorKind::Connection if code == "40P01" => {
            "another session held what the refresh needed, and waited for what it held; a scheduled \
             refresh is tried again"
        }
        RefreshErrorKind::Connection => "a scheduled refresh is tried again",
        RefreshErrorKind::Closed | RefreshErrorKind::Postgres => {
            "it is the view's own query, or the server, that failed: run REFRESH MATERIALIZED VIEW \
             by hand to see all of it"
        }
    };
    if kind == RefreshErrorKind::Postgres && is_unresolved(db) {
        let context = db.where_().unwrap_or_default();
        let functions = match functions(context).as_slice() {
            [] => "a function that the view calls".to_owned(),
            [first, ..] => format!("the function {first}"),
        };
        return format!(
            "{said} (SQLSTATE {code}), in {functions}; from PostgreSQL 17 on, a refresh runs functions \
             with the search_path `pg_catalog, pg_temp`: write the names in it with their schemas, \
             or run ALTER FUNCTION … SET search_path = …"
        );
    }
    // Messages of class 22 (data exceptions) and P0 (a function's own RAISE) quote values.
    if code.starts_with("22") || code.starts_with("P0") {
        return format!("{advice} (SQLSTATE {code})");
    }
    format!("{said} (SQLSTATE {code}); {advice}")
}

impl fmt::Display for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refresh the materialized view {}: {}", name::shown(&self.0.view), self.0.why)?;
        for finding in &self.0.findings {
            write!(f, "\n  {finding}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshError")
            .field("kind", &self.0.kind)
            .field("message", &self.to_string())
            .finish_non_exhaustive()
    }
}

impl StdError for RefreshError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use test_servers::Postgres;

    use super::*;

    /// Errors that Larder does not cause: it runs none of these statements, and keeps no cursor
    /// open.
    #[tokio::test]
    async fn errors_of_refreshes_by_hand_are_understood_too() {
        let database = Postgres::shared().unwrap().database().await.unwrap();
        let client = database.connect().await.unwrap();
        client
            .batch_execute(
                "CREATE MATERIALIZED VIEW v AS SELECT 1 AS id;
                 CREATE UNIQUE INDEX ON v (id);
                 CREATE MATERIALIZED VIEW empty AS SELECT 1 AS id WITH NO DATA;
                 CREATE UNIQUE INDEX ON empty (id);
                 CREATE MATERIALIZED VIEW on_empty AS SELECT * FROM empty WITH NO DATA;
                 CREATE MATERIALIZED VIEW bare AS SELECT 1 AS id;
                 CREATE TABLE t (id int); INSERT INTO t VALUES (1);
                 CREATE MATERIALIZED VIEW twice AS SELECT id FROM t;
                 CREATE UNIQUE INDEX ON twice (id);
                 CREATE MATERIALIZED VIEW several AS SELECT 1 AS id, (SELECT id FROM t) AS one;
                 CREATE UNIQUE INDEX ON several (id);
                 INSERT INTO t VALUES (1);
                 CREATE FUNCTION raises(text) RETURNS int LANGUAGE plpgsql AS
                   $$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = $1; END$$;
                 CREATE MATERIALIZED VIEW raises AS SELECT raises('55000') WITH NO DATA;
                 CREATE MATERIALIZED VIEW unsupported AS SELECT raises('0A000') WITH NO DATA;
                 CREATE FUNCTION names() RETURNS bigint LANGUAGE plpgsql AS
                   'BEGIN RETURN (SELECT count(*) FROM nowhere); END';
                 CREATE MATERIALIZED VIEW names AS SELECT names() WITH NO DATA;
                 CREATE TABLE unique_ids (id int PRIMARY KEY); INSERT INTO unique_ids VALUES (1);
                 CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS
                   'INSERT INTO public.unique_ids VALUES (1) RETURNING id';
                 CREATE MATERIALIZED VIEW writes AS SELECT writes() WITH NO DATA;",
            )
            .await
            .unwrap();
        let refresh = "REFRESH MATERIALIZED VIEW";
        let cases = [
            (format!("{refresh} CONCURRENTLY v WITH NO DATA"), "42601", RefreshErrorKind::Postgres),
            (format!("{refresh} CONCURRENTLY empty"), "0A000", RefreshErrorKind::NotPopulated),
            ("SELECT * FROM empty".to_owned(), "55000", RefreshErrorKind::NotPopulated),
            (format!("{refresh} on_empty"), "55000", RefreshErrorKind::NotPopulated),
            (format!("{refresh} CONCURRENTLY bare"), "55000", RefreshErrorKind::NoUniqueIndex),
            (format!("{refresh} CONCURRENTLY twice"), "21000", RefreshErrorKind::Duplicates),
            // What the view's own query does wrong is not what CONCURRENTLY would.
            (format!("{refresh} CONCURRENTLY several"), "21000", RefreshErrorKind::Postgres),
            (format!("{refresh} raises"), "55000", RefreshErrorKind::Postgres),
            (format!("{refresh} unsupported"), "0A000", RefreshErrorKind::Postgres),
            (format!("{refresh} names"), "42P01", RefreshErrorKind::Postgres),
            (format!("{refresh} writes"), "23505", RefreshErrorKind::Postgres),
            (format!("{refresh} nowhere"), "42P01", RefreshErrorKind::Missing),
            ("BEGIN; LOCK TABLE v".to_owned(), "42809", RefreshErrorKind::NotMaterialized),
            (
                format!("BEGIN; DECLARE c CURSOR FOR TABLE v; FETCH c; {refresh} v"),
                "55006",
                RefreshErrorKind::InUse,
            ),
        ];
        for (sql, sqlstate, kind) in cases {
            let error = client.batch_execute(&sql).await.unwrap_err();
            client.batch_execute("ROLLBACK").await.unwrap();
            let error = RefreshError::of_postgres("v", error);
            assert_eq!(error.sqlstate().map(SqlState::code), Some(sqlstate), "{sql}");
            assert_eq!(error.kind(), kind, "{sql}");
            assert!(error.to_string().contains(sqlstate), "{error}");
        }
    }
}
