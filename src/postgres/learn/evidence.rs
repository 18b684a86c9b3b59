//! [`Evidence`]: what is known so far of a query, and what is looked up next; from the trees of relations
//! and domains.

use std::collections::BTreeSet;

use super::Ask;
use crate::error::Error;
use crate::learn::{TextRow, Verdict, oids, session, tree};
use crate::postgres::catalogs::PARTS_OF_TYPE;
use crate::value::relation::RelationName;

/// What is known so far of a query.
pub(super) struct Evidence<'s> {
    pub(super) session: &'s mut dyn Ask,
    pub(super) verdict: Verdict,
    pub(super) next: Next,
    pub(super) is_prepared: bool,
}

/// What is looked up at the next level.
#[derive(Default)]
pub(super) struct Next {
    pub(super) relations: BTreeSet<u32>,
    pub(super) domains: BTreeSet<u32>,
    pub(super) types: BTreeSet<u32>,
    pub(super) functions: BTreeSet<u32>,
    /// The functions that the bodies of functions call, by name.
    pub(super) called: BTreeSet<String>,
    /// What they write like a column of a row.
    pub(super) members: BTreeSet<String>,
    /// The operators that they use, by name, and whether they cast.
    pub(super) operators: BTreeSet<String>,
    pub(super) casts: bool,
    /// All words of bodies.
    pub(super) words: BTreeSet<String>,
    /// Words of bodies that catch errors: what they read may leave no lock.
    pub(super) unseen: BTreeSet<String>,
    /// What IMMUTABLE functions read: the function, and words after FROM and the like.
    pub(super) pretenders: Vec<(String, BTreeSet<String>)>,
}

