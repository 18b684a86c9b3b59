//! Reads a node tree as PostgreSQL writes it into its catalogs: of a query, a view, a policy, a check.
//!
//! ```text
//! ({QUERY :commandType 1 … :rtable ({RTE … :relid 16384 …}) … {FUNCEXPR :funcid 1299 … :args <>} …})
//! ```
//!
//! Names and texts of a user are in it as well. PostgreSQL escapes spaces, braces and parentheses in
//! them by a backslash, so they are never taken for a node or a field.

use std::collections::BTreeSet;

/// What a tree names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) functions: BTreeSet<u32>,
    pub(crate) relations: BTreeSet<u32>,
    /// Domains whose checks are carried out.
    pub(crate) domains: BTreeSet<u32>,
    /// The types of its values, but where only a number is asked of a value that is the name of
    /// something; see [`is_name`].
    pub(crate) types: BTreeSet<u32>,
    /// The settings whose values it asks for; `None` for one whose name is computed.
    pub(crate) settings: BTreeSet<Option<String>>,
    /// The time is asked for, by `CURRENT_DATE` and its relatives.
    pub(crate) time: bool,
    /// Who asks is asked for, by `CURRENT_USER` and its relatives.
    pub(crate) who: bool,
    pub(crate) samples: bool,
    pub(crate) writes: bool,
    pub(crate) locks_rows: bool,
    /// A text is read as a date or a time, which `now` and `today` are as well.
    pub(crate) text_as_time: bool,
    /// It casts without being told to, by more than another way to write the same: a plan hides such a cast
    /// within another one.
    pub(crate) hides_casts: bool,
    /// Columns have other names in it than in their tables (`FROM t AS t (a, b)`).
    pub(crate) renames_columns: bool,
    /// The number of queries at the top.
    pub(crate) queries: usize,
}

/// `date`, `time`, `timestamp`, `timestamptz`, `timetz`, and arrays of them.
pub(crate) const TIMES: &[u32] = &[1082, 1083, 1114, 1184, 1266, 1182, 1183, 1115, 1185, 1270];
/// `current_setting(text)`, `current_setting(text, bool)`.
const CURRENT_SETTING: &[u32] = &[2077, 3294];
const TEXT: &str = "25";
/// A value of these is the number of a catalog's row, which is written as its name, and read from it:
/// `regproc`, `regprocedure`, `regoper`, `regoperator`, `regclass`, `regtype`, `regconfig`,
/// `regdictionary`, `regnamespace`, `regrole`, `regcollation`.
pub(crate) const NAMES: &[u32] =
    &[24, 2202, 2203, 2204, REGCLASS, REGTYPE, REGCONFIG, REGDICTIONARY, 4089, 4096, 4191];
const REGCLASS: u32 = 2205;
const REGTYPE: u32 = 2206;
const REGCONFIG: u32 = 3734;
const REGDICTIONARY: u32 = 3769;
/// `pg_typeof`: the type of a value is told by the query, whatever its name is.
const PG_TYPEOF: u32 = 1619;
/// Smaller numbers in a field of this kind are no types.
const FIRST_TYPE: u32 = 16;
/// What PostgreSQL defines itself has smaller numbers.
pub(crate) const FIRST_OF_USER: u32 = 16384;
/// `COERCE_IMPLICIT_CAST`
const IMPLICIT: &str = "2";
/// A value that is cast to `int8`, `int2`, `int4`, `text`, `varchar`, `uuid` or `numeric` without being told
/// to has the same text.
const WRITTEN_ALIKE: &[u32] = &[20, 21, 23, 25, 1043, 1700, 2950];
/// The last `op` of a `SQLVALUEFUNCTION` that asks for the time.
const LAST_OF_TIME: u32 = 8;

/// A node that is open, and what was seen of it.
#[derive(Default)]
struct Open<'t> {
    node: &'t str,
    /// The field whose value comes next.
    field: &'t str,
    /// How many nodes were seen in it.
    children: usize,
    /// It is a call of `current_setting`, whose argument was not seen yet.
    asks_setting: bool,
    is_text: bool,
    /// It is an alias that somebody wrote, and not one that PostgreSQL made.
    is_of_user: bool,
    /// It is a call of `pg_typeof`.
    is_typeof: bool,
    /// The type that it makes.
    makes: u32,
    /// The type of a constant that is the name of something.
    names: Option<u32>,
}

