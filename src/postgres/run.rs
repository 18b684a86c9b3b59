//! Runs a query and writes its rows into an image.
//!
//! A prepared statement may become unusable: what it names was dropped and made anew, its result
//! has other columns, the session has forgotten it, a type is described in another way. Such a
//! failure is no error of the query. The query is prepared once more, types included, and run
//! again.

use std::pin::pin;
use std::sync::Arc;

use deadpool_postgres::{Object, Pool};
use futures_util::future::{Either, join, select, try_join};
use futures_util::{TryStreamExt, pin_mut};
use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, GenericClient, Statement};

use super::cancel::{Cancelled, Canceller, cancelled_on_drop};
use super::learn::{Questions, with_questions};
use super::open::{BEGIN, Open, SERIALLY};
use super::outdated::{self, Failed, of_postgres};
use super::replica::{Identity, noting_recovery};
use super::statements::{Prepared, Session, Statements};
use super::types;
use crate::error::Error;
use crate::rows::{ColumnSets, Image, ImageWriter};
use crate::value::param::OwnedParams;
use crate::value::setup::Setup;

/// A query of the cache, and what the cache knows of its sources.
#[derive(Clone)]
pub struct Call {
    pub(crate) sql: Arc<str>,
    pub(crate) params: Arc<OwnedParams>,
    /// What is set for the query.
    pub(crate) setup: Option<Arc<Setup<'static>>>,
    pub(crate) sets: Arc<ColumnSets>,
    pub(crate) statements: Arc<Statements>,
    /// What is asked together with the query.
    pub(crate) questions: Option<Arc<Questions>>,
}

/// What the connections of a pool are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooling {
    /// Each connection is a session of PostgreSQL. It keeps prepared statements.
    Sessions,
    /// Each transaction may have another session. Nothing is left behind in it.
    Transactions,
}

pub(super) async fn on_pool(
    pool: Pool,
    call: Call,
    pooling: Pooling,
    canceller: Canceller,
) -> Result<Image, Error> {
    // Each connection that cannot look up types is closed. The pool has no more of them than this.
    let mut others = pool.status().max_size;
    let (mut again, mut repeated) = (false, false);
    loop {
        let client = pool.get().await.map_err(|error| Error::connect(error.into()))?;
        let (token, cancelled) = (client.cancel_token(), Cancelled::default());
        let uses = Object::metrics(&client).recycle_count;
        let mut lent = Lent { client: Some(client), cancelled: cancelled.clone() };
        let mut call = call.clone();
        let outcome = cancelled_on_drop(token, canceller.clone(), cancelled, async move {
            let client = lent.client();
            let session = call.statements.session(&client.statement_cache);
            let identity: Identity = client.statement_cache.clone();
            let outcome = match pooling {
                Pooling::Sessions if call.setup.is_some() => {
                    call.in_own_transaction(client, &session, identity).await
                }
                Pooling::Sessions => {
                    call.questions.take_if(|questions| questions.skips(&session, uses));
                    let query = call.in_session(client, &session, true);
                    let outcome = noting_recovery(client, Some(identity), query).await;
                    if let Some(questions) = &call.questions {
                        questions.note(&session, uses);
                    }
                    outcome
                }
                Pooling::Transactions => {
                    // The transaction begins with DEALLOCATE ALL. Where there is no pooler, the
                    // statements are those of this connection.
                    session.forget_statements();
                    client.statement_cache.clear();
                    call.in_pooled_transaction(client, &session, again).await
                }
            };
            if outcome.as_ref().err().is_none_or(Failed::leaves_a_usable_connection) {
                lent.give_back();
            }
            Ok(outcome)
        });
        match outcome.await? {
            Ok(image) => return Ok(image),
            Err(Failed::Lookup(_)) if others > 0 => others -= 1,
            Err(Failed::Types(_)) if pooling == Pooling::Transactions && others > 0 => others -= 1,
            Err(Failed::Statement(_)) if pooling == Pooling::Transactions && !repeated => {
                repeated = true;
            }
            Err(failed) => return Err(failed.into_error()),
        }
        again = true;
    }
}

