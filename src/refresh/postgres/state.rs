//! [`ViewState`]: a view as PostgreSQL describes it at one moment.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error::RefreshError;
use super::kind::RefreshErrorKind;
use super::session::{Backend, Session};

/// A relation that was found by its name.
pub(crate) struct Relation {
    pub(crate) oid: u32,
    /// The name with its schema, quoted by PostgreSQL.
    pub(crate) quoted: String,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// `pg_class.relkind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Materialized,
    View,
    Table,
    Partitioned,
    Foreign,
    Other,
}

impl Kind {
    pub(crate) fn of(relkind: &str) -> Kind {
        match relkind {
            "m" => Kind::Materialized,
            "v" => Kind::View,
            "r" => Kind::Table,
            "p" => Kind::Partitioned,
            "f" => Kind::Foreign,
            _ => Kind::Other,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Materialized => "a materialized view",
            Kind::View => "a plain view",
            Kind::Table => "a table",
            Kind::Partitioned => "a partitioned table",
            Kind::Foreign => "a foreign table",
            Kind::Other => "an index, a sequence or a type",
        }
    }
}

/// Distinguishes one version of a view's rows from the next, as far as its catalog row allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ViewVersion {
    /// The transaction that wrote the view's row in `pg_class`. Every refresh rewrites that row.
    pub(crate) xmin: String,
    /// A digest of what other commands (GRANT, ALTER) change in that row, so that they are not
    /// mistaken for a refresh.
    pub(crate) shape: String,
}

impl ViewVersion {
    /// Whether the view was refreshed between the two versions, and not changed in another way.
    pub(crate) fn shows_refresh_since(&self, earlier: &ViewVersion) -> bool {
        self.xmin != earlier.xmin && self.shape == earlier.shape
    }
}

/// The state of a view at one moment.
pub(crate) struct ViewState {
    pub(crate) version: ViewVersion,
    pub(crate) populated: bool,
    /// Whether an index allows it to be refreshed `CONCURRENTLY`.
    pub(crate) has_usable_index: bool,
    /// `server_version_num`
    pub(crate) server_version: i32,
    /// Whether the server counts the rows that are written.
    pub(crate) counts: bool,
    /// Rows that this session has written to the view and not reported yet, also in earlier
    /// transactions.
    pub(crate) written: Written,
    /// PostgreSQL's clock, in microseconds since 1970.
    pub(crate) now: i64,
    /// The `statement_timeout` of this transaction.
    pub(crate) statement_timeout: Option<Duration>,
    pub(crate) backend: Backend,
}

/// Rows inserted, updated and deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written(pub(crate) [i64; 3]);

/// The condition in `is_usable_unique_index` of PostgreSQL's `matview.c`.
pub(super) const USABLE_INDEX: &str = "i.indisunique AND i.indimmediate AND i.indisvalid \
    AND am.amname = 'btree' AND i.indpred IS NULL AND i.indexprs IS NULL \
    AND 0 < ALL (i.indkey::int2[])";

const SHAPE: &str = "md5(ROW(c.relname, c.relnamespace, c.reltype, c.relowner, c.relam, \
    c.reltablespace, c.relacl, c.reloptions, c.relreplident, c.relnatts)::text)";

/// Finds a relation by its name. PostgreSQL resolves and quotes the name, with `to_regclass`, which
/// executes nothing.
pub(crate) async fn find(session: &mut Session, name: &str) -> Result<Relation, RefreshError> {
    if name.contains('\0') {
        let why = "its name holds a zero byte, which no name in postgresql does";
        return Err(RefreshError::new(RefreshErrorKind::Missing, name, why));
    }
    let sql = "SELECT c.oid, format('%I.%I', n.nspname, c.relname), c.relkind::text, \
                 n.nspname::text, c.relname::text \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.oid = to_regclass($1)";
    let found = session.query(sql, &[(&name, Type::TEXT)]).await;
    let found = found.map_err(|error| RefreshError::of_postgres(name, error))?;
    let Some(row) = found.first() else {
        return Err(missing(session, name).await);
    };
    Ok(Relation {
        oid: row.get(0),
        quoted: row.get(1),
        schema: row.get(3),
        name: row.get(4),
        kind: Kind::of(row.get(2)),
    })
}

