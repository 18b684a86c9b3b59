//! Runs a query in a transaction of its own: behind a pooler, or under a role and settings.
//!
//! ```text
//! in a session                            behind a pooler
//!
//! BEGIN ‖ settings ‖ role ‖ prepare       BEGIN
//! query ‖ COMMIT                          settings ‖ role ‖ prepare
//!                                         query
//!                                         COMMIT
//! ```
//!
//! What is in one line is sent at once, in one round trip. If one step fails, PostgreSQL refuses the
//! later ones, and the error of the first one is reported. Behind a pooler, the begin contains
//! `DEALLOCATE ALL`: PgBouncer 1.22 and later would take its reply as the end of a statement that was
//! sent meanwhile. And the statement has to be closed before the transaction ends: later, the message
//! would reach another session.

use std::pin::pin;

use futures_util::future::{Either, join, join3, select};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::open::{BEGIN, Open, SERIALLY};
use super::outdated::{self, Failed, of_postgres};
use super::replica::{Identity, noting_recovery};
use super::run::Call;
use super::statements::{Prepared, Session};
use super::types;
use crate::error::Error;
use crate::rows::Image;
use crate::value::setup::Setup;

/// Other processes name their statements as this one does. A statement that the session has under one
/// of our names may therefore be another client's.
pub(super) const FORGET_STATEMENTS: &str = "; DEALLOCATE ALL; \
    SELECT pg_catalog.set_config('client_connection_check_interval', '1000', true) \
    WHERE pg_catalog.version() LIKE '%linux%'";

/// Somebody may have left a `SET ROLE` or a `SET SESSION AUTHORIZATION` on the connection. The rows
/// must not depend on it, since the key does not show it. `DEFAULT` is what the connection began with.
pub(super) const FORGET_ROLE: &str =
    "; SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL role TO DEFAULT";

pub(super) const SET_ALL: &str = "SELECT pg_catalog.set_config(name, value, true) \
    FROM unnest($1, $2) AS settings (name, value)";

pub(super) const SET_ROLE: &str = "SELECT pg_catalog.set_config('role', $1, true)";

impl Call {
    /// Runs the query in a session of PostgreSQL, under its role and settings, and once more if a type
    /// was outdated. The second run has a transaction of its own: the first one was aborted.
    pub(super) async fn in_own_transaction(
        &self,
        client: &Client,
        session: &Session,
        identity: Identity,
    ) -> Result<Image, Failed> {
        let transaction = Transaction { client, session, identity: Some(identity) };
        match transaction.run(self, false).await {
            Err(Failed::Statement(error)) if outdated::is_unknown_statement(&error) => {
                session.clear();
            }
            Err(Failed::Statement(_) | Failed::Types(_)) => session.forget_types(),
            done => return done,
        }
        client.clear_type_cache();
        transaction.run(self, true).await
    }

    /// Runs the query behind a pooler that gives each transaction a different session. Nothing is left
    /// behind in the session.
    pub(super) async fn in_pooled_transaction(
        &self,
        client: &Client,
        session: &Session,
        again: bool,
    ) -> Result<Image, Failed> {
        Transaction { client, session, identity: None }.run(self, again).await
    }
}

struct Transaction<'c> {
    client: &'c Client,
    session: &'c Session,
    /// What the connection is recognized by; `None` behind a pooler, where it leads to many sessions.
    identity: Option<Identity>,
}

