//! Reads SQL and the bodies of functions as texts: what no tree shows.

use std::collections::BTreeSet;

/// What the body of a function says, as far as words can tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    /// Words that a parenthesis follows: functions, among others.
    pub(crate) calls: BTreeSet<String>,
    /// Words after FROM, JOIN, INTO, UPDATE and the like: relations, among others.
    pub(crate) relations: BTreeSet<String>,
    /// Words after a full stop: a function of a row may be written like a column of it.
    pub(crate) members: BTreeSet<String>,
    /// All words, as PostgreSQL folds them.
    pub(crate) words: BTreeSet<String>,
    /// What `current_setting` is asked for; `None` if that is no literal.
    pub(crate) settings: BTreeSet<Option<String>>,
    /// All characters outside of texts and comments that operators are made of, one run each.
    pub(crate) operators: BTreeSet<String>,
    pub(crate) casts: bool,
    /// A literal that means the present when it is read as a date or a time.
    pub(crate) present: Option<String>,
}

const TIMES: &[&str] =
    &["current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"];
const WHO: &[&str] =
    &["current_user", "session_user", "current_role", "user", "current_catalog", "current_schema"];
/// Literals that PostgreSQL replaces by the present when it reads a date or a time.
const PRESENT: &[&str] = &["now", "today", "tomorrow", "yesterday"];

impl Body {
    pub(crate) fn read(text: &str) -> Body {
        let mut body = Body::default();
        let tokens: Vec<Token<'_>> = tokens(text);
        for (at, token) in tokens.iter().enumerate() {
            let next = tokens.get(at + 1);
            match token {
                Token::Word(word) => {
                    if matches!(next, Some(Token::Other('('))) {
                        body.calls.insert(word.clone());
                        if word == "current_setting" {
                            body.settings.insert(match tokens.get(at + 2) {
                                Some(Token::Literal(name)) => Some(name.to_ascii_lowercase()),
                                _ => None,
                            });
                        }
                    }
                    if is_before_relation(&tokens[..at]) {
                        body.relations.insert(word.clone());
                    }
                    if at > 0 && matches!(tokens[at - 1], Token::Other('.')) {
                        body.members.insert(word.clone());
                    }
                    body.casts |= word == "cast";
                    body.words.insert(word.clone());
                }
                Token::Literal(literal) => {
                    if body.present.is_none() && is_present(literal) {
                        body.present = Some(literal.trim().to_owned());
                    }
                }
                Token::Operator(operator) => {
                    body.operators.insert((*operator).to_owned());
                }
                Token::Other(':') => body.casts |= matches!(next, Some(Token::Other(':'))),
                Token::Other(_) => {}
            }
        }
        body
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        self.words.contains(word)
    }

    pub(crate) fn asks_for_the_time(&self) -> bool {
        TIMES.iter().any(|word| self.has(word))
    }

    pub(crate) fn asks_who_asks(&self) -> bool {
        WHO.iter().any(|word| self.has(word))
    }
}

/// The literal in a query that means the present, if there is one.
pub(crate) fn present(sql: &str) -> Option<String> {
    Body::read(sql).present
}

fn is_present(literal: &str) -> bool {
    let mut words = literal.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.any(|word| PRESENT.iter().any(|present| present.eq_ignore_ascii_case(word)))
        // A sentence is none: what PostgreSQL reads has a word, and perhaps a time of day and a zone.
        && literal.split_whitespace().count() <= 3
}

/// Whether what comes next may be a relation: after FROM and its relatives, with the schema before it.
fn is_before_relation(before: &[Token<'_>]) -> bool {
    let mut before = before.iter().rev();
    let mut last = before.next();
    while let Some(Token::Other('.')) = last {
        before.next();
        last = before.next();
    }
    matches!(last, Some(Token::Word(word)) if matches!(
        &**word, "from" | "join" | "into" | "update" | "only" | "table" | "using"
    ))
}

enum Token<'t> {
    /// A name or a keyword, folded unless it is quoted.
    Word(String),
    /// What is in single quotes.
    Literal(String),
    Operator(&'t str),
    Other(char),
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut found, mut rest) = (vec![], text);
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() {
            rest = &rest[first.len_utf8()..];
        } else if rest.starts_with("--") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = after_comment(rest);
        } else if first == '\'' {
            let escapes = matches!(found.last(), Some(Token::Word(word)) if word == "e");
            let (literal, after) = quoted(&rest[1..], '\'', escapes);
            found.push(Token::Literal(literal));
            rest = after;
        } else if first == '"' {
            let (name, after) = quoted(&rest[1..], '"', false);
            found.push(Token::Word(name));
            rest = after;
        } else if let Some((literal, after)) = dollar_quoted(rest) {
            found.push(Token::Literal(literal.to_owned()));
            rest = after;
        } else if is_of_name(first) && !first.is_ascii_digit() && first != '$' {
            let end = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
            found.push(Token::Word(rest[..end].to_lowercase()));
            rest = &rest[end..];
        } else if is_of_operator(first) {
            let end = rest.find(|c| !is_of_operator(c)).unwrap_or(rest.len());
            found.push(Token::Operator(&rest[..end]));
            rest = &rest[end..];
        } else {
            found.push(Token::Other(first));
            rest = &rest[first.len_utf8()..];
        }
    }
    found
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

