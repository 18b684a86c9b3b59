//! [`RelationName`]: the name of a relation as PostgreSQL reads it, and the tags that mean the
//! relation: a table, a view, or a partition of one.
//!
//! One relation can be written in many ways: `daily`, `public.daily`, `DAILY`, `"daily"`. They are
//! one dependency. A query has the tags of the name that its author wrote, and a refresh or a write
//! makes stale what is tagged with any spelling of the relation that it has changed.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::value::tag::Tag;

/// A name that was split, folded and truncated as PostgreSQL does it, without asking PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RelationName {
    schema: Option<String>,
    relation: String,
}

/// `NAMEDATALEN - 1`: PostgreSQL truncates longer names.
const LONGEST: usize = 63;

/// The schema where names without one mostly are. A query's own `search_path` decides, so both
/// spellings are tags of a query that names either.
const DEFAULT_SCHEMA: &str = "public";

impl RelationName {
    /// A relation that PostgreSQL has.
    pub(crate) fn of(schema: &str, relation: &str) -> RelationName {
        RelationName { schema: Some(schema.to_owned()), relation: relation.to_owned() }
    }

    /// Reads a name as `to_regclass` does; `None` if it is none. See `SplitIdentifierString` in
    /// PostgreSQL's `varlena.c`. The name of the database, before that of the schema, is dropped.
    pub(crate) fn parse(text: &str) -> Option<RelationName> {
        let mut parts = vec![];
        let mut rest = text.trim_start_matches(is_space);
        loop {
            let (part, after) = match rest.strip_prefix('"') {
                Some(quoted) => quoted_part(quoted)?,
                None => {
                    let end = rest.find(|c| c == '.' || is_space(c)).unwrap_or(rest.len());
                    (rest[..end].to_ascii_lowercase(), &rest[end..])
                }
            };
            if part.is_empty() || part.contains('\0') {
                return None;
            }
            parts.push(truncated(part));
            let after = after.trim_start_matches(is_space);
            match after.strip_prefix('.') {
                Some(next) => rest = next.trim_start_matches(is_space),
                None if after.is_empty() => break,
                None => return None,
            }
        }
        if parts.len() > 3 {
            return None;
        }
        let relation = parts.pop()?;
        Some(RelationName { schema: parts.pop(), relation })
    }

    /// The one spelling that stands for all: in lower case and without quotes, where that means the
    /// same.
    pub(crate) fn canonical(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", as_needed(schema), as_needed(&self.relation)),
            None => as_needed(&self.relation).into_owned(),
        }
    }

    /// The canonical spelling without the schema.
    pub(crate) fn unqualified(&self) -> String {
        as_needed(&self.relation).into_owned()
    }

    pub(crate) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The name without the schema, as PostgreSQL has it.
    pub(crate) fn relation(&self) -> &str {
        &self.relation
    }

    pub(crate) fn is_qualified(&self) -> bool {
        self.schema.is_some()
    }

    /// The spellings that programs may have used as tags: with the schema and without, in quotes,
    /// in upper case, and with the bare names. Without the schema it may be another relation, by
    /// another program's `search_path`; that costs loads.
    pub(crate) fn spellings(&self) -> BTreeSet<String> {
        let forms = |name: &str| {
            let mut forms = vec![as_needed(name).into_owned(), quoted(name), name.to_owned()];
            if !needs_quotes(name) {
                forms.push(name.to_ascii_uppercase());
            }
            forms
        };
        let relation = forms(&self.relation);
        let schema = forms(self.schema.as_deref().unwrap_or(DEFAULT_SCHEMA));
        let mut all: BTreeSet<String> = relation.iter().cloned().collect();
        // Both parts in the same way, or one of them in quotes.
        for (schema, relation) in schema.iter().zip(&relation) {
            all.insert(format!("{schema}.{relation}"));
        }
        all.insert(format!("{}.{}", schema[0], relation[1]));
        all.insert(format!("{}.{}", schema[1], relation[0]));
        all
    }
}

/// The canonical spelling of a name; a name that cannot be read is its own.
pub(crate) fn canonical(given: &str) -> String {
    RelationName::parse(given).map_or_else(|| given.to_owned(), |name| name.canonical())
}

/// The tags of a query that reads the view of this name.
pub(crate) fn tags_of_query(given: &str) -> BTreeSet<String> {
    // As it was given, for processes that run an earlier version.
    let mut tags = BTreeSet::from([given.to_owned()]);
    if let Some(name) = RelationName::parse(given) {
        tags.insert(name.canonical());
        match &name.schema {
            Some(schema) if schema == DEFAULT_SCHEMA => tags.insert(name.unqualified()),
            Some(_) => false,
            None => tags.insert(format!("{DEFAULT_SCHEMA}.{}", name.unqualified())),
        };
    }
    tags
}

