//! [`Session`]: a connection for questions, used in a way that works behind a transaction pooler.

use deadpool_postgres::{Object, PoolError};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row};

use crate::connect::Pool;

/// Nothing is prepared under a name: behind a pooler, a name may be another client's.
pub(super) struct Session(Object);

impl Session {
    pub(super) async fn open(pool: &Pool) -> Result<Session, PoolError> {
        Ok(Session(pool.pool.get().await?))
    }

    pub(super) async fn query(
        &self,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        self.0.query_typed(sql, params).await
    }

    pub(super) async fn begin(&self) -> Result<(), Error> {
        self.0.batch_execute("BEGIN").await
    }

    pub(super) async fn roll_back(&self) -> Result<(), Error> {
        self.0.batch_execute("ROLLBACK").await
    }
}
