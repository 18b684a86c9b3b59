//! The bytes of an entry in Redis: a header, the slots that the entry depends on, then the payload.
//!
//! ```text
//! 0    4   "LRDR"
//! 4    1   format of the entry: 3 whole, 4 in parts, 5 followed    all numbers big-endian
//! 5    1   codec: 0 rows, others see codec.rs
//! 6    1   1 if bytes 96 to 111 are a MAC, else 0
//! 7    1   number of parts, 0 if whole
//! 8    16  fingerprint of the key: half of its hash
//! 24   8   epoch ┐ as of which the load began; compared by Lua scripts,
//! 32   8   seq  │ as is the token
//! 40   16  token ┘ the name of the load
//! 56   8   life it was stored with, in milliseconds
//! 64   8   time to live, the first part of that life, in milliseconds
//! 72   8   time the load took, in microseconds
//! 80   8   length of the payload
//! 88   2   number of slots
//! 90   6   when its life ends by Redis's clock, in milliseconds since 1970
//! 96   16  MAC: keyed blake3 of bytes 0 to 95 and 112 to the end, cut to 128 bits,
//!          or XXH3 of the same, 8 bytes, and 8 of zero
//! 112  2n  slots, ascending
//! …    …   payload, or the description of a body that lies in parts under other keys; see body.rs
//! ```
//!
//! The checksum detects accidents but not forgery; the MAC detects both. XXH3 (Yann Collet,
//! <https://xxhash.com>) runs at the speed of memory: it checks a 100 KB entry in 5 µs, while Redis
//! takes 70 µs to deliver it. Keyed blake3 (O'Connor, Aumasson, Neves, Wilcox-O'Hearn 2020) takes
//! about 40 µs.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::currency::Position;
use crate::l2::body::Body;
use crate::value::checksum;
use crate::value::key::{CacheKey, MacKey};
use crate::value::tag::Dependencies;
use crate::value::token::Token;

const MAGIC: [u8; 4] = *b"LRDR";
pub(crate) const FORMAT: u8 = 3;
/// The format of an entry whose payload lies in parts. It has the same name in Redis. A build that
/// knows format 3 only takes it for no entry, and replaces it.
pub(crate) const IN_PARTS: u8 = 4;
/// The format of an entry, whole or in parts, whose changes are learned by following the database. A
/// build that does not know it takes it for no entry: it would serve it without the word of a follower.
pub(crate) const FOLLOWED: u8 = 5;
const CHECKED: usize = 96;
const HEADER: usize = 112;
/// The last time that an entry can express.
const LAST: u64 = (1 << 48) - 1;

/// The header's description of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) codec: u8,
    /// The position taken when the load began.
    pub(crate) at: Position,
    pub(crate) token: Token,
    /// The lifetime that the entry was stored with. Its age is this minus its remaining lifetime.
    pub(crate) life: Duration,
    /// When the lifetime ends, in milliseconds by the clock of the store. The same store gives the
    /// time when the entry is read, so the clocks of two machines are never compared.
    pub(crate) ends: u64,
    /// The part of the lifetime in which it is fresh.
    pub(crate) ttl: Duration,
    /// How long the load took. The result was this old when it was stored.
    pub(crate) load: Duration,
}

/// An entry that passed all checks.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) header: Header,
    /// Without those that no tag is hashed to.
    pub(crate) slots: Vec<u16>,
    /// Whether it depends on [`TagSlot::FOLLOWED`](crate::value::tag::TagSlot::FOLLOWED).
    pub(crate) is_followed: bool,
    pub(crate) content: Content,
}

/// What an entry contains of its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// The payload.
    Whole(Bytes),
    /// The payload lies in parts under other keys.
    Elsewhere(Body),
}

/// Why the bytes under a key are not its entry. Every refusal is a miss and is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not an entry, or an entry of another format.
    Foreign,
    /// The entry of another key.
    WrongKey,
    /// Shorter or longer than the header says, or changed since it was written.
    Damaged,
    /// It has a MAC but this cache has no secret, or the reverse, or the secrets differ.
    Unauthentic,
}

