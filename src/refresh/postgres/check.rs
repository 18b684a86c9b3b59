//! Detects what prevents a view from being refreshed, before a refresh fails because of it.

use tokio_postgres::types::Type;

use super::blocker::{self, RefreshMode};
use super::error::RefreshError;
use super::finding::{Finding, FindingKind};
use super::kind::RefreshErrorKind;
use super::lineage::{Lineage, LineageNode};
use super::session::Session;
use super::state::{self, Relation, USABLE_INDEX};
use super::transaction::Limits;
use super::{limits, search_path};

/// How a view is to be refreshed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Whether it is refreshed `CONCURRENTLY`, without a fallback.
    pub(crate) concurrently: bool,
    /// Whether it is never refreshed `CONCURRENTLY`.
    pub(crate) plain: bool,
    pub(crate) limits: Limits,
    /// Whether refreshes are skipped when nothing was written.
    pub(crate) skip_unchanged: bool,
}

impl Wanted {
    pub(crate) fn how(self, populated: bool, has_usable_index: bool) -> RefreshMode {
        // `CONCURRENTLY` needs a populated view. A plain refresh blocks nobody then: reading a view
        // that was never populated is an error.
        if self.plain || !populated || !self.concurrently && !has_usable_index {
            RefreshMode::Plainly
        } else {
            RefreshMode::Concurrently
        }
    }
}

/// All findings about the view of this name. `managed`: the materialized views that the refresher
/// refreshes.
pub(crate) async fn check(
    session: &mut Session,
    name: &str,
    wanted: Wanted,
    managed: &[u32],
) -> Result<Vec<Finding>, tokio_postgres::Error> {
    let view = match state::find(session, name).await.and_then(|found| found.materialized(name)) {
        Ok(view) => view,
        Err(error) => {
            let kind = match error.kind() {
                RefreshErrorKind::NotMaterialized => FindingKind::NotMaterialized,
                _ => FindingKind::Missing,
            };
            return Ok(vec![Finding::new(kind, error.to_string())]);
        }
    };
    let mut findings = vec![];
    let Some(now) = state::look(session, view.oid).await? else {
        return Ok(vec![Finding::new(FindingKind::Missing, "it was dropped a moment ago")]);
    };
    if !now.populated {
        let message = "it holds nothing yet (WITH NO DATA): reading it fails, and its first refresh \
                       is made without CONCURRENTLY";
        let mend = format!("REFRESH MATERIALIZED VIEW {};", view.quoted);
        findings.push(Finding::new(FindingKind::NotPopulated, message).mend(mend));
    }
    if wanted.concurrently && !now.has_usable_index {
        findings.push(no_unique_index(session, &view).await?);
    }
    let how = wanted.how(now.populated, now.has_usable_index);
    findings.extend(rights(session, &view, how).await?);
    let lineage = Lineage::of(session, &[view.oid]).await?;
    findings.extend(held(session, &view, &lineage, how).await?);
    findings.extend(limits::check(session, wanted.limits).await?);
    findings.extend(unreadable(session, &view, &lineage).await?);
    findings.extend(unmanaged(&lineage, &view, managed));
    if now.server_version >= search_path::SAFE_SINCE {
        findings.extend(search_path::check(session, &lineage.calls(view.oid)).await?);
    }
    if wanted.skip_unchanged {
        findings.extend(untraceable(session, &view, &lineage, now.server_version).await?);
    }
    Ok(findings)
}

