//! Deserializes one value into the user's type.

use serde::de::value::{BorrowedStrDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use tokio_postgres::types::{Kind, Type};

use super::column::Column;
use super::cursor::Cursor;
use super::external;
use super::refused::Refused;
use super::text::{self, MALFORMED};

/// One value: of a column, of an array's element or of a composite's field.
#[derive(Clone, Copy)]
pub(super) struct Cell<'a> {
    type_: &'a Type,
    raw: Option<&'a [u8]>,
    /// The column's name, for errors. An array's element or a composite's field has none; the outer
    /// cell adds it.
    column: Option<&'a str>,
}

impl<'a> Cell<'a> {
    pub(super) fn of_column(column: &'a Column, raw: Option<&'a [u8]>) -> Cell<'a> {
        Cell { type_: column.type_(), raw, column: Some(column.name()) }
    }

    fn inner(type_: &'a Type, raw: Option<&'a [u8]>) -> Cell<'a> {
        Cell { type_, raw, column: None }
    }

    /// The type; of a domain, its base type.
    fn base(&self) -> &'a Type {
        let mut type_ = self.type_;
        while let Kind::Domain(of) = type_.kind() {
            type_ = of;
        }
        type_
    }

    fn named<T>(&self, result: Result<T, Refused>) -> Result<T, Refused> {
        match self.column {
            Some(column) => result.map_err(|Refused(why)| {
                Refused(format!("column {column:?} of type {}: {why}", self.type_.name()))
            }),
            None => result,
        }
    }

    fn visit<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        let Some(raw) = self.raw else { return visitor.visit_none() };
        let malformed = || Refused(MALFORMED.into());
        let mut cursor = Cursor::new(raw);
        let base = self.base();
        match base.kind() {
            Kind::Array(element) => return array(element, raw, visitor),
            Kind::Composite(_) => return composite(base, raw, visitor),
            Kind::Enum(_) => return visitor.visit_borrowed_str(utf8(raw)?),
            _ => {}
        }
        let owned =
            |text: Option<String>, visitor: V| visitor.visit_string(text.ok_or_else(malformed)?);
        match *base {
            Type::BOOL => visitor.visit_bool(*raw.first().ok_or_else(malformed)? != 0),
            Type::INT2 => visitor.visit_i16(cursor.be_i16().ok_or_else(malformed)?),
            Type::INT4 => visitor.visit_i32(cursor.be_i32().ok_or_else(malformed)?),
            Type::INT8 => visitor.visit_i64(cursor.be_i64().ok_or_else(malformed)?),
            Type::OID => visitor.visit_u32(cursor.be_i32().ok_or_else(malformed)? as u32),
            Type::FLOAT4 => {
                let bits = cursor.be_i32().ok_or_else(malformed)?;
                visitor.visit_f32(f32::from_bits(bits as u32))
            }
            Type::FLOAT8 => {
                let bits = cursor.be_i64().ok_or_else(malformed)?;
                visitor.visit_f64(f64::from_bits(bits as u64))
            }
            Type::NUMERIC => owned(text::numeric(raw), visitor),
            Type::BYTEA => visitor.visit_borrowed_bytes(raw),
            Type::JSON | Type::JSONB => {
                let mut json = serde_json::Deserializer::from_slice(json_text(base, raw)?);
                json.deserialize_any(visitor).map_err(of_json)
            }
            Type::UUID => owned(text::uuid(raw), visitor),
            Type::DATE => owned(text::date(raw), visitor),
            Type::TIME => owned(text::time(raw), visitor),
            Type::TIMESTAMP => owned(text::timestamp(raw, ""), visitor),
            Type::TIMESTAMPTZ => owned(text::timestamp(raw, "Z"), visitor),
            Type::INTERVAL => owned(text::interval(raw), visitor),
            Type::INET | Type::CIDR => owned(text::inet(raw), visitor),
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN | Type::XML => {
                visitor.visit_borrowed_str(utf8(raw)?)
            }
            Type::CHAR => visitor.visit_i8(raw.first().copied().ok_or_else(malformed)? as i8),
            _ if base.name() == "citext" => visitor.visit_borrowed_str(utf8(raw)?),
            _ => visitor.visit_string(external::text(base, raw)?),
        }
    }

    /// A `numeric` parsed as a number; `None` for other types and for NULL. `sum(bigint)` and
    /// `avg(integer)` are `numeric`, and a struct may have a number for them.
    fn parsed<N: std::str::FromStr>(&self) -> Option<Result<N, Refused>> {
        if *self.base() != Type::NUMERIC {
            return None;
        }
        let text = text::numeric(self.raw?);
        Some(
            text.and_then(|text| text.parse().ok())
                .ok_or_else(|| Refused(format!("the value is no {}", std::any::type_name::<N>()))),
        )
    }
}

