//! Finds what a codec would change on the way: a serializer that writes nothing.

use std::fmt;

use serde::ser::{
    self, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant,
};

/// Whether JSON gives `value` back as it is.
///
/// `serde_json` writes NaN and the infinities as `null` without a word, and so it does `Some(None)`
/// and `Some(())`; read back, they are `None`.
pub(super) fn in_json<T: Serialize>(value: &T) -> Option<()> {
    value.serialize(Probe { finite: true }).ok().map(|_| ())
}

/// The same for MessagePack, which has NaN but also one nil for all kinds of nothing.
#[cfg(feature = "msgpack")]
pub(super) fn in_msgpack<T: Serialize>(value: &T) -> Option<()> {
    value.serialize(Probe { finite: false }).ok().map(|_| ())
}

#[derive(Clone, Copy)]
struct Probe {
    /// Whether floats must be finite.
    finite: bool,
}

/// What the codec would write for a value: its nothing, or something.
#[derive(PartialEq)]
enum Written {
    Null,
    Something,
}

#[derive(Debug)]
struct Changed;

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the codec would change this value")
    }
}

impl std::error::Error for Changed {}

impl ser::Error for Changed {
    fn custom<T: fmt::Display>(_: T) -> Changed {
        Changed
    }
}

type Verdict = Result<Written, Changed>;

macro_rules! kept {
    ($($method:ident $type:ty),* $(,)?) => {$(
        fn $method(self, _: $type) -> Verdict {
            Ok(Written::Something)
        }
    )*};
}

impl Probe {
    fn float(self, finite: bool) -> Verdict {
        if finite || !self.finite { Ok(Written::Something) } else { Err(Changed) }
    }

    fn part<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Changed> {
        value.serialize(self).map(|_| ())
    }
}

impl ser::Serializer for Probe {
    type Ok = Written;
    type Error = Changed;
    type SerializeSeq = Probe;
    type SerializeTuple = Probe;
    type SerializeTupleStruct = Probe;
    type SerializeTupleVariant = Probe;
    type SerializeMap = Probe;
    type SerializeStruct = Probe;
    type SerializeStructVariant = Probe;

    kept! {
        serialize_bool bool, serialize_i8 i8, serialize_i16 i16, serialize_i32 i32,
        serialize_i64 i64, serialize_i128 i128, serialize_u8 u8, serialize_u16 u16,
        serialize_u32 u32, serialize_u64 u64, serialize_u128 u128, serialize_char char,
        serialize_str &str, serialize_bytes &[u8],
    }

    fn serialize_f32(self, value: f32) -> Verdict {
        self.float(value.is_finite())
    }

    fn serialize_f64(self, value: f64) -> Verdict {
        self.float(value.is_finite())
    }

    fn serialize_none(self) -> Verdict {
        Ok(Written::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Verdict {
        match value.serialize(self)? {
            Written::Null => Err(Changed),
            Written::Something => Ok(Written::Something),
        }
    }

    fn serialize_unit(self) -> Verdict {
        Ok(Written::Null)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Verdict {
        Ok(Written::Null)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Verdict {
        Ok(Written::Something)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Verdict {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Verdict {
        self.part(value).map(|()| Written::Something)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Probe, Changed> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Probe, Changed> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Probe, Changed> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Probe, Changed> {
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Probe, Changed> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Probe, Changed> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Probe, Changed> {
        Ok(self)
    }
}

macro_rules! of_parts {
    ($($trait:ident $method:ident;)*) => {$(
        impl $trait for Probe {
            type Ok = Written;
            type Error = Changed;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Changed> {
                self.part(value)
            }

            fn end(self) -> Verdict {
                Ok(Written::Something)
            }
        }
    )*};
}

of_parts! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

macro_rules! of_fields {
    ($($trait:ident;)*) => {$(
        impl $trait for Probe {
            type Ok = Written;
            type Error = Changed;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                _: &'static str,
                value: &T,
            ) -> Result<(), Changed> {
                self.part(value)
            }

            fn end(self) -> Verdict {
                Ok(Written::Something)
            }
        }
    )*};
}

of_fields! {
    SerializeStruct;
    SerializeStructVariant;
}

impl SerializeMap for Probe {
    type Ok = Written;
    type Error = Changed;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Changed> {
        self.part(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Changed> {
        self.part(value)
    }

    fn end(self) -> Verdict {
        Ok(Written::Something)
    }
}
