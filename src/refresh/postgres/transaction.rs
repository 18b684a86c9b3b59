//! [`RefreshTx`]: the transaction in which a view is refreshed.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::blocker::{self, Blocker, LOCK_CLASS, RefreshMode};
use super::error::RefreshError;
use super::kind::RefreshErrorKind;
use super::session::{Session, Source, millis};
use super::state::{self, Relation, ViewState, ViewVersion, Written};

/// The timeouts within the transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) lock: Duration,
    pub(crate) statement: Option<Duration>,
}

/// The permission to refresh one view, for the duration of one transaction.
///
/// The permission is an advisory lock of the transaction. No two processes have it at the same
/// time. However the transaction ends (commit, error, a killed process, a dead network), PostgreSQL
/// releases the lock.
pub(crate) struct RefreshTx {
    pub(crate) session: Session,
    pub(crate) view: Relation,
    pub(crate) state: ViewState,
    name: String,
}

/// The result of trying to take the lock.
pub(crate) enum LockAttempt {
    Ours(Box<RefreshTx>),
    /// Another session holds the lock and refreshes the view.
    Busy {
        holder: Option<String>,
        version: ViewVersion,
    },
}

/// What a refresh has changed, before it is committed.
pub(crate) struct Refreshed {
    pub(crate) version: ViewVersion,
    pub(crate) rows: [u64; 3],
}

impl RefreshTx {
    /// Begins the transaction and tries to take the lock.
    pub(crate) async fn take(
        source: &Source,
        name: &str,
        limits: Limits,
    ) -> Result<LockAttempt, RefreshError> {
        let failed = |error| RefreshError::of_postgres(name, error);
        let session = Session::open(source).await;
        let mut session = session.map_err(|error| RefreshError::connect(name, error))?;
        session.begin(&settings(limits)).await.map_err(failed)?;
        match RefreshTx::within(&mut session, name).await {
            Ok((view, state, true)) => {
                let name = name.to_owned();
                Ok(LockAttempt::Ours(Box::new(RefreshTx { session, view, state, name })))
            }
            Ok((view, state, false)) => {
                let holder = holder(&mut session, view.oid).await.map_err(failed)?;
                session.roll_back().await.map_err(failed)?;
                Ok(LockAttempt::Busy { holder, version: state.version })
            }
            Err(error) => {
                let _ = session.roll_back().await;
                Err(error)
            }
        }
    }

    async fn within(
        session: &mut Session,
        name: &str,
    ) -> Result<(Relation, ViewState, bool), RefreshError> {
        let failed = |error| RefreshError::of_postgres(name, error);
        let view = state::find(session, name).await?.materialized(name)?;
        let lock = session
            .query(
                "SELECT pg_try_advisory_xact_lock($1, $2)",
                &[(&LOCK_CLASS, Type::INT4), (&(view.oid as i32), Type::INT4)],
            )
            .await
            .map_err(failed)?;
        // A statement of its own, after the lock: the statement that took the lock could still see
        // the view as it was before the previous holder committed.
        let state = state::look(session, view.oid).await.map_err(failed)?;
        let Some(state) = state else {
            let why = "it was dropped a moment ago";
            return Err(RefreshError::new(RefreshErrorKind::Missing, name, why));
        };
        session.runs_in(state.backend);
        Ok((view, state, lock[0].get(0)))
    }

    /// Refreshes the view, within the transaction.
    pub(crate) async fn refresh(&mut self, how: RefreshMode) -> Result<Refreshed, RefreshError> {
        let concurrently = if how == RefreshMode::Concurrently { "CONCURRENTLY " } else { "" };
        // The full name, as quoted by PostgreSQL.
        let sql = format!("REFRESH MATERIALIZED VIEW {concurrently}{}", self.view.quoted);
        self.session.run(&sql).await.map_err(|error| self.failed(error))?;
        let again = state::look_again(&mut self.session, self.view.oid).await;
        let (version, written) = again.map_err(|error| self.failed(error))?;
        // Rows of earlier transactions of this session may not have been reported yet; subtract
        // them.
        let Written(before) = self.state.written;
        let Written(after) = written;
        let rows = std::array::from_fn(|at| after[at].saturating_sub(before[at]).max(0) as u64);
        Ok(Refreshed { version, rows })
    }

    /// Commits. The lock is released, and not before others can see the new rows.
    pub(crate) async fn commit(mut self: Box<Self>) -> Result<Session, RefreshError> {
        let done = self.session.commit().await;
        done.map_err(|error| self.failed(error))?;
        Ok(self.session)
    }

    /// Rolls back.
    pub(crate) async fn give_up(mut self: Box<Self>) -> Result<Session, RefreshError> {
        let done = self.session.roll_back().await;
        done.map_err(|error| self.failed(error))?;
        Ok(self.session)
    }

    pub(crate) fn failed(&self, error: tokio_postgres::Error) -> RefreshError {
        RefreshError::of_postgres(&self.name, error)
    }
}

/// Updates PostgreSQL's statistics of a view, in a transaction with the same limits.
pub(crate) async fn analyze(
    session: &mut Session,
    quoted: &str,
    limits: Limits,
) -> Result<(), tokio_postgres::Error> {
    session.begin(&settings(limits)).await?;
    match session.run(&format!("ANALYZE {quoted}")).await {
        Ok(()) => session.commit().await,
        Err(error) => {
            let _ = session.roll_back().await;
            Err(error)
        }
    }
}

fn settings(limits: Limits) -> String {
    let lock = millis(limits.lock);
    let mut sql = format!("SET LOCAL lock_timeout = {lock};");
    if let Some(statement) = limits.statement {
        sql.push_str(&format!("SET LOCAL statement_timeout = {};", millis(statement)));
    }
    // A wait for a lock must not end as a statement that took too long, also where the role's own
    // statement_timeout is the shorter one. Its error would not say that there was a wait.
    sql.push_str(&format!(
        "SELECT set_config('lock_timeout', greatest(setting::int8 * 9 / 10, 1)::text, true) \
         FROM pg_settings WHERE name = 'statement_timeout' AND setting::int8 BETWEEN 1 AND {lock};"
    ));
    // While a hook runs, the transaction is idle. The hook has a time limit of its own.
    sql.push_str("SET LOCAL idle_in_transaction_session_timeout = 0;");
    // The refresh of a killed process would run to its end and make all others wait. This makes
    // PostgreSQL detect that the client is gone, on systems where it can.
    sql.push_str(
        "SELECT set_config('client_connection_check_interval', '1000', true) \
         WHERE version() LIKE '%linux%'",
    );
    sql
}

/// Describes the session that refreshes a view at this moment, and for whom it waits itself.
async fn holder(session: &mut Session, oid: u32) -> Result<Option<String>, tokio_postgres::Error> {
    let Some(holder) = blocker::refresher(session, oid).await? else { return Ok(None) };
    let waits = blocker::waits(session, holder.pid()).await?;
    let mut text = format!("{}{}", holder.session(), holder.age());
    if let Some(wait) = waits {
        let others: Vec<String> = wait.blockers().iter().map(Blocker::session).collect();
        text.push_str(&format!(
            ", itself waiting for {wait}, which is held by {},",
            others.join(" and ")
        ));
    }
    Ok(Some(text))
}