fn utf8(raw: &[u8]) -> Result<&str, Refused> {
    std::str::from_utf8(raw).map_err(|_| Refused("the text is not UTF-8".into()))
}

/// PostgreSQL sends `jsonb` as a version byte, 1, and the text.
fn json_text<'a>(type_: &Type, raw: &'a [u8]) -> Result<&'a [u8], Refused> {
    match *type_ {
        Type::JSONB => raw.strip_prefix(&[1]).ok_or_else(|| Refused(MALFORMED.into())),
        _ => Ok(raw),
    }
}

fn of_json(error: serde_json::Error) -> Refused {
    match error.classify() {
        // In the data category, serde_json's message may quote the value, so only the position is
        // reported.
        serde_json::error::Category::Data => {
            Refused(format!("the json at character {} has another form", error.column()))
        }
        _ => Refused("the json cannot be parsed".into()),
    }
}

/// An array: the number of dimensions, a flag, the element's OID, the length and lower bound of
/// each dimension, and the elements. Several dimensions become sequences of sequences.
fn array<'a, V: Visitor<'a>>(
    element: &'a Type,
    raw: &'a [u8],
    visitor: V,
) -> Result<V::Value, Refused> {
    let parse = |mut cursor: Cursor<'a>| {
        let count = usize::try_from(cursor.be_i32()?).ok().filter(|&count| count <= 6)?;
        cursor.take(8)?;
        let mut lengths = [0; 6];
        for length in &mut lengths[..count] {
            // PostgreSQL sends an empty array without dimensions, so every length is positive.
            *length = cursor.be_i32().filter(|&length| length > 0)?;
            cursor.take(4)?;
        }
        // Each element takes at least four bytes, so a count that the remaining bytes cannot hold
        // is rejected.
        let elements = lengths[..count].iter().try_fold(4_usize, |product, &length| {
            product.checked_mul(usize::try_from(length).ok()?)
        })?;
        (count == 0 || elements <= cursor.len()).then_some((count, lengths, cursor))
    };
    let (count, lengths, mut cursor) =
        parse(Cursor::new(raw)).ok_or_else(|| Refused(MALFORMED.into()))?;
    Elements {
        element,
        cursor: &mut cursor,
        left: if count == 0 { 0 } else { lengths[0] },
        deeper: if count == 0 { &[] } else { &lengths[1..count] },
    }
    .visit(visitor)
}

struct Elements<'a, 'c> {
    element: &'a Type,
    cursor: &'c mut Cursor<'a>,
    left: i32,
    /// The lengths of the dimensions below this one.
    deeper: &'c [i32],
}

impl<'a> Elements<'a, '_> {
    /// Visits all elements. It is an error if the visitor takes fewer: the next reader of the
    /// cursor would read the rest.
    fn visit<V: Visitor<'a>>(mut self, visitor: V) -> Result<V::Value, Refused> {
        let value = visitor.visit_seq(&mut self)?;
        match self.left {
            0 => Ok(value),
            left => Err(Refused(format!("an array with {left} elements more than expected"))),
        }
    }
}

impl<'a> SeqAccess<'a> for Elements<'a, '_> {
    type Error = Refused;

    fn next_element_seed<S: DeserializeSeed<'a>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Refused> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        match *self.deeper {
            [] => {
                let raw = self.cursor.field().ok_or_else(|| Refused(MALFORMED.into()))?;
                seed.deserialize(Cell::inner(self.element, raw)).map(Some)
            }
            [left, ..] => seed
                .deserialize(Dimension(Elements {
                    element: self.element,
                    cursor: self.cursor,
                    left,
                    deeper: &self.deeper[1..],
                }))
                .map(Some),
        }
    }
}

/// An array within an array.
struct Dimension<'a, 'c>(Elements<'a, 'c>);

impl<'a> Deserializer<'a> for Dimension<'a, '_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.0.visit(visitor)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        <W: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// A composite: the number of fields, then the OID and the value of each.
fn composite<'a, V: Visitor<'a>>(
    type_: &'a Type,
    raw: &'a [u8],
    visitor: V,
) -> Result<V::Value, Refused> {
    let Kind::Composite(fields) = type_.kind() else {
        return Err(Refused(MALFORMED.into()));
    };
    let mut cursor = Cursor::new(raw);
    let mut parse = || {
        // PostgreSQL sends the fields that the type lists; dropped ones are in neither.
        if usize::try_from(cursor.be_i32()?).ok()? != fields.len() {
            return None;
        }
        let mut cells = vec![];
        for field in fields {
            cursor.take(4)?;
            cells.push((field.name(), Cell::inner(field.type_(), cursor.field()?)));
        }
        Some(cells)
    };
    let cells = parse().ok_or_else(|| Refused(MALFORMED.into()))?;
    visitor.visit_map(MapDeserializer::new(cells.into_iter()))
}

