//! Does every parameter reach PostgreSQL with its type and value, and identify one result?

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use larder::params::{KeyEncoder, Param, SqlParam};
use larder::{Origin, QueryCache};
use tokio_postgres::Client;

use crate::support::{database, local};

struct Asked {
    cache: QueryCache,
    client: Arc<Client>,
}

impl Asked {
    /// Has PostgreSQL say what it was given, twice; the second time from memory.
    async fn echo<P: SqlParam + Clone>(&self, type_: &str, param: P, expected: &str) {
        // Forms of one value would share a result.
        let form = std::any::type_name::<P>();
        let query = self.cache.query(format!("SELECT ($1::{type_})::text")).scope(form);
        for origin in [Origin::Loaded, Origin::L1] {
            let answer = query.bind(param.clone()).fetch(&self.client).answer().await.unwrap();
            assert_eq!(answer.value().row(0).get::<_, Option<&str>>(0), Some(expected), "{type_}");
            assert_eq!(answer.origin(), origin, "{type_}");
        }
    }
}

async fn asked() -> Asked {
    let client = Arc::new(database().await.connect().await.unwrap());
    client.batch_execute("SET TimeZone = 'UTC'").await.unwrap();
    Asked { cache: local().await, client }
}

#[tokio::test(flavor = "multi_thread")]
async fn scalars_strings_bytes_lists_and_options() {
    let asked = asked().await;
    asked.echo("bool", true, "true").await;
    asked.echo("\"char\"", b'x' as i8, "x").await;
    asked.echo("int2", -7_i16, "-7").await;
    asked.echo("int4", i32::MIN, "-2147483648").await;
    asked.echo("int8", i64::MAX, "9223372036854775807").await;
    asked.echo("oid", u32::MAX, "4294967295").await;
    asked.echo("float4", 0.1_f32, "0.1").await;
    asked.echo("float8", -0.0_f64, "-0").await;
    asked.echo("float8", 0.0_f64, "0").await;
    asked.echo("float8", f64::NAN, "NaN").await;
    asked.echo("text", "Zoë", "Zoë").await;
    asked.echo("varchar", String::new(), "").await;
    asked.echo("bytea", vec![0_u8, 255], "\\x00ff").await;
    asked.echo("bytea", [1_u8, 2].as_slice(), "\\x0102").await;
    asked.echo("int4[]", vec![Some(1), None], "{1,NULL}").await;
    asked.echo("int4[]", Vec::<i32>::new(), "{}").await;
    asked.echo("text[]", ["a", "b,c"].as_slice(), "{a,\"b,c\"}").await;
    asked.echo("int8", Some(5_i64), "5").await;
    asked.echo("inet", "10.0.0.1".parse::<IpAddr>().unwrap(), "10.0.0.1/32").await;
    asked.echo("jsonb", serde_json::json!({"a": [1, null]}), "{\"a\": [1, null]}").await;
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
    asked.echo("timestamptz", at, "1970-01-01 00:00:01.5+00").await;
    let long = "x".repeat(1_000_000);
    asked.echo("text", long.as_str(), &long).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_at_hand_is_bound_as_it_is() {
    let asked = asked().await;
    // References, to a field of a struct for example.
    asked.echo("int8", &5_i64, "5").await;
    asked.echo("text", &String::from("a"), "a").await;
    asked.echo("text", &"a", "a").await;
    asked.echo("int4[]", &vec![1, 2], "{1,2}").await;
    asked.echo("text[]", &vec![String::from("a"), String::from("b")], "{a,b}").await;
    asked.echo("int8", &Some(5_i64), "5").await;
    asked.echo("text", Some(&String::from("a")), "a").await;
    asked.echo("text", &Some(String::from("a")), "a").await;
    asked.echo("text[]", Some(&vec!["a"]), "{a}").await;
    // Arrays.
    asked.echo("int4[]", [1, 2], "{1,2}").await;
    asked.echo("int4[]", &[1, 2], "{1,2}").await;
    asked.echo("text[]", ["a", "b"], "{a,b}").await;
    asked.echo("int4[]", [Some(1), None], "{1,NULL}").await;
    asked.echo("bytea", [0_u8, 255], "\\x00ff").await;
    asked.echo("bytea", b"\x00\xff", "\\x00ff").await;
    // Owners.
    asked.echo("text", Cow::Borrowed("a"), "a").await;
    asked.echo("text", Cow::<str>::Owned("b".into()), "b").await;
    asked.echo("int4[]", Cow::Borrowed([1, 2].as_slice()), "{1,2}").await;
    asked.echo("bytea", Cow::Borrowed([0_u8].as_slice()), "\\x00").await;
    asked.echo("text", Arc::<str>::from("a"), "a").await;
    asked.echo("text", Box::<str>::from("a"), "a").await;
    asked.echo("bytea", Arc::<[u8]>::from([1_u8].as_slice()), "\\x01").await;
}

/// A value and references to it are one parameter, so they share a result.
#[tokio::test(flavor = "multi_thread")]
async fn the_form_in_which_a_value_is_bound_makes_no_other_result() {
    let asked = asked().await;
    let query = asked.cache.query("SELECT cardinality($1::text[])");
    let origin = async |read: Answered| read.await.unwrap().origin();
    type Answered = futures_util::future::BoxFuture<
        'static,
        Result<larder::Answer<larder::Rows>, larder::Error>,
    >;
    macro_rules! read {
        ($param:expr) => {{
            let (query, client) = (query.clone(), asked.client.clone());
            Box::pin(async move { query.bind($param).fetch(&client).answer().await })
        }};
    }
    assert_eq!(origin(read!(["a", "b"])).await, Origin::Loaded);
    assert_eq!(origin(read!(&["a", "b"])).await, Origin::L1);
    assert_eq!(origin(read!(vec![String::from("a"), String::from("b")])).await, Origin::L1);
    assert_eq!(origin(read!(&vec!["a", "b"])).await, Origin::L1);
    assert_eq!(origin(read!(Cow::Borrowed(["a", "b"].as_slice()))).await, Origin::L1);
    assert_eq!(origin(read!(Some(vec!["a", "b"]))).await, Origin::Loaded);
    assert_eq!(origin(read!(&Some(&["a", "b"]))).await, Origin::L1);
    assert_eq!(origin(read!(["a", "c"])).await, Origin::Loaded);
}

#[derive(Clone)]
struct UserId(i64);

impl Param for UserId {
    fn kind(out: &mut KeyEncoder) {
        i64::kind(out);
    }
    fn value(&self, out: &mut KeyEncoder) {
        self.0.value(out);
    }
}

impl SqlParam for UserId {
    type Owned = i64;
    fn into_owned(self) -> i64 {
        self.0
    }
}

#[derive(Clone, Copy)]
enum Mood {
    Sad,
    Happy,
}

impl Mood {
    fn label(self) -> &'static str {
        match self {
            Mood::Sad => "sad",
            Mood::Happy => "happy",
        }
    }
}

