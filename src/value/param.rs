//! [`Param`] and its relatives: the values that are bound to `$1`, `$2`, … or passed to a wrapped
//! query.

use std::fmt;

use tokio_postgres::types::ToSql;

pub(crate) use self::list::{List, bytes_of};
use self::sent::sent;
use crate::value::key::{CacheKey, Digest, KeyEncoder, Shape};

mod impls;
mod list;
mod sent;

/// A value that is part of a result's key.
///
/// A type writes its *kind*, which is the same for all its values, and its *value*. Together they
/// must be unambiguous: two different values never write the same bytes, and the bytes of one value
/// are never a prefix of another's. [`KeyEncoder`] has the methods for this.
///
/// - Owned and borrowed forms of a value are one parameter: `"eu"` and `String::from("eu")`.
/// - Types count: `1_i32` and `1_i64` are different parameters, and so are `None::<i32>` and
///   `None::<i64>`.
/// - Floats count by their bits: `0.0` and `-0.0` are different, and so are NaNs with different
///   payloads.
/// - `None`, `Some(None)` and an empty list are three different parameters, although PostgreSQL
///   reads the first two as the same NULL.
/// - A point in time counts with its UTC offset.
///
/// Implemented for the usual scalars, strings, bytes, `Option`, arrays, slices and vectors, `Cow`,
/// `Box` and `Arc`, references to all of these, `IpAddr`, `SystemTime`, [`serde_json::Value`], and,
/// with features, for the types of `uuid`, `chrono`, `time` and `rust_decimal`.
///
/// A newtype or an enum of your own is written as the value within, or as its label: one line for its
/// key, and one to [bind](SqlParam) it.
///
/// ```
/// use larder::params::{KeyEncoder, Param};
///
/// struct UserId(i64);
///
/// impl Param for UserId {
///     fn kind(out: &mut KeyEncoder) { i64::kind(out) }
///     fn value(&self, out: &mut KeyEncoder) { self.0.value(out) }
/// }
///
/// enum Region { Eu, Us }
///
/// impl Region {
///     fn label(&self) -> &'static str {
///         match self { Region::Eu => "eu", Region::Us => "us" }
///     }
/// }
///
/// impl Param for Region {
///     fn kind(out: &mut KeyEncoder) { str::kind(out) }
///     fn value(&self, out: &mut KeyEncoder) { self.label().value(out) }
/// }
/// ```
///
/// `UserId(7)` and `7_i64` are then the same parameter, as they are for PostgreSQL. Where a query
/// function tells them apart, write [`KeyEncoder::named`] in `kind` instead.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be bound to a query",
    label = "it cannot take part in the key of a cached result",
    note = "bind the fields of a struct one by one; several parameters are `.bind(a).bind(b)` or \
            `.params((a, b))`",
    note = "for a newtype or an enum, implement `larder::params::Param` and `SqlParam`; `uuid`, `chrono`, \
            `time` and `rust_decimal` types need the feature of that name",
    note = "PostgreSQL has no unsigned integers: convert a `usize` or `u64` to `i64`"
)]
pub trait Param {
    /// Writes the kind, which is the same for all values of the type.
    fn kind(out: &mut KeyEncoder);
    /// Writes the value.
    fn value(&self, out: &mut KeyEncoder);
}

/// A [`Param`] that can be bound to a query in PostgreSQL.
///
/// A load runs in its own task and may outlive its caller, so it owns its parameters. This trait
/// turns a borrowed parameter into an owned one, on a miss only.
///
/// A type of your own turns into what PostgreSQL is sent, and needs no `ToSql` of its own:
///
/// ```
/// use larder::params::{KeyEncoder, Param, SqlParam};
///
/// struct UserId(i64);
/// # impl Param for UserId {
/// #     fn kind(out: &mut KeyEncoder) { i64::kind(out) }
/// #     fn value(&self, out: &mut KeyEncoder) { self.0.value(out) }
/// # }
///
/// impl SqlParam for UserId {
///     type Owned = i64;
///     fn into_owned(self) -> i64 { self.0 }
/// }
///
/// enum Region { Eu, Us }
/// # impl Region {
/// #     fn label(&self) -> &'static str { match self { Region::Eu => "eu", Region::Us => "us" } }
/// # }
/// # impl Param for Region {
/// #     fn kind(out: &mut KeyEncoder) { str::kind(out) }
/// #     fn value(&self, out: &mut KeyEncoder) { self.label().value(out) }
/// # }
///
/// impl SqlParam for Region {
///     type Owned = &'static str;
///     fn into_owned(self) -> &'static str { self.label() }
/// }
/// ```
///
/// Text is accepted for an enum of PostgreSQL, a value for a domain over its type, and lists of text
/// for arrays of an enum. A type with a `ToSql`, such as one that `postgres_types` derives, is its own
/// `Owned`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be bound to a query",
    note = "`larder::params::SqlParam` is implemented for PostgreSQL's usual Rust types; `uuid`, `chrono`, \
            `time` and `rust_decimal` types need the feature of that name",
    note = "PostgreSQL has no unsigned integers: convert a `usize` or `u64` to `i64`"
)]
pub trait SqlParam: Param {
    /// The owned form, which is kept for the load.
    type Owned: ToSql + Send + Sync + 'static;
    /// Turns the parameter into its owned form.
    fn into_owned(self) -> Self::Owned;
}

