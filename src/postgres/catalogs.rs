//! What PostgreSQL's catalogs say of definitions that any result may depend on, and when all sessions
//! know of a change of them.
//!
//! A definition is named by the key of its catalog row and the transaction that wrote the row (`xmin`).
//! The texts are for sessions whose `search_path` is `pg_catalog`.

/// A catalog, and which of its rows count.
pub(crate) struct Catalog {
    pub(crate) name: &'static str,
    /// A number of the row `x`, which may stand in several rows.
    pub(crate) key: &'static str,
    /// The columns that tell these rows apart; empty if the number does.
    pub(crate) further: &'static str,
    /// The condition that a row counts.
    pub(crate) rows: &'static str,
}

const fn catalog(name: &'static str, key: &'static str, rows: &'static str) -> Catalog {
    Catalog { name, key, further: "", rows }
}

/// The common table expressions that [`OF_THE_DATABASE`] names: the schemas that are no session's own,
/// and in them the domains, enums, ranges and base types. Each table has a type too, and an array of it.
pub(crate) const LASTING: &str = "\
    lasting AS (SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'), \
    types AS (SELECT oid FROM pg_type WHERE typtype <> 'c' AND typcategory <> 'A' \
      AND typnamespace IN (SELECT oid FROM lasting))";

/// What expressions are made of: functions, operators, types. PostgreSQL does not record what a function
/// calls whose body is text, nor which of two overloads such a body will call next time, so a change of
/// one may change any result. Those of a session's own belong to no result that is kept.
pub(crate) const OF_THE_DATABASE: &[Catalog] = &[
    // With their bodies and settings.
    catalog("pg_proc", "x.oid", "x.pronamespace IN (SELECT oid FROM lasting)"),
    catalog(
        "pg_aggregate",
        "x.aggfnoid::oid",
        "x.aggfnoid IN (SELECT oid FROM pg_proc WHERE pronamespace IN (SELECT oid FROM lasting))",
    ),
    catalog("pg_language", "x.oid", "true"),
    catalog("pg_transform", "x.oid", "true"),
    catalog("pg_operator", "x.oid", "x.oprnamespace IN (SELECT oid FROM lasting)"),
    catalog("pg_opfamily", "x.oid", "true"),
    catalog("pg_opclass", "x.oid", "true"),
    catalog("pg_amop", "x.oid", "true"),
    catalog("pg_amproc", "x.oid", "true"),
    catalog("pg_am", "x.oid", "true"),
    catalog("pg_cast", "x.oid", "true"),
    catalog("pg_conversion", "x.oid", "true"),
    catalog("pg_collation", "x.oid", "x.collnamespace IN (SELECT oid FROM lasting)"),
    catalog("pg_type", "x.oid", "x.oid IN (SELECT oid FROM types)"),
    catalog("pg_enum", "x.oid", "x.enumtypid IN (SELECT oid FROM types)"),
    catalog("pg_range", "x.rngtypid", "x.rngtypid IN (SELECT oid FROM types)"),
    // The constraints of domains.
    catalog("pg_constraint", "x.oid", "x.contypid IN (SELECT oid FROM types)"),
    catalog("pg_ts_config", "x.oid", "true"),
    Catalog {
        further: "x.maptokentype, x.mapseqno",
        ..catalog("pg_ts_config_map", "x.mapcfg", "true")
    },
    catalog("pg_ts_dict", "x.oid", "true"),
    catalog("pg_ts_parser", "x.oid", "true"),
    catalog("pg_ts_template", "x.oid", "true"),
    catalog("pg_extension", "x.oid", "true"),
];

/// What a value of the type `t`, a row of `pg_type`, is made of: a subquery with the column `part`.
pub(crate) const PARTS_OF_TYPE: &str = "\
    (SELECT t.typelem AS part UNION ALL SELECT t.typbasetype \
      UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid \
      UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
        WHERE a.attrelid = t.typrelid AND a.attnum > 0)";

/// Whether every session has been notified of the definitions that are visible by now.
///
/// A transaction that commits becomes visible to queries first, and notifies other sessions of what it
/// has changed a moment later. In between, a session runs an old function that it keeps in memory,
/// while the catalogs show the new one. The transaction holds the lock of its own number until it has
/// sent the notices. See `CommitTransaction` in PostgreSQL's `xact.c`.
///
/// `full` is the number with its epoch: the latest one that ends with these 32 bits.
pub(crate) const IS_KNOWN: &str = "\
    SELECT NOT EXISTS (SELECT FROM pg_locks l, \
      LATERAL (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS next) s, \
      LATERAL (SELECT s.next - ((s.next - l.transactionid::text::int8) & 4294967295) AS full) f \
      WHERE l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock' \
        AND l.pid IS NOT NULL \
        AND CASE WHEN f.full > 2 THEN pg_xact_status(f.full::text::xid8) = 'committed' \
          ELSE false END)";
