//! [`Param`] and its relatives: the values that are bound to `$1`, `$2`, … or passed to a wrapped
//! query.

use tokio_postgres::types::ToSql;

use crate::value::key::KeyEncoder;

mod impls;

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
/// Implemented for the usual scalars, strings, bytes, `Option`, slices and vectors, `IpAddr`,
/// `SystemTime`, [`serde_json::Value`], and, with features, for the types of `uuid`, `chrono`,
/// `time` and `rust_decimal`. Implement it for a type of your own like this:
///
/// ```
/// use larder::params::{KeyEncoder, Param};
///
/// struct UserId(i64);
///
/// impl Param for UserId {
///     fn kind(out: &mut KeyEncoder) {
///         out.named("UserId");
///     }
///     fn value(&self, out: &mut KeyEncoder) {
///         self.0.value(out);
///     }
/// }
/// ```
///
/// To bind it to a query whose rows are [fetched](crate::Bound::fetch), see [`SqlParam`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot take part in the key of a cached result",
    note = "implement `larder::params::Param` for it; `uuid`, `chrono`, `time` and `rust_decimal` types need \
            the feature of that name"
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
/// ```
/// use larder::params::{KeyEncoder, Param, SqlParam};
/// use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
///
/// #[derive(Debug)]
/// struct UserId(i64);
/// # impl Param for UserId {
/// #     fn kind(out: &mut KeyEncoder) { out.named("UserId"); }
/// #     fn value(&self, out: &mut KeyEncoder) { self.0.value(out); }
/// # }
///
/// impl ToSql for UserId {
///     fn to_sql(
///         &self,
///         ty: &Type,
///         out: &mut bytes::BytesMut,
///     ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
///         self.0.to_sql(ty, out)
///     }
///     fn accepts(ty: &Type) -> bool {
///         i64::accepts(ty)
///     }
///     to_sql_checked!();
/// }
///
/// impl SqlParam for UserId {
///     type Owned = UserId;
///     fn into_owned(self) -> UserId {
///         self
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be bound to a query",
    note = "`larder::params::SqlParam` is implemented for PostgreSQL's usual Rust types; `uuid`, `chrono`, \
            `time` and `rust_decimal` types need the feature of that name"
)]
pub trait SqlParam: Param {
    /// The owned form, which is kept for the load.
    type Owned: ToSql + Send + Sync + 'static;
    /// Turns the parameter into its owned form.
    fn into_owned(self) -> Self::Owned;
}

/// The parameters of one call, as a tuple of up to twelve: `()`, `(42_i64,)`, `(42_i64, "eu")`, …
pub trait Params {
    /// Writes the kind and the value of each parameter.
    fn encode(&self, out: &mut KeyEncoder);
}

/// [`Params`] that can be bound to a query in PostgreSQL.
pub trait SqlParams: Params {
    /// Turns the parameters into their owned forms, for a load.
    fn into_owned(self) -> OwnedParams;
}

/// The owned parameters of a load.
pub type OwnedParams = Vec<Box<dyn ToSql + Sync + Send>>;

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
                vec![$(Box::new($name.into_owned())),*]
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
        params.push(Box::new(self.1.into_owned()));
        params
    }
}
