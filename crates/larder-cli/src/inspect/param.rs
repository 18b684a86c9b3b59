//! [`Parameter`]: a query's parameter from the command line, of the Rust type that the program has.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use larder::admin::KeyBuilder;
use larder::params::Param;

/// A parameter, ready to be written under a key. Its value is shown to nobody.
#[derive(Clone)]
pub(super) struct Parameter(Arc<dyn Fn(KeyBuilder) -> KeyBuilder + Send + Sync>);

/// How many there are of the type.
#[derive(Clone, Copy)]
enum Form {
    One,
    Some,
    None,
    List,
}

impl Parameter {
    pub(super) fn add_to(&self, query: KeyBuilder) -> KeyBuilder {
        (self.0)(query)
    }

    fn of<P: Param + Clone + Send + Sync + 'static>(value: P) -> Parameter {
        Parameter(Arc::new(move |query| query.param(&value)))
    }
}

const FORM: &str =
    "it is TYPE:VALUE, such as i64:42, text:eu, some:i64:42, none:i64 or list:i64:1,2";

/// Reads `i64:42`.
pub(super) fn read(text: &str) -> Result<Parameter, String> {
    let (form, rest) = match text.split_once(':') {
        Some(("some", rest)) => (Form::Some, rest),
        Some(("none", name)) => (Form::None, name),
        Some(("list", rest)) => (Form::List, rest),
        _ => (Form::One, text),
    };
    let (name, value) = match (form, rest.split_once(':')) {
        (Form::None, None) => (rest, ""),
        (Form::None, Some(_)) => return Err("a None has no value: none:i64".to_owned()),
        (_, Some(pair)) => pair,
        (_, None) => return Err(FORM.to_owned()),
    };
    typed(form, name, value)
}

fn typed(form: Form, name: &str, value: &str) -> Result<Parameter, String> {
    match name {
        "bool" => parse::<bool>(form, value),
        "i8" => parse::<i8>(form, value),
        "i16" => parse::<i16>(form, value),
        "i32" => parse::<i32>(form, value),
        "i64" => parse::<i64>(form, value),
        "i128" => parse::<i128>(form, value),
        "u16" => parse::<u16>(form, value),
        "u32" => parse::<u32>(form, value),
        "u64" => parse::<u64>(form, value),
        "u128" => parse::<u128>(form, value),
        "f32" => parse::<f32>(form, value),
        "f64" => parse::<f64>(form, value),
        "char" => parse::<char>(form, value),
        "text" => parse::<String>(form, value),
        "json" => parse::<serde_json::Value>(form, value),
        "ip" => parse::<IpAddr>(form, value),
        "bytes" => made(form, value, hex),
        #[cfg(feature = "uuid")]
        "uuid" => parse::<uuid::Uuid>(form, value),
        #[cfg(feature = "rust_decimal")]
        "decimal" => parse::<rust_decimal::Decimal>(form, value),
        #[cfg(feature = "chrono")]
        "chrono-date" => parse::<chrono::NaiveDate>(form, value),
        #[cfg(feature = "chrono")]
        "chrono-time" => parse::<chrono::NaiveTime>(form, value),
        #[cfg(feature = "chrono")]
        "chrono-timestamp" => parse::<chrono::NaiveDateTime>(form, value),
        #[cfg(feature = "chrono")]
        "chrono-instant" => parse::<chrono::DateTime<chrono::FixedOffset>>(form, value),
        other => Err(format!("{other:?} is no type that this command knows; see --help")),
    }
}

fn parse<T>(form: Form, value: &str) -> Result<Parameter, String>
where
    T: Param + Clone + FromStr + Send + Sync + 'static,
    T::Err: std::fmt::Display,
{
    made(form, value, |text| text.parse::<T>().map_err(|error| error.to_string()))
}

fn made<T: Param + Clone + Send + Sync + 'static>(
    form: Form,
    value: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Parameter, String> {
    Ok(match form {
        Form::One => Parameter::of(read(value)?),
        Form::Some => Parameter::of(Some(read(value)?)),
        Form::None => Parameter::of(None::<T>),
        Form::List if value.is_empty() => Parameter::of(Vec::<T>::new()),
        Form::List => Parameter::of(value.split(',').map(read).collect::<Result<Vec<T>, _>>()?),
    })
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => {
            Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
        }
        _ => Err("bytes are an even number of hexadecimal digits".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder::admin::ResultKey;

    fn query() -> KeyBuilder {
        KeyBuilder::rows("shop", "SELECT")
    }

    fn given(params: &[&str]) -> ResultKey {
        let read = |text: &&str| read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        params.iter().fold(query(), |query, text| read(text).add_to(query)).key()
    }

    /// The key of a call with these parameters.
    macro_rules! bound {
        ($($param:expr),*) => { query()$(.param(&$param))*.key() };
    }

    #[test]
    fn parameters_of_the_command_line_have_the_keys_of_those_of_a_program() {
        assert_eq!(given(&["i64:42", "text:eu:west"]), bound!(42_i64, "eu:west"));
        assert_eq!(given(&["some:i32:1", "none:text"]), bound!(Some(1_i32), None::<String>));
        assert_eq!(
            given(&["list:i64:1,2", "list:text:"]),
            bound!(vec![1_i64, 2], Vec::<String>::new())
        );
        assert_eq!(given(&["bytes:0aFF", "char:ß"]), bound!(&[0x0a_u8, 0xff][..], 'ß'));
        assert_eq!(given(&["f64:-0", "bool:true"]), bound!(-0.0_f64, true));
        assert_eq!(given(&["u128:7", "i8:-1"]), bound!(7_u128, -1_i8));
        let json = serde_json::json!({ "a": [1, null] });
        assert_eq!(given(&[r#"json:{"a": [1, null]}"#]), bound!(json));
        assert_eq!(given(&["ip:::1"]), bound!(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16])));
        #[cfg(feature = "uuid")]
        assert_eq!(
            given(&["uuid:00000000-0000-0000-0000-000000000007"]),
            bound!(uuid::Uuid::from_u128(7))
        );
        #[cfg(feature = "chrono")]
        assert_eq!(
            given(&["chrono-date:2024-02-29", "chrono-instant:1970-01-01T00:00:00Z"]),
            bound!(
                chrono::NaiveDate::from_ymd_opt(2024, 2, 29).unwrap(),
                chrono::DateTime::<chrono::Utc>::UNIX_EPOCH
            )
        );
    }

    #[test]
    fn what_is_no_parameter_is_refused() {
        for wrong in ["42", "i64:x", "i9:1", "none:i64:1", "some:1", "bytes:abc", "bytes:xx", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
