//! Values in PostgreSQL's own text form, for types that have no usual form in serde: ranges, geometry,
//! text search, network addresses of hardware, anonymous records and others.
//!
//! The text is what `::text` gives with the default settings and the time zone UTC. The binary forms
//! are those of the `*_send` functions in PostgreSQL's `src/backend/utils/adt`.

use std::fmt::Write;

use tokio_postgres::types::{Kind, Type};

use super::cursor::Cursor;
use super::refused::Refused;
use super::search;
use super::text::{self, MALFORMED};

type Text = Result<String, Refused>;

/// How deeply values may be nested.
const DEEPEST: u32 = 64;

/// Reads a value; `None` if its bytes do not match its type.
fn read(text: Option<String>) -> Text {
    text.ok_or_else(|| Refused(MALFORMED.into()))
}

/// The text of a value, or an error if its type is not one of those that can be written.
pub(super) fn text(type_: &Type, raw: &[u8]) -> Text {
    within(type_, raw, 0)
}

/// `depth`: in how many other values it is. The types of a record are in its bytes, so those decide how
/// deep it is.
fn within(type_: &Type, raw: &[u8], depth: u32) -> Text {
    if depth > DEEPEST {
        return Err(Refused("it is nested deeper than 64 levels".into()));
    }
    let depth = depth + 1;
    match type_.kind() {
        Kind::Domain(of) => return within(of, raw, depth),
        Kind::Enum(_) => return utf8(raw),
        Kind::Array(element) => return array(element, raw, depth),
        Kind::Range(element) => return range(element, raw, depth),
        Kind::Multirange(element) => return multirange(element, raw, depth),
        Kind::Composite(_) => return record(type_, raw, depth),
        _ => {}
    }
    let mut cursor = Cursor::new(raw);
    read(match *type_ {
        Type::RECORD => return record(type_, raw, depth),
        Type::TEXT
        | Type::VARCHAR
        | Type::BPCHAR
        | Type::NAME
        | Type::UNKNOWN
        | Type::XML
        | Type::REFCURSOR => return utf8(raw),
        Type::JSON => return utf8(raw),
        Type::JSONB | Type::JSONPATH => return versioned(raw),
        Type::BOOL => raw.first().map(|&byte| if byte == 0 { "f" } else { "t" }.to_owned()),
        Type::CHAR => raw.first().map(|&byte| match byte {
            0 => String::new(),
            1..=127 => char::from(byte).to_string(),
            _ => format!("\\{byte:03o}"),
        }),
        Type::INT2 => cursor.be_i16().map(|it| it.to_string()),
        Type::INT4 => cursor.be_i32().map(|it| it.to_string()),
        Type::INT8 => cursor.be_i64().map(|it| it.to_string()),
        Type::OID | Type::XID | Type::CID => cursor.be_i32().map(|it| (it as u32).to_string()),
        Type::XID8 => cursor.be_i64().map(|it| (it as u64).to_string()),
        Type::FLOAT4 => cursor.be_i32().map(|it| single(f32::from_bits(it as u32))),
        Type::FLOAT8 => float(&mut cursor),
        Type::NUMERIC => text::numeric(raw),
        Type::BYTEA => {
            let mut out = "\\x".to_owned();
            for byte in raw {
                let _ = write!(out, "{byte:02x}");
            }
            Some(out)
        }
        Type::UUID => text::uuid(raw),
        Type::DATE => text::date(raw).map(|it| of_era(&it, "")),
        Type::TIME => text::time(raw),
        Type::TIMETZ => timetz(&mut cursor),
        Type::TIMESTAMP => text::timestamp(raw, "").map(|it| of_era(&it, "")),
        Type::TIMESTAMPTZ => text::timestamp(raw, "").map(|it| of_era(&it, "+00")),
        Type::INTERVAL => text::interval_of_postgres(raw),
        Type::INET | Type::CIDR => text::inet(raw),
        Type::MACADDR | Type::MACADDR8 => {
            let bytes: Vec<String> = raw.iter().map(|byte| format!("{byte:02x}")).collect();
            matches!(raw.len(), 6 | 8).then(|| bytes.join(":"))
        }
        Type::BIT | Type::VARBIT => bits(&mut cursor),
        Type::TID => cursor
            .be_i32()
            .zip(cursor.be_i16())
            .map(|(block, offset)| format!("({},{})", block as u32, offset as u16)),
        Type::PG_LSN => cursor.be_i64().map(|it| {
            let it = it as u64;
            format!("{:X}/{:X}", it >> 32, it & 0xFFFF_FFFF)
        }),
        Type::POINT => points(&mut cursor, 1),
        Type::LSEG => points(&mut cursor, 2).map(|ends| format!("[{ends}]")),
        Type::BOX => points(&mut cursor, 2),
        Type::LINE => floats(&mut cursor, 3).map(|parts| format!("{{{parts}}}")),
        Type::CIRCLE => {
            let centre = points(&mut cursor, 1);
            centre.zip(float(&mut cursor)).map(|(centre, radius)| format!("<{centre},{radius}>"))
        }
        Type::PATH => path(&mut cursor),
        Type::POLYGON => count(&mut cursor, 16)
            .and_then(|count| points(&mut cursor, count))
            .map(|points| format!("({points})")),
        Type::TS_VECTOR => search::vector(&mut cursor),
        Type::TSQUERY => search::query(&mut cursor),
        _ => match type_.name() {
            "citext" => return utf8(raw),
            "ltree" | "lquery" | "ltxtquery" => return versioned(raw),
            "hstore" => hstore(&mut cursor),
            _ => {
                return Err(Refused(
                    "serde has no form for this type; read it with `get`, or cast it to text in the \
                     query"
                        .into(),
                ));
            }
        },
    })
}