impl Evidence<'_> {
    pub(super) fn tree(&mut self, text: &str) {
        let named = tree::read(text);
        self.next.functions.extend(&named.functions);
        self.next.relations.extend(&named.relations);
        self.next.domains.extend(&named.domains);
        self.next.types.extend(&named.types);
        self.settings(named.settings);
        if named.who {
            self.verdict.needs(&["role"]);
        }
        self.verdict.hides_casts |= named.hides_casts;
        self.verdict.renames_columns |= named.renames_columns;
        self.verdict.acts |= named.writes || named.locks_rows;
        for (is, why) in [
            (named.writes, "it writes"),
            (named.locks_rows, "it locks rows (FOR UPDATE or the like)"),
            (named.time, "it asks for the time (CURRENT_DATE or the like)"),
            (named.samples, "it takes a random sample (TABLESAMPLE)"),
            (named.text_as_time, "it reads a text as a date or a time, and the text may be 'now'"),
        ] {
            if is {
                self.verdict.because(why);
            }
        }
    }

    pub(super) fn settings(&mut self, settings: BTreeSet<Option<String>>) {
        for setting in settings {
            match setting {
                Some(name) if session::is_name(&name) => {
                    self.verdict.needs(&[name.as_str()]);
                    if !session::is_usual(&name) {
                        self.verdict.settings.insert(name);
                    }
                }
                _ => self.verdict.because("it asks for a setting whose name is computed"),
            }
        }
    }

    pub(super) async fn relations(&mut self, all: &BTreeSet<u32>) -> Result<(), Error> {
        if all.is_empty() {
            return Ok(());
        }
        self.verdict.judged.extend(all);
        // With the trees of the view and of the policies that may apply, and one partition or child of
        // a kind that is not followed.
        let sql = format!(
            "SELECT c.oid::pg_catalog.text, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, \
               c.relkind::pg_catalog.text, c.relpersistence::pg_catalog.text, \
               (c.oid < 16384)::pg_catalog.text, \
               (SELECT pg_catalog.string_agg(r.ev_action::pg_catalog.text, ' ') \
                  FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND c.relkind = 'v'), \
               (SELECT pg_catalog.string_agg(p.polqual::pg_catalog.text, ' ') \
                  FROM pg_catalog.pg_policy p \
                  WHERE p.polrelid = c.oid AND c.relrowsecurity AND p.polcmd IN ('r', '*')), \
               c.reltype::pg_catalog.text, \
               (WITH RECURSIVE below AS ( \
                  SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid \
                  UNION SELECT i.inhrelid FROM below b \
                    JOIN pg_catalog.pg_inherits i ON i.inhparent = b.inhrelid) \
                SELECT pg_catalog.min(o.oid::pg_catalog.regclass::pg_catalog.text) FROM below b \
                  JOIN pg_catalog.pg_class o ON o.oid = b.inhrelid \
                  WHERE o.relkind = 'f' OR o.relpersistence <> 'p') \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.oid = ANY ({})",
            oids(all)
        );
        for row in self.session.ask(&sql, None).await? {
            let text = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
            let Ok(oid) = text(0).parse::<u32>() else { continue };
            let name = RelationName::of(text(1), text(2));
            let shown = name.canonical();
            for at in [6, 7] {
                self.tree(text(at));
                self.verdict.stored.extend(tree::read(text(at)).relations);
            }
            if !text(7).is_empty() {
                self.verdict.needs(&["role"]);
            }
            let why = match (text(3), text(4)) {
                _ if text(5) == "true" => Some("a catalog of PostgreSQL"),
                (_, "t") => Some("a temporary table of one session"),
                ("f", _) => Some("a foreign table, where others write"),
                ("S", _) => Some("a sequence, which advances without a commit"),
                (_, "u") => Some("an unlogged table, whose changes are in no log"),
                _ => None,
            };
            if let Some(why) = why {
                self.verdict.because(format!("it reads {shown}, {why}"));
            }
            self.next.types.extend(text(8).parse::<u32>());
            if !text(9).is_empty() {
                let child = text(9);
                self.verdict.because(format!(
                    "it reads {shown}, whose child {child} is foreign, unlogged or temporary"
                ));
            }
            self.verdict.relations.insert(oid, name);
        }
        Ok(())
    }

    pub(super) async fn domains(&mut self, all: &BTreeSet<u32>) -> Result<(), Error> {
        if all.is_empty() {
            return Ok(());
        }
        // A domain over a domain has the checks of both.
        let sql = format!(
            "WITH RECURSIVE d AS (SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t \
                 WHERE t.oid = ANY ({}) \
               UNION SELECT t.oid, t.typbasetype FROM d \
                 JOIN pg_catalog.pg_type t ON t.oid = d.typbasetype WHERE t.typtype = 'd') \
             SELECT d.oid::pg_catalog.text, (SELECT pg_catalog.string_agg( \
                 c.conbin::pg_catalog.text, ' ') FROM pg_catalog.pg_constraint c \
               WHERE c.contypid = d.oid) FROM d",
            oids(all)
        );
        self.verdict.domains.extend(all);
        for row in self.session.ask(&sql, None).await? {
            if let Some(Some(oid)) = row.first() {
                self.verdict.domains.extend(oid.parse::<u32>());
            }
            self.tree(row.get(1).and_then(Option::as_deref).unwrap_or_default());
        }
        Ok(())
    }

    /// The types of values, with what they are made of.
    pub(super) async fn types(&mut self, all: &BTreeSet<u32>) -> Result<(), Error> {
        if all.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "WITH RECURSIVE t AS (SELECT oid, typelem, typbasetype, typrelid FROM pg_catalog.pg_type \
                 WHERE oid = ANY ({}) \
               UNION SELECT p.oid, p.typelem, p.typbasetype, p.typrelid FROM t \
                 CROSS JOIN LATERAL {PARTS_OF_TYPE} parts \
                 JOIN pg_catalog.pg_type p ON p.oid = parts.part) \
             SELECT t.oid::pg_catalog.text FROM t",
            oids(all)
        );
        for row in self.session.ask(&sql, None).await? {
            let Some(oid) = column(&[row], 0).and_then(|oid| oid.parse::<u32>().ok()) else {
                continue;
            };
            if tree::is_name(oid) {
                self.verdict.because(
                    "a value of it is the name of a relation, a type or a role (regclass or the like), \
                     which may be renamed",
                );
            }
            if oid >= tree::FIRST_OF_USER {
                self.verdict.types.insert(oid);
            }
        }
        Ok(())
    }
}

/// The first value of this column.
pub(super) fn column(rows: &[TextRow], at: usize) -> Option<String> {
    rows.first()?.get(at)?.clone()
}

pub(super) fn is_true(value: Option<&Option<String>>) -> bool {
    value.is_some_and(|value| value.as_deref() == Some("true"))
}