impl RelationName {
    /// The tags that a change of the relation makes stale, whatever rows it is of.
    pub(crate) fn tags(&self) -> impl Iterator<Item = Tag> {
        // Without a schema, the relation of any schema may be meant.
        let any = (!self.is_qualified()).then(|| self.in_any_schema());
        let names = self.spellings().into_iter().chain(any).map(Tag::from);
        names.chain(self.tags_of_any_rows())
    }

    /// The tags that a change of some rows makes stale, but for those of [keys](Self::tag_of_key).
    pub(crate) fn tags_of_some_rows(&self) -> impl Iterator<Item = Tag> {
        self.spellings().into_iter().map(Tag::from)
    }

    /// The tag of a result that has read only rows with this value in a column.
    pub(crate) fn tag_of_key(&self, column: &str, value: &str) -> Tag {
        format!("{}[{}={value}]", self.canonical(), as_needed(column)).into()
    }

    /// What else such a result depends on: a change of which it is not known which rows it is of.
    pub(crate) fn tags_of_read_by_key(&self) -> impl Iterator<Item = Tag> {
        let any = self.schema.as_deref() != Some(DEFAULT_SCHEMA);
        let any = any.then(|| any_rows(&self.in_any_schema()));
        [any_rows(&self.canonical())].into_iter().chain(any)
    }

    /// The tags that make stale what was read by keys, and nothing else.
    pub(crate) fn tags_of_any_rows(&self) -> impl Iterator<Item = Tag> {
        let usual = || format!("{DEFAULT_SCHEMA}.{}", self.unqualified());
        let named = if self.is_qualified() { self.canonical() } else { usual() };
        let any = (!self.is_qualified()).then(|| any_rows(&self.in_any_schema()));
        [any_rows(&named)].into_iter().chain(any)
    }

    /// The tags of a result that was found to have read the relation. The name is one that PostgreSQL
    /// gave, with its schema.
    ///
    /// A write names the relation with its schema as well. A person may not: of the usual schema the
    /// name alone is a tag, and of the other schemas one that only such a person makes stale, so that
    /// tables of the same name in other schemas, such as those of other tenants, do not.
    pub(crate) fn tags_of_read(&self) -> [Tag; 2] {
        let name = match self.schema.as_deref() {
            Some(DEFAULT_SCHEMA) => self.unqualified(),
            _ => self.in_any_schema(),
        };
        [self.canonical().into(), name.into()]
    }

    /// What no name is.
    fn in_any_schema(&self) -> String {
        format!("*.{}", self.unqualified())
    }
}

/// The tags that a refresh of a view makes stale, under whatever name it was given.
pub(crate) fn tags_of_refresh(given: &str, relation: &RelationName) -> BTreeSet<Tag> {
    let given = [given.to_owned(), canonical(given)];
    relation.tags().chain(given.map(Tag::from)).collect()
}

/// The tags of results that have read some rows of a table, if a person makes a tag stale that is one of
/// its names.
pub(crate) fn tags_of_rows_of(tag: &Tag) -> impl Iterator<Item = Tag> {
    RelationName::parse(tag.as_str())
        .into_iter()
        .flat_map(|name| name.tags_of_any_rows().collect::<Vec<_>>())
}

/// A name and what no column is called.
fn any_rows(name: &str) -> Tag {
    format!("{name}[*]").into()
}

/// The name of the relation in a name as it was given; `None` if that cannot be read.
pub(crate) fn relation(given: &str) -> Option<String> {
    RelationName::parse(given).map(|name| name.relation)
}

/// A name in a message: as SQL writes it, on one line.
pub(crate) fn shown(name: &str) -> Cow<'_, str> {
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        return Cow::Owned(format!("{name:?}"));
    }
    Cow::Borrowed(name)
}

/// `scanner_isspace`
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// What is in double quotes up to the closing one, and what comes after it.
fn quoted_part(text: &str) -> Option<(String, &str)> {
    let (mut part, mut rest) = (String::new(), text);
    loop {
        let end = rest.find('"')?;
        part.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                part.push('"');
                rest = after;
            }
            None => return Some((part, rest)),
        }
    }
}

/// The name without what PostgreSQL drops from its end: whole characters, of an encoding in UTF-8.
fn truncated(mut name: String) -> String {
    if name.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
        name.truncate(end);
    }
    name
}

/// Whether the name means another relation, or none, if it is written without quotes.
fn needs_quotes(name: &str) -> bool {
    let begins = |c: char| c.is_ascii_lowercase() || c == '_' || !c.is_ascii();
    let goes_on = |c: char| begins(c) || c.is_ascii_digit() || c == '$';
    !name.starts_with(begins) || !name.chars().all(goes_on)
}

