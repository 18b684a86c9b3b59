//! Serializes rows: as an array of objects, with values as PostgreSQL's `row_to_json` writes them.
//!
//! The rules are those of `datum_to_json` in PostgreSQL's `src/backend/utils/adt/json.c`.

use std::borrow::Cow;

use serde::ser::{Error as _, SerializeMap};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use tokio_postgres::types::{Kind, Type};

use super::cursor::Cursor;
use super::external;
use super::refused::Refused;
use super::text::MALFORMED;
use super::{Row, Rows};

/// How deeply values may be nested. The types of an anonymous record are in its bytes.
const DEEPEST: u32 = 64;

impl Serialize for Rows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self)
    }
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (at, column) in self.columns().iter().enumerate() {
            let value = part(column.type_(), self.raw(at), 0).map_err(|Refused(why)| {
                let (name, type_) = (column.name(), column.type_().name());
                S::Error::custom(format!("column {name:?} of type {type_}: {why}"))
            })?;
            map.serialize_entry(column.name(), &value)?;
        }
        map.end()
    }
}

/// A value as JSON has it.
enum Part<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    /// With the digits that PostgreSQL prints.
    Float(f64, String),
    Numeric(String),
    Json(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Part<'a>>),
    Map(Vec<(Cow<'a, str>, Part<'a>)>),
}

fn malformed() -> Refused {
    Refused(MALFORMED.into())
}

fn utf8(raw: &[u8]) -> Result<&str, Refused> {
    std::str::from_utf8(raw).map_err(|_| malformed())
}

/// `depth`: in how many other values it is.
fn part<'a>(type_: &Type, raw: Option<&'a [u8]>, depth: u32) -> Result<Part<'a>, Refused> {
    let Some(raw) = raw else { return Ok(Part::Null) };
    if depth > DEEPEST {
        return Err(Refused("it is nested deeper than 64 levels".into()));
    }
    let depth = depth + 1;
    match type_.kind() {
        Kind::Domain(of) => return part(of, Some(raw), depth),
        Kind::Array(element) => return array(element, raw, depth),
        Kind::Composite(_) => return record(type_, raw, depth),
        _ if *type_ == Type::RECORD => return record(type_, raw, depth),
        // Of a kind of its own to the driver.
        _ if *type_ == Type::RECORD_ARRAY => return array(&Type::RECORD, raw, depth),
        _ => {}
    }
    let mut cursor = Cursor::new(raw);
    let text = || external::text(type_, raw);
    let integer = |number: Option<i64>| number.map(Part::Integer).ok_or_else(malformed);
    match *type_ {
        Type::BOOL => raw.first().map(|&byte| Part::Bool(byte != 0)).ok_or_else(malformed),
        Type::INT2 => integer(cursor.be_i16().map(i64::from)),
        Type::INT4 => integer(cursor.be_i32().map(i64::from)),
        Type::INT8 => integer(cursor.be_i64()),
        Type::FLOAT4 => {
            let bits = cursor.be_i32().ok_or_else(malformed)? as u32;
            Ok(Part::Float(f64::from(f32::from_bits(bits)), text()?))
        }
        Type::FLOAT8 => {
            let bits = cursor.be_i64().ok_or_else(malformed)? as u64;
            Ok(Part::Float(f64::from_bits(bits), text()?))
        }
        Type::NUMERIC => text().map(Part::Numeric),
        Type::JSON => utf8(raw).map(Part::Json),
        Type::JSONB => raw.strip_prefix(&[1]).ok_or_else(malformed).and_then(utf8).map(Part::Json),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR => utf8(raw).map(|text| Part::Text(text.into())),
        Type::TIMESTAMP => text().map(|text| Part::Text(iso(&text, "").into())),
        // The binary form is in UTC, and so is the text.
        Type::TIMESTAMPTZ => text().map(|text| Part::Text(iso(&text, ":00").into())),
        _ if type_.name() == "hstore" => pairs(&mut cursor).ok_or_else(malformed),
        _ => text().map(|text| Part::Text(text.into())),
    }
}

/// A composite or a record: the number of fields, then the type and the value of each.
fn record<'a>(type_: &Type, raw: &'a [u8], depth: u32) -> Result<Part<'a>, Refused> {
    let mut cursor = Cursor::new(raw);
    let count = cursor.be_i32().and_then(|count| usize::try_from(count).ok());
    let known = match type_.kind() {
        Kind::Composite(fields) => Some(fields),
        _ => None,
    };
    let count = count
        .filter(|count| known.is_none_or(|fields| fields.len() == *count))
        .ok_or_else(malformed)?;
    let mut found = vec![];
    for at in 0..count {
        let oid = cursor.be_i32().ok_or_else(malformed)? as u32;
        let raw = cursor.field().ok_or_else(malformed)?;
        found.push(match known {
            Some(fields) => {
                let field = &fields[at];
                (field.name().to_owned().into(), part(field.type_(), raw, depth)?)
            }
            None => {
                let type_ = Type::from_oid(oid).ok_or_else(|| {
                    Refused(
                        "a field of the record is of a type that PostgreSQL does not describe; cast \
                         it in the query"
                            .into(),
                    )
                })?;
                (format!("f{}", at + 1).into(), part(&type_, raw, depth)?)
            }
        });
    }
    Ok(Part::Map(found))
}

