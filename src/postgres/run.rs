//! Runs a query and writes its rows into an image.

use std::sync::Arc;

use deadpool_postgres::{Object, Pool};
use futures_util::{TryStreamExt, pin_mut};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::cancel::{Canceller, cancelled_on_drop};
use crate::error::Error;
use crate::param::OwnedParams;
use crate::rows::{ColumnSets, Image, ImageWriter};

pub(super) async fn on_pool(
    pool: Pool,
    sql: Arc<str>,
    params: OwnedParams,
    sets: Arc<ColumnSets>,
    canceller: Canceller,
) -> Result<Image, Error> {
    let client = pool.get().await.map_err(|error| Error::connect(error.into()))?;
    let token = client.cancel_token();
    cancelled_on_drop(token, canceller, async move {
        let mut lent = Lent(Some(client));
        let client = lent.0.as_ref().expect("it was just put there");
        let statement = client.prepare_cached(&sql).await.map_err(of_postgres)?;
        let mut result = rows(client, &statement, &params, &sets).await;
        if result.as_ref().is_err_and(outdated) {
            client.statement_cache.clear();
            client.clear_type_cache();
            let statement = client.prepare_cached(&sql).await.map_err(of_postgres)?;
            result = rows(client, &statement, &params, &sets).await;
        }
        lent.give_back();
        result
    })
    .await
}

/// A pool's connection while a query runs on it. Dropped before the query has ended, it is closed
/// instead of going back: its next user would wait for a query that is not theirs.
struct Lent(Option<Object>);

impl Lent {
    fn give_back(&mut self) {
        self.0 = None;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }
}

pub(super) async fn on_client(
    client: Arc<Client>,
    sql: Arc<str>,
    params: OwnedParams,
    sets: Arc<ColumnSets>,
    canceller: Canceller,
) -> Result<Image, Error> {
    let token = client.cancel_token();
    cancelled_on_drop(token, canceller, async move {
        let statement = client.prepare(&sql).await.map_err(of_postgres)?;
        rows(&client, &statement, &params, &sets).await
    })
    .await
}

async fn rows(
    client: &Client,
    statement: &Statement,
    params: &OwnedParams,
    sets: &ColumnSets,
) -> Result<Image, Error> {
    let mut image = ImageWriter::new(sets.of_statement(statement.columns()));
    let params = params.iter().map(|param| &**param as &(dyn ToSql + Sync));
    let rows = client.query_raw(statement, params).await.map_err(of_postgres)?;
    pin_mut!(rows);
    while let Some(row) = rows.try_next().await.map_err(of_postgres)? {
        image.push(&row)?;
    }
    Ok(image.finish())
}

fn of_postgres(error: tokio_postgres::Error) -> Error {
    Error::query(error.into())
}

/// Whether a statement failed because it was prepared before the tables changed, or is not known to
/// the server any more (`DISCARD ALL`, a pooler that hands out another session). Prepared again, it
/// works; nothing of the query has run.
fn outdated(error: &Error) -> bool {
    let Some(db) = error.db_error() else { return false };
    // "cached plan must not change result type" shares its SQLSTATE, feature_not_supported, with
    // much else; the routine tells it apart.
    db.code() == &SqlState::INVALID_SQL_STATEMENT_NAME
        || (db.code() == &SqlState::FEATURE_NOT_SUPPORTED
            && db.routine() == Some("RevalidateCachedQuery"))
}
