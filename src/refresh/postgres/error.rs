//! [`RefreshError`]: why a materialized view could not be refreshed, and what to do about it.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use tokio_postgres::error::SqlState;

use super::finding::Finding;
use super::kind::{self, RefreshErrorKind};
use crate::error::BoxError;
use crate::value::relation;

/// Why a materialized view was not refreshed. Its rows are as they were before; only with
/// [`Connection`](RefreshErrorKind::Connection) this is not certain.
///
/// The message says what was attempted, on which view, and what to do next, with the SQL to run if
/// there is some. PostgreSQL's own error is the [`source`](StdError::source). Cheap to clone.
#[derive(Clone)]
pub struct RefreshError(Arc<Inner>);

struct Inner {
    kind: RefreshErrorKind,
    view: String,
    why: String,
    findings: Vec<Finding>,
    source: Option<BoxError>,
}

impl RefreshError {
    pub(crate) fn new(kind: RefreshErrorKind, view: &str, why: impl Into<String>) -> RefreshError {
        let (view, why) = (view.to_owned(), why.into());
        RefreshError(Arc::new(Inner { kind, view, why, findings: vec![], source: None }))
    }

    pub(crate) fn connect(view: &str, source: BoxError) -> RefreshError {
        let why = "no connection to postgresql could be had; check that the server answers and \
                   that the pool is large enough";
        RefreshError(Arc::new(Inner {
            kind: RefreshErrorKind::Connection,
            view: view.to_owned(),
            why: why.to_owned(),
            findings: vec![],
            source: Some(source),
        }))
    }

    /// Whether there is no relation of this name, in contrast to a name that cannot be parsed.
    pub(crate) fn is_absent(&self) -> bool {
        self.0.kind == RefreshErrorKind::Missing && self.0.source.is_none()
    }

    pub(crate) fn closed(view: &str) -> RefreshError {
        let why = "the refresher has shut down, and what ran was cancelled in postgresql";
        RefreshError::new(RefreshErrorKind::Closed, view, why)
    }

    pub(crate) fn of_postgres(view: &str, source: tokio_postgres::Error) -> RefreshError {
        let (kind, why) = match source.as_db_error() {
            Some(db) => {
                let kind = kind::of(view, db);
                (kind, kind::why(kind, db))
            }
            None => (
                RefreshErrorKind::Connection,
                "the connection was lost; whether the refresh took place is not known, and a \
                 scheduled one is tried again"
                    .to_owned(),
            ),
        };
        let (view, source) = (view.to_owned(), Some(source.into()));
        RefreshError(Arc::new(Inner { kind, view, why, findings: vec![], source }))
    }

    /// Adds what was found out about the view afterwards.
    pub(crate) fn with(self, findings: Vec<Finding>) -> RefreshError {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => RefreshError(Arc::new(Inner { findings, ..inner })),
            Err(shared) => RefreshError(shared),
        }
    }

    /// The same error of a refresh that was waiting for a lock when it ended. `wait`: the lock, and
    /// for how long. `by_limit`: whether it had reached its statement timeout.
    pub(crate) fn during(self, wait: &str, findings: Vec<Finding>, by_limit: bool) -> RefreshError {
        let kind = match self.0.kind {
            RefreshErrorKind::LockTimeout => RefreshErrorKind::LockTimeout,
            RefreshErrorKind::Cancelled if by_limit => RefreshErrorKind::LockTimeout,
            kind @ (RefreshErrorKind::Cancelled | RefreshErrorKind::Connection) => kind,
            _ => return self,
        };
        let source = self.0.source.as_deref();
        let source = source.and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
        let said = match source.and_then(tokio_postgres::Error::as_db_error) {
            Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
            None => "the connection was lost".to_owned(),
        };
        let why = format!("{said}, while it waited for {wait}");
        let why = match kind {
            RefreshErrorKind::LockTimeout => format!("{why}; {}", kind::HELD),
            RefreshErrorKind::Cancelled => format!("{why}; somebody cancelled it"),
            _ => format!("{why}; {}", "a scheduled refresh is tried again"),
        };
        match Arc::try_unwrap(self.0) {
            Ok(inner) => RefreshError(Arc::new(Inner { kind, why, findings, ..inner })),
            Err(shared) => RefreshError(shared),
        }
    }

    /// The kind of this error.
    pub fn kind(&self) -> RefreshErrorKind {
        self.0.kind
    }

    /// The name of the view, as given to the refresher.
    pub fn view(&self) -> &str {
        &self.0.view
    }

    /// What is wrong with the view, as far as it explains the error. Findings contain the SQL that
    /// fixes them.
    pub fn findings(&self) -> &[Finding] {
        &self.0.findings
    }

    /// Whether a name in the text of a function was not found.
    pub(super) fn is_of_names(&self) -> bool {
        let source = self.0.source.as_deref();
        let source = source.and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
        let db = source.and_then(tokio_postgres::Error::as_db_error);
        db.is_some_and(kind::is_unresolved)
    }

    /// PostgreSQL's five-character code, if PostgreSQL reported the error.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.0.source.as_deref()?.downcast_ref::<tokio_postgres::Error>()?.code()
    }
}

