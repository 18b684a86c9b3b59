//! [`Rows::query`]: rows from any client, without the cache.

use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Statement};

use crate::error::Error;
use crate::postgres::run;
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
        let statement = client.prepare(sql).await.map_err(run::of_postgres)?;
        Rows::query_prepared(client, &statement, params).await
    }

    /// Like [`query`](Rows::query), with a statement that was prepared on this client.
    ///
    /// # Errors
    ///
    /// Those of [`query`](Rows::query).
    pub async fn query_prepared(
        client: &impl GenericClient,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Rows, Error> {
        let params = params.iter().copied();
        let image = run::collect(client, statement, params, &ColumnSets::default()).await?;
        Ok(Rows::new(image.into()))
    }
}
