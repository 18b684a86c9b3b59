//! [`CacheKey`]: the canonical bytes of a call and their blake3 hash.
//!
//! ```text
//! digest = blake3( format ‖ namespace ‖ SQL ‖ scope ‖ schema number )      once per query
//! key    = blake3( keyed with digest: shape ‖ (kind ‖ value) of each parameter )   per call
//! ```
//!
//! With a role or settings, a hash of them takes the place of the digest. It is keyed with the
//! digest; see `setup.rs`.
//!
//! Every variable-length part is preceded by its length and every parameter by its kind, so the
//! bytes can be parsed in one way only: two different calls have different bytes. The digest is the
//! key of the hash and not a prefix of its input. This leaves the whole first block of 64 bytes to
//! the parameters; most calls are hashed in that one block.

use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::value::tag::TagSlot;

/// Changes whenever the format of the hashed bytes changes, so that two builds never share a key by
/// accident.
pub(crate) const KEY_FORMAT: u8 = 1;

/// The blake3 hash that identifies a result, in memory and in Redis.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CacheKey([u8; 32]);

impl CacheKey {
    /// The first eight bytes, as a number.
    #[inline]
    pub(crate) fn first(&self) -> u64 {
        u64::from_le_bytes(*self.0.first_chunk().expect("32 bytes hold 8"))
    }

    /// The last 128 bits, which every entry carries. In memory, they save a second copy of the key.
    /// In Redis, they reveal a reply that belongs to another key.
    #[inline]
    pub(crate) fn fingerprint(&self) -> [u8; 16] {
        *self.0.last_chunk().expect("32 bytes hold 16")
    }

    /// The key with these bytes.
    #[cfg(feature = "redis")]
    pub(crate) fn of_bytes(bytes: [u8; 32]) -> CacheKey {
        CacheKey(bytes)
    }

    /// The key with these 64 hexadecimal digits.
    #[cfg(feature = "admin")]
    pub(crate) fn of_hex(hex: &str) -> Option<CacheKey> {
        blake3::Hash::from_hex(hex).ok().map(|hash| CacheKey(*hash.as_bytes()))
    }

    /// A random key, which belongs to no call.
    #[cfg(feature = "redis")]
    pub(crate) fn random() -> CacheKey {
        CacheKey(std::array::from_fn(|_| fastrand::u8(..)))
    }

    #[cfg(feature = "redis")]
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn to_hex(self) -> impl std::ops::Deref<Target = str> {
        blake3::Hash::from_bytes(self.0).to_hex()
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({})", &*self.to_hex())
    }
}

impl Hash for CacheKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.first());
    }
}

/// Hashes a key by taking its first eight bytes, because a key is already a uniform hash. This
/// saves about 20 ns on every hit.
pub(crate) type KeyHasher = BuildHasherDefault<FirstBytes>;

#[derive(Default)]
pub(crate) struct FirstBytes(u64);

impl Hasher for FirstBytes {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a cache key is hashed by its first eight bytes");
    }

    #[inline]
    fn write_u64(&mut self, first: u64) {
        self.0 = first;
    }
}

/// The hash of everything that all calls of one query share, computed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    /// The digest of no query, for values that are compared with each other only.
    pub(crate) const NONE: Digest = Digest([0; 32]);

    pub(crate) fn new(namespace: &str, sql: &str, scope: Option<&str>, schema: u32) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[KEY_FORMAT]);
        for text in [namespace, sql] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        match scope {
            None => hasher.update(&[0]),
            Some(scope) => hasher
                .update(&[1])
                .update(&(scope.len() as u64).to_le_bytes())
                .update(scope.as_bytes()),
        };
        hasher.update(&schema.to_le_bytes());
        Digest(*hasher.finalize().as_bytes())
    }

    /// The digest of a query under a role or settings, from a hash that is keyed with the query's.
    pub(crate) fn of_key(key: CacheKey) -> Digest {
        Digest(key.0)
    }

    /// The digest of a query that learns, by a hash of the session that its rows depend on.
    pub(crate) fn of_session(self, session: &[u8; 32]) -> Digest {
        let mut encoder = KeyEncoder::new(self, SESSION);
        encoder.fixed(*session);
        Digest(encoder.finish().0)
    }

    /// The key of a call whose bytes were [recorded](KeyEncoder::recording).
    pub(crate) fn key_of(&self, recorded: &[u8]) -> CacheKey {
        CacheKey(*blake3::keyed_hash(&self.0, recorded).as_bytes())
    }

    #[cfg(test)]
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The name of a query that was not given one.
    pub(crate) fn name(&self) -> String {
        let [first, ..] = self.0.as_chunks::<8>().0 else { unreachable!("32 bytes hold 8") };
        format!("{:016x}", u64::from_be_bytes(*first))
    }

    /// The slot that all calls of the query depend on.
    pub(crate) fn slot(&self) -> TagSlot {
        TagSlot::of(u64::from_le_bytes(*self.0.first_chunk().expect("32 bytes hold 8")))
    }
}

