//! A pool of sqlx as a source.
//!
//! sqlx gives the cells as PostgreSQL sent them, which is what rows are made of. It keeps one
//! conversation at a time on a connection, its prepared statements to itself and its descriptions of
//! types for good. So each load has a transaction of its own ([`run`]), describes the types itself
//! ([`types`]), and writes parameters as `tokio_postgres` does ([`params`]).

mod params;
mod run;
mod types;

use ::sqlx::postgres::PgPool;
use futures_util::future::BoxFuture;

use super::run::{Call, Pooling};
use super::{Source, sealed};
use crate::error::Error;
use crate::rows::Image;

fn of_sqlx(error: ::sqlx::Error) -> Error {
    match &error {
        // Of its own question about a type.
        ::sqlx::Error::ColumnDecode { index, .. }
            if index.contains("typtype") || index.contains("typcategory") =>
        {
            Error::undescribed(error.into())
        }
        _ => Error::query(error.into()),
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "sqlx")))]
impl Source for PgPool {}

impl sealed::Source for PgPool {
    fn rows(self, call: Call) -> BoxFuture<'static, Result<Image, Error>> {
        Box::pin(run::on_pool(self, call, Pooling::Sessions))
    }
}

/// Behind a pooler that gives each transaction a different session.
pub(super) fn pooled(pool: PgPool, call: Call) -> BoxFuture<'static, Result<Image, Error>> {
    Box::pin(run::on_pool(pool, call, Pooling::Transactions))
}
