//! Reads a plan: which rows of a relation a query reads, if they are those with one value in a column.
//!
//! If every scan of a relation in a plan has the condition `column = $1`, a row with another value never
//! leaves a scan. A plan computes the query for whatever rows there are, so such a row cannot change the
//! result, and neither can one that had another value before and after a change. The plan need not be
//! the one that a load is run by. It is a generic one, so that it holds for all parameters, and no
//! partition is left out of it.
//!
//! Only a condition that is understood to the last letter counts. Everything else is read as one on
//! nothing, which makes the result depend on all rows.

use std::collections::BTreeSet;

use super::keys::{KeyValue, Keyed};
use crate::value::relation::RelationName;

/// A scan of a relation, and what all rows fulfil that leave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scan {
    pub(crate) relation: RelationName,
    pub(crate) keys: Vec<Keyed>,
}

/// The nodes of plans that read no rows but those that they say. What an extension adds may read anything.
const NODES: &[&str] = &[
    "Result",
    "ProjectSet",
    "Append",
    "Merge Append",
    "Recursive Union",
    "BitmapAnd",
    "BitmapOr",
    "Nested Loop",
    "Merge Join",
    "Hash Join",
    "Seq Scan",
    "Gather",
    "Gather Merge",
    "Index Scan",
    "Index Only Scan",
    "Bitmap Index Scan",
    "Bitmap Heap Scan",
    "Tid Scan",
    "Tid Range Scan",
    "Subquery Scan",
    "Function Scan",
    "Table Function Scan",
    "Values Scan",
    "CTE Scan",
    "WorkTable Scan",
    "Materialize",
    "Memoize",
    "Sort",
    "Incremental Sort",
    "Group",
    "Aggregate",
    "WindowAgg",
    "Unique",
    "SetOp",
    "Limit",
    "Hash",
];

/// The conditions that a row fulfils which leaves its scan.
const CONDITIONS: &[&str] = &["Index Cond", "Recheck Cond", "Filter"];

/// From this version on, the value of a subquery is not written as if it were a parameter: `$0`, `$1`, ….
const NAMES_SUBQUERIES: u32 = 170_000;

/// Which numbers are parameters of the query, beside subqueries.
enum Parameters {
    All,
    /// All but those that a subquery says it returns.
    But(BTreeSet<usize>),
    /// There is a subquery that is given values, which may be written in the same way.
    None,
}

impl Parameters {
    fn beside(subqueries: &[String], version: u32) -> Parameters {
        if version >= NAMES_SUBQUERIES {
            return Parameters::All;
        }
        let mut returned = BTreeSet::new();
        for name in subqueries.iter().filter(|name| !name.starts_with("CTE ")) {
            // `InitPlan 1 (returns $0,$1)`
            let numbers = name.strip_prefix("InitPlan ").and_then(|it| it.split_once(" (returns "));
            let Some((_, numbers)) = numbers else { return Parameters::None };
            for number in numbers.trim_end_matches(')').split(',') {
                match number.strip_prefix('$').and_then(|it| it.parse().ok()) {
                    Some(number) => drop(returned.insert(number)),
                    None => return Parameters::None,
                }
            }
        }
        Parameters::But(returned)
    }

    /// `is_within`: what is given to a subquery by the nodes around it is written like a parameter there.
    fn has(&self, value: &KeyValue, is_within: bool) -> bool {
        match (value, self) {
            (KeyValue::Constant(_), _) | (_, Parameters::All) => true,
            (KeyValue::Parameter(number), Parameters::But(returned)) => {
                !is_within && !returned.contains(number)
            }
            (KeyValue::Parameter(_), Parameters::None) => false,
        }
    }
}

#[derive(Default)]
struct Node {
    kind: String,
    schema: String,
    relation: String,
    alias: String,
    conditions: Vec<String>,
    /// It is part of a subquery, or of what a query has in its WITH.
    is_within: bool,
}