fn utf8(raw: &[u8]) -> Text {
    String::from_utf8(raw.to_vec()).map_err(|_| Refused("the text is not UTF-8".into()))
}

/// A version, 1, and text.
fn versioned(raw: &[u8]) -> Text {
    utf8(raw.strip_prefix(&[1]).ok_or_else(|| Refused(MALFORMED.into()))?)
}

/// A number of elements that the rest of the bytes can hold.
fn count(cursor: &mut Cursor<'_>, least: usize) -> Option<usize> {
    let count = usize::try_from(cursor.be_i32()?).ok()?;
    (count.checked_mul(least)? <= cursor.len()).then_some(count)
}

/// A date or a timestamp in ISO 8601 as PostgreSQL writes it: years before 1 have an era, and years
/// after 9999 no sign.
fn of_era(iso: &str, zone: &str) -> String {
    if iso.ends_with("infinity") {
        return iso.to_owned();
    }
    let iso = iso.replacen('T', " ", 1);
    let Some(before) = iso.strip_prefix('-') else {
        return format!("{}{zone}", iso.trim_start_matches('+'));
    };
    let (year, rest) = before.split_once('-').unwrap_or((before, ""));
    let year: i64 = year.parse().unwrap_or(0);
    format!("{:04}-{rest}{zone} BC", year + 1)
}

fn timetz(cursor: &mut Cursor<'_>) -> Option<String> {
    let time = text::time(cursor.take(8)?)?;
    // Seconds west of Greenwich.
    let west = cursor.be_i32()?;
    let (sign, zone) = (if west > 0 { '-' } else { '+' }, west.unsigned_abs());
    let mut out = format!("{time}{sign}{:02}", zone / 3600);
    if zone % 3600 != 0 {
        let _ = write!(out, ":{:02}", zone / 60 % 60);
    }
    if zone % 60 != 0 {
        let _ = write!(out, ":{:02}", zone % 60);
    }
    Some(out)
}

fn bits(cursor: &mut Cursor<'_>) -> Option<String> {
    let length = usize::try_from(cursor.be_i32()?).ok()?;
    let bytes = cursor.take(length.div_ceil(8))?;
    let bit = |at: usize| if bytes[at / 8] >> (7 - at % 8) & 1 == 1 { '1' } else { '0' };
    Some((0..length).map(bit).collect())
}

