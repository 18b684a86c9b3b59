//! The types that implement [`Param`] and [`SqlParam`].

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Param, SqlParam};
use crate::value::key::KeyEncoder;

/// The first byte of a kind. Never change one: it is part of every hashed key.
mod kind {
    pub(super) const BOOL: u8 = 1;
    pub(super) const I8: u8 = 2;
    pub(super) const I16: u8 = 3;
    pub(super) const I32: u8 = 4;
    pub(super) const I64: u8 = 5;
    pub(super) const I128: u8 = 6;
    pub(super) const U16: u8 = 7;
    pub(super) const U32: u8 = 8;
    pub(super) const U64: u8 = 9;
    pub(super) const U128: u8 = 10;
    pub(super) const F32: u8 = 11;
    pub(super) const F64: u8 = 12;
    pub(super) const CHAR: u8 = 13;
    pub(super) const TEXT: u8 = 14;
    pub(super) const BYTES: u8 = 15;
    pub(super) const OPTION: u8 = 16;
    pub(super) const LIST: u8 = 17;
    pub(super) const JSON: u8 = 18;
    pub(super) const IP: u8 = 19;
    pub(super) const INSTANT: u8 = 20;
    #[cfg(feature = "uuid")]
    pub(super) const UUID: u8 = 21;
    #[cfg(feature = "rust_decimal")]
    pub(super) const DECIMAL: u8 = 22;
    #[cfg(feature = "chrono")]
    pub(super) const CHRONO_DATE: u8 = 23;
    #[cfg(feature = "chrono")]
    pub(super) const CHRONO_TIME: u8 = 24;
    #[cfg(feature = "chrono")]
    pub(super) const CHRONO_TIMESTAMP: u8 = 25;
    #[cfg(feature = "chrono")]
    pub(super) const CHRONO_INSTANT: u8 = 26;
    #[cfg(feature = "time")]
    pub(super) const TIME_DATE: u8 = 27;
    #[cfg(feature = "time")]
    pub(super) const TIME_TIME: u8 = 28;
    #[cfg(feature = "time")]
    pub(super) const TIME_TIMESTAMP: u8 = 29;
    #[cfg(feature = "time")]
    pub(super) const TIME_INSTANT: u8 = 30;
}

/// Scalars of a fixed width: `$bytes` turns one into its bytes.
macro_rules! fixed {
    ($($type:ty, $kind:ident, |$value:ident| $bytes:expr;)*) => {$(
        impl Param for $type {
            #[inline]
            fn kind(out: &mut KeyEncoder) {
                out.fixed([kind::$kind]);
            }
            #[inline]
            fn value(&self, out: &mut KeyEncoder) {
                let $value = self;
                out.fixed($bytes);
            }
        }
    )*};
}

/// Types that are their own owned form.
macro_rules! owned {
    ($($type:ty),* $(,)?) => {$(
        impl SqlParam for $type {
            type Owned = $type;
            fn into_owned(self) -> $type {
                self
            }
        }
    )*};
}

fixed! {
    bool, BOOL, |v| [u8::from(*v)];
    i8, I8, |v| v.to_le_bytes();
    i16, I16, |v| v.to_le_bytes();
    i32, I32, |v| v.to_le_bytes();
    i64, I64, |v| v.to_le_bytes();
    i128, I128, |v| v.to_le_bytes();
    u16, U16, |v| v.to_le_bytes();
    u32, U32, |v| v.to_le_bytes();
    u64, U64, |v| v.to_le_bytes();
    u128, U128, |v| v.to_le_bytes();
    f32, F32, |v| v.to_bits().to_le_bytes();
    f64, F64, |v| v.to_bits().to_le_bytes();
    char, CHAR, |v| u32::from(*v).to_le_bytes();
}
owned!(bool, i8, i16, i32, i64, u32, f32, f64, String, Vec<u8>, IpAddr, SystemTime);
owned!(serde_json::Value);

impl Param for str {
    #[inline]
    fn kind(out: &mut KeyEncoder) {
        out.fixed([kind::TEXT]);
    }
    #[inline]
    fn value(&self, out: &mut KeyEncoder) {
        out.bytes(self.as_bytes());
    }
}

impl Param for [u8] {
    #[inline]
    fn kind(out: &mut KeyEncoder) {
        out.fixed([kind::BYTES]);
    }
    #[inline]
    fn value(&self, out: &mut KeyEncoder) {
        out.bytes(self);
    }
}

