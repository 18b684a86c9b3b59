//! [`Column`]: the name and type of a column, and their encoding.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio_postgres::types::{Field, Kind, Type};

use super::cursor::Cursor;
use crate::error::Error;
use crate::sync::Mutex;

/// A column of a result.
#[derive(Clone, PartialEq, Eq)]
pub struct Column {
    name: String,
    table_oid: Option<u32>,
    column_id: Option<i16>,
    type_modifier: i32,
    type_: Type,
}

impl Column {
    /// The column's name, which need not be unique in its result.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The column's type, as `tokio_postgres` describes it: enums with their variants, composites
    /// with their fields, domains with their base type.
    pub fn type_(&self) -> &Type {
        &self.type_
    }

    /// The OID of the column's table, if the column is a plain column of a table.
    pub fn table_oid(&self) -> Option<u32> {
        self.table_oid
    }

    /// The column's number within that table.
    pub fn column_id(&self) -> Option<i16> {
        self.column_id
    }

    /// The type modifier, such as the length of a `varchar(20)`; -1 if there is none, and always from a
    /// source of sqlx, which does not tell it.
    pub fn type_modifier(&self) -> i32 {
        self.type_modifier
    }
}

impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Column")
            .field("name", &self.name)
            .field("type", &self.type_.name())
            .finish_non_exhaustive()
    }
}

/// The columns of a result, shared by all results with the same columns.
pub(crate) struct ColumnSet {
    columns: Vec<Column>,
    /// For each column, whether an earlier one has the same name; empty if all names are different.
    repeated: Vec<bool>,
    encoded: Bytes,
}

impl ColumnSet {
    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    pub(crate) fn is_first_of_its_name(&self, index: usize) -> bool {
        !self.repeated.get(index).copied().unwrap_or(false)
    }

    pub(crate) fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

/// The column sets that are in use.
///
/// A query returns the same columns each time it runs. A thousand cached results of it therefore
/// share one set, and reading a result from Redis compares bytes instead of building names and
/// types. The lock is taken when a result is loaded or read from Redis, never on a hit in memory.
#[derive(Default)]
pub struct ColumnSets(Mutex<Known>);

#[derive(Default)]
struct Known {
    sets: HashMap<Bytes, Weak<ColumnSet>>,
    /// Dead sets are removed when the map has this many sets; the limit then becomes twice the
    /// number of live ones, and at least 64.
    sweep_at: usize,
}

impl ColumnSets {
    /// The set that `encoded` describes; `None` if the bytes are malformed.
    pub(crate) fn decode(&self, encoded: &[u8]) -> Option<Arc<ColumnSet>> {
        let mut known = self.0.lock();
        if let Some(set) = known.sets.get(encoded).and_then(Weak::upgrade) {
            return Some(set);
        }
        let encoded = Bytes::copy_from_slice(encoded);
        let columns = decode(&encoded)?;
        let mut names = HashSet::new();
        let mut repeated: Vec<_> =
            columns.iter().map(|column| !names.insert(column.name())).collect();
        if names.len() == columns.len() {
            repeated = vec![];
        }
        let set = Arc::new(ColumnSet { columns, repeated, encoded: encoded.clone() });
        if known.sets.len() >= known.sweep_at {
            known.sets.retain(|_, set| set.strong_count() > 0);
            known.sweep_at = (2 * known.sets.len()).max(64);
        }
        known.sets.insert(encoded, Arc::downgrade(&set));
        Some(set)
    }

    /// The set of a statement's columns. The types of columns come from the database, so a type
    /// that cannot be encoded is an error.
    pub(crate) fn of_statement(
        &self,
        columns: &[tokio_postgres::Column],
    ) -> Result<Arc<ColumnSet>, Error> {
        self.of_described(columns.iter().map(|column| Described {
            name: column.name(),
            table_oid: column.table_oid(),
            column_id: column.column_id(),
            type_modifier: column.type_modifier(),
            type_: column.type_(),
        }))
    }

    /// The same for columns that any driver describes.
    pub(crate) fn of_described<'c>(
        &self,
        columns: impl ExactSizeIterator<Item = Described<'c>>,
    ) -> Result<Arc<ColumnSet>, Error> {
        let mut encoded = vec![];
        put_u32(&mut encoded, columns.len());
        for column in columns {
            if !can_be_encoded(column.type_) {
                return Err(Error::unsupported_type(column.name));
            }
            put_text(&mut encoded, column.name);
            encoded.extend_from_slice(&column.table_oid.unwrap_or(0).to_le_bytes());
            encoded.extend_from_slice(&column.column_id.unwrap_or(0).to_le_bytes());
            encoded.extend_from_slice(&column.type_modifier.to_le_bytes());
            put_type(&mut encoded, column.type_);
        }
        Ok(self.decode(&encoded).expect("columns just encoded can be decoded"))
    }
}

