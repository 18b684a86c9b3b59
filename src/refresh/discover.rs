//! [`DiscoveredView`]: the materialized views of a database.

use crate::postgres::TlsPool;
use crate::refresh::check::ViewCheck;
use crate::refresh::postgres::session::{Session, Source};
use crate::refresh::postgres::{RefreshError, check};
use crate::refresh::view::MaterializedView;

/// A materialized view that a database has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiscoveredView {
    /// Its name, quoted as SQL needs it, with its schema only if the `search_path` does not find it.
    pub name: String,
    /// The role that owns it, quoted.
    pub owner: String,
    /// Whether the role of the connection may refresh it.
    pub may_refresh: bool,
    /// The usual ways in which a program may have written its name, and so have tagged the results
    /// that read it. A [`Refresher`](crate::refresh::Refresher) makes stale what has one of them,
    /// and other spellings of the name.
    pub tags: Vec<String>,
    oid: u32,
}

impl MaterializedView {
    /// All materialized views of a database except the system's, in the order of schema and name.
    ///
    /// ```no_run
    /// # use larder::refresh::MaterializedView;
    /// # async fn run(pool: deadpool_postgres::Pool) -> Result<(), larder::refresh::RefreshError> {
    /// for view in MaterializedView::discover(pool).await? {
    ///     println!("{} of {}", view.name, view.owner);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Connection`](crate::refresh::RefreshErrorKind::Connection) if PostgreSQL does not answer.
    pub async fn discover(pool: impl Into<TlsPool>) -> Result<Vec<DiscoveredView>, RefreshError> {
        let source = Source::new(pool.into());
        let session = Session::open(&source).await;
        let mut session = session.map_err(|error| RefreshError::connect(ALL, error))?;
        all(&mut session).await.map_err(|error| RefreshError::of_postgres(ALL, error))
    }

    /// Checks for what would prevent this view from being refreshed, as
    /// [`Refresher::check`](crate::refresh::Refresher::check) does for its views.
    ///
    /// The other views of the database are taken for views that are refreshed as well.
    ///
    /// # Errors
    ///
    /// [`Connection`](crate::refresh::RefreshErrorKind::Connection) if PostgreSQL does not answer.
    pub async fn check(&self, pool: impl Into<TlsPool>) -> Result<ViewCheck, RefreshError> {
        let source = Source::new(pool.into());
        let session = Session::open(&source).await;
        let mut session = session.map_err(|error| RefreshError::connect(&self.name, error))?;
        let failed = |error| RefreshError::of_postgres(&self.name, error);
        let managed = all(&mut session).await.map_err(failed)?;
        let managed: Vec<u32> = managed.iter().map(|view| view.oid).collect();
        let wanted = self.wanted();
        let findings = check::check(&mut session, &self.name, wanted, &managed).await;
        Ok(ViewCheck { view: self.name.clone(), findings: findings.map_err(failed)? })
    }
}

/// What errors about all views name.
const ALL: &str = "all materialized views";

async fn all(session: &mut Session) -> Result<Vec<DiscoveredView>, tokio_postgres::Error> {
    // MAINTAIN is a privilege from PostgreSQL 17 on, and an unknown one before.
    let version = session.query("SELECT current_setting('server_version_num')::int4", &[]).await?;
    let maintain = if version[0].get::<_, i32>(0) >= 170_000 {
        "has_table_privilege(c.oid, 'MAINTAIN')"
    } else {
        "false"
    };
    let sql = format!(
        "SELECT c.oid::regclass::text, c.oid, quote_ident(pg_get_userbyid(c.relowner)), \
           pg_has_role(c.relowner, 'USAGE') OR {maintain}, \
           format('%I.%I', n.nspname, c.relname), n.nspname || '.' || c.relname, \
           c.relname::text, pg_table_is_visible(c.oid) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'm' AND n.nspname NOT LIKE 'pg\\_%' \
           AND n.nspname <> 'information_schema' \
         ORDER BY n.nspname, c.relname"
    );
    let rows = session.query(&sql, &[]).await?;
    let views = rows.iter().map(|row| {
        let name: String = row.get(0);
        let mut tags: Vec<String> = vec![row.get(4), row.get(5)];
        // Without a schema, the name means this view only if the search_path finds it.
        if row.get(7) {
            tags.extend([name.clone(), row.get(6)]);
        }
        tags.sort();
        tags.dedup();
        DiscoveredView { name, oid: row.get(1), owner: row.get(2), may_refresh: row.get(3), tags }
    });
    Ok(views.collect())
}
