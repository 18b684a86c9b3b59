//! A connection string taken apart into its settings, and put together again.

/// How it was written.
pub(super) enum Form {
    /// The text of a URL before its `?`.
    Url(String),
    Words,
}

pub(super) type Word = (String, String);

/// The settings of a connection string: those after the `?` of a URL, or all of `name=value …`. `None`
/// if it cannot be taken apart.
pub(super) fn split(given: &str) -> Option<(Form, Vec<Word>)> {
    if ["postgres://", "postgresql://"].iter().any(|scheme| given.starts_with(scheme)) {
        let (base, query) = given.split_once('?').unwrap_or((given, ""));
        let words = query.split('&').filter(|word| !word.is_empty()).map(|word| {
            let (name, value) = word.split_once('=')?;
            Some((decoded(name)?, decoded(value)?))
        });
        return Some((Form::Url(base.to_owned()), words.collect::<Option<_>>()?));
    }
    let mut words = vec![];
    let mut rest = given.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        let (value, after) = value(after.trim_start())?;
        words.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    Some((Form::Words, words))
}

/// A value, in quotes or up to the next blank, and what follows it. A backslash quotes a character.
fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.push(characters.next()?.1),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            blank if !quoted && blank.is_whitespace() => return Some((value, &text[at..])),
            other => value.push(other),
        }
    }
    (!quoted).then_some((value, ""))
}

pub(super) fn join(form: &Form, words: &[Word]) -> String {
    match form {
        Form::Url(base) => {
            // The driver takes a list of hosts after the `?` for one host.
            let each = words.iter().flat_map(|(name, value)| {
                let values =
                    if name == "host" { value.split(',').collect() } else { vec![&**value] };
                values.into_iter().map(move |value| format!("{name}={}", encoded(value)))
            });
            let words: Vec<String> = each.collect();
            let mark = if words.is_empty() { "" } else { "?" };
            format!("{base}{mark}{}", words.join("&"))
        }
        Form::Words => {
            let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
            let words = words.iter().map(|(name, value)| format!("{name}='{}'", quoted(value)));
            words.collect::<Vec<_>>().join(" ")
        }
    }
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = vec![];
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).ok()
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/,:".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
