//! A digest of the definitions that a view's rows depend on, to detect later whether one of them
//! was changed.
//!
//! A definition is named by the transaction that wrote its catalog row (`xmin`), or by the values
//! in it where other commands rewrite the row as well. An unnecessary difference costs one refresh.
//!
//! Two kinds are read in two ways. What belongs to the relations that the view scans is read for
//! these only: tables come and go in some databases all the time. What expressions are made of
//! (functions, operators, types) is read for the whole database: PostgreSQL does not record what
//! a function calls whose body is text, nor which of two overloads such a body will call next time.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::types::Type;

use super::session::Session;

/// What a definition of the whole database is read from: the catalog, its key, and the rows.
const OF_THE_DATABASE: &[(&str, &str, &str)] = &[
    // Functions with their bodies and settings. Those of a session's own belong to no view that
    // could be skipped.
    ("pg_proc", "x.oid", "x.pronamespace IN (SELECT oid FROM lasting)"),
    (
        "pg_aggregate",
        "x.aggfnoid::oid",
        "x.aggfnoid IN (SELECT oid FROM pg_proc WHERE pronamespace IN (SELECT oid FROM lasting))",
    ),
    ("pg_language", "x.oid", "true"),
    ("pg_transform", "x.oid", "true"),
    ("pg_operator", "x.oid", "x.oprnamespace IN (SELECT oid FROM lasting)"),
    ("pg_opfamily", "x.oid", "true"),
    ("pg_opclass", "x.oid", "true"),
    ("pg_amop", "x.oid", "true"),
    ("pg_amproc", "x.oid", "true"),
    ("pg_am", "x.oid", "true"),
    ("pg_cast", "x.oid", "true"),
    ("pg_conversion", "x.oid", "true"),
    ("pg_collation", "x.oid", "x.collnamespace IN (SELECT oid FROM lasting)"),
    // Domains, enums, ranges and base types. Each table has a type too, and an array of it.
    ("pg_type", "x.oid", "x.oid IN (SELECT oid FROM types)"),
    ("pg_enum", "x.oid", "x.enumtypid IN (SELECT oid FROM types)"),
    ("pg_range", "x.rngtypid", "x.rngtypid IN (SELECT oid FROM types)"),
    // The constraints of domains.
    ("pg_constraint", "x.oid", "x.contypid IN (SELECT oid FROM types)"),
    ("pg_ts_config", "x.oid", "true"),
    ("pg_ts_config_map", "x.mapcfg, x.maptokentype, x.mapseqno", "true"),
    ("pg_ts_dict", "x.oid", "true"),
    ("pg_ts_parser", "x.oid", "true"),
    ("pg_ts_template", "x.oid", "true"),
    ("pg_extension", "x.oid", "true"),
    // The bodies of functions name schemas. A schema that holds tables only does not count.
    (
        "pg_namespace",
        "x.oid",
        "x.oid IN (SELECT pronamespace FROM pg_proc UNION SELECT oprnamespace FROM pg_operator \
         UNION SELECT collnamespace FROM pg_collation UNION SELECT cfgnamespace FROM pg_ts_config \
         UNION SELECT dictnamespace FROM pg_ts_dict \
         UNION SELECT typnamespace FROM pg_type WHERE oid IN (SELECT oid FROM types)) \
         AND x.oid IN (SELECT oid FROM lasting)",
    ),
];

/// What a definition of the scanned relations is read from.
const OF_RELATIONS: &[(&str, &str, &str)] = &[
    ("pg_rewrite", "x.oid", "x.ev_class IN (SELECT oid FROM family)"),
    ("pg_policy", "x.oid", "x.polrelid IN (SELECT oid FROM family)"),
    ("pg_inherits", "x.inhparent, x.inhrelid", "x.inhparent IN (SELECT oid FROM family)"),
    // The expressions of columns that are generated when they are read.
    ("pg_attrdef", "x.oid", "x.adrelid IN (SELECT oid FROM family)"),
    // The names, types and missing values of columns. They are in the text of a whole row.
    (
        "pg_attribute",
        "x.attrelid, x.attnum",
        "x.attnum > 0 AND x.attrelid IN (SELECT oid FROM shapes)",
    ),
    ("pg_auth_members", "x.roleid, x.member", "x.member IN (SELECT oid FROM roles)"),
];

/// The settings that what a query returns may depend on, and that every role may see. They count as
/// they are in the session that refreshes: `ALTER ROLE … SET` applies to later connections only.
const SETTINGS: &[&str] = &[
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "timezone_abbreviations",
    "array_nulls",
    "backslash_quote",
    "bytea_output",
    "client_encoding",
    "default_text_search_config",
    "extra_float_digits",
    "gin_fuzzy_search_limit",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "row_security",
    "search_path",
    "session_replication_role",
    "standard_conforming_strings",
    "transform_null_equals",
    "xmlbinary",
    "xmloption",
];

