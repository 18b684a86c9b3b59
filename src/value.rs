//! [`Value`]: what a read can answer with, and its bytes.

use std::any::type_name;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checksum;
use crate::codec::Codec;
use crate::key::Shape;
use crate::rows::{ColumnSets, Image, Rows};

/// The codec number of [`Rows`] in an entry.
const ROWS: u8 = 0;

/// What a read answers with: [`Rows`], or an `Arc` of the user's type. Either is a reference to what
/// memory holds.
///
/// Public only for the signatures it stands in; nobody else can implement it.
pub trait Value: Sized + Send + 'static {
    #[doc(hidden)]
    type Stored: Send + Sync + 'static;

    #[doc(hidden)]
    fn shape() -> Shape;

    #[doc(hidden)]
    fn of(stored: Arc<Self::Stored>) -> Self;

    /// The codec's number and the payload, or `None` if the value cannot be kept as bytes.
    #[doc(hidden)]
    fn encode(stored: &Self::Stored, codec: Codec) -> Option<(u8, Bytes)>;

    #[doc(hidden)]
    fn decode(codec: u8, payload: Bytes, sets: &ColumnSets) -> Option<Self::Stored>;
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
        Some((ROWS, stored.bytes().clone()))
    }

    fn decode(codec: u8, payload: Bytes, sets: &ColumnSets) -> Option<Image> {
        if codec == ROWS { Image::decode(payload, sets) } else { None }
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Value for Arc<T> {
    type Stored = T;

    /// One query may be read as several types; each has keys of its own, and so none ever sees
    /// another's bytes. The name of a type is the same in every build that has it at the same path;
    /// where it differs, results are not shared, never mistaken.
    fn shape() -> Shape {
        Shape(checksum::of_name(type_name::<T>()) | 1)
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
}
