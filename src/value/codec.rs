//! [`Codec`]: encodes typed values to bytes and decodes them.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

mod fingerprint;

/// The encoding of typed values in Redis, which are those of [`wrap`](crate::Query::wrap) and
/// [`load`](crate::Query::load). [`Rows`](crate::Rows) have their own encoding and need no codec.
///
/// ```
/// # use larder::{Codec, QueryCache};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = QueryCache::builder().codec(Codec::Json).build().await?;
/// let ratio = cache.query("SELECT sum(won) / sum(played) FROM games");
/// let nan = ratio.load(|| async { Ok::<_, std::io::Error>(f64::NAN) }).await?;
/// assert!(nan.is_nan());                          // answered as it is,
/// assert_eq!(cache.stats().unstorable, 1);        // and not stored as something else
/// # Ok(())
/// # }
/// ```
///
/// A value is stored only if its bytes decode to the same value. This is checked before each store.
/// A value that fails the check is still returned to the caller, unchanged; it is not stored, and
/// it is counted in [`CacheStats::unstorable`](crate::stats::CacheStats::unstorable). The same
/// holds for a value with more than 120 levels of serde's nesting, where each `Option` and each
/// newtype is one level. The check cannot see what a type hides from serde, such as a field under
/// `#[serde(skip)]`.
///
/// An entry records the codec that wrote it and is decoded with that codec, so a fleet may change
/// its codec while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Codec {
    /// JSON, with `serde_json`. Numbers are preserved bit for bit, 128-bit integers included.
    ///
    /// JSON has no NaN and no infinities. Its map keys are strings, or integers and booleans
    /// written as strings. It has only one `null` for `None`, `()` and `Some(None)`.
    #[default]
    Json,
    /// MessagePack, with `rmp-serde` and the names of struct fields. It takes a third to half of
    /// JSON's time and less space, and it supports NaN, infinities and map keys of any type.
    #[cfg(feature = "msgpack")]
    #[cfg_attr(docsrs, doc(cfg(feature = "msgpack")))]
    MessagePack,
}

impl Codec {
    /// The codec's number in an entry.
    pub(crate) fn id(self) -> u8 {
        match self {
            Codec::Json => 1,
            #[cfg(feature = "msgpack")]
            Codec::MessagePack => 2,
        }
    }

    /// The codec with this number in an entry, if this build has it.
    pub(crate) fn of_id(id: u8) -> Option<Codec> {
        match id {
            1 => Some(Codec::Json),
            #[cfg(feature = "msgpack")]
            2 => Some(Codec::MessagePack),
            _ => None,
        }
    }

    /// The codec's answer to serde's `is_human_readable`.
    fn human_readable(self) -> bool {
        self == Codec::Json
    }

    /// The value's bytes, or `None` if they do not decode to the same value.
    ///
    /// The check decodes the bytes. It triples the cost of a store, which is still small compared
    /// to a load. Without it, such a value would fail at every later read instead of once, here.
    pub(crate) fn encode<T: Serialize + DeserializeOwned>(self, value: &T) -> Option<Bytes> {
        // First, because it limits the depth of the recursion.
        let fingerprint = fingerprint::of(value, self.human_readable())?;
        let bytes = match self {
            Codec::Json => serde_json::to_vec(value).ok()?,
            #[cfg(feature = "msgpack")]
            Codec::MessagePack => rmp_serde::to_vec_named(value).ok()?,
        };
        let back = self.decode::<T>(&bytes)?;
        let same = fingerprint::of(&back, self.human_readable()) == Some(fingerprint);
        same.then(|| bytes.into())
    }

    /// One of our own types as JSON, without the check of [`encode`](Codec::encode).
    pub(crate) fn json(ours: &impl Serialize) -> Option<Bytes> {
        serde_json::to_vec(ours).ok().map(Bytes::from)
    }

    /// Whether the bytes encode an empty value: null, or an empty sequence, map or text.
    pub(crate) fn is_empty(self, bytes: &[u8]) -> bool {
        match self {
            Codec::Json => matches!(bytes, b"null" | b"[]" | b"{}" | b"\"\""),
            #[cfg(feature = "msgpack")]
            Codec::MessagePack => matches!(bytes, [0xc0 | 0x90 | 0x80 | 0xa0] | [0xc4, 0]),
        }
    }