impl Param for Mood {
    fn kind(out: &mut KeyEncoder) {
        str::kind(out);
    }
    fn value(&self, out: &mut KeyEncoder) {
        self.label().value(out);
    }
}

impl SqlParam for Mood {
    type Owned = &'static str;
    fn into_owned(self) -> &'static str {
        self.label()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn newtypes_and_enums_of_ones_own_reach_enums_and_domains() {
    let asked = asked().await;
    let types = "CREATE TYPE mood AS ENUM ('sad', 'happy');
                 CREATE DOMAIN id AS int8 CHECK (VALUE > 0);
                 CREATE DOMAIN good_mood AS mood CHECK (VALUE <> 'sad');
                 CREATE DOMAIN moods AS mood[];
                 CREATE DOMAIN name AS text";
    asked.client.batch_execute(types).await.unwrap();
    asked.echo("int8", UserId(7), "7").await;
    asked.echo("public.id", UserId(7), "7").await;
    asked.echo("int8[]", &[UserId(7), UserId(8)], "{7,8}").await;
    asked.echo("text", Mood::Sad, "sad").await;
    asked.echo("mood", Mood::Happy, "happy").await;
    asked.echo("mood", Some(Mood::Happy), "happy").await;
    asked.echo("good_mood", &Mood::Happy, "happy").await;
    asked.echo("mood[]", [Mood::Happy, Mood::Sad], "{happy,sad}").await;
    asked.echo("moods", vec![Mood::Happy], "{happy}").await;
    asked.echo("mood[]", Vec::<Mood>::new(), "{}").await;
    asked.echo("mood[]", [Some("sad"), None], "{sad,NULL}").await;
    asked.echo("mood", "sad", "sad").await;
    asked.echo("public.name", String::from("Zoë"), "Zoë").await;
    let query = asked.cache.query("SELECT $1::mood[] IS NULL, $2::mood IS NULL");
    let rows = query.bind(None::<Vec<Mood>>).bind(None::<Mood>).fetch(&asked.client).await.unwrap();
    assert!(rows.row(0).get::<_, bool>(0) && rows.row(0).get::<_, bool>(1));
    // What is no label, or of another type, is refused.
    let query = asked.cache.query("SELECT $1::mood");
    let error = query.bind("angry").fetch(&asked.client).await.unwrap_err();
    assert_eq!(error.sqlstate().unwrap().code(), "22P02");
    let error = query.bind(1_i32).fetch(&asked.client).await.unwrap_err().to_string();
    assert!(error.contains("Rust type `i32` and the Postgres type `mood`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn null_is_a_parameter_of_its_own() {
    let asked = asked().await;
    let query = asked.cache.query("SELECT $1::text IS NULL");
    let null = query.bind(None::<&str>).fetch(&asked.client).await.unwrap();
    let empty = query.bind(Some("")).fetch(&asked.client).await.unwrap();
    assert!(null.row(0).get::<_, bool>(0));
    assert!(!empty.row(0).get::<_, bool>(0));
}

#[cfg(feature = "uuid")]
#[tokio::test(flavor = "multi_thread")]
async fn uuids() {
    let text = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    asked().await.echo("uuid", uuid::Uuid::try_parse(text).unwrap(), text).await;
}

#[cfg(feature = "rust_decimal")]
#[tokio::test(flavor = "multi_thread")]
async fn decimals_with_their_scale() {
    let asked = asked().await;
    asked.echo("numeric", rust_decimal::Decimal::new(10, 1), "1.0").await;
    asked.echo("numeric", rust_decimal::Decimal::new(100, 2), "1.00").await;
}

#[cfg(feature = "chrono")]
#[tokio::test(flavor = "multi_thread")]
async fn chronos_dates_and_times() {
    use chrono::{DateTime, FixedOffset, NaiveDate, Utc};
    let asked = asked().await;
    let day = NaiveDate::from_ymd_opt(2024, 2, 29).unwrap();
    let at = day.and_hms_micro_opt(12, 0, 0, 250_000).unwrap();
    asked.echo("date", day, "2024-02-29").await;
    asked.echo("time", at.time(), "12:00:00.25").await;
    asked.echo("timestamp", at, "2024-02-29 12:00:00.25").await;
    let instant: DateTime<Utc> = at.and_utc();
    asked.echo("timestamptz", instant, "2024-02-29 12:00:00.25+00").await;
    // Written with another offset it is the same instant for PostgreSQL and not for a function.
    let offset = instant.with_timezone(&FixedOffset::east_opt(7200).unwrap());
    let query = asked.cache.query("SELECT ($1::timestamptz)::text");
    let answer = query.bind(offset).fetch(&asked.client).answer().await.unwrap();
    assert_eq!(answer.origin(), Origin::Loaded);
    assert_eq!(answer.value().row(0).get::<_, &str>(0), "2024-02-29 12:00:00.25+00");
}

#[cfg(feature = "time")]
#[tokio::test(flavor = "multi_thread")]
async fn times_dates_and_times() {
    let asked = asked().await;
    let day = time::Date::from_calendar_date(2024, time::Month::February, 29).unwrap();
    let clock = time::Time::from_hms_micro(12, 0, 0, 250_000).unwrap();
    let at = time::PrimitiveDateTime::new(day, clock);
    asked.echo("date", day, "2024-02-29").await;
    asked.echo("time", clock, "12:00:00.25").await;
    asked.echo("timestamp", at, "2024-02-29 12:00:00.25").await;
    asked.echo("timestamptz", at.assume_utc(), "2024-02-29 12:00:00.25+00").await;
}
