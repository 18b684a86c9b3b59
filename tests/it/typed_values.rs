//! Are typed values the same after they were stored in Redis?

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use larder::{Codec, Origin, QueryCache};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::support::{namespace, over_redis, written};

async fn ask<T>(cache: &QueryCache, value: &T) -> (Arc<T>, Origin)
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    let value = value.clone();
    let query = cache.query("SELECT value");
    let read = query.load(move || async move { Ok::<_, std::io::Error>(value) });
    let answer = read.answer().await.unwrap();
    let origin = answer.origin();
    (answer.into_value(), origin)
}

/// Loads the value in one cache and reads it in another.
async fn through_redis<T>(codec: Codec, value: T) -> Arc<T>
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    let namespace = namespace();
    let here = over_redis(&namespace).codec(codec).build().await.unwrap();
    ask(&here, &value).await;
    written(&here, 1).await;
    let there = over_redis(&namespace).codec(codec).build().await.unwrap();
    let (value, origin) = ask(&there, &value).await;
    if cfg!(feature = "redis") {
        assert_eq!(origin, Origin::L2);
    }
    value
}

async fn kept<T>(value: T)
where
    T: Serialize + DeserializeOwned + Clone + PartialEq + Debug + Send + Sync + 'static,
{
    assert_eq!(*through_redis(Codec::Json, value.clone()).await, value);
    #[cfg(feature = "msgpack")]
    assert_eq!(*through_redis(Codec::MessagePack, value.clone()).await, value);
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Report {
    wide: i128,
    unsigned: u128,
    names: HashMap<String, Vec<Option<String>>>,
    by_year: BTreeMap<i32, f64>,
    nested: Option<Box<Report>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn structs_maps_wide_integers_and_long_strings_are_kept() {
    let inner = Report {
        wide: i128::MIN,
        unsigned: u128::MAX,
        names: HashMap::from([("Zoë \u{1f600}\0".into(), vec![None, Some("x".repeat(300_000))])]),
        by_year: BTreeMap::from([(-44, 0.1), (2026, -0.0)]),
        nested: None,
    };
    kept(Report { nested: Some(Box::new(inner.clone())), ..inner }).await;
    kept(()).await;
    kept(Vec::<Report>::new()).await;
    kept(None::<i32>).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_float_is_kept_bit_for_bit() {
    let mut random = fastrand_like(7);
    let mut floats = vec![0.0, -0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, f64::EPSILON, 0.1 + 0.2];
    while floats.len() < 20_000 {
        let float = f64::from_bits(random());
        if float.is_finite() {
            floats.push(float);
        }
    }
    let back = through_redis(Codec::Json, floats.clone()).await;
    assert!(back.iter().zip(&floats).all(|(one, two)| one.to_bits() == two.to_bits()));
}

/// SplitMix64 (Steele, Lea, Flood 2014): a fixed seed and no dependency.
fn fastrand_like(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_json_cannot_hold_is_answered_whole_not_stored_and_counted() {
    let cache = over_redis(&namespace()).build().await.unwrap();
    for round in 1..=2 {
        let (value, origin) = ask(&cache, &vec![1.0, f64::NAN, f64::INFINITY]).await;
        assert_eq!((value[0], value[2], origin), (1.0, f64::INFINITY, Origin::Loaded));
        assert!(value[1].is_nan());
        assert_eq!(cache.stats().unstorable, round);
    }
    let (map, origin) = ask(&cache, &BTreeMap::from([((1, 2), 3)])).await;
    assert_eq!((map[&(1, 2)], origin), (3, Origin::Loaded));
    let (nested, _) = ask(&cache, &Some(None::<i32>)).await;
    assert_eq!(*nested, Some(None));
    assert_eq!((cache.stats().unstorable, cache.stats().l2_writes), (4, 0));
}

#[cfg(feature = "msgpack")]
#[tokio::test(flavor = "multi_thread")]
async fn another_codec_holds_it() {
    let back = through_redis(Codec::MessagePack, vec![f64::NAN, f64::NEG_INFINITY]).await;
    assert!(back[0].is_nan() && back[1] == f64::NEG_INFINITY);
    let map = BTreeMap::from([((1, 2), 3)]);
    assert_eq!(*through_redis(Codec::MessagePack, map.clone()).await, map);
}

#[cfg(all(feature = "msgpack", feature = "redis"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_may_change_its_codec_while_it_runs() {
    let namespace = namespace();
    let json = over_redis(&namespace).build().await.unwrap();
    ask(&json, &String::from("x")).await;
    written(&json, 1).await;
    let msgpack = over_redis(&namespace).codec(Codec::MessagePack).build().await.unwrap();
    assert_eq!(ask(&msgpack, &String::from("y")).await, (Arc::new("x".into()), Origin::L2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_a_value_is_written_or_read_costs_the_cache_and_not_the_answer() {
    /// Cannot be written while it is negative, nor read while it is over a hundred.
    #[derive(Debug, Clone, PartialEq)]
    struct Moody(i32);
    impl Serialize for Moody {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            assert!(self.0 >= 0);
            self.0.serialize(serializer)
        }
    }
    impl<'de> Deserialize<'de> for Moody {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Moody, D::Error> {
            let number = i32::deserialize(deserializer)?;
            assert!(number <= 100);
            Ok(Moody(number))
        }
    }
    let cache = over_redis(&namespace()).build().await.unwrap();
    for number in [-1, 101] {
        let (value, origin) = ask(&cache, &Moody(number)).await;
        assert_eq!((value.0, origin), (number, Origin::Loaded));
    }
    assert_eq!((cache.stats().unstorable, cache.stats().l2_writes), (2, 0));
}