/// What PostgreSQL says of a column.
pub(crate) struct Described<'c> {
    pub(crate) name: &'c str,
    pub(crate) table_oid: Option<u32>,
    pub(crate) column_id: Option<i16>,
    pub(crate) type_modifier: i32,
    pub(crate) type_: &'c Type,
}

/// Whether `take_type` can read what `put_type` writes.
fn can_be_encoded(type_: &Type) -> bool {
    let mut open = vec![(type_, 0)];
    while let Some((type_, depth)) = open.pop() {
        if depth > DEEPEST {
            return false;
        }
        if Type::from_oid(type_.oid()).is_some() {
            continue;
        }
        match type_.kind() {
            Kind::Array(of) | Kind::Range(of) | Kind::Multirange(of) | Kind::Domain(of) => {
                open.push((of, depth + 1));
            }
            Kind::Composite(fields) => {
                open.extend(fields.iter().map(|field| (field.type_(), depth + 1)));
            }
            Kind::Simple | Kind::Enum(_) | Kind::Pseudo => {}
            _ => return false,
        }
    }
    true
}

/// The deepest nesting of types that is decoded, so that crafted bytes cannot exhaust the stack.
const DEEPEST: usize = 64;

/// The byte that encodes the kind of a type. After `BUILT_IN` comes the OID alone; after the others
/// come the OID, the schema, the name and the data of the kind.
mod tag {
    pub(super) const BUILT_IN: u8 = 0;
    pub(super) const SIMPLE: u8 = 1;
    pub(super) const ENUM: u8 = 2;
    pub(super) const PSEUDO: u8 = 3;
    pub(super) const ARRAY: u8 = 4;
    pub(super) const RANGE: u8 = 5;
    pub(super) const MULTIRANGE: u8 = 6;
    pub(super) const DOMAIN: u8 = 7;
    pub(super) const COMPOSITE: u8 = 8;
    /// A kind of a later `tokio_postgres`. Its encoding cannot be decoded, so an entry that
    /// contains it is a miss for every process that reads it from Redis.
    pub(super) const UNKNOWN: u8 = 255;
}