/// A finding with the existing indexes, why each of them is unusable, and the index to create.
pub(crate) async fn no_unique_index(
    session: &mut Session,
    view: &Relation,
) -> Result<Finding, tokio_postgres::Error> {
    let sql = format!(
        "SELECT format('%I.%I', n.nspname, x.relname), \
           array_remove(ARRAY[ \
             CASE WHEN NOT i.indisunique THEN 'is not unique' END, \
             CASE WHEN NOT i.indisvalid THEN 'is invalid, as its creation did not finish' END, \
             CASE WHEN i.indpred IS NOT NULL THEN 'is partial (it has a WHERE)' END, \
             CASE WHEN i.indexprs IS NOT NULL THEN 'is on an expression' END, \
             CASE WHEN NOT i.indimmediate THEN 'is deferrable' END], NULL), \
           i.indisunique AND NOT i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL, \
           CASE WHEN am.amname = 'btree' AND i.indisvalid AND i.indpred IS NULL \
               AND i.indexprs IS NULL THEN (SELECT string_agg(quote_ident(attname), ', ' ORDER BY k.at) \
             FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(number, at) \
             JOIN pg_attribute t ON t.attrelid = i.indrelid AND t.attnum = k.number \
             WHERE k.at <= i.indnkeyatts) END \
         FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid \
         JOIN pg_namespace n ON n.oid = x.relnamespace JOIN pg_am am ON am.oid = x.relam \
         WHERE i.indrelid = $1 AND NOT ({USABLE_INDEX}) ORDER BY x.relname"
    );
    let rows = session.query(&sql, &[(&view.oid, Type::OID)]).await?;
    let (mut reasons, mut columns, mut invalid) = (vec![], None, None);
    for row in &rows {
        let (index, why): (String, Vec<String>) = (row.get(0), row.get(1));
        if row.get(2) {
            invalid.get_or_insert_with(|| index.clone());
        }
        columns = columns.or(row.get::<_, Option<String>>(3));
        let why = if why.is_empty() { "is no btree".to_owned() } else { why.join(" and ") };
        reasons.push(format!("{index} {why}"));
    }
    let message = match reasons.as_slice() {
        [] => "it has no index, and CONCURRENTLY needs a unique one on plain columns".to_owned(),
        reasons => format!(
            "none of its indexes is one that CONCURRENTLY can use, unique and on plain columns: {}",
            reasons.join("; ")
        ),
    };
    let finding = Finding::new(FindingKind::NoUniqueIndex, message);
    if let Some(index) = invalid {
        return Ok(finding.mend(format!("REINDEX INDEX CONCURRENTLY {index};")));
    }
    let columns = match columns {
        Some(columns) => columns,
        None => guessed_columns(session, view).await?,
    };
    let quoted = &view.quoted;
    Ok(finding.mend(format!("CREATE UNIQUE INDEX CONCURRENTLY ON {quoted} ({columns});")))
}

/// The first column whose values are all distinct according to ANALYZE. If there is none, all
/// columns whose type has an order.
async fn guessed_columns(
    session: &mut Session,
    view: &Relation,
) -> Result<String, tokio_postgres::Error> {
    let sql = "SELECT coalesce( \
        (SELECT quote_ident(t.attname) FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid \
           JOIN pg_namespace n ON n.oid = c.relnamespace \
           JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname \
             AND s.attname = t.attname \
         WHERE t.attrelid = $1 AND s.n_distinct = -1 ORDER BY t.attnum LIMIT 1), \
        (SELECT string_agg(quote_ident(t.attname), ', ' ORDER BY t.attnum) FROM pg_attribute t \
         JOIN pg_type y ON y.oid = t.atttypid \
         WHERE t.attrelid = $1 AND t.attnum > 0 AND NOT t.attisdropped \
           AND (y.typtype IN ('e', 'r', 'm') OR EXISTS (SELECT FROM pg_opclass o \
             JOIN pg_am am ON am.oid = o.opcmethod AND am.amname = 'btree' \
             WHERE o.opcdefault AND o.opcintype IN (y.oid, nullif(y.typbasetype, 0))) \
             OR y.typname = 'varchar')), \
        'the columns that tell its rows apart')";
    let rows = session.query(sql, &[(&view.oid, Type::OID)]).await?;
    Ok(rows[0].get(0))
}

/// Whether a role `r` may do much more than read and write tables.
const STRONG: &str = "(r.rolsuper OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls \
    OR r.rolname IN ('pg_execute_server_program', 'pg_write_server_files', \
      'pg_read_server_files', 'pg_write_all_data', 'pg_read_all_data'))";