/// Returns the header and the slots of an entry; the payload follows them. Returns `None` if the
/// result depends on more slots than an entry can list.
pub(crate) fn seal(
    key: &CacheKey,
    header: &Header,
    depends: &Dependencies,
    payload: &[u8],
    secret: Option<&MacKey>,
) -> Option<Bytes> {
    sealed(key, [FORMAT, 0], header, depends, payload, secret)
}

/// Returns the whole entry of a result whose payload lies in parts, or `None` if the result depends
/// on more slots than an entry can list.
pub(crate) fn seal_head(
    key: &CacheKey,
    header: &Header,
    depends: &Dependencies,
    body: &Body,
    secret: Option<&MacKey>,
) -> Option<Bytes> {
    let described = body.described();
    let head = sealed(key, [IN_PARTS, body.parts()], header, depends, &described, secret)?;
    Some([&head[..], &described].concat().into())
}

fn sealed(
    key: &CacheKey,
    [format, parts]: [u8; 2],
    header: &Header,
    depends: &Dependencies,
    payload: &[u8],
    secret: Option<&MacKey>,
) -> Option<Bytes> {
    let slots = depends.numbers();
    let format = if depends.is_followed() { FOLLOWED } else { format };
    let mut checked = [0; CHECKED];
    checked[..4].copy_from_slice(&MAGIC);
    checked[4] = format;
    checked[5] = header.codec;
    checked[6] = u8::from(secret.is_some());
    checked[7] = parts;
    checked[8..24].copy_from_slice(&key.fingerprint());
    checked[40..56].copy_from_slice(&header.token.0);
    for (at, number) in [
        (24, u128::from(header.at.epoch)),
        (32, u128::from(header.at.seq)),
        (56, header.life.as_millis()),
        (64, header.ttl.as_millis()),
        (72, header.load.as_micros()),
        (80, payload.len() as u128),
    ] {
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        checked[at..at + 8].copy_from_slice(&number.to_be_bytes());
    }
    checked[88..90].copy_from_slice(&u16::try_from(slots.len()).ok()?.to_be_bytes());
    // Six bytes suffice until the year 10889.
    checked[90..96].copy_from_slice(&header.ends.min(LAST).to_be_bytes()[2..]);
    let mut bytes = BytesMut::with_capacity(HEADER + 2 * slots.len());
    bytes.put_slice(&checked);
    bytes.put_bytes(0, HEADER - CHECKED);
    slots.for_each(|slot| bytes.put_u16(slot));
    let seal = match secret {
        // The MAC covers one continuous run of bytes after the header, so the slots are hashed
        // together with the header, which fixes their number.
        Some(secret) => secret.mac([&inner(&checked, &bytes[HEADER..]), payload]),
        None => plain_seal(&inner(&checked, &bytes[HEADER..]), payload),
    };
    bytes[CHECKED..HEADER].copy_from_slice(&seal);
    Some(bytes.freeze())
}

fn inner(checked: &[u8], slots: &[u8]) -> Vec<u8> {
    [checked, slots].concat()
}

fn plain_seal(head: &[u8], payload: &[u8]) -> [u8; 16] {
    let mut seal = [0; 16];
    seal[..8].copy_from_slice(&checksum::of(head, payload).to_be_bytes());
    seal
}