fn put_u32(out: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).expect("postgresql counts columns and names in 32 bits");
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u32(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_type(out: &mut Vec<u8>, type_: &Type) {
    if Type::from_oid(type_.oid()).as_ref() == Some(type_) {
        out.push(tag::BUILT_IN);
        out.extend_from_slice(&type_.oid().to_le_bytes());
        return;
    }
    out.push(match type_.kind() {
        Kind::Simple => tag::SIMPLE,
        Kind::Enum(_) => tag::ENUM,
        Kind::Pseudo => tag::PSEUDO,
        Kind::Array(_) => tag::ARRAY,
        Kind::Range(_) => tag::RANGE,
        Kind::Multirange(_) => tag::MULTIRANGE,
        Kind::Domain(_) => tag::DOMAIN,
        Kind::Composite(_) => tag::COMPOSITE,
        _ => tag::UNKNOWN,
    });
    out.extend_from_slice(&type_.oid().to_le_bytes());
    put_text(out, type_.schema());
    put_text(out, type_.name());
    match type_.kind() {
        Kind::Enum(variants) => {
            put_u32(out, variants.len());
            variants.iter().for_each(|variant| put_text(out, variant));
        }
        Kind::Array(of) | Kind::Range(of) | Kind::Multirange(of) | Kind::Domain(of) => {
            put_type(out, of);
        }
        Kind::Composite(fields) => {
            put_u32(out, fields.len());
            for field in fields {
                put_text(out, field.name());
                put_type(out, field.type_());
            }
        }
        _ => {}
    }
}

fn decode(encoded: &[u8]) -> Option<Vec<Column>> {
    let mut cursor = Cursor::new(encoded);
    let count = cursor.u32()?;
    // Not `with_capacity(count)`: the count is part of untrusted bytes and must not size an
    // allocation.
    let mut columns = vec![];
    for _ in 0..count {
        columns.push(Column {
            name: cursor.text()?.to_owned(),
            table_oid: Some(cursor.u32()?).filter(|&oid| oid != 0),
            column_id: Some(cursor.i16()?).filter(|&id| id != 0),
            type_modifier: cursor.i32()?,
            type_: take_type(&mut cursor, 0)?,
        });
    }
    columns.shrink_to_fit();
    cursor.is_empty().then_some(columns)
}

fn take_type(cursor: &mut Cursor<'_>, depth: usize) -> Option<Type> {
    if depth > DEEPEST {
        return None;
    }
    let tag = cursor.u8()?;
    let oid = cursor.u32()?;
    if tag == tag::BUILT_IN {
        return Type::from_oid(oid);
    }
    let schema = cursor.text()?.to_owned();
    let name = cursor.text()?.to_owned();
    let kind = match tag {
        tag::SIMPLE => Kind::Simple,
        tag::PSEUDO => Kind::Pseudo,
        tag::ENUM => {
            let count = cursor.u32()?;
            let mut variants = vec![];
            for _ in 0..count {
                variants.push(cursor.text()?.to_owned());
            }
            Kind::Enum(variants)
        }
        tag::ARRAY => Kind::Array(take_type(cursor, depth + 1)?),
        tag::RANGE => Kind::Range(take_type(cursor, depth + 1)?),
        tag::MULTIRANGE => Kind::Multirange(take_type(cursor, depth + 1)?),
        tag::DOMAIN => Kind::Domain(take_type(cursor, depth + 1)?),
        tag::COMPOSITE => {
            let count = cursor.u32()?;
            let mut fields = vec![];
            for _ in 0..count {
                let name = cursor.text()?.to_owned();
                fields.push(Field::new(name, take_type(cursor, depth + 1)?));
            }
            Kind::Composite(fields)
        }
        _ => return None,
    };
    Some(Type::new(name, oid, kind, schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(type_: &Type) -> Option<Type> {
        let mut encoded = vec![];
        put_type(&mut encoded, type_);
        let mut cursor = Cursor::new(&encoded);
        let back = take_type(&mut cursor, 0);
        assert!(back.is_none() || cursor.is_empty());
        back
    }

    fn user(name: &str, oid: u32, kind: Kind) -> Type {
        Type::new(name.into(), oid, kind, "public".into())
    }

    #[test]
    fn types_of_every_kind_come_back_as_they_were() {
        let mood = user("mood", 70_000, Kind::Enum(vec!["sad".into(), "ok".into()]));
        let fields = vec![
            Field::new("how".into(), mood.clone()),
            Field::new("many".into(), Type::INT4_ARRAY),
        ];
        let pair = user("pair", 70_001, Kind::Composite(fields));
        for type_ in [
            Type::INT8,
            Type::TEXT_ARRAY,
            Type::INT4_RANGE,
            mood.clone(),
            user("_mood", 70_002, Kind::Array(mood.clone())),
            user("moods", 70_003, Kind::Range(mood.clone())),
            user("many_moods", 70_004, Kind::Multirange(mood.clone())),
            user("bad_mood", 70_005, Kind::Domain(mood)),
            user("_pair", 70_006, Kind::Array(pair)),
            user("opaque", 70_007, Kind::Simple),
            user("odd", 70_008, Kind::Pseudo),
        ] {
            assert_eq!(round_trip(&type_), Some(type_));
        }
    }

    #[test]
    fn a_type_nested_without_end_is_refused() {
        let mut type_ = Type::INT4;
        for oid in 0..1000 {
            type_ = user("onion", 80_000 + oid, Kind::Array(type_));
        }
        assert_eq!(round_trip(&type_), None);
    }

    #[test]
    fn a_type_can_be_encoded_exactly_if_it_can_be_decoded() {
        let mut type_ = Type::INT4;
        for depth in 0..100 {
            assert_eq!(can_be_encoded(&type_), depth <= DEEPEST, "{depth}");
            assert_eq!(round_trip(&type_).is_some(), depth <= DEEPEST, "{depth}");
            type_ = user("onion", 80_000, Kind::Domain(type_));
        }
    }

    #[test]
    fn equal_columns_are_one_set_and_dead_sets_are_swept() {
        let sets = ColumnSets::default();
        let encoded = |name: &str| {
            let mut out = vec![];
            put_u32(&mut out, 1);
            put_text(&mut out, name);
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(&(-1_i32).to_le_bytes());
            put_type(&mut out, &Type::INT8);
            out
        };
        let one = sets.decode(&encoded("sum")).unwrap();
        assert!(Arc::ptr_eq(&one, &sets.decode(&encoded("sum")).unwrap()));
        assert_eq!(one.columns()[0].name(), "sum");
        assert_eq!(one.columns()[0].type_modifier(), -1);
        for n in 0..1000 {
            sets.decode(&encoded(&format!("column {n}"))).unwrap();
        }
        assert!(sets.0.lock().sets.len() <= 128);
    }

    #[test]
    fn bytes_that_promise_more_than_they_hold_are_refused() {
        let sets = ColumnSets::default();
        assert!(sets.decode(&u32::MAX.to_le_bytes()).is_none());
        assert!(sets.decode(&[]).is_none());
        assert!(sets.decode(&[0, 0, 0, 0, 9]).is_none());
    }
}
