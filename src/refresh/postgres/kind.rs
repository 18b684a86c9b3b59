//! [`RefreshErrorKind`]: what an error of PostgreSQL means for a refresh, and what to do about it.

use tokio_postgres::error::DbError;

use crate::value::relation;

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

/// The view's query, and the functions that it calls, raise the same codes as the command itself.
/// The function of PostgreSQL's source that raised the error, which is not translated, tells them
/// apart. Where it is not reported, the code decides.
pub(super) fn of(view: &str, db: &DbError) -> RefreshErrorKind {
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
    relation::relation(view).is_none_or(|name| name == relation) || relation.starts_with("pg_temp_")
}

/// Whether a name in the text of a function was not found. The codes are those of relations, functions, other objects and schemas.
pub(super) fn is_unresolved(db: &DbError) -> bool {
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
pub(super) const HELD: &str = "a lock that the refresh needs was not free within `lock_timeout`, or within \
    `statement_timeout` where that is shorter: end the session that holds it, or raise the limit; a \
    scheduled refresh is tried again";

/// What the error means and what to do. PostgreSQL's message is quoted where it names something.
/// Its detail is not quoted, since it contains values.
pub(super) fn why(kind: RefreshErrorKind, db: &DbError) -> String {
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
