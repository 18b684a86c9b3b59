//! Are a connection's descriptions of types those of the database?
//!
//! `tokio_postgres` looks a type up once per connection and keeps its description: the labels of an
//! enum, the fields of a composite, the base of a domain. `ALTER TYPE` and `ALTER TABLE` change
//! types in place, and nobody tells the connection. PostgreSQL sends cells of such types without
//! names, so an old description gives values to the wrong names without an error.
//!
//! The version of a type is a hash over the `xmin` of all catalog rows that describe it. A
//! description is compared with the catalogs once per connection and type, together with the
//! version. Each load of the type reads the version again, after the query and in the same round
//! trip. If it is the same, no row of the description changed in between, so the cells were written
//! under the description. If not, the result is rejected.

use tokio_postgres::types::{Kind, ToSql, Type};
use tokio_postgres::{Client, GenericClient, Row, Statement};

use super::outdated::of_postgres;
use super::statements::{Statements, Versions};
use crate::error::Error;

macro_rules! version {
    () => {
        "pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', t.xmin, n.xmin, \
           (SELECT r.xmin FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid), \
           (SELECT pg_catalog.string_agg(a.xmin::text, ' ' ORDER BY a.attnum) \
              FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0), \
           (SELECT pg_catalog.string_agg(pg_catalog.concat(e.oid, ':', e.xmin), ' ' ORDER BY e.oid) \
              FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid)), 0)"
    };
}

macro_rules! from {
    () => {
        " FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
          WHERE t.oid = ANY($1) ORDER BY t.oid"
    };
}

#[cfg(feature = "sqlx")]
pub(super) const VERSION: &str = version!();
#[cfg(feature = "sqlx")]
pub(super) const FROM: &str = from!();

pub(super) const VERSIONS: &str = concat!("SELECT t.oid, ", version!(), from!());

const DESCRIPTIONS: &str = concat!(
    "SELECT t.oid, ",
    version!(),
    ", t.typname::text, n.nspname::text, \
       CASE WHEN t.typbasetype <> 0 THEN t.typbasetype WHEN t.typelem <> 0 THEN t.typelem \
         ELSE (SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid) END, \
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid \
         AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum), \
       ARRAY(SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid \
         AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum), \
       ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid \
         ORDER BY e.enumsortorder)",
    from!()
);

/// The types of a statement's parameters and columns that a connection has to look up, at any
/// depth.
pub(super) fn of_statement(statement: &Statement) -> Vec<Type> {
    let columns = statement.columns().iter().map(|column| column.type_());
    let mut open: Vec<&Type> = statement.params().iter().chain(columns).collect();
    let mut found: Vec<Type> = vec![];
    while let Some(type_) = open.pop() {
        if Type::from_oid(type_.oid()).is_some() || found.contains(type_) {
            continue;
        }
        match type_.kind() {
            Kind::Array(of) | Kind::Range(of) | Kind::Multirange(of) | Kind::Domain(of) => {
                open.push(of);
            }
            Kind::Composite(fields) => open.extend(fields.iter().map(|field| field.type_())),
            _ => {}
        }
        found.push(type_.clone());
    }
    found
}

/// The versions of `types` in the database; `None` if it describes one of them in another way.
pub(super) async fn described(
    client: &impl GenericClient,
    types: &[Type],
) -> Result<Option<Versions>, Error> {
    let rows = ask(client, DESCRIPTIONS, types.iter().map(Type::oid).collect()).await?;
    let is_described = |type_: &Type| {
        rows.iter().any(|row| row.get::<_, u32>(0) == type_.oid() && describes(row, type_))
    };
    Ok(types.iter().all(is_described).then(|| rows.iter().map(version).collect()))
}

/// The versions that types have now.
pub(super) async fn versions(
    client: &impl GenericClient,
    oids: impl Iterator<Item = u32>,
) -> Result<Versions, Error> {
    Ok(ask(client, VERSIONS, oids.collect()).await?.iter().map(version).collect())
}

/// Looks up all types that results had, in the transaction in which a connection has looked up its
/// first one.
///
/// `tokio_postgres` looks types up with prepared statements that it prepares once per connection.
/// After this transaction the session does not have them any more, and the connection can look up
/// nothing else.
pub(super) async fn look_up_others(client: &Client, statements: &Statements) {
    for oid in statements.seen() {
        // A parameter that the statement does not use: PostgreSQL reports its type, and accepts
        // types that do not exist.
        let type_ = Type::new(String::new(), oid, Kind::Simple, String::new());
        match client.prepare_typed("SELECT 1", &[type_]).await {
            Err(error) if error.code().is_none() && !error.is_closed() => statements.unsee(oid),
            Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Asks with an unnamed statement, which needs no second round trip and leaves nothing behind.
async fn ask(client: &impl GenericClient, sql: &str, oids: Vec<u32>) -> Result<Vec<Row>, Error> {
    let oids: &(dyn ToSql + Sync) = &oids;
    client.query_typed(sql, &[(oids, Type::OID_ARRAY)]).await.map_err(of_postgres)
}

fn version(row: &Row) -> (u32, i64) {
    (row.get(0), row.get(1))
}

fn describes(row: &Row, type_: &Type) -> bool {
    let of: Option<u32> = row.get(4);
    let within = match type_.kind() {
        Kind::Enum(labels) => row.get::<_, Vec<&str>>(7) == *labels,
        Kind::Composite(fields) => {
            let (names, oids) = (row.get::<_, Vec<&str>>(5), row.get::<_, Vec<u32>>(6));
            names.iter().copied().eq(fields.iter().map(|field| field.name()))
                && oids.into_iter().eq(fields.iter().map(|field| field.type_().oid()))
        }
        Kind::Array(inner) | Kind::Range(inner) | Kind::Domain(inner) => of == Some(inner.oid()),
        // A multirange, among others: `tokio_postgres` describes its name only.
        _ => true,
    };
    within && row.get::<_, &str>(2) == type_.name() && row.get::<_, &str>(3) == type_.schema()
}
