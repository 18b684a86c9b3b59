//! Which rows of a relation a query reads: those with one value in a column, found in a plan of it.
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

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type};

use crate::value::param::OwnedParams;
use crate::value::relation::RelationName;
use crate::value::tag::TagSlot;

/// The key columns of the table `c`, an array of texts: those of which each change in the log tells the
/// value before and after, since they are part of the replica identity, and of whose types equal values
/// are written in one way. Of a table whose whole rows are logged, the first eight.
///
/// No text is a key where there is a collation by which different texts are equal: a plan does not show by
/// which one it compares.
///
/// A cache that follows the database and a query that learns both go by this.
pub(crate) const KEY_COLUMNS: &str = "\
    CASE WHEN c.relkind <> 'r' OR c.relreplident = 'n' THEN '{}'::pg_catalog.text[] \
      ELSE ARRAY(SELECT g.attname::pg_catalog.text FROM pg_catalog.pg_attribute g \
        WHERE g.attrelid = c.oid AND g.attnum > 0 AND NOT g.attisdropped AND g.attgenerated = '' \
          AND g.atttypid IN (20, 21, 23, 25, 1043, 2950) \
          AND (g.atttypid NOT IN (25, 1043) OR NOT EXISTS (SELECT FROM pg_catalog.pg_collation k \
            WHERE NOT k.collisdeterministic)) \
          AND (c.relreplident = 'f' OR g.attnum = ANY ((SELECT (x.indkey::pg_catalog.int2[])[0:x.indnkeyatts - 1] \
            FROM pg_catalog.pg_index x WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate \
              AND CASE c.relreplident WHEN 'd' THEN x.indisprimary ELSE x.indisreplident END)::pg_catalog.int2[])) \
        ORDER BY g.attnum LIMIT 8) END";

/// A condition that all rows of a scan fulfil.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Keyed {
    pub(crate) column: String,
    pub(crate) value: KeyValue,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeyValue {
    /// The parameter of this number, from 1.
    Parameter(usize),
    /// As the stream of changes writes it.
    Constant(String),
}

impl Keyed {
    /// `orders[user_id = $1]`
    pub(crate) fn shown(&self, relation: &str) -> String {
        match &self.value {
            KeyValue::Parameter(number) => format!("{relation}[{} = ${number}]", self.column),
            KeyValue::Constant(value) => format!("{relation}[{} = {value:?}]", self.column),
        }
    }

    /// The slot of the rows, for these parameters. `Ok(None)` if no row can fulfil the condition, an error
    /// if it is not known which.
    pub(crate) fn slot(
        &self,
        relation: &RelationName,
        params: &OwnedParams,
        types: &[String],
    ) -> Result<Option<TagSlot>, Unknown> {
        let value = match &self.value {
            KeyValue::Constant(value) => value.clone(),
            KeyValue::Parameter(number) => {
                let at = number.checked_sub(1).ok_or(Unknown)?;
                let param = params.iter().nth(at).ok_or(Unknown)?;
                match written(param, types.get(at).ok_or(Unknown)?)? {
                    Some(value) => value,
                    None => return Ok(None),
                }
            }
        };
        Ok(Some(relation.tag_of_key(&self.column, &value).slot()))
    }
}

/// It is not known what a parameter is sent as.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unknown;

/// A parameter as the stream of changes writes a column of its value; `None` for NULL.
fn written(param: &(dyn ToSql + Sync), type_name: &str) -> Result<Option<String>, Unknown> {
    let type_ = match type_name {
        "smallint" => Type::INT2,
        "integer" => Type::INT4,
        "bigint" => Type::INT8,
        "text" => Type::TEXT,
        "character varying" => Type::VARCHAR,
        "uuid" => Type::UUID,
        _ => return Err(Unknown),
    };
    let mut bytes = BytesMut::new();
    match param.to_sql_checked(&type_, &mut bytes) {
        Ok(IsNull::No) => {}
        Ok(IsNull::Yes) => return Ok(None),
        Err(_) => return Err(Unknown),
    }
    let bytes = &bytes[..];
    let written = match type_ {
        Type::INT2 => bytes.try_into().ok().map(|it| i16::from_be_bytes(it).to_string()),
        Type::INT4 => bytes.try_into().ok().map(|it| i32::from_be_bytes(it).to_string()),
        Type::INT8 => bytes.try_into().ok().map(|it| i64::from_be_bytes(it).to_string()),
        Type::UUID => bytes.try_into().ok().map(|it| uuid(u128::from_be_bytes(it))),
        _ => String::from_utf8(bytes.to_vec()).ok(),
    };
    written.map(Some).ok_or(Unknown)
}

fn uuid(number: u128) -> String {
    let digits = format!("{number:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

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

    #[test]
    fn a_parameter_is_written_as_the_stream_writes_it() {
        let of = |param: &(dyn ToSql + Sync), name| written(param, name);
        assert_eq!(of(&7_i32, "integer"), Ok(Some("7".to_owned())));
        assert_eq!(of(&-7_i64, "bigint"), Ok(Some("-7".to_owned())));
        assert_eq!(of(&"a'b", "text"), Ok(Some("a'b".to_owned())));
        assert_eq!(of(&None::<i32>, "integer"), Ok(None));
        assert_eq!(of(&7_i64, "integer"), Err(Unknown));
        assert_eq!(of(&7.5_f64, "double precision"), Err(Unknown));
        assert_eq!(uuid(0x0102 << 112 | 10), "01020000-0000-0000-0000-00000000000a");
    }
}
