//! `larder inspect`.

mod param;
mod print;
mod value;
mod why;

use std::process::ExitCode;

use clap::Args;
use larder::admin::{Error, Inspection, KeyBuilder, Redis, ResultKey};

use self::param::Parameter;
use crate::config::Config;
use crate::failure::{Failure, counted};
use crate::text::name_and_value;

/// How many names of keys are looked at to complete a prefix.
const MOST: usize = 1_000_000;
/// Fewer digits than these would match by accident.
const SHORTEST: usize = 8;

/// Show what Redis has of one result, and whether it would be served
///
/// The result is named by its key: the 64 hexadecimal digits of its hash, the whole name of it in
/// Redis, or the first 8 digits or more (events of the feature `tracing` show 16), which are looked
/// for among the first million names. Or by the query, from which the key is computed as the library
/// does: its SQL, letter for letter, with --param, --scope, --schema-version, --role, --setting and
/// --type as the program has them.
///
/// It looks into Redis only, and changes nothing. Other processes may have the result in memory.
#[derive(Args)]
#[command(after_long_help = "\
Parameters have the Rust type that the program binds, for 1_i32 and 1_i64 are
different calls:
  --param i64:42         --param text:eu       --param bool:true
  --param some:i64:42    an Option that is Some
  --param none:i64       one that is None
  --param list:i64:1,2   a Vec or a slice
  --param bytes:0aff     in hexadecimal
Types: bool i8 i16 i32 i64 i128 u16 u32 u64 u128 f32 f64 char text bytes json
ip; in a command built with the feature of that name also uuid, decimal,
chrono-date, chrono-time, chrono-timestamp and chrono-instant. A type of your
own cannot be given: take the key from an event.

Values of your own (from `wrap` and `load`) have keys that depend on their
type, by std::any::type_name::<T>() and std::mem::size_of::<T>():
  --type 'shop::UserStats' --size 24

Examples:
  larder inspect 3f9c01d2
  larder inspect 3f9c01d2 --value
  larder inspect 3f9c01d2 --tag orders --tag users
  larder inspect 'SELECT day FROM sales WHERE region = $1' --param text:eu")]
pub(super) struct Inspect {
    /// The key, the first digits of it, or the SQL
    #[arg(value_name = "KEY|SQL")]
    what: String,

    /// A parameter of the query, as TYPE:VALUE, in the order of $1, $2, …
    #[arg(long, value_name = "TYPE:VALUE", value_parser = param::read)]
    param: Vec<Parameter>,

    /// The query's scope
    #[arg(long)]
    scope: Option<String>,

    /// The query's schema version
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    schema_version: u32,

    /// The role that the query is run as
    #[arg(long)]
    role: Option<String>,

    /// A setting of the query or the call, as `with_setting` has it
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_value)]
    setting: Vec<(String, String)>,

    /// What the result is: `rows`, or the Rust type of a value
    #[arg(long = "type", value_name = "TYPE", default_value = "rows")]
    kind: String,

    /// How many bytes size_of says that type has
    #[arg(long, value_name = "BYTES")]
    size: Option<usize>,

    /// A tag that the result may depend on, to show its cell by name
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,

    /// Show the value too: rows as a table, JSON as it is
    #[arg(long)]
    value: bool,

    /// How many rows of it
    #[arg(long, value_name = "NUMBER", default_value_t = 100, requires = "value")]
    rows: usize,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) async fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let (url, namespace) = (config.redis()?, config.namespace()?);
        let redis = Redis::connect(url, namespace).await.map_err(|error| {
            Failure::server(format!("there is no connection to redis: {error}"))
        })?;
        let mut inspection = self.inspection(&redis, namespace).await?;
        if let Some(secret) = &config.secret {
            inspection = inspection.secret(secret.as_ref());
        }
        for tag in &self.tag {
            inspection = inspection.tag(tag.as_str());
        }
        let report = redis.inspect(&inspection).await.map_err(|error| {
            let address = redis.address();
            Failure::server(format!("redis at {address} does not show the entry: {error}"))
        })?;
        let value = self.value.then(|| value::of(report.entry.as_ref(), self.rows));
        print::print(&report, value, self.json)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The key that was given, or that of the query.
    async fn inspection(&self, redis: &Redis, namespace: &str) -> Result<Inspection, Failure> {
        let what = self.what.trim();
        if let Some(key) = ResultKey::of_hex(what).or_else(|| redis.key_of_name(what)) {
            return Ok(Inspection::of_key(key));
        }
        if what.starts_with("larder:") && what.contains('{') {
            return Err(Failure::usage(format!(
                "{what} is the name of no entry of the namespace {namespace} in the format of this \
                 build; say --namespace, or take the digits between the braces alone"
            )));
        }
        if what.len() >= SHORTEST && what.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let key = complete(redis, &what.to_ascii_lowercase()).await?;
            return Ok(Inspection::of_key(key));
        }
        if !what.contains(char::is_whitespace) && what.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return Err(Failure::usage(format!(
                "{what:?} is too short for a key: {SHORTEST} digits at least"
            )));
        }
        // As it was given: a blank more is another query.
        let mut query = KeyBuilder::rows(namespace, &self.what).schema_version(self.schema_version);
        query = match (self.kind.as_str(), self.size) {
            ("rows", _) => query,
            (name, Some(size)) => query.typed(name, size),
            (name, None) => {
                return Err(Failure::usage(format!(
                    "the key of a value depends on its Rust type, by name and size: say --size, which \
                     is std::mem::size_of::<{name}>() in the program, where --type must be what \
                     std::any::type_name says; or give the key itself, which events of the feature \
                     `tracing` show"
                )));
            }
        };
        if let Some(scope) = &self.scope {
            query = query.scope(scope);
        }
        if let Some(role) = &self.role {
            query = query.as_role(role);
        }
        for (name, value) in &self.setting {
            query = query.with_setting(name, value);
        }
        let query = self.param.iter().fold(query, |query, param| param.add_to(query));
        Ok(Inspection::of_query(&query))
    }
}

/// Reads `NAME=VALUE`. The error does not show it: it may be a value alone.
async fn complete(redis: &Redis, prefix: &str) -> Result<ResultKey, Failure> {
    let found = redis.find_keys(prefix, MOST).await.map_err(|error: Error| {
        Failure::server(format!(
            "names that begin with {prefix} cannot be looked for (SCAN): {error}; give all 64 \
             digits"
        ))
    })?;
    let place = if found.complete {
        "in this namespace".to_owned()
    } else {
        format!("among the first {MOST} names; give all 64 digits")
    };
    match found.keys.as_slice() {
        [key] => Ok(*key),
        [] => Err(Failure::usage(format!("no key begins with {prefix} {place}"))),
        several => {
            let names: Vec<String> = several.iter().take(10).map(ToString::to_string).collect();
            Err(Failure::usage(format!(
                "{} begin with {prefix}; give more digits of one:\n  {}",
                counted(several.len(), "key"),
                names.join("\n  ")
            )))
        }
    }
}
