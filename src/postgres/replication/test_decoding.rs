//! Reads the lines of PostgreSQL's plugin `test_decoding` as far as they name relations.
//!
//! A line is `BEGIN 7`, `table public.orders: UPDATE: …`, `table a.b, a.c: TRUNCATE: …`, a message,
//! or `COMMIT 7`. Names are as `quote_identifier` writes them, so what is in a row cannot be taken
//! for a name: it comes after the first `: ` outside of quotes. Whatever is not understood is
//! [`Line::Unknown`], which stands for a change of any relation.

use crate::value::relation::RelationName;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// A transaction that was committed begins: the lower 32 bits of its number.
    Begin(u32),
    /// It has changed these relations.
    Changes(Vec<RelationName>),
    /// A message that it has emitted, by this prefix.
    Message(String),
    /// It ends here.
    Commit(u32),
    /// Not understood.
    Unknown,
}

/// How names are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Utf8,
    /// The plugin writes the database's own encoding. A name of other letters than those of ASCII
    /// cannot be told from another name.
    Other,
}

/// What a row's line has after its name.
const ROW_CHANGES: &[&[u8]] = &[b"INSERT:", b"UPDATE:", b"DELETE:"];
const TRUNCATE: &[u8] = b"TRUNCATE:";

/// The longest name, in bytes.
const LONGEST: usize = 63;

/// Reads a line. `is_whole`: nothing was cut from its end.
pub(crate) fn read(line: &[u8], is_whole: bool, encoding: Encoding) -> Line {
    parse(line, is_whole, encoding).unwrap_or(Line::Unknown)
}

fn parse(line: &[u8], is_whole: bool, encoding: Encoding) -> Option<Line> {
    if let Some(names) = line.strip_prefix(b"table ") {
        return changes(names, encoding).map(Line::Changes);
    }
    if let Some(number) = line.strip_prefix(b"BEGIN ") {
        return is_whole.then(|| xid(number))?.map(Line::Begin);
    }
    if let Some(number) = line.strip_prefix(b"COMMIT ") {
        return is_whole.then(|| xid(number))?.map(Line::Commit);
    }
    let message = line.strip_prefix(b"message: transactional: ")?;
    let prefix = message.strip_prefix(b"0 prefix: ").or(message.strip_prefix(b"1 prefix: "))?;
    // A prefix may contain anything, so also this.
    let end = find(prefix, b", sz: ")?;
    Some(Line::Message(String::from_utf8_lossy(&prefix[..end]).into_owned()))
}

/// The beginning of a line that names one relation, up to the end of its name.
pub(crate) fn beginning(line: &[u8]) -> &[u8] {
    let end = end_of_names(line).unwrap_or(0);
    &line[..end]
}

/// Whether a line is of a row of the relation that another line, with this beginning, is of. It saves
/// reading the name of each row of a large transaction.
pub(crate) fn is_alike(line: &[u8], beginning: &[u8]) -> bool {
    !beginning.is_empty()
        && line
            .strip_prefix(beginning)
            .is_some_and(|change| ROW_CHANGES.iter().any(|it| change.starts_with(it)))
}

/// Where the first `: ` outside of quotes ends.
fn end_of_names(line: &[u8]) -> Option<usize> {
    let mut is_quoted = false;
    let mut last = 0;
    for (at, &byte) in line.iter().enumerate() {
        is_quoted ^= byte == b'"';
        if !is_quoted && last == b':' && byte == b' ' {
            return Some(at + 1);
        }
        last = if is_quoted { 0 } else { byte };
    }
    None
}

