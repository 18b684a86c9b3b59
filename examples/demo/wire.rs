//! Values of the generator as PostgreSQL reads them in a binary COPY.
//!
//! The generator keeps money in cents, dates in days and names as things to
//! be displayed. Written from there straight into the buffer, a row costs no
//! allocation, and generating stays ahead of the server.

use std::error::Error;
use std::fmt::{self, Display, Write};

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tpchgen::dates::TPCHDate;
use tpchgen::decimal::TPCHDecimal;

type Written = Result<IsNull, Box<dyn Error + Sync + Send>>;

/// Days between 1970-01-01, where the generator counts from, and 2000-01-01,
/// where PostgreSQL does.
const POSTGRES_EPOCH: i32 = 10_957;

/// An amount in hundredths, for a `numeric(15,2)`.
#[derive(Debug)]
pub(crate) struct Hundredths(i64);

impl From<TPCHDecimal> for Hundredths {
    fn from(amount: TPCHDecimal) -> Self {
        Self(amount.into_inner())
    }
}

impl Hundredths {
    /// A whole number, such as a quantity.
    pub(crate) fn whole(number: i64) -> Self {
        Self(number * 100)
    }
}

impl ToSql for Hundredths {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Written {
        // A numeric travels as digits of base 10000. The last one holds the
        // hundredths, the ones before it the whole part: five are enough for
        // any i64.
        let amount = self.0.unsigned_abs();
        let mut digits = [0_u16; 6];
        digits[5] = u16::try_from(amount % 100 * 100)?;
        let mut whole = amount / 100;
        let mut first = 5;
        while whole > 0 {
            first -= 1;
            digits[first] = u16::try_from(whole % 10_000)?;
            whole /= 10_000;
        }
        let used = &digits[first..];
        let count = i16::try_from(used.len())?;
        out.put_i16(count);
        out.put_i16(count - 2); // the weight: whole digits, less one
        out.put_u16(if self.0 < 0 { 0x4000 } else { 0 });
        out.put_i16(2);
        for digit in used {
            out.put_u16(*digit);
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::NUMERIC
    }

    to_sql_checked!();
}

/// A day, for a `date`.
#[derive(Debug)]
pub(crate) struct Day(pub(crate) TPCHDate);

impl ToSql for Day {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Written {
        out.put_i32(self.0.to_unix_epoch() - POSTGRES_EPOCH);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::DATE
    }

    to_sql_checked!();
}

/// Anything that can be displayed, for a `char(n)` or `varchar(n)`.
pub(crate) struct Shown<T>(pub(crate) T);

impl<T> fmt::Debug for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl<T: Display> ToSql for Shown<T> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Written {
        write!(out, "{}", self.0)?;
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::BPCHAR | Type::VARCHAR)
    }

    to_sql_checked!();
}