impl<T: Param> Param for [T] {
    #[inline]
    fn kind(out: &mut KeyEncoder) {
        out.fixed([kind::LIST]);
        T::kind(out);
    }
    #[inline]
    fn value(&self, out: &mut KeyEncoder) {
        out.length(self.len());
        self.iter().for_each(|element| element.value(out));
    }
}

/// Owners of a parameter and references to it, which are the same parameter.
macro_rules! forwarded {
    ($([$($generics:tt)*] $type:ty => $to:ty;)*) => {$(
        impl<$($generics)*> Param for $type {
            #[inline]
            fn kind(out: &mut KeyEncoder) {
                <$to>::kind(out);
            }
            #[inline]
            fn value(&self, out: &mut KeyEncoder) {
                <$to>::value(self, out);
            }
        }
    )*};
}

forwarded! {
    [] String => str;
    [] Vec<u8> => [u8];
    [T: Param] Vec<T> => [T];
    [T: Param + ?Sized] &T => T;
    [T: Param + ?Sized] Arc<T> => T;
    [T: Param + ?Sized] Box<T> => T;
    [T: Param + ToOwned + ?Sized] Cow<'_, T> => T;
    [T: Param, const N: usize] [T; N] => [T];
    [const N: usize] [u8; N] => [u8];
}

impl<T: Param> Param for Option<T> {
    #[inline]
    fn kind(out: &mut KeyEncoder) {
        out.fixed([kind::OPTION]);
        T::kind(out);
    }
    #[inline]
    fn value(&self, out: &mut KeyEncoder) {
        match self {
            None => out.fixed([0]),
            Some(value) => {
                out.fixed([1]);
                value.value(out);
            }
        }
    }
}

impl Param for serde_json::Value {
    #[inline]
    fn kind(out: &mut KeyEncoder) {
        out.fixed([kind::JSON]);
    }
    #[inline]
    fn value(&self, out: &mut KeyEncoder) {
        out.bytes(self.to_string().as_bytes());
    }
}

impl Param for IpAddr {
    #[inline]
    fn kind(out: &mut KeyEncoder) {
        out.fixed([kind::IP]);
    }
    #[inline]
    fn value(&self, out: &mut KeyEncoder) {
        match self {
            IpAddr::V4(ip) => out.bytes(&ip.octets()),
            IpAddr::V6(ip) => out.bytes(&ip.octets()),
        }
    }
}

impl Param for SystemTime {
    #[inline]
    fn kind(out: &mut KeyEncoder) {
        out.fixed([kind::INSTANT]);
    }
    #[inline]
    fn value(&self, out: &mut KeyEncoder) {
        let (side, distance) = match self.duration_since(UNIX_EPOCH) {
            Ok(after) => (1, after),
            Err(before) => (0, before.duration()),
        };
        out.fixed([side]);
        out.fixed(distance.as_nanos().to_le_bytes());
    }
}

/// Texts and bytes that are borrowed or shared.
macro_rules! copied {
    ($($type:ty => $owned:ty;)*) => {$(
        impl SqlParam for $type {
            type Owned = $owned;
            fn into_owned(self) -> $owned {
                (*self).to_owned()
            }
        }
    )*};
}

copied! {
    &str => String;
    Box<str> => String;
    Arc<str> => String;
    &[u8] => Vec<u8>;
    Box<[u8]> => Vec<u8>;
    Arc<[u8]> => Vec<u8>;
}

impl<T: SqlParam + Clone> SqlParam for &T {
    type Owned = T::Owned;
    fn into_owned(self) -> T::Owned {
        self.clone().into_owned()
    }
}

impl<B> SqlParam for Cow<'_, B>
where
    B: Param + ToOwned + ?Sized,
    B::Owned: SqlParam,
{
    type Owned = <B::Owned as SqlParam>::Owned;
    fn into_owned(self) -> <B::Owned as SqlParam>::Owned {
        Cow::into_owned(self).into_owned()
    }
}

impl<T: SqlParam> SqlParam for Option<T> {
    type Owned = Option<T::Owned>;
    fn into_owned(self) -> Self::Owned {
        self.map(T::into_owned)
    }
}

