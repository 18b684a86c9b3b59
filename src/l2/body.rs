//! [`Body`]: the payload of a large entry. It lies in parts under keys of their own.
//!
//! A large value behind a key delays everything on the connection that it is read on, and is
//! copied by Redis in one piece. So the payload of a large entry is stored in parts, which are
//! transferred one after the other on a connection of their own, and the key itself holds a short
//! entry that describes them, the *head*. A reader judges the result by the head, before it
//! transfers anything.
//!
//! The parts are named by the token of their load. So the parts of two loads never mix, and a
//! reader of a head finds the parts of that head or none.
//!
//! The description is the payload of the head, and the seal of the head covers it:
//!
//! ```text
//! 0    8   length of the body, in bytes, big-endian
//! 8    16  digest: keyed blake3 of the body, cut to 128 bits, or XXH3, 8 bytes, and 8 of zero
//! ```

use bytes::Bytes;

use crate::value::checksum;
use crate::value::key::MacKey;
use crate::value::token::Token;

/// A larger payload is stored in parts. On a link of 1 Gbit/s a payload of this size takes 2 ms, and
/// one of the default `max_value_bytes` takes 134 ms.
pub(crate) const THRESHOLD: usize = 256 << 10;
/// The size of a part. Redis copies a part in some 50 µs and serves others in between.
const PART: usize = 256 << 10;
/// The most parts that a header can count. Larger bodies have larger parts.
const MOST: usize = u8::MAX as usize;
/// What the digest begins with, so that the MAC of a body is never the MAC of an entry, whose first
/// bytes are `LRDR`.
const DOMAIN: [u8; 4] = *b"body";
const DESCRIPTION: usize = 24;

/// The description of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Body {
    parts: u8,
    length: u64,
    digest: [u8; 16],
}

impl Body {
    /// Describes the payload of a load.
    pub(crate) fn of(token: Token, payload: &[u8], secret: Option<&MacKey>) -> Body {
        let parts = payload.len().div_ceil(part_size(payload.len())).max(1);
        Body {
            parts: u8::try_from(parts).unwrap_or(u8::MAX),
            length: payload.len() as u64,
            digest: digest(token, payload, secret),
        }
    }

    /// The number of parts; at least one.
    pub(crate) fn parts(&self) -> u8 {
        self.parts
    }

    /// The length of the body, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn described(&self) -> [u8; DESCRIPTION] {
        let mut described = [0; DESCRIPTION];
        described[..8].copy_from_slice(&self.length.to_be_bytes());
        described[8..].copy_from_slice(&self.digest);
        described
    }

    pub(super) fn of_description(parts: u8, described: &[u8]) -> Option<Body> {
        let described: &[u8; DESCRIPTION] = described.try_into().ok()?;
        let (length, digest) = described.split_first_chunk::<8>()?;
        let length = u64::from_be_bytes(*length);
        let digest = digest.try_into().ok()?;
        (parts > 0).then_some(Body { parts, length, digest })
    }

    /// Whether these bytes are the body.
    pub(crate) fn matches(&self, token: Token, bytes: &[u8], secret: Option<&MacKey>) -> bool {
        if bytes.len() as u64 != self.length {
            return false;
        }
        match secret {
            Some(secret) => secret.verifies([&domain(token), bytes], &self.digest),
            None => digest(token, bytes, None) == self.digest,
        }
    }
}

/// The parts of a payload, in order. The last one may be shorter.
#[cfg_attr(not(feature = "redis"), allow(dead_code))]
pub(crate) fn parts_of(payload: &Bytes) -> impl Iterator<Item = Bytes> + Send + use<> {
    let (payload, size) = (payload.clone(), part_size(payload.len()));
    let starts = (0..payload.len().max(1)).step_by(size);
    starts.map(move |start| payload.slice(start..payload.len().min(start + size)))
}

/// The size of each part of a body but the last.
pub(crate) fn part_size(length: usize) -> usize {
    let mut size = PART;
    while length.div_ceil(size) > MOST {
        size *= 2;
    }
    size
}

fn domain(token: Token) -> [u8; 20] {
    let mut domain = [0; 20];
    domain[..4].copy_from_slice(&DOMAIN);
    domain[4..].copy_from_slice(&token.0);
    domain
}

fn digest(token: Token, bytes: &[u8], secret: Option<&MacKey>) -> [u8; 16] {
    let domain = domain(token);
    if let Some(secret) = secret {
        return secret.mac([&domain, bytes]);
    }
    let mut digest = [0; 16];
    digest[..8].copy_from_slice(&checksum::of(&domain, bytes).to_be_bytes());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token = Token([9; 16]);

    #[test]
    fn the_parts_of_a_payload_are_the_payload() {
        for length in [0, 1, PART - 1, PART, PART + 1, 16 << 20, MOST * PART, MOST * PART + 1] {
            let payload: Bytes = vec![7; length].into();
            let parts: Vec<Bytes> = parts_of(&payload).collect();
            assert_eq!(parts.len(), usize::from(Body::of(TOKEN, &payload, None).parts()));
            assert!(parts.iter().all(|part| part.len() <= part_size(length)), "{length}");
            assert_eq!(parts.concat().len(), length);
        }
    }

    #[test]
    fn a_body_is_that_of_its_load_and_of_its_secret_and_of_no_other_bytes() {
        let secrets = [None, Some(MacKey::of_secret(b"a secret of the fleet's"))];
        let payload = vec![7; 700_000];
        for secret in &secrets {
            let secret = secret.as_ref();
            let body = Body::of(TOKEN, &payload, secret);
            assert_eq!(Body::of_description(body.parts(), &body.described()), Some(body));
            assert!(body.matches(TOKEN, &payload, secret));
            assert!(!body.matches(Token([8; 16]), &payload, secret));
            assert!(!body.matches(TOKEN, &payload[1..], secret));
            let mut changed = payload.clone();
            changed[500_000] ^= 1;
            assert!(!body.matches(TOKEN, &changed, secret));
        }
        let [none, some] = secrets;
        assert!(!Body::of(TOKEN, &payload, none.as_ref()).matches(TOKEN, &payload, some.as_ref()));
    }

    #[test]
    fn a_description_of_another_length_or_of_no_parts_is_refused() {
        let described = Body::of(TOKEN, b"payload", None).described();
        assert_eq!(Body::of_description(0, &described), None);
        assert_eq!(Body::of_description(1, &described[1..]), None);
        assert_eq!(Body::of_description(1, &[&described[..], b"x"].concat()), None);
    }
}
