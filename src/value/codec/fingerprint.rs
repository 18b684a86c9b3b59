//! The fingerprint of a value: a serializer that writes nothing, and hashes everything that the
//! value passes to it.
//!
//! A value is stored only if the decoded value has the same fingerprint. `serde_json` silently
//! writes NaN, `Some(None)` and `Some(())` as `null`; an untagged enum may decode its second
//! variant as its first; flattened fields may overwrite each other. The fingerprint shows all of
//! these. It ignores the order of map entries, which a comparison of bytes would not.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::ser::{
    self, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// Values nested deeper than this are not stored. `serde_json` decodes at most 128 levels, and a
/// codec without a limit could overflow the stack of a thread, which ends the process.
pub(super) const DEEPEST: usize = 120;

/// The fingerprint of a value, or `None` if it cannot be serialized or is nested too deep.
pub(super) fn of<T: Serialize + ?Sized>(value: &T, human_readable: bool) -> Option<u64> {
    value.serialize(Fingerprint { human_readable, depth: 0 }).ok()
}

#[derive(Clone, Copy)]
struct Fingerprint {
    /// Some types serialize differently for binary codecs.
    human_readable: bool,
    depth: usize,
}

#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no codec can be trusted with this value")
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Refused {
        Refused
    }
}

type Number = Result<u64, Refused>;

fn hash(kind: &str, value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    kind.hash(&mut hasher);
    value.hash(&mut hasher);
    hasher.finish()
}

impl Fingerprint {
    fn within<T: Serialize + ?Sized>(self, value: &T) -> Number {
        if self.depth >= DEEPEST {
            return Err(Refused);
        }
        value.serialize(Fingerprint { depth: self.depth + 1, ..self })
    }

    fn parts(self, kind: &'static str, variant: &'static str) -> Parts {
        Parts { fingerprint: self, kind, variant, sum: 0, count: 0, key: 0 }
    }
}

/// A value of several parts. Their hashes are added, so their order does not count: a `HashMap` or
/// a `HashSet` has no order, and no codec changes the order of the others.
struct Parts {
    fingerprint: Fingerprint,
    kind: &'static str,
    variant: &'static str,
    sum: u64,
    count: u64,
    /// The hash of the map key whose value comes next.
    key: u64,
}

impl Parts {
    fn part<T: Serialize + ?Sized>(&mut self, name: impl Hash, value: &T) -> Result<(), Refused> {
        let number = self.fingerprint.within(value)?;
        self.sum = self.sum.wrapping_add(hash("part", (hash("", name), number)));
        self.count += 1;
        Ok(())
    }

    fn number(self) -> Number {
        Ok(hash(self.kind, (self.variant, self.sum, self.count)))
    }
}

/// Numbers of all widths are one kind: `serde_json` may decode an `i64` as a `u64`, for types that
/// accept either.
macro_rules! plain {
    ($($method:ident $type:ty, $kind:literal, |$value:ident| $number:expr;)*) => {$(
        fn $method(self, $value: $type) -> Number {
            Ok(hash($kind, $number))
        }
    )*};
}

impl Serializer for Fingerprint {
    type Ok = u64;
    type Error = Refused;
    type SerializeSeq = Parts;
    type SerializeTuple = Parts;
    type SerializeTupleStruct = Parts;
    type SerializeTupleVariant = Parts;
    type SerializeMap = Parts;
    type SerializeStruct = Parts;
    type SerializeStructVariant = Parts;

    plain! {
        serialize_bool bool, "bool", |v| v;
        serialize_i8 i8, "integer", |v| i128::from(v);
        serialize_i16 i16, "integer", |v| i128::from(v);
        serialize_i32 i32, "integer", |v| i128::from(v);
        serialize_i64 i64, "integer", |v| i128::from(v);
        serialize_i128 i128, "integer", |v| v;
        serialize_u8 u8, "integer", |v| i128::from(v);
        serialize_u16 u16, "integer", |v| i128::from(v);
        serialize_u32 u32, "integer", |v| i128::from(v);
        serialize_u64 u64, "integer", |v| i128::from(v);
        serialize_f32 f32, "float", |v| f64::from(v).to_bits();
        serialize_f64 f64, "float", |v| v.to_bits();
        serialize_char char, "char", |v| v;
        serialize_str &str, "str", |v| v;
        serialize_bytes &[u8], "bytes", |v| v;
        serialize_unit_struct &'static str, "unit", |v| v;
    }

    fn is_human_readable(&self) -> bool {
        self.human_readable
    }

    fn serialize_u128(self, value: u128) -> Number {
        Ok(match i128::try_from(value) {
            Ok(value) => hash("integer", value),
            Err(_) => hash("huge", value),
        })
    }

    fn serialize_none(self) -> Number {
        Ok(hash("none", ()))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Number {
        Ok(hash("some", self.within(value)?))
    }

    fn serialize_unit(self) -> Number {
        Ok(hash("unit", ()))
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Number {
        Ok(hash("variant", variant))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Number {
        self.within(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Number {
        Ok(hash("newtype variant", (variant, self.within(value)?)))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts, Refused> {
        Ok(self.parts("seq", ""))
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts, Refused> {
        Ok(self.parts("tuple", ""))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts, Refused> {
        Ok(self.parts("tuple", ""))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts, Refused> {
        Ok(self.parts("tuple variant", variant))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts, Refused> {
        Ok(self.parts("map", ""))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts, Refused> {
        Ok(self.parts("struct", ""))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts, Refused> {
        Ok(self.parts("struct variant", variant))
    }
}

impl SerializeSeq for Parts {
    type Ok = u64;
    type Error = Refused;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.part((), value)
    }

    fn end(self) -> Number {
        self.number()
    }
}

/// Parts that are identified by their position.
macro_rules! placed {
    ($($trait:ident $method:ident;)*) => {$(
        impl $trait for Parts {
            type Ok = u64;
            type Error = Refused;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
                self.part(self.count, value)
            }

            fn end(self) -> Number {
                self.number()
            }
        }
    )*};
}

placed! {
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

/// Parts that are identified by their name.
macro_rules! named {
    ($($trait:ident;)*) => {$(
        impl $trait for Parts {
            type Ok = u64;
            type Error = Refused;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), Refused> {
                self.part(name, value)
            }

            fn end(self) -> Number {
                self.number()
            }
        }
    )*};
}

named! {
    SerializeStruct;
    SerializeStructVariant;
}

impl SerializeMap for Parts {
    type Ok = u64;
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        self.key = self.fingerprint.within(key)?;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.part(self.key, value)
    }

    fn end(self) -> Number {
        self.number()
    }
}
