//! [`Sent`]: a parameter on its way to PostgreSQL, for enums and domains as well.

use std::any::TypeId;
use std::fmt;

use bytes::BytesMut;
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type, WrongType};

use crate::error::BoxError;

/// A parameter that is also accepted for a domain over its type and, if it is text, for an enum.
///
/// PostgreSQL reads the value of a domain as one of the type below, and an enum as its label. The
/// driver's own types do not know of types that a user has made.
struct Sent<T>(T);

pub(super) fn sent<T: ToSql + Send + Sync + 'static>(value: T) -> Box<dyn ToSql + Sync + Send> {
    Box::new(Sent(value))
}

/// The type; of a domain, the type that it is over.
pub(super) fn base(mut type_: &Type) -> &Type {
    while let Kind::Domain(of) = type_.kind() {
        type_ = of;
    }
    type_
}

/// The type whose values a value of `type_` is sent as.
pub(super) fn sent_as<T: 'static>(type_: &Type) -> Type {
    let is_any = |types: &[TypeId]| types.contains(&TypeId::of::<T>());
    let type_ = base(type_);
    match type_.kind() {
        Kind::Enum(_) if is_any(&texts()) => Type::TEXT,
        // The labels are written with the type of the elements, which PostgreSQL compares.
        Kind::Array(of) if matches!(of.kind(), Kind::Enum(_)) && is_any(&lists()) => {
            Type::TEXT_ARRAY
        }
        _ => type_.clone(),
    }
}

fn texts() -> [TypeId; 4] {
    [
        TypeId::of::<String>(),
        TypeId::of::<&'static str>(),
        TypeId::of::<Option<String>>(),
        TypeId::of::<Option<&'static str>>(),
    ]
}

fn lists() -> [TypeId; 6] {
    [
        TypeId::of::<Vec<String>>(),
        TypeId::of::<Vec<&'static str>>(),
        TypeId::of::<Vec<Option<String>>>(),
        TypeId::of::<Option<Vec<String>>>(),
        TypeId::of::<Option<Vec<&'static str>>>(),
        TypeId::of::<Option<Vec<Option<String>>>>(),
    ]
}

impl<T: fmt::Debug> fmt::Debug for Sent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: ToSql + 'static> ToSql for Sent<T> {
    fn to_sql(&self, type_: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        let (start, known) = (out.len(), sent_as::<T>(type_));
        let is_null = self.0.to_sql(&known, out)?;
        if let (Kind::Array(element), IsNull::No) = (base(type_).kind(), &is_null)
            && known == Type::TEXT_ARRAY
        {
            // After the number of dimensions and a flag.
            out[start + 8..start + 12].copy_from_slice(&element.oid().to_be_bytes());
        }
        Ok(is_null)
    }

    fn accepts(type_: &Type) -> bool {
        T::accepts(&sent_as::<T>(type_))
    }

    fn to_sql_checked(&self, type_: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        if !Self::accepts(type_) {
            return Err(Box::new(WrongType::new::<T>(type_.clone())));
        }
        self.to_sql(type_, out)
    }

    fn encode_format(&self, type_: &Type) -> Format {
        self.0.encode_format(&sent_as::<T>(type_))
    }
}
