//! Deserializes rows into the user's types, with serde.

use serde::de::value::MapDeserializer;
use serde::de::{Deserialize, Deserializer, Visitor};
use serde::forward_to_deserialize_any;
use tokio_postgres::types::{Kind, Type};

use super::Row;
use super::cell::{Cell, all_of};
use super::refused::Refused;
use crate::error::Error;

pub(super) fn from_row<'a, T: Deserialize<'a>>(row: Row<'a>) -> Result<T, Error> {
    T::deserialize(RowDeserializer(row)).map_err(|Refused(why)| {
        let attempt = format!(
            "row {} cannot be deserialized into {}: {why}",
            row.index,
            std::any::type_name::<T>()
        );
        Error::deserialize(attempt)
    })
}

struct RowDeserializer<'a>(Row<'a>);

impl<'a> RowDeserializer<'a> {
    fn cell(&self, index: usize) -> Cell<'a> {
        Cell::of_column(&self.0.columns()[index], self.0.raw(index))
    }

    fn only_cell(&self) -> Result<Cell<'a>, Refused> {
        match self.0.len() {
            1 => Ok(self.cell(0)),
            count => Err(Refused(format!(
                "a row of {count} columns is neither a value nor an enum; deserialize it into a \
                 struct, a map or a tuple"
            ))),
        }
    }
}

/// A row of one column deserializes into every type that its value deserializes into.
macro_rules! of_the_only_cell {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
            self.only_cell()?.$method(visitor)
        }
    )*};
}

impl<'a> Deserializer<'a> for RowDeserializer<'a> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_map(visitor)
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        let set = self.0.image.columns();
        let columns = set.columns().iter().enumerate();
        // Of several columns with one name only the first, as for `get`: serde rejects a repeated
        // name.
        let shown = columns.filter(|(index, _)| set.is_first_of_its_name(*index));
        let named = shown.map(|(index, column)| (column.name(), self.cell(index)));
        visitor.visit_map(MapDeserializer::new(named))
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_map(visitor)
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        // If the only column can itself be a sequence (an array, `bytea`, JSON), the sequence is
        // that value. Otherwise it is the values of the row.
        if let [column] = self.0.columns()
            && (matches!(column.type_().kind(), Kind::Array(_))
                || [Type::BYTEA, Type::JSON, Type::JSONB].contains(column.type_()))
        {
            return self.cell(0).deserialize_seq(visitor);
        }
        self.deserialize_tuple(0, visitor)
    }

    fn deserialize_tuple<V: Visitor<'a>>(self, _: usize, visitor: V) -> Result<V::Value, Refused> {
        let cells: Vec<_> = (0..self.0.len()).map(|index| self.cell(index)).collect();
        all_of(cells, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.only_cell()?.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_unit<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    of_the_only_cell! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf deserialize_option
    }

    forward_to_deserialize_any! { <W: Visitor<'a>> unit_struct identifier ignored_any }
}