/// The parameters of one call, as a tuple of up to twelve: `()`, `(42_i64,)`, `(42_i64, "eu")`, …
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a tuple of parameters",
    note = "one parameter is `.bind(7)` or `.params((7,))`; several are `.params((7, \"eu\"))`, up to twelve"
)]
pub trait Params {
    /// Writes the kind and the value of each parameter.
    fn encode(&self, out: &mut KeyEncoder);
}

/// [`Params`] that can be bound to a query in PostgreSQL.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a tuple of parameters that can be bound to a query",
    note = "one parameter is `.bind(7)` or `.params((7,))`; several are `.params((7, \"eu\"))`, up to twelve"
)]
pub trait SqlParams: Params {
    /// Turns the parameters into their owned forms, for a load.
    fn into_owned(self) -> OwnedParams;
}

/// The owned parameters of a load, in the form that `tokio_postgres` takes.
pub struct OwnedParams(Vec<Box<dyn ToSql + Sync + Send>>);

impl OwnedParams {
    /// The parameters as [`Rows::query`](crate::Rows::query) and the methods of a
    /// [`tokio_postgres::Client`] take them.
    ///
    /// Text is accepted for an enum, and a value for a domain over its type; see [`SqlParam`].
    pub fn as_refs(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.0.iter().map(|param| &**param as &(dyn ToSql + Sync)).collect()
    }

    pub(crate) fn none() -> OwnedParams {
        OwnedParams(vec![])
    }

    /// These parameters, shared, and a further one.
    pub(crate) fn and(
        self: &std::sync::Arc<Self>,
        last: impl ToSql + Send + Sync + 'static,
    ) -> OwnedParams {
        let shared = (0..self.0.len()).map(|at| list::shared(self.clone(), at));
        OwnedParams(shared.chain([Box::new(last) as Box<dyn ToSql + Sync + Send>]).collect())
    }

    #[cfg(feature = "sqlx")]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &(dyn ToSql + Sync)> + Send + Sync {
        self.0.iter().map(|param| &**param as &(dyn ToSql + Sync))
    }
}

impl fmt::Debug for OwnedParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The parameters are the user's data and are not shown.
        f.debug_struct("OwnedParams").finish_non_exhaustive()
    }
}

macro_rules! tuples {
    ($(($($name:ident),*))*) => {$(
        impl<$($name: Param),*> Params for ($($name,)*) {
            #[allow(non_snake_case, unused_variables)]
            #[inline]
            fn encode(&self, out: &mut KeyEncoder) {
                let ($($name,)*) = self;
                $(one($name, out);)*
            }
        }

        impl<$($name: SqlParam),*> SqlParams for ($($name,)*) {
            #[allow(non_snake_case)]
            fn into_owned(self) -> OwnedParams {
                let ($($name,)*) = self;
                OwnedParams(vec![$(sent($name.into_owned())),*])
            }
        }
    )*};
}

tuples! {
    () (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F)
    (A, B, C, D, E, F, G) (A, B, C, D, E, F, G, H) (A, B, C, D, E, F, G, H, I)
    (A, B, C, D, E, F, G, H, I, J) (A, B, C, D, E, F, G, H, I, J, K)
    (A, B, C, D, E, F, G, H, I, J, K, L)
}

#[inline]
fn one<P: Param + ?Sized>(param: &P, out: &mut KeyEncoder) {
    P::kind(out);
    param.value(out);
}

/// Identifies a value among others: equal values of one kind have the same identity.
pub(crate) fn identity<P: Param + ?Sized>(value: &P) -> CacheKey {
    let mut encoder = KeyEncoder::new(Digest::NONE, Shape(0));
    one(value, &mut encoder);
    encoder.finish()
}

/// The parameters of one call of a batch: those that all calls share, and one of the values.
pub(crate) struct WithOne<'a, P, V>(pub(crate) &'a P, pub(crate) &'a V);

impl<P: Params, V: Param> Params for WithOne<'_, P, V> {
    #[inline]
    fn encode(&self, out: &mut KeyEncoder) {
        self.0.encode(out);
        one(self.1, out);
    }
}

/// The same with a list of that value alone.
pub(crate) struct WithListOfOne<'a, P, V>(pub(crate) &'a P, pub(crate) &'a V);

impl<P: Params, V: Param> Params for WithListOfOne<'_, P, V> {
    #[inline]
    fn encode(&self, out: &mut KeyEncoder) {
        self.0.encode(out);
        one(std::slice::from_ref(self.1), out);
    }
}

/// Parameters bound one after the other, as [`Query::bind`](crate::Query::bind) makes them.
///
/// `bind(a).bind(b)` is the same call as `params((a, b))`.
#[derive(Clone, Copy)]
pub struct Bind<P, V>(pub(crate) P, pub(crate) V);

impl<P: Params, V: Param> Params for Bind<P, V> {
    #[inline]
    fn encode(&self, out: &mut KeyEncoder) {
        self.0.encode(out);
        one(&self.1, out);
    }
}

impl<P: SqlParams, V: SqlParam> SqlParams for Bind<P, V> {
    fn into_owned(self) -> OwnedParams {
        let mut params = self.0.into_owned();
        params.0.push(sent(self.1.into_owned()));
        params
    }
}
