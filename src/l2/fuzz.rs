//! Malformed entries: reading one must neither panic nor allocate for a size that it only claims.
//!
//! The inputs derive from a corpus of real entries: bits are flipped, numbers are replaced by
//! values that overflow, and parts are cut out, duplicated and spliced. Often the seal is
//! recomputed, so that the code behind it is reached as well. `LARDER_FUZZ=10000000 cargo test
//! --release fuzz` runs longer; `LARDER_SEED` repeats a run.

use std::env;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use allocation_counter::measure;
use bytes::Bytes;
use fastrand::Rng;

use crate::currency::Position;
use crate::l2::body::Body;
use crate::l2::entry::{self, Content, Header};
use crate::rows::{ColumnSets, Image, Rows};
use crate::value::Value;
use crate::value::codec::Codec;
use crate::value::key::{CacheKey, Digest, KeyEncoder, MacKey, Shape};
use crate::value::tag::{Dependencies, Tag, TagSlot};
use crate::value::token::Token;

fn variable<T: FromStr>(name: &str, default: T) -> T
where
    T::Err: Display,
{
    match env::var(name) {
        Ok(given) => given.parse().unwrap_or_else(|error| panic!("{name}={given}: {error}")),
        Err(_) => default,
    }
}

fn key() -> CacheKey {
    KeyEncoder::new(Digest::new("n", "q", None, 0), Shape(0)).finish()
}

fn sealed(
    header: &Header,
    depends: &Dependencies,
    payload: &[u8],
    secret: Option<&MacKey>,
) -> Vec<u8> {
    let head = entry::seal(&key(), header, depends, payload, secret).unwrap();
    [&head, payload].concat()
}

/// Payloads of every codec, from small ones to several kilobytes.
fn payloads(sets: &ColumnSets) -> Vec<(u8, Vec<u8>)> {
    let slot = |number: usize| (!number.is_multiple_of(3)).then(|| vec![number as u8; number % 7]);
    let mut payloads = vec![];
    for (width, rows) in [(0, 3), (1, 0), (1, 1), (3, 5), (40, 20)] {
        let rows: Vec<Vec<_>> = (0..rows)
            .map(|row| (0..width).map(|column| slot(row * 31 + column)).collect())
            .collect();
        let image = crate::rows::image_of(sets, width as u32, &rows);
        payloads.push((0, image.bytes().to_vec()));
    }
    let value: Vec<(String, Option<f64>)> =
        (0..20).map(|number| ("é".repeat(number), (number > 3).then_some(0.1))).collect();
    payloads.push((Codec::Json.id(), Codec::Json.encode(&value).unwrap().to_vec()));
    #[cfg(feature = "msgpack")]
    payloads.push((Codec::MessagePack.id(), Codec::MessagePack.encode(&value).unwrap().to_vec()));
    payloads
}

const NUMBERS: [u64; 9] =
    [0, 1, 0x7f, 0x80, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX];

fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Rng) {
    for _ in 0..random.usize(1..5) {
        if bytes.is_empty() {
            return;
        }
        let at = random.usize(..bytes.len());
        match random.u8(..7) {
            0 => bytes[at] ^= 1 << random.u8(..8),
            1 => bytes[at] = random.u8(..),
            2 => bytes.truncate(at),
            3 => {
                let number = NUMBERS[random.usize(..NUMBERS.len())].to_le_bytes();
                let number: Vec<u8> = if random.bool() {
                    number.to_vec()
                } else {
                    number.iter().rev().copied().collect()
                };
                let length = [2, 4, 8][random.usize(..3)].min(bytes.len() - at);
                bytes[at..at + length].copy_from_slice(&number[..length]);
            }
            4 => {
                let end = random.usize(at..=bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let part = bytes[at..random.usize(at..=bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let from = random.usize(..=other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
        }
    }
}

/// Decodes it as every kind of value, and reads every cell that it claims to have.
fn read(bytes: &Bytes, secret: Option<&MacKey>, sets: &ColumnSets) -> bool {
    let Ok(opened) = entry::open(&key(), bytes, secret) else { return false };
    let payload = match opened.content {
        Content::Whole(payload) => payload,
        Content::Elsewhere(body) => return body.matches(opened.header.token, bytes, secret),
    };
    let decoded = Rows::decode(opened.header.codec, payload.clone(), sets);
    let rows = decoded.is_some();
    if let Some(image) = decoded {
        look_at(&image);
    }
    let codec = opened.header.codec;
    let typed = <std::sync::Arc<Vec<(String, Option<f64>)>>>::decode(codec, payload, sets);
    rows || typed.is_some()
}

fn look_at(image: &Image) {
    let width = image.columns().columns().len();
    // A result without columns may claim any number of rows.
    for row in 0..if width == 0 { 0 } else { image.rows() } {
        for column in 0..width {
            let _ = image.cell(row, column);
        }
    }
}

#[test]
fn no_entry_makes_its_reader_panic_or_allocate_for_what_did_not_arrive() {
    let inputs: u64 = variable("LARDER_FUZZ", 60_000);
    let seed: u64 = variable("LARDER_SEED", fastrand::u64(..));
    println!("{inputs} inputs, LARDER_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let sets = ColumnSets::default();
    let secrets = [None, Some(MacKey::of_secret(b"known to the writers of entries"))];
    let depends = Dependencies::new(["a", "b"].map(Tag::from), TagSlot::of(9));
    let payloads = payloads(&sets);
    let header = |codec| Header {
        codec,
        at: Position { epoch: 1 << 24, seq: 7 },
        token: Token([5; 16]),
        life: Duration::from_secs(60),
        ends: 1_764_100_000_000,
        ttl: Duration::from_secs(60),
        load: Duration::from_millis(1),
    };
    let (mut accepted, mut forged) = (0, 0);
    for _ in 0..inputs {
        let secret = secrets[random.usize(..2)].as_ref();
        let (codec, payload) = &payloads[random.usize(..payloads.len())];
        let other = &payloads[random.usize(..payloads.len())].1;
        let resealed = random.bool();
        let bytes: Bytes = if resealed {
            // A writer that has the secret or needs none.
            let mut payload = payload.clone();
            mutate(&mut payload, other, &mut random);
            sealed(&header(*codec), &depends, &payload, secret).into()
        } else {
            let whole = sealed(&header(*codec), &depends, payload, secret);
            let mut bytes = whole.clone();
            mutate(&mut bytes, other, &mut random);
            forged += u64::from(
                bytes != whole && entry::open(&key(), &bytes.clone().into(), secret).is_ok(),
            );
            bytes.into()
        };
        let mut good = false;
        let used = measure(|| good = read(&bytes, secret, &sets));
        accepted += u64::from(good);
        // For a sequence, MessagePack may reserve up to a megabyte by the length that the sequence
        // claims.
        let allowed = 64 * bytes.len() as u64 + (64 << 10) + if *codec > 1 { 8 << 20 } else { 0 };
        assert!(used.bytes_max <= allowed, "{} bytes for {}", used.bytes_max, bytes.len());
    }
    assert_eq!(forged, 0, "changed and taken for whole");
    assert!(accepted > inputs / 100, "nothing got past the seal: {accepted}");
}

/// A head that claims a body of any size must cost its reader nothing but the head.
#[test]
fn no_head_makes_its_reader_panic_or_allocate_or_take_other_bytes_for_the_body() {
    let inputs: u64 = variable("LARDER_FUZZ", 60_000) / 4;
    let seed: u64 = variable("LARDER_SEED", fastrand::u64(..));
    println!("{inputs} inputs, LARDER_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let sets = ColumnSets::default();
    let secrets = [None, Some(MacKey::of_secret(b"known to the writers of entries"))];
    let depends = Dependencies::new(["a", "b"].map(Tag::from), TagSlot::of(9));
    let header = Header {
        codec: 0,
        at: Position { epoch: 1 << 24, seq: 7 },
        token: Token([5; 16]),
        life: Duration::from_secs(60),
        ends: 1_764_100_000_000,
        ttl: Duration::from_secs(60),
        load: Duration::from_millis(1),
    };
    let payload = vec![7; 700_000];
    let (mut heads, mut forged) = (0, 0);
    for _ in 0..inputs {
        let secret = secrets[random.usize(..2)].as_ref();
        let body = Body::of(header.token, &payload, secret);
        let bytes: Bytes = if random.bool() {
            // A writer that has the secret or needs none describes a body of its own.
            let mut described = body.described().to_vec();
            mutate(&mut described, &payload[..64], &mut random);
            let Some(body) = Body::of_description(random.u8(..), &described) else { continue };
            let matches = body.matches(header.token, &payload, secret);
            assert_eq!(matches, described == Body::of(header.token, &payload, secret).described());
            entry::seal_head(&key(), &header, &depends, &body, secret).unwrap()
        } else {
            let whole = entry::seal_head(&key(), &header, &depends, &body, secret).unwrap();
            let mut bytes = whole.to_vec();
            mutate(&mut bytes, &payload[..64], &mut random);
            forged += u64::from(
                bytes != whole && entry::open(&key(), &bytes.clone().into(), secret).is_ok(),
            );
            bytes.into()
        };
        heads += u64::from(entry::open(&key(), &bytes, secret).is_ok());
        let mut good = false;
        let used = measure(|| good = read(&bytes, secret, &sets));
        assert!(!good, "its own bytes are not its body");
        assert!(used.bytes_max <= 64 << 10, "{} bytes for {}", used.bytes_max, bytes.len());
    }
    assert_eq!(forged, 0, "changed and taken for whole");
    assert!(heads > inputs / 100, "nothing got past the seal: {heads}");
}
