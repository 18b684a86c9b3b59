//! Reads the values of some columns in a line of `test_decoding` about a row.
//!
//! ```text
//! INSERT: id[integer]:7 name[text]:'it''s'
//! UPDATE: old-key: id[integer]:7 new-tuple: id[integer]:8 name[text]:unchanged-toast-datum
//! DELETE: id[integer]:8
//! ```
//!
//! The old values are those of the replica identity, without NULLs. An update that leaves the identity as
//! it was has none. See `tuple_to_stringinfo` and `pg_decode_change` in PostgreSQL's `test_decoding.c`.

use super::test_decoding::{Encoding, identifier};

/// The values that a row had, or has, in columns of its replica identity: each with the column's number in
/// `columns`. `None` if one of them is not known.
///
/// `change`: the line from the kind of the change on.
pub(crate) fn values(
    change: &[u8],
    columns: &[String],
    is_whole: bool,
    encoding: Encoding,
) -> Option<Vec<(usize, String)>> {
    let mut found = Found { columns, encoding, values: vec![] };
    if let Some(row) = change.strip_prefix(b"INSERT:") {
        found.row(row, Row::New, is_whole)?;
    } else if let Some(row) = change.strip_prefix(b"DELETE:") {
        found.row(row, Row::Old, is_whole)?;
    } else {
        let rows = change.strip_prefix(b"UPDATE:")?;
        match rows.strip_prefix(b" old-key:") {
            None => {
                found.row(rows, Row::New, is_whole)?;
            }
            Some(old) => {
                let new = found.row(old, Row::Old, is_whole)?;
                found.row(new.strip_prefix(b" new-tuple:")?, Row::NewAfterOld, is_whole)?;
            }
        }
    }
    Some(found.values)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Row {
    /// Without columns that are NULL, or no part of the identity.
    Old,
    New,
    NewAfterOld,
}

struct Found<'c> {
    columns: &'c [String],
    encoding: Encoding,
    values: Vec<(usize, String)>,
}

impl Found<'_> {
    /// Reads a row, and returns what comes after it.
    fn row<'l>(&mut self, mut rest: &'l [u8], row: Row, is_whole: bool) -> Option<&'l [u8]> {
        let mut missing = self.columns.len();
        while !rest.is_empty() && !rest.starts_with(b" new-tuple:") {
            if missing == 0 && row != Row::Old {
                // What comes after the columns that count may be cut off.
                return Some(b"");
            }
            let (name, after) = identifier(rest.strip_prefix(b" ")?, self.encoding)?;
            let (value, after) = value(after_type(after.strip_prefix(b"[")?)?)?;
            // A value at the end may be half of one.
            if after.is_empty() && !is_whole {
                return None;
            }
            rest = after;
            let Some(at) = self.columns.iter().position(|column| *column == name) else { continue };
            missing = missing.checked_sub(1)?;
            match value {
                Value::Null => {}
                Value::Written(bytes) if self.encoding == Encoding::Utf8 || bytes.is_ascii() => {
                    self.values.push((at, String::from_utf8(bytes).ok()?));
                }
                // The old row has it, if it is not NULL there.
                Value::Unchanged if row == Row::NewAfterOld => {}
                Value::Written(_) | Value::Unchanged => return None,
            }
        }
        let is_known = match row {
            Row::Old => missing < self.columns.len(),
            Row::New | Row::NewAfterOld => missing == 0,
        };
        (is_known && (is_whole || !rest.is_empty())).then_some(rest)
    }
}

enum Value {
    Null,
    Written(Vec<u8>),
    /// It is long, is stored elsewhere and was not changed.
    Unchanged,
}

/// What comes after a type and the `]:` behind it. Names of types may be in quotes, and an array's end with
/// brackets.
fn after_type(text: &[u8]) -> Option<&[u8]> {
    let (mut is_quoted, mut depth) = (false, 1_usize);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'[' if !is_quoted => depth += 1,
            b']' if !is_quoted => {
                depth -= 1;
                if depth == 0 {
                    return text[at + 1..].strip_prefix(b":");
                }
            }
            _ => {}
        }
    }
    None
}

