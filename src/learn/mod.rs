//! What a query reads, and whether its result can change by itself: learned from PostgreSQL.
//!
//! Two sources are put together. A *verdict* is made once for a query: PostgreSQL parses it, and its
//! tree, those of views, policies and domains, and the bodies of functions say what it calls
//! ([`tree`], [`text`], [`settled`]). And the locks of a load say which relations it has read
//! ([`locks`]). What talks to PostgreSQL for both is in `postgres/learn`.
//!
//! | class | what is known | each load asks for |
//! | --- | --- | --- |
//! | static | calls no function of a user: the same relations for all parameters | nothing new |
//! | dynamic | calls functions that may read anything | its locks |
//! | unfollowed | may change by itself, or by what nobody is told of | nothing; it is not stored |
//!
//! [`learned`] puts them together for a query, and judges each load; [`definitions`] is the version of what
//! a verdict was made of; [`known`] keeps that for each source of rows. [`session`] is what a result depends on that is no row: the user, the schemas, the settings.

pub(crate) mod definitions;
pub(crate) mod keys;
pub(crate) mod known;
pub(crate) mod learned;
pub(crate) mod locks;
pub(crate) mod plan;
pub(crate) mod read_set;
pub(crate) mod session;
pub(crate) mod settled;
pub(crate) mod text;
pub(crate) mod tree;

use std::collections::{BTreeMap, BTreeSet};

use self::keys::Keyed;
use crate::value::relation::RelationName;

/// How the results of a query that [learns](crate::Query::auto) are kept current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueryClass {
    /// It calls no function of a user. It reads the same relations whatever its parameters are, so they
    /// are learned once, and later loads cost nothing more.
    Static,
    /// It calls functions of a user, which may read anything. Each load learns what it has read.
    Dynamic,
    /// Its result may change by itself, or by something that the cache is not told of. It is not
    /// stored, unless the query has a `ttl` of its own.
    Unfollowed,
}

/// What is known of a query before it is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Why its result cannot be followed. Empty if it can.
    pub(crate) reasons: BTreeSet<String>,
    /// It writes or locks rows, so it must be run each time.
    pub(crate) acts: bool,
    /// PostgreSQL refused it, or a right is missing. A later read tries again.
    pub(crate) is_refused: bool,
    /// What PostgreSQL said when it refused it. It may quote the query, so it is told to its author only.
    pub(crate) refusal: Option<String>,
    /// It calls functions of a user.
    pub(crate) own_functions: bool,
    /// One of them catches errors. What is read before an error is caught leaves no lock.
    pub(crate) catches: bool,
    /// One of them may run in a parallel worker, whose locks are not the session's.
    pub(crate) parallel: bool,
    /// The settings of the session that the result depends on, and `role`.
    pub(crate) needs: BTreeSet<String>,
    /// Those of them that every session must be asked for besides the usual ones.
    pub(crate) settings: BTreeSet<String>,
    /// What the query, its views and policies name.
    pub(crate) relations: BTreeMap<u32, RelationName>,
    /// Those of them of which it reads only rows that have one of these values in a column.
    pub(crate) keys: BTreeMap<RelationName, BTreeSet<Keyed>>,
    /// Its plan may hide a cast within another one.
    pub(crate) hides_casts: bool,
    /// The relations that its views and policies name. Their trees keep the names that columns had, and a
    /// plan shows these for partitions and children.
    pub(crate) stored: BTreeSet<u32>,
    /// Its plan shows other names of columns than their tables have.
    pub(crate) renames_columns: bool,
    /// All relations that were judged.
    pub(crate) judged: BTreeSet<u32>,
    /// The functions and domains that were judged.
    pub(crate) functions: BTreeSet<u32>,
    pub(crate) domains: BTreeSet<u32>,
    /// The types of a user that are part of what was judged.
    pub(crate) types: BTreeSet<u32>,
    /// The names that bodies call, and the schemas in which names without one are looked for: what is
    /// defined in them later may be meant instead.
    pub(crate) called: BTreeSet<String>,
    pub(crate) schemas: BTreeSet<String>,
    /// The types of the parameters, as SQL writes them.
    pub(crate) parameters: Vec<String>,
    /// Changes when one of the definitions changes that were judged.
    pub(crate) version: String,
}

/// Why a query is not followed that PostgreSQL has refused.
pub(crate) const REFUSED: &str = "PostgreSQL does not parse it as one query";

impl Verdict {
    pub(crate) fn class(&self) -> QueryClass {
        if !self.reasons.is_empty() {
            QueryClass::Unfollowed
        } else if self.own_functions {
            QueryClass::Dynamic
        } else {
            QueryClass::Static
        }
    }

    pub(crate) fn because(&mut self, reason: impl Into<String>) {
        self.reasons.insert(reason.into());
    }

    pub(crate) fn needs(&mut self, settings: &[&str]) {
        self.needs.extend(settings.iter().map(|setting| (*setting).to_owned()));
    }
}

/// A row of a reply: texts, however the driver got them.
pub(crate) type TextRow = Vec<Option<String>>;

/// The list of these texts in SQL, whatever the session makes of backslashes.
pub(crate) fn texts<'t>(texts: impl IntoIterator<Item = &'t String>) -> String {
    let quoted = |text: &String| format!("E'{}'", text.replace('\\', r"\\").replace('\'', "''"));
    let texts: Vec<String> = texts.into_iter().map(quoted).collect();
    format!("ARRAY[{}]::pg_catalog.text[]", texts.join(", "))
}

/// The list of these OIDs in SQL.
pub(crate) fn oids<'o>(oids: impl IntoIterator<Item = &'o u32>) -> String {
    let oids: Vec<String> = oids.into_iter().map(u32::to_string).collect();
    format!("'{{{}}}'::pg_catalog.oid[]", oids.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_end_its_quotes_does_not() {
        let names = BTreeSet::from([r"a'b\'c".to_owned(), r"\".to_owned()]);
        assert_eq!(texts(&names), r"ARRAY[E'\\', E'a''b\\''c']::pg_catalog.text[]");
    }
}
