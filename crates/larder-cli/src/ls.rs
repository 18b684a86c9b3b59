//! `larder ls`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use larder::admin::{EntrySummary, FoundEntries, KeyBuilder};
use larder::stats::FleetStats;
use serde_json::{Value, json};

use super::config::Config;
use super::connect;
use super::failure::{Failure, counted};
use super::text::{self, bytes, duration, paragraph, table, thousands};

/// List what Redis holds: queries with their tags, the results of one, or the namespaces
///
/// Redis has hashes, no names. Names and tags are told by running processes, which must publish their
/// numbers: .publish_stats(Duration::from_secs(5)) in the builder of each. Results of queries that
/// nobody tells of are counted together.
#[derive(Args)]
#[command(after_long_help = "\
Exit code 1: there is nothing of what was asked for.

Examples:
  larder ls
  larder ls 'revenue by month'
  larder ls 'SELECT day FROM sales WHERE region = $1'
  larder ls --tag orders
  larder ls --namespaces")]
pub(super) struct Ls {
    /// A query, by its name or its SQL: list its results, by their keys
    #[arg(value_name = "NAME|SQL", conflicts_with = "namespaces")]
    query: Option<String>,

    /// Only results that depend on this tag
    #[arg(long, value_name = "TAG", conflicts_with = "namespaces")]
    tag: Option<String>,

    /// List the namespaces of this Redis
    #[arg(long)]
    namespaces: bool,

    /// How many names in Redis to look at
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000)]
    limit: usize,

    /// How many queries or results to show
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    top: usize,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is known of a query.
#[derive(Default)]
struct Known {
    slots: BTreeSet<u16>,
    tags: BTreeSet<String>,
}

/// The results of one query.
struct Listed<'a> {
    name: Option<String>,
    tags: Vec<String>,
    entries: Vec<&'a EntrySummary>,
}

impl Ls {
    pub(super) async fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let url = config.redis()?;
        let namespace = if self.namespaces { "" } else { config.namespace()? };
        let redis = connect::redis(url, namespace).await?;
        let refused = |error: larder::admin::Error| {
            Failure::server(format!(
                "redis at {} does not list its names: {error}",
                redis.address()
            ))
        };
        if self.namespaces {
            let all = redis.namespaces(self.limit).await.map_err(refused)?;
            if self.json {
                text::print_json(&json!({ "namespaces": all }))?;
            } else {
                text::print(&all.iter().fold(String::new(), |out, name| out + name + "\n"))?;
            }
            return Ok(ExitCode::from(u8::from(all.is_empty())));
        }
        let known = known(&connect::fleet(config).await?);
        let mut found = redis.entries(self.limit).await.map_err(refused)?;
        if let Some(tag) = &self.tag {
            found.entries.retain(|entry| entry.depends_on(tag.as_str()));
        }
        if let Some(query) = &self.query {
            let (name, chosen) = chosen(query, namespace, &known, &found.entries)?;
            return self.show_results(&name, &chosen, &found);
        }
        self.show_queries(namespace, &listed(&known, &found.entries), &found)
    }

    fn show_queries(
        &self,
        namespace: &str,
        all: &[Listed<'_>],
        found: &FoundEntries,
    ) -> Result<ExitCode, Failure> {
        let code = ExitCode::from(u8::from(found.entries.is_empty()));
        if self.json {
            let queries = all.iter().map(|listed| {
                json!({
                    "name": listed.name, "tags": listed.tags, "results": listed.entries.len(),
                    "bytes": size(&listed.entries),
                })
            });
            let queries: Vec<Value> = queries.collect();
            let all = json!({
                "namespace": namespace, "results": found.entries.len(), "complete": found.complete,
                "bytes": size(&found.entries.iter().collect::<Vec<_>>()), "queries": queries,
            });
            text::print_json(&all)?;
            return Ok(code);
        }
        let width = text::table_width();
        let entries: Vec<_> = found.entries.iter().collect();
        let head = format!(
            "{namespace}: {} in Redis, {}{}",
            counted(entries.len(), "result"),
            bytes(size(&entries)),
            self.incomplete(found)
        );
        let mut out = paragraph("", 0, &head, width) + "\n";
        let rows = all.iter().take(self.top).map(|listed| {
            vec![
                listed.name.clone().unwrap_or_else(|| "(told of by nobody)".to_owned()),
                thousands(listed.entries.len() as u64),
                bytes(size(&listed.entries)),
                listed.tags.join(", "),
            ]
        });
        if !all.is_empty() {
            let names = ["query", "results", "bytes", "tags"];
            let _ = write!(out, "\n{}", table(&names, &[1, 2], rows, width));
            self.more(&mut out, all.len(), "query");
        }
        text::print(&out)?;
        Ok(code)
    }

    fn show_results(
        &self,
        name: &str,
        chosen: &[&EntrySummary],
        found: &FoundEntries,
    ) -> Result<ExitCode, Failure> {
        let code = ExitCode::from(u8::from(chosen.is_empty()));
        if self.json {
            let results = chosen.iter().map(|entry| {
                json!({
                    "key": entry.key.to_string(), "bytes": entry.bytes,
                    "remaining_ms": entry.remaining.map(|time| time.as_millis() as u64),
                })
            });
            let results: Vec<Value> = results.collect();
            text::print_json(
                &json!({ "query": name, "complete": found.complete, "results": results }),
            )?;
            return Ok(code);
        }
        let width = text::table_width();
        let head = format!(
            "{name}: {} in Redis, {}{}",
            counted(chosen.len(), "result"),
            bytes(size(chosen)),
            self.incomplete(found)
        );
        let mut out = paragraph("", 0, &head, width) + "\n";
        if !chosen.is_empty() {
            let rows = chosen.iter().take(self.top).map(|entry| {
                let key = entry.key.to_string();
                let left = entry.remaining.map_or("for ever".to_owned(), duration);
                vec![key[..16].to_owned(), bytes(entry.bytes), left]
            });
            let names = ["key", "bytes", "kept for"];
            let _ = write!(out, "\n{}", table(&names, &[1, 2], rows, width));
            self.more(&mut out, chosen.len(), "result");
            let _ = writeln!(out, "\nlarder inspect KEY shows one of them.");
        }
        text::print(&out)?;
        Ok(code)
    }

    fn incomplete(&self, found: &FoundEntries) -> String {
        if found.complete {
            return String::new();
        }
        format!(", among the first {} names (--limit)", thousands(self.limit as u64))
    }

    fn more(&self, out: &mut String, all: usize, what: &str) {
        if all > self.top {
            let _ = writeln!(out, "… {} more (--top)", counted(all - self.top, what));
        }
    }
}