fn is_of_operator(c: char) -> bool {
    "+-*/<>=~!@#%^&|`?".contains(c)
}

/// Comments of SQL may be nested.
fn after_comment(text: &str) -> &str {
    let (mut depth, mut rest) = (0, text);
    loop {
        if let Some(after) = rest.strip_prefix("/*") {
            depth += 1;
            rest = after;
        } else if let Some(after) = rest.strip_prefix("*/") {
            depth -= 1;
            rest = after;
            if depth == 0 {
                return rest;
            }
        } else {
            match rest.chars().next() {
                Some(c) => rest = &rest[c.len_utf8()..],
                None => return rest,
            }
        }
    }
}

/// What is in quotes up to the closing one, and what comes after it.
fn quoted(text: &str, quote: char, escapes: bool) -> (String, &str) {
    let (mut inner, mut rest) = (String::new(), text);
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == quote {
            match rest.strip_prefix(quote) {
                Some(after) => rest = after,
                None => break,
            }
        } else if c == '\\' && escapes {
            let Some(escaped) = rest.chars().next() else { break };
            inner.push(escaped);
            rest = &rest[escaped.len_utf8()..];
            continue;
        }
        inner.push(c);
    }
    (inner, rest)
}

fn dollar_quoted(text: &str) -> Option<(&str, &str)> {
    let tag = &text[..=text.strip_prefix('$')?.find('$')? + 1];
    let name = &tag[1..tag.len() - 1];
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.chars().any(|c| !is_of_name(c)) {
        return None;
    }
    let inner = &text[tag.len()..];
    Some(match inner.find(tag) {
        Some(end) => (&inner[..end], &inner[end + tag.len()..]),
        None => (inner, ""),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn words_are_told_from_texts_and_comments() {
        let body = Body::read(
            "BEGIN /* now() /* is not */ called; 'random()' neither */ -- clock_timestamp()
             RETURN 'now()' || $q$ version() $q$ || public.\"Odd\" (max(v)) <~ 1
               FROM Shop.Orders o JOIN lines USING (id) WHERE o.x = E'it\\'s now()' AND b::date > $1; END",
        );
        assert_eq!(body.calls, set(&["Odd", "max", "using"]));
        assert_eq!(body.relations, set(&["shop", "orders", "lines"]));
        assert_eq!(body.members, set(&["Odd", "orders", "x"]));
        assert!(body.operators.contains("<~") && body.casts);
        assert!(!body.has("random") && !body.has("version") && !body.has("clock_timestamp"));
        assert!(!body.asks_for_the_time() && !body.asks_who_asks());
        assert!(Body::read("x < Current_Date").asks_for_the_time());
        assert!(Body::read("who = USER").asks_who_asks());
        assert!(Body::read("execute format('x')").has("execute"));
    }

    #[test]
    fn settings_are_those_that_are_named() {
        let of = |text| Body::read(text).settings;
        assert_eq!(
            of("current_setting('App.x', true)"),
            BTreeSet::from([Some("app.x".to_owned())])
        );
        assert_eq!(of("current_setting(name)"), BTreeSet::from([None]));
        assert_eq!(of("'current_setting(''a'')'"), BTreeSet::new());
    }

    #[test]
    fn a_literal_that_means_the_present_is_found() {
        for (sql, expected) in [
            ("SELECT * FROM t WHERE d = 'today'", Some("today")),
            ("SELECT 'NOW'::timestamptz", Some("NOW")),
            ("SELECT $$ tomorrow 12:00 $$::timestamp", Some("tomorrow 12:00")),
            ("SELECT 'yesterday allballs UTC'", Some("yesterday allballs UTC")),
            ("SELECT 'nowhere', 'now is the time for all good men'", None),
            ("SELECT \"today\" FROM t -- 'now'", None),
            ("SELECT 'it''s', 'x'", None),
        ] {
            assert_eq!(present(sql).as_deref(), expected, "{sql}");
        }
    }

    #[test]
    fn no_text_makes_it_panic() {
        for text in [
            "'",
            "\"",
            "$",
            "$$",
            "$a",
            "$a$",
            "/*",
            "/* /* */",
            "--",
            "E'\\",
            "e'\\'",
            "ä",
            "$ä$x$ä",
            "current_setting(",
            "a.",
            ".",
            "::",
            "from",
            "'\u{0}'",
        ] {
            let _ = Body::read(text);
        }
    }
}