/// Visits cells as a sequence. It is an error if the visitor does not take all of them.
pub(super) fn all_of<'a, V: Visitor<'a>>(
    cells: Vec<Cell<'a>>,
    visitor: V,
) -> Result<V::Value, Refused> {
    let mut cells = SeqDeserializer::new(cells.into_iter());
    let value = visitor.visit_seq(&mut cells)?;
    cells.end()?;
    Ok(value)
}

/// The methods for numbers, which also accept a `numeric`.
macro_rules! numbers {
    ($($method:ident $visit:ident)*) => {$(
        fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
            let result = match self.parsed() {
                Some(number) => number.and_then(|number| visitor.$visit(number)),
                None => self.visit(visitor),
            };
            self.named(result)
        }
    )*};
}

impl<'a> Deserializer<'a> for Cell<'a> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.named(self.visit(visitor))
    }

    numbers! {
        deserialize_i8 visit_i8 deserialize_i16 visit_i16 deserialize_i32 visit_i32
        deserialize_i64 visit_i64 deserialize_i128 visit_i128 deserialize_u8 visit_u8
        deserialize_u16 visit_u16 deserialize_u32 visit_u32 deserialize_u64 visit_u64
        deserialize_u128 visit_u128 deserialize_f32 visit_f32 deserialize_f64 visit_f64
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        let null = match (self.base(), self.raw) {
            (_, None) => true,
            (&Type::JSON | &Type::JSONB, Some(raw)) => {
                json_text(self.base(), raw)?.trim_ascii() == b"null"
            }
            _ => false,
        };
        if null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_char<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        match (self.base(), self.raw) {
            (&Type::CHAR, Some(&[byte])) => visitor.visit_char(char::from(byte)),
            _ => self.named(self.visit(visitor)),
        }
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        match (self.base(), self.raw) {
            // A `Vec<u8>` deserializes from a sequence, unlike the types of `serde_bytes`.
            (&Type::BYTEA, Some(raw)) => {
                self.named(visitor.visit_seq(SeqDeserializer::new(raw.iter().copied())))
            }
            _ => self.named(self.visit(visitor)),
        }
    }

    fn deserialize_tuple<V: Visitor<'a>>(self, _: usize, visitor: V) -> Result<V::Value, Refused> {
        // The fields of a composite, by position.
        let fields = match (self.base().kind(), self.raw) {
            (Kind::Composite(fields), Some(raw)) => {
                let mut cursor = Cursor::new(raw);
                cursor.take(4).and_then(|_| {
                    let cell = |field: &'a tokio_postgres::types::Field| {
                        cursor.take(4)?;
                        Some(Cell::inner(field.type_(), cursor.field()?))
                    };
                    fields.iter().map(cell).collect::<Option<Vec<_>>>()
                })
            }
            _ => return self.named(self.visit(visitor)),
        };
        let cells = fields.ok_or_else(|| Refused(MALFORMED.into()))?;
        self.named(all_of(cells, visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.named(match (self.base(), self.raw) {
            (&Type::JSON | &Type::JSONB, Some(raw)) => {
                json_text(self.base(), raw).and_then(|raw| {
                    let mut json = serde_json::Deserializer::from_slice(raw);
                    json.deserialize_enum(name, variants, visitor).map_err(of_json)
                })
            }
            _ => visitor.visit_enum(self),
        })
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        // An ignored column may have a type that serde has no form for.
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <W: Visitor<'a>>
        bool str string bytes byte_buf unit unit_struct map struct identifier
    }
}

impl<'a> IntoDeserializer<'a, Refused> for Cell<'a> {
    type Deserializer = Cell<'a>;

    fn into_deserializer(self) -> Cell<'a> {
        self
    }
}

/// An enum's label becomes a unit variant.
impl<'a> EnumAccess<'a> for Cell<'a> {
    type Error = Refused;
    type Variant = Variant;

    fn variant_seed<S: DeserializeSeed<'a>>(self, seed: S) -> Result<(S::Value, Variant), Refused> {
        let raw = self.raw.ok_or_else(|| Refused("NULL where an enum was expected".into()))?;
        let label = BorrowedStrDeserializer::<Refused>::new(utf8(raw)?);
        Ok((seed.deserialize(label)?, Variant))
    }
}

pub(super) struct Variant;

impl<'a> VariantAccess<'a> for Variant {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'a>>(self, _: S) -> Result<S::Value, Refused> {
        Err(Refused("a label holds no value for the variant".into()))
    }

    fn tuple_variant<V: Visitor<'a>>(self, _: usize, _: V) -> Result<V::Value, Refused> {
        Err(Refused("a label holds no values for the variant".into()))
    }

    fn struct_variant<V: Visitor<'a>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Refused> {
        Err(Refused("a label holds no fields for the variant".into()))
    }
}
