//! Finds functions that a refresh cannot run, as it does not find what they name.
//!
//! From PostgreSQL 17 on, a refresh runs functions with a safe `search_path`. The names in a view's
//! own query were resolved when the view was created; those in the text of a function are resolved
//! when it runs.

use std::collections::BTreeSet;

use tokio_postgres::types::{ToSql, Type};

use super::finding::{Finding, FindingKind};
use super::session::Session;

/// The first `server_version_num` where a refresh sets the `search_path`.
pub(super) const SAFE_SINCE: i32 = 170_000;

/// A function whose body is text, and whose `search_path` is the caller's.
struct Function {
    oid: u32,
    /// As `ALTER FUNCTION` takes it.
    quoted: String,
    language: String,
    text: String,
}

/// A finding for each of these functions that names something without its schema.
///
/// PostgreSQL resolves the names in a function of SQL for the check, without running it. For other
/// languages it cannot. To refresh the view in a transaction that is rolled back would find all,
/// and would take as long as a refresh, and its locks.
pub(super) async fn check(
    session: &mut Session,
    functions: &BTreeSet<u32>,
) -> Result<Vec<Finding>, tokio_postgres::Error> {
    let functions: Vec<u32> = functions.iter().copied().collect();
    let sql = "SELECT p.oid, format('%I.%I(%s)', n.nspname, p.proname, \
                 pg_get_function_identity_arguments(p.oid)), l.lanname::text, p.prosrc, \
                 (SELECT string_agg(quote_ident(s), ', ') FROM unnest(current_schemas(false)) s) \
               FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
               JOIN pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('c', 'internal') \
               WHERE p.oid = ANY ($1) AND p.prosqlbody IS NULL AND p.prokind <> 'a' \
                 AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c LIKE 'search\\_path=%') \
               ORDER BY 2";
    let rows = session.query_catalogs(sql, &[(&functions, Type::OID_ARRAY)]).await?;
    let mut findings = vec![];
    for row in &rows {
        let function = Function {
            oid: row.get(0),
            quoted: row.get(1),
            language: row.get(2),
            text: row.get(3),
        };
        let path = row.get::<_, Option<String>>(4).map(|path| path + ", ").unwrap_or_default();
        let (kind, why) = if function.language == "sql" {
            match unresolved(session, &function).await? {
                Some(why) => (FindingKind::SearchPath, why),
                None => continue,
            }
        } else {
            match unqualified(session, &function.text).await?.as_slice() {
                [] => continue,
                names => {
                    let names = names.join(", ");
                    (FindingKind::SearchPathDoubtful, format!("it seems to name {names}"))
                }
            }
        };
        let quoted = &function.quoted;
        let message = format!(
            "it calls the function {quoted}, which a refresh runs with the search_path `pg_catalog, \
             pg_temp` from PostgreSQL 17 on: {why}; write the names in it with their schemas, or set \
             its search_path"
        );
        let mend = format!("ALTER FUNCTION {quoted} SET search_path = {path}pg_temp;");
        findings.push(Finding::new(kind, message).mend(mend));
    }
    Ok(findings)
}

/// What PostgreSQL says about the body of a function of SQL, under the `search_path` of a refresh.
async fn unresolved(
    session: &mut Session,
    function: &Function,
) -> Result<Option<String>, tokio_postgres::Error> {
    let safe = "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL check_function_bodies = on";
    session.begin(safe).await?;
    let sql = "SELECT fmgr_sql_validator($1)";
    let validated = session.query(sql, &[(&function.oid, Type::OID)]).await;
    session.roll_back().await?;
    let Err(error) = validated else { return Ok(None) };
    match error.as_db_error() {
        // A role that may not call the function learns nothing.
        Some(db) if matches!(db.code().code(), "42P01" | "42883" | "42704" | "3F000") => {
            Ok(Some(db.message().to_owned()))
        }
        Some(_) => Ok(None),
        None => Err(error),
    }
}

