//! The values that all rooms share: keys, tags, parameters, codecs, and [`Value`], the types that a
//! read can return.

pub(crate) mod answer;
pub(crate) mod checksum;
pub(crate) mod codec;
pub(crate) mod key;
// Numbers are for the scripts in Redis.
#[cfg_attr(not(feature = "redis"), allow(dead_code))]
pub(crate) mod lsn;
pub(crate) mod param;
pub(crate) mod relation;
pub(crate) mod setup;
pub(crate) mod tag;
pub(crate) mod token;

use crate::sync::Mutex;
use std::any::{TypeId, type_name};
use std::cell::RefCell;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::rows::{ColumnSets, Image, Rows};
use crate::value::codec::Codec;
use crate::value::key::Shape;

/// The codec number of [`Rows`] in an entry.
const ROWS: u8 = 0;

/// What a read returns: [`Rows`], or an `Arc` of the user's type. Both share the result that memory
/// holds.
///
/// Public only because public signatures contain it; it cannot be implemented outside the crate.
pub trait Value: Sized + Send + 'static {
    #[doc(hidden)]
    type Stored: Send + Sync + 'static;

    #[doc(hidden)]
    fn shape() -> Shape;

    #[doc(hidden)]
    fn of(stored: Arc<Self::Stored>) -> Self;

    /// The codec's number and the payload, or `None` if the value cannot be stored as bytes.
    #[doc(hidden)]
    fn encode(stored: &Self::Stored, codec: Codec) -> Option<(u8, Bytes)>;

    #[doc(hidden)]
    fn decode(codec: u8, payload: Bytes, sets: &ColumnSets) -> Option<Self::Stored>;

    /// Whether the result is empty: no rows, or a typed value that serde writes as null, an empty
    /// sequence, an empty map or an empty text.
    #[doc(hidden)]
    fn is_empty(stored: &Self::Stored, codec: u8, payload: &[u8]) -> bool;
}

impl Value for Rows {
    type Stored = Image;

    fn shape() -> Shape {
        Shape(0)
    }

    fn of(stored: Arc<Image>) -> Rows {
        Rows::new(stored)
    }

    fn encode(stored: &Image, _: Codec) -> Option<(u8, Bytes)> {
        stored.is_storable().then(|| (ROWS, stored.bytes().clone()))
    }

    fn decode(codec: u8, payload: Bytes, sets: &ColumnSets) -> Option<Image> {
        if codec == ROWS { Image::decode(payload, sets) } else { None }
    }

    fn is_empty(stored: &Image, _: u8, _: &[u8]) -> bool {
        stored.rows() == 0
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Value for Arc<T> {
    type Stored = T;

    /// Each type that a query is read as has its own keys, so no type ever decodes another's bytes.
    fn shape() -> Shape {
        shape_of::<T>()
    }

    fn of(stored: Arc<T>) -> Arc<T> {
        stored
    }

    fn encode(stored: &T, codec: Codec) -> Option<(u8, Bytes)> {
        Some((codec.id(), codec.encode(stored)?))
    }

    fn decode(codec: u8, payload: Bytes, _: &ColumnSets) -> Option<T> {
        Codec::of_id(codec)?.decode(&payload)
    }

    fn is_empty(_: &T, codec: u8, payload: &[u8]) -> bool {
        Codec::of_id(codec).is_some_and(|codec| codec.is_empty(payload))
    }
}

/// Runs code that may call the user's `Serialize` and `Deserialize`. A panic in it becomes `None`:
/// a loaded result is returned even if its bytes cannot be written or read.
pub(crate) fn unless_it_panics<T>(convert: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(convert)).ok().flatten()
}

/// The shape of a type: a hash of its name and size. It is equal in every build that has the type
/// at the same path.
///
/// Two types can have the same name: in two blocks of one function, or in two versions of a crate.
/// The first one that a process uses has the plain shape. The shape of the other depends on its
/// `TypeId`, which is the same in all processes of one build. Two processes that use them in
/// different order may confuse them, if both types have the same size and decode the same bytes; a
/// `scope` on one of the queries prevents that.
fn shape_of<T: 'static>() -> Shape {
    static NAMES: Mutex<BTreeMap<u64, TypeId>> = Mutex::new(BTreeMap::new());
    thread_local! {
        static MINE: RefCell<HashMap<TypeId, Shape>> = RefCell::default();
    }
    let id = TypeId::of::<T>();
    MINE.with_borrow_mut(|mine| {
        *mine.entry(id).or_insert_with(|| {
            let Shape(name) = shape_named(type_name::<T>(), size_of::<T>());
            let mut names = NAMES.lock();
            if *names.entry(name).or_insert(id) == id {
                return Shape(name);
            }
            let mut hasher = DefaultHasher::new();
            (id, name).hash(&mut hasher);
            Shape(hasher.finish() | 1)
        })
    })
}

/// The shape of the first type with this name and size that a process uses.
pub(crate) fn shape_named(name: &str, size: usize) -> Shape {
    Shape(checksum::of_name(&format!("{name} {size}")) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_one_name_have_different_shapes() {
        let one = {
            struct Report;
            (type_name::<Report>(), shape_of::<Report>())
        };
        let other = {
            struct Report;
            (type_name::<Report>(), shape_of::<Report>())
        };
        assert_eq!(one.0, other.0);
        assert_eq!(one.1, shape_named(one.0, 0));
        assert_ne!(one.1, other.1);
        assert_eq!(shape_of::<i32>(), shape_of::<i32>());
        assert_ne!(shape_of::<i32>(), shape_of::<i64>());
    }
}
