//! Describes types as `tokio_postgres` does, from the catalogs, over a connection of sqlx.
//!
//! sqlx keeps descriptions of its own and cannot be told that they are outdated, so they are not used.
//! Each load whose statement has types of a user describes them anew. Their versions are compared after
//! the query; see [`types`](crate::postgres::types).

use std::collections::{BTreeMap, BTreeSet};

use ::sqlx::postgres::types::Oid;
use ::sqlx::postgres::{PgConnection, PgRow};
use ::sqlx::{AssertSqlSafe, Row};
use tokio_postgres::types::{Field, Kind, Type};

use super::of_sqlx;
use crate::error::Error;
use crate::postgres::statements::Versions;
use crate::postgres::types::{FROM, VERSION, VERSIONS};

/// How deeply types may be nested. Rows hold no deeper ones.
const DEEPEST: u32 = 66;

/// As `tokio_postgres` asks for it.
fn descriptions() -> String {
    format!(
        "SELECT t.oid, {VERSION}, t.typname::text, n.nspname::text, t.typtype::text, t.typbasetype, \
           t.typelem, t.typrelid, \
           (SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid), \
           ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid \
             AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum), \
           ARRAY(SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid \
             AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum), \
           ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid \
             ORDER BY e.enumsortorder) {FROM}"
    )
}

/// The types of a statement.
pub(super) struct Types {
    described: BTreeMap<u32, Description>,
}

struct Description {
    version: i64,
    name: String,
    schema: String,
    kind: Of,
}

/// The kind, with the OIDs of the types that it is made of.
enum Of {
    Simple,
    Pseudo,
    Enum(Vec<String>),
    Domain(u32),
    Array(u32),
    Range(u32),
    Composite(Vec<(String, u32)>),
}

impl Types {
    /// Describes the types that are not PostgreSQL's own, with all that they are made of.
    pub(super) async fn describe(
        connection: &mut PgConnection,
        oids: impl Iterator<Item = u32>,
    ) -> Result<Types, Error> {
        let mut described = BTreeMap::new();
        let is_users = |oid: &u32| Type::from_oid(*oid).is_none();
        let mut open: BTreeSet<u32> = oids.filter(is_users).collect();
        while !open.is_empty() {
            let asked: Vec<Oid> = open.iter().copied().map(Oid).collect();
            open.clear();
            let query = ::sqlx::query(AssertSqlSafe(descriptions())).persistent(false).bind(asked);
            for row in query.fetch_all(&mut *connection).await.map_err(of_sqlx)? {
                let (oid, description) = Description::of(&row).map_err(of_sqlx)?;
                open.extend(description.kind.parts().filter(is_users));
                described.insert(oid, description);
            }
            open.retain(|oid| !described.contains_key(oid));
        }
        Ok(Types { described })
    }

    /// The type with this OID; `None` if it does not exist any more.
    pub(super) fn get(&self, oid: u32) -> Option<Type> {
        self.nested(oid, 0)
    }

    fn nested(&self, oid: u32, depth: u32) -> Option<Type> {
        if let Some(known) = Type::from_oid(oid) {
            return Some(known);
        }
        let Description { name, schema, kind, .. } = self.described.get(&oid)?;
        if depth > DEEPEST {
            // The columns are checked for their depth, and refused with a better error.
            return Some(Type::new(name.clone(), oid, Kind::Simple, schema.clone()));
        }
        let part = |oid: &u32| self.nested(*oid, depth + 1);
        let kind = match kind {
            Of::Simple => Kind::Simple,
            Of::Pseudo => Kind::Pseudo,
            Of::Enum(labels) => Kind::Enum(labels.clone()),
            Of::Domain(of) => Kind::Domain(part(of)?),
            Of::Array(of) => Kind::Array(part(of)?),
            Of::Range(of) => Kind::Range(part(of)?),
            Of::Composite(fields) => {
                let field =
                    |(name, oid): &(String, u32)| Some(Field::new(name.clone(), part(oid)?));
                Kind::Composite(fields.iter().map(field).collect::<Option<_>>()?)
            }
        };
        Some(Type::new(name.clone(), oid, kind, schema.clone()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.described.is_empty()
    }

    /// Whether the types are described in the database as they were.
    pub(super) async fn are_current(&self, connection: &mut PgConnection) -> Result<bool, Error> {
        let oids: Vec<Oid> = self.described.keys().copied().map(Oid).collect();
        let query = ::sqlx::query(VERSIONS).persistent(false).bind(oids);
        let rows = query.fetch_all(connection).await.map_err(of_sqlx)?;
        let version = |row: PgRow| Ok((row.try_get::<Oid, _>(0)?.0, row.try_get::<i64, _>(1)?));
        let now: Result<Versions, ::sqlx::Error> = rows.into_iter().map(version).collect();
        let before = self.described.iter().map(|(&oid, it)| (oid, it.version));
        Ok(before.eq(now.map_err(of_sqlx)?))
    }
}

impl Description {
    fn of(row: &PgRow) -> Result<(u32, Description), ::sqlx::Error> {
        let oid = |at: usize| row.try_get::<Oid, _>(at).map(|oid| oid.0);
        let (base, element, relation) = (oid(5)?, oid(6)?, oid(7)?);
        let range: Option<Oid> = row.try_get(8)?;
        // In the order in which `tokio_postgres` looks.
        let kind = match row.try_get::<&str, _>(4)? {
            "e" => Of::Enum(row.try_get(11)?),
            "p" => Of::Pseudo,
            _ if base != 0 => Of::Domain(base),
            _ if element != 0 => Of::Array(element),
            _ if relation != 0 => {
                let (names, oids): (Vec<String>, Vec<Oid>) = (row.try_get(9)?, row.try_get(10)?);
                Of::Composite(names.into_iter().zip(oids.into_iter().map(|oid| oid.0)).collect())
            }
            _ => range.map_or(Of::Simple, |of| Of::Range(of.0)),
        };
        let (name, schema) = (row.try_get(2)?, row.try_get(3)?);
        Ok((oid(0)?, Description { version: row.try_get(1)?, name, schema, kind }))
    }
}

impl Of {
    fn parts(&self) -> impl Iterator<Item = u32> {
        let (one, fields) = match self {
            Of::Domain(of) | Of::Array(of) | Of::Range(of) => (Some(*of), &[][..]),
            Of::Composite(fields) => (None, &fields[..]),
            Of::Simple | Of::Pseudo | Of::Enum(_) => (None, &[][..]),
        };
        one.into_iter().chain(fields.iter().map(|(_, oid)| *oid))
    }
}