/// Reads a tree.
pub(crate) fn read(tree: &str) -> Named {
    let mut named = Named::default();
    let mut open: Vec<Open<'_>> = vec![];
    let mut tokens = Tokens(tree).peekable();
    while let Some(token) = tokens.next() {
        match token {
            "{" => {
                let node = tokens.next().unwrap_or_default();
                if node == "QUERY" && open.is_empty() {
                    named.queries += 1;
                }
                entered(&mut named, node);
                let mut is_of_user = false;
                if let Some(parent) = open.last_mut() {
                    parent.children += 1;
                    is_of_user = parent.field != "eref";
                }
                open.push(Open { node, is_of_user, ..Open::default() });
            }
            "}" => {
                if open.pop().is_some_and(|node| node.asks_setting) {
                    named.settings.insert(None);
                }
            }
            "(" | ")" => {}
            "[" => {
                let bytes: Vec<u8> = tokens
                    .by_ref()
                    .take_while(|token| *token != "]")
                    .filter_map(|byte| byte.parse::<i16>().ok())
                    .map(|byte| byte as u8)
                    .collect();
                constant(&mut named, &mut open, &bytes);
            }
            _ => {
                let (above, node) = match open.as_mut_slice() {
                    [] => continue,
                    [.., above, node] => (Some(&*above), node),
                    [node] => (None, node),
                };
                match token.strip_prefix(':') {
                    Some(field) => node.field = field,
                    None => {
                        value(&mut named, node, token);
                        type_of(&mut named, above, node, token);
                    }
                }
            }
        }
    }
    named
}

fn entered(named: &mut Named, node: &str) {
    match node {
        "TABLESAMPLECLAUSE" => named.samples = true,
        "NEXTVALUEEXPR" => named.writes = true,
        _ => {}
    }
}

fn value(named: &mut Named, node: &mut Open<'_>, token: &str) {
    let number = token.parse::<u32>().ok().filter(|&number| number != 0);
    match (node.node, node.field) {
        (
            _,
            "funcid" | "opfuncid" | "hashfuncid" | "negfuncid" | "winfnoid" | "aggfnoid"
            | "startInRangeFunc" | "endInRangeFunc",
        ) => {
            named.functions.extend(number);
            node.asks_setting |= number.is_some_and(|oid| CURRENT_SETTING.contains(&oid));
            node.is_typeof |= number == Some(PG_TYPEOF);
        }
        ("RTE" | "RANGETBLENTRY" | "RTEPERMISSIONINFO", "relid") => named.relations.extend(number),
        ("COERCETODOMAIN", "resulttype") => named.domains.extend(number),
        // A body in another language makes its result one by itself.
        ("FUNCEXPR", "funcresulttype") => {
            named.domains.extend(number.filter(|&oid| oid >= FIRST_OF_USER));
        }
        ("COERCEVIAIO", "resulttype") => named.text_as_time |= is_time(number),
        // What a JSON or an XML function makes of a text.
        ("JSONRETURNING", "typid") => named.text_as_time |= is_time(number),
        ("TABLEFUNC", "coltypes") => named.text_as_time |= is_time(number),
        ("SQLVALUEFUNCTION", "op") => match token.parse::<u32>() {
            Ok(op) if op > LAST_OF_TIME => named.who = true,
            _ => named.time = true,
        },
        ("QUERY", "commandType") => named.writes |= token != "1",
        (
            "FUNCEXPR" | "RELABELTYPE" | "COERCEVIAIO" | "ARRAYCOERCEEXPR" | "ARRAYCOERCE"
            | "CONVERTROWTYPE" | "CONVERTROWTYPEEXPR" | "COERCETODOMAIN",
            "funcformat" | "relabelformat" | "coerceformat" | "convertformat" | "coercionformat",
        ) => named.hides_casts |= token == IMPLICIT && !WRITTEN_ALIKE.contains(&node.makes),
        ("ALIAS", "colnames") => named.renames_columns |= node.is_of_user && token != "<>",
        ("ROWMARKCLAUSE", "pushedDown") => named.locks_rows |= token == "false",
        ("CONST", "consttype") => node.is_text = token == TEXT,
        _ => {}
    }
}

/// Takes note of the type of a value. Only its name can change by itself, and only if it is asked for: a
/// number that is compared, or returned, is what it is.
fn type_of(named: &mut Named, above: Option<&Open<'_>>, node: &mut Open<'_>, token: &str) {
    let Some(oid) = token.parse::<u32>().ok().filter(|&oid| oid >= FIRST_TYPE) else { return };
    let field = node.field;
    if matches!(field, "resulttype" | "funcresulttype") {
        node.makes = oid;
    }
    if !ENDS.iter().any(|end| field.to_ascii_lowercase().ends_with(end)) {
        return;
    }
    if is_name(oid) {
        let as_number = above.is_some_and(|above| above.node == "RELABELTYPE");
        match node.node {
            "CONST" => {
                // What it names is seen by its value.
                node.names = Some(oid).filter(|_| as_number || is_of_words(oid));
                if node.names.is_some() {
                    return;
                }
            }
            "PARAM" if as_number => return,
            "FUNCEXPR" if node.is_typeof => return,
            _ => {}
        }
    }
    named.types.insert(oid);
}