pub(crate) fn open(
    key: &CacheKey,
    bytes: &Bytes,
    secret: Option<&MacKey>,
) -> Result<Opened, Refusal> {
    let Some(head) = bytes.first_chunk::<HEADER>() else {
        return Err(Refusal::Foreign);
    };
    if head[..4] != MAGIC || !is_known(head[4]) {
        return Err(Refusal::Foreign);
    }
    if head[8..24] != key.fingerprint() {
        return Err(Refusal::WrongKey);
    }
    let number = |at: usize| {
        u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes of the header"))
    };
    let slots = 2 * usize::from(u16::from_be_bytes([head[88], head[89]]));
    // A length in the header never causes an allocation; only bytes that have arrived do.
    let Some(slots) = bytes.get(HEADER..HEADER + slots) else {
        return Err(Refusal::Damaged);
    };
    let payload = bytes.slice(HEADER + slots.len()..);
    if number(80) != payload.len() as u64 {
        return Err(Refusal::Damaged);
    }
    let seal = head.last_chunk::<16>().expect("a header holds its seal");
    let checked = inner(&head[..CHECKED], slots);
    match (head[6], secret) {
        (0, None) if plain_seal(&checked, &payload) == *seal => {}
        (0, None) => return Err(Refusal::Damaged),
        (1, Some(secret)) if secret.verifies([&checked, &payload], seal) => {}
        _ => return Err(Refusal::Unauthentic),
    }
    let header = header(head);
    let slots = slots.chunks_exact(2).map(|slot| u16::from_be_bytes([slot[0], slot[1]])).collect();
    let content = if is_in_parts(head) {
        Content::Elsewhere(Body::of_description(head[7], &payload).ok_or(Refusal::Damaged)?)
    } else {
        Content::Whole(payload)
    };
    Ok(Opened { header, slots, is_followed: head[4] == FOLLOWED, content })
}

fn is_known(format: u8) -> bool {
    matches!(format, FORMAT | IN_PARTS | FOLLOWED)
}

fn is_in_parts(head: &[u8; HEADER]) -> bool {
    head[4] == IN_PARTS || head[4] == FOLLOWED && head[7] > 0
}

fn header(head: &[u8; HEADER]) -> Header {
    let number = |at: usize| {
        u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes of the header"))
    };
    Header {
        codec: head[5],
        at: Position { epoch: number(24), seq: number(32) },
        token: Token(head[40..56].try_into().expect("sixteen bytes of the header")),
        life: Duration::from_millis(number(56)),
        ends: number(88) & LAST,
        ttl: Duration::from_millis(number(64)),
        load: Duration::from_micros(number(72)),
    }
}

/// The claims of bytes that look like an entry, whether or not they pass the checks.
#[cfg(feature = "admin")]
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) format: u8,
    /// `None` if the format is different or the bytes are too short.
    pub(crate) header: Option<Header>,
    pub(crate) signed: bool,
    pub(crate) slots: Vec<u16>,
    /// `None` if the format is different or the bytes do not hold together.
    pub(crate) content: Option<Content>,
}

/// Returns `None` if the bytes do not begin like an entry of Larder.
#[cfg(feature = "admin")]
pub(crate) fn claim(bytes: &Bytes) -> Option<Claim> {
    if bytes.get(..4)? != MAGIC {
        return None;
    }
    let format = *bytes.get(4)?;
    let mut claim = Claim { format, header: None, signed: false, slots: vec![], content: None };
    let Some(head) = bytes.first_chunk::<HEADER>().filter(|_| is_known(format)) else {
        return Some(claim);
    };
    claim.header = Some(header(head));
    claim.signed = head[6] == 1;
    let slots = 2 * usize::from(u16::from_be_bytes([head[88], head[89]]));
    if let Some(slots) = bytes.get(HEADER..HEADER + slots) {
        let payload = bytes.slice(HEADER + slots.len()..);
        claim.content = if is_in_parts(head) {
            Body::of_description(head[7], &payload).map(Content::Elsewhere)
        } else {
            Some(Content::Whole(payload))
        };
        claim.slots =
            slots.chunks_exact(2).map(|slot| u16::from_be_bytes([slot[0], slot[1]])).collect();
    }
    Some(claim)
}

/// The token in bytes that the scripts accept as an entry, even if other parts are invalid. It is
/// used to request the replacement of that entry.
pub(crate) fn token(bytes: &[u8]) -> Option<Token> {
    origin(bytes).map(|(_, token)| token)
}