impl fmt::Display for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "refresh the materialized view {}: {}",
            relation::shown(&self.0.view),
            self.0.why
        )?;
        for finding in &self.0.findings {
            write!(f, "\n  {finding}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshError")
            .field("kind", &self.0.kind)
            .field("message", &self.to_string())
            .finish_non_exhaustive()
    }
}

impl StdError for RefreshError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use test_servers::Postgres;

    use super::*;

    /// Errors that Larder does not cause: it runs none of these statements, and keeps no cursor
    /// open.
    #[tokio::test]
    async fn errors_of_refreshes_by_hand_are_understood_too() {
        let database = Postgres::shared().unwrap().database().await.unwrap();
        let client = database.connect().await.unwrap();
        client
            .batch_execute(
                "CREATE MATERIALIZED VIEW v AS SELECT 1 AS id;
                 CREATE UNIQUE INDEX ON v (id);
                 CREATE MATERIALIZED VIEW empty AS SELECT 1 AS id WITH NO DATA;
                 CREATE UNIQUE INDEX ON empty (id);
                 CREATE MATERIALIZED VIEW on_empty AS SELECT * FROM empty WITH NO DATA;
                 CREATE MATERIALIZED VIEW bare AS SELECT 1 AS id;
                 CREATE TABLE t (id int); INSERT INTO t VALUES (1);
                 CREATE MATERIALIZED VIEW twice AS SELECT id FROM t;
                 CREATE UNIQUE INDEX ON twice (id);
                 CREATE MATERIALIZED VIEW several AS SELECT 1 AS id, (SELECT id FROM t) AS one;
                 CREATE UNIQUE INDEX ON several (id);
                 INSERT INTO t VALUES (1);
                 CREATE FUNCTION raises(text) RETURNS int LANGUAGE plpgsql AS
                   $$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = $1; END$$;
                 CREATE MATERIALIZED VIEW raises AS SELECT raises('55000') WITH NO DATA;
                 CREATE MATERIALIZED VIEW unsupported AS SELECT raises('0A000') WITH NO DATA;
                 CREATE FUNCTION names() RETURNS bigint LANGUAGE plpgsql AS
                   'BEGIN RETURN (SELECT count(*) FROM nowhere); END';
                 CREATE MATERIALIZED VIEW names AS SELECT names() WITH NO DATA;
                 CREATE TABLE unique_ids (id int PRIMARY KEY); INSERT INTO unique_ids VALUES (1);
                 CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS
                   'INSERT INTO public.unique_ids VALUES (1) RETURNING id';
                 CREATE MATERIALIZED VIEW writes AS SELECT writes() WITH NO DATA;",
            )
            .await
            .unwrap();
        let refresh = "REFRESH MATERIALIZED VIEW";
        let cases = [
            (format!("{refresh} CONCURRENTLY v WITH NO DATA"), "42601", RefreshErrorKind::Postgres),
            (format!("{refresh} CONCURRENTLY empty"), "0A000", RefreshErrorKind::NotPopulated),
            ("SELECT * FROM empty".to_owned(), "55000", RefreshErrorKind::NotPopulated),
            (format!("{refresh} on_empty"), "55000", RefreshErrorKind::NotPopulated),
            (format!("{refresh} CONCURRENTLY bare"), "55000", RefreshErrorKind::NoUniqueIndex),
            (format!("{refresh} CONCURRENTLY twice"), "21000", RefreshErrorKind::Duplicates),
            // What the view's own query does wrong is not what CONCURRENTLY would.
            (format!("{refresh} CONCURRENTLY several"), "21000", RefreshErrorKind::Postgres),
            (format!("{refresh} raises"), "55000", RefreshErrorKind::Postgres),
            (format!("{refresh} unsupported"), "0A000", RefreshErrorKind::Postgres),
            (format!("{refresh} names"), "42P01", RefreshErrorKind::Postgres),
            (format!("{refresh} writes"), "23505", RefreshErrorKind::Postgres),
            (format!("{refresh} nowhere"), "42P01", RefreshErrorKind::Missing),
            ("BEGIN; LOCK TABLE v".to_owned(), "42809", RefreshErrorKind::NotMaterialized),
            (
                format!("BEGIN; DECLARE c CURSOR FOR TABLE v; FETCH c; {refresh} v"),
                "55006",
                RefreshErrorKind::InUse,
            ),
        ];
        for (sql, sqlstate, kind) in cases {
            let error = client.batch_execute(&sql).await.unwrap_err();
            client.batch_execute("ROLLBACK").await.unwrap();
            let error = RefreshError::of_postgres("v", error);
            assert_eq!(error.sqlstate().map(SqlState::code), Some(sqlstate), "{sql}");
            assert_eq!(error.kind(), kind, "{sql}");
            assert!(error.to_string().contains(sqlstate), "{error}");
        }
    }
}
