//! The materialized views of a database.

use crate::postgres::matview::session::Session;

/// One of them.
pub(super) struct Matview {
    /// As it is found on this connection's search_path: with its schema only if it has to be.
    pub(super) name: String,
    pub(super) oid: u32,
    pub(super) owner: String,
    /// Whether this role may refresh it.
    pub(super) may: bool,
    /// All ways in which a program may have named it, and so tagged what reads it.
    pub(super) tags: Vec<String>,
}

/// All but the system's, in the order of their names.
pub(super) async fn all(session: &mut Session) -> Result<Vec<Matview>, tokio_postgres::Error> {
    // MAINTAIN is a privilege from PostgreSQL 17 on, and asking for it before is an error.
    let version = session.query("SELECT current_setting('server_version_num')::int4", &[]).await?;
    let maintain = match version[0].get::<_, i32>(0) >= 170_000 {
        true => "has_table_privilege(c.oid, 'MAINTAIN')",
        false => "false",
    };
    let sql = format!(
        "SELECT c.oid::regclass::text, c.oid, quote_ident(pg_get_userbyid(c.relowner)), \
           pg_has_role(c.relowner, 'USAGE') OR {maintain}, \
           format('%I.%I', n.nspname, c.relname), n.nspname || '.' || c.relname, \
           c.relname::text \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'm' AND n.nspname NOT LIKE 'pg\\_%' \
           AND n.nspname <> 'information_schema' \
         ORDER BY n.nspname, c.relname"
    );
    let rows = session.query(&sql, &[]).await?;
    let views = rows.iter().map(|row| {
        let name: String = row.get(0);
        let mut tags: Vec<String> = vec![row.get(4), row.get(5)];
        // Without a schema it means this view only where it is found that way.
        if !name.contains('.') || name.starts_with('"') && !name.contains("\".") {
            tags.extend([name.clone(), row.get(6)]);
        }
        tags.sort();
        tags.dedup();
        Matview { name, oid: row.get(1), owner: row.get(2), may: row.get(3), tags }
    });
    Ok(views.collect())
}