fn xid(text: &[u8]) -> Option<u32> {
    let all_digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    all_digits.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

fn changes(mut rest: &[u8], encoding: Encoding) -> Option<Vec<RelationName>> {
    let mut names = vec![];
    loop {
        let (schema, after) = identifier(rest, encoding)?;
        let (relation, after) = identifier(after.strip_prefix(b".")?, encoding)?;
        names.push(RelationName::of(&schema, &relation));
        if let Some(next) = after.strip_prefix(b", ") {
            rest = next;
            continue;
        }
        let change = after.strip_prefix(b": ")?;
        let is_of_a_row = names.len() == 1 && ROW_CHANGES.iter().any(|it| change.starts_with(it));
        return (is_of_a_row || change.starts_with(TRUNCATE)).then_some(names);
    }
}

/// A name as `quote_identifier` writes it, and what comes after it.
fn identifier(text: &[u8], encoding: Encoding) -> Option<(String, &[u8])> {
    let (name, rest) = match text.strip_prefix(b"\"") {
        None => {
            let end = text.iter().position(|&byte| !is_plain(byte)).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            if name.first()?.is_ascii_digit() {
                return None;
            }
            (name.to_vec(), rest)
        }
        Some(mut quoted) => {
            let mut name = vec![];
            loop {
                let end = quoted.iter().position(|&byte| byte == b'"')?;
                name.extend_from_slice(&quoted[..end]);
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix(b"\"") {
                    Some(after) => {
                        name.push(b'"');
                        quoted = after;
                    }
                    None => break (name, quoted),
                }
            }
        }
    };
    let is_known = encoding == Encoding::Utf8 || name.is_ascii();
    if name.is_empty() || name.len() > LONGEST || name.contains(&0) || !is_known {
        return None;
    }
    Some((String::from_utf8(name).ok()?, rest))
}

/// A letter of a name that is written without quotes.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> Line {
        read(text.as_bytes(), true, Encoding::Utf8)
    }

    fn changed(names: &[(&str, &str)]) -> Line {
        Line::Changes(names.iter().map(|(schema, name)| RelationName::of(schema, name)).collect())
    }

    #[test]
    fn lines_of_the_plugin_are_read() {
        for (text, expected) in [
            ("BEGIN 733", Line::Begin(733)),
            ("COMMIT 4294967295", Line::Commit(u32::MAX)),
            ("table public.t: INSERT: id[integer]:1 v[text]:null", changed(&[("public", "t")])),
            ("table public.t: DELETE: (no-tuple-data)", changed(&[("public", "t")])),
            (
                "table public.\"order\": UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 \
                 big[text]:unchanged-toast-datum",
                changed(&[("public", "order")]),
            ),
            (
                "table \"S.x\".\"we: ird\"\"t\": INSERT: \"a: b\"[text]:'x'': TRUNCATE: y'",
                changed(&[("S.x", "we: ird\"t")]),
            ),
            (
                "table public.a, \"b, c\".d: TRUNCATE: restart_seqs cascade",
                changed(&[("public", "a"), ("b, c", "d")]),
            ),
            ("table public.größe: INSERT: x", Line::Unknown),
            ("table public.\"größe\": INSERT: x", changed(&[("public", "größe")])),
            (
                "message: transactional: 1 prefix: larder, sz: 0 content:",
                Line::Message("larder".to_owned()),
            ),
        ] {
            assert_eq!(line(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_may_be_a_change_of_anything() {
        for text in [
            "",
            "BEGIN",
            "BEGIN x",
            "BEGIN 4294967296",
            "COMMIT 1 (at 2026-01-01)",
            "opening a streamed block for transaction",
            "table t: INSERT: x",
            "table public.: INSERT: x",
            "table public.t INSERT: x",
            "table public.t: MERGE: x",
            "table public.a, public.b: UPDATE: x",
            "table public.t",
            "table public.\"t: INSERT: x",
            "table public.\"\": INSERT: x",
            "table Public.t: INSERT: x",
            "table public.1t: INSERT: x",
            "message: transactional: 1 prefix: x",
        ] {
            assert_eq!(line(text), Line::Unknown, "{text}");
        }
        let latin = "table public.\"größe\": INSERT: x";
        assert_eq!(read(latin.as_bytes(), true, Encoding::Other), Line::Unknown);
        assert_eq!(
            read(b"table public.\"gr\xf6\": INSERT: x", true, Encoding::Utf8),
            Line::Unknown
        );
        assert_eq!(read(b"BEGIN 12", false, Encoding::Utf8), Line::Unknown, "it may be 123");
        // The name is in front.
        let cut = read(b"table public.t: INSERT: v[text]:'xx", false, Encoding::Utf8);
        assert_eq!(cut, changed(&[("public", "t")]));
    }

    /// `quote_identifier` of PostgreSQL's `ruleutils.c`; keywords are quoted as well.
    fn quoted(name: &str, always: bool) -> String {
        let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        if begins && name.bytes().all(is_plain) && !always {
            return name.to_owned();
        }
        format!("\"{}\"", name.replace('"', "\"\""))
    }

    fn names() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z_][a-z0-9_]{0,20}", "[a-z:, .\"$öA-Z0-9]{1,20}"]
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_was_written(
            relations in prop::collection::vec((names(), names(), any::<bool>()), 1..4),
            row in "[ -~]{0,40}",
        ) {
            let list: Vec<String> = relations
                .iter()
                .map(|(schema, name, always)| {
                    format!("{}.{}", quoted(schema, *always), quoted(name, *always))
                })
                .collect();
            let expected = Line::Changes(
                relations.iter().map(|(schema, name, _)| RelationName::of(schema, name)).collect(),
            );
            let truncate = format!("table {}: TRUNCATE: (no-flags)", list.join(", "));
            prop_assert_eq!(line(&truncate), expected.clone());
            let update = format!("table {}: UPDATE: {row}", list.join(", "));
            let beginning = format!("table {}: ", list.join(", "));
            prop_assert_eq!(super::beginning(update.as_bytes()), beginning.as_bytes());
            prop_assert!(is_alike(update.as_bytes(), beginning.as_bytes()));
            prop_assert!(!is_alike(truncate.as_bytes(), beginning.as_bytes()));
            let expected = if list.len() == 1 { expected } else { Line::Unknown };
            prop_assert_eq!(line(&update), expected);
        }

        #[test]
        fn no_line_makes_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&bytes, true, Encoding::Utf8);
            let table = [&b"table "[..], &bytes].concat();
            let _ = read(&table, false, Encoding::Other);
        }
    }
}
