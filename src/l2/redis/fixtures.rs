//! Bytes that earlier versions wrote are read for ever: `tests/fixtures`.

use std::time::Duration;

use bytes::Bytes;

use super::subscription::parse;
use crate::currency::Position;
use crate::l2::entry::{self, Content, Header};
use crate::l2::{LeaseOutcome, Notice};
use crate::rows::{ColumnSets, Image, Rows};
use crate::telemetry::stats::FleetStats;
use crate::value::Value;
use crate::value::key::{CacheKey, Digest, KeyEncoder, MacKey};
use crate::value::param::Params;
use crate::value::tag::{Dependencies, Tag, TagSlot};

const FIRST: &str = include_str!("../../../tests/fixtures/0.1.txt");
const SQL: &str =
    "SELECT region, sum(amount)::int8 AS total FROM orders WHERE region = $1 GROUP BY region";
const SECRET: &[u8] = b"known to all processes of the fleet";

fn fixture(name: &str) -> &'static str {
    let line = FIRST.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("there is no fixture {name}"))
}

fn bytes(name: &str) -> Bytes {
    let digits = fixture(name).as_bytes();
    let digit = |digit: u8| char::from(digit).to_digit(16).unwrap() as u8;
    digits.as_chunks::<2>().0.iter().map(|[high, low]| digit(*high) << 4 | digit(*low)).collect()
}

fn digest() -> Digest {
    Digest::new("shop", SQL, None, 0)
}

fn key() -> CacheKey {
    let mut encoder = KeyEncoder::new(digest(), Rows::shape());
    ("eu",).encode(&mut encoder);
    encoder.finish()
}

#[test]
fn keys_are_those_of_every_release() {
    assert_eq!(&*key().to_hex(), fixture("key.rows"));
    let typed = Digest::new("shop", "SELECT pg_sleep(1)", None, 0);
    let typed = KeyEncoder::new(typed, <std::sync::Arc<i32>>::shape()).finish();
    assert_eq!(&*typed.to_hex(), fixture("key.i32"));
}

#[test]
fn tags_have_the_slots_of_every_release() {
    for tag in ["orders", "customers", "daily", ""] {
        let slot = Tag::from(tag).slot().index().to_string();
        assert_eq!(slot, fixture(&format!("slot.{tag}")), "{tag}");
    }
    assert_eq!(digest().slot().index().to_string(), fixture("slot.of_query"));
}

#[test]
fn entries_of_every_release_are_read_and_written() {
    let secret = MacKey::of_secret(SECRET);
    for (name, secret) in [("entry.plain", None), ("entry.signed", Some(&secret))] {
        let stored = bytes(name);
        let opened = entry::open(&key(), &stored, secret).unwrap();
        let Header { codec, at, token, life, ends, ttl, load } = opened.header;
        assert_eq!((codec, at), (0, Position { epoch: 21_259_436, seq: 3 }));
        assert_eq!((life, ttl), (Duration::from_secs(300), Duration::from_secs(300)));
        assert_eq!(load, Duration::from_micros(249));
        let Content::Whole(payload) = opened.content else { panic!("{name} is whole") };
        let image = Image::decode(payload.clone(), &ColumnSets::default()).unwrap();
        let rows = Rows::new(image.into());
        let row = rows.iter().next().unwrap();
        assert_eq!((row.get::<_, &str>("region"), row.get::<_, i64>("total")), ("eu", 12));

        let depends = Dependencies::new([Tag::from("orders")], digest().slot());
        assert!(depends.numbers().eq(opened.slots) && !opened.is_followed);
        let header = Header { codec, at, token, life, ends, ttl, load };
        let head = entry::seal(&key(), &header, &depends, &payload, secret).unwrap();
        assert_eq!(Bytes::from([&head[..], &payload].concat()), stored, "{name}");
    }
}

#[test]
fn notices_of_every_release_are_read() {
    let slots = [29_947, 65_536].map(|slot| TagSlot::numbered(slot).unwrap()).to_vec();
    let at = Position { epoch: 21_259_436, seq: 4 };
    assert_eq!(parse(&bytes("notice.invalidation")), Some(Notice::Invalidated { at, slots }));
    let ended = Notice::LeaseEnded { key: key(), done: LeaseOutcome::Filled };
    assert_eq!(parse(&bytes("notice.lease")), Some(ended));
}

#[test]
fn statistics_of_every_release_are_read() {
    let published = Bytes::from_static(fixture("process").as_bytes());
    let fleet = FleetStats::new([(published, Duration::from_secs(14))]);
    assert_eq!(fleet.skipped, 0);
    let process = &fleet.processes[0];
    assert_eq!((&*process.host, process.pid), ("web-1", 4711));
    assert_eq!(process.age, Duration::from_secs(1));
    let (cache, query) = (&process.cache, &process.queries[0]);
    assert_eq!((cache.reads_loaded, cache.invalidated), (3, 2));
    assert_eq!((cache.background_loads, cache.unacknowledged), (1, 1));
    assert_eq!((query.reads_loaded, query.invalidated), (3, 2));
    assert_eq!(process.views[0].refreshes, 4);
}
