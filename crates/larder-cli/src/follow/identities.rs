//! Which tables would gain from another replica identity: their rows are found by columns of which the log
//! does not tell the value.

use tokio_postgres::Client;

/// Columns that an index begins with or that refer to another table, of the types that keys may have, and
/// that are no part of the replica identity; with the columns of the primary key, if there is one.
const CANDIDATES: &str = "\
    WITH identity AS ( \
      SELECT x.indrelid, pg_catalog.unnest((x.indkey::pg_catalog.int2[])[0:x.indnkeyatts - 1]) AS attnum \
      FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class c ON c.oid = x.indrelid \
      WHERE CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident END), \
    found AS ( \
      SELECT x.indrelid AS oid, x.indkey[0] AS attnum FROM pg_catalog.pg_index x WHERE x.indpred IS NULL \
      UNION SELECT k.conrelid, k.conkey[1] FROM pg_catalog.pg_constraint k \
        WHERE k.contype = 'f' AND pg_catalog.array_length(k.conkey, 1) = 1) \
    SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), \
      pg_catalog.quote_ident(g.attname), g.attnotnull, \
      pg_catalog.quote_ident(pg_catalog.left(c.relname, 40) || '_by_' || pg_catalog.left(g.attname, 18)), \
      ARRAY(SELECT pg_catalog.quote_ident(a.attname) FROM pg_catalog.pg_index p \
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (p.indkey) \
        WHERE p.indrelid = c.oid AND p.indisprimary ORDER BY a.attnum) \
    FROM found f JOIN pg_catalog.pg_class c ON c.oid = f.oid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_catalog.pg_attribute g ON g.attrelid = c.oid AND g.attnum = f.attnum \
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.relreplident <> 'f' \
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
      AND g.atttypid IN (20, 21, 23, 25, 1043, 2950) AND g.attgenerated = '' \
      AND NOT EXISTS (SELECT FROM identity i WHERE i.indrelid = c.oid AND i.attnum = g.attnum) \
    ORDER BY 1, 2";

/// What would let changes of rows be told apart.
pub(super) struct Hint {
    pub(super) why: String,
    /// Statements, a line each.
    pub(super) sql: Vec<String>,
    pub(super) cost: String,
}

pub(super) async fn hints(client: &Client) -> Result<Vec<Hint>, tokio_postgres::Error> {
    let rows = client.query(CANDIDATES, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| {
            let (table, column): (&str, &str) = (row.get(0), row.get(1));
            let (is_not_null, index): (bool, &str) = (row.get(2), row.get(3));
            let primary_key: Vec<&str> = row.get(4);
            hint(table, column, is_not_null, index, &primary_key)
        })
        .collect())
}

fn hint(table: &str, column: &str, is_not_null: bool, index: &str, primary_key: &[&str]) -> Hint {
    let why = format!(
        "{table} by {column}: a change makes all results stale that read rows by it, since the log does \
         not tell which rows it is of"
    );
    if !is_not_null || primary_key.is_empty() {
        return Hint {
            why,
            sql: vec![format!("ALTER TABLE {table} REPLICA IDENTITY FULL;")],
            cost: "each UPDATE and DELETE logs the old row, too".to_owned(),
        };
    }
    // The key comes last, unless it is the column.
    let rest = primary_key.iter().copied().filter(|it| *it != column);
    let columns: Vec<&str> = [column].into_iter().chain(rest).collect();
    let columns = columns.join(", ");
    Hint {
        why,
        sql: vec![
            format!("CREATE UNIQUE INDEX CONCURRENTLY {index} ON {table} ({columns});"),
            format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {index};"),
        ],
        cost: format!("each DELETE logs {column}, too, and so does an UPDATE of ({columns})"),
    }
}
