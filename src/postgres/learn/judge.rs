//! [`judge`]: may the result of a query change with nothing written that the cache is told of?
//!
//! PostgreSQL itself parses the query, as the body of a function in `pg_temp` that is rolled back. The
//! extended protocol takes one statement, so a text with several of them is refused and nothing in it
//! is run. From the tree of the query on, everything that it names is looked up, level by level: views
//! and policies have trees, functions have trees or texts.

use std::collections::BTreeSet;

use super::Ask;
use super::questions::definitions;
use crate::error::Error;
use crate::learn::settled::{Builtin, builtin};
use crate::learn::text::Body;
use crate::learn::{REFUSED, TextRow, Verdict, oids, session, text, tree};
use crate::value::relation::RelationName;

/// Of the function whose body the query is.
const PROBE: &str = "larder_probe";

/// How many levels are looked up. Views cannot be nested more deeply by hand.
const DEEPEST: usize = 200;

/// Judges a query, in a transaction. `further`: relations that one of its loads has read.
pub(super) async fn judge(
    session: &mut dyn Ask,
    sql: &str,
    further: &[u32],
) -> Result<Verdict, Error> {
    let (verdict, next) = (Verdict::default(), Next::default());
    let mut judge = Judge { session, verdict, next, is_prepared: false };
    let catches_are_seen = judge.rights().await?;
    if let Some(tree) = judge.parse(sql).await? {
        if tree::read(&tree).queries > 1 {
            judge.verdict.because("it is several queries");
        }
        judge.tree(&tree);
    }
    if let Some(literal) = text::present(sql) {
        judge.verdict.because(format!("the literal '{literal}' may mean the present"));
    }
    judge.walk().await?;
    // What some loads have read is judged, and is not named by the query: each load tells what it reads.
    let named = judge.verdict.relations.clone();
    judge.next.relations.extend(further);
    judge.walk().await?;
    judge.verdict.relations = named;
    let Judge { session, mut verdict, .. } = judge;
    if verdict.catches && !catches_are_seen {
        verdict.because(
            "one of its functions catches errors; what it reads before that is seen only with \
             track_counts = on",
        );
    }
    let version = definitions(&verdict.judged, &verdict.functions, &verdict.domains);
    let rows = session.ask(&version, None).await?;
    verdict.version = column(&rows, 4).unwrap_or_default();
    Ok(verdict)
}

struct Judge<'s> {
    session: &'s mut dyn Ask,
    verdict: Verdict,
    next: Next,
    is_prepared: bool,
}

/// What is looked up at the next level.
#[derive(Default)]
struct Next {
    relations: BTreeSet<u32>,
    domains: BTreeSet<u32>,
    functions: BTreeSet<u32>,
    /// The functions that the bodies of functions call, by name.
    called: BTreeSet<String>,
    /// What they write like a column of a row.
    members: BTreeSet<String>,
    /// The operators that they use, by name, and whether they cast.
    operators: BTreeSet<String>,
    casts: bool,
    /// Words of bodies that catch errors: what they read may leave no lock.
    unseen: BTreeSet<String>,
    /// What IMMUTABLE functions read: the function, and words after FROM and the like.
    pretenders: Vec<(String, BTreeSet<String>)>,
}

/// The first value of this column.
fn column(rows: &[TextRow], at: usize) -> Option<String> {
    rows.first()?.get(at)?.clone()
}

fn is_true(value: Option<&Option<String>>) -> bool {
    value.is_some_and(|value| value.as_deref() == Some("true"))
}

