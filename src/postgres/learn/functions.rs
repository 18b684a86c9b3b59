//! What the functions do that a query calls, those that they call, and the functions of operators and
//! casts.
//!
//! PostgreSQL keeps the tree of a function's body only if it is written in standard SQL
//! (`BEGIN ATOMIC`). A body that is text is read word by word: whatever has a name that stands in it is
//! looked up, in all schemas.

use std::collections::BTreeSet;

use super::evidence::{Evidence, column};
use crate::error::Error;
use crate::learn::settled::{Builtin, builtin};
use crate::learn::text::Body;
use crate::learn::{TextRow, oids, tree};

impl Evidence<'_> {
    pub(super) async fn functions(&mut self, all: &BTreeSet<u32>) -> Result<(), Error> {
        if all.is_empty() {
            return Ok(());
        }
        self.verdict.functions.extend(all);
        let sql = format!(
            "SELECT (p.oid < 16384)::pg_catalog.text, p.proname::pg_catalog.text, \
               p.provolatile::pg_catalog.text, p.proparallel::pg_catalog.text, \
               l.lanname::pg_catalog.text, p.prosrc, p.prosqlbody::pg_catalog.text, \
               (SELECT pg_catalog.concat_ws(' ', a.aggtransfn::pg_catalog.oid, \
                  a.aggfinalfn::pg_catalog.oid, a.aggcombinefn::pg_catalog.oid, \
                  a.aggserialfn::pg_catalog.oid, a.aggdeserialfn::pg_catalog.oid, \
                  a.aggmtransfn::pg_catalog.oid, a.aggminvtransfn::pg_catalog.oid, \
                  a.aggmfinalfn::pg_catalog.oid) \
                FROM pg_catalog.pg_aggregate a WHERE a.aggfnoid = p.oid), \
               (n.nspname LIKE 'pg\\_temp\\_%')::pg_catalog.text, \
               CASE WHEN p.oid >= 16384 THEN p.proargdefaults::pg_catalog.text END \
             FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
             JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
             WHERE p.oid = ANY ({})",
            oids(all)
        );
        for row in self.session.ask(&sql, None).await? {
            let text = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
            let is_own = text(0) != "true";
            let function = Function {
                name: text(1),
                is_immutable: text(2) == "i",
                is_safe: text(3) == "s",
                language: text(4),
                source: text(5),
                tree: text(6),
            };
            // Arguments that are left out; the tree of a call does not show them.
            self.tree(text(9));
            if text(8) == "true" {
                self.verdict.because(format!("it calls {}(), of one session", function.name));
            }
            if is_own && row.get(7).is_some_and(Option::is_some) {
                let parts = text(7).split(' ').filter_map(|oid| oid.parse::<u32>().ok());
                self.next.functions.extend(parts.filter(|&oid| oid != 0));
            } else if is_own {
                self.own(&function);
            } else if !function.is_immutable {
                self.builtin(function.name, None);
            }
        }
        Ok(())
    }

    /// A function of PostgreSQL that is not IMMUTABLE. `by`: the function whose body calls it.
    fn builtin(&mut self, name: &str, by: Option<&str>) {
        match builtin(name) {
            Builtin::Settings(settings) => self.verdict.needs(settings),
            Builtin::Session => self.verdict.needs(&["role", "search_path"]),
            Builtin::NamedSetting => {}
            Builtin::Unsettled => match by {
                Some(by) => self.verdict.because(format!("{by}() calls {name}()")),
                None => self.verdict.because(format!("it calls {name}()")),
            },
        }
    }

    fn own(&mut self, function: &Function<'_>) {
        let Function { name, is_immutable, is_safe, language, source, tree } = *function;
        let is_text = matches!(language, "sql" | "plpgsql") && tree.is_empty();
        if is_immutable {
            // PostgreSQL takes its word, and so do we, unless it reads tables: then its first call
            // decides for all that follow.
            if !tree.is_empty() {
                let named = tree::read(tree);
                if !named.relations.is_empty() {
                    self.verdict.because(pretends(name));
                }
            } else if is_text {
                let body = Body::read(source);
                self.next.pretenders.push((name.to_owned(), body.relations));
            }
            return;
        }
        self.verdict.own_functions = true;
        self.verdict.parallel |= is_safe;
        if !tree.is_empty() {
            return self.tree(tree);
        }
        if !is_text {
            return self.verdict.because(format!(
                "it calls {name}(), a function in {language}, which cannot be looked into"
            ));
        }
        let body = Body::read(source);
        if body.has("execute") {
            self.verdict.because(format!("{name}() runs dynamic SQL (EXECUTE)"));
        }
        if body.asks_for_the_time() {
            self.verdict.because(format!("{name}() asks for the time (CURRENT_DATE or the like)"));
        }
        if let Some(literal) = &body.present {
            self.verdict
                .because(format!("the literal '{literal}' in {name}() may mean the present"));
        }
        if body.has("tablesample") {
            self.verdict.because(format!("{name}() takes a random sample (TABLESAMPLE)"));
        }
        if body.asks_who_asks() {
            self.verdict.needs(&["role"]);
        }
        if body.names_objects() {
            self.verdict.because(format!(
                "{name}() uses the name of a relation, a type or a role (regclass or the like), which may \
                 be renamed"
            ));
        }
        if body.has("exception") {
            self.verdict.catches = true;
            self.next.unseen.extend(body.words.iter().cloned());
        }
        self.settings(body.settings);
        self.next.words.extend(body.words);
        self.verdict.called.extend(body.calls.iter().cloned());
        self.next.called.extend(body.calls.into_iter().map(|call| format!("{name}\n{call}")));
        self.next.members.extend(body.members);
        self.next.operators.extend(body.operators);
        self.next.casts |= body.casts;
    }

    /// The functions of the names that bodies call, of whatever schema.
    pub(super) async fn called(
        &mut self,
        called: &BTreeSet<String>,
        functions: &mut BTreeSet<u32>,
    ) -> Result<(), Error> {
        if called.is_empty() {
            return Ok(());
        }
        let pairs: Vec<(&str, &str)> = called.iter().filter_map(|it| it.split_once('\n')).collect();
        let names: Vec<String> = pairs.iter().map(|(_, name)| (*name).to_owned()).collect();
        let sql = "SELECT p.proname::pg_catalog.text, p.oid::pg_catalog.text, \
               (p.oid < 16384)::pg_catalog.text, (p.provolatile = 'i')::pg_catalog.text \
             FROM pg_catalog.pg_proc p WHERE p.proname = ANY ($1)";
        for row in self.session.ask(sql, Some(&names)).await? {
            let text = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
            let name = text(0);
            match (text(2) == "true", text(3) == "true") {
                (false, _) => functions.extend(text(1).parse::<u32>()),
                (true, true) => {}
                (true, false) => {
                    let mut by = pairs.iter().filter(|(_, called)| *called == name);
                    self.builtin(name, by.next().map(|(by, _)| *by));
                }
            }
        }
        Ok(())
    }

    /// A user's functions of a row, which bodies may call as `row.function`.
    pub(super) async fn members(
        &mut self,
        members: &BTreeSet<String>,
    ) -> Result<BTreeSet<u32>, Error> {
        let sql = "SELECT p.oid::pg_catalog.text FROM pg_catalog.pg_proc p \
             WHERE p.oid >= 16384 AND p.pronargs = 1 AND p.proname = ANY ($1)";
        self.named(sql, members).await
    }

    /// The functions of a user's operators and casts that bodies may use.
    pub(super) async fn used(
        &mut self,
        operators: &BTreeSet<String>,
        casts: bool,
    ) -> Result<BTreeSet<u32>, Error> {
        let of_operators = "SELECT p.oid::pg_catalog.text FROM pg_catalog.pg_operator o \
             JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode \
             WHERE o.oid >= 16384 AND p.provolatile <> 'i' AND o.oprname = ANY ($1)";
        let mut functions = self.named(of_operators, operators).await?;
        if casts {
            let of_casts = "SELECT p.oid::pg_catalog.text FROM pg_catalog.pg_cast c \
                 JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc \
                 WHERE c.oid >= 16384 AND p.provolatile <> 'i'";
            functions.extend(oids_in(&self.session.ask(of_casts, None).await?));
        }
        Ok(functions)
    }

    /// The domains that bodies may cast to.
    pub(super) async fn cast_to(
        &mut self,
        words: &BTreeSet<String>,
    ) -> Result<BTreeSet<u32>, Error> {
        let sql = "SELECT t.oid::pg_catalog.text FROM pg_catalog.pg_type t \
             WHERE t.typname = ANY ($1) AND t.typtype = 'd' AND t.oid >= 16384";
        self.named(sql, words).await
    }

    /// The numbers of what has one of these names, which are `$1`.
    async fn named(&mut self, sql: &str, names: &BTreeSet<String>) -> Result<BTreeSet<u32>, Error> {
        if names.is_empty() {
            return Ok(BTreeSet::new());
        }
        let names: Vec<String> = names.iter().cloned().collect();
        Ok(oids_in(&self.session.ask(sql, Some(&names)).await?).collect())
    }

    /// What a function reads before it catches an error is seen by its scans. These relations are not
    /// scanned.
    pub(super) async fn unseen(&mut self, words: &BTreeSet<String>) -> Result<(), Error> {
        if words.is_empty() {
            return Ok(());
        }
        let words: Vec<String> = words.iter().cloned().collect();
        let sql = "SELECT c.oid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_class c \
             WHERE c.relname = ANY ($1) AND (c.relkind IN ('f', 'S') OR c.oid < 16384 \
               AND c.relnamespace = 'pg_catalog'::pg_catalog.regnamespace) \
               AND c.relkind <> 'i' ORDER BY 1 LIMIT 1";
        let rows = self.session.ask(sql, Some(&words)).await?;
        if let Some(name) = column(&rows, 0) {
            self.verdict.because(format!(
                "one of its functions catches errors, and may read {name} before that, unseen"
            ));
        }
        Ok(())
    }

    /// Functions that are declared IMMUTABLE and read tables all the same.
    pub(super) async fn pretenders(
        &mut self,
        pretenders: Vec<(String, BTreeSet<String>)>,
    ) -> Result<(), Error> {
        for (name, words) in pretenders {
            if words.is_empty() {
                continue;
            }
            let words: Vec<String> = words.into_iter().collect();
            let sql = "SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c \
                 WHERE c.relname = ANY ($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') LIMIT 1";
            if !self.session.ask(sql, Some(&words)).await?.is_empty() {
                self.verdict.because(pretends(&name));
            }
        }
        Ok(())
    }
}

fn oids_in(rows: &[TextRow]) -> impl Iterator<Item = u32> {
    rows.iter().filter_map(|row| row.first()?.as_deref()?.parse().ok())
}

fn pretends(name: &str) -> String {
    format!("it calls {name}(), which is declared IMMUTABLE and reads tables: declare it STABLE")
}

struct Function<'r> {
    name: &'r str,
    is_immutable: bool,
    is_safe: bool,
    language: &'r str,
    source: &'r str,
    tree: &'r str,
}