impl Transaction<'_> {
    async fn run(&self, call: &Call, again: bool) -> Result<Image, Failed> {
        let (client, session) = (self.client, self.session);
        let is_pooled = self.identity.is_none();
        let is_new = is_pooled && !session.knows_types();
        let mut open = Open::new(client);
        let begin = [
            BEGIN,
            if is_pooled { FORGET_STATEMENTS } else { "" },
            if call.setup.is_some() { FORGET_ROLE } else { "" },
        ]
        .concat();
        let set = async {
            match &call.setup {
                Some(setup) => set_up(client, setup).await,
                None => Ok(()),
            }
        };
        let serially =
            async { if call.is_serial() { client.batch_execute(SERIALLY).await } else { Ok(()) } };
        let set = async {
            let (set, serially) = join(set, serially).await;
            set.and(serially.map_err(of_postgres))
        };
        let prepare = call.prepare(client, session, again);
        let begin = client.batch_execute(&begin);
        let begin = async { begin.await.map_err(|error| Failed::Connection(of_postgres(error))) };
        let (set, prepared) = if is_pooled {
            begin.await?;
            join(set, prepare).await
        } else {
            let (begun, set, prepared) = join3(begin, set, prepare).await;
            begun?;
            (set, prepared)
        };
        let prepared = match set.map_err(Failed::Query).and(prepared) {
            Ok(prepared) => prepared,
            Err(failed) => return Err(open.roll_back(failed).await),
        };
        // The connection has looked up its first types.
        let looks_up_others = is_new && session.knows_types();
        self.run_prepared(call, prepared, looks_up_others, &mut open).await
    }

    async fn run_prepared(
        &self,
        call: &Call,
        prepared: Prepared,
        looks_up_others: bool,
        open: &mut Open<'_>,
    ) -> Result<Image, Failed> {
        let client = self.client;
        let is_pooled = self.identity.is_none();
        let session = (!is_pooled).then_some(self.session);
        let query = call.execute(client, session, &prepared, false);
        let query = noting_recovery(client, self.identity.clone(), query);
        let (outcome, committed) = if is_pooled {
            let outcome = query.await;
            if outcome.is_ok() && looks_up_others {
                types::look_up_others(client, &call.statements).await;
            }
            // Sends the message that closes the statement.
            drop(prepared);
            (outcome, None)
        } else {
            // Sent together with the query. It is a ROLLBACK if the query fails.
            match select(pin!(query), pin!(client.batch_execute("COMMIT"))).await {
                Either::Left((outcome, _)) if outcome.as_ref().is_err_and(Failed::is_too_large) => {
                    // The rows that were not read are still arriving. The connection is closed.
                    return outcome;
                }
                Either::Left((outcome, commit)) => (outcome, Some(commit.await)),
                Either::Right((committed, query)) => (query.await, Some(committed)),
            }
        };
        let committed = match committed {
            Some(committed) => committed,
            None if outcome.as_ref().is_err_and(Failed::is_too_large) => return outcome,
            None => client.batch_execute("COMMIT").await,
        };
        if committed.is_ok() {
            open.has_ended();
        }
        match committed {
            Err(error) if outcome.is_ok() => Err(Failed::Connection(of_postgres(error))),
            _ => outcome,
        }
    }
}

/// Sets everything for the rest of the transaction. The role comes last: what may be set is decided by
/// the rights of the connection's user.
pub(super) async fn set_up(client: &Client, setup: &Setup<'_>) -> Result<(), Error> {
    let (names, values): (Vec<&str>, Vec<&str>) = setup.settings().into_iter().unzip();
    let settings = async {
        if names.is_empty() {
            return Ok(());
        }
        let params: [(&(dyn ToSql + Sync), Type); 2] =
            [(&names, Type::TEXT_ARRAY), (&values, Type::TEXT_ARRAY)];
        client.query_typed(SET_ALL, &params).await.map(drop)
    };
    let role = async {
        let Some(role) = setup.role() else { return Ok(()) };
        client.query_typed(SET_ROLE, &[(&role, Type::TEXT)]).await.map(drop)
    };
    let (settings, role) = join(settings, role).await;
    settings.map_err(|error| of_step(error, |error| Error::of_settings(&names, error.into())))?;
    role.map_err(|error| {
        of_step(error, |error| Error::role(setup.role().unwrap_or(""), error.into()))
    })
}

/// The error of a step, by `named` if PostgreSQL refused it.
fn of_step(
    error: tokio_postgres::Error,
    named: impl FnOnce(tokio_postgres::Error) -> Error,
) -> Error {
    if error.as_db_error().is_some() { named(error) } else { of_postgres(error) }
}