async fn missing(session: &mut Session, name: &str) -> RefreshError {
    // PostgreSQL folds a name to lower case if it needs quotes and has none.
    let sql = "SELECT format('%I.%I', n.nspname, c.relname) \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind = 'm' AND (lower(c.relname) = lower($1) \
                 OR lower(n.nspname || '.' || c.relname) = lower($1)) ORDER BY 1 LIMIT 1";
    let near = session.query(sql, &[(&name, Type::TEXT)]).await;
    let near = near.ok().and_then(|rows| Some(rows.first()?.get::<_, String>(0)));
    let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    let why = format!(
        "there is no relation of this name on this connection's search_path{hint} Write it as in \
         SQL: with its schema, and in double quotes where it has upper case or other odd characters"
    );
    let why = if hint.is_empty() { why.replacen("search_path ", "search_path. ", 1) } else { why };
    RefreshError::new(RefreshErrorKind::Missing, name, why)
}

impl Relation {
    /// Returns the relation if it is a materialized view.
    pub(crate) fn materialized(self, name: &str) -> Result<Relation, RefreshError> {
        if self.kind == Kind::Materialized {
            return Ok(self);
        }
        let why = format!("{} is {}, and no materialized view", self.quoted, self.kind.word());
        Err(RefreshError::new(RefreshErrorKind::NotMaterialized, name, why))
    }
}

/// Reads the state of a view; `None` if the view no longer exists.
pub(crate) async fn look(
    session: &mut Session,
    oid: u32,
) -> Result<Option<ViewState>, tokio_postgres::Error> {
    let sql = format!(
        "SELECT c.xmin::text, {SHAPE}, c.relispopulated, \
           EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid \
             JOIN pg_am am ON am.oid = x.relam WHERE i.indrelid = c.oid AND {USABLE_INDEX}), \
           current_setting('server_version_num')::int4, current_setting('track_counts')::bool, \
           {WRITTEN}, (extract(epoch FROM clock_timestamp()) * 1000000)::int8, pg_backend_pid(), \
           coalesce(current_setting('client_connection_check_interval', true), '0') <> '0', \
           (SELECT setting::int8 FROM pg_settings WHERE name = 'statement_timeout') \
         FROM pg_class c WHERE c.oid = $1 AND c.relkind = 'm'"
    );
    let rows = session.query(&sql, &[(&oid, Type::OID)]).await?;
    Ok(rows.first().map(|row| ViewState {
        version: ViewVersion { xmin: row.get(0), shape: row.get(1) },
        populated: row.get(2),
        has_usable_index: row.get(3),
        server_version: row.get(4),
        counts: row.get(5),
        written: written(row, 6),
        now: row.get(9),
        backend: Backend { pid: row.get(10), notices_end: row.get(11) },
        statement_timeout: match row.get::<_, i64>(12) {
            0 => None,
            millis => Some(Duration::from_millis(millis.unsigned_abs())),
        },
    }))
}

const WRITTEN: &str = "pg_stat_get_xact_tuples_inserted(c.oid), \
    pg_stat_get_xact_tuples_updated(c.oid), pg_stat_get_xact_tuples_deleted(c.oid)";

fn written(row: &Row, at: usize) -> Written {
    Written([row.get(at), row.get(at + 1), row.get(at + 2)])
}

/// The version of a view within this transaction, and the rows written to it so far.
pub(crate) async fn look_again(
    session: &mut Session,
    oid: u32,
) -> Result<(ViewVersion, Written), tokio_postgres::Error> {
    let sql = format!("SELECT c.xmin::text, {SHAPE}, {WRITTEN} FROM pg_class c WHERE c.oid = $1");
    let rows = session.query(&sql, &[(&oid, Type::OID)]).await?;
    let row = &rows[0];
    Ok((ViewVersion { xmin: row.get(0), shape: row.get(1) }, written(row, 2)))
}

/// A view as it is found by its name.
#[derive(Clone)]
pub(crate) struct FoundView {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) version: ViewVersion,
}

/// Several views, by the names they were given under. It is the cheapest query for this, since it
/// is repeated at each poll.
pub(crate) async fn glance(
    session: &mut Session,
    names: &[String],
) -> Result<Vec<Option<FoundView>>, tokio_postgres::Error> {
    let sql = format!(
        "SELECT n.at::int8, c.oid, c.xmin::text, {SHAPE}, s.nspname::text, c.relname::text \
         FROM unnest($1::text[]) WITH ORDINALITY n(name, at) \
         JOIN pg_class c ON c.oid = to_regclass(n.name) AND c.relkind = 'm' \
         JOIN pg_namespace s ON s.oid = c.relnamespace"
    );
    let mut all = vec![None; names.len()];
    for row in session.query(&sql, &[(&names, Type::TEXT_ARRAY)]).await? {
        let at: i64 = row.get(0);
        all[at as usize - 1] = Some(FoundView {
            oid: row.get(1),
            schema: row.get(4),
            name: row.get(5),
            version: ViewVersion { xmin: row.get(2), shape: row.get(3) },
        });
    }
    Ok(all)
}
