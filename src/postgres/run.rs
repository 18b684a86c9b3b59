//! Runs a query and writes its rows into an image.

use std::sync::Arc;

use deadpool_postgres::{Object, Pool};
use futures_util::{TryStreamExt, pin_mut};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, GenericClient, Statement};

use super::cancel::{Cancelled, Canceller, cancelled_on_drop};
use super::replica::noting_recovery;
use crate::error::{Error, ErrorKind};
use crate::rows::{ColumnSets, Image, ImageWriter};
use crate::value::param::OwnedParams;

pub(super) async fn on_pool(
    pool: Pool,
    sql: Arc<str>,
    params: OwnedParams,
    sets: Arc<ColumnSets>,
    canceller: Canceller,
) -> Result<Image, Error> {
    let client = pool.get().await.map_err(|error| Error::connect(error.into()))?;
    let (token, cancelled) = (client.cancel_token(), Cancelled::default());
    let mut lent = Lent { client: Some(client), cancelled: cancelled.clone() };
    cancelled_on_drop(token, canceller, cancelled, async move {
        let client = lent.client();
        let query = prepared_rows(client, &sql, &params, &sets);
        let result = noting_recovery(client, Some(client.statement_cache.clone()), query).await;
        // PostgreSQL has sent all rows or an error, so the connection is idle and can go back to
        // the pool. After `TooLarge` it is not idle: the rows that were not read are still
        // arriving.
        if !result.as_ref().is_err_and(|error| error.kind() == ErrorKind::TooLarge) {
            lent.give_back();
        }
        result
    })
    .await
}

/// Like [`on_pool`], in one transaction that leaves nothing behind in the session.
pub(super) async fn in_transaction(
    pool: Pool,
    sql: Arc<str>,
    params: OwnedParams,
    sets: Arc<ColumnSets>,
    canceller: Canceller,
) -> Result<Image, Error> {
    let client = pool.get().await.map_err(|error| Error::connect(error.into()))?;
    let (token, cancelled) = (client.cancel_token(), Cancelled::default());
    let mut lent = Lent { client: Some(client), cancelled: cancelled.clone() };
    cancelled_on_drop(token, canceller, cancelled, async move {
        let client = lent.client();
        // Each client names its statements by a count from zero, and so do clients in other
        // processes. A statement that the session has under one of our names may therefore be
        // another client's.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED; DEALLOCATE ALL; \
                     SELECT set_config('client_connection_check_interval', '1000', true) \
                     WHERE version() LIKE '%linux%'";
        client.batch_execute(begin).await.map_err(of_postgres)?;
        let query = unnamed_rows(client, &sql, &params, &sets);
        let result = noting_recovery(client, None, query).await;
        if !result.as_ref().is_err_and(|error| error.kind() == ErrorKind::TooLarge) {
            let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
            let ended = client.batch_execute(end).await;
            if result.is_ok() {
                ended.map_err(of_postgres)?;
            }
            lent.give_back();
        }
        result
    })
    .await
}

async fn unnamed_rows(
    client: &Client,
    sql: &str,
    params: &OwnedParams,
    sets: &ColumnSets,
) -> Result<Image, Error> {
    let statement = client.prepare(sql).await.map_err(of_postgres)?;
    // The statement is dropped here, before the transaction ends, so the session forgets it.
    rows(client, &statement, params, sets).await
}

async fn prepared_rows(
    client: &Object,
    sql: &str,
    params: &OwnedParams,
    sets: &ColumnSets,
) -> Result<Image, Error> {
    let statement = client.prepare_cached(sql).await.map_err(of_postgres)?;
    let result = rows(client, &statement, params, sets).await;
    if !result.as_ref().is_err_and(outdated) {
        return result;
    }
    client.statement_cache.clear();
    client.clear_type_cache();
    let statement = client.prepare_cached(sql).await.map_err(of_postgres)?;
    rows(client, &statement, params, sets).await
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

/// Runs a query on a shared client, without cancelling it. Many queries share the connection, one
/// after the other, and a cancel request would hit whichever query runs when it arrives.
pub(super) async fn on_client(
    client: Arc<Client>,
    sql: Arc<str>,
    params: OwnedParams,
    sets: Arc<ColumnSets>,
) -> Result<Image, Error> {
    let query = async {
        let statement = client.prepare(&sql).await.map_err(of_postgres)?;
        rows(&client, &statement, &params, &sets).await
    };
    noting_recovery(&client, Some(client.clone()), query).await
}

async fn rows(
    client: &Client,
    statement: &Statement,
    params: &OwnedParams,
    sets: &ColumnSets,
) -> Result<Image, Error> {
    let params = params.iter().map(|param| &**param as &(dyn ToSql + Sync));
    collect(client, statement, params, sets).await
}

pub(super) async fn collect<'a>(
    client: &impl GenericClient,
    statement: &Statement,
    params: impl ExactSizeIterator<Item = &'a (dyn ToSql + Sync)> + Send + Sync,
    sets: &ColumnSets,
) -> Result<Image, Error> {
    let mut image = ImageWriter::new(sets.of_statement(statement.columns()));
    let rows = client.query_raw(statement, params).await.map_err(of_postgres)?;
    pin_mut!(rows);
    while let Some(row) = rows.try_next().await.map_err(of_postgres)? {
        image.push(&row)?;
    }
    Ok(image.finish())
}

pub(super) fn of_postgres(error: tokio_postgres::Error) -> Error {
    Error::query(error.into())
}

/// Whether a statement failed because the tables changed after it was prepared, or because the
/// server does not know it any more (`DISCARD ALL`, or a pooler that switched to another session).
/// Nothing of the query has run, and it works when it is prepared again.
fn outdated(error: &Error) -> bool {
    let Some(db) = error.db_error() else { return false };
    // "cached plan must not change result type" shares its SQLSTATE, feature_not_supported, with
    // many other errors; the routine distinguishes it.
    db.code() == &SqlState::INVALID_SQL_STATEMENT_NAME
        || (db.code() == &SqlState::FEATURE_NOT_SUPPORTED
            && db.routine() == Some("RevalidateCachedQuery"))
}