/// The names without a schema in a function's text that mean something outside of `pg_catalog`.
async fn unqualified(
    session: &mut Session,
    text: &str,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let names = names(text);
    let sql = "\
        SELECT DISTINCT found FROM ( \
          SELECT c.oid::regclass::text FROM unnest($1::text[]) n(name) \
            JOIN pg_class c ON c.relname = n.name AND pg_table_is_visible(c.oid) \
            WHERE c.relnamespace <> 'pg_catalog'::regnamespace \
          UNION ALL \
          SELECT p.oid::regproc::text FROM unnest($2::text[]) n(name) \
            JOIN pg_proc p ON p.proname = n.name AND pg_function_is_visible(p.oid) \
            WHERE p.pronamespace <> 'pg_catalog'::regnamespace \
              AND NOT EXISTS (SELECT FROM pg_proc o WHERE o.proname = n.name \
                AND o.pronamespace = 'pg_catalog'::regnamespace) \
          UNION ALL \
          SELECT t.oid::regtype::text FROM unnest($3::text[]) n(name) \
            JOIN pg_type t ON t.typname = n.name AND pg_type_is_visible(t.oid) \
            WHERE t.typnamespace <> 'pg_catalog'::regnamespace) f(found) ORDER BY 1";
    let params: [(&(dyn ToSql + Sync), Type); 3] = [
        (&names.relations, Type::TEXT_ARRAY),
        (&names.functions, Type::TEXT_ARRAY),
        (&names.types, Type::TEXT_ARRAY),
    ];
    let rows = session.query_catalogs(sql, &params).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The unqualified names in a text, by what they can be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    relations: Vec<String>,
    functions: Vec<String>,
    types: Vec<String>,
}

/// Reads names from a function's text: after FROM, JOIN, INTO and UPDATE those of relations, before
/// a parenthesis those of functions, and after `::` those of types. Strings and comments are left
/// out. Something may be missed.
fn names(text: &str) -> Names {
    let mut names = Names::default();
    let (mut before, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '\'' => rest[1..].find('\'').map(|end| end + 2),
            _ if rest.starts_with("--") => rest.find('\n'),
            _ if rest.starts_with("/*") => rest.find("*/").map(|end| end + 2),
            _ if first.is_whitespace() => Some(first.len_utf8()),
            _ => Some(0),
        };
        let Some(skipped) = skipped else { break };
        if skipped > 0 {
            rest = &rest[skipped..];
            continue;
        }
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let (word, after) = if first == '"' {
            let Some(end) = rest[1..].find('"') else { break };
            (rest[1..=end].to_owned(), &rest[end + 2..])
        } else if is_part(first) && !first.is_ascii_digit() {
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            (rest[..end].to_lowercase(), &rest[end..])
        } else {
            // `::` is kept whole.
            let end = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            before = rest[..end].to_owned();
            rest = &rest[end..];
            continue;
        };
        let next = after.trim_start();
        if before != "." && !next.starts_with('.') {
            match before.as_str() {
                "::" => names.types.push(word.clone()),
                "from" | "join" | "into" | "update" | "only" if !next.starts_with('(') => {
                    names.relations.push(word.clone());
                }
                _ if next.starts_with('(') => names.functions.push(word.clone()),
                _ => {}
            }
        }
        before = word;
        rest = after;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_schema_are_found_in_a_text() {
        let text = "BEGIN -- FROM nowhere
            /* JOIN nothing */ RETURN (SELECT count(*) FROM Orders o JOIN public.lines USING (id)
              JOIN \"Odd\" ON true WHERE o.mood = 'FROM text'::mood AND public.f(1) = g (2)
              AND x::public.t IS NULL); END";
        let owned = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let found = names(text);
        assert_eq!(found.relations, owned(&["orders", "Odd"]));
        assert!(found.functions.contains(&"g".to_owned()), "{found:?}");
        assert!(!found.functions.contains(&"f".to_owned()), "{found:?}");
        assert_eq!(found.types, owned(&["mood"]));
    }
}