/// The ends of the names of fields that are types, in all kinds of nodes; and of others, whose numbers are
/// small, such as `jointype`.
const ENDS: &[&str] = &["type", "types", "typeid", "typid"];

/// Whether values of a type are written as the name of something that may be renamed.
pub(crate) fn is_name(oid: u32) -> bool {
    NAMES.contains(&oid)
}

/// What decides how words are found in a text, and is no value that a query returns.
pub(crate) fn is_of_words(oid: u32) -> bool {
    matches!(oid, REGCONFIG | REGDICTIONARY)
}

fn is_time(oid: Option<u32>) -> bool {
    oid.is_some_and(|oid| TIMES.contains(&oid))
}

/// What a constant names: a relation, a type, or a setting if it is the first argument of
/// `current_setting`.
fn constant(named: &mut Named, open: &mut [Open<'_>], bytes: &[u8]) {
    if let Some(kind) = open.last().and_then(|constant| constant.names) {
        let oid = bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        match kind {
            REGCLASS if oid != 0 => named.relations.insert(oid),
            REGTYPE if oid != 0 => named.types.insert(oid),
            REGCONFIG | REGDICTIONARY => false,
            // Who is meant by it may be another one later.
            _ => named.types.insert(kind),
        };
        return;
    }
    let [.., call, constant] = open else { return };
    if call.asks_setting && call.children == 1 && constant.node == "CONST" && constant.is_text {
        // After the length of the value.
        if let Some(name) = bytes.get(4..).and_then(|name| std::str::from_utf8(name).ok()) {
            call.asks_setting = false;
            named.settings.insert(Some(name.to_ascii_lowercase()));
        }
    }
}

struct Tokens<'t>(&'t str);

impl<'t> Iterator for Tokens<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        self.0 = self.0.trim_start();
        let first = self.0.chars().next()?;
        let end = if is_alone(first) {
            first.len_utf8()
        } else {
            let mut escaped = false;
            let ends = |&(_, c): &(usize, char)| {
                if escaped {
                    escaped = false;
                    return false;
                }
                escaped = c == '\\';
                c.is_whitespace() || is_alone(c)
            };
            self.0.char_indices().find(ends).map_or(self.0.len(), |(at, _)| at)
        };
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(token)
    }
}