impl Judge<'_> {
    /// What the session may do. Returns whether reads before a caught error can be seen.
    async fn rights(&mut self) -> Result<bool, Error> {
        let rows = self.session.ask(
            "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_lock_status()', 'EXECUTE')::pg_catalog.text, \
               pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY')::pg_catalog.text, \
               pg_catalog.pg_is_in_recovery()::pg_catalog.text, \
               pg_catalog.quote_ident(current_user), pg_catalog.quote_ident(pg_catalog.current_database()), \
               (pg_catalog.current_setting('track_counts') = 'on')::pg_catalog.text",
            None,
        );
        let rows = rows.await?;
        let row = rows.first();
        let is = |at: usize| is_true(row.and_then(|row| row.get(at)));
        let name =
            |at: usize| row.and_then(|row| row.get(at)).cloned().flatten().unwrap_or_default();
        let (role, database) = (name(3), name(4));
        if !is(0) {
            self.verdict.because(format!(
                "the role {role} may not see its locks: GRANT EXECUTE ON FUNCTION \
                 pg_catalog.pg_lock_status() TO {role}"
            ));
        }
        if is(2) {
            self.verdict.because("the server is in recovery, as a replica is");
        } else if !is(1) {
            self.verdict.because(format!(
                "the role {role} may not let PostgreSQL parse it: GRANT TEMPORARY ON DATABASE \
                 {database} TO {role}"
            ));
        }
        Ok(is(5))
    }

    /// The tree of the query, unless PostgreSQL refuses it.
    async fn parse(&mut self, sql: &str) -> Result<Option<String>, Error> {
        if !self.verdict.reasons.is_empty() {
            self.verdict.is_refused = true;
            return Ok(None);
        }
        self.session.ask("SAVEPOINT larder_probe", None).await?;
        let tree = self.parsed(sql).await;
        let is_refusal = |error: &Error| error.sqlstate().is_some();
        if let Err(error) = &tree
            && !is_refusal(error)
        {
            // The connection is lost.
            return tree.map(Some);
        }
        self.session.ask("ROLLBACK TO SAVEPOINT larder_probe", None).await?;
        if self.is_prepared {
            // A rollback does not undo it.
            self.session.ask(FORGET, None).await?;
        }
        match tree {
            Ok(tree) => Ok(Some(tree)),
            Err(error) => {
                self.verdict.because(REFUSED);
                self.verdict.refusal = Some(error.to_string());
                // Perhaps a table is missing, and there soon.
                self.verdict.is_refused = true;
                Ok(None)
            }
        }
    }

    async fn parsed(&mut self, sql: &str) -> Result<String, Error> {
        self.session.ask(&format!("PREPARE {PROBE} AS {sql}\n"), None).await?;
        self.is_prepared = true;
        let types = "SELECT t.type::pg_catalog.text FROM pg_catalog.pg_prepared_statements s \
             CROSS JOIN LATERAL unnest(s.parameter_types) WITH ORDINALITY t (type, at) \
             WHERE s.name = 'larder_probe' ORDER BY t.at";
        let types = self.session.ask(types, None).await?;
        let types = types.into_iter().filter_map(|row| row.into_iter().next().flatten());
        self.verdict.parameters = types.collect();
        let create = format!(
            "CREATE FUNCTION pg_temp.{PROBE}({}) RETURNS SETOF record BEGIN ATOMIC {sql}\n; END",
            self.verdict.parameters.join(", ")
        );
        match self.session.ask(&create, None).await {
            Ok(_) => {}
            // A query that writes and returns nothing is no body of a function that returns rows. That
            // it is a query at all was found above.
            Err(error) if error.sqlstate().is_some_and(|code| code.code() == "42P13") => {
                self.verdict.because("it writes and returns no rows");
                self.verdict.acts = true;
                return Ok(String::new());
            }
            Err(error) => return Err(error),
        }
        let tree = "SELECT p.prosqlbody::pg_catalog.text FROM pg_catalog.pg_proc p \
             WHERE p.proname = 'larder_probe' AND p.pronamespace = pg_catalog.pg_my_temp_schema()";
        let rows = self.session.ask(tree, None).await?;
        Ok(column(&rows, 0).unwrap_or_default())
    }

    fn tree(&mut self, text: &str) {
        let named = tree::read(text);
        self.next.functions.extend(&named.functions);
        self.next.relations.extend(&named.relations);
        self.next.domains.extend(&named.domains);
        self.settings(named.settings);
        if named.who {
            self.verdict.needs(&["role"]);
        }
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

    fn settings(&mut self, settings: BTreeSet<Option<String>>) {
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

    async fn walk(&mut self) -> Result<(), Error> {
        for _ in 0..DEEPEST {
            let next = std::mem::take(&mut self.next);
            let new = |all: BTreeSet<u32>, known: &BTreeSet<u32>| -> BTreeSet<u32> {
                all.difference(known).copied().collect()
            };
            let relations = new(next.relations, &self.verdict.judged);
            let domains = new(next.domains, &self.verdict.domains);
            let mut functions = next.functions;
            self.called(&next.called, &mut functions).await?;
            self.members(&next.members, &mut functions).await?;
            self.used(&next.operators, next.casts, &mut functions).await?;
            let functions = new(functions, &self.verdict.functions);
            self.unseen(&next.unseen).await?;
            self.pretenders(next.pretenders).await?;
            if relations.is_empty() && domains.is_empty() && functions.is_empty() {
                return Ok(());
            }
            self.relations(&relations).await?;
            self.domains(&domains).await?;
            self.functions(&functions).await?;
        }
        self.verdict.because("its views and functions are nested too deeply");
        Ok(())
    }

    async fn relations(&mut self, all: &BTreeSet<u32>) -> Result<(), Error> {
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
            if !text(8).is_empty() {
                let child = text(8);
                self.verdict.because(format!(
                    "it reads {shown}, whose child {child} is foreign, unlogged or temporary"
                ));
            }
            self.verdict.relations.insert(oid, name);
        }
        Ok(())
    }

    async fn domains(&mut self, all: &BTreeSet<u32>) -> Result<(), Error> {
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

    async fn functions(&mut self, all: &BTreeSet<u32>) -> Result<(), Error> {
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
        if body.has("exception") {
            self.verdict.catches = true;
            self.next.unseen.extend(body.words.iter().cloned());
        }
        self.settings(body.settings);
        self.next.called.extend(body.calls.into_iter().map(|call| format!("{name}\n{call}")));
        self.next.members.extend(body.members);
        self.next.operators.extend(body.operators);
        self.next.casts |= body.casts;
    }

    /// The functions of the names that bodies call, of whatever schema.
    async fn called(
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
    async fn members(
        &mut self,
        members: &BTreeSet<String>,
        functions: &mut BTreeSet<u32>,
    ) -> Result<(), Error> {
        if members.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = members.iter().cloned().collect();
        let sql = "SELECT p.oid::pg_catalog.text FROM pg_catalog.pg_proc p \
             WHERE p.oid >= 16384 AND p.pronargs = 1 AND p.proname = ANY ($1)";
        for row in self.session.ask(sql, Some(&names)).await? {
            if let Some(Some(oid)) = row.first() {
                functions.extend(oid.parse::<u32>());
            }
        }
        Ok(())
    }

    /// The functions of a user's operators and casts that bodies may use.
    async fn used(
        &mut self,
        operators: &BTreeSet<String>,
        casts: bool,
        functions: &mut BTreeSet<u32>,
    ) -> Result<(), Error> {
        if operators.is_empty() && !casts {
            return Ok(());
        }
        let names: Vec<String> = operators.iter().cloned().collect();
        let sql = format!(
            "SELECT p.oid::pg_catalog.text FROM pg_catalog.pg_operator o \
               JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode \
               WHERE o.oid >= 16384 AND p.provolatile <> 'i' AND o.oprname = ANY ($1) \
             UNION SELECT p.oid::pg_catalog.text FROM pg_catalog.pg_cast c \
               JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc \
               WHERE {casts} AND c.oid >= 16384 AND p.provolatile <> 'i'"
        );
        for row in self.session.ask(&sql, Some(&names)).await? {
            if let Some(Some(oid)) = row.first() {
                functions.extend(oid.parse::<u32>());
            }
        }
        Ok(())
    }

    /// What a function reads before it catches an error is seen by its scans. These relations are not
    /// scanned.
    async fn unseen(&mut self, words: &BTreeSet<String>) -> Result<(), Error> {
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
    async fn pretenders(
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

/// Drops the statement that was prepared.
pub(super) const FORGET: &str = "DEALLOCATE larder_probe";