/// The key that authenticates entries: only a process with the secret can make an entry that others
/// accept.
#[derive(Clone)]
pub(crate) struct MacKey([u8; 32]);

impl MacKey {
    pub(crate) fn of_secret(secret: &[u8]) -> MacKey {
        MacKey(blake3::derive_key("larder 2026-11 authentication of entries", secret))
    }

    /// Keyed blake3 of the concatenated parts, truncated to 128 bits.
    pub(crate) fn mac(&self, parts: [&[u8]; 2]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        *hasher.finalize().as_bytes().first_chunk().expect("32 bytes hold 16")
    }

    /// Whether the parts have this MAC. The comparison takes constant time, so its duration does
    /// not reveal where two MACs differ.
    pub(crate) fn verifies(&self, parts: [&[u8]; 2], mac: &[u8; 16]) -> bool {
        let mine = self.mac(parts);
        mine.iter().zip(mac).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(***)")
    }
}

/// Distinguishes the types that one query with the same parameters can be read as: `Rows`, or one
/// of several Rust types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape(pub(crate) u64);

/// A shape that no result has: 0 is that of rows, 2 that of a setup, and those of Rust types are odd.
const SESSION: Shape = Shape(4);

/// Collects the bytes of a call's parameters for the hash that identifies its result.
///
/// It is needed only to make a type of your own a parameter; see [`Param`](crate::params::Param).
pub struct KeyEncoder {
    digest: Digest,
    short: [u8; SHORT],
    filled: usize,
    /// Absorbs the content of `short` each time it is full.
    long: Option<Long>,
}

enum Long {
    /// Boxed, because the state of a hasher is 1.9 KB.
    Hashed(Box<blake3::Hasher>),
    /// For a digest that is not known yet.
    Recorded(Vec<u8>),
}

impl Long {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Long::Hashed(hasher) => {
                hasher.update(bytes);
            }
            Long::Recorded(recorded) => recorded.extend_from_slice(bytes),
        }
    }
}

/// The first byte of a user-defined kind; the built-in kinds have lower numbers.
const NAMED: u8 = 255;

/// Parameters that fit into this many bytes are hashed without a heap allocation.
const SHORT: usize = 128;

impl KeyEncoder {
    #[inline]
    pub(crate) fn new(digest: Digest, shape: Shape) -> KeyEncoder {
        let mut encoder = KeyEncoder { digest, short: [0; SHORT], filled: 0, long: None };
        encoder.fixed(shape.0.to_le_bytes());
        encoder
    }

    /// An encoder that [records](KeyEncoder::recorded) the bytes.
    pub(crate) fn recording(shape: Shape) -> KeyEncoder {
        let mut encoder = KeyEncoder::new(Digest([0; 32]), shape);
        encoder.long = Some(Long::Recorded(vec![]));
        encoder
    }

    /// All bytes that were written, for [`Digest::key_of`].
    pub(crate) fn recorded(self) -> Vec<u8> {
        match self.long {
            Some(Long::Recorded(mut recorded)) => {
                recorded.extend_from_slice(&self.short[..self.filled]);
                recorded
            }
            _ => vec![],
        }
    }

    /// Writes bytes whose length is the same for every value of the kind.
    #[inline]
    pub fn fixed<const N: usize>(&mut self, bytes: [u8; N]) {
        // The size is known at compile time, so the copy is a store and not a call.
        match self.short[self.filled..].first_chunk_mut() {
            Some(room) => {
                *room = bytes;
                self.filled += N;
            }
            None => self.write_long(&bytes),
        }
    }