/// A value, and what comes after it.
fn value(text: &[u8]) -> Option<(Value, &[u8])> {
    let quoted = text.strip_prefix(b"'").or_else(|| text.strip_prefix(b"B'"));
    let Some(mut quoted) = quoted else {
        let end = text.iter().position(|&byte| byte == b' ').unwrap_or(text.len());
        let (bare, rest) = text.split_at(end);
        let value = match bare {
            b"" => return None,
            b"null" => Value::Null,
            b"unchanged-toast-datum" => Value::Unchanged,
            _ => Value::Written(bare.to_vec()),
        };
        return Some((value, rest));
    };
    let mut written = vec![];
    loop {
        let end = quoted.iter().position(|&byte| byte == b'\'')?;
        written.extend_from_slice(&quoted[..end]);
        quoted = &quoted[end + 1..];
        match quoted.strip_prefix(b"'") {
            Some(after) => {
                written.push(b'\'');
                quoted = after;
            }
            None => return Some((Value::Written(written), quoted)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(change: &str, is_whole: bool) -> Option<Vec<(usize, String)>> {
        let columns = ["id".to_owned(), "Us er".to_owned()];
        values(change.as_bytes(), &columns, is_whole, Encoding::Utf8)
    }

    #[test]
    fn the_values_before_and_after_a_change_are_found() {
        let of = |values: &[(usize, &str)]| {
            Some(values.iter().map(|(at, it)| (*at, (*it).to_owned())).collect::<Vec<_>>())
        };
        for (change, expected) in [
            (
                "INSERT: id[integer]:7 tags[integer[]]:'{1}' \"Us er\"[text]:'it''s x[text]:'",
                of(&[(0, "7"), (1, "it's x[text]:")]),
            ),
            ("INSERT: id[integer]:7 \"Us er\"[s.\"t]:\"]:null x[boolean]:true", of(&[(0, "7")])),
            ("UPDATE: id[integer]:7 \"Us er\"[text]:''", of(&[(0, "7"), (1, "")])),
            (
                "UPDATE: old-key: id[integer]:7 \"Us er\"[text]:'a' new-tuple: id[integer]:8 \"Us er\"[text]:'b' c[bit]:B'01'",
                of(&[(0, "7"), (1, "a"), (0, "8"), (1, "b")]),
            ),
            (
                "UPDATE: old-key: id[integer]:7 \"Us er\"[text]:'a' new-tuple: id[integer]:8 \"Us er\"[text]:unchanged-toast-datum",
                of(&[(0, "7"), (1, "a"), (0, "8")]),
            ),
            // The other one was NULL.
            (
                "UPDATE: old-key: id[integer]:7 new-tuple: id[integer]:7 \"Us er\"[text]:'b'",
                of(&[(0, "7"), (0, "7"), (1, "b")]),
            ),
            ("DELETE: id[integer]:7", of(&[(0, "7")])),
            // Not known.
            ("DELETE: (no-tuple-data)", None),
            ("DELETE:", None),
            ("UPDATE: (no-tuple-data)", None),
            ("UPDATE: id[integer]:7", None),
            ("UPDATE: id[integer]:7 \"Us er\"[text]:unchanged-toast-datum", None),
            ("UPDATE: old-key: id[integer]:7", None),
            ("UPDATE: old-key: id[integer]:7 new-tuple: id[integer]:7", None),
            ("INSERT: id[integer]:7 \"Us er\"[text]:'a", None),
            ("INSERT: id[integer:7", None),
            ("INSERT: id[integer]:", None),
            ("INSERT:", None),
            ("TRUNCATE: (no-flags)", None),
            ("MERGE: id[integer]:7", None),
        ] {
            assert_eq!(read(change, true), expected, "{change}");
        }
    }

    #[test]
    fn what_is_cut_off_does_not_count_and_may_not_be_half_read() {
        let line = "INSERT: id[integer]:77 \"Us er\"[text]:'ab' big[text]:'xxxx";
        assert_eq!(read(line, false).unwrap().len(), 2);
        for end in 0..line.find(" big").unwrap() {
            assert_eq!(read(&line[..end], false), None, "{}", &line[..end]);
        }
        let old = "UPDATE: old-key: id[integer]:77 \"Us er\"[text]:'ab' new-tuple: id[integer]:77 x[text]:'";
        assert!((0..=old.len()).all(|end| read(&old[..end], false).is_none()));
        assert_eq!(read("DELETE: id[integer]:77", false), None, "it may be 777");
        let columns = ["a".to_owned()];
        let foreign = values(b"INSERT: a[text]:'\xf6'", &columns, true, Encoding::Other);
        assert_eq!(foreign, None);
    }

    proptest! {
        #[test]
        fn whatever_a_text_is_it_is_read_as_it_was_written(text in "[ -~]{0,40}", other in "[ -~]{0,20}") {
            let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
            let row = format!("o[text]:{} id[text]:{} \"Us er\"[text]:null", quoted(&other), quoted(&text));
            prop_assert_eq!(read(&format!("INSERT: {row}"), true), Some(vec![(0, text.clone())]));
            let both = format!("UPDATE: old-key: id[text]:{} new-tuple: {row}", quoted(&other));
            prop_assert_eq!(read(&both, true), Some(vec![(0, other), (0, text)]));
        }

        #[test]
        fn no_line_makes_it_panic(line in "[ -~]{0,60}") {
            for kind in ["INSERT:", "UPDATE: old-key:", "DELETE:"] {
                let _ = read(&format!("{kind} {line}"), true);
            }
        }
    }
}