fn size(entries: &[&EntrySummary]) -> u64 {
    entries.iter().map(|entry| entry.bytes).sum()
}

/// What the processes tell of their queries, by name.
fn known(fleet: &FleetStats) -> BTreeMap<String, Known> {
    let mut known = BTreeMap::<String, Known>::new();
    for query in fleet.processes.iter().flat_map(|process| &process.queries) {
        let of = known.entry(query.name.clone()).or_default();
        of.slots.extend(&query.slots);
        of.tags.extend(query.tags.iter().cloned());
    }
    known
}

/// The queries by what their results take, and last what nobody tells of.
fn listed<'a>(known: &BTreeMap<String, Known>, entries: &'a [EntrySummary]) -> Vec<Listed<'a>> {
    let mut unknown: Vec<&EntrySummary> = entries.iter().collect();
    let mut all: Vec<Listed> = known
        .iter()
        .map(|(name, of)| {
            let is_of = |entry: &&EntrySummary| of.slots.iter().any(|slot| entry.has_slot(*slot));
            let (mine, rest) = std::mem::take(&mut unknown).into_iter().partition(is_of);
            unknown = rest;
            let tags = of.tags.iter().filter(|tag| is_shown(tag, &of.tags)).cloned().collect();
            Listed { name: Some(name.clone()), tags, entries: mine }
        })
        .collect();
    all.sort_by_key(|listed| std::cmp::Reverse(size(&listed.entries)));
    if !unknown.is_empty() {
        all.push(Listed { name: None, tags: vec![], entries: unknown });
    }
    all
}

/// A relation that was learned has two tags; the one with its schema says all.
fn is_shown(tag: &str, all: &BTreeSet<String>) -> bool {
    !tag.starts_with("*.") && !all.contains(&format!("public.{tag}"))
}

/// The results of a query that was given by its name or its SQL.
fn chosen<'a>(
    query: &str,
    namespace: &str,
    known: &BTreeMap<String, Known>,
    entries: &'a [EntrySummary],
) -> Result<(String, Vec<&'a EntrySummary>), Failure> {
    if let Some(of) = known.get(query) {
        let is_of = |entry: &&EntrySummary| of.slots.iter().any(|slot| entry.has_slot(*slot));
        return Ok((query.to_owned(), entries.iter().filter(is_of).collect()));
    }
    if !query.contains(char::is_whitespace) || !looks_like_sql(query) {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        let told = match names[..] {
            [] => "no process tells of its queries (publish_stats)".to_owned(),
            _ => format!("there are: {}", names.join(", ")),
        };
        return Err(Failure::usage(format!(
            "{query:?} is neither the name of a query that a process tells of nor SQL; {told}"
        )));
    }
    let builder = KeyBuilder::rows(namespace, query);
    Ok((query.to_owned(), entries.iter().filter(|entry| entry.is_of(&builder)).collect()))
}

fn looks_like_sql(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    ["select", "with", "values", "table", "show", "explain"].contains(&first.as_str())
        || text.contains(['$', '(', '\n'])
}
