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
use crate::learn::session::SETTINGS;
use crate::postgres::catalogs::{IS_KNOWN, LASTING, OF_THE_DATABASE};

/// The schemas that functions and types are in. Their bodies name them. A schema that holds tables only
/// does not count.
const SCHEMAS: &str = "\
    x.oid IN (SELECT pronamespace FROM pg_proc UNION SELECT oprnamespace FROM pg_operator \
      UNION SELECT collnamespace FROM pg_collation UNION SELECT cfgnamespace FROM pg_ts_config \
      UNION SELECT dictnamespace FROM pg_ts_dict \
      UNION SELECT typnamespace FROM pg_type WHERE oid IN (SELECT oid FROM types)) \
    AND x.oid IN (SELECT oid FROM lasting)";

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

fn sql() -> String {
    let part = |catalog: &str, key: &str, rows: &str| {
        format!(
            "(SELECT string_agg(concat_ws(' ', {key}, x.xmin), ',' ORDER BY {key}) \
             FROM {catalog} x WHERE {rows})"
        )
    };
    let of_the_database = OF_THE_DATABASE.iter().map(|it| {
        let keys = [it.key, it.further].join(", ");
        part(it.name, keys.trim_end_matches(", "), it.rows)
    });
    let of_relations = OF_RELATIONS.iter().map(|(catalog, key, rows)| part(catalog, key, rows));
    let schemas = part("pg_namespace", "x.oid", SCHEMAS);
    let parts: Vec<String> = of_the_database.chain([schemas]).chain(of_relations).collect();
    // They count as they are in the session that refreshes: `ALTER ROLE … SET` applies to later
    // connections only.
    let settings = SETTINGS.iter().chain(["client_encoding"].iter());
    let settings: Vec<String> =
        settings.map(|name| format!("current_setting('{name}', true)")).collect();
    format!(
        "WITH RECURSIVE family AS ( \
          SELECT unnest($1::oid[]) AS oid \
          UNION \
          SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid), \
        {LASTING}, \
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
/// `None` if the refresh may not see all that the digest contains; see [`IS_KNOWN`].
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
        if session.query(IS_KNOWN, &[]).await?[0].get(0) {
            return Ok(Some(rows[0].get(0)));
        }
        sleep(PAUSE).await;
    }
    Ok(None)
}

/// How often, and in which intervals, to look whether all sessions know what has changed.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);

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
