//! [`ResultKey`]: the key of one result, and the ways to name one.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::value::key::KeyEncoder;
use crate::value::key::{CacheKey, Digest, Shape};
use crate::value::param::Param;
use crate::value::setup::{Over, Setup};
use crate::value::shape_named;
use crate::value::tag::TagSlot;

/// The key of one result: the hash of its namespace, SQL, scope, schema version, role, settings, type
/// and parameters.
///
/// Displayed as its 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResultKey(pub(super) CacheKey);

impl ResultKey {
    /// The key with these 64 hexadecimal digits.
    pub fn of_hex(digits: &str) -> Option<ResultKey> {
        CacheKey::of_hex(digits).map(ResultKey)
    }
}

impl fmt::Display for ResultKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

impl fmt::Debug for ResultKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResultKey({self})")
    }
}

/// Writes a parameter.
type Encode = Arc<dyn Fn(&mut KeyEncoder) + Send + Sync>;

/// Computes the key of a call, as the cache does.
///
/// The key of a call that [learns](crate::Query::auto) contains the session of its source and cannot be
/// computed here: take it from an event.
///
/// ```
/// use larder::admin::KeyBuilder;
///
/// let one = KeyBuilder::rows("shop", "SELECT $1").param(&1_i64).key();
/// assert_ne!(one, KeyBuilder::rows("shop", "SELECT $1").param(&1_i32).key());
/// ```
#[derive(Clone)]
#[must_use = "a builder of a key does nothing until `key` is called"]
pub struct KeyBuilder {
    namespace: String,
    sql: String,
    scope: Option<String>,
    schema_version: u32,
    setup: Option<Setup<'static>>,
    shape: Shape,
    params: Vec<Encode>,
}

impl KeyBuilder {
    /// The key of a query that gives [`Rows`](crate::Rows), with the SQL letter for letter.
    pub fn rows(namespace: impl Into<String>, sql: impl Into<String>) -> KeyBuilder {
        KeyBuilder {
            namespace: namespace.into(),
            sql: sql.into(),
            scope: None,
            schema_version: 0,
            setup: None,
            shape: Shape(0),
            params: vec![],
        }
    }

    /// The key of a value of a Rust type instead: its `std::any::type_name` and `size_of`.
    pub fn typed(mut self, name: &str, size: usize) -> KeyBuilder {
        self.shape = shape_named(name, size);
        self
    }

    /// The query's [`scope`](crate::Query::scope).
    pub fn scope(mut self, scope: impl Into<String>) -> KeyBuilder {
        self.scope = Some(scope.into());
        self
    }

    /// The query's [`schema_version`](crate::Query::schema_version). Default: 0.
    pub fn schema_version(mut self, version: u32) -> KeyBuilder {
        self.schema_version = version;
        self
    }

    /// The [role](crate::Query::as_role) of the query or the call.
    pub fn as_role(mut self, role: impl Into<String>) -> KeyBuilder {
        self.setup.get_or_insert_default().set_role(Cow::Owned(role.into()));
        self
    }

    /// A [setting](crate::Query::with_setting) of the query or the call.
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> KeyBuilder {
        let (name, value) = (Cow::Owned(name.into()), Cow::Owned(value.into()));
        self.setup.get_or_insert_default().set(name, value);
        self
    }

    /// Adds the next parameter, of the type that the program binds.
    pub fn param<P: Param + Clone + Send + Sync + 'static>(mut self, param: &P) -> KeyBuilder {
        let param = param.clone();
        self.params.push(Arc::new(move |out| {
            P::kind(out);
            param.value(out);
        }));
        self
    }

    /// The key.
    pub fn key(&self) -> ResultKey {
        let digest = match &self.setup {
            None => self.digest(),
            Some(setup) => Over { setup, base: None }.digest(self.digest()),
        };
        let mut encoder = KeyEncoder::new(digest, self.shape);
        self.params.iter().for_each(|param| param(&mut encoder));
        ResultKey(encoder.finish())
    }

    fn digest(&self) -> Digest {
        Digest::new(&self.namespace, &self.sql, self.scope.as_deref(), self.schema_version)
    }

    /// The slot that all calls of the query depend on.
    pub(super) fn query_slot(&self) -> TagSlot {
        self.digest().slot()
    }
}

impl fmt::Debug for KeyBuilder {
    /// Shows no parameter and no value of a setting.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyBuilder")
            .field("namespace", &self.namespace)
            .field("params", &self.params.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_shown_and_hides_its_parameters() {
        let builder = KeyBuilder::rows("shop", "SELECT $1").param(&"secret".to_owned()).scope("a");
        let key = builder.key();
        assert_eq!(ResultKey::of_hex(&key.to_string()), Some(key));
        assert!(ResultKey::of_hex("12").is_none());
        assert!(!format!("{builder:?}").contains("secret"));
        assert_ne!(key, builder.clone().typed("shop::Stats", 24).key());
        assert_ne!(key, builder.schema_version(1).key());
    }
}