fn as_needed(name: &str) -> Cow<'_, str> {
    if needs_quotes(name) { Cow::Owned(quoted(name)) } else { Cow::Borrowed(name) }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "a_name_of_more_than_sixty_three_bytes_which_postgresql_makes_shorter";

    #[test]
    fn names_are_read_as_postgresql_reads_them() {
        let canonical = |text| RelationName::parse(text).map(|name| name.canonical());
        for (text, expected) in [
            ("daily", "daily"),
            ("DAILY", "daily"),
            ("\"daily\"", "daily"),
            ("\"Daily\"", "\"Daily\""),
            (" Public . \"daily\"\n", "public.daily"),
            ("shop.public.daily", "public.daily"),
            ("\"a.b\".c", "\"a.b\".c"),
            ("\"Invoice\"\"Totals\"", "\"Invoice\"\"Totals\""),
            ("GRÖSSE", "grÖsse"),
            ("größe", "größe"),
            ("\"7\"", "\"7\""),
            (LONG, &LONG[..63]),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
        let long = format!("{}ö", &LONG[..62]);
        assert_eq!(canonical(&long).as_deref(), Some(&LONG[..62]));
        for text in ["", " ", ".", "a.", ".a", "\"a", "a b", "a.b.c.d", "\"\"", "a\"\0\"", "\"a\"b"]
        {
            assert_eq!(canonical(text), None, "{text}");
        }
    }

    const SPELLINGS: &[&str] = &[
        "daily",
        "DAILY",
        "\"daily\"",
        "public.daily",
        "PUBLIC.DAILY",
        "public.\"daily\"",
        "\"public\".daily",
        "\"public\".\"daily\"",
    ];

    #[test]
    fn a_refresh_meets_every_spelling() {
        let relation = RelationName::of("public", "daily");
        for given in SPELLINGS {
            let stale = tags_of_refresh(given, &relation);
            for spelling in SPELLINGS {
                assert!(stale.contains(&Tag::from(*spelling)), "{given}, {spelling}");
                let tags = tags_of_query(spelling);
                assert!(tags.iter().any(|tag| stale.contains(&Tag::from(tag.as_str()))));
                assert!(tags.contains(&canonical(given)), "{given}, {spelling}");
            }
        }
        let other = tags_of_refresh("a.daily", &RelationName::of("a", "daily"));
        let tags = tags_of_query("b.daily");
        assert!(!tags.iter().any(|tag| other.contains(&Tag::from(tag.as_str()))), "{tags:?}");
    }

    #[test]
    fn what_was_found_to_be_read_is_met_by_writes_and_by_every_spelling_of_a_person() {
        let meets = |stale: &str, read: &RelationName| {
            let stale: Vec<Tag> = RelationName::parse(stale).unwrap().tags().collect();
            read.tags_of_read().iter().any(|tag| stale.contains(tag))
        };
        let usual = RelationName::of("public", "daily");
        assert!(SPELLINGS.iter().all(|spelling| meets(spelling, &usual)));
        assert!(!meets("other", &usual) && !meets("public.other", &usual));
        let tenant = RelationName::of("tenant_7", "Daily");
        for stale in ["tenant_7.\"Daily\"", "\"tenant_7\".\"Daily\"", "\"Daily\""] {
            assert!(meets(stale, &tenant), "{stale}");
        }
        for stale in ["tenant_8.\"Daily\"", "public.\"Daily\"", "daily"] {
            assert!(!meets(stale, &tenant), "{stale}");
        }
    }

    #[test]
    fn what_was_read_by_a_key_is_met_unless_it_is_known_that_other_rows_have_changed() {
        let stale = |name: &str| RelationName::parse(name).unwrap().tags().collect::<Vec<_>>();
        let meets = |stale: &[Tag], read: &RelationName| {
            read.tags_of_read_by_key().any(|tag| stale.contains(&tag))
        };
        let usual = RelationName::of("public", "daily");
        assert!(SPELLINGS.iter().all(|spelling| meets(&stale(spelling), &usual)));
        assert!(
            SPELLINGS
                .iter()
                .all(|it| { meets(&tags_of_rows_of(&Tag::from(*it)).collect::<Vec<_>>(), &usual) })
        );
        assert!(meets(&Vec::from_iter(tags_of_refresh("d", &usual)), &usual));
        let tenant = RelationName::of("tenant_7", "Daily");
        assert!(
            meets(&stale("tenant_7.\"Daily\""), &tenant) && meets(&stale("\"Daily\""), &tenant)
        );
        assert!(!meets(&stale("tenant_8.\"Daily\""), &tenant));
        let some: Vec<Tag> = usual.tags_of_some_rows().collect();
        assert!(!meets(&some, &usual) && usual.tags_of_read().iter().all(|tag| some.contains(tag)));
        assert_eq!(usual.tag_of_key("Id", "7"), Tag::from("public.daily[\"Id\"=7]"));
    }

    #[test]
    fn a_name_is_shown_as_sql_writes_it() {
        assert_eq!(shown("\"Invoice\"\"Totals\""), "\"Invoice\"\"Totals\"");
        assert_eq!(shown("a\nb"), "\"a\\nb\"");
        assert_eq!(shown(""), "\"\"");
    }
}