/// The scans of a plan as `EXPLAIN (VERBOSE, FORMAT YAML)` writes it; `None` if it has something that is
/// not known. `hides_casts`: a cast to a text may have another one within it that the plan does not show.
pub(crate) fn scans(plan: &str, version: u32, hides_casts: bool) -> Option<Vec<Scan>> {
    let (mut nodes, mut subqueries) = (Vec::<Node>::new(), vec![]);
    // The nodes that the present one is in: how far they are indented, and whether they are part of a subquery.
    let mut above: Vec<(usize, bool)> = vec![];
    for line in plan.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim_start().trim_start_matches("- ");
        // What a user may have written is in quotes.
        let Some((name, value)) = line.split_once(": ") else { continue };
        if name.starts_with('"') {
            continue;
        }
        let text = || serde_json::from_str::<String>(value).ok();
        if name == "Node Type" {
            while above.last().is_some_and(|(outer, _)| *outer >= indent) {
                above.pop();
            }
            let is_within = above.last().is_some_and(|(_, is_within)| *is_within);
            above.push((indent, is_within));
            nodes.push(Node { kind: text()?, is_within, ..Node::default() });
            continue;
        }
        let Some(node) = nodes.last_mut() else { continue };
        match name {
            "Schema" => node.schema = text()?,
            "Relation Name" => node.relation = text()?,
            "Alias" => node.alias = text()?,
            "Subplan Name" => {
                subqueries.push(text()?);
                node.is_within = true;
                above.last_mut()?.1 = true;
            }
            _ if CONDITIONS.contains(&name) => node.conditions.push(text()?),
            _ => {}
        }
    }
    if nodes.is_empty() || nodes.iter().any(|node| !NODES.contains(&&*node.kind)) {
        return None;
    }
    let parameters = Parameters::beside(&subqueries, version);
    let scans = nodes.iter().filter(|node| !node.relation.is_empty()).map(|node| {
        let conjuncts = node.conditions.iter().flat_map(|condition| conjuncts(condition));
        let keys = conjuncts.filter_map(|conjunct| equality(conjunct, &node.alias, hides_casts));
        Scan {
            relation: RelationName::of(&node.schema, &node.relation),
            keys: keys.filter(|keyed| parameters.has(&keyed.value, node.is_within)).collect(),
        }
    });
    Some(scans.collect())
}

/// Splits `((a) AND (b))`. What is not understood stays whole.
fn conjuncts(condition: &str) -> Vec<&str> {
    let Some(inner) = unwrapped(condition) else { return vec![condition] };
    let (mut parts, mut last, mut depth, mut quote) = (vec![], 0, 0_usize, None);
    for (at, c) in inner.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, ' ') if depth == 0 => {
                if inner[at..].starts_with(" OR ") {
                    return vec![condition];
                }
                if inner[at..].starts_with(" AND ") {
                    parts.push(&inner[last..at]);
                    last = at + " AND ".len();
                }
            }
            (None, _) => {}
        }
    }
    if parts.is_empty() {
        return vec![condition];
    }
    parts.push(&inner[last..]);
    parts.into_iter().flat_map(conjuncts).collect()
}

/// What is in the parentheses that are around all of a text.
fn unwrapped(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    let (mut depth, mut quote) = (0_usize, None);
    for c in inner.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            // The first one is closed before the end.
            (None, ')') => depth = depth.checked_sub(1)?,
            (None, _) => {}
        }
    }
    (depth == 0 && quote.is_none()).then_some(inner)
}

/// `(alias.column = value)`, or the other way round.
fn equality(conjunct: &str, alias: &str, hides_casts: bool) -> Option<Keyed> {
    let inner = unwrapped(conjunct)?;
    if hides_casts && inner.contains(")::text") {
        return None;
    }
    let (left, right) = inner.split_once(" = ")?;
    let keyed = |column: &str, value: &str| {
        Some(Keyed { column: column_of(column, alias)?, value: value_of(value)? })
    };
    keyed(left, right).or_else(|| keyed(right, left))
}

/// A column of the relation with this alias. A text of bounded length is compared as a text.
fn column_of(text: &str, alias: &str) -> Option<String> {
    let text = match text.strip_suffix("::text") {
        Some(cast) => unwrapped(cast)?,
        None => text,
    };
    let (first, rest) = identifier(text)?;
    let (column, rest) = identifier(rest.strip_prefix('.')?)?;
    (first == alias && rest.is_empty()).then_some(column)
}

fn value_of(text: &str) -> Option<KeyValue> {
    let bare = text.strip_suffix("::text").and_then(unwrapped).unwrap_or(text);
    if let Some(number) = bare.strip_prefix('$') {
        return number.parse().ok().map(KeyValue::Parameter);
    }
    if let Ok(number) = text.parse::<i64>() {
        return Some(KeyValue::Constant(number.to_string()));
    }
    let (literal, rest) = literal(text)?;
    let value = match rest {
        "::text" => literal,
        "::integer" | "::bigint" | "::smallint" => literal.parse::<i64>().ok()?.to_string(),
        "::uuid" => literal,
        _ => return None,
    };
    Some(KeyValue::Constant(value))
}

/// A name as SQL writes it, and what comes after it.
fn identifier(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        return delimited(quoted, '"');
    }
    let end = text.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    (!name.is_empty()).then(|| (name.to_owned(), rest))
}

/// A literal without escapes, and what comes after it. What a backslash means depends on the session.
fn literal(text: &str) -> Option<(String, &str)> {
    let (literal, rest) = delimited(text.strip_prefix('\'')?, '\'')?;
    (!literal.contains('\\')).then_some((literal, rest))
}