fn is_alone(c: char) -> bool {
    matches!(c, '{' | '}' | '(' | ')' | '[' | ']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tree_names_is_found_and_what_a_user_wrote_into_it_is_not_taken_for_it() {
        let tree = "(({QUERY :commandType 1 :rtable ({RTE :alias <> :eref {ALIAS :aliasname \
            a\\ :relid\\ 7\\ \\{SQLVALUEFUNCTION :colnames (\"x\" \"funcid 8\")} :rtekind 0 :relid 16384 \
            :relkind r} {RTE :rtekind 2 :relid 0}) :targetList ({FUNCEXPR :funcid 3294 :args ({CONST \
            :consttype 25 :constvalue 14 [ 56 0 0 0 65 112 112 46 116 101 110 97 110 116 ]} {CONST \
            :consttype 16 :constvalue 1 [ 1 0 0 0 0 0 0 0 ]})} {OPEXPR :opno 96 :opfuncid 65 :args \
            ({COERCETODOMAIN :arg {PARAM :paramid 1} :resulttype 16400} {SQLVALUEFUNCTION :op 10 \
            :type 19})}) :rowMarks <>}))";
        let named = read(tree);
        assert_eq!(named.functions, BTreeSet::from([65, 3294]));
        assert_eq!(named.relations, BTreeSet::from([16384]));
        assert_eq!(named.domains, BTreeSet::from([16400]));
        assert_eq!(named.settings, BTreeSet::from([Some("app.tenant".to_owned())]));
        assert_eq!((named.who, named.time, named.writes), (true, false, false));
        assert_eq!((named.queries, named.locks_rows, named.samples), (1, false, false));
        assert_eq!(named.types, BTreeSet::from([16, 19, 25, 16400]));
    }

    #[test]
    fn a_value_that_is_the_name_of_something_is_told_from_its_number() {
        let one = |kind: u32, oid: u8| {
            format!(
                "{{CONST :consttype {kind} :constlen 4 :constvalue 4 [ {oid} 64 0 0 0 0 0 0 ]}}"
            )
        };
        let number = |arg: &str| format!("{{RELABELTYPE :arg {arg} :resulttype 26}}");
        let oid = BTreeSet::from([26]);
        let table = read(&number(&one(2205, 7)));
        assert_eq!((table.relations, table.types), (BTreeSet::from([16391]), oid.clone()));
        assert_eq!(read(&number(&one(2206, 9))).types, BTreeSet::from([26, 16393]));
        assert_eq!(read(&number("{PARAM :paramtype 2205}")).types, oid);
        let words =
            format!("{{FUNCEXPR :funcid 3749 :funcresulttype 3614 :args ({})}}", one(3734, 1));
        assert_eq!(read(&words).types, BTreeSet::from([3614]));
        let kind = "{FUNCEXPR :funcid 1619 :funcresulttype 2206 :args ({VAR :vartype 23})}";
        assert_eq!(read(kind).types, BTreeSet::from([23]));
        // As a name.
        for tree in [
            format!("{{COERCEVIAIO :arg {} :resulttype 25}}", one(2205, 7)),
            "{RELABELTYPE :arg {VAR :vartype 26} :resulttype 2205}".to_owned(),
            "{VAR :vartype 2205}".to_owned(),
            number("{VAR :vartype 2205}"),
            "{FUNCEXPR :funcid 1079 :funcresulttype 2205}".to_owned(),
            number(&one(4096, 7)),
            number("{CONST :consttype 2205 :constvalue 4 [ 0 0 0 0 0 0 0 0 ]}"),
        ] {
            assert!(read(&tree).types.iter().any(|&oid| is_name(oid)), "{tree}");
        }
    }

    #[test]
    fn a_setting_whose_name_is_computed_has_none() {
        let computed = "{FUNCEXPR :funcid 2077 :args ({FUNCEXPR :funcid 1258 :args ({CONST \
            :consttype 25 :constvalue 5 [ 20 0 0 0 97 ]})})}";
        assert_eq!(read(computed).settings, BTreeSet::from([None]));
        let of_a_column = "{FUNCEXPR :funcid 2077 :args ({VAR :varno 1})}";
        assert_eq!(read(of_a_column).settings, BTreeSet::from([None]));
    }

    #[test]
    fn writes_row_locks_samples_and_the_time_are_found() {
        assert!(read("({QUERY :commandType 3})").writes);
        let aliases = |of: &str, made: &str| {
            format!(
                "{{RTE :alias {{ALIAS :aliasname o :colnames {of}}} :eref {{ALIAS :aliasname o \
                 :colnames {made}}}}}"
            )
        };
        assert!(read(&aliases("(\"a\" \"b\")", "(\"a\" \"b\")")).renames_columns);
        assert!(!read(&aliases("<>", "(\"a\" \"b\")")).renames_columns);
        let cast = |to: u32, format: u32| {
            format!(
                "{{RELABELTYPE :arg {{VAR :vartype 1043}} :resulttype {to} :relabelformat {format}}}"
            )
        };
        assert!(read(&cast(1042, 2)).hides_casts);
        assert!(!read(&cast(1042, 1)).hides_casts && !read(&cast(25, 2)).hides_casts);
        assert!(
            read("{FUNCEXPR :funcid 482 :funcresulttype 701 :funcformat 2 :args <>}").hides_casts
        );
        assert!(read("{QUERY :commandType 1 :cteList ({X :q {QUERY :commandType 4}})}").writes);
        assert!(
            read("{ROWMARKCLAUSE :rti 1 :strength 4 :waitPolicy 0 :pushedDown false}").locks_rows
        );
        assert!(!read("{ROWMARKCLAUSE :rti 1 :pushedDown true}").locks_rows);
        assert!(read("{RTE :tablesample {TABLESAMPLECLAUSE :tsmhandler 3313}}").samples);
        assert!(read("{SQLVALUEFUNCTION :op 0 :type 1082}").time);
        let cast = |arg: &str| format!("{{COERCEVIAIO :arg {arg} :resulttype 1082}}");
        let inner = cast("{VAR :vartype 25}");
        assert!(read(&inner).text_as_time);
        assert!(read(&format!("{{COERCEVIAIO :arg {inner} :resulttype 25}}")).text_as_time);
        assert!(!read("{COERCEVIAIO :arg {VAR :vartype 1082} :resulttype 25}").text_as_time);
        assert_eq!(read("(({QUERY :commandType 1} {QUERY :commandType 1}))").queries, 2);
        // Half a tree is read as far as it goes.
        assert_eq!(
            read("{FUNCEXPR :funcid 7 :args ({CONST :consttype 25 :constvalue 5 [ 1")
                .functions
                .len(),
            1
        );
    }
}
