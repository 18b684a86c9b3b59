//! The text of PostgreSQL's text search types.

use std::fmt::Write;

use super::cursor::Cursor;

/// Text that ends with a zero byte.
fn lexeme(cursor: &mut Cursor<'_>) -> Option<String> {
    let mut bytes = vec![];
    loop {
        match cursor.u8()? {
            0 => break,
            byte => bytes.push(byte),
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    Some(format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''")))
}

/// `tsvector`: the number of lexemes, and each with its positions, whose upper two bits are a weight.
pub(super) fn vector(cursor: &mut Cursor<'_>) -> Option<String> {
    let count = usize::try_from(cursor.be_i32()?).ok()?;
    let mut out = String::new();
    for at in 0..count {
        if at > 0 {
            out.push(' ');
        }
        out.push_str(&lexeme(cursor)?);
        for at in 0..cursor.be_i16()? as u16 {
            let position = cursor.be_i16()? as u16;
            let weight = ["", "C", "B", "A"][usize::from(position >> 14)];
            let mark = if at == 0 { ':' } else { ',' };
            let _ = write!(out, "{mark}{}{weight}", position & 0x3FFF);
        }
    }
    Some(out)
}

const VALUE: u8 = 1;
const NOT: u8 = 1;
const AND: u8 = 2;
const OR: u8 = 3;
const PHRASE: u8 = 4;

/// How deeply a query may be nested. PostgreSQL's own parser goes deeper, people do not.
const DEEPEST: u32 = 256;

/// `tsquery`: the number of items, and the items, each operator before its operands and the right one
/// first.
pub(super) fn query(cursor: &mut Cursor<'_>) -> Option<String> {
    match cursor.be_i32()? {
        0 => Some(String::new()),
        _ => item(cursor, 0, false, 0),
    }
}

/// `above`: the priority of the operator that this is an operand of. `right`: whether that is `<->`
/// and this its right operand.
fn item(cursor: &mut Cursor<'_>, above: u8, right: bool, depth: u32) -> Option<String> {
    if depth > DEEPEST {
        return None;
    }
    if cursor.u8()? == VALUE {
        let (weight, prefix) = (cursor.u8()?, cursor.u8()?);
        let mut out = lexeme(cursor)?;
        if weight != 0 || prefix != 0 {
            out.push(':');
        }
        if prefix != 0 {
            out.push('*');
        }
        for (bit, name) in [(8, 'A'), (4, 'B'), (2, 'C'), (1, 'D')] {
            if weight & bit != 0 {
                out.push(name);
            }
        }
        return Some(out);
    }
    let operator = cursor.u8()?;
    let (priority, word) = match operator {
        NOT => (4, String::new()),
        AND => (2, "&".to_owned()),
        OR => (1, "|".to_owned()),
        PHRASE => (
            3,
            match cursor.be_i16()? {
                1 => "<->".to_owned(),
                distance => format!("<{distance}>"),
            },
        ),
        _ => return None,
    };
    let parts = if operator == NOT {
        format!("!{}", item(cursor, priority, false, depth + 1)?)
    } else {
        let second = item(cursor, priority, operator == PHRASE, depth + 1)?;
        let first = item(cursor, priority, false, depth + 1)?;
        format!("{first} {word} {second}")
    };
    let nested = operator == PHRASE && (priority == above && right);
    Some(if priority < above || nested { format!("( {parts} )") } else { parts })
}