/// An array: the number of dimensions, a flag, the element's type, the length and the lower bound of
/// each dimension, and the elements.
fn array<'a>(element: &Type, raw: &'a [u8], depth: u32) -> Result<Part<'a>, Refused> {
    let mut cursor = Cursor::new(raw);
    let mut parse = || {
        let count = usize::try_from(cursor.be_i32()?).ok().filter(|&count| count <= 6)?;
        cursor.take(8)?;
        let mut lengths = vec![];
        for _ in 0..count {
            lengths.push(cursor.be_i32().filter(|&length| length >= 0)?);
            cursor.take(4)?;
        }
        Some(lengths)
    };
    let lengths = parse().ok_or_else(malformed)?;
    // An empty array has no dimensions, or, as an `int2vector`, one of no elements.
    if lengths.iter().all(|&length| length == 0) {
        return Ok(Part::List(vec![]));
    }
    if lengths.contains(&0) {
        return Err(malformed());
    }
    elements(element, &lengths, &mut cursor, depth)
}

/// No length sizes an allocation: it is part of the bytes.
fn elements<'a>(
    element: &Type,
    lengths: &[i32],
    cursor: &mut Cursor<'a>,
    depth: u32,
) -> Result<Part<'a>, Refused> {
    let Some((&length, deeper)) = lengths.split_first() else {
        return part(element, cursor.field().ok_or_else(malformed)?, depth);
    };
    let mut found = vec![];
    for _ in 0..length {
        found.push(elements(element, deeper, cursor, depth)?);
    }
    Ok(Part::List(found))
}

/// `hstore` has a cast to `json`, which `row_to_json` uses.
fn pairs<'a>(cursor: &mut Cursor<'a>) -> Option<Part<'a>> {
    let text = |raw: &'a [u8]| std::str::from_utf8(raw).ok().map(Cow::Borrowed);
    let mut found = vec![];
    for _ in 0..cursor.be_i32()? {
        let key = text(cursor.field()??)?;
        let value = match cursor.field()? {
            Some(raw) => Part::Text(text(raw)?),
            None => Part::Null,
        };
        found.push((key, value));
    }
    Some(Part::Map(found))
}

/// A timestamp with a `T` between date and time, and an offset with minutes.
fn iso(text: &str, minutes: &str) -> String {
    if text.ends_with("infinity") {
        return text.to_owned();
    }
    let (text, era) = match text.strip_suffix(" BC") {
        Some(text) => (text, " BC"),
        None => (text, ""),
    };
    format!("{}{minutes}{era}", text.replacen(' ', "T", 1))
}

impl Serialize for Part<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Part::Null => serializer.serialize_none(),
            Part::Bool(value) => serializer.serialize_bool(*value),
            Part::Integer(value) => serializer.serialize_i64(*value),
            Part::Float(_, text) if !is_number(text) => serializer.serialize_str(text),
            Part::Float(_, text) if serializer.is_human_readable() => raw(text, serializer),
            Part::Float(value, _) => serializer.serialize_f64(*value),
            Part::Numeric(text) if is_number(text) && serializer.is_human_readable() => {
                raw(text, serializer)
            }
            Part::Numeric(text) => serializer.serialize_str(text),
            Part::Text(text) => serializer.serialize_str(text),
            Part::Json(text) if serializer.is_human_readable() => raw(text, serializer),
            Part::Json(text) => {
                let json: Result<serde_json::Value, _> = serde_json::from_str(text);
                json.map_err(|_| no_json::<S::Error>())?.serialize(serializer)
            }
            Part::List(values) => serializer.collect_seq(values),
            Part::Map(fields) => {
                serializer.collect_map(fields.iter().map(|(name, value)| (name, value)))
            }
        }
    }
}

/// Not `NaN` or `Infinity`, which JSON has as text.
fn is_number(text: &str) -> bool {
    text.ends_with(|last: char| last.is_ascii_digit())
}

/// JSON as it is: a number with all its digits, where most serializers would make a float of it.
fn raw<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let json: Result<&RawValue, _> = serde_json::from_str(text);
    json.map_err(|_| no_json::<S::Error>())?.serialize(serializer)
}

fn no_json<E: serde::ser::Error>() -> E {
    E::custom("the json cannot be parsed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_do_not_fit_are_an_error_and_never_a_panic() {
        let types =
            [Type::RECORD, Type::RECORD_ARRAY, Type::JSONB_ARRAY, Type::TIMESTAMPTZ, Type::FLOAT4];
        let hstore = Type::new("hstore".into(), 70_000, Kind::Simple, "public".into());
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(..40))
                .map(|_| if random.bool() { random.u8(..4) } else { random.u8(..) })
                .collect();
            for type_ in types.iter().chain([&hstore]) {
                if let Ok(part) = part(type_, Some(&bytes), 0) {
                    let _ = serde_json::to_string(&part);
                }
            }
        }
    }

    #[test]
    fn a_record_that_is_nested_too_deeply_is_an_error() {
        let mut raw = 0_i32.to_be_bytes().to_vec();
        for _ in 0..100 {
            let mut outer = 1_i32.to_be_bytes().to_vec();
            outer.extend(Type::RECORD.oid().to_be_bytes());
            outer.extend((raw.len() as i32).to_be_bytes());
            outer.extend(&raw);
            raw = outer;
        }
        let Err(Refused(why)) = part(&Type::RECORD, Some(&raw), 0) else { panic!("it was read") };
        assert!(why.contains("64 levels"), "{why}");
    }
}