/// What the role of this connection, and the view's owner, are not permitted to do.
async fn rights(
    session: &mut Session,
    view: &Relation,
    how: RefreshMode,
) -> Result<Vec<Finding>, tokio_postgres::Error> {
    // The privilege MAINTAIN exists from PostgreSQL 17 on. Older servers reject its name, so the
    // query contains it only where it exists.
    let version = session.query("SELECT current_setting('server_version_num')::int4", &[]).await?;
    let maintain = if version[0].get::<_, i32>(0) >= 170_000 {
        "has_table_privilege(c.oid, 'MAINTAIN')"
    } else {
        "false"
    };
    let sql = format!(
        "SELECT pg_has_role(c.relowner, 'USAGE') OR {maintain}, quote_ident(current_user), \
           quote_ident(pg_get_userbyid(c.relowner)), \
           has_database_privilege(c.relowner, current_database(), 'TEMPORARY'), \
           quote_ident(current_database()), pg_is_in_recovery(), \
           current_setting('default_transaction_read_only')::bool, \
           EXISTS (SELECT FROM pg_roles r WHERE {STRONG} AND pg_has_role(c.relowner, r.oid, 'MEMBER')) \
         FROM pg_class c WHERE c.oid = $1"
    );
    let rows = session.query(&sql, &[(&view.oid, Type::OID)]).await?;
    let Some(row) = rows.first() else { return Ok(vec![]) };
    let (role, owner, database): (String, String, String) = (row.get(1), row.get(2), row.get(4));
    let mut findings = vec![];
    if !row.get::<_, bool>(0) {
        let mut message = format!("the role {role} may not refresh it: it belongs to {owner}");
        let mend = if maintain != "false" {
            format!("GRANT MAINTAIN ON {} TO {role};", view.quoted)
        } else if row.get(7) {
            // A member may do whatever the owner may.
            message.push_str(&format!(
                ", whose rights are too many to be handed out by a GRANT of that role: connect as the \
                 owner, or give the view to {role} or to another role that may read what the view \
                 reads"
            ));
            format!("ALTER MATERIALIZED VIEW {} OWNER TO {role};", view.quoted)
        } else {
            format!("GRANT {owner} TO {role};")
        };
        findings.push(Finding::new(FindingKind::NotOwner, message).mend(mend));
    }
    if how == RefreshMode::Concurrently && !row.get::<_, bool>(3) {
        let message = format!(
            "its owner {owner} may not make temporary tables in {database}, and CONCURRENTLY needs \
             one"
        );
        let mend = format!("GRANT TEMPORARY ON DATABASE {database} TO {owner};");
        findings.push(Finding::new(FindingKind::OwnerLacksTemporary, message).mend(mend));
    }
    if row.get(5) {
        let message = "this server is a standby and takes no writes: connect to the primary";
        findings.push(Finding::new(FindingKind::ReadOnly, message));
    } else if row.get(6) {
        let message = format!(
            "transactions of {role} in {database} are read-only by default \
             (default_transaction_read_only)"
        );
        let mend = format!(
            "ALTER ROLE {role} IN DATABASE {database} SET default_transaction_read_only = off;"
        );
        findings.push(Finding::new(FindingKind::ReadOnly, message).mend(mend));
    }
    Ok(findings)
}

/// Which sessions hold a lock that a refresh has to wait for.
async fn held(
    session: &mut Session,
    view: &Relation,
    lineage: &Lineage,
    how: RefreshMode,
) -> Result<Vec<Finding>, tokio_postgres::Error> {
    let mut findings = vec![];
    let refresher = blocker::refresher(session, view.oid).await?;
    if let Some(refresher) = &refresher {
        let (who, age) = (refresher.session(), refresher.age());
        let message = format!("{who} is refreshing it at this moment{age}");
        findings.push(Finding::new(FindingKind::Held, message));
    }
    let pid = refresher.map(|refresher| refresher.pid());
    let reads: Vec<u32> = lineage.scanned(view.oid).into_iter().collect();
    let held = blocker::held(session, view.oid, &reads, how).await?;
    let others = held.iter().filter(|blocker| Some(blocker.pid()) != pid);
    findings.extend(others.map(|blocker| blocker.finding("a refresh has to wait for")));
    Ok(findings)
}

/// What the owners of the view, and of the plain views through which it reads, may not read.
/// PostgreSQL reads the tables of a plain view with the rights of its owner, not with those of the
/// reader.
async fn unreadable(
    session: &mut Session,
    view: &Relation,
    lineage: &Lineage,
) -> Result<Vec<Finding>, tokio_postgres::Error> {
    let (by, read): (Vec<u32>, Vec<u32>) = lineage.edges(view.oid).into_iter().unzip();
    let sql = "SELECT DISTINCT quote_ident(pg_get_userbyid(v.relowner)), \
                 format('%I.%I', n.nspname, c.relname) \
               FROM unnest($1::oid[], $2::oid[]) e(by, read) \
               JOIN pg_class v ON v.oid = e.by JOIN pg_class c ON c.oid = e.read \
               JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') \
                 AND NOT has_any_column_privilege(v.relowner, c.oid, 'SELECT') \
                 AND NOT has_table_privilege(v.relowner, c.oid, 'SELECT') ORDER BY 1, 2";
    let params = [
        (&by as &(dyn tokio_postgres::types::ToSql + Sync), Type::OID_ARRAY),
        (&read, Type::OID_ARRAY),
    ];
    let rows = session.query(sql, &params).await?;
    let found = rows.iter().map(|row| {
        let (owner, relation): (String, String) = (row.get(0), row.get(1));
        let message = format!(
            "{owner}, with whose rights it is read, may not read {relation}, even if a superuser \
             refreshes the view"
        );
        let mend = format!("GRANT SELECT ON {relation} TO {owner};");
        Finding::new(FindingKind::OwnerCannotRead, message).mend(mend)
    });
    Ok(found.collect())
}