/// The position and the token, read from the part of the entry that the scripts read.
pub(crate) fn origin(bytes: &[u8]) -> Option<(Position, Token)> {
    let head = bytes.first_chunk::<56>()?;
    if head[..4] != MAGIC || !is_known(head[4]) {
        return None;
    }
    let number = |at: usize| {
        u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes of the header"))
    };
    let token = Token(*head.last_chunk().expect("56 bytes hold 16"));
    Some((Position { epoch: number(24), seq: number(32) }, token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::key::{Digest, KeyEncoder, Shape};
    use crate::value::tag::{Tag, TagSlot};
    use proptest::prelude::*;

    fn key(sql: &str) -> CacheKey {
        KeyEncoder::new(Digest::new("shop", sql, None, 0), Shape(0)).finish()
    }

    const HEAD: Header = Header {
        codec: 1,
        at: Position { epoch: (3 << 24) + 5, seq: 77 },
        token: Token([9; 16]),
        life: Duration::from_secs(90),
        ends: 1_764_100_000_000,
        ttl: Duration::from_secs(60),
        load: Duration::from_micros(1_234),
    };

    fn depends() -> Dependencies {
        Dependencies::new(["orders", "users"].map(Tag::from), TagSlot::of(7))
    }

    fn secrets() -> [Option<MacKey>; 2] {
        [None, Some(MacKey::of_secret(b"a secret of the fleet's"))]
    }

    fn sealed(payload: &[u8], secret: Option<&MacKey>) -> Vec<u8> {
        let head = seal(&key("a"), &HEAD, &depends(), payload, secret).unwrap();
        [&head, payload].concat()
    }

    fn opened(sql: &str, bytes: &[u8], secret: Option<&MacKey>) -> Result<Opened, Refusal> {
        open(&key(sql), &Bytes::copy_from_slice(bytes), secret)
    }

    #[test]
    fn an_entry_opens_as_it_was_sealed() {
        for secret in &secrets() {
            for payload in [&b""[..], b"x", &[7; 100_000]] {
                let bytes = sealed(payload, secret.as_ref());
                let opened = opened("a", &bytes, secret.as_ref()).unwrap();
                assert_eq!(opened.header, HEAD);
                assert_eq!(opened.content, Content::Whole(Bytes::copy_from_slice(payload)));
                assert!(opened.slots.iter().copied().eq(depends().numbers()));
                assert!(!opened.is_followed);
                assert_eq!(token(&bytes), Some(HEAD.token));
            }
        }
    }

    #[test]
    fn a_head_opens_as_it_was_sealed_and_no_changed_bit_goes_unnoticed() {
        for secret in &secrets() {
            let secret = secret.as_ref();
            let body = Body::of(HEAD.token, &vec![7; 1_000_000], secret);
            let bytes = seal_head(&key("a"), &HEAD, &depends(), &body, secret).unwrap();
            let opened = opened("a", &bytes, secret).unwrap();
            assert_eq!((opened.header, opened.content), (HEAD, Content::Elsewhere(body)));
            assert_eq!(token(&bytes), Some(HEAD.token));
            for bit in 0..8 * bytes.len() {
                let mut changed = bytes.to_vec();
                changed[bit / 8] ^= 1 << (bit % 8);
                let changed = open(&key("a"), &changed.into(), secret);
                assert!(changed.is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn the_layout_of_format_3_does_not_move() {
        let bytes = sealed(b"{}", None);
        assert_eq!(&bytes[..8], b"LRDR\x03\x01\0\0");
        assert_eq!(&bytes[24..40], b"\0\0\0\0\x03\0\0\x05\0\0\0\0\0\0\0\x4d");
        assert_eq!(&bytes[40..56], &[9; 16]);
        assert_eq!(&bytes[56..72], b"\0\0\0\0\0\x01\x5f\x90\0\0\0\0\0\0\xea\x60");
        assert_eq!(
            &bytes[72..96],
            b"\0\0\0\0\0\0\x04\xd2\0\0\0\0\0\0\0\x02\0\x03\x01\x9a\xbc\x8d\xc9\0"
        );
        assert_eq!(&bytes[104..112], &[0; 8]);
        assert_eq!(&bytes[118..], b"{}");
    }

    #[test]
    fn a_followed_entry_differs_by_its_format_and_is_in_parts_or_not() {
        let depends = depends().followed();
        for secret in &secrets() {
            let secret = secret.as_ref();
            let plain = sealed(b"{}", secret);
            let head = seal(&key("a"), &HEAD, &depends, b"{}", secret).unwrap();
            let followed = [&head, &b"{}"[..]].concat();
            assert_eq!(followed[4], 5);
            // All but the format and the seal, which covers it.
            assert_eq!((&followed[5..96], &followed[112..]), (&plain[5..96], &plain[112..]));
            let whole = opened("a", &followed, secret).unwrap();
            assert!(whole.is_followed && whole.slots.into_iter().eq(depends.numbers()));
            assert_eq!(whole.content, Content::Whole(Bytes::from_static(b"{}")));
            let body = Body::of(HEAD.token, &vec![7; 1_000_000], secret);
            let head = seal_head(&key("a"), &HEAD, &depends, &body, secret).unwrap();
            let in_parts = opened("a", &head, secret).unwrap();
            assert_eq!((head[4], in_parts.content), (5, Content::Elsewhere(body)));
            assert!(in_parts.is_followed);
            assert_eq!(token(&head), Some(HEAD.token));
        }
    }

    #[test]
    fn no_changed_bit_and_no_lost_byte_goes_unnoticed() {
        for secret in &secrets() {
            let secret = secret.as_ref();
            let bytes = sealed(b"payload", secret);
            for bit in 0..8 * bytes.len() {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(opened("a", &changed, secret).is_err(), "bit {bit}");
            }
            for length in 0..bytes.len() {
                assert!(opened("a", &bytes[..length], secret).is_err());
            }
            let longer = [&bytes[..], b"\0"].concat();
            assert_eq!(opened("a", &longer, secret).unwrap_err(), Refusal::Damaged);
        }
    }

    #[test]
    fn an_entry_under_another_key_or_of_another_secret_is_refused() {
        let [none, ours] = secrets();
        let (none, ours) = (none.as_ref(), ours.as_ref());
        let other = MacKey::of_secret(b"another secret, of somebody else");
        for secret in [none, ours] {
            let bytes = sealed(b"x", secret);
            assert_eq!(opened("b", &bytes, secret).unwrap_err(), Refusal::WrongKey);
            // Replayed under another key, with that key's fingerprint put in.
            let mut moved = bytes;
            moved[8..24].copy_from_slice(&key("b").fingerprint());
            assert!(opened("b", &moved, secret).is_err());
        }
        let unauthentic = Refusal::Unauthentic;
        assert_eq!(opened("a", &sealed(b"x", ours), Some(&other)).unwrap_err(), unauthentic);
        assert_eq!(opened("a", &sealed(b"x", ours), none).unwrap_err(), unauthentic);
        assert_eq!(opened("a", &sealed(b"x", none), ours).unwrap_err(), unauthentic);
    }

    #[test]
    fn other_bytes_are_foreign() {
        assert_eq!(opened("a", b"not an entry", None).unwrap_err(), Refusal::Foreign);
        let mut other = sealed(b"x", None);
        other[4] = 1;
        assert_eq!(opened("a", &other, None).unwrap_err(), Refusal::Foreign);
        assert_eq!(token(&other), None);
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_refused_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            head in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if head && bytes.len() > 24 {
                bytes[..5].copy_from_slice(b"LRDR\x03");
                bytes[8..24].copy_from_slice(&key("a").fingerprint());
            }
            for secret in &secrets() {
                prop_assert!(opened("a", &bytes, secret.as_ref()).is_err());
            }
        }
    }
}
