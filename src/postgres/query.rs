//! [`Rows::query`]: rows from any client, without the cache.

use futures_util::future::try_join3;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Statement};

use crate::error::Error;
use crate::postgres::outdated::of_postgres;
use crate::postgres::{run, types};
use crate::rows::{ColumnSets, Rows};

impl Rows {
    /// Runs a query on any client, such as a transaction, and returns its rows as the cache would.
    ///
    /// The cache is neither read nor filled: within a transaction a query may see what others do not
    /// see. With a pooled connection of deadpool, pass `&**connection`.
    ///
    /// ```no_run
    /// use larder::Rows;
    ///
    /// # async fn run(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let transaction = client.transaction().await?;
    /// transaction.execute("UPDATE accounts SET cents = cents - 100 WHERE id = $1", &[&7_i64]).await?;
    /// let rows = Rows::query(&transaction, "SELECT cents FROM accounts WHERE id = $1", &[&7_i64]).await?;
    /// let cents: i64 = rows.row(0).get("cents");
    /// transaction.commit().await?;
    /// # let _ = cents;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Query`](crate::ErrorKind::Query) with PostgreSQL's error as its source, or
    /// [`TooLarge`](crate::ErrorKind::TooLarge).
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the query goes on in PostgreSQL, and the client's next statement
    /// waits for it.
    pub async fn query(
        client: &impl GenericClient,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Rows, Error> {
        let statement = client.prepare(sql).await.map_err(of_postgres)?;
        if let Some(rows) = described_rows(client, &statement, params).await? {
            return Ok(rows);
        }
        client.client().clear_type_cache();
        let statement = client.prepare(sql).await.map_err(of_postgres)?;
        described_rows(client, &statement, params).await?.ok_or_else(Error::changed_types)
    }

    /// Like [`query`](Rows::query), with a statement that was prepared on this client.
    ///
    /// # Errors
    ///
    /// Those of [`query`](Rows::query), and [`ErrorKind::Query`](crate::ErrorKind::Query) if one of
    /// the statement's types changed after it was prepared.
    pub async fn query_prepared(
        client: &impl GenericClient,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Rows, Error> {
        described_rows(client, statement, params).await?.ok_or_else(Error::changed_types)
    }
}

/// The rows of a statement; `None` if the connection describes one of its types in another way than
/// the database does.
async fn described_rows(
    client: &impl GenericClient,
    statement: &Statement,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Option<Rows>, Error> {
    let types = types::of_statement(statement);
    let sets = ColumnSets::default();
    let run = run::collect(client, statement, params.iter().copied(), &sets);
    let image = if types.is_empty() {
        run.await?
    } else {
        // All are sent at once, in this order.
        let before = types::described(client, &types);
        let after = types::versions(client, types.iter().map(Type::oid));
        let (before, image, after) = try_join3(before, run, after).await?;
        if before != Some(after) {
            return Ok(None);
        }
        image
    };
    Ok(Some(Rows::new(image.into())))
}