/// The shortest digits that read back as the same number, and from `many` digits before the point on
/// with an exponent.
fn shortest(scientific: &str, plain: &str, many: i32) -> String {
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..many).contains(&exponent) {
        return plain.to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn single(number: f32) -> String {
    match number {
        _ if number.is_nan() => "NaN".into(),
        _ if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        _ => shortest(&format!("{number:e}"), &number.to_string(), 6),
    }
}

fn double(number: f64) -> String {
    match number {
        _ if number.is_nan() => "NaN".into(),
        _ if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        _ => shortest(&format!("{number:e}"), &number.to_string(), 15),
    }
}

fn float(cursor: &mut Cursor<'_>) -> Option<String> {
    cursor.be_i64().map(|bits| double(f64::from_bits(bits as u64)))
}

fn floats(cursor: &mut Cursor<'_>, count: usize) -> Option<String> {
    let numbers: Option<Vec<String>> = (0..count).map(|_| float(cursor)).collect();
    Some(numbers?.join(","))
}

fn points(cursor: &mut Cursor<'_>, count: usize) -> Option<String> {
    let point = |_| floats(cursor, 2).map(|point| format!("({point})"));
    let points: Option<Vec<String>> = (0..count).map(point).collect();
    Some(points?.join(","))
}

fn path(cursor: &mut Cursor<'_>) -> Option<String> {
    let closed = cursor.u8()? != 0;
    let count = count(cursor, 16)?;
    let points = points(cursor, count)?;
    Some(if closed { format!("({points})") } else { format!("[{points}]") })
}

fn hstore(cursor: &mut Cursor<'_>) -> Option<String> {
    let quoted = |raw: &[u8]| {
        let text = std::str::from_utf8(raw).ok()?;
        Some(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
    };
    let pairs = (0..count(cursor, 8)?).map(|_| {
        let (key, value) = (cursor.field()??, cursor.field()?);
        let value = value.map_or(Some("NULL".to_owned()), quoted)?;
        Some(format!("{}=>{value}", quoted(key)?))
    });
    Some(pairs.collect::<Option<Vec<_>>>()?.join(", "))
}

fn is_space(character: char) -> bool {
    character.is_ascii_whitespace() || character == '\x0b'
}

/// A part of a range or a record: in quotes if it has one of these characters, a blank or nothing.
fn quoted(part: &str, special: &str) -> String {
    if !part.is_empty() && !part.contains(|it: char| is_space(it) || special.contains(it)) {
        return part.to_owned();
    }
    format!("\"{}\"", part.replace('\\', "\\\\").replace('"', "\"\""))
}

/// A range: flags, and the bounds that it has.
fn range(element: &Type, raw: &[u8], depth: u32) -> Text {
    const EMPTY: u8 = 1;
    const LOWER_INCLUSIVE: u8 = 2;
    const UPPER_INCLUSIVE: u8 = 4;
    const LOWER_INFINITE: u8 = 8;
    const UPPER_INFINITE: u8 = 16;
    let malformed = || Refused(MALFORMED.into());
    let mut cursor = Cursor::new(raw);
    let flags = cursor.u8().ok_or_else(malformed)?;
    if flags & EMPTY != 0 {
        return Ok("empty".to_owned());
    }
    let mut bound = |infinite: u8| -> Text {
        if flags & infinite != 0 {
            return Ok(String::new());
        }
        let raw = cursor.field().flatten().ok_or_else(malformed)?;
        Ok(quoted(&within(element, raw, depth)?, "\"\\()[],"))
    };
    let (lower, upper) = (bound(LOWER_INFINITE)?, bound(UPPER_INFINITE)?);
    let open = if flags & LOWER_INCLUSIVE != 0 { '[' } else { '(' };
    let close = if flags & UPPER_INCLUSIVE != 0 { ']' } else { ')' };
    Ok(format!("{open}{lower},{upper}{close}"))
}

fn multirange(element: &Type, raw: &[u8], depth: u32) -> Text {
    let malformed = || Refused(MALFORMED.into());
    let mut cursor = Cursor::new(raw);
    let count = count(&mut cursor, 4).ok_or_else(malformed)?;
    let ranges = (0..count).map(|_| {
        let raw = cursor.field().flatten().ok_or_else(malformed)?;
        // A multirange is made of ranges; some descriptions name those, others what they are of.
        match element.kind() {
            Kind::Range(of) => range(of, raw, depth),
            _ => range(element, raw, depth),
        }
    });
    Ok(format!("{{{}}}", ranges.collect::<Result<Vec<_>, _>>()?.join(",")))
}

/// A record: the number of fields, then the type and the value of each. Types of an anonymous record
/// are known if they are PostgreSQL's own.
fn record(type_: &Type, raw: &[u8], depth: u32) -> Text {
    let malformed = || Refused(MALFORMED.into());
    let mut cursor = Cursor::new(raw);
    let count = count(&mut cursor, 8).ok_or_else(malformed)?;
    let known = match type_.kind() {
        Kind::Composite(fields) => Some(fields),
        _ => None,
    };
    let fields = (0..count).map(|at| {
        let oid = cursor.be_i32().ok_or_else(malformed)? as u32;
        let Some(raw) = cursor.field().ok_or_else(malformed)? else { return Ok(String::new()) };
        let field = match known {
            Some(fields) => fields.get(at).map(|field| field.type_().clone()),
            None => Type::from_oid(oid),
        };
        let field = field.ok_or_else(|| {
            Refused("serde has no form for a field of the record; cast it in the query".into())
        })?;
        Ok(quoted(&within(&field, raw, depth)?, "\"\\(),"))
    });
    Ok(format!("({})", fields.collect::<Result<Vec<_>, _>>()?.join(",")))
}

/// An array: the number of dimensions, a flag, the element's type, the length and the lower bound of
/// each dimension, and the elements.
fn array(element: &Type, raw: &[u8], depth: u32) -> Text {
    let malformed = || Refused(MALFORMED.into());
    let mut cursor = Cursor::new(raw);
    let mut parse = || {
        let count = usize::try_from(cursor.be_i32()?).ok().filter(|&count| count <= 6)?;
        cursor.take(8)?;
        let mut dimensions = vec![];
        for _ in 0..count {
            let length = cursor.be_i32().filter(|&length| length > 0)?;
            dimensions.push((usize::try_from(length).ok()?, cursor.be_i32()?));
        }
        Some(dimensions)
    };
    let dimensions = parse().ok_or_else(malformed)?;
    if dimensions.is_empty() {
        return Ok("{}".to_owned());
    }
    let mut out = String::new();
    if dimensions.iter().any(|&(_, lower)| lower != 1) {
        for &(length, lower) in &dimensions {
            let _ = write!(out, "[{lower}:{}]", i64::from(lower) + length as i64 - 1);
        }
        out.push('=');
    }
    elements(element, &dimensions, &mut cursor, &mut out, depth)?;
    Ok(out)
}

fn elements(
    element: &Type,
    dimensions: &[(usize, i32)],
    cursor: &mut Cursor<'_>,
    out: &mut String,
    depth: u32,
) -> Result<(), Refused> {
    let Some((&(length, _), deeper)) = dimensions.split_first() else {
        let raw = cursor.field().ok_or_else(|| Refused(MALFORMED.into()))?;
        let Some(raw) = raw else {
            out.push_str("NULL");
            return Ok(());
        };
        let text = within(element, raw, depth)?;
        let special = |it: char| is_space(it) || "\"\\{}".contains(it) || it == delimiter(element);
        if text.is_empty() || text.eq_ignore_ascii_case("null") || text.contains(special) {
            let _ = write!(out, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        } else {
            out.push_str(&text);
        }
        return Ok(());
    };
    out.push('{');
    for at in 0..length {
        if at > 0 {
            out.push(delimiter(element));
        }
        elements(element, deeper, cursor, out, depth)?;
    }
    out.push('}');
    Ok(())
}

fn delimiter(element: &Type) -> char {
    if *element == Type::BOX { ';' } else { ',' }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_do_not_fit_are_an_error_and_never_a_panic() {
        let types = [
            Type::RECORD,
            Type::RECORD_ARRAY,
            Type::INT4_RANGE,
            Type::INT4MULTI_RANGE,
            Type::TS_VECTOR,
            Type::TSQUERY,
            Type::PATH,
            Type::POLYGON,
            Type::VARBIT,
            Type::TIMETZ,
            Type::TID,
            Type::MACADDR,
            Type::JSONPATH,
            Type::BOX_ARRAY,
        ];
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let type_ = &types[random.usize(..types.len())];
            let raw: Vec<u8> = (0..random.usize(..40))
                .map(|_| if random.bool() { random.u8(..4) } else { random.u8(..) })
                .collect();
            let _ = text(type_, &raw);
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
        let Refused(why) = text(&Type::RECORD, &raw).unwrap_err();
        assert!(why.contains("64 levels"), "{why}");
    }
}
