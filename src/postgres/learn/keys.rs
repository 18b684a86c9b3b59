//! Which rows a query reads of each relation: asked of a plan that PostgreSQL makes for it.
//!
//! ```text
//! PREPARE, SET LOCAL …, EXPLAIN (VERBOSE, FORMAT YAML) EXECUTE …
//! ```
//!
//! within a savepoint. The query is not run. See [`learn::plan`](crate::learn::plan).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::evidence::{column, is_true};
use super::{Ask, FORGET, PROBE};
use crate::error::Error;
use crate::learn::keys::{KEY_COLUMNS, KeyValue, Keyed};
use crate::learn::plan::scans;
use crate::learn::{Verdict, oids};
use crate::value::relation::RelationName;

/// The relations of a query of which it reads only rows with known values in key columns. `verdict`: of the
/// query, which has no functions of a user.
pub(super) async fn keys(
    session: &mut dyn Ask,
    sql: &str,
    verdict: &Verdict,
) -> Result<BTreeMap<RelationName, BTreeSet<Keyed>>, Error> {
    // An operator of a user may be written like one of PostgreSQL.
    let rows = session.ask(
        "SELECT pg_catalog.current_setting('server_version_num'), EXISTS (SELECT \
           FROM pg_catalog.pg_operator WHERE oid >= 16384 AND oprname = '=' AND oprleft < 16384 \
             AND oprright < 16384)::pg_catalog.text",
        None,
    );
    let rows = rows.await?;
    let version = column(&rows, 0).and_then(|version| version.parse().ok()).unwrap_or(0);
    if is_true(rows.first().and_then(|row| row.get(1))) {
        return Ok(BTreeMap::new());
    }
    let tables = tables(session, verdict).await?;
    if tables.values().all(|tables| tables.key_columns.is_empty()) {
        return Ok(BTreeMap::new());
    }
    let plan = plan(session, sql, verdict.parameters.len()).await?;
    let Some(scans) = scans(&plan.unwrap_or_default(), version, verdict.hides_casts) else {
        return Ok(BTreeMap::new());
    };
    let mut found = BTreeMap::new();
    for (oid, name) in &verdict.relations {
        let Some(tables) = tables.get(oid) else { continue };
        if tables.names.len() > 1 && verdict.stored.contains(oid) {
            continue;
        }
        // A parameter rather than a constant, which more calls share.
        let key = |keys: &[Keyed]| {
            let keys = keys.iter().filter(|keyed| tables.key_columns.contains(&keyed.column));
            keys.min_by_key(|keyed| matches!(keyed.value, KeyValue::Constant(_))).cloned()
        };
        let scans = scans.iter().filter(|scan| tables.names.contains(&scan.relation));
        let keys: Option<BTreeSet<Keyed>> = scans.map(|scan| key(&scan.keys)).collect();
        // A relation that the plan does not scan is one that was found not to matter.
        if let Some(keys) = keys.filter(|keys| !keys.is_empty()) {
            found.insert(name.clone(), keys);
        }
    }
    Ok(found)
}

/// A relation with all its partitions and children.
#[derive(Default)]
struct Tables {
    names: BTreeSet<RelationName>,
    /// Those that all of them have that hold rows.
    key_columns: BTreeSet<String>,
    holds_rows: bool,
}

async fn tables(session: &mut dyn Ask, verdict: &Verdict) -> Result<HashMap<u32, Tables>, Error> {
    let sql = format!(
        "WITH RECURSIVE below AS ( \
           SELECT c.oid AS reader, c.oid FROM pg_catalog.pg_class c WHERE c.oid = ANY ({}) \
           UNION SELECT b.reader, i.inhrelid FROM below b \
             JOIN pg_catalog.pg_inherits i ON i.inhparent = b.oid) \
         SELECT b.reader::pg_catalog.text, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, \
           (c.relkind IN ('r', 'm', 'f'))::pg_catalog.text, \
           pg_catalog.array_to_json({KEY_COLUMNS})::pg_catalog.text \
         FROM below b JOIN pg_catalog.pg_class c ON c.oid = b.oid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace",
        oids(verdict.relations.keys())
    );
    let mut all: HashMap<u32, Tables> = HashMap::new();
    for row in session.ask(&sql, None).await? {
        let text = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
        let Ok(reader) = text(0).parse::<u32>() else { continue };
        let tables = all.entry(reader).or_default();
        tables.names.insert(RelationName::of(text(1), text(2)));
        if text(3) != "true" {
            continue;
        }
        let columns: BTreeSet<String> = serde_json::from_str(text(4)).unwrap_or_default();
        if tables.holds_rows {
            tables.key_columns.retain(|column| columns.contains(column));
        } else {
            (tables.holds_rows, tables.key_columns) = (true, columns);
        }
    }
    Ok(all)
}

/// A plan that holds for all parameters, with all partitions. `None` if PostgreSQL makes none.
async fn plan(
    session: &mut dyn Ask,
    sql: &str,
    parameters: usize,
) -> Result<Option<String>, Error> {
    session.ask("SAVEPOINT larder_plan", None).await?;
    let mut is_prepared = false;
    let plan = planned(session, sql, parameters, &mut is_prepared).await;
    if let Err(error) = &plan
        && error.sqlstate().is_none()
    {
        // The connection is lost.
        return plan.map(Some);
    }
    session.ask("ROLLBACK TO SAVEPOINT larder_plan", None).await?;
    if is_prepared {
        // A rollback does not undo it.
        session.ask(FORGET, None).await?;
    }
    Ok(plan.ok())
}

async fn planned(
    session: &mut dyn Ask,
    sql: &str,
    parameters: usize,
    is_prepared: &mut bool,
) -> Result<String, Error> {
    session.ask(&format!("PREPARE {PROBE} AS {sql}\n"), None).await?;
    *is_prepared = true;
    session.ask("SET LOCAL plan_cache_mode = force_generic_plan", None).await?;
    session.ask("SET LOCAL enable_partition_pruning = off", None).await?;
    // No scan is left out for what a partition cannot have: that depends on others beside it.
    session.ask("SET LOCAL constraint_exclusion = off", None).await?;
    let arguments = match parameters {
        0 => String::new(),
        _ => format!("({})", vec!["NULL"; parameters].join(", ")),
    };
    let explain = format!("EXPLAIN (VERBOSE, COSTS OFF, FORMAT YAML) EXECUTE {PROBE}{arguments}");
    let rows = session.ask(&explain, None).await?;
    Ok(column(&rows, 0).unwrap_or_default())
}