    /// Writes bytes of any length, preceded by their length.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.write(bytes);
    }

    /// Writes the number of values that follow.
    #[inline]
    pub fn length(&mut self, length: usize) {
        // Nearly all lengths are short.
        if length < 0x80 {
            return self.fixed([length as u8]);
        }
        // LEB128: seven bits per byte, the low ones first, the high bit set on all bytes but the
        // last. A usual length takes one byte, and no encoded length is a prefix of another.
        let mut rest = length as u64;
        while rest >= 0x80 {
            self.fixed([rest as u8 | 0x80]);
            rest >>= 7;
        }
        self.fixed([rest as u8]);
    }

    /// Writes the name of a user-defined kind.
    pub fn named(&mut self, name: &str) {
        self.fixed([NAMED]);
        self.bytes(name.as_bytes());
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        match self.short[self.filled..].get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.filled += bytes.len();
            }
            None => self.write_long(bytes),
        }
    }

    #[cold]
    fn write_long(&mut self, bytes: &[u8]) {
        let long = self.long.get_or_insert_with(|| {
            Long::Hashed(Box::new(blake3::Hasher::new_keyed(&self.digest.0)))
        });
        long.update(&self.short[..self.filled]);
        long.update(bytes);
        self.filled = 0;
    }

    #[inline]
    pub(crate) fn finish(&mut self) -> CacheKey {
        let hash = match &mut self.long {
            Some(Long::Hashed(long)) => long.update(&self.short[..self.filled]).finalize(),
            Some(Long::Recorded(_)) => unreachable!("what is recorded is hashed by `key_of`"),
            None => blake3::keyed_hash(&self.digest.0, &self.short[..self.filled]),
        };
        CacheKey(*hash.as_bytes())
    }
}

