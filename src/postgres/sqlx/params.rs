//! [`Sent`]: a parameter in the bytes that PostgreSQL is sent, for sqlx.

use ::sqlx::Postgres;
use ::sqlx::encode::{Encode, IsNull};
use ::sqlx::error::BoxDynError;
use ::sqlx::postgres::types::Oid;
use ::sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use ::sqlx::types::Type;
use bytes::BytesMut;
use tokio_postgres::types::{self, Format, ToSql};

use crate::error::BoxError;

pub(super) struct Sent {
    type_: u32,
    /// `None` for NULL.
    bytes: Option<BytesMut>,
}

impl Sent {
    /// Writes a parameter as `tokio_postgres` does.
    pub(super) fn new(param: &(dyn ToSql + Sync), type_: &types::Type) -> Result<Sent, BoxError> {
        if !matches!(param.encode_format(type_), Format::Binary) {
            return Err("the parameter is written as text, which sqlx does not send".into());
        }
        let mut bytes = BytesMut::new();
        let bytes = match param.to_sql_checked(type_, &mut bytes)? {
            types::IsNull::Yes => None,
            types::IsNull::No => Some(bytes),
        };
        Ok(Sent { type_: type_.oid(), bytes })
    }
}

impl Type<Postgres> for Sent {
    /// Not asked: each value [has its own](Encode::produces).
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Sent {
    fn encode_by_ref(&self, out: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match &self.bytes {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.type_)))
    }

    fn size_hint(&self) -> usize {
        self.bytes.as_ref().map_or(0, BytesMut::len)
    }
}
