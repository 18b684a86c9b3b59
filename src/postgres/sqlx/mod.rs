//! A pool of sqlx as a source.
//!
//! sqlx gives the cells as PostgreSQL sent them, which is what rows are made of. It keeps one
//! conversation at a time on a connection, its prepared statements to itself and its descriptions of
//! types for good. So each load has a transaction of its own ([`run`]), describes the types itself
//! ([`types`]), and writes parameters as `tokio_postgres` does ([`params`]).

mod learn;
mod params;
mod rows;
mod run;
mod types;

use std::any::Any;
use std::sync::Arc;

use ::sqlx::postgres::PgPool;
use futures_util::future::BoxFuture;

use super::learn::{Lesson, Taught};
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

    /// The options are shared by the handles of a pool. If others are set, the pool is another source.
    fn address(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.connect_options()).addr())
    }

    fn guard(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::new(Arc::downgrade(&self.connect_options()))
    }

    fn learn(self, lesson: Lesson) -> BoxFuture<'static, Result<Taught, Error>> {
        Box::pin(learn::on_pool(self, lesson, Pooling::Sessions))
    }
}

/// Learns behind a pooler.
pub(super) fn learn(
    pool: PgPool,
    lesson: Lesson,
    pooling: Pooling,
) -> BoxFuture<'static, Result<Taught, Error>> {
    Box::pin(learn::on_pool(pool, lesson, pooling))
}

/// Behind a pooler that gives each transaction a different session.
pub(super) fn pooled(pool: PgPool, call: Call) -> BoxFuture<'static, Result<Image, Error>> {
    Box::pin(run::on_pool(pool, call, Pooling::Transactions))
}