fn sql() -> String {
    let parts = OF_THE_DATABASE.iter().chain(OF_RELATIONS).map(|(catalog, key, rows)| {
        format!(
            "(SELECT string_agg(concat_ws(' ', {key}, x.xmin), ',' ORDER BY {key}) \
             FROM {catalog} x WHERE {rows})"
        )
    });
    let parts: Vec<String> = parts.collect();
    // The setting of PL/pgSQL is there when a session has called such a function once.
    let settings = SETTINGS.iter().map(|name| format!("current_setting('{name}', true)"));
    let settings: Vec<String> = settings.collect();
    format!(
        "WITH RECURSIVE family AS ( \
          SELECT unnest($1::oid[]) AS oid \
          UNION \
          SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid), \
        lasting AS (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'), \
        types AS (SELECT oid FROM pg_type WHERE typtype <> 'c' AND typcategory <> 'A' \
          AND typnamespace IN (SELECT oid FROM lasting)), \
        shapes AS ( \
          SELECT oid FROM family \
          UNION \
          SELECT t.typrelid FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid \
            WHERE t.typtype = 'c' AND t.typnamespace IN (SELECT oid FROM lasting) \
              AND (c.relkind = 'c' OR EXISTS (SELECT FROM pg_depend d \
                WHERE d.refclassid = 'pg_type'::regclass AND d.deptype = 'n' \
                  AND d.refobjid IN (t.oid, t.typarray)))), \
        roles AS ( \
          SELECT c.relowner AS oid FROM pg_class c JOIN family f ON f.oid = c.oid \
          UNION SELECT proowner FROM pg_proc \
          UNION SELECT datdba FROM pg_database WHERE datname = current_database() \
          UNION SELECT m.roleid FROM pg_auth_members m JOIN roles r ON m.member = r.oid) \
        SELECT md5(array_to_string(ARRAY[ {parts}, \
          (SELECT string_agg(concat_ws(' ', c.oid, c.relkind, c.relowner, c.relrowsecurity, \
              c.relforcerowsecurity, c.relam, c.reloptions), ',' ORDER BY c.oid) \
            FROM family f JOIN pg_class c ON c.oid = f.oid), \
          (SELECT string_agg(concat_ws(' ', i.indexrelid, i.indisvalid, \
              pg_relation_filenode(i.indexrelid)), ',' ORDER BY i.indexrelid) \
            FROM pg_index i WHERE i.indrelid IN (SELECT oid FROM family) AND i.indrelid <> $2), \
          (SELECT string_agg(concat_ws(' ', a.oid, a.rolname, a.rolsuper, a.rolinherit, \
              a.rolbypassrls), ',' ORDER BY a.oid) \
            FROM pg_roles a WHERE a.oid IN (SELECT oid FROM roles)), \
          (SELECT datdba::text FROM pg_database WHERE datname = current_database()), \
          coalesce(current_setting('plpgsql.variable_conflict', true), 'error'), \
          {settings} ]::text[], '/', '-'))",
        parts = parts.join(", "),
        settings = settings.join(", "),
    )
}

/// The digest for a view. `scanned`: the relations that a refresh of it scans, and the plain views
/// on the way to them.
///
/// It is read before the rows are. If a definition changes in between, the next digest differs.
/// `None` if the refresh may not see all that the digest contains; see [`is_known`].
pub(crate) async fn read(
    session: &mut Session,
    view: u32,
    scanned: impl IntoIterator<Item = u32>,
) -> Result<Option<String>, tokio_postgres::Error> {
    let relations: Vec<u32> = scanned.into_iter().chain([view]).collect();
    // Plain refreshes make the view's own indexes anew.
    let params = [
        (&relations as &(dyn tokio_postgres::types::ToSql + Sync), Type::OID_ARRAY),
        (&view, Type::OID),
    ];
    let rows = session.query_catalogs(&sql(), &params).await?;
    for _ in 0..TRIES {
        if is_known(session).await? {
            return Ok(Some(rows[0].get(0)));
        }
        sleep(PAUSE).await;
    }
    Ok(None)
}

/// How often, and in which intervals, to look whether all sessions know what has changed.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// Whether every session has been notified of the definitions that are visible by now.
///
/// A transaction that commits becomes visible to queries first, and notifies other sessions of
/// what it has changed a moment later. In between, a refresh would run an old function that its
/// session keeps in memory, while the digest is of the new one. The transaction holds the lock of
/// its own number until it has sent the notices. See `CommitTransaction` in PostgreSQL's `xact.c`.
async fn is_known(session: &mut Session) -> Result<bool, tokio_postgres::Error> {
    // `full` is the number with its epoch: the latest one that ends with these 32 bits.
    let sql = "\
        SELECT NOT EXISTS (SELECT FROM pg_locks l, \
          LATERAL (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS next) s, \
          LATERAL (SELECT s.next - ((s.next - l.transactionid::text::int8) & 4294967295) AS full) f \
          WHERE l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock' \
            AND l.pid IS NOT NULL \
            AND CASE WHEN f.full > 2 THEN pg_xact_status(f.full::text::xid8) = 'committed' \
              ELSE false END)";
    Ok(session.query(sql, &[]).await?[0].get(0))
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use test_servers::Postgres;

    use super::super::session::Source;
    use super::*;

    #[tokio::test]
    async fn open_transactions_do_not_hide_what_is_known() {
        let database = Postgres::shared().unwrap().database().await.unwrap();
        let client = database.connect().await.unwrap();
        let open = "BEGIN; CREATE TABLE a (id int); SAVEPOINT s; CREATE TABLE b (id int)";
        client.batch_execute(open).await.unwrap();
        let source = Source::new(database.pool(1).into());
        let mut session = Session::open(&source).await.unwrap();
        let first = read(&mut session, 1, []).await.unwrap();
        assert!(first.is_some());
        client.batch_execute("CREATE DOMAIN d AS int; COMMIT").await.unwrap();
        let second = read(&mut session, 1, []).await.unwrap();
        assert!(second.is_some() && first != second);
        // Nobody has changed anything.
        assert_eq!(second, read(&mut session, 1, []).await.unwrap());
    }
}
