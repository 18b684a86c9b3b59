//! The version of everything that a verdict was made of: what a text means, and what it calls.

use super::{TextRow, Verdict, oids, texts};
use crate::learn::keys::KEY_COLUMNS;

/// The first column of the row that has the version.
pub(crate) const MARK: &str = "definitions";

/// The question for the version of everything that a verdict was made of.
///
/// Views, policies, functions and checks change with their catalog rows. The row of a relation changes
/// by a `TRUNCATE` as well, so only what decides is compared.
///
/// The text of a query, and of a function's body, may mean something else without that: a function of the
/// same name for other types, a table in an earlier schema, an operator that fits better. So whatever has
/// one of the names is compared as well, and all operators and casts of a user.
pub(crate) fn question(verdict: &Verdict) -> String {
    let (relations, functions) = (oids(&verdict.judged), oids(&verdict.functions));
    let (domains, types) = (oids(&verdict.domains), oids(&verdict.types));
    let (called, schemas) = (texts(&verdict.called), texts(&verdict.schemas));
    let named = |name: &str, catalog: &str, oids: &str| {
        format!(
            "ARRAY(SELECT {name}::pg_catalog.text FROM pg_catalog.{catalog} WHERE oid = ANY ({oids}))"
        )
    };
    let (relation_names, type_names) =
        (named("relname", "pg_class", &relations), named("typname", "pg_type", &types));
    let function_names = named("proname", "pg_proc", &functions);
    let of_composites =
        format!("ARRAY(SELECT typrelid FROM pg_catalog.pg_type WHERE oid = ANY ({types}))");
    let parts = [
        rows(
            "oid",
            "oid, relname, relnamespace, relkind, relpersistence, relrowsecurity, relforcerowsecurity",
            &format!("pg_class WHERE oid = ANY ({relations})"),
        ),
        rows(
            "attrelid, attnum",
            "attrelid, attnum, attname, atttypid",
            &format!(
                "pg_attribute WHERE attnum > 0 \
                 AND attrelid = ANY (pg_catalog.array_cat({relations}, {of_composites}))"
            ),
        ),
        rows("oid", "oid, xmin", &format!("pg_rewrite WHERE ev_class = ANY ({relations})")),
        rows("oid", "oid, xmin", &format!("pg_policy WHERE polrelid = ANY ({relations})")),
        rows("oid", "oid, xmin", &format!("pg_proc WHERE oid = ANY ({functions})")),
        rows("oid", "oid, xmin", &format!("pg_constraint WHERE contypid = ANY ({domains})")),
        rows("oid", "oid, xmin", &format!("pg_enum WHERE enumtypid = ANY ({types})")),
        rows(
            "oid",
            "oid",
            &format!(
                "pg_class WHERE relname = ANY ({relation_names}) AND relnamespace = ANY (ARRAY( \
                   SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = ANY ({schemas})))"
            ),
        ),
        rows(
            "oid",
            "oid, xmin",
            &format!(
                "pg_proc WHERE proname = ANY (pg_catalog.array_cat({function_names}, {called}))"
            ),
        ),
        rows("oid", "oid, xmin", &format!("pg_type WHERE typname = ANY ({type_names})")),
        rows("oid", "oid, xmin", "pg_operator WHERE oid >= 16384"),
        rows("oid", "oid, xmin", "pg_cast WHERE oid >= 16384"),
        proofs(verdict),
    ];
    format!(
        "SELECT '{MARK}', NULL, NULL, NULL, \
         pg_catalog.hashtextextended(pg_catalog.concat_ws('|', {}), 0)::pg_catalog.text, NULL",
        parts.join(", ")
    )
}

/// What shows which rows are read, if that is known of a relation: the key columns of all tables, and the
/// constraints and unique indexes that the plan may have relied on.
fn proofs(verdict: &Verdict) -> String {
    if verdict.keys.is_empty() {
        return "NULL".to_owned();
    }
    let columns =
        rows("attnum", "attnum, xmin", "pg_attribute WHERE attrelid = c.oid AND attnum > 0");
    let unique =
        rows("indexrelid", "indexrelid, xmin", "pg_index WHERE indrelid = c.oid AND indisunique");
    format!(
        "(WITH RECURSIVE below AS (SELECT pg_catalog.unnest({}) AS oid \
            UNION SELECT i.inhrelid FROM below b JOIN pg_catalog.pg_inherits i ON i.inhparent = b.oid) \
          SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', c.oid, c.xmin, \
            pg_catalog.array_to_json({KEY_COLUMNS}), {columns}, {unique}), ' ' ORDER BY c.oid) \
          FROM below b JOIN pg_catalog.pg_class c ON c.oid = b.oid)",
        oids(verdict.relations.keys())
    )
}

/// These columns of rows of a catalog, as one text.
fn rows(order: &str, columns: &str, of: &str) -> String {
    format!(
        "(SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', {columns}), ' ' ORDER BY {order}) \
         FROM pg_catalog.{of})"
    )
}

/// The version in the replies of a load.
pub(crate) fn version(replies: &[TextRow]) -> Option<&str> {
    let mark = |row: &&TextRow| row.first().is_some_and(|it| it.as_deref() == Some(MARK));
    replies.iter().find(mark)?.get(4)?.as_deref()
}