impl<T: SqlParam> SqlParam for Vec<T> {
    type Owned = Vec<T::Owned>;
    fn into_owned(self) -> Self::Owned {
        self.into_iter().map(T::into_owned).collect()
    }
}

impl<T: SqlParam, const N: usize> SqlParam for [T; N] {
    type Owned = Vec<T::Owned>;
    fn into_owned(self) -> Self::Owned {
        self.into_iter().map(T::into_owned).collect()
    }
}

impl<const N: usize> SqlParam for [u8; N] {
    type Owned = Vec<u8>;
    fn into_owned(self) -> Vec<u8> {
        self.to_vec()
    }
}

impl<T: SqlParam + Clone> SqlParam for &[T] {
    type Owned = Vec<T::Owned>;
    fn into_owned(self) -> Self::Owned {
        self.iter().cloned().map(T::into_owned).collect()
    }
}

#[cfg(feature = "uuid")]
mod uuid_params {
    use super::{KeyEncoder, Param, SqlParam, kind};

    fixed! { uuid::Uuid, UUID, |v| *v.as_bytes(); }
    owned!(uuid::Uuid);
}

#[cfg(feature = "rust_decimal")]
mod decimal_params {
    use super::{KeyEncoder, Param, SqlParam, kind};

    // With its scale: PostgreSQL's `numeric` prints 1.0 and 1.00 differently.
    fixed! { rust_decimal::Decimal, DECIMAL, |v| v.serialize(); }
    owned!(rust_decimal::Decimal);
}

#[cfg(feature = "chrono")]
mod chrono_params {
    use super::{KeyEncoder, Param, SqlParam, kind};
    use chrono::{
        DateTime, Datelike, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone,
        Timelike, Utc,
    };

    fixed! {
        NaiveDate, CHRONO_DATE, |v| v.num_days_from_ce().to_le_bytes();
        NaiveTime, CHRONO_TIME, |v| time(v);
        NaiveDateTime, CHRONO_TIMESTAMP, |v| seconds(&v.and_utc());
    }
    owned!(NaiveDate, NaiveTime, NaiveDateTime, DateTime<Utc>, DateTime<FixedOffset>);

    /// The offset is included: PostgreSQL sees only the instant, but a wrapped function sees both.
    impl<Z: TimeZone> Param for DateTime<Z> {
        #[inline]
        fn kind(out: &mut KeyEncoder) {
            out.fixed([kind::CHRONO_INSTANT]);
        }
        #[inline]
        fn value(&self, out: &mut KeyEncoder) {
            out.fixed(seconds(self));
            out.fixed(self.offset().fix().local_minus_utc().to_le_bytes());
        }
    }

    fn time(time: &NaiveTime) -> [u8; 8] {
        // A leap second has more than one billion nanoseconds, so the time is not written as one
        // count of nanoseconds.
        (u64::from(time.num_seconds_from_midnight()) << 32 | u64::from(time.nanosecond()))
            .to_le_bytes()
    }

    fn seconds<Z: TimeZone>(instant: &DateTime<Z>) -> [u8; 16] {
        let nanos = i128::from(instant.timestamp_subsec_nanos());
        (i128::from(instant.timestamp()) << 32 | nanos).to_le_bytes()
    }
}

#[cfg(feature = "time")]
mod time_params {
    use super::{KeyEncoder, Param, SqlParam, kind};
    use time::{Date, OffsetDateTime, PrimitiveDateTime, Time};

    fixed! {
        Date, TIME_DATE, |v| v.to_julian_day().to_le_bytes();
        Time, TIME_TIME, |v| v.duration_since(Time::MIDNIGHT).whole_nanoseconds().to_le_bytes();
        PrimitiveDateTime, TIME_TIMESTAMP, |v| v.assume_utc().unix_timestamp_nanos().to_le_bytes();
    }
    owned!(Date, Time, PrimitiveDateTime, OffsetDateTime);

    /// The offset is included: PostgreSQL sees only the instant, but a wrapped function sees both.
    impl Param for OffsetDateTime {
        #[inline]
        fn kind(out: &mut KeyEncoder) {
            out.fixed([kind::TIME_INSTANT]);
        }
        #[inline]
        fn value(&self, out: &mut KeyEncoder) {
            out.fixed(self.unix_timestamp_nanos().to_le_bytes());
            out.fixed(self.offset().whole_seconds().to_le_bytes());
        }
    }
}