    pub(crate) fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Option<T> {
        match self {
            Codec::Json => serde_json::from_slice(bytes).ok(),
            #[cfg(feature = "msgpack")]
            Codec::MessagePack => {
                let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
                // One level of a value takes up to three levels of the decoder.
                reader.set_max_depth(3 * fingerprint::DEEPEST);
                T::deserialize(&mut reader).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    use std::collections::{BTreeMap, HashMap};
    use std::fmt::Debug;

    fn round_trip<T: Serialize + DeserializeOwned>(codec: Codec, value: &T) -> Option<T> {
        codec.decode(&codec.encode(value)?)
    }

    fn kept<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T) {
        assert_eq!(round_trip(Codec::Json, &value).as_ref(), Some(&value));
        #[cfg(feature = "msgpack")]
        assert_eq!(round_trip(Codec::MessagePack, &value).as_ref(), Some(&value));
    }

    fn refused_by_json<T: Serialize + DeserializeOwned>(value: T) {
        assert!(Codec::Json.encode(&value).is_none());
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Unit,
        Newtype(f64),
        Tuple(u8, Option<u8>),
        Struct { name: String, unit: () },
    }

    #[test]
    fn integers_strings_and_maps_come_back_as_they_were() {
        kept((i128::MIN, i128::MAX, u128::MAX, u64::MAX, i64::MIN));
        kept("x".repeat(100_000));
        kept(String::from("\u{0}\u{1f600}\u{7f}\"\\\u{2028}"));
        kept(HashMap::from([(String::from("a"), 1.5_f32), (String::new(), -0.0)]));
        kept(BTreeMap::from([(i64::MIN, true), (7, false)]));
        kept(BTreeMap::from([(Some(1), 'x')]));
        kept(vec![Shape::Unit, Shape::Newtype(0.1), Shape::Tuple(1, None)]);
        kept(Shape::Struct { name: "n".into(), unit: () });
        kept((Some(1), None::<u8>, vec![Some('x'), None]));
    }

    #[test]
    fn what_json_would_change_is_not_stored() {
        refused_by_json(f64::NAN);
        refused_by_json(vec![Some(1.0), Some(f64::INFINITY)]);
        refused_by_json(f32::NEG_INFINITY);
        refused_by_json(Some(Some(f64::NAN)));
        refused_by_json(Some(None::<u8>));
        refused_by_json(Some(()));
        refused_by_json(Shape::Newtype(f64::NAN));
        refused_by_json(BTreeMap::from([((1, 2), 3)]));
        refused_by_json(HashMap::from([(String::from("a"), f64::NAN)]));
    }

    #[test]
    fn what_cannot_be_read_back_is_not_stored() {
        #[derive(Serialize, Deserialize)]
        struct Inner {
            wide: i128,
        }
        #[derive(Serialize, Deserialize)]
        struct Outer {
            #[serde(flatten)]
            inner: Inner,
        }
        refused_by_json(Outer { inner: Inner { wide: i128::MAX } });
    }

    #[cfg(feature = "msgpack")]
    #[test]
    fn messagepack_holds_what_json_cannot() {
        let back = round_trip(Codec::MessagePack, &vec![f64::NAN, f64::INFINITY]).unwrap();
        assert!(back[0].is_nan() && back[1] == f64::INFINITY);
        let map = BTreeMap::from([((1, 2), 3)]);
        assert_eq!(round_trip(Codec::MessagePack, &map), Some(map));
        assert!(Codec::MessagePack.encode(&Some(None::<u8>)).is_none());
    }

    #[test]
    fn what_serdes_attributes_would_change_is_not_stored() {
        #[derive(Serialize, Deserialize)]
        #[serde(untagged)]
        enum Number {
            Float(f64),
            Integer(i64),
        }
        refused_by_json(Number::Integer(9_007_199_254_740_993));

        #[derive(Serialize, Deserialize)]
        struct Extra {
            note: Option<String>,
        }
        #[derive(Serialize, Deserialize)]
        struct Flat {
            #[serde(flatten)]
            extra: Option<Extra>,
        }
        refused_by_json(Flat { extra: None });

        #[derive(Serialize, Deserialize, PartialEq, Eq, Hash)]
        #[serde(untagged)]
        enum Key {
            Number(i64),
            Text(String),
        }
        refused_by_json(HashMap::from([(Key::Number(1), 'a'), (Key::Text("1".into()), 'b')]));

        fn one() -> i32 {
            1
        }
        fn is_zero(number: &i32) -> bool {
            *number == 0
        }
        #[derive(Serialize, Deserialize)]
        struct Skipping {
            #[serde(skip_serializing_if = "is_zero", default = "one")]
            number: i32,
        }
        refused_by_json(Skipping { number: 0 });
    }

    #[test]
    fn a_value_nested_without_end_is_not_stored() {
        #[derive(Serialize, Deserialize)]
        struct Link {
            next: Option<Box<Link>>,
        }
        let chain = |length: usize| {
            let last = Link { next: None };
            (0..length).fold(last, |next, _| Link { next: Some(Box::new(next)) })
        };
        assert!(Codec::Json.encode(&chain(30)).is_some());
        refused_by_json(chain(5_000));
        #[cfg(feature = "msgpack")]
        {
            assert!(Codec::MessagePack.encode(&chain(30)).is_some());
            assert!(Codec::MessagePack.encode(&chain(5_000)).is_none());
        }
    }

    #[test]
    fn values_whose_order_is_no_part_of_them_are_stored() {
        let set: std::collections::HashSet<String> = (0..1000).map(|n| n.to_string()).collect();
        kept(set.clone());
        kept(set.into_iter().map(|text| (text, vec![1, 2])).collect::<HashMap<_, _>>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn every_finite_float_comes_back_bit_for_bit(bits in any::<u64>(), single in any::<u32>()) {
            let (double, single) = (f64::from_bits(bits), f32::from_bits(single));
            if double.is_finite() {
                let back = round_trip(Codec::Json, &double).unwrap();
                prop_assert_eq!(back.to_bits(), double.to_bits());
            }
            if single.is_finite() {
                let back = round_trip(Codec::Json, &single).unwrap();
                prop_assert_eq!(back.to_bits(), single.to_bits());
            }
            #[cfg(feature = "msgpack")]
            {
                let back = round_trip(Codec::MessagePack, &double).unwrap();
                prop_assert_eq!(back.to_bits(), double.to_bits());
            }
        }
    }
}