/// Runs a query on a shared client, without cancelling it. Many queries share the connection, one
/// after the other, and a cancel request would hit whichever query runs when it arrives.
pub(super) async fn on_client(client: Arc<Client>, call: Call) -> Result<Image, Error> {
    if call.setup.is_some() || call.questions.is_some() {
        return Err(Error::setup_of_shared_client());
    }
    let session = call.statements.session(&client);
    let query = call.in_session(&client, &session, false);
    noting_recovery(&client, Some(client.clone()), query).await.map_err(Failed::into_error)
}

/// Runs a query on a client that nobody else uses meanwhile, without cancelling it: a request that
/// comes late would hit the client's next statement.
pub(super) async fn on_locked_client(
    client: Arc<Mutex<Client>>,
    call: Call,
) -> Result<Image, Error> {
    let session = call.statements.session(&client);
    let identity: Identity = client.clone();
    let locked = client.lock().await;
    let outcome = if call.setup.is_some() {
        call.in_own_transaction(&locked, &session, identity).await
    } else {
        let query = call.in_session(&locked, &session, false);
        noting_recovery(&locked, Some(identity), query).await
    };
    outcome.map_err(Failed::into_error)
}

impl Call {
    /// Runs the query, and once more if its statement or a type was outdated. If `keep` is set, the
    /// session keeps the statement.
    async fn in_session(
        &self,
        client: &Client,
        session: &Session,
        keep: bool,
    ) -> Result<Image, Failed> {
        match self.attempt(client, session, keep, false).await {
            Err(Failed::Statement(error)) if outdated::is_unknown_statement(&error) => {
                session.clear();
            }
            Err(Failed::Statement(_) | Failed::Types(_)) => session.forget(&self.sql),
            done => return done,
        }
        session.forget_types();
        client.clear_type_cache();
        let outcome = self.attempt(client, session, keep, true).await;
        if outcome.is_err() {
            session.forget(&self.sql);
        }
        outcome
    }

    /// Runs the query. If `again` is set, everything is prepared for it.
    async fn attempt(
        &self,
        client: &Client,
        session: &Session,
        keep: bool,
        again: bool,
    ) -> Result<Image, Failed> {
        let known = if keep && !again { session.statement(&self.sql) } else { None };
        let is_known = known.is_some();
        let prepared = match known {
            Some(prepared) => prepared,
            None => {
                let prepared = self.prepare(client, session, again).await?;
                if keep {
                    session.keep(&self.sql, prepared.clone());
                }
                prepared
            }
        };
        let asks = self.questions.as_ref().is_some_and(|questions| questions.in_transaction);
        let run = self.execute(client, keep.then_some(session), &prepared, is_known);
        if asks { self.in_transaction(client, run).await } else { run.await }
    }

    /// Runs a query and its questions in a transaction, in one round trip.
    async fn in_transaction(
        &self,
        client: &Client,
        run: impl Future<Output = Result<Image, Failed>>,
    ) -> Result<Image, Failed> {
        let mut open = Open::new(client);
        let begin =
            if self.is_serial() { [BEGIN, "; ", SERIALLY].concat() } else { BEGIN.to_owned() };
        // The first poll of each sends it, in this order. The commit is a ROLLBACK if the query fails.
        let work = async {
            let (begun, outcome) = join(client.batch_execute(&begin), run).await;
            begun.map_err(|error| Failed::Connection(of_postgres(error)))?;
            outcome
        };
        let (outcome, committed) =
            match select(pin!(work), pin!(client.batch_execute("COMMIT"))).await {
                // The rows that were not read are still arriving. The connection is closed.
                Either::Left((outcome, _)) if outcome.as_ref().is_err_and(Failed::is_too_large) => {
                    return outcome;
                }
                Either::Left((outcome, commit)) => (outcome, commit.await),
                Either::Right((committed, work)) => (work.await, committed),
            };
        match committed {
            Err(error) if outcome.is_ok() => Err(Failed::Connection(of_postgres(error))),
            Err(_) => outcome,
            Ok(()) => {
                open.has_ended();
                outcome
            }
        }
    }