impl fmt::Debug for KeyEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The buffer holds parameter values.
        f.debug_struct("KeyEncoder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::param::{Param, Params};
    use proptest::prelude::*;

    fn digest(sql: &str) -> Digest {
        Digest::new("shop", sql, None, 0)
    }

    fn key<P: Params>(params: P) -> CacheKey {
        let mut encoder = KeyEncoder::new(digest("SELECT 1"), Shape(0));
        params.encode(&mut encoder);
        encoder.finish()
    }

    #[test]
    fn every_part_of_the_digest_counts() {
        let base = Digest::new("shop", "SELECT 1", None, 0);
        for other in [
            Digest::new("shop2", "SELECT 1", None, 0),
            Digest::new("shop", "SELECT 1 ", None, 0),
            Digest::new("shop", "SELECT 1", Some(""), 0),
            Digest::new("shop", "SELECT 1", None, 1),
            Digest::new("shopS", "ELECT 1", None, 0),
        ] {
            assert_ne!(base, other);
        }
        assert_ne!(Digest::new("a", "b", Some("c"), 0), Digest::new("a", "bc", Some(""), 0));
    }

    #[test]
    fn parameters_that_look_alike_have_different_keys() {
        assert_ne!(key(("a", "bc")), key(("ab", "c")));
        assert_ne!(key((None::<&str>,)), key(("",)));
        assert_ne!(key((1_i32,)), key((1_i64,)));
        assert_ne!(key((1_i32,)), key((1_i32, 1_i32)));
        assert_ne!(key((None::<i32>,)), key((None::<i64>,)));
        assert_ne!(key((Some(1_i32),)), key((1_i32,)));
        assert_ne!(key((None::<Option<i32>>,)), key((Some(None::<i32>),)));
        assert_ne!(key((Vec::<i32>::new(),)), key((Vec::<i64>::new(),)));
        assert_ne!(key((Vec::<i32>::new(),)), key((None::<Vec<i32>>,)));
        assert_ne!(key((vec![1_i32, 2],)), key((1_i32, 2_i32)));
        assert_ne!(key((vec!["a", "bc"],)), key((vec!["ab", "c"],)));
        assert_ne!(key((vec![vec![1_i32], vec![]],)), key((vec![vec![], vec![1_i32]],)));
        assert_ne!(key((b"ab".as_slice(),)), key(("ab",)));
        assert_ne!(key(()), key((None::<i32>,)));
        assert_ne!(key((true,)), key((1_i8,)));
    }

    #[test]
    fn owned_and_borrowed_forms_of_a_value_share_a_key() {
        assert_eq!(key(("a",)), key((String::from("a"),)));
        assert_eq!(key(([1_i32, 2].as_slice(),)), key((vec![1_i32, 2],)));
        assert_eq!(key((&7_i64,)), key((7_i64,)));
        assert_eq!(key((b"x".as_slice(),)), key((b"x".to_vec(),)));
    }

    #[test]
    fn floats_are_told_apart_by_their_bits() {
        assert_ne!(key((0.0_f64,)), key((-0.0_f64,)));
        assert_eq!(key((f64::NAN,)), key((f64::NAN,)));
        assert_ne!(key((f64::NAN,)), key((f64::from_bits(f64::NAN.to_bits() ^ 1),)));
        assert_ne!(key((1.0_f32,)), key((1.0_f64,)));
    }

    #[test]
    fn the_same_bytes_give_the_same_key_however_they_arrive() {
        // A value that crosses from the stack buffer into the streaming hasher.
        for length in [SHORT - 20, SHORT - 10, SHORT - 9, SHORT, SHORT + 1, 10_000] {
            let text = "x".repeat(length);
            let mut at_once = KeyEncoder::new(digest("q"), Shape(1));
            (text.as_str(),).encode(&mut at_once);
            let mut plain = vec![];
            plain.extend_from_slice(&1_u64.to_le_bytes());
            plain.push(14);
            let mut rest = length;
            while rest >= 0x80 {
                plain.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            plain.push(rest as u8);
            plain.extend_from_slice(text.as_bytes());
            let expected = blake3::keyed_hash(&digest("q").0, &plain);
            assert_eq!(at_once.finish().0, *expected.as_bytes());
            let mut recording = KeyEncoder::recording(Shape(1));
            (text.as_str(),).encode(&mut recording);
            assert_eq!(digest("q").key_of(&recording.recorded()).0, *expected.as_bytes());
        }
    }

    /// Parameters of built-in kinds, some of them nested, for the property tests.
    #[derive(Debug, Clone, PartialEq)]
    enum Any {
        Bool(bool),
        I32(i32),
        I64(i64),
        F64(u64),
        Text(String),
        Bytes(Vec<u8>),
        OptText(Option<String>),
        OptOptI32(Option<Option<i32>>),
        Texts(Vec<String>),
        OptI64s(Vec<Option<i64>>),
        Nested(Vec<Vec<i32>>),
    }

    impl Any {
        fn encode(&self, out: &mut KeyEncoder) {
            fn one<P: Param>(value: &P, out: &mut KeyEncoder) {
                P::kind(out);
                value.value(out);
            }
            match self {
                Any::Bool(v) => one(v, out),
                Any::I32(v) => one(v, out),
                Any::I64(v) => one(v, out),
                Any::F64(v) => one(&f64::from_bits(*v), out),
                Any::Text(v) => one(v, out),
                Any::Bytes(v) => one(v, out),
                Any::OptText(v) => one(v, out),
                Any::OptOptI32(v) => one(v, out),
                Any::Texts(v) => one(v, out),
                Any::OptI64s(v) => one(v, out),
                Any::Nested(v) => one(v, out),
            }
        }
    }

    fn any_param() -> impl Strategy<Value = Any> {
        prop_oneof![
            any::<bool>().prop_map(Any::Bool),
            any::<i32>().prop_map(Any::I32),
            any::<i64>().prop_map(Any::I64),
            any::<u64>().prop_map(Any::F64),
            "[ab\u{0}é]{0,4}".prop_map(Any::Text),
            prop::collection::vec(0..3_u8, 0..4).prop_map(Any::Bytes),
            prop::option::of("[ab]{0,3}").prop_map(Any::OptText),
            prop::option::of(prop::option::of(0..2_i32)).prop_map(Any::OptOptI32),
            prop::collection::vec("[ab]{0,2}", 0..4).prop_map(Any::Texts),
            prop::collection::vec(prop::option::of(0..2_i64), 0..4).prop_map(Any::OptI64s),
            prop::collection::vec(prop::collection::vec(0..2_i32, 0..3), 0..3)
                .prop_map(Any::Nested),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn two_calls_share_a_key_only_if_all_their_parameters_are_equal(
            one in prop::collection::vec(any_param(), 0..4),
            two in prop::collection::vec(any_param(), 0..4),
        ) {
            let hash = |params: &[Any]| {
                let mut encoder = KeyEncoder::new(digest("q"), Shape(0));
                params.iter().for_each(|param| param.encode(&mut encoder));
                encoder.finish()
            };
            prop_assert_eq!(one == two, hash(&one) == hash(&two));
            prop_assert_eq!(hash(&one), hash(&one));
        }

        #[test]
        fn two_digests_are_equal_only_if_all_their_parts_are(
            one in ("[ab]{0,3}", "[ab]{0,3}", prop::option::of("[ab]{0,2}"), 0..2_u32),
            two in ("[ab]{0,3}", "[ab]{0,3}", prop::option::of("[ab]{0,2}"), 0..2_u32),
        ) {
            let digest = |(namespace, sql, scope, schema): &(String, String, Option<String>, u32)| {
                Digest::new(namespace, sql, scope.as_deref(), *schema)
            };
            prop_assert_eq!(one == two, digest(&one) == digest(&two));
        }
    }
}
