//! [`Finding`]: something that keeps a view from being refreshed well, and what mends it.

use std::fmt;

/// Something about a materialized view that will go wrong, or not as well as it could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub(crate) kind: FindingKind,
    pub(crate) message: String,
    pub(crate) mend: Vec<String>,
}

/// What sort of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// There is no relation of this name.
    Missing,
    /// It is a table, a plain view or something else.
    NotMaterialized,
    /// It was made `WITH NO DATA` and never refreshed. Larder's first refresh populates it, without
    /// `CONCURRENTLY`.
    NotPopulated,
    /// No index lets it be refreshed `CONCURRENTLY`.
    NoUniqueIndex,
    /// The role of the connection may not refresh it.
    NotOwner,
    /// The view's owner may not read something that it reads.
    OwnerCannotRead,
    /// The view's owner may not make the temporary table that `CONCURRENTLY` needs.
    OwnerLacksTemporary,
    /// Another session holds a lock that a refresh has to wait for, or refreshes it now.
    Held,
    /// The server takes no writes.
    ReadOnly,
    /// `skip_unchanged` cannot be sure about this view, so it is always refreshed.
    Untraceable,
    /// It reads a materialized view that this refresher does not refresh.
    Unmanaged,
}

impl FindingKind {
    /// Whether a refresh would fail.
    pub fn is_fatal(self) -> bool {
        !matches!(
            self,
            FindingKind::NotPopulated
                | FindingKind::Held
                | FindingKind::Untraceable
                | FindingKind::Unmanaged
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

    /// What sort of finding this is.
    pub fn kind(&self) -> FindingKind {
        self.kind
    }

    /// What was found, in a sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The SQL that mends it, statement by statement, if there is some. To be read before it is run.
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
