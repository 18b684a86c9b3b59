//! `larder explain`.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use larder::{QueryCache, QueryClass, QueryDependencies};
use serde_json::json;

use super::config::Config;
use super::connect;
use super::failure::{Failure, with_sources};
use super::text;

/// Show what the results of a query depend on, and whether a cache can follow it
///
/// It asks PostgreSQL as a query with `auto()` does before its first load: PostgreSQL parses the
/// query, and its views, policies and functions are looked into, in a transaction that is rolled
/// back. The query is not run, unless --run is given. The schemas are those of the connection: set
/// `schema` or `search_path` in its settings, or --setting search_path=….
#[derive(Args)]
#[command(after_long_help = "\
Classes:
  static      calls no functions of yours: the same relations for all parameters, learned once
  dynamic     calls functions of yours: each load learns what it has read
  unfollowed  may change by itself, or by what nobody is told of; it is not stored, unless the
              query has a `ttl`; the exit code is 1

Examples:
  larder explain 'SELECT * FROM recent_orders WHERE region = $1'
  larder explain 'SELECT monthly_report(2026)' --run
  larder explain 'SELECT * FROM invoices' --role app --setting app.tenant=7
  larder explain \"$(cat query.sql)\" --json | jq '.unfollowed[]'")]
pub(super) struct Explain {
    /// The query; parameters are $1, $2, …
    #[arg(value_name = "SQL")]
    sql: String,

    /// Run the query once, to see what its functions read; for a query without parameters
    #[arg(long)]
    run: bool,

    /// The role that the query is run as
    #[arg(long)]
    role: Option<String>,

    /// A setting of the query, as `with_setting` has it
    #[arg(long, value_name = "NAME=VALUE", value_parser = text::name_and_value)]
    setting: Vec<(String, String)>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) async fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let pool = connect::pool(config, 1)?;
        let cache = QueryCache::builder().build().await;
        let cache = cache.map_err(|error| Failure::other(with_sources(&error)))?;
        let mut query = cache.query(self.sql.as_str());
        if let Some(role) = &self.role {
            query = query.as_role(role);
        }
        for (name, value) in &self.setting {
            query = query.with_setting(name, value);
        }
        let found = if self.run {
            query.params(()).dependencies(&pool.source).await
        } else {
            query.dependencies(&pool.source).await
        };
        let found = found.map_err(|error| {
            Failure::server(format!("PostgreSQL at {}: {}", pool.address, with_sources(&error)))
        })?;
        if self.json {
            text::print_json(&as_json(&found))?;
        } else {
            text::print(&as_text(&found, self.run, text::width()))?;
        }
        Ok(ExitCode::from(u8::from(found.class == QueryClass::Unfollowed)))
    }
}

fn class(found: &QueryDependencies) -> &'static str {
    match found.class {
        QueryClass::Static => "static",
        QueryClass::Dynamic => "dynamic",
        _ => "unfollowed",
    }
}

fn as_json(found: &QueryDependencies) -> serde_json::Value {
    json!({
        "class": class(found),
        "relations": found.relations,
        "needs": found.needs,
        "unfollowed": found.unfollowed,
        "parameters": found.parameters,
    })
}

fn as_text(found: &QueryDependencies, was_run: bool, width: usize) -> String {
    let about = match found.class {
        QueryClass::Static => "it reads the same relations whatever its parameters are",
        QueryClass::Dynamic => "it calls functions of yours: each load learns what it has read",
        _ => "it is not stored, unless the query has a ttl",
    };
    let mut out = format!("{}: {about}\n", class(found));
    let relations = match found.class {
        QueryClass::Dynamic if !was_run => "relations, without what its functions read",
        _ => "relations",
    };
    let parameters: Vec<String> =
        found.parameters.iter().zip(1..).map(|(of, at)| format!("${at} {of}")).collect();
    for (title, lines) in [
        ("because", &found.unfollowed),
        (relations, &found.relations),
        ("needs", &found.needs),
        ("parameters", &parameters),
    ] {
        if !lines.is_empty() {
            let _ = writeln!(out, "{title}");
        }
        for line in lines {
            let _ = writeln!(out, "{}", text::paragraph("  ", 4, line, width));
        }
    }
    out
}
