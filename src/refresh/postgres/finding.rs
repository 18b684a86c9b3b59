//! [`Finding`]: a problem with refreshing a view, and the SQL that fixes it.

use std::fmt;

/// Something about a materialized view that will fail, or will not work as well as it could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub(crate) kind: FindingKind,
    pub(crate) message: String,
    pub(crate) mend: Vec<String>,
}

/// The kind of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// There is no relation of this name.
    Missing,
    /// The relation is a table, a plain view or something else.
    NotMaterialized,
    /// The view was created `WITH NO DATA` and never refreshed. Larder's first refresh populates
    /// it, without `CONCURRENTLY`.
    NotPopulated,
    /// The view reads a materialized view that holds nothing yet, and that this refresher does not
    /// refresh.
    SourceNotPopulated,
    /// No index allows the view to be refreshed `CONCURRENTLY`.
    NoUniqueIndex,
    /// The role of the connection may not refresh the view.
    NotOwner,
    /// The view's owner may not read something that the view reads.
    OwnerCannotRead,
    /// The view's owner may not create the temporary table that `CONCURRENTLY` needs.
    OwnerLacksTemporary,
    /// A function that the view calls names something without its schema. From PostgreSQL 17 on, a
    /// refresh runs functions with the `search_path` `pg_catalog, pg_temp`, and does not find it.
    SearchPath,
    /// The text of a function that the view calls seems to name something without its schema; see
    /// [`SearchPath`](FindingKind::SearchPath). Of languages other than SQL, PostgreSQL does not
    /// resolve names before a function runs.
    SearchPathDoubtful,
    /// Another session holds a lock that a refresh has to wait for, on the view or on something
    /// that it reads, or is refreshing the view now.
    Held,
    /// A time limit of the role, the database or the server applies to refreshes, or is replaced
    /// by one of the view's own.
    TimeLimit,
    /// The server is a standby, or the role's transactions are read-only by default.
    ReadOnly,
    /// `skip_unchanged` cannot detect all changes of what the view reads, so the view is always
    /// refreshed.
    Untraceable,
    /// The view reads a materialized view that this refresher does not refresh.
    Unmanaged,
    /// The connection of [`listen`](crate::refresh::RefresherBuilder::listen) was refused or lost, so
    /// refreshes by others are noticed by polling only.
    NotListening,
}

impl FindingKind {
    /// Whether a refresh would fail.
    pub fn is_fatal(self) -> bool {
        !matches!(
            self,
            FindingKind::NotPopulated
                | FindingKind::SearchPathDoubtful
                | FindingKind::Held
                | FindingKind::TimeLimit
                | FindingKind::Untraceable
                | FindingKind::Unmanaged
                | FindingKind::NotListening
        )
    }
}

impl Finding {
    pub(crate) fn new(kind: FindingKind, message: impl Into<String>) -> Finding {
        Finding { kind, message: message.into(), mend: vec![] }
    }

    pub(crate) fn mend(mut self, sql: impl Into<String>) -> Finding {
        self.mend.push(sql.into());
        self
    }

    /// The kind of this finding.
    pub fn kind(&self) -> FindingKind {
        self.kind
    }

    /// The finding, in a sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The SQL that fixes the problem, one statement each; empty if there is none. Read it before
    /// you run it.
    pub fn mending_sql(&self) -> &[String] {
        &self.mend
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for sql in &self.mend {
            write!(f, "\n    {sql}")?;
        }
        Ok(())
    }
}