    pub(super) fn is_serial(&self) -> bool {
        self.questions.as_ref().is_some_and(|questions| questions.serially)
    }

    /// Runs the prepared query, and asks its questions after it. `is_known`: it was prepared for an
    /// earlier load. `session` keeps the statements of the questions.
    pub(super) async fn execute(
        &self,
        client: &Client,
        session: Option<&Session>,
        prepared: &Prepared,
        is_known: bool,
    ) -> Result<Image, Failed> {
        let query = self.execute_alone(client, prepared, is_known);
        match &self.questions {
            None => query.await,
            Some(questions) => with_questions(client, session, questions, query).await,
        }
    }

    async fn execute_alone(
        &self,
        client: &Client,
        Prepared { statement, versions }: &Prepared,
        is_known: bool,
    ) -> Result<Image, Failed> {
        let run = collect(client, statement, self.params.iter(), &self.sets);
        let may_be_outdated = is_known || !versions.is_empty();
        let failed = |error| Failed::of_run(error, may_be_outdated);
        if versions.is_empty() {
            return run.await.map_err(failed);
        }
        // Both are sent at once, the question for the versions second.
        let now = types::versions(client, versions.iter().map(|&(oid, _)| oid));
        let (image, now) = try_join(run, now).await.map_err(failed)?;
        if now == **versions { Ok(image) } else { Err(Failed::outdated_types()) }
    }

    /// Prepares the query. If `again` is set, under a text that a pooler does not know.
    pub(super) async fn prepare(
        &self,
        client: &Client,
        session: &Session,
        again: bool,
    ) -> Result<Prepared, Failed> {
        // A pooler that shares prepared statements among its clients knows them by their text. It
        // would answer with the statement that has failed.
        let renewed =
            again.then(|| format!("{}\n/* prepared again: {:08x} */", self.sql, fastrand::u32(..)));
        let sql = renewed.as_deref().unwrap_or(&self.sql);
        let statement = client.prepare(sql).await;
        let statement = statement.map_err(|error| Failed::of_prepare(of_postgres(error)))?;
        let types = types::of_statement(&statement);
        let versions = match session.versions(&types) {
            Some(versions) if !again => versions,
            _ if types.is_empty() => vec![],
            _ => {
                let described = types::described(client, &types).await.map_err(Failed::Query)?;
                let versions = described.ok_or_else(Failed::outdated_types)?;
                session.keep_versions(&types, &versions);
                self.statements.saw(&types);
                versions
            }
        };
        Ok(Prepared { statement, versions: Arc::new(versions) })
    }
}

/// A pool's connection while a query runs on it. If it is dropped before the query has ended, it is
/// closed. It must not go back to the pool, where its next user would wait for this query.
struct Lent {
    client: Option<Object>,
    cancelled: Cancelled,
}

impl Lent {
    fn client(&self) -> &Object {
        self.client.as_ref().expect("it is there until it is given back")
    }

    fn give_back(&mut self) {
        if !self.cancelled.is_set() {
            self.client = None;
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}

pub(super) async fn collect<'a>(
    client: &impl GenericClient,
    statement: &Statement,
    params: impl ExactSizeIterator<Item = &'a (dyn ToSql + Sync)> + Send + Sync,
    sets: &ColumnSets,
) -> Result<Image, Error> {
    let mut image = ImageWriter::new(sets.of_statement(statement.columns())?);
    let rows = client.query_raw(statement, params).await.map_err(of_postgres)?;
    pin_mut!(rows);
    while let Some(row) = rows.try_next().await.map_err(of_postgres)? {
        image.push(&row)?;
    }
    Ok(image.finish())
}