fn unmanaged(lineage: &Lineage, view: &Relation, managed: &[u32]) -> Vec<Finding> {
    let below = lineage.sources(view.oid).views;
    let found = below.into_iter().filter(|oid| !managed.contains(oid)).filter_map(|oid| {
        let LineageNode { quoted, populated, .. } = lineage.relation(oid)?;
        if !populated {
            let message = format!(
                "it reads the materialized view {quoted}, which holds nothing yet and which this \
                 refresher does not refresh"
            );
            let mend = format!("REFRESH MATERIALIZED VIEW {quoted};");
            return Some(Finding::new(FindingKind::SourceNotPopulated, message).mend(mend));
        }
        let message = format!(
            "it reads the materialized view {quoted}, which this refresher does not refresh: its \
             rows stay as they are until somebody does"
        );
        Some(Finding::new(FindingKind::Unmanaged, message))
    });
    found.collect()
}

/// Why the view is refreshed even when nothing seems to have been written.
async fn untraceable(
    session: &mut Session,
    view: &Relation,
    lineage: &Lineage,
    version: i32,
) -> Result<Vec<Finding>, tokio_postgres::Error> {
    let always = "so it is always refreshed";
    let found = |why: String| Finding::new(FindingKind::Untraceable, format!("{why}, {always}"));
    if version < super::writes::COUNTED_SINCE {
        let why = "before PostgreSQL 15 nobody can tell whether all writes have been counted";
        return Ok(vec![found(why.to_owned())]);
    }
    let mut findings: Vec<_> = lineage.untraceable(view.oid).into_iter().map(found).collect();
    let sql = "SELECT current_setting('track_counts')::bool, \
                 pg_has_role('pg_read_all_stats', 'USAGE'), quote_ident(current_user)";
    let rows = session.query(sql, &[]).await?;
    if !rows[0].get::<_, bool>(0) {
        let mend = "ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf();";
        findings.push(found("track_counts is off".to_owned()).mend(mend));
    }
    if !rows[0].get::<_, bool>(1) {
        let role: String = rows[0].get(2);
        let why =
            format!("the role {role} cannot see what sessions of other roles have yet to report");
        findings.push(found(why).mend(format!("GRANT pg_read_all_stats TO {role};")));
    }
    Ok(findings)
}

/// The findings about the view that explain why a refresh failed.
pub(crate) async fn explain(
    session: &mut Session,
    view: &Relation,
    wanted: Wanted,
    how: RefreshMode,
    error: &RefreshError,
) -> Vec<Finding> {
    if error.kind() == RefreshErrorKind::LockTimeout {
        let Ok(lineage) = Lineage::of(session, &[view.oid]).await else { return vec![] };
        return held(session, view, &lineage, how).await.unwrap_or_default();
    }
    if error.kind() == RefreshErrorKind::Cancelled {
        let mut findings = limits::check(session, wanted.limits).await.unwrap_or_default();
        findings.retain(|it| !it.message.starts_with("idle") && !it.message.starts_with("lock"));
        return findings;
    }
    let explains = |finding: &Finding| {
        matches!(
            (error.kind(), finding.kind),
            (RefreshErrorKind::NoUniqueIndex, FindingKind::NoUniqueIndex)
                | (
                    RefreshErrorKind::NotPopulated,
                    FindingKind::NotPopulated | FindingKind::SourceNotPopulated
                )
                | (
                    RefreshErrorKind::Forbidden,
                    FindingKind::NotOwner
                        | FindingKind::OwnerCannotRead
                        | FindingKind::OwnerLacksTemporary
                )
                | (RefreshErrorKind::ReadOnly, FindingKind::ReadOnly)
        ) || error.is_of_names()
            && matches!(finding.kind, FindingKind::SearchPath | FindingKind::SearchPathDoubtful)
    };
    let wanted = Wanted { concurrently: how == RefreshMode::Concurrently, ..wanted };
    let mut findings = check(session, &view.quoted, wanted, &[]).await.unwrap_or_default();
    findings.retain(explains);
    findings
}

/// Adds to the error of an `ANALYZE` who holds the lock that it waited for.
pub(crate) async fn explain_analyze(
    session: &mut Session,
    oid: u32,
    error: RefreshError,
) -> RefreshError {
    if error.kind() != RefreshErrorKind::LockTimeout {
        return error;
    }
    // Its lock, SHARE UPDATE EXCLUSIVE, conflicts with less than that of a refresh.
    let held = blocker::held(session, oid, &[], RefreshMode::Concurrently).await;
    let held = held.unwrap_or_default();
    error.with(held.iter().map(|blocker| blocker.finding("ANALYZE had to wait for")).collect())
}
