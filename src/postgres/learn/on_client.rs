//! Learns over a connection of `tokio_postgres`.

use std::sync::Arc;

use deadpool_postgres::Pool;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::judge::FORGET;
use super::rows::text_rows;
use super::{Ask, BEGIN, END, Lesson, Taught};
use crate::error::Error;
use crate::learn::TextRow;
use crate::postgres::outdated::of_postgres;
use crate::postgres::run::Pooling;
use crate::postgres::transaction::{FORGET_ROLE, FORGET_STATEMENTS, set_up};
use crate::value::setup::Setup;

pub(in crate::postgres) async fn on_pool(
    pool: Pool,
    lesson: Lesson,
    pooling: Pooling,
) -> Result<Taught, Error> {
    let client = pool.get().await.map_err(|error| Error::connect(error.into()))?;
    if pooling == Pooling::Transactions {
        // The transaction begins with DEALLOCATE ALL. Where there is no pooler, the statements are
        // those of this connection.
        lesson.statements.session(&client.statement_cache).forget_statements();
        client.statement_cache.clear();
    }
    on_client(&client, &lesson, pooling).await
}

pub(in crate::postgres) async fn on_locked_client(
    client: Arc<Mutex<Client>>,
    lesson: Lesson,
) -> Result<Taught, Error> {
    let locked = client.lock().await;
    on_client(&locked, &lesson, Pooling::Sessions).await
}

async fn on_client(client: &Client, lesson: &Lesson, pooling: Pooling) -> Result<Taught, Error> {
    let mut open = Begun { client, ended: false };
    let begin = [
        BEGIN,
        if pooling == Pooling::Transactions { FORGET_STATEMENTS } else { "" },
        if lesson.setup.is_some() { FORGET_ROLE } else { "" },
    ]
    .concat();
    client.batch_execute(&begin).await.map_err(of_postgres)?;
    let mut session = Session { client };
    let taught = lesson.learn(&mut session).await;
    client.batch_execute(END).await.map_err(of_postgres)?;
    open.ended = true;
    taught
}

/// A transaction that has begun. If it is dropped in the middle, what ends it is sent: the next
/// statement on the connection comes after that.
struct Begun<'c> {
    client: &'c Client,
    ended: bool,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // The first poll sends them. The second one fails if nothing was prepared.
            let _ = self.client.batch_execute(END).now_or_never();
            let _ = self.client.batch_execute(FORGET).now_or_never();
        }
    }
}

struct Session<'c> {
    client: &'c Client,
}

impl Ask for Session<'_> {
    fn ask<'a>(
        &'a mut self,
        sql: &'a str,
        names: Option<&'a [String]>,
    ) -> BoxFuture<'a, Result<Vec<TextRow>, Error>> {
        async move {
            let rows = match &names {
                Some(names) => {
                    let names: (&(dyn ToSql + Sync), Type) = (names, Type::TEXT_ARRAY);
                    self.client.query_typed(sql, &[names]).await
                }
                None => self.client.query_typed(sql, &[]).await,
            };
            text_rows(rows.map_err(of_postgres)?)
        }
        .boxed()
    }

    fn set_up<'a>(&'a mut self, setup: &'a Setup<'_>) -> BoxFuture<'a, Result<(), Error>> {
        set_up(self.client, setup).boxed()
    }
}
