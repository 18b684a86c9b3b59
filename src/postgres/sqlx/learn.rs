//! Learns over a connection of sqlx.

use ::sqlx::AssertSqlSafe;
use ::sqlx::postgres::{PgConnection, PgPool};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::of_sqlx;
use super::rows::text_rows;
use super::run::{Lent, set_up};
use crate::error::Error;
use crate::learn::TextRow;
use crate::postgres::learn::{Ask, BEGIN, END, Lesson, Taught};
use crate::postgres::run::Pooling;
use crate::postgres::transaction::{FORGET_ROLE, FORGET_STATEMENTS};
use crate::value::setup::Setup;

pub(super) async fn on_pool(
    pool: PgPool,
    lesson: Lesson,
    pooling: Pooling,
) -> Result<Taught, Error> {
    // If this is dropped in the middle, the connection is closed.
    let mut lent = Lent::of(&pool).await?;
    let begin = [
        BEGIN,
        if pooling == Pooling::Transactions { FORGET_STATEMENTS } else { "" },
        if lesson.setup.is_some() { FORGET_ROLE } else { "" },
    ]
    .concat();
    let connection = lent.connection();
    ::sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *connection).await.map_err(of_sqlx)?;
    let taught = lesson.learn(&mut Session { connection }).await;
    ::sqlx::raw_sql(END).execute(lent.connection()).await.map_err(of_sqlx)?;
    lent.is_idle();
    taught
}

struct Session<'c> {
    connection: &'c mut PgConnection,
}

impl Ask for Session<'_> {
    fn ask<'a>(
        &'a mut self,
        sql: &'a str,
        names: Option<&'a [String]>,
    ) -> BoxFuture<'a, Result<Vec<TextRow>, Error>> {
        async move {
            // By the extended protocol, also without parameters.
            let query = ::sqlx::query(AssertSqlSafe(sql.to_owned())).persistent(false);
            let query = match names {
                Some(names) => query.bind(names.to_vec()),
                None => query,
            };
            let rows = query.fetch_all(&mut *self.connection).await.map_err(of_sqlx)?;
            text_rows(&rows)
        }
        .boxed()
    }

    fn set_up<'a>(&'a mut self, setup: &'a Setup<'_>) -> BoxFuture<'a, Result<(), Error>> {
        set_up(self.connection, Some(setup)).boxed()
    }
}
