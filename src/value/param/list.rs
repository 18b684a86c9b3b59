//! [`List`]: some of many values, as one array.

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type, WrongType};

use super::OwnedParams;
use super::sent::{base, sent_as};
use crate::error::BoxError;

/// Some of many values, as an array. The batch that has the values sends some of them now and others
/// later, and none of them need be cloned for it.
pub(crate) struct List<T> {
    values: Arc<Vec<T>>,
    positions: Vec<usize>,
}

impl<T> List<T> {
    pub(crate) fn new(values: Arc<Vec<T>>, positions: Vec<usize>) -> List<T> {
        List { values, positions }
    }
}

/// Shows no value.
impl<T> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("List").field("len", &self.positions.len()).finish_non_exhaustive()
    }
}

impl<T: ToSql + Send + Sync + 'static> ToSql for List<T> {
    fn to_sql(&self, type_: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        let elements: Vec<_> = self.positions.iter().map(|&at| Element(&self.values[at])).collect();
        elements.to_sql(base(type_), out)
    }

    fn accepts(type_: &Type) -> bool {
        matches!(base(type_).kind(), Kind::Array(of) if Element::<T>::accepts(of))
    }

    fn to_sql_checked(&self, type_: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        if !Self::accepts(type_) {
            return Err(Box::new(WrongType::new::<Vec<T>>(type_.clone())));
        }
        self.to_sql(type_, out)
    }
}

/// A value that is also accepted for a domain and, if it is text, for an enum.
struct Element<'a, T>(&'a T);

impl<T: fmt::Debug> fmt::Debug for Element<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: ToSql + 'static> ToSql for Element<'_, T> {
    fn to_sql(&self, type_: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        self.0.to_sql(&sent_as::<T>(type_), out)
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

/// The bytes of a value as PostgreSQL sends those of a column of this type; `None` for NULL.
pub(crate) fn bytes_of<T: ToSql + 'static>(
    value: &T,
    type_: &Type,
) -> Result<Option<BytesMut>, BoxError> {
    let mut bytes = BytesMut::new();
    Ok(match Element(value).to_sql_checked(type_, &mut bytes)? {
        IsNull::Yes => None,
        IsNull::No => Some(bytes),
    })
}

/// One of the parameters of several loads.
struct Shared(Arc<OwnedParams>, usize);

pub(super) fn shared(params: Arc<OwnedParams>, at: usize) -> Box<dyn ToSql + Sync + Send> {
    Box::new(Shared(params, at))
}

impl Shared {
    fn param(&self) -> &(dyn ToSql + Sync + Send) {
        &*self.0.0[self.1]
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl ToSql for Shared {
    fn to_sql(&self, type_: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        self.param().to_sql_checked(type_, out)
    }

    /// The parameter itself is asked, when it is written.
    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, type_: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        self.param().to_sql_checked(type_, out)
    }

    fn encode_format(&self, type_: &Type) -> Format {
        self.param().encode_format(type_)
    }
}
