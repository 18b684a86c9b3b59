//! What is asked of the catalogs, in a session whose `search_path` is `pg_catalog`.
//!
//! The sum of a hash of a row's key and its transaction over a [catalog](crate::postgres::catalogs) changes
//! with every definition, and costs a scan without sorting.

use crate::learn::keys::KEY_COLUMNS;
use crate::postgres::catalogs::{LASTING, OF_THE_DATABASE};

/// What relations are made of. If it changes, each of them is compared.
const OF_RELATIONS: &[(&str, &str, &str)] = &[
    ("pg_class", "x.oid::int8", "x.oid IN (SELECT oid FROM relations)"),
    ("pg_attribute", "x.attrelid::int8", "x.attrelid IN (SELECT oid FROM relations)"),
    ("pg_attrdef", "x.oid::int8", "x.adrelid IN (SELECT oid FROM relations)"),
    ("pg_rewrite", "x.oid::int8", "x.ev_class IN (SELECT oid FROM relations)"),
    ("pg_policy", "x.oid::int8", "true"),
    ("pg_inherits", "x.inhrelid::int8 << 32 | x.inhparent::int8", "true"),
    // Replica identities, and what plans rely on.
    (
        "pg_index",
        "x.indexrelid::int8",
        "x.indisunique AND x.indrelid IN (SELECT oid FROM relations)",
    ),
];

/// What all databases of the server share. Another database's session may change it, so it is not in
/// the stream.
const OF_THE_SERVER: &[(&str, &str, &str)] = &[
    ("pg_db_role_setting", "x.setdatabase::int8 << 32 | x.setrole::int8", "true"),
    ("pg_auth_members", "x.roleid::int8 << 32 | x.member::int8", "true"),
];

fn sums<'c>(catalogs: impl Iterator<Item = (&'c str, &'c str, &'c str)>) -> String {
    let sums = catalogs.map(|(catalog, key, rows)| {
        format!(
            "(SELECT coalesce(sum(hashint8extended(x.xmin::text::int8, ({key})::int8)), 0) \
             FROM pg_catalog.{catalog} x WHERE {rows})"
        )
    });
    sums.collect::<Vec<_>>().join(", ")
}

/// Composite types that are no table's.
const COMPOSITES: (&str, &str, &str) = (
    "pg_attribute",
    "x.attrelid",
    "x.attrelid IN (SELECT oid FROM pg_catalog.pg_class WHERE relkind = 'c')",
);

/// Three texts: of the server, of the database, and of its relations. A session's own objects are in
/// none of them.
pub(super) fn fingerprint() -> String {
    let of_the_database = OF_THE_DATABASE.iter().map(|it| (it.name, it.key, it.rows));
    format!(
        "WITH {LASTING}, \
          relations AS MATERIALIZED (SELECT oid FROM pg_catalog.pg_class \
            WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND relpersistence <> 't') \
        SELECT {server}, \
          concat_ws('/', {database}, \
            (SELECT sum(hashtextextended(nspname, oid::int8)) FROM lasting WHERE oid IN ( \
              SELECT pronamespace FROM pg_catalog.pg_proc \
              UNION SELECT oprnamespace FROM pg_catalog.pg_operator \
              UNION SELECT collnamespace FROM pg_catalog.pg_collation \
              UNION SELECT typnamespace FROM pg_catalog.pg_type \
                WHERE typtype <> 'c' AND typcategory <> 'A'))), \
          concat_ws('/', {relations}, \
            (SELECT sum(hashtextextended(nspname, oid::int8)) FROM lasting))",
        server = of_the_server(),
        database = sums(of_the_database.chain([COMPOSITES])),
        relations = sums(OF_RELATIONS.iter().copied()),
    )
}

/// The first of the three alone.
pub(super) fn server_fingerprint() -> String {
    format!("SELECT {}", of_the_server())
}

fn of_the_server() -> String {
    // Roles may be read as a view only. Who owns the database counts for the roles of others.
    format!(
        "concat_ws('/', {sums}, \
          (SELECT sum(hashtextextended(concat_ws(' ', rolname, rolsuper, rolinherit, rolbypassrls), \
            oid::int8)) FROM pg_catalog.pg_roles), \
          (SELECT datdba FROM pg_catalog.pg_database WHERE datname = current_database()))",
        sums = sums(OF_THE_SERVER.iter().copied()),
    )
}

