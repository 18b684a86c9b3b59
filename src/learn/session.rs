//! [`Session`]: what a result depends on that is no row: the user, the schemas, the settings.
//!
//! The key of a result that learns contains the session of its source: the values that the source's
//! connections have. A load whose connection has others, since somebody left a `SET` on it, is answered
//! and not stored.

use crate::learn::TextRow;
use crate::value::setup::Setup;

/// The first column of the row that describes the session.
pub(crate) const MARK: &str = "session";

const DATABASE: &str = "database";
const TEMPORARY: &str = "temporary objects";

/// Who asks and where; not settings, but they decide as settings do.
const IDENTITIES: &[(&str, &str)] = &[
    ("role", "current_user::pg_catalog.text"),
    ("session_authorization", "session_user::pg_catalog.text"),
    (DATABASE, "pg_catalog.current_database()::pg_catalog.text"),
    (TEMPORARY, "(pg_catalog.pg_my_temp_schema() <> 0)::pg_catalog.text"),
];

/// The settings that decide what a query means, which rows it finds, or what its values look like.
const SETTINGS: &[&str] = &[
    "search_path",
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "timezone_abbreviations",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "extra_float_digits",
    "bytea_output",
    "xmlbinary",
    "xmloption",
    "default_text_search_config",
    "row_security",
    "session_replication_role",
    "standard_conforming_strings",
    "backslash_quote",
    "transform_null_equals",
    "array_nulls",
    "quote_all_identifiers",
    "gin_fuzzy_search_limit",
];

/// The values that decide, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    values: Vec<(String, Option<String>)>,
}

/// The question for the session with these further settings. Its rows are `(MARK, a JSON list of texts)`.
pub(crate) fn question<'n>(further: impl IntoIterator<Item = &'n str>) -> String {
    let usual = SETTINGS.iter().copied().chain(further);
    let settings = usual.map(|name| {
        // Checked by `is_name`, so it needs no more than quotes.
        format!("pg_catalog.current_setting('{name}', true)")
    });
    let identities = IDENTITIES.iter().map(|(_, sql)| (*sql).to_owned());
    let all: Vec<String> = identities.chain(settings).collect();
    format!(
        "SELECT '{MARK}', NULL, NULL, NULL, \
         pg_catalog.array_to_json(ARRAY[{}]::pg_catalog.text[])::pg_catalog.text, NULL",
        all.join(", ")
    )
}

/// Whether a setting may have this name, as it is written into the question.
pub(crate) fn is_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_.$".contains(c);
    !name.is_empty() && name.len() < 128 && name.chars().all(is_part)
}

/// Whether each session is asked for this setting anyway.
pub(crate) fn is_usual(name: &str) -> bool {
    SETTINGS.iter().any(|usual| usual.eq_ignore_ascii_case(name))
}

impl Session {
    /// Reads the reply to the question with these further settings.
    pub(crate) fn read<'n>(
        rows: &[TextRow],
        further: impl IntoIterator<Item = &'n str>,
    ) -> Option<Session> {
        let row =
            rows.iter().find(|row| row.first().is_some_and(|it| it.as_deref() == Some(MARK)))?;
        let values: Vec<Option<String>> = serde_json::from_str(row.get(4)?.as_deref()?).ok()?;
        let identities = IDENTITIES.iter().map(|(name, _)| *name);
        let names: Vec<&str> = identities.chain(SETTINGS.iter().copied()).chain(further).collect();
        if names.len() != values.len() {
            return None;
        }
        let values = names.into_iter().map(str::to_owned).zip(values).collect();
        Some(Session { values })
    }

    /// The first value in which a load's session differs from that of its source, apart from what was
    /// set for the load.
    pub(crate) fn differs<'s>(
        &'s self,
        other: &Session,
        setup: Option<&Setup<'_>>,
    ) -> Option<&'s str> {
        let is_set = |name: &str| {
            setup.is_some_and(|setup| {
                name == "role" && setup.role().is_some()
                    || setup.settings().iter().any(|(set, _)| set.eq_ignore_ascii_case(name))
            })
        };
        if self.values.len() != other.values.len() {
            return Some("settings");
        }
        let mut pairs = self.values.iter().zip(&other.values);
        let differs = pairs.find(|(own, other)| own != other && !is_set(&own.0));
        differs.map(|((name, _), _)| name.as_str())
    }

    /// This session, with the further settings of another reply.
    pub(crate) fn with_rest_of(mut self, all: Session) -> Session {
        self.values.extend(all.values.into_iter().skip(IDENTITIES.len() + SETTINGS.len()));
        self
    }

    /// The database that it is connected to.
    pub(crate) fn database(&self) -> Option<&str> {
        let value = self.values.iter().find(|(name, _)| name == DATABASE);
        value.and_then(|(_, value)| value.as_deref())
    }

    /// Whether temporary tables may hide others. Then only locks tell which one was read.
    pub(crate) fn has_temporary_objects(&self) -> bool {
        let value = self.values.iter().find(|(name, _)| name == TEMPORARY);
        value.is_none_or(|(_, value)| value.as_deref() != Some("false"))
    }

    /// A hash of all names and values.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut text = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        for (name, value) in &self.values {
            text(name);
            match value {
                None => text(""),
                Some(value) => {
                    text("=");
                    text(value);
                }
            }
        }
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn session(change: impl Fn(&str) -> Option<String>) -> Session {
        let identities = IDENTITIES.iter().map(|(name, _)| *name);
        let names = identities.chain(SETTINGS.iter().copied()).chain(["app.x"]);
        let values: Vec<Option<String>> = names.map(change).collect();
        let json = serde_json::to_string(&values).unwrap();
        let row = vec![Some(MARK.to_owned()), None, None, None, Some(json), None];
        Session::read(&[vec![Some("lock".to_owned())], row], ["app.x"]).unwrap()
    }

    #[test]
    fn a_session_differs_in_what_was_not_set_for_the_load() {
        let usual = session(|name| Some(name.to_owned()));
        for changed in ["role", "TimeZone", "app.x", "search_path"] {
            let other = session(|name| (name != changed).then(|| name.to_owned()));
            assert_eq!(other.differs(&usual, None), Some(changed));
            assert_ne!(other.digest(), usual.digest());
            let mut setup = Setup::default();
            if changed == "role" {
                setup.set_role(Cow::Borrowed("other"));
            } else {
                setup.set(Cow::Owned(changed.to_uppercase()), Cow::Borrowed("x"));
            }
            assert_eq!(other.differs(&usual, Some(&setup)), None, "{changed}");
        }
        assert_eq!(usual.differs(&usual.clone(), None), None);
        assert_eq!(usual.digest(), usual.clone().digest());
    }

    #[test]
    fn an_unset_setting_is_not_an_empty_one_and_a_short_reply_is_none() {
        let unset = session(|name| (name != "app.x").then(String::new));
        let empty = session(|_| Some(String::new()));
        assert_ne!(unset.digest(), empty.digest());
        let row = vec![Some(MARK.to_owned()), None, None, None, Some("[\"a\"]".to_owned()), None];
        assert_eq!(Session::read(&[row], []), None);
        assert_eq!(Session::read(&[], []), None);
    }

    #[test]
    fn a_name_that_could_end_its_quotes_is_none() {
        for (name, right) in [("app.tenant", true), ("a'b", false), ("", false), ("a\\b", false)] {
            assert_eq!(is_name(name), right, "{name}");
        }
        assert!(is_usual("timezone") && !is_usual("app.tenant"));
    }
}
