//! [`judge`]: may the result of a query change with nothing written that the cache is told of?
//!
//! PostgreSQL itself parses the query, as the body of a function in `pg_temp` that is rolled back. The
//! extended protocol takes one statement, so a text with several of them is refused and nothing in it
//! is run. From the tree of the query on, everything that it names is looked up, level by level: views
//! and policies have trees, functions have trees or texts.

use std::collections::BTreeSet;

use super::evidence::{Evidence, Next, column, is_true};
use super::keys::keys;
use super::{Ask, FORGET, PROBE};
use crate::error::Error;
use crate::learn::{QueryClass, REFUSED, Verdict, definitions, text, tree};

/// How many levels are looked up. Views cannot be nested more deeply by hand.
const DEEPEST: usize = 200;

/// Judges a query, in a transaction. `further`: relations that one of its loads has read.
pub(super) async fn judge(
    session: &mut dyn Ask,
    sql: &str,
    further: &[u32],
) -> Result<Verdict, Error> {
    let (verdict, next) = (Verdict::default(), Next::default());
    let mut evidence = Evidence { session, verdict, next, is_prepared: false };
    let catches_are_seen = evidence.rights().await?;
    if let Some(tree) = evidence.parse(sql).await? {
        if tree::read(&tree).queries > 1 {
            evidence.verdict.because("it is several queries");
        }
        evidence.tree(&tree);
    }
    if let Some(literal) = text::present(sql) {
        evidence.verdict.because(format!("the literal '{literal}' may mean the present"));
    }
    evidence.walk().await?;
    // What some loads have read is judged, and is not named by the query: each load tells what it reads.
    let named = evidence.verdict.relations.clone();
    evidence.next.relations.extend(further);
    evidence.walk().await?;
    evidence.verdict.relations = named;
    let Evidence { session, mut verdict, .. } = evidence;
    if verdict.catches && !catches_are_seen {
        verdict.because(
            "one of its functions catches errors; what it reads before that is seen only with \
             track_counts = on",
        );
    }
    if verdict.class() == QueryClass::Static && !verdict.renames_columns {
        verdict.keys = keys(session, sql, &verdict).await?;
    }
    let rows = session.ask(SCHEMAS, None).await?;
    verdict.schemas = rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
    let rows = session.ask(&definitions::question(&verdict), None).await?;
    verdict.version = definitions::version(&rows).unwrap_or_default().to_owned();
    Ok(verdict)
}

/// The schemas in which names without one are looked for, those included that are not there yet.
const SCHEMAS: &str = "\
    SELECT s::pg_catalog.text FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) s \
      WHERE s::pg_catalog.text NOT LIKE 'pg\\_temp\\_%' \
    UNION SELECT CASE s WHEN '$user' THEN current_user::pg_catalog.text ELSE s END \
      FROM pg_catalog.unnest(pg_catalog.string_to_array( \
        pg_catalog.current_setting('search_path'), ',')) x, \
      pg_catalog.btrim(x, ' \"') s";

impl Evidence<'_> {
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

    async fn walk(&mut self) -> Result<(), Error> {
        for _ in 0..DEEPEST {
            let next = std::mem::take(&mut self.next);
            let new = |all: BTreeSet<u32>, known: &BTreeSet<u32>| -> BTreeSet<u32> {
                all.difference(known).copied().collect()
            };
            let relations = new(next.relations, &self.verdict.judged);
            let mut domains = next.domains;
            domains.extend(self.cast_to(&next.words).await?);
            let domains = new(domains, &self.verdict.domains);
            let mut functions = next.functions;
            self.called(&next.called, &mut functions).await?;
            functions.extend(self.members(&next.members).await?);
            functions.extend(self.used(&next.operators, next.casts).await?);
            let functions = new(functions, &self.verdict.functions);
            self.unseen(&next.unseen).await?;
            self.pretenders(next.pretenders).await?;
            self.types(&next.types).await?;
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
}