/// Each relation by its number: its name, what its rows and its results depend on, and the relations
/// that it is a partition or a child of.
///
/// Values are compared rather than the transactions that wrote them: `ANALYZE`, an index or a right
/// rewrite the same rows. They are compared as well, for what was read by keys only: a plan relies on
/// constraints and unique indexes, and a change of the replica identity to and fro leaves the values as they
/// were. A table's file is not among them, since `VACUUM FULL` changes it and
/// `TRUNCATE` is decoded; that of a materialized view is, since a refresh is not.
pub(super) fn relations() -> String {
    RELATIONS.replace("{KEY_COLUMNS}", KEY_COLUMNS)
}

const RELATIONS: &str = "\
    SELECT c.oid, n.nspname::text, c.relname::text, \
      c.relpersistence = 'p' AND c.relkind <> 'f' AS logged, \
      concat_ws('/', \
        hashtextextended(concat_ws(' ', c.relkind, c.relpersistence, c.relowner, c.relrowsecurity, \
          c.relforcerowsecurity, \
          CASE WHEN c.relkind = 'v' THEN c.reloptions::text END, \
          CASE WHEN c.relkind = 'm' THEN concat_ws(' ', c.relfilenode, c.relispopulated) END), 0), \
        a.sum, d.sum, r.sum, p.sum) AS definition, \
      coalesce(i.parents, '{}') AS parents, \
      c.relkind IN ('r', 'm', 'f') AS holds_rows, {KEY_COLUMNS} AS key_columns, \
      concat_ws('/', c.xmin, a.xmins, u.sum) AS proofs, \
      c.relfilenode AS file, coalesce(a.xmins, 0)::text AS columns \
    FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN (SELECT attrelid, sum(hashtextextended(concat_ws(' ', attnum, attname, atttypid, \
        atttypmod, attcollation, attisdropped, attgenerated), 0)), \
        sum(hashint8extended(xmin::text::int8, attnum::int8)) AS xmins \
      FROM pg_catalog.pg_attribute WHERE attnum > 0 GROUP BY attrelid) a ON a.attrelid = c.oid \
    LEFT JOIN (SELECT x.adrelid, sum(hashint8extended(x.xmin::text::int8, x.oid::int8)) \
      FROM pg_catalog.pg_attrdef x JOIN pg_catalog.pg_attribute g \
        ON g.attrelid = x.adrelid AND g.attnum = x.adnum AND g.attgenerated <> '' \
      GROUP BY x.adrelid) d ON d.adrelid = c.oid \
    LEFT JOIN (SELECT indrelid, sum(hashint8extended(xmin::text::int8, indexrelid::int8)) \
      FROM pg_catalog.pg_index WHERE indisunique GROUP BY indrelid) u ON u.indrelid = c.oid \
    LEFT JOIN (SELECT ev_class, sum(hashint8extended(xmin::text::int8, oid::int8)) \
      FROM pg_catalog.pg_rewrite GROUP BY ev_class) r ON r.ev_class = c.oid \
    LEFT JOIN (SELECT polrelid, sum(hashint8extended(xmin::text::int8, oid::int8)) \
      FROM pg_catalog.pg_policy GROUP BY polrelid) p ON p.polrelid = c.oid \
    LEFT JOIN (SELECT inhrelid, array_agg(inhparent) AS parents \
      FROM pg_catalog.pg_inherits WHERE NOT inhdetachpending GROUP BY inhrelid) i \
      ON i.inhrelid = c.oid \
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' \
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";

/// Relations by name, each with itself and all that it is a partition or a child of.
pub(super) const FAMILIES: &str = "\
    WITH RECURSIVE named AS ( \
      SELECT c.oid, w.schema, w.relation \
      FROM unnest($1::text[], $2::text[]) w (schema, relation) \
      JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema \
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.relation), \
    family AS ( \
      SELECT oid AS root, oid FROM named \
      UNION \
      SELECT f.root, i.inhparent FROM family f \
      JOIN pg_catalog.pg_inherits i ON i.inhrelid = f.oid) \
    SELECT r.schema, r.relation, n.nspname::text, c.relname::text \
    FROM family f JOIN named r ON r.oid = f.root \
    JOIN pg_catalog.pg_class c ON c.oid = f.oid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";