fn delimited(mut text: &str, quote: char) -> Option<(String, &str)> {
    let mut inner = String::new();
    loop {
        let end = text.find(quote)?;
        inner.push_str(&text[..end]);
        text = &text[end + 1..];
        match text.strip_prefix(quote) {
            Some(after) => {
                inner.push(quote);
                text = after;
            }
            None => return Some((inner, text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(condition: &str) -> Vec<String> {
        let keys = conjuncts(condition).into_iter().filter_map(|it| equality(it, "o", false));
        keys.map(|keyed| keyed.shown("")).collect()
    }

    #[test]
    fn conditions_that_are_understood_to_the_last_letter_are_keys() {
        for (condition, expected) in [
            ("(o.user_id = $1)", &["[user_id = $1]"][..]),
            ("($2 = o.user_id)", &["[user_id = $2]"]),
            (
                "((o.user_id = $1) AND (o.status = 'open'::text))",
                &["[user_id = $1]", "[status = \"open\"]"],
            ),
            (
                "((o.a > 7) AND ((o.b = 3) AND (o.c = '-7'::integer)))",
                &["[b = \"3\"]", "[c = \"-7\"]"],
            ),
            ("((o.code)::text = $1)", &["[code = $1]"]),
            ("((o.code)::text = ($1)::text)", &["[code = $1]"]),
            ("(o.\"User \"\"Id\" = 'it''s AND (x'::text)", &["[User \"Id = \"it's AND (x\"]"]),
            ("((o.a = 'x OR y'::text) AND (o.b = $1))", &["[a = \"x OR y\"]", "[b = $1]"]),
            (
                "(o.id = '00000000-0000-0000-0000-00000000000a'::uuid)",
                &["[id = \"00000000-0000-0000-0000-00000000000a\"]"],
            ),
            // Everything else.
            ("((o.user_id = $1) OR (o.status = $2))", &[]),
            ("(NOT (o.user_id = $1))", &[]),
            ("((o.user_id + 0) = $1)", &[]),
            ("(o.user_id = ANY ($1))", &[]),
            ("(o.user_id = u.id)", &[]),
            ("(u.user_id = $1)", &[]),
            ("(user_id = $1)", &[]),
            ("((o.user_id)::numeric = $1)", &[]),
            ("(o.user_id = ($1 + 1))", &[]),
            ("(o.user_id = $1) AND (o.b = 1)", &[]),
            ("((o.a = $1) IS NOT TRUE)", &[]),
            ("(o.user_id = (InitPlan 1).col1)", &[]),
            ("(o.status = 'a'::text COLLATE \"C\")", &[]),
            ("(o.status = E'a\\\\b'::text)", &[]),
            ("(o.status = 'a\\\\b'::text)", &[]),
            ("(o.a >= $1)", &[]),
            ("(o.day = '2024-01-01'::date)", &[]),
            ("", &[]),
            ("((", &[]),
            ("('", &[]),
        ] {
            assert_eq!(keys(condition), expected, "{condition}");
        }
    }

    #[test]
    fn a_plan_is_read_node_by_node() {
        let plan = r#"- Plan:
    Node Type: "Nested Loop"
    Plans:
      - Node Type: "Index Scan"
        Relation Name: "users"
        Schema: "public"
        Alias: "u"
        Output:
          - "Filter: "
          - "Node Type: x"
        Index Cond: "(u.id = $1)"
      - Node Type: "Seq Scan"
        Relation Name: "orders"
        Schema: "public"
        Alias: "o"
        Filter: "(o.user_id = $1)""#;
        let found = scans(plan, 150_000, false).unwrap();
        let keys: Vec<String> =
            found.iter().map(|scan| scan.keys[0].shown(&scan.relation.canonical())).collect();
        assert_eq!(keys, ["public.users[id = $1]", "public.orders[user_id = $1]"]);
        assert_eq!(scans(&plan.replace("Seq Scan", "Custom Scan"), 150_000, false), None);
        let keys = |subquery: &str, version| {
            let plan = format!("{plan}\n        Subplan Name: \"{subquery}\"");
            scans(&plan, version, false).unwrap().iter().map(|scan| scan.keys.len()).sum::<usize>()
        };
        // The orders are part of it.
        for (subquery, before) in [
            ("InitPlan 1 (returns $0)", 1),
            ("InitPlan 2 (returns $0,$1)", 0),
            ("CTE x", 1),
            ("SubPlan 1", 0),
            ("InitPlan 1 (returns x)", 0),
            ("InitPlan 1", 0),
        ] {
            assert_eq!(
                (keys(subquery, 160_000), keys(subquery, 170_000)),
                (before, 2),
                "{subquery}"
            );
        }
        assert_eq!(scans("", 170_000, false), None);
        for condition in ["((o.code)::text = $1)", "(o.code = ($1)::text)"] {
            assert!(
                equality(condition, "o", false).is_some()
                    && equality(condition, "o", true).is_none()
            );
        }
    }
}
